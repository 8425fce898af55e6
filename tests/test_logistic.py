"""Discretized logistics: sums over all levels, float64 references, draws against probabilities."""

import dataclasses
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from flaxvae.logistic import DiscretizedLogistic, LogisticMixture

EPS = float(np.finfo(np.float32).eps)
# The digits have 17 levels, bytes 256; two is a Bernoulli.
every_number_of_levels = pytest.mark.parametrize("levels", [2, 17, 256])
LOCATIONS = [-30.0, -0.6, 0.0, 0.31, 0.5, 0.998, 1.0, 1.7, 100.0]
LOG_SCALES = [-7.0, -4.0, -2.0, 0.0, 5.0]
GRID = np.float32(list(itertools.product(LOCATIONS, LOG_SCALES))).T  # [2, parameters]


@jax.jit
def log_prob(q, x):
    return q.log_prob(x)


@jax.jit
def log_prob_and_gradient(q, x):
    """[B], and the gradient of each row's log-probability."""
    found, back = jax.vjp(lambda q: q.log_prob(x), q)
    return found, back(jnp.ones_like(found))[0]


@jax.jit
def draw(q, key):
    return q.sample(key)


@jax.jit
def mean_of(q):
    return q.mean


def log_mass(x, location, log_scale, levels):
    """In float64: the difference of two CDFs, taken in the tail where both are small."""
    x, location, log_scale = (np.asarray(a, np.float64) for a in (x, location, log_scale))
    half, scale = 0.5 / (levels - 1), np.exp(log_scale)
    low = np.where(x < half, -np.inf, (x - half - location) / scale)
    high = np.where(x > 1 - half, np.inf, (x + half - location) / scale)
    upper = low + high > 0
    low, high = np.where(upper, -high, low), np.where(upper, -low, high)
    log_low, log_high = special.log_expit(low), special.log_expit(high)
    return log_high + np.log1p(-np.exp(log_low - log_high))


def size(x, location, log_scale, levels):
    """What the terms of a log-mass, and of its derivatives, are made of."""
    distance = (np.abs(x) + np.abs(location) + 1 / levels) / np.exp(log_scale)
    return 1 + distance + np.abs(log_scale) + np.log(levels)


def on_grid(levels):
    """Every level with every pair of parameters: x, location, log-scale [parameters, levels]."""
    x = np.arange(levels, dtype=np.float32) / np.float32(levels - 1)
    location, log_scale = (np.repeat(row[:, None], levels, 1) for row in GRID)
    return np.repeat(x[None], GRID.shape[1], 0), location, log_scale


def single_pixels(*arrays):
    return [jnp.asarray(values.reshape(-1, 1)) for values in arrays]


def assert_frequencies(found, probability, n):
    """Each frequency lies within five standard errors of its probability, rare ones within 5/n."""
    error = 5 * np.sqrt(probability * (1 - probability) / n) + 5 / n
    np.testing.assert_array_less(np.abs(found - probability), error)


@every_number_of_levels
def test_logistic_log_prob(levels):
    """Values against float64, sums of probabilities, gradients against central differences."""
    x, location, log_scale = on_grid(levels)
    pixel, *parameters = single_pixels(x, location, log_scale)
    found, slopes = log_prob_and_gradient(DiscretizedLogistic(*parameters, levels), pixel)
    found, by_location, by_scale = (
        np.float64(a).reshape(x.shape) for a in (found, slopes.location, slopes.log_scale)
    )
    assert np.isfinite(by_location).all() and np.isfinite(by_scale).all()
    tolerance = 8 * EPS * size(x, location, log_scale, levels)
    error = np.abs(found - log_mass(x, location, log_scale, levels))
    np.testing.assert_array_less(error, tolerance)
    np.testing.assert_allclose(np.exp(found).sum(-1), 1.0, rtol=0, atol=1e-5)
    location, log_scale, h = np.float64(location), np.float64(log_scale), 1e-4
    step = h * np.exp(log_scale)
    ends = [log_mass(x, location + s * step, log_scale, levels) for s in (1, -1)]
    error = np.abs(by_location * np.exp(log_scale) - np.subtract(*ends) / (2 * h))
    np.testing.assert_array_less(error, tolerance + 1e-6)
    ends = [log_mass(x, location, log_scale + s * h, levels) for s in (1, -1)]
    error = np.abs(by_scale - np.subtract(*ends) / (2 * h))
    np.testing.assert_array_less(error, tolerance + 1e-6)


