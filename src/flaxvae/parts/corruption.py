"""Corruptions: what a denoising autoencoder encodes instead of x (Vincent et al. 2008, 2010).

A corruption draws x~ from some C(x~ | x). The encoder gets x~, the likelihood is that of the clean
x, so training maximizes E_C[log p(x | x~)] or its bound.

    gaussian(sigma)            x~ = x + sigma eps, eps ~ N(0, I)
    mask(fraction)             x~ = 0 with that probability
    salt_and_pepper(fraction)  x~ = 0 or 1, with equal chance, with that probability

In an image [B, H, W, C] all channels of a pixel are replaced together; in any other array, [B, D]
or [B, H, W], each number on its own. Replacements are independent, so ``fraction`` is the average
share, not that of every image.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from flaxvae.declared import passes

Array = jax.Array
Corruption = Callable[[Array, Array], Array]  # (key, x [B, *data]) -> x~ of the same shape


def _uniform_per_pixel(key: Array, x: Array) -> Array:
    """U(0, 1) for each pixel, in a shape that broadcasts against ``x``."""
    shape = (*x.shape[:-1], 1) if x.ndim > 3 else x.shape
    return jax.random.uniform(key, shape)


def _check_fraction(fraction: float) -> None:
    if not passes((fraction >= 0) & (fraction <= 1)):
        raise ValueError(f"fraction {fraction}: expected a probability, 0 to 1")


def gaussian(sigma: float) -> Corruption:
    """x + sigma eps, eps ~ N(0, I), with independent noise for each channel.

    Nothing is clipped, so x~ may leave [0, 1]. Clipping would make the noise of dark and bright
    pixels one-sided, and E[x~ | x] would no longer be x.

    Raises:
        ValueError: a negative ``sigma``.
    """
    if not passes(sigma >= 0):
        raise ValueError(f"sigma {sigma}: expected a standard deviation, at least 0")
    return lambda key, x: x + sigma * jax.random.normal(key, x.shape, x.dtype)


def mask(fraction: float) -> Corruption:
    """Sets each pixel to 0 with probability ``fraction`` ("masking noise").

    Other pixels are unchanged, not scaled up as in dropout.

    Raises:
        ValueError: ``fraction`` outside 0 to 1.
    """
    _check_fraction(fraction)
    return lambda key, x: jnp.where(_uniform_per_pixel(key, x) < fraction, 0.0, x)


def salt_and_pepper(fraction: float) -> Corruption:
    """Sets each pixel, with probability ``fraction``, to 0 or 1 with equal chance.

    Raises:
        ValueError: ``fraction`` outside 0 to 1.
    """
    _check_fraction(fraction)

    def corrupt(key, x):
        uniform = _uniform_per_pixel(key, x)  # pepper below fraction / 2, salt below fraction
        extreme = (uniform >= fraction / 2).astype(x.dtype)
        return jnp.where(uniform < fraction, extreme, x)

    return corrupt
