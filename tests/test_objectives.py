"""Objectives, each against what it says it is."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from flaxvae.core import Batch, elbo_samples
from flaxvae.parts import assemble, latents, likelihoods, networks, objectives


def uniform(seed, *shape):
    return jax.random.uniform(jax.random.key(seed), shape)


def weighted(beta):
    return objectives.weighted(objectives.constant(beta))


def small_model(family=latents.gaussian):
    latent = family(2)
    network = networks.mlp((3, 3), latent.heads, 3, (6,), "tanh")
    return assemble.model(network, latent, likelihoods.bernoulli(3))


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
        price = objectives.weighted(beta if callable(beta) else objectives.constant(beta))
        loss = objectives.negative_elbo(MODEL, price=price, closed_form=closed_form)
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
        functools.partial(
            objectives.negative_elbo, price=weighted(3.0), closed_form=False, samples=2
        ),
        functools.partial(objectives.importance_weighted, k=3),
        objectives.reconstruction,
    ],
    ids=["elbo", "monte_carlo", "importance_weighted", "reconstruction"],
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
    closed = gradients(objectives.negative_elbo(MODEL, price=weighted(2.0)), variables, 4000, 0)
    sampled = objectives.negative_elbo(MODEL, price=weighted(2.0), closed_form=False)
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


# --- schedules and prices -----------------------------------------------------------------------


def test_schedules():
    steps = jnp.arange(0, 50)
    linear = np.asarray(jax.vmap(objectives.linear(2.0, 20))(steps))
    np.testing.assert_allclose(linear, np.minimum(np.arange(50) / 10, 2.0), rtol=1e-6)
    cyclical = np.asarray(jax.vmap(objectives.cyclical(2.0, 20, 2))(steps))
    once = np.minimum(np.arange(20) / 5, 2.0)
    expected = np.concatenate([once, once, np.full(10, 2.0)])
    np.testing.assert_allclose(cyclical, expected, rtol=1e-6)
    assert objectives.constant(3.0)(7) == 3.0


def test_prices():
    kl, step = jnp.array([0.1, 2.0, 0.6]), jnp.int32(5)
    half = objectives.linear(1.0, 10)
    np.testing.assert_allclose(objectives.weighted(half)(kl, step), 0.5 * 2.7, rtol=1e-6)
    per = objectives.free_bits(half, 0.5)
    np.testing.assert_allclose(per(kl, step), 0.5 * (0.5 + 2.0 + 0.6), rtol=1e-6)
    np.testing.assert_array_equal(jax.grad(per)(kl, step), [0.0, 0.5, 0.5])
    for nats, expected, slope in ((2.0, 2.7, 1.0), (4.0, 4.0, 0.0)):
        total = objectives.free_bits(objectives.constant(1.0), nats, "total")
        np.testing.assert_allclose(total(kl, step), expected, rtol=1e-6)
        np.testing.assert_array_equal(jax.grad(total)(kl, step), [slope] * 3)
    for nats in (2.0, 10.0):  # the target is half of it by now
        held = objectives.capacity(7.0, nats, 10)
        np.testing.assert_allclose(held(kl, step), 7 * abs(2.7 - nats / 2), rtol=1e-6)
        sign = np.sign(2.7 - nats / 2)
        np.testing.assert_array_equal(jax.grad(held)(kl, step), [7 * sign] * 3)


def test_free_bits_are_of_the_batchs_mean(variables):
    """One image may use a unit that another does not; the maximum is taken after averaging."""
    features = MODEL.encode(variables, X)
    kl = np.asarray(MODEL.reparameterize(variables, KEY, features, True).kl)
    nats = float(kl.mean(0).max() + kl.mean(0).min()) / 2  # one unit above it, one below
    loss = objectives.negative_elbo(MODEL, price=objectives.free_bits(lambda step: 1.0, nats))
    found, metrics = evaluate(loss, variables, Batch(X))
    expected = metrics["reconstruction"] + np.maximum(kl.mean(0), nats).sum()
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(metrics["kl"], kl.mean(0).sum(), rtol=1e-6)


# --- importance weighting, corruption -----------------------------------------------------------

PATH_MODEL = small_model(lambda dim: latents.gaussian(dim, path_gradient=True))


@pytest.mark.parametrize("beta", [1.0, 0.3])
@pytest.mark.parametrize("double", [False, True])
def test_importance_weighted_bound_is_the_logsumexp(variables, double, beta):
    loss = objectives.importance_weighted(
        PATH_MODEL, 6, doubly_reparameterized=double, temper=objectives.constant(beta)
    )
    found, metrics = evaluate(loss, variables, Batch(X))
    terms = elbo_samples(MODEL, variables, KEY, Batch(X), 6, train=True)
    log_w = np.float64(terms.log_px) + beta * np.float64(terms.latent.log_ratio)
    bound = special.logsumexp(log_w, axis=0) - math.log(6)
    np.testing.assert_allclose(found, -bound.mean(), rtol=1e-6)
    np.testing.assert_allclose(metrics["elbo"], terms.log_w.mean(), rtol=1e-6)


@pytest.mark.parametrize("beta", [1.0, 0.3])
def test_doubly_reparameterized_gradient_is_unbiased_and_quieter(variables, assert_mean, beta):
    """The same expectation as the plain gradient; for the encoder with a smaller variance."""
    k, n = 16, 4000
    make = functools.partial(objectives.importance_weighted, temper=objectives.constant(beta))
    plain = gradients(make(MODEL, k), variables, n, 0)
    double = gradients(make(PATH_MODEL, k, doubly_reparameterized=True), variables, n, 0)
    assert_mean(plain - double, rounding=1e-5 * np.abs(plain).max())
    sizes = [leaf.size for leaf in jax.tree.leaves(variables)]
    halves = jax.tree.leaves(jax.tree_util.tree_map_with_path(lambda p, _: p[1].key, variables))
    encoder = np.repeat(np.array(halves) == "encoder", sizes)
    assert double[:, encoder].var(0).sum() < 0.9 * plain[:, encoder].var(0).sum()
    np.testing.assert_allclose(  # the decoder's is the same, draw by draw
        double[:, ~encoder], plain[:, ~encoder], rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("make", [objectives.negative_elbo, objectives.reconstruction])
def test_a_corrupted_image_is_encoded_and_the_clean_one_scored(make):
    family = latents.gaussian if make is objectives.negative_elbo else latents.point
    model = small_model(family)
    weights = jax.jit(model.init)(jax.random.key(1), X)
    seen = []

    def corrupt(key, x):
        seen.append(key)
        return x + jax.random.normal(key, x.shape)

    loss, _ = make(model, corrupt=corrupt)(weights, KEY, Batch(X), STEP)
    key, noise = jax.random.split(KEY)
    assert (jax.random.key_data(seen[0]) == jax.random.key_data(noise)).all()
    inputs = X + jax.random.normal(noise, X.shape)
    terms = elbo_samples(model, weights, key, Batch(X), 1, inputs=inputs, train=True)
    expected = -terms.log_px.mean() + terms.kl.sum(-1).mean()
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
