"""What a diagnosis measures, against a model whose posterior is known exactly."""

import json
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

import flaxvae
from flaxvae import cli
from flaxvae.analysis import calibration, coverage, diagnosis
from flaxvae.analysis.diagnosis import Measured
from flaxvae.core import Model
from flaxvae.data.pipeline import Split
from flaxvae.distributions import Bernoulli, Normal
from flaxvae.errors import UsageError
from flaxvae.parts import latents
from flaxvae.recipe import DataSpec, Recipe
from flaxvae.runs.verify import verify

D, N = 2, 1024
RNG = np.random.default_rng(3)


def exact(width=1.0):
    """z ~ N(0, I), x = z + N(0, I): the posterior is N(x / 2, I / 2); q is ``width`` as wide."""
    family = latents.gaussian(D)

    def encode(variables, x, y=None):
        log_var = jnp.full_like(x, math.log(0.5) + 2 * math.log(width))
        return {"mean": x / 2, "log_var": log_var}

    return Model(
        init=lambda key, x, y=None: {"params": {}},
        encode=encode,
        reparameterize=family.draw,
        decode=lambda variables, z, y=None: Normal(z, jnp.zeros(())),
        prior_sample=lambda variables, key, n, y=None, t=1.0: family.prior_sample(
            variables, key, n, t
        ),
    )


def normal_cdf(x):
    return 0.5 * (1 + math.erf(x / math.sqrt(2)))


@pytest.fixture(scope="module")
def measured():
    """Of two posteriors, the exact one and one that is half as wide."""
    x = np.float32(math.sqrt(2) * RNG.normal(size=(N, D)))  # as the model draws them
    found = []
    for width in (1.0, 0.5):
        spec = DataSpec("numbers", (D,), kind="table")
        recipe = Recipe(exact(width), lambda model: None, spec, "density")
        split = Split(x, None, 1.0, bounded=False)
        found.append(diagnosis.measure(Measured(), recipe, {"params": {}}, split))
    return found


def test_the_exact_posterior(measured):
    found = measured[0]
    # log p(x) is known, and the bound is tight.
    log_px = D * (-0.5 * math.log(2 * math.pi * 2)) - 0.5 * D
    assert found.test.elbo == pytest.approx(log_px, abs=0.25)
    # q(z) is the prior, and z says 1/2 log 2 nats a dimension.
    information = found.aggregate.information
    assert information.low - 0.08 < D * 0.5 * math.log(2) < information.high + 0.08
    assert information.high - information.low < 0.1
    assert found.aggregate.marginal_kl.low < 0.08 and found.aggregate.total_correlation.low < 0.05
    assert 0 < found.aggregate.holes < 0.04
    # Given x, x - z has the posterior's variance 1/2 and the mean x / 2, of variance 1/2.
    assert found.calibration.residual == pytest.approx(1, abs=0.06)
    assert found.calibration.spread == pytest.approx(1, abs=0.06)
    # With the z of another image x - z has variance 3 instead of 1: D nats more.
    assert found.other - found.own == pytest.approx(D, abs=0.4)
    assert found.variance == pytest.approx(2, abs=0.25)
    assert found.explained == pytest.approx(0.75, abs=0.03)  # x - x / 2 has a quarter of it


@pytest.mark.parametrize("which", [0, 1])
def test_intervals_hold_what_they_should(measured, which):
    """Of the exact posterior, what they say; of one half as wide, what the normal CDF says."""
    found, width = measured[which].coverage, (1.0, 0.5)[which]
    error = 5 * 0.5 / math.sqrt(N * D) + 0.01  # and L is finite
    for seen, quantile in [(found.half, 0.674), (found.most, 1.645)]:
        assert seen == pytest.approx(2 * normal_cdf(quantile * width) - 1, abs=error)
    assert found.worst <= found.most and found.simulations == N


def test_coverage_by_hand():
    """Of ranks 0 to 99, the middle 90 are 5 to 94, and the middle 50 are 25 to 74."""
    ranks = np.array([[0, 4], [5, 94], [95, 25], [24, 74]])
    found = coverage.coverage(ranks)
    assert (found.half, found.most) == (2 / 8, 5 / 8) and found.worst == 0.5
    every = coverage.coverage(np.arange(100)[:, None])
    assert (every.half, every.most) == (0.5, 0.9)
    few = coverage.coverage(np.arange(20)[:, None], 19)
    assert (few.half, few.most) == (0.5, 0.9)


