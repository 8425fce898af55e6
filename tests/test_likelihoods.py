"""Likelihoods against scipy, sums and integrals."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from flaxvae.errors import UsageError
from flaxvae.logistic import DiscretizedLogistic, LogisticMixture
from flaxvae.parts import likelihoods

EPS = float(np.finfo(np.float32).eps)


def uniform(seed, *shape):
    return jax.random.uniform(jax.random.key(seed), shape)


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


@functools.partial(jax.jit, static_argnums=0)
def evaluate(likelihood, raw, x):
    """log p(x) [B] and the mean that the raw values give."""
    found = likelihood.distribution(likelihood.init(), raw)
    return found.log_prob(x), found.mean


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


def test_bounded_log_scale():
    raw = jnp.concatenate([jnp.linspace(-1e4, 44.0, 101), jnp.linspace(-10.0, 10.0, 101)]).sort()
    value = np.float64(likelihoods.bounded_log_scale(raw))
    assert (value >= -7).all() and likelihoods.bounded_log_scale(1e4) == 43
    np.testing.assert_allclose(value, np.logaddexp(0, np.float64(raw) + 5) - 7, rtol=0, atol=1e-5)
    np.testing.assert_allclose(likelihoods.bounded_log_scale(0.0), -2, atol=0.01)
    slope = jax.vmap(jax.grad(likelihoods.bounded_log_scale))(raw)
    assert (slope[raw > -20] > 0).all()
    chex.assert_tree_all_finite(slope)


@pytest.mark.parametrize("sigma", [0.05, 1.0, 3.0])
def test_gaussian_is_scipys_density(sigma):
    likelihood = likelihoods.gaussian(2, sigma)
    assert (likelihood.values, likelihood.init()) == (2, {})
    raw, x = normal(0, 4, 3, 2), uniform(1, 4, 3, 2)
    log_prob, mean = evaluate(likelihood, raw, x)
    expected = stats.norm.logpdf(np.float64(x), np.float64(raw), sigma).sum((1, 2))
    np.testing.assert_allclose(log_prob, expected, rtol=1e-5)
    np.testing.assert_array_equal(mean, raw)


def test_gaussian_shared_learns_one_sigma():
    likelihood = likelihoods.gaussian_shared(2)
    assert likelihood.values == 2
    own = likelihood.init()
    chex.assert_trees_all_equal_shapes_and_dtypes(own, {"raw_log_var": jnp.zeros(())})
    raw = normal(0, 4, 3, 2)
    x = raw + 0.1 * normal(1, 4, 3, 2)
    squared = np.square(np.float64(x) - np.float64(raw))

    @jax.jit
    def total(own):
        return likelihood.distribution(own, raw).log_prob(x).sum()

    sd = math.exp((LOW + HIGH) / 4)
    expected = stats.norm.logpdf(np.float64(x), np.float64(raw), sd).sum()
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
    """All means come first, then all variances."""
    likelihood = likelihoods.gaussian_pixel(2)
    assert (likelihood.values, likelihood.init()) == (4, {})
    raw, x = normal(0, 4, 3, 4), uniform(1, 4, 3, 2)
    mean, log_var = raw[..., :2], likelihoods.bounded_log_var(raw[..., 2:])
    sd = np.exp(np.float64(log_var) / 2)
    expected = stats.norm.logpdf(np.float64(x), np.float64(mean), sd).sum((1, 2))
    log_prob, found_mean = evaluate(likelihood, raw, x)
    np.testing.assert_allclose(log_prob, expected, rtol=1e-4)
    np.testing.assert_array_equal(found_mean, mean)
    gradient = jax.grad(lambda raw: evaluate(likelihood, raw, x)[0].sum())(raw)
    chex.assert_tree_all_finite(gradient)
    assert (np.asarray(gradient) != 0).all()


@pytest.mark.parametrize(
    "name", ["gaussian", "gaussian_shared", "gaussian_pixel", "continuous_bernoulli"]
)
def test_densities_integrate_to_one(name):
    likelihood = getattr(likelihoods, name)(1)
    values, n = likelihood.values, 8001
    low, high = (0.0, 1.0) if name == "continuous_bernoulli" else (-9.0, 9.0)
    raw = np.repeat(np.float32([[[0.3, -1.0][:values]]]), n, 0)
    x = np.linspace(low, high, n, dtype=np.float32)
    log_prob, _ = evaluate(likelihood, raw, x[:, None, None])
    total = integrate.simpson(np.exp(np.float64(log_prob)), x=np.float64(x))
    np.testing.assert_allclose(total, 1.0, rtol=1e-4)


LEVELS = {"bernoulli": 2, "discretized_logistic": 3, "logistic_mixture": 3}


def on_levels(name, channels):
    """The likelihood with few levels, and every value of a point of space, [levels^C, C]."""
    levels = LEVELS[name]
    arguments = {
        "bernoulli": (),
        "discretized_logistic": (levels,),
        "logistic_mixture": (levels, 4),
    }
    x = np.indices((levels,) * channels).reshape(channels, -1).T / (levels - 1)
    return getattr(likelihoods, name)(channels, *arguments[name]), np.float32(x)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", LEVELS)
def test_probabilities_add_up_to_one(name, channels):
    likelihood, x = on_levels(name, channels)
    assert likelihood.init() == {}
    raw = np.repeat(2 * np.asarray(normal(0, 1, likelihood.values)), len(x), 0)
    log_prob, _ = evaluate(likelihood, raw, x)
    np.testing.assert_allclose(np.exp(np.float64(log_prob)).sum(), 1.0, rtol=0, atol=1e-5)


@pytest.mark.parametrize("levels", [17, 256])
def test_logistics_of_raw_zeros(levels):
    """Their mean is 1/2, and no level is much less probable than others."""
    for likelihood in (
        likelihoods.discretized_logistic(1, levels),
        likelihoods.logistic_mixture(1, levels, 5),
    ):
        x = np.arange(levels, dtype=np.float32)[:, None] / (levels - 1)
        log_prob, mean = evaluate(likelihood, np.zeros((levels, likelihood.values)), x)
        np.testing.assert_allclose(mean, 0.5, rtol=4 * EPS)
        probability = np.exp(np.float64(log_prob))
        assert (probability > 1 / (10 * levels)).all()


def test_discretized_logistic_reads_means_then_scales():
    likelihood, raw = likelihoods.discretized_logistic(2, 17), normal(0, 5, 3, 4)
    assert likelihood.values == 4
    q = likelihood.distribution({}, raw)
    assert isinstance(q, DiscretizedLogistic) and q.levels == 17
    np.testing.assert_allclose(q.location, (1 + raw[..., :2]) / 2, rtol=4 * EPS, atol=EPS)
    np.testing.assert_allclose(q.log_scale, likelihoods.bounded_log_scale(raw[..., 2:]))


@pytest.mark.parametrize(("channels", "values"), [(1, 4 * 3), (2, 4 * 6), (3, 4 * 10), (4, 4 * 15)])
def test_logistic_mixture_reads_every_value_once(channels, values):
    likelihood = likelihoods.logistic_mixture(channels, 17, 4)
    assert likelihood.values == values
    raw = 0.1 * normal(1, 2, 3, values)
    q = likelihood.distribution({}, raw)
    assert isinstance(q, LogisticMixture)
    pairs = channels * (channels - 1) // 2
    chex.assert_shape([q.locations, q.log_scales], (2, 3, channels, 4))
    chex.assert_shape(q.coefficients, (2, 3, pairs, 4))
    unread = [
        q.logits,
        2 * q.locations - 1,
        jnp.log(jnp.expm1(q.log_scales + 7)) - 5,  # the inverse of bounded_log_scale
        jnp.arctanh(q.coefficients),
    ]
    found = jnp.concatenate([a.reshape(2, 3, -1) for a in unread], -1)
    np.testing.assert_allclose(found, raw, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["discretized_logistic", "logistic_mixture"])
def test_logistics_have_finite_gradients(name):
    likelihood, x = on_levels(name, 3)
    gradient = jax.jit(jax.grad(lambda raw: evaluate(likelihood, raw, x)[0].sum()))
    raw = normal(2, len(x), likelihood.values)
    assert (np.asarray(gradient(raw)) != 0).any(0).all()  # every value matters somewhere
    for extreme in (raw, 10 * raw, 1000 * raw):
        chex.assert_tree_all_finite(gradient(extreme))


MOST = -0.5 * (math.log(2 * math.pi) + LOW)  # log-density of a Gaussian with the least variance


@pytest.mark.parametrize(
    ("name", "arguments", "most"),
    [
        ("bernoulli", (), 0.0),
        ("continuous_bernoulli", (), math.log(1e4)),
        ("gaussian", (1.0,), -0.5 * math.log(2 * math.pi)),
        ("gaussian_shared", (), MOST),
        ("gaussian_pixel", (), MOST),
        ("discretized_logistic", (256,), 0.0),
        ("logistic_mixture", (256, 2), 0.0),
    ],
)
def test_constant_pixels_have_a_finite_log_probability(name, arguments, most):
    """Black, white or grey, with raw values of any size: bounded, and so are its slopes."""
    likelihood = getattr(likelihoods, name)(1, *arguments)
    signs = np.indices((3,) * likelihood.values).reshape(likelihood.values, -1).T - 1
    raw = np.float32(np.concatenate([signs * size for size in (1, 100, 1e4)]))
    for pixel in (0.0, 128 / 255, 1.0):
        x = np.full((len(raw), 1), pixel, np.float32)
        found, back = jax.vjp(lambda raw, x=x: evaluate(likelihood, raw, x)[0], raw)
        assert np.isfinite(found).all() and (np.asarray(found) <= most + 1e-5).all()
        chex.assert_tree_all_finite(back(np.ones(len(raw), np.float32)))


def test_impossible_levels_and_components():
    with pytest.raises(UsageError, match="levels 1: expected 2 or more"):
        likelihoods.discretized_logistic(1, 1)
    with pytest.raises(UsageError, match="levels 0: expected 2 or more"):
        likelihoods.logistic_mixture(1, 0, 3)
    with pytest.raises(UsageError, match="components 0: expected 1 or more"):
        likelihoods.logistic_mixture(1, 17, 0)
