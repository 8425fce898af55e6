"""Likelihoods p(x|z): what a decoder's raw values mean.

| likelihood           | values for C channels       | log p(x|z) of one point of space           |
|----------------------|-----------------------------|--------------------------------------------|
| bernoulli            | C: logits                   | sum_c x log p + (1 - x) log (1 - p)        |
| continuous_bernoulli | C: logits                   | the same + log C(p): a density on [0, 1]   |
| gaussian             | C: means                    | sum_c log N(x; mean, sigma^2), sigma fixed |
| gaussian_shared      | C: means                    | the same, one sigma for all, learned       |
| gaussian_pixel       | 2C: means, variances        | the same, a sigma for each value of x      |
| discretized_logistic | 2C: means, log-scales       | sum_c log of a logistic's mass in a bin    |
| logistic_mixture     | K (1 + 2C + C (C - 1) / 2): | logsumexp_k (log softmax(logits)_k + the   |
|                      | logits, means, log-scales,  | same), later channels' means linear in     |
|                      | coefficients, K of each     | earlier channels                           |

No constants are dropped: every value is a log-density in nats, or a log-probability if x is
binary or on levels. Learned variances are bounded from below as in Rybkin et al. 2021 (sigma-VAE);
otherwise a few constant pixels make the density, and so the ELBO, infinite. Only the
continuous Bernoulli's density has no bound: at a pixel that is always 0 it grows like log |logit|.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from flaxvae.declared import traced
from flaxvae.distributions import Bernoulli, ContinuousBernoulli, Distribution, Normal
from flaxvae.errors import UsageError
from flaxvae.logistic import DiscretizedLogistic, LogisticMixture

Array = jax.Array

# Standard deviations between 0.01 (about 2.5 grey levels of 256) and 1 (the range of a pixel).
LOG_VAR_RANGE = (2 * math.log(0.01), 0.0)
# Smallest log-scale of a logistic, about a quarter of one of 256 levels.
LOG_SCALE_MIN = -7.0
# And how much larger it may be: e^43, far above any use, where float32 still holds a bin's mass.
LOG_SCALE_SPAN = 50.0


class Likelihood(NamedTuple):
    """How raw decoder output [B, *space, values] becomes a distribution over x.

    The distribution is over x [B, *space, channels], has log_prob [B] in nats, and is a pytree of
    arrays. ``values`` is the count of numbers for one point of space, over all channels.
    """

    values: int
    init: Callable[[], dict[str, Array]]  # its own parameters
    distribution: Callable[[dict[str, Any], Array], Distribution]  # (parameters, raw values)


def bounded_log_var(raw: Array) -> Array:
    """A smooth map from the reals into LOG_VAR_RANGE, with slope 1 in the middle."""
    low, high = LOG_VAR_RANGE
    return low + (high - low) * jax.nn.sigmoid(4 * raw / (high - low))


def bounded_log_scale(raw: Array) -> Array:
    """A map from the reals to above LOG_SCALE_MIN; 0 becomes -2, a scale of 0.14.

    It is smooth below LOG_SCALE_MIN + LOG_SCALE_SPAN, and constant above.
    """
    return LOG_SCALE_MIN + jnp.minimum(jax.nn.softplus(raw - LOG_SCALE_MIN - 2), LOG_SCALE_SPAN)


def bernoulli(channels: int) -> Likelihood:
    """Independent Bernoulli pixels with the given logits (Kingma & Welling 2013, appendix C.1)."""
    return Likelihood(channels, dict, lambda params, raw: Bernoulli(raw))


def continuous_bernoulli(channels: int) -> Likelihood:
    """The density on [0, 1] with a Bernoulli's logits (Loaiza-Ganem & Cunningham 2019)."""
    return Likelihood(channels, dict, lambda params, raw: ContinuousBernoulli(raw))


def gaussian(channels: int, sigma: float = 1.0) -> Likelihood:
    """N(mean, sigma^2 I) with fixed sigma: the squared error, as a density."""
    log_var = 2 * (jnp if traced(sigma) else math).log(sigma)
    return Likelihood(channels, dict, lambda params, raw: Normal(raw, jnp.float32(log_var)))


def gaussian_shared(channels: int) -> Likelihood:
    """N(mean, sigma^2 I) with one learned sigma (Rybkin et al. 2021)."""
    return Likelihood(
        channels,
        lambda: {"raw_log_var": jnp.zeros(())},
        lambda params, raw: Normal(raw, bounded_log_var(params["raw_log_var"])),
    )


def gaussian_pixel(channels: int) -> Likelihood:
    """N(mean, diag sigma^2), with the mean and variance of every pixel from the decoder."""

    def distribution(params, raw):
        mean, log_var = jnp.split(raw, 2, axis=-1)
        return Normal(mean, bounded_log_var(log_var))

    return Likelihood(2 * channels, dict, distribution)


def _at_least(least: int, **arguments: int) -> None:
    for name, value in arguments.items():
        if value < least:
            raise UsageError(f"{name} {value}: expected {least} or more")


def discretized_logistic(channels: int, levels: int) -> Likelihood:
    """A logistic's mass in the bin of each pixel's level (Kingma et al. 2016).

    Raw values are (mean, log-scale). Means from -1 to 1 span the range of a pixel, so that 0 is
    1/2; log-scales pass through ``bounded_log_scale``.

    Args:
        channels: C; x [B, *space, C] lies on the levels.
        levels: number of values j / (levels - 1) that a pixel takes: 256 for bytes.

    Raises:
        UsageError: fewer than two levels.
    """
    _at_least(2, levels=levels)

    def distribution(params, raw):
        mean, log_scale = jnp.split(raw, 2, axis=-1)
        return DiscretizedLogistic((mean + 1) / 2, bounded_log_scale(log_scale), levels)

    return Likelihood(2 * channels, dict, distribution)


def logistic_mixture(channels: int, levels: int, components: int) -> Likelihood:
    """A mixture of discretized logistics for each point of space (Salimans et al. 2017).

    Raw values are K logits, then C means, C log-scales and C (C - 1) / 2 coefficients for each of
    K components. Means and log-scales are as in ``discretized_logistic``; coefficients pass through
    tanh.

    Args:
        channels: C; x [B, *space, C] lies on the levels.
        levels: number of values j / (levels - 1) that a pixel takes: 256 for bytes.
        components: K.

    Raises:
        UsageError: fewer than two levels, or no component.
    """
    _at_least(2, levels=levels)
    _at_least(1, components=components)
    rows = 2 * channels + channels * (channels - 1) // 2

    def distribution(params, raw):
        rest = raw[..., components:].reshape(*raw.shape[:-1], rows, components)
        means, log_scales, coefficients = jnp.split(rest, [channels, 2 * channels], axis=-2)
        return LogisticMixture(
            logits=raw[..., :components],
            locations=(means + 1) / 2,
            log_scales=bounded_log_scale(log_scales),
            coefficients=jnp.tanh(coefficients),
            levels=levels,
        )

    return Likelihood(components * (1 + rows), dict, distribution)
