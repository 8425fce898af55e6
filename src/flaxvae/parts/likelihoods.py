"""Likelihoods p(x|z): what a decoder's raw values mean.

| likelihood       | values a pixel | -log p(x|z), up to constants                        |
|------------------|----------------|-----------------------------------------------------|
| bernoulli        | 1 logit        | binary cross-entropy                                |
| gaussian         | 1 mean         | |x - mean|^2 / 2 sigma^2, sigma fixed               |
| gaussian_shared  | 1 mean         | the same, one sigma for all pixels, learned         |
| gaussian_pixel   | mean, variance | the same, a sigma for each pixel of each image      |

Constants are kept: every value is a log-probability or log-density in nats. Learned variances
follow Rybkin et al. 2021 (sigma-VAE) in being bounded from below, without which a few constant
pixels make the density, and so the ELBO, infinite.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from flaxvae.distributions import Bernoulli, Distribution, Normal

Array = jax.Array

# Standard deviations between 0.01 (about 2.5 grey levels of 256) and 1 (the range of a pixel).
LOG_VAR_RANGE = (2 * math.log(0.01), 0.0)


class Likelihood(NamedTuple):
    """How raw decoder output becomes a distribution over x."""

    values: int  # numbers the decoder gives for each number of x
    init: Callable[[], dict[str, Array]]  # its own parameters
    distribution: Callable[
        [dict[str, Any], Array], Distribution
    ]  # (parameters, [B, *data, values])


def bounded_log_var(raw: Array) -> Array:
    """A smooth map of the reals into LOG_VAR_RANGE, with slope 1 in its middle."""
    low, high = LOG_VAR_RANGE
    return low + (high - low) * jax.nn.sigmoid(4 * raw / (high - low))


def bernoulli() -> Likelihood:
    """Independent Bernoulli pixels, given as logits (Kingma & Welling 2013, appendix C.1)."""
    return Likelihood(1, dict, lambda params, raw: Bernoulli(raw[..., 0]))


def gaussian(sigma: float = 1.0) -> Likelihood:
    """N(mean, sigma^2 I) with fixed sigma: squared error, in units that make it a density."""
    log_var = 2 * math.log(sigma)
    return Likelihood(1, dict, lambda params, raw: Normal(raw[..., 0], jnp.float32(log_var)))


def gaussian_shared() -> Likelihood:
    """N(mean, sigma^2 I) with one learned sigma (Rybkin et al. 2021)."""
    return Likelihood(
        1,
        lambda: {"raw_log_var": jnp.zeros(())},
        lambda params, raw: Normal(raw[..., 0], bounded_log_var(params["raw_log_var"])),
    )


def gaussian_pixel() -> Likelihood:
    """N(mean, diag sigma^2) with mean and variance of every pixel given by the decoder."""
    return Likelihood(
        2, dict, lambda params, raw: Normal(raw[..., 0], bounded_log_var(raw[..., 1]))
    )
