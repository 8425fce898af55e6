"""The bounds on log p(x) side by side: the command, and codes that can all be summed over."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from conftest import rare
from flaxvae import cli, lookup
from flaxvae.analysis import enumeration
from flaxvae.analysis.likelihood import ladder
from flaxvae.core import Batch
from flaxvae.data.pipeline import Split
from flaxvae.errors import UsageError
from flaxvae.recipe import DataSpec

PIXELS, VARIABLES, K = 4, 3, 3
BINARY = DataSpec("binary", (PIXELS, 1), binary=True)


@pytest.fixture(scope="module")
def discrete():
    """A recipe of categorical latents, its variables with large weights, and log p(x) by hand."""
    options = {"variables": VARIABLES, "categories": K, "net": "mlp", "widths": ()}
    recipe = lookup.build("gumbel_vae", BINARY, **options)
    x = np.array(list(itertools.product([0, 1], repeat=PIXELS)), np.uint8)[..., None]
    variables = jax.jit(recipe.model.init)(jax.random.key(0), jnp.float32(x))
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jnp.float32(rng.normal(size=leaf.shape)), variables["params"]
    )
    # q is broad, so that importance weights are light-tailed.
    params["encoder"] = jax.tree.map(lambda leaf: 0.3 * leaf, params["encoder"])
    z = np.array(list(itertools.product(np.eye(K), repeat=VARIABLES))).reshape(K**VARIABLES, -1)
    out = params["decoder"]["out"]
    logits = (z @ np.float64(out["kernel"]) + np.float64(out["bias"]))[:, None]
    log_px = (x[None, ..., 0] * logits - np.logaddexp(0, logits)).sum(-1)
    exact = special.logsumexp(log_px, axis=0) - VARIABLES * np.log(K)
    return recipe, {**variables, "params": params}, Split(x, None, 1.0), exact


def test_few_codes_are_summed_over(discrete):
    """In chunks that do not divide 27, and probabilities of all images sum to one."""
    recipe, variables, split, exact = discrete
    assert enumeration.codes(recipe) == K**VARIABLES
    function = jax.jit(enumeration.log_likelihood(recipe, 10))
    found = function(variables, jax.random.key(0), Batch(jnp.float32(split.x)))
    np.testing.assert_allclose(found, exact, rtol=1e-5)
    np.testing.assert_allclose(special.logsumexp(found), 0, atol=1e-5)


def test_the_ladder_of_codes_ends_at_the_exact_value(discrete):
    recipe, variables, split, exact = discrete
    found = ladder(recipe, variables, split, k=(30, 10_000))
    methods = [rung.method for rung in found.rungs]
    assert methods == ["elbo", "importance_weighted", "importance_weighted", "exact"]
    nats = [rung.bound.nats for rung in found.rungs]
    np.testing.assert_allclose(nats[-1], exact.mean(), rtol=1e-6)
    assert nats[0] < nats[1] < nats[2] and abs(nats[3] - nats[2]) < 0.01
    np.testing.assert_allclose(
        found.rungs[-1].bits_per_dim, -exact.mean() / PIXELS / np.log(2), rtol=1e-5
    )
    assert "continuous latents" in found.left_out[0] and found.acceptance is None
    assert 1 < found.rungs[1].effective < 30


def test_models_without_a_density_are_refused(discrete):
    split = discrete[2]
    for name, words in (("ae", "no prior"), ("vq_vae", "one code")):
        recipe = lookup.build(name, BINARY, net="mlp", widths=(4,))
        with pytest.raises(UsageError, match=words):
            ladder(recipe, {}, split)
    recipe = discrete[0]
    bare = recipe._replace(model=recipe.model._replace(prior_log_prob=None))
    with pytest.raises(UsageError, match="no prior_log_prob"):
        ladder(bare, discrete[1], split)
    with pytest.raises(UsageError, match="one or more"):
        ladder(discrete[0], discrete[1], split, k=())


FITTED = ("refined", "full_covariance")


@pytest.mark.parametrize("fitted", rare([(), FITTED], FITTED))
def test_likelihood_writes_what_it_prints(trained, capsys, fitted):
    line = f"likelihood {trained} --k 20 --temperatures 4 --chains 3 --images 8"
    line += " --fit-steps 3 --simulated 3" if fitted else " --fit-steps 0 --simulated 0"
    cli.main(line.split())
    out = capsys.readouterr().out
    (path,) = trained.glob("likelihood-k-20-temperatures-4-chains-3-*-images-8.json")
    found = json.loads(path.read_text())
    path.unlink()
    assert path.name in "".join(out.split())
    rungs = {rung["method"]: rung for rung in found["rungs"]}
    assert [*rungs] == ["elbo", *fitted, "importance_weighted", "annealed"]
    table = out[out.index("lower bound") :].splitlines()[: 1 + len(rungs)]
    assert all(len(row) <= 80 for row in table)
    for row, rung in zip(table[1:], rungs.values(), strict=True):
        assert f" {rung['bound']['nats']:.2f} " in row and rung["bound"]["standard_error"] > 0
        assert "bits_per_dim" not in rung  # grey pixels have no probabilities
    above = rungs["annealed"]["above_elbo"]["nats"]
    nats = {method: rung["bound"]["nats"] for method, rung in rungs.items()}
    np.testing.assert_allclose(nats["annealed"] - nats["elbo"], above, atol=1e-6)
    assert 0 < found["acceptance"] <= 1 and "cross-entropies" in out and found["images"] == 8
    if fitted:
        gaps = found["amortization_gap"]["nats"] + found["approximation_gap"]["nats"]
        np.testing.assert_allclose(max(nats.values()) - nats["elbo"], gaps, atol=1e-6)
        assert found["model_images"]["images"] == 3 and "made by the model" in out
    else:
        assert "amortization_gap" not in found and "model_images" not in found