def test_calibration_by_hand():
    """Pixels in tenths of their predicted probability, and how often they are on."""
    p = np.float32([[0.05, 0.31, 0.39, 0.99], [0.0, 0.31, 0.39, 1.0]])
    x = np.float32([[0, 1, 0, 1], [0, 0, 0, 1]])
    logits = jnp.log(p) - jnp.log1p(-p)
    sums = calibration.sums(Bernoulli(logits), jnp.asarray(x), jax.random.key(0))
    found = calibration.calibration(*(np.asarray(sums[name]) for name in ("errors", "bins")))
    expected = [(0.25, 0.025, 0.0), (0.5, 0.35, 0.25), (0.25, 0.995, 1.0)]
    np.testing.assert_allclose(found.bins, expected, atol=1e-6)
    assert found.error == pytest.approx(0.25 * 0.025 + 0.5 * 0.1 + 0.25 * 0.005, abs=1e-6)
    assert found.worst == found.bins[1]
    assert found.residual == pytest.approx(np.sqrt(np.square(x - p).mean()), rel=1e-5)


def test_the_spread_is_sigma():
    mean = jnp.asarray(RNG.normal(size=(200, 50)), jnp.float32)
    x = mean + 0.3 * RNG.normal(size=mean.shape)
    sums = calibration.sums(Normal(mean, jnp.float32(2 * math.log(0.7))), x, jax.random.key(0))
    found = calibration.calibration(*(np.asarray(sums[name]) for name in ("errors", "bins")))
    assert found.spread == pytest.approx(0.7, abs=0.03)
    assert found.residual == pytest.approx(0.3, abs=0.015)


def test_one_image_is_too_few():
    spec = DataSpec("numbers", (D,), kind="table")
    recipe = Recipe(exact(), lambda model: None, spec, "density")
    split = Split(np.zeros((1, D), np.float32), None, 1.0, bounded=False)
    with pytest.raises(UsageError, match="1 image: expected at least two"):
        diagnosis.measure(Measured(), recipe, {"params": {}}, split)


# ---- the command


def said(line, capsys):
    code = 0
    try:
        cli.main(line.split())
    except SystemExit as stop:
        code = stop.code
    return code, *capsys.readouterr()


def test_the_command(trained, capsys):
    code, out, err = said(f"diagnose {trained} --images 300 --no-cache", capsys)
    assert (code, err) == (0, "")
    assert all(len(line) <= 80 or str(trained.parent) in line for line in out.splitlines())
    last = " ".join(out.split("\n\n")[-1].split())
    assert "Try --epochs 8." in last  # of two epochs
    found = json.loads((trained / "diagnosis-images-300.json").read_text())
    assert found["images"] == 300 and found["judgements"][0]["name"] == "underfit"
    numbers = found["measured"]
    assert numbers["story"]["steps"] == 20 and numbers["test"]["images"] == 300
    assert numbers["aggregate"]["images"] == 300 and numbers["calibration"]["bins"]
    assert "coverage" not in numbers  # a Bernoulli's draws are no grey images
    assert numbers["highest"] == 1 and 0 < numbers["variance"] < 0.25
    wrong = [f for f in verify(flaxvae.runs.folder.RunFolder(trained)) if f.ok is False]
    assert not wrong
    assert numbers["left_out"].keys() == {"coverage"} and "no coverage" in out
    for few in (0, 1):
        code, out, err = said(f"diagnose {trained} --images {few}", capsys)
        assert (code, out) == (2, "") and f"--images {few}" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("facts", "aggregate", "coverage"),
    [
        ({"log_px": "density"}, "", ""),
        ({"log_px": "cross_entropy"}, "", "black and white"),
        ({"has_bound": False}, "no q(z|x)", "no p(z)"),
        ({"codes": True}, "discrete", "discrete"),
        ({"hierarchy": True}, "hierarchy", ""),
    ],
)
def test_what_is_left_out_says_why(facts, aggregate, coverage):
    spec = DataSpec("numbers", (D,), kind="table")
    recipe = Recipe(exact(), lambda model: None, spec, "density")._replace(**facts)
    one = np.zeros(N)
    found = {"code": np.zeros((N, D)), "elbo": one, "z": one, "log_q": one, "gaussian": one}
    for expected, why in [
        (aggregate, diagnosis.no_aggregate(recipe, found)),
        (coverage, diagnosis.no_coverage(recipe, True)),
    ]:
        assert bool(why) == bool(expected) and expected in why


