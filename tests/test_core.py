"""The bound against a model whose log p(x) is known: a decoder x = W z + b + s eps.

There p(x) = N(b, W W^T + s^2 I), and for orthogonal columns of W the posterior is a diagonal
Gaussian, one that the encoder can be set to, or be set off from by a known KL.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from flaxvae import lookup
from flaxvae.analysis.evaluation import importance_weighted_elbo
from flaxvae.core import Batch, Latent, Model, elbo, elbo_samples, log_weights
from flaxvae.distributions import Normal
from flaxvae.recipe import DataSpec

S = 0.5
W = np.array([[1.0, 0.3], [1.0, -0.3], [0.5, 0.0], [0.0, 0.4], [0.0, -0.4]])
W[:, 1] -= W[:, 0] * (W[:, 0] @ W[:, 1]) / (W[:, 0] @ W[:, 0])
BIAS = np.array([0.1, -0.2, 0.3, 0.0, 1.0])

# A log-weight is a sum of some 20 float32 terms of up to 50 nats; each rounds by 3e-6 at most.
ROUNDING = 1e-4


# One compilation a model: variables, keys and batches are arguments.
elbo_of = jax.jit(elbo, static_argnums=0, static_argnames="train")
samples_of = jax.jit(elbo_samples, static_argnums=(0, 4))
weights_of = jax.jit(log_weights, static_argnums=(0, 4))


def linear_model() -> Model:
    data = DataSpec("linear-gaussian", (5,))
    options = {"latent_dim": 2, "net": "mlp", "widths": (), "likelihood": "gaussian", "sigma": S}
    return lookup.build("vae", data, **options).model


MODEL = linear_model()


class Linear(NamedTuple):
    variables: dict
    batch: Batch
    log_px: np.ndarray  # [B] exact
    kl_to_posterior: np.ndarray  # [B] exact KL(q(z|x) || p(z|x)): log p(x) - ELBO


def linear(shift=0.0, widen=0.0) -> Linear:
    """q is the posterior, but for ``shift`` standard deviations and ``widen`` of log-variance."""
    variance = 1 / (1 + (W**2).sum(0) / S**2)
    gain = W * variance / S**2  # [5, 2]: E[z|x] = (x - b) gain

    def dense(kernel, bias):
        return {"kernel": jnp.float32(kernel), "bias": jnp.float32(bias)}

    mean = dense(gain, -BIAS @ gain + shift * np.sqrt(variance))
    log_var = dense(np.zeros((5, 2)), np.log(variance) + widen)
    params = {
        "encoder": {"heads": {"mean": mean, "log_var": log_var}},
        "decoder": {"out": dense(W.T, BIAS)},
    }
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0), jnp.zeros((1, 5)))
    chex.assert_trees_all_equal_shapes_and_dtypes(shapes, {"params": params})
    x = np.random.default_rng(0).normal(size=(4, 5), scale=1.5)
    log_px = stats.multivariate_normal(BIAS, W @ W.T + S**2 * np.eye(5)).logpdf(x)
    kl = np.full(4, 2 * 0.5 * (np.exp(widen) - 1 - widen + shift**2))
    return Linear({"params": params}, Batch(jnp.float32(x)), log_px, kl)


def test_columns_are_orthogonal():
    np.testing.assert_allclose(W[:, 0] @ W[:, 1], 0, atol=1e-12)


def test_exact_posterior_weighs_all_draws_alike():
    """Every single log-weight is log p(x), whatever z was drawn."""
    exact = linear()
    log_w = weights_of(MODEL, exact.variables, jax.random.key(0), exact.batch, 200)
    chex.assert_shape(log_w, (200, 4))
    np.testing.assert_allclose(log_w, np.tile(exact.log_px, (200, 1)), rtol=0, atol=ROUNDING)


@pytest.mark.parametrize(("shift", "widen"), [(0.0, 0.0), (0.5, 0.3), (1.0, -0.5)])
def test_elbo_is_log_px_less_the_kl_to_the_posterior(shift, widen, assert_mean):
    lg = linear(shift, widen)
    terms = samples_of(MODEL, lg.variables, jax.random.key(1), lg.batch, 20_000)
    expected = lg.log_px - lg.kl_to_posterior
    assert_mean(terms.elbo, expected, ROUNDING)
    assert_mean(terms.log_w, expected, ROUNDING)
    assert_mean(terms.elbo - terms.log_w, 0.0, ROUNDING)


def test_which_estimator_varies_less():
    """The closed form where z says little about x; the other one at the exact posterior."""

    def variances(lg):
        terms = samples_of(MODEL, lg.variables, jax.random.key(2), lg.batch, 20_000)
        return [np.asarray(a, np.float64).var(0) for a in (terms.elbo, terms.log_w)]

    blind = linear(0.5, 0.3)
    blind.variables["params"]["decoder"]["out"]["kernel"] *= 0.01
    closed_form, monte_carlo = variances(blind)
    assert (closed_form < 0.1 * monte_carlo).all()
    closed_form, monte_carlo = variances(linear())
    assert (monte_carlo < ROUNDING**2).all()
    assert (closed_form > 0.1).all()


@pytest.mark.parametrize(("k", "chunk"), [(1, 1), (1, 9), (7, 3), (40, 7), (40, 8), (40, 100)])
def test_log_likelihood_does_not_depend_on_chunks(k, chunk):
    """At the exact posterior to rounding, whether or not ``chunk`` divides ``k``."""
    exact = linear()
    function = jax.jit(importance_weighted_elbo(MODEL, k, chunk))
    found = function(exact.variables, jax.random.key(0), exact.batch)
    np.testing.assert_allclose(found, exact.log_px, rtol=0, atol=ROUNDING)


def test_log_likelihood_is_the_logsumexp_of_its_draws():
    lg, key = linear(0.7, 0.4), jax.random.key(3)
    chunks = [
        weights_of(MODEL, lg.variables, jax.random.fold_in(key, i), lg.batch, 4) for i in range(3)
    ]
    used = np.concatenate(chunks).astype(np.float64)[:10]
    expected = special.logsumexp(used, axis=0) - np.log(10)
    found = jax.jit(importance_weighted_elbo(MODEL, 10, 4))(lg.variables, key, lg.batch)
    np.testing.assert_allclose(found, expected, rtol=0, atol=ROUNDING)


def repeated(lg, k, chunk, repeats, seed):
    """[repeats, B] independent estimates."""
    function = importance_weighted_elbo(MODEL, k, chunk)
    keys = jax.random.split(jax.random.key(seed), repeats)
    return jax.jit(jax.vmap(lambda key: function(lg.variables, key, lg.batch)))(keys)


def test_importance_weighted_bound_rises_with_k(assert_mean):
    """ELBO = bound(1) < bound(4) < bound(32) <= log p(x), beyond any doubt."""
    lg, repeats = linear(0.7, 0.4), 2000
    bounds = [
        np.asarray(repeated(lg, k, 32, repeats, seed), np.float64)
        for seed, k in enumerate([1, 4, 32])
    ]
    assert_mean(bounds[0], lg.log_px - lg.kl_to_posterior, ROUNDING)
    means = np.array([b.mean(0) for b in bounds])
    variances = np.array([b.var(0) / repeats for b in bounds])
    rise, error = np.diff(means, axis=0), np.sqrt(variances[1:] + variances[:-1])
    assert (rise > 5 * error).all()
    assert (means[-1] <= lg.log_px + 5 * np.sqrt(variances[-1]) + ROUNDING).all()


@pytest.mark.parametrize("chunk", [64, 700, 5000])
def test_five_thousand_draws_close_the_gap(chunk):
    lg = linear(0.3, 0.3)
    found = repeated(lg, 5000, chunk, 20, chunk)
    gap = np.abs(np.asarray(found, np.float64).mean(0) - lg.log_px)
    assert (gap < 0.01).all()
    assert (gap < 0.05 * lg.kl_to_posterior).all()  # what the ELBO leaves open


SHAPE, D, B, L = (4, 4, 1), 3, 5, 6


@pytest.fixture(scope="module")
def small():
    """A Bernoulli VAE with random weights, and a batch."""
    data = DataSpec("noise", SHAPE)
    model = lookup.build("vae", data, latent_dim=D, net="mlp", widths=(8,)).model
    x = jax.random.uniform(jax.random.key(0), (B, *SHAPE))
    return model, jax.jit(model.init)(jax.random.key(1), x), Batch(x)


def test_shapes_and_dtypes(small):
    model, variables, batch = small
    key = jax.random.key(2)
    one = elbo_of(model, variables, key, batch)
    many = samples_of(model, variables, key, batch, L)
    for terms, lead in [(one, ()), (many, (L,))]:
        vectors = [terms.log_px, terms.log_w, terms.penalty, terms.elbo, terms.latent.log_ratio]
        chex.assert_shape(vectors, (*lead, B))
        chex.assert_shape([terms.kl, terms.latent.kl, terms.latent.code], (*lead, B, D))
        chex.assert_shape(terms.latent.z, (*lead, B, D))
        chex.assert_type(jax.tree.leaves(terms), jnp.float32)
        chex.assert_tree_all_finite(terms)
    log_w = weights_of(model, variables, key, batch, L)
    chex.assert_shape(log_w, (L, B))
    chex.assert_type(log_w, jnp.float32)


def test_samples_are_independent_draws_of_elbo(small):
    model, variables, batch = small
    many = samples_of(model, variables, jax.random.key(2), batch, L)
    assert len(np.unique(many.latent.z)) == L * B * D
    keys = jax.random.split(jax.random.key(2), L)
    for i, key in enumerate(keys):
        one = elbo_of(model, variables, key, batch)
        part = jax.tree.map(lambda a, i=i: a[i], many)
        chex.assert_trees_all_close(one, part, rtol=0, atol=ROUNDING)
    log_w = weights_of(model, variables, jax.random.key(2), batch, L)
    np.testing.assert_array_equal(log_w, many.log_w)


def test_terms_add_up(small):
    model, variables, batch = small
    terms = elbo_of(model, variables, jax.random.key(2), batch)
    np.testing.assert_allclose(terms.elbo, terms.log_px - terms.kl.sum(-1), rtol=1e-6)
    np.testing.assert_allclose(terms.log_w, terms.log_px + terms.latent.log_ratio, rtol=1e-6)
    expected = model.decode(variables, terms.latent.z).log_prob(batch.x)
    np.testing.assert_allclose(terms.log_px, expected, rtol=1e-6)


def test_inputs_are_encoded_and_the_batch_is_scored(small):
    model, variables, batch = small
    inputs = jax.random.uniform(jax.random.key(5), batch.x.shape)
    terms = elbo_of(model, variables, jax.random.key(2), batch, inputs=inputs)
    np.testing.assert_allclose(terms.latent.code, model.encode(variables, inputs)["mean"])
    expected = model.decode(variables, terms.latent.z).log_prob(batch.x)
    np.testing.assert_allclose(terms.log_px, expected, rtol=1e-6)
    same = elbo_of(model, variables, jax.random.key(2), batch, inputs=batch.x)
    chex.assert_trees_all_equal(same, elbo_of(model, variables, jax.random.key(2), batch))


def test_train_reaches_the_model_and_weights_never_relax():
    """A model that records how it was called, and hands labels and variables through."""
    seen = []

    def reparameterize(variables, key, features, train):
        seen.append(train)
        zero = jnp.zeros(2)
        return Latent(
            features, features, features, zero, zero, zero, {"count": variables["count"] + 1}
        )

    def decode(variables, z, y=None):
        return Normal(z + y[:, None], jnp.zeros(()))

    model = Model(
        init=lambda key, x, y=None: {},
        encode=lambda variables, x, y=None: x,
        reparameterize=reparameterize,
        decode=decode,
        prior_sample=lambda *args: None,
    )
    batch = Batch(jnp.ones((2, 3)), jnp.array([0.0, 2.0]))
    key, variables = jax.random.key(0), {"count": jnp.zeros(())}
    terms = elbo(model, variables, key, batch)
    np.testing.assert_allclose(terms.log_px, stats.norm.logpdf([0, 2]) * 3, rtol=1e-6)
    assert terms.latent.updates == {"count": 1}
    elbo(model, variables, key, batch, train=True)
    assert seen == [False, True]
    for expected, call in (
        (False, lambda: elbo_samples(model, variables, key, batch, 2)),
        (True, lambda: elbo_samples(model, variables, key, batch, 2, train=True)),
        (False, lambda: log_weights(model, variables, key, batch, 2)),
    ):
        seen.clear()
        call()
        assert set(seen) == {expected}
