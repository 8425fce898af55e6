"""Objectives, each against what it says it is."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from flaxvae.core import Batch, elbo_samples
from flaxvae.parts import assemble, convolutions, latents, likelihoods, networks, objectives

pytestmark = pytest.mark.usefixtures("quick_compilation")

EPS = float(np.finfo(np.float32).eps)


def uniform(seed, *shape):
    return jax.random.uniform(jax.random.key(seed), shape)


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def small_model(family=latents.gaussian):
    latent = family(2)
    network = networks.mlp((3, 3), latent.heads, 1, (6,), "tanh")
    return assemble.model(network, latent, likelihoods.bernoulli())


MODEL = small_model()
X = uniform(0, 4, 3, 3)
KEY, STEP = jax.random.key(3), jnp.int32(7)


@pytest.fixture(scope="module")
def variables():
    """Random weights, the heads' biases moved so that the KL is of some nats."""
    found = jax.jit(MODEL.init)(jax.random.key(1), X)
    return jax.tree.map(
        lambda p: p + 0.3 * jax.random.normal(jax.random.key(p.size), p.shape), found
    )


def evaluate(loss, variables, batch, key=KEY, step=STEP):
    value, (metrics, updates) = jax.jit(loss)(variables, key, batch, step)
    chex.assert_shape([value, *metrics.values()], ())
    chex.assert_tree_all_finite((value, metrics))
    assert updates == {}
    assert value == metrics["loss"]
    return float(value), metrics


@pytest.mark.parametrize("samples", [1, 5])
@pytest.mark.parametrize("closed_form", [True, False])
def test_beta_one_is_the_negative_elbo(variables, closed_form, samples):
    loss = objectives.negative_elbo(MODEL, closed_form=closed_form, samples=samples)
    found, metrics = evaluate(loss, variables, Batch(X))
    np.testing.assert_array_equal(metrics["elbo"], -found)  # to the last bit
    terms = jax.jit(elbo_samples, static_argnums=(0, 4))(MODEL, variables, KEY, Batch(X), samples)
    expected = terms.elbo if closed_form else terms.log_w
    np.testing.assert_allclose(found, -np.float64(expected).mean(), rtol=1e-6)
    np.testing.assert_allclose(
        metrics["reconstruction"], -np.float64(terms.log_px).mean(), rtol=1e-6
    )
    np.testing.assert_allclose(found, metrics["reconstruction"] + metrics["kl"], rtol=1e-6)


@pytest.mark.parametrize("closed_form", [True, False])
def test_beta_weighs_the_kl(variables, closed_form):
    """A number, or a function of the step; the metrics stay those of the bound."""

    def value(beta, step=STEP):
        loss = objectives.negative_elbo(MODEL, beta=beta, closed_form=closed_form)
        return evaluate(loss, variables, Batch(X), step=step)

    one, metrics = value(1.0)
    assert abs(metrics["kl"]) > 0.1
    for beta in (0.0, 0.5, 4.0):
        found, others = value(beta)
        expected = metrics["reconstruction"] + beta * metrics["kl"]
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        for name in ("elbo", "kl", "reconstruction"):
            np.testing.assert_allclose(others[name], metrics[name], rtol=1e-6)
    ramp = lambda step: jnp.minimum(step / 14, 1.0)  # noqa: E731
    np.testing.assert_allclose(value(ramp)[0], value(0.5)[0], rtol=1e-6)
    np.testing.assert_allclose(value(ramp, jnp.int32(20))[0], one, rtol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        objectives.negative_elbo,
        functools.partial(objectives.negative_elbo, beta=3.0, closed_form=False, samples=2),
        objectives.reconstruction,
    ],
    ids=["elbo", "monte_carlo", "reconstruction"],
)
def test_mask_leaves_padding_out(variables, make):
    """Losses, metrics and gradients do not see padded rows, and average over the real ones."""
    loss, mask = make(MODEL), jnp.array([1.0, 1.0, 0.0, 0.0])
    gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))

    def run(padding, mask=mask):
        return gradient(variables, KEY, Batch(X.at[2:].set(padding), mask=mask), STEP)

    chex.assert_trees_all_close(run(0.0), run(1.0), rtol=1e-6, atol=1e-7)
    assert run(0.0, None)[0][0] != run(1.0, None)[0][0]
    first = run(0.0, jnp.array([1.0, 0.0, 0.0, 0.0]))[0][0]
    second = run(0.0, jnp.array([0.0, 1.0, 0.0, 0.0]))[0][0]
    np.testing.assert_allclose(run(0.0)[0][0], (first + second) / 2, rtol=1e-6)
    np.testing.assert_allclose(run(0.0, jnp.ones(4))[0][0], run(0.0, None)[0][0], rtol=1e-6)
    nothing = run(0.0, jnp.zeros(4))
    chex.assert_tree_all_finite(nothing)
    assert nothing[0][0] == 0


def gradients(loss, variables, n, seed):
    """[n, P] gradients of independent draws."""

    def one(key):
        grads = jax.grad(lambda v: loss(v, key, Batch(X), STEP)[0])(variables)
        return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(grads)])

    return np.float64(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(seed), n)))


def test_both_kls_have_the_same_gradient_in_expectation(variables, assert_mean):
    closed = gradients(objectives.negative_elbo(MODEL, beta=2.0), variables, 4000, 0)
    sampled = objectives.negative_elbo(MODEL, beta=2.0, closed_form=False)
    sampled = gradients(sampled, variables, 4000, 0)
    assert_mean(closed - sampled, 0.0, rounding=1e-6 * np.abs(closed).max())
    assert np.abs(closed - sampled).max() > 1e-2  # for each draw they differ


def test_samples_divide_the_variance(variables):
    """Gradients with L = 8 draws vary 8 times less, within five standard errors of that ratio."""
    n = 4000
    variances = []
    for samples in (1, 8):
        loss = objectives.negative_elbo(MODEL, samples=samples)
        values = gradients(loss, variables, n, samples)
        centred = values - values.mean(0)
        variance = (centred**2).sum(-1)  # a sum over parameters, for each draw
        variances.append((variance.mean(), variance.std() / math.sqrt(n)))
    (one, one_error), (eight, eight_error) = variances
    assert abs(one / 8 - eight) < 5 * math.hypot(one_error / 8, eight_error)


def test_reconstruction_is_the_autoencoders_loss(variables):
    model = small_model(latents.point)
    weights = jax.jit(model.init)(jax.random.key(1), X)
    found, metrics = evaluate(objectives.reconstruction(model), weights, Batch(X))
    z = model.encode(weights, X)["code"]
    np.testing.assert_allclose(found, -model.decode(weights, z).log_prob(X).mean(), rtol=1e-6)
    assert set(metrics) == {"loss", "reconstruction"}
