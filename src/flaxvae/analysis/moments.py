"""Mean and standard deviation of z, of any q(z|x) or prior that can be drawn from."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array

DRAWS = 100  # their standard deviation is 7 % off
SMALLEST = 1e-6  # of a standard deviation: a point has none


class Moments(NamedTuple):
    """Of each dimension of z, for each of B images."""

    mean: Array  # [B, D]
    sd: Array  # [B, D], above 0


def moments(draw: Callable[[Array], Array], key: Array, draws: int = DRAWS) -> Moments:
    """Mean and standard deviation over draws ``draw(key) -> z [B, D]``, one after another."""

    def add(state, i):  # Welford 1962: sums of squares would lose the small variances
        mean, squares = state
        z = draw(jax.random.fold_in(key, i))
        shift = z - mean
        mean = mean + shift / (i + 1)
        return (mean, squares + shift * (z - mean)), None

    nothing = jnp.zeros(jax.eval_shape(draw, key).shape)
    (mean, squares), _ = jax.lax.scan(add, (nothing, nothing), jnp.arange(draws))
    return Moments(mean, jnp.maximum(jnp.sqrt(squares / (draws - 1)), SMALLEST))