def test_a_posterior_that_is_not_gaussian_has_no_aggregate():
    spec = DataSpec("numbers", (D,), kind="table")
    recipe = Recipe(exact(), lambda model: None, spec, "density")
    one = np.ones(N)
    found = {"code": np.zeros((N, D)), "elbo": one, "z": one, "log_q": one, "gaussian": one}
    assert "not Gaussian" in diagnosis.no_aggregate(recipe, found | {"log_q": 2 * one})
    assert "not finite" in diagnosis.no_aggregate(recipe, found | {"elbo": np.nan * one})
    wide = found | {"code": np.zeros((N, 600))}
    assert "600 dimensions, more than 512" in diagnosis.no_aggregate(recipe, wide)
    assert "no prior" in diagnosis.no_coverage(recipe, False)


SMALL = {"net": "mlp", "widths": (64,), "devices": 1, "epochs": 60}


def few(path):
    """Digits of which only 100 are for training."""
    x = np.float32(digits()[0].reshape(-1, 8, 8) / 16)
    np.savez(path, x_train=x[:100], x_test=x[100:600])


def dark(path):
    """Digits that were divided by 255 twice."""
    x = np.float32(digits()[0].reshape(-1, 8, 8) / 16 / 255)
    np.savez(path, x_train=x[:1500], x_test=x[1500:])


def digits():
    return load_digits(return_X_y=True)


def runs():
    """Settings that fail, and what is said of them; and settings that do not."""
    grey = {"likelihood": "gaussian"}
    shared = {"likelihood": "gaussian_shared", "epochs": 150}
    loose = {"codes": 512, "codebook": "gradient", "commitment": 0.0}
    wide = {"widths": (256, 256), "epochs": 400, "batch_size": 50}
    return {
        "beta 50": ("beta_vae", {"beta": 50.0}, "beta"),
        "beta 9": ("beta_vae", {"beta": 9.0}, "collapse"),
        "mean loss": ("vae", {"beta": 64.0}, "mean loss"),
        "sigma 1": ("vae", grey, "sigma too large"),
        "sigma 0.02": ("vae", grey | {"sigma": 0.02}, "sigma too small"),
        "short": ("vae", {"epochs": 3}, "underfit"),
        "slow": ("vae", {"learning_rate": 1e-6}, "underfit"),
        "fast": ("vae", {"learning_rate": 0.1}, "learning rate"),
        "few images": ("vae", wide | {"dataset": few}, "overfit"),
        "dark images": ("vae", {"dataset": dark}, "data range"),
        "codes": ("vq_vae", loose, "dead codebook"),
        "ae": ("ae", {}, "no prior"),
        # well
        "vae": ("vae", {}, None),
        "binary": ("vae", {"binarization": "threshold"}, None),
        "sigma 0.2": ("vae", grey | {"sigma": 0.2}, None),
        "shared sigma": ("vae", shared, None),
        "iwae": ("iwae", {"binarization": "threshold"}, None),
        "mog_vae": ("mog_vae", shared, None),
        "ema codes": ("vq_vae", {"codes": 64}, None),
    }


@pytest.mark.slow
@pytest.mark.parametrize("which", runs())
def test_a_run_made_to_fail_is_named_and_a_healthy_one_left_alone(
    which, tmp_path, capsys, no_figures
):
    model, settings, name = runs()[which]
    settings = ({} if model == "vq_vae" else {"latent_dim": 8}) | SMALL | settings
    make = settings.pop("dataset", None)
    if make is not None:
        make(tmp_path / "images.npz")
    data = "digits" if make is None else str(tmp_path / "images.npz")
    run = flaxvae.train(data, model, run=str(tmp_path / "run"), **settings)
    ended = " ".join(capsys.readouterr().out.split())
    code, out, err = said(f"diagnose {tmp_path / 'run'} --no-cache", capsys)
    assert (code, err) == (0, "")
    found = json.loads((tmp_path / "run" / "diagnosis.json").read_text())["judgements"]
    assert [one["name"] for one in found] == [name] * (name is not None)
    if which == "short":
        assert [one._asdict() for one in run.diagnose().judgements] == [
            one | {"advice": tuple(one["advice"])} for one in found
        ]
    if name is None:
        assert "Nothing is wrong with it" in out and "diagnosis" not in ended
    elif name not in ("overfit", "no prior"):  # the training has said so, too, of fewer images
        words, number = found[0]["said"].split(":")[0], re.compile(r"[\d,.]+")
        assert number.sub("", words) in number.sub("", ended)
