"""Likelihoods against scipy, sums and integrals."""

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


LOW, HIGH = 2 * math.log(0.01), 0.0


def test_bounded_log_var():
    raw = jnp.concatenate([jnp.linspace(-1e4, 1e4, 101), jnp.linspace(-20, 20, 101)]).sort()
    value = np.asarray(likelihoods.bounded_log_var(raw))
    slope = np.asarray(jax.vmap(jax.grad(likelihoods.bounded_log_var))(raw))
    assert (value >= LOW * (1 + EPS)).all()
    assert (value <= HIGH + 1e-6).all()
    assert (np.diff(value) >= 0).all()
    inner = np.abs(raw) <= 20  # five times the range: still some gradient
    assert (slope[inner] > 0).all()
    assert np.isfinite(slope).all()
    assert (slope <= 1 + 4 * EPS).all()
    np.testing.assert_allclose(jax.grad(likelihoods.bounded_log_var)(0.0), 1.0, rtol=4 * EPS)
    np.testing.assert_allclose(likelihoods.bounded_log_var(0.0), (LOW + HIGH) / 2, rtol=4 * EPS)
    np.testing.assert_allclose(value[[0, -1]], [LOW, HIGH], rtol=4 * EPS, atol=1e-6)


@pytest.mark.parametrize("sigma", [0.05, 1.0, 3.0])
def test_gaussian_is_scipys_density(sigma):
    likelihood = likelihoods.gaussian(sigma)
    assert (likelihood.values, likelihood.init()) == (1, {})
    raw, x = normal(0, 4, 3, 2, 1), uniform(1, 4, 3, 2)
    found = likelihood.distribution({}, raw)
    expected = stats.norm.logpdf(np.float64(x), np.float64(raw[..., 0]), sigma).sum((1, 2))
    np.testing.assert_allclose(found.log_prob(x), expected, rtol=1e-5)
    np.testing.assert_array_equal(found.mean, raw[..., 0])


def test_gaussian_shared_learns_one_sigma():
    likelihood = likelihoods.gaussian_shared()
    own = likelihood.init()
    chex.assert_trees_all_equal_shapes_and_dtypes(own, {"raw_log_var": jnp.zeros(())})
    raw, x = normal(0, 4, 3, 2, 1), normal(0, 4, 3, 2) + 0.1 * normal(1, 4, 3, 2)
    squared = np.square(np.float64(x) - np.float64(raw[..., 0]))

    def total(own):
        return likelihood.distribution(own, raw).log_prob(x).sum()

    sd = math.exp((LOW + HIGH) / 4)
    expected = stats.norm.logpdf(np.float64(x), np.float64(raw[..., 0]), sd).sum()
    np.testing.assert_allclose(total(own), expected, rtol=1e-5)
    slope = ((squared / sd**2 - 1) / 2).sum()  # at raw = 0, where d log_var / d raw = 1
    np.testing.assert_allclose(jax.grad(total)(own)["raw_log_var"], slope, rtol=1e-5)
    # The best sigma is the root mean squared error, and the range holds it.
    climb = jax.jit(lambda own: jax.tree.map(lambda p, g: p + 0.02 * g, own, jax.grad(total)(own)))
    for _ in range(300):
        own = climb(own)
    found = likelihood.distribution(own, raw).log_var
    np.testing.assert_allclose(found, np.log(squared.mean()), rtol=1e-4)


def test_gaussian_pixel_has_a_sigma_each():
    likelihood = likelihoods.gaussian_pixel()
    assert (likelihood.values, likelihood.init()) == (2, {})
    raw, x = normal(0, 4, 3, 2, 2), uniform(1, 4, 3, 2)
    mean, log_var = raw[..., 0], likelihoods.bounded_log_var(raw[..., 1])
    sd = np.exp(np.float64(log_var) / 2)
    expected = stats.norm.logpdf(np.float64(x), np.float64(mean), sd).sum((1, 2))
    found = likelihood.distribution({}, raw)
    np.testing.assert_allclose(found.log_prob(x), expected, rtol=1e-4)
    np.testing.assert_array_equal(found.mean, mean)
    gradient = jax.grad(lambda raw: likelihood.distribution({}, raw).log_prob(x).sum())(raw)
    chex.assert_tree_all_finite(gradient)
    assert (np.asarray(gradient) != 0).all()


@pytest.mark.parametrize("name", ["gaussian", "gaussian_shared", "gaussian_pixel"])
def test_densities_integrate_to_one(name):
    likelihood = getattr(likelihoods, name)()
    raw = jnp.broadcast_to(
        jnp.array([0.3, -1.0])[: likelihood.values], (8001, 1, likelihood.values)
    )
    x = jnp.linspace(-9.0, 9.0, 8001)[:, None]
    log_prob = likelihood.distribution(likelihood.init(), raw).log_prob(x)
    total = integrate.simpson(np.exp(np.float64(log_prob)), x=np.float64(x[:, 0]))
    np.testing.assert_allclose(total, 1.0, rtol=1e-4)


def test_bernoulli_probabilities_add_up_to_one():
    x = np.indices((2, 2, 2)).reshape(3, 8).T.astype(np.float32)
    likelihood = likelihoods.bernoulli()
    assert (likelihood.values, likelihood.init()) == (1, {})
    raw = jnp.broadcast_to(normal(0, 1, 3, 1), (8, 3, 1))
    log_prob = likelihood.distribution({}, raw).log_prob(jnp.asarray(x))
    np.testing.assert_allclose(np.exp(np.float64(log_prob)).sum(), 1.0, rtol=1e-6)