def test_logistic_sums_over_the_event():
    location, log_scale, x = np.random.default_rng(0).uniform(size=(3, 5, 4, 3, 2))
    log_scale, x = -4 * log_scale, np.round(16 * x) / 16
    arrays = [jnp.asarray(a, jnp.float32) for a in (location, log_scale, x)]
    q = DiscretizedLogistic(*arrays[:2], 17)
    expected = log_mass(x, location, log_scale, 17).sum((1, 2, 3))
    found = log_prob(q, arrays[2])
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    nearby = arrays[2] + 0.02  # counts as its level, at 1 as well
    np.testing.assert_array_equal(log_prob(q, nearby), found)


@every_number_of_levels
def test_logistic_sample(levels):
    n = 20_000
    x, location, log_scale = on_grid(levels)
    parameters = (jnp.asarray(np.repeat(row[None], n, 0)) for row in GRID)
    sample = np.float64(draw(DiscretizedLogistic(*parameters, levels), jax.random.key(0)))
    index = np.rint(sample * (levels - 1))
    np.testing.assert_allclose(sample, index / (levels - 1), rtol=2 * EPS)
    frequency = np.stack([np.bincount(i, minlength=levels) for i in index.T.astype(int)]) / n
    assert_frequencies(frequency, np.exp(log_mass(x, location, log_scale, levels)), n)


def test_logistic_mean():
    location, log_scale = GRID[:, None]
    mean = mean_of(DiscretizedLogistic(location, log_scale, 17))
    np.testing.assert_array_equal(mean, np.clip(location, 0, 1))
    # The expectation, where the scale is small; and in the middle whatever the scale.
    x, locations, log_scales = on_grid(256)
    expectation = (x * np.exp(log_mass(x, locations, log_scales, 256))).sum(-1)
    near = (GRID[1] == -7) | (GRID[0] == 0.5)
    np.testing.assert_allclose(mean[0][near], expectation[near], rtol=0, atol=2e-3)


def mixture(seed, shape, channels, components, levels, scale=1.0, log_scale=-2.0):
    """A mixture [*shape] of random parameters, far apart and narrow for a large ``scale``."""
    rng = np.random.default_rng(seed)
    pairs = channels * (channels - 1) // 2

    def normal(*rows):
        return rng.normal(size=(*shape, *rows, components)).astype(np.float32)

    return LogisticMixture(
        logits=scale * normal(),
        locations=0.5 + scale * normal(channels),
        log_scales=np.maximum(np.float32(log_scale + scale**0.5 * normal(channels)), -7),
        coefficients=np.tanh(scale * normal(pairs)),
        levels=levels,
    )


def mixture_log_prob(q, x):
    """In float64, with a matrix of coefficients for each component: [B, *space]."""
    logits, locations, log_scales, packed = (np.asarray(a, np.float64) for a in jax.tree.leaves(q))
    channels, components = locations.shape[-2:]
    joint = special.log_softmax(logits, -1)
    for k in range(components):
        matrix = np.zeros((*x.shape[:-1], channels, channels))
        matrix[(..., *np.tril_indices(channels, -1))] = packed[..., k]
        location = locations[..., k] + np.einsum("...ce,...e->...c", matrix, x - 0.5)
        joint[..., k] += log_mass(x, location, log_scales[..., k], q.levels).sum(-1)
    return special.logsumexp(joint, -1)


def all_values(channels, levels):
    """Every value of a point of space, [levels^C, C]."""
    grid = np.indices((levels,) * channels).reshape(channels, -1).T
    return grid.astype(np.float32) / np.float32(levels - 1)


def repeated(q, n):
    return jax.tree.map(lambda a: np.repeat(a, n, 0), q)


every_mixture = pytest.mark.parametrize(
    ("channels", "levels", "components"),
    [(1, 256, 3), (1, 17, 5), (2, 17, 1), (3, 4, 4), (4, 3, 2)],
)


