"""Importance-weighted bounds for several numbers of draws, from the same draws.

With weights w_i = p(x, z_i) / q(z_i|x) of draws z_i ~ q(z|x),

    L_k = E[log 1/k sum_{i<=k} w_i] <= log p(x),    higher for larger k (Burda et al. 2015);

L_1 is the ELBO. K draws are K // k blocks of k, and the mean over blocks estimates L_k. The
effective sample size of a block, (sum w)^2 / sum w^2, is between 1 and k: where it is near 1 one
draw decides, and the bound may be far from log p(x).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from flaxvae.core import Batch, Model, Variables, log_weights

Array = jax.Array


class Bounds(NamedTuple):
    """For each of B examples, and each of n numbers of draws k."""

    nats: Array  # [B, n] the bound
    effective: Array  # [B, n] effective sample size of k draws


def log_mean(log_w: Array, axis: int = -1) -> Array:
    """log 1/k sum_i w_i over an axis of length k."""
    return jax.nn.logsumexp(log_w, axis=axis) - math.log(log_w.shape[axis])


def effective(log_w: Array, axis: int = -1) -> Array:
    """The effective sample size (sum w)^2 / sum w^2 over an axis."""
    log_w = log_w - log_w.max(axis, keepdims=True)  # else the digits of large ones cancel
    return jnp.exp(2 * jax.nn.logsumexp(log_w, axis=axis) - jax.nn.logsumexp(2 * log_w, axis=axis))


class _Sums(NamedTuple):
    """Of one k: the logarithms of a block's sums of w and w^2 so far, and what blocks gave."""

    w: Array  # [B]
    square: Array
    nats: Array
    effective: Array


def bounds(
    model: Model, ks: Sequence[int], chunk: int
) -> Callable[[Variables, Array, Batch], Bounds]:
    """The bounds L_k of a batch for every k in ``ks``, with max(ks) draws of z for each example.

    Draws come in chunks of ``chunk``, of which only sums are kept, so memory does not grow with k.
    A block that does not fill its last chunk leaves the rest of it unused.

    Returns:
        ``function(variables, key, batch) -> Bounds`` in nats, if p(x|z) is a probability or a
        density of x (``Recipe.log_px``).
    """
    chunk = min(chunk, max(ks))
    chunks = -(-max(ks) // chunk)

    def inside(k: int, sums: _Sums, log_w: Array) -> _Sums:
        """Whole blocks of k draws in a chunk."""
        blocks = log_w[: chunk // k * k].reshape(chunk // k, k, -1)
        return sums._replace(
            nats=sums.nats + log_mean(blocks, 1).sum(0),
            effective=sums.effective + effective(blocks, 1).sum(0),
        )

    def across(k: int, sums: _Sums, log_w: Array, i: Array) -> _Sums:
        """A block of k draws over several chunks, of which this is number i."""
        at = i % -(-k // chunk)
        log_w = jnp.where((at * chunk + jnp.arange(chunk) < k)[:, None], log_w, -jnp.inf)
        before_w, before_square = jnp.where(at > 0, jnp.stack([sums.w, sums.square]), -jnp.inf)
        w = jnp.logaddexp(before_w, jax.nn.logsumexp(log_w, axis=0))
        square = jnp.logaddexp(before_square, jax.nn.logsumexp(2 * log_w, axis=0))
        ended = at == -(-k // chunk) - 1
        nats = sums.nats + jnp.where(ended, w - math.log(k), 0.0)
        return _Sums(
            w, square, nats, sums.effective + jnp.where(ended, jnp.exp(2 * w - square), 0.0)
        )

    def function(variables: Variables, key: Array, batch: Batch) -> Bounds:
        def add(state, i):
            log_w = log_weights(model, variables, jax.random.fold_in(key, i), batch, chunk)
            new = [
                inside(k, sums, log_w) if k <= chunk else across(k, sums, log_w, i)
                for k, sums in zip(ks, state, strict=True)
            ]
            return new, None

        nothing = jnp.zeros(batch.x.shape[0])
        start = [_Sums(nothing, nothing, nothing, nothing) for _ in ks]
        state, _ = jax.lax.scan(add, start, jnp.arange(chunks))
        blocks = [chunks * (chunk // k) if k <= chunk else chunks // -(-k // chunk) for k in ks]

        def mean(of):
            return jnp.stack([sum / n for sum, n in zip(of, blocks, strict=True)], -1)

        return Bounds(mean([s.nats for s in state]), mean([s.effective for s in state]))

    return function
