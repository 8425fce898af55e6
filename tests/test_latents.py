"""Latents: draws, KLs and priors against closed forms and Monte Carlo."""

import chex
import jax
import numpy as np
import pytest
from scipy import stats

from flaxvae.parts import latents

NONE = {"params": {}}


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def test_gaussian_latent():
    family = latents.gaussian(3)
    assert dict(family.heads) == {"mean": 3, "log_var": 3}
    heads = {"mean": normal(0, 5, 3), "log_var": normal(1, 5, 3)}
    mean, log_var = (np.float64(heads[name]) for name in ("mean", "log_var"))
    draw = family.draw(NONE, jax.random.key(0), heads, False)
    chex.assert_shape([draw.z, draw.code, draw.kl], (5, 3))
    chex.assert_shape([draw.log_ratio, draw.penalty], (5,))
    np.testing.assert_array_equal(draw.code, heads["mean"])
    np.testing.assert_array_equal(draw.penalty, 0.0)
    assert draw.updates == {}
    z = np.float64(draw.z)
    log_q = stats.norm.logpdf(z, mean, np.exp(log_var / 2)).sum(-1)
    log_p = stats.norm.logpdf(z).sum(-1)
    np.testing.assert_allclose(draw.log_q, log_q, rtol=0, atol=1e-5)
    np.testing.assert_allclose(draw.log_p, log_p, rtol=0, atol=1e-5)
    np.testing.assert_allclose(draw.log_ratio, log_p - log_q, rtol=0, atol=1e-5)
    np.testing.assert_allclose(family.prior_log_prob(NONE, draw.z), log_p, rtol=0, atol=1e-5)
    np.testing.assert_allclose(
        draw.kl, (mean**2 + np.exp(log_var) - 1 - log_var) / 2, rtol=1e-5, atol=1e-6
    )
    at_mean = family.draw(NONE, None, heads, False)
    np.testing.assert_array_equal(at_mean.z, heads["mean"])
    np.testing.assert_array_equal(at_mean.kl, draw.kl)
    np.testing.assert_array_equal(family.draw(NONE, jax.random.key(0), heads, False).z, draw.z)
    assert (family.draw(NONE, jax.random.key(1), heads, False).z != draw.z).all()


def test_log_ratio_averages_to_the_kl(assert_mean):
    family = latents.gaussian(2)
    heads = {"mean": normal(0, 3, 2), "log_var": normal(1, 3, 2)}
    keys = jax.random.split(jax.random.key(0), 20_000)
    draws = jax.jit(jax.vmap(lambda key: family.draw(NONE, key, heads, False)))(keys)
    assert_mean(-draws.log_ratio, np.asarray(draws.kl[0].sum(-1)))
    assert_mean(draws.z, np.asarray(heads["mean"]))


def test_reparameterization_reaches_both_heads():
    """dz/d mean = 1 and dz/d log_var = (z - mean) / 2."""
    heads, family = {"mean": normal(0, 3, 2), "log_var": normal(1, 3, 2)}, latents.gaussian(2)
    gradient = jax.grad(lambda heads: family.draw(NONE, jax.random.key(0), heads, False).z.sum())(
        heads
    )
    z = family.draw(NONE, jax.random.key(0), heads, False).z
    np.testing.assert_array_equal(gradient["mean"], 1.0)
    expected = (np.asarray(z) - np.asarray(heads["mean"])) / 2
    np.testing.assert_allclose(gradient["log_var"], expected, rtol=1e-4, atol=1e-6)


def test_point_latent_has_no_noise_and_no_kl():
    family = latents.point(3)
    assert dict(family.heads) == {"code": 3}
    heads = {"code": normal(0, 5, 3)}
    assert family.prior_log_prob is None
    for key in (None, jax.random.key(0)):
        draw = family.draw(NONE, key, heads, False)
        np.testing.assert_array_equal(draw.z, heads["code"])
        np.testing.assert_array_equal(draw.code, heads["code"])
        chex.assert_shape([draw.kl], (5, 3))
        chex.assert_shape([draw.log_ratio, draw.penalty], (5,))
        for zeros in (draw.kl, draw.log_ratio, draw.penalty):
            np.testing.assert_array_equal(zeros, 0.0)


@pytest.mark.parametrize(
    "family", [latents.gaussian(2), latents.point(2)], ids=["gaussian", "point"]
)
def test_prior_sample(family, assert_mean):
    z = np.float64(family.prior_sample(NONE, jax.random.key(0), 20_000, 0.5))
    assert z.shape == (20_000, 2)
    assert_mean(z)
    assert_mean(z**2, 0.25)  # temperature scales the standard deviation
    np.testing.assert_array_equal(family.prior_sample(NONE, jax.random.key(0), 5, 0.0), 0.0)


def test_path_gradient_leaves_out_the_densitys_own():
    """log q(z(phi); phi): the same value, its gradient through z alone (Roeder et al. 2017)."""
    heads = {"mean": normal(0, 3, 2), "log_var": normal(1, 3, 2)}
    plain, path = latents.gaussian(2), latents.gaussian(2, path_gradient=True)

    def log_q(family, heads):
        return family.draw(NONE, jax.random.key(0), heads, True).log_q

    value, gradient = jax.value_and_grad(lambda h: log_q(path, h).sum())(heads)
    np.testing.assert_allclose(value, log_q(plain, heads).sum(), rtol=1e-6)
    z = np.float64(path.draw(NONE, jax.random.key(0), heads, True).z)
    mean, variance = np.float64(heads["mean"]), np.exp(np.float64(heads["log_var"]))
    slope = -(z - mean) / variance  # d log q / dz
    np.testing.assert_allclose(gradient["mean"], slope, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(gradient["log_var"], slope * (z - mean) / 2, rtol=1e-4, atol=1e-5)
    # At its own parameters log q has no score in the mean direction beyond this: plainly it is 0.
    whole = jax.grad(lambda h: log_q(plain, h).sum())(heads)
    np.testing.assert_allclose(whole["mean"], 0.0, atol=1e-5)


def test_context_is_a_head_of_its_own():
    family = latents.gaussian(2, context=5)
    assert dict(family.heads) == {"mean": 2, "log_var": 2, "context": 5}
