"""Geodesics of decoders whose shortest paths are known: flat ones, spheres and circles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxvae.analysis import geodesic, latent_space
from flaxvae.distributions import Bernoulli, Normal

A = jnp.array([[1.0, 0.3, 0.0], [-0.5, 2.0, 0.1], [0.2, 0.0, 0.5]])
FLAT, BENT, GLOBE, RADIAL, CIRCLE = range(5)


def flat(z):
    return z @ A


def bent(z):
    """A plane again, in coordinates that are not straight."""
    moved = z + jnp.stack([0 * z[:, 0], z[:, 0] ** 2, jnp.sin(z[:, 0] + z[:, 1])], 1)
    return moved @ A


def globe(z):
    """Longitude and latitude, and a third unit of no use."""
    east, north = z[:, 0], z[:, 1]
    return jnp.stack(
        [jnp.cos(north) * jnp.cos(east), jnp.cos(north) * jnp.sin(east), jnp.sin(north)], 1
    )


def radial(z):
    """Onto a sphere from all of space: lengths along a ray are 0."""
    return z / jnp.linalg.norm(z, axis=1, keepdims=True)


def circle(z):
    """Around, at another pace everywhere."""
    angle = z[:, 0] + 0.2 * z[:, 0] ** 3
    return jnp.stack([jnp.cos(angle), jnp.sin(angle), 0 * angle], 1)


DECODERS = (flat, bent, globe, radial, circle)


def curve(z, which):
    """One program for all of them."""
    every = jnp.stack([decode(z) for decode in DECODERS])
    return (every * (which[None, :] == jnp.arange(len(DECODERS))[:, None])[..., None]).sum(0)


STARTS = {
    FLAT: ([1.0, -2.0, 0.5], [-1.0, 1.0, 2.0]),
    BENT: ([-1.0, 0.5, 0.0], [1.5, 1.0, 2.0]),
    GLOBE: ([0.0, 0.9, 0.3], [1.6, 0.9, -0.3]),  # of one latitude: the shortest way leaves it
    RADIAL: ([2.0, 0.1, 0.0], [-0.5, 1.0, 0.3]),
    CIRCLE: ([-0.5, 0.0, 0.0], [1.5, 0.2, 0.0]),
}
STEPS = 7


@pytest.fixture(scope="module")
def found():
    start, end = (np.array([ends[i] for ends in STARTS.values()], np.float32) for i in (0, 1))
    which = np.array([*STARTS], np.int32)
    run = jax.jit(lambda *given: geodesic.geodesics(curve, *given, steps=STEPS))
    return jax.tree.map(np.asarray, run(start, end, which))


def decoded(found, which):
    return np.asarray(DECODERS[which](jnp.asarray(found.z[which])))


@pytest.mark.parametrize("which", STARTS)
def test_the_ends_are_kept_and_the_way_is_not_longer(found, which):
    np.testing.assert_allclose(found.z[which][[0, -1]], STARTS[which], atol=1e-6)
    # Long chords are shorter beside their arcs than short ones.
    assert found.length[which] <= found.straight[which] * 1.001


def test_a_linear_decoder_gives_the_straight_line(found):
    start, end = (np.array([one], np.float32) for one in STARTS[FLAT])
    expected = latent_space.interpolate(start, end, STEPS)[0]
    np.testing.assert_allclose(found.z[FLAT], expected, atol=1e-3)


def test_a_plane_in_bent_coordinates_is_crossed_straight(found):
    x = decoded(found, BENT)
    expected = latent_space.interpolate(x[:1], x[-1:], STEPS)[0]
    np.testing.assert_allclose(x, expected, atol=0.02)
    assert found.length[BENT] == pytest.approx(np.linalg.norm(x[-1] - x[0]), rel=1e-3)
    assert found.length[BENT] < 0.95 * found.straight[BENT]


@pytest.mark.parametrize("which", [GLOBE, RADIAL, CIRCLE])
def test_a_sphere_is_crossed_along_a_great_circle_at_an_even_pace(found, which):
    x = decoded(found, which)
    np.testing.assert_allclose(x, latent_space.spherical(x[:1], x[-1:], STEPS)[0], atol=0.01)
    # The curve is found through 18 chords, each a little shorter than its arc.
    angle = np.arccos(x[0] @ x[-1])
    chords = 2 * 18 * np.sin(angle / 36)
    assert found.length[which] == pytest.approx(chords, rel=1e-3)


def test_the_way_over_the_globe_leaves_the_latitude(found):
    assert found.z[GLOBE][:, 1].max() > 0.9 + 0.1
    assert found.straight[GLOBE] == pytest.approx(1.6 * np.cos(0.9), rel=0.01)


def test_waves_are_orthonormal_in_energy():
    """So that with f(z) = z the energy of a straight line and waves a is the line's + |a|^2 / 2."""
    basis = geodesic.waves(12)
    steps = np.diff(basis, axis=0)
    np.testing.assert_allclose(12 * steps.T @ steps, np.eye(11), atol=1e-5)
    assert not basis[[0, -1]].any()


def test_a_variance_of_its_own_counts():
    mean, log_var = jnp.ones((2, 3, 3, 1)), jnp.zeros((2, 3, 3, 1))
    assert geodesic.points(Normal(mean, log_var)).shape == (2, 18)
    assert geodesic.points(Normal(mean, jnp.float32(0))).shape == (2, 9)
    np.testing.assert_allclose(geodesic.points(Bernoulli(mean)), 1 / (1 + np.exp(-1)), rtol=1e-6)
