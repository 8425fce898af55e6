"""Corruptions: how often, of what, and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxvae.parts import corruption

# Never 0 or 1, so that replaced numbers are recognised.
IMAGES = jax.random.uniform(jax.random.key(0), (50, 20, 10, 3), minval=0.1, maxval=0.9)
VECTORS = IMAGES.reshape(50, -1)
KEY = jax.random.key(1)
ALL = (corruption.gaussian(0.3), corruption.mask(0.3), corruption.salt_and_pepper(0.3))
NAMES = ["gaussian", "mask", "salt_and_pepper"]
every = pytest.mark.parametrize("corrupt", ALL, ids=NAMES)


def assert_share(events, probability):
    """The share of independent events lies within five standard errors of its probability."""
    error = 5 * np.sqrt(probability * (1 - probability) / events.size)
    assert abs(events.mean() - probability) <= error


@every
@pytest.mark.parametrize("x", [IMAGES, VECTORS], ids=["images", "vectors"])
def test_the_key_decides(corrupt, x):
    before = np.array(x)
    first = jax.jit(corrupt)(KEY, x)
    assert first.shape == x.shape and first.dtype == x.dtype
    np.testing.assert_array_equal(jax.jit(corrupt)(KEY, x), first)
    other = corrupt(jax.random.key(2), x)
    assert (np.asarray(other) != first).mean() > 0.2
    np.testing.assert_array_equal(x, before)
    keys = jax.random.split(KEY, 2)
    both = jax.vmap(corrupt, (0, None))(keys, x)
    np.testing.assert_allclose(both[1], corrupt(keys[1], x), rtol=1e-6)


def test_gaussian_noise(assert_mean):
    noise = np.asarray(corruption.gaussian(0.3)(KEY, IMAGES)) - np.asarray(IMAGES)
    assert_mean(noise.ravel())
    assert_mean(noise.ravel() ** 2, 0.09)
    assert_mean((noise[..., 0] * noise[..., 1]).ravel())  # channels have noise of their own
    assert np.asarray(corruption.gaussian(0.3)(KEY, IMAGES)).min() < 0  # nothing is clipped


@pytest.mark.parametrize("x", [IMAGES, VECTORS, IMAGES[..., 0]], ids=["[BHWC]", "[BD]", "[BHW]"])
@pytest.mark.parametrize("fraction", [0.1, 0.5])
def test_frequencies(x, fraction):
    """Of pixels, or of numbers where there are no channels; their neighbours are independent."""
    for make, salt in ((corruption.mask, 0.0), (corruption.salt_and_pepper, fraction / 2)):
        found, clean = np.asarray(make(fraction)(KEY, x)), np.asarray(x)
        changed = found != clean
        assert set(np.unique(found[changed])) == ({0.0, 1.0} if salt else {0.0})
        if x.ndim == 4:
            np.testing.assert_array_equal(changed.any(-1), changed.all(-1))
            assert (np.ptp(np.where(changed, found, 0), axis=-1) == 0).all()
            changed, found = changed[..., 0], found[..., 0]
        assert_share(changed, fraction)
        assert_share(found == 1, salt)
        assert_share(found == 0, fraction - salt)
        assert_share(changed[:, ::2] & changed[:, 1::2], fraction**2)
        assert_share(changed[::2] & changed[1::2], fraction**2)


def test_extremes():
    for make in (corruption.mask, corruption.salt_and_pepper, corruption.gaussian):
        np.testing.assert_array_equal(make(0)(KEY, IMAGES), IMAGES)
    np.testing.assert_array_equal(corruption.mask(1)(KEY, IMAGES), 0)
    assert set(np.unique(corruption.salt_and_pepper(1)(KEY, IMAGES))) == {0.0, 1.0}


def test_values_that_cannot_be():
    for make in (corruption.mask, corruption.salt_and_pepper):
        for fraction in (-0.1, 1.1, float("nan")):
            with pytest.raises(ValueError, match="expected a probability, 0 to 1"):
                make(fraction)
    with pytest.raises(ValueError, match="expected a standard deviation, at least 0"):
        corruption.gaussian(-1.0)
    assert jnp.isfinite(corruption.gaussian(0.0)(KEY, IMAGES)).all()
