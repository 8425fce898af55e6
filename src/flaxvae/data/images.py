"""Preprocessing of pixels between the file and the model."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import threefry_2x32

from flaxvae.settings import Binarization

Array = jax.Array

# Stored rows [B, F] to float32 images [B, *shape] in [0, 1]: pure, for jit and vmap, each row by
# itself. Equal ones are compiled once.
Render = Callable[[Array], Array]

# One draw for all runs: whatever their seeds, they are evaluated on the same binary images, and
# with "fixed" also trained on the same ones.
FIXED_SEED = 0

PHRASES: dict[Binarization, str] = {
    "none": "pixels in [0, 1]",
    "dynamic": "dynamically binarized",
    "fixed": f"binarized once (draw, seed {FIXED_SEED})",
    "threshold": "binarized at 0.5",
}


def scale(raw: Array | np.ndarray, peak: float) -> Array:
    """Stored values 0..peak to float32 in [0, 1], shape kept."""
    return jnp.asarray(raw).astype(jnp.float32) / peak


def made(raw: Array | np.ndarray, peak: float, render: Render | None = None) -> Array:
    """Stored rows to float32 images in [0, 1]: rendered, or by default scaled."""
    return scale(raw, peak) if render is None else render(jnp.asarray(raw))


def flipped(x: Array, key: Array) -> Array:
    """Each of the images [B, H, W, C] as it is or mirrored left to right, with probability 1/2."""
    mirror = jax.random.bernoulli(key, shape=(len(x), 1, 1, 1))
    return jnp.where(mirror, x[:, :, ::-1], x)


def binarize(x: Array, how: Binarization, key: Array) -> Array:
    """Pixels in [0, 1] to zeros and ones (or unchanged, for "none"), float32, shape kept.

    ``dynamic`` and ``fixed`` draw Bernoulli(pixel) with ``key`` (Salakhutdinov & Murray 2008;
    Burda et al. 2015); the caller draws every time, or once.
    """
    if how == "none":
        return x
    if how == "threshold":
        return (x >= 0.5).astype(x.dtype)
    return jax.random.bernoulli(key, x).astype(x.dtype)


def binarize_part(x: Array, how: Binarization, key: Array, first: int) -> Array:
    """What ``binarize`` makes of rows from ``first`` on, where it is given all rows at once."""
    if how in ("none", "threshold"):
        return binarize(x, how, key)
    high, low = divmod(first * (x.size // len(x)), 2**32)
    return _drawn(x, jax.random.key_data(key), np.uint32(high), np.uint32(low))


@jax.jit
def _drawn(x: Array, key: Array, high: Array, low: Array) -> Array:
    # As jax.random.bernoulli draws: each element's bits are a hash of its number, of 64 bits.
    lows = low + jax.lax.iota(jnp.uint32, x.size)
    highs = high + (lows < low).astype(jnp.uint32)
    first, second = jnp.split(threefry_2x32(key, jnp.concatenate([highs, lows])), 2)
    fraction = (first ^ second) >> 9 | jnp.uint32(0x3F800000)  # of a float in [1, 2)
    uniform = jax.lax.bitcast_convert_type(fraction, jnp.float32) - 1
    return (uniform.reshape(x.shape) < x).astype(x.dtype)