@every_mixture
def test_mixture_log_prob(channels, levels, components):
    """Three mixtures: nearly one component, several, and far apart at the smallest scale."""
    values, kinds = all_values(channels, levels), [(0.1, -1.0), (1.0, -3.0), (30.0, -7.0)]
    points = [mixture(i, (1,), channels, components, levels, *k) for i, k in enumerate(kinds)]
    q = repeated(jax.tree.map(lambda *a: np.concatenate(a), *points), len(values))
    x = np.tile(values, (len(kinds), 1))
    found, gradient = log_prob_and_gradient(q, x)
    total = np.exp(np.float64(found)).reshape(len(kinds), -1).sum(-1)
    np.testing.assert_allclose(total, 1.0, rtol=0, atol=1e-5)
    np.testing.assert_allclose(found, mixture_log_prob(q, np.float64(x)), rtol=1e-5, atol=1e-4)
    chex.assert_tree_all_finite(gradient)
    assert all((a != 0).any() for a in jax.tree.leaves(gradient) if a.size and components > 1)


def test_mixture_sums_over_space():
    q = mixture(0, (5, 3, 2), 3, 4, 17)
    x = np.random.default_rng(1).integers(17, size=(5, 3, 2, 3)) / 16
    expected = mixture_log_prob(q, x).sum((1, 2))
    np.testing.assert_allclose(log_prob(q, np.float32(x)), expected, rtol=1e-5)


def test_mixture_of_equals_is_one_logistic():
    q = mixture(0, (6, 2), 1, 1, 17)
    same = jax.tree.map(lambda a: np.repeat(a, 3, -1), q)
    logits = np.random.default_rng(2).normal(size=(6, 2, 3))
    same = dataclasses.replace(same, logits=np.float32(logits))
    alone = DiscretizedLogistic(q.locations[..., 0], q.log_scales[..., 0], 17)
    x = draw(alone, jax.random.key(0))
    np.testing.assert_allclose(log_prob(same, x), log_prob(alone, x), rtol=1e-5)
    np.testing.assert_allclose(mean_of(same), mean_of(alone), rtol=1e-5)


@every_mixture
def test_mixture_sample(channels, levels, components):
    n, x = 40_000, all_values(channels, levels)
    one = mixture(3, (1,), channels, components, levels)
    sample = np.float64(draw(repeated(one, n), jax.random.key(0)))
    assert sample.shape == (n, channels)
    index = np.rint(sample * (levels - 1)).astype(int)
    np.testing.assert_allclose(sample, index / (levels - 1), rtol=2 * EPS)
    flat = np.ravel_multi_index(tuple(index.T), (levels,) * channels)
    frequency = np.bincount(flat, minlength=len(x)) / n
    probability = np.exp(mixture_log_prob(repeated(one, len(x)), np.float64(x)))
    assert_frequencies(frequency, probability, n)


def test_mixture_mean():
    q = mixture(4, (5, 3), 3, 4, 17, scale=0.5)
    logits, locations, _, packed = (np.float64(a) for a in jax.tree.leaves(q))
    first = np.clip(locations[..., 0, :], 0, 1)
    second = locations[..., 1, :] + packed[..., 0, :] * (first - 0.5)
    second = np.clip(second, 0, 1)
    third = locations[..., 2, :] + packed[..., 1, :] * (first - 0.5)
    third = np.clip(third + packed[..., 2, :] * (second - 0.5), 0, 1)
    weights = special.softmax(logits, -1)
    expected = np.stack([(weights * m).sum(-1) for m in (first, second, third)], -1)
    np.testing.assert_allclose(mean_of(q), expected, rtol=1e-5)


def test_mixture_mean_is_the_expectation_where_nothing_is_clipped():
    x = all_values(2, 64)
    q = mixture(5, (1,), 2, 3, 64, scale=0.1, log_scale=-4.0)
    probability = np.exp(mixture_log_prob(repeated(q, len(x)), np.float64(x)))
    np.testing.assert_allclose(mean_of(q)[0], probability @ x, rtol=0, atol=2e-3)


def test_samples_under_vmap_differ_from_key_to_key():
    q = mixture(6, (2, 3), 3, 2, 17)
    keys = jax.random.split(jax.random.key(0), 4)
    found = jax.jit(jax.vmap(lambda key: q.sample(key)))(keys)
    chex.assert_shape(found, (4, 2, 3, 3))
    assert len({np.asarray(x).tobytes() for x in found}) == 4
    np.testing.assert_allclose(found[1], draw(q, keys[1]), rtol=2 * EPS)
