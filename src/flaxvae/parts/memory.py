"""The same numbers in less memory: networks process a batch in parts, one after another.

Most memory is taken by a network's activations, which are stored for the gradient. What is between
the networks (features, z, noise, the terms of the bound) is small. So ``in_parts`` splits the batch
only around each network: a part is encoded, or decoded and scored, its activations are dropped and
computed again for the gradient (Chen et al. 2016). Everything in between sees the whole batch. So
the loss is that of the whole batch, including its noise, one update of its state, and sums over
pairs of images.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from flaxvae.core import Model, Variables
from flaxvae.distributions import Distribution

Array = jax.Array


def by_parts(function: Callable[..., Any], count: int, variables: Variables, *rows: Any) -> Any:
    """``function(variables, *rows)`` for each of ``count`` parts of the rows, one after another.

    Args:
        function: treats rows independently: row i of its result depends only on row i.
        count: number of parts. Row i belongs to part i mod ``count``, so that of a batch split over
            devices each device holds a share of every part. If ``count`` does not divide the rows,
            the first rows pad the last parts and are removed again.
        variables: shared by all rows.
        rows: pytrees of arrays [B, ...], like the result of ``function``.

    Returns:
        ``function(variables, *rows)``, up to rounding. Its gradient takes the memory of one part,
        and the time of computing every part once more.
    """
    total = len(jax.tree.leaves(rows)[0])
    count = min(count, total)
    size = -(-total // count)

    def cut(leaf: Array) -> Array:
        fill = [(0, size * count - total)] + [(0, 0)] * (leaf.ndim - 1)
        leaf = jnp.pad(leaf, fill, mode="wrap") if size * count > total else leaf
        return leaf.reshape(size, count, *leaf.shape[1:]).swapaxes(0, 1)

    def join(leaf: Array) -> Array:
        return leaf.swapaxes(0, 1).reshape(size * count, *leaf.shape[2:])[:total]

    again = jax.checkpoint(function)
    found = jax.lax.map(lambda part: again(variables, *part), jax.tree.map(cut, rows))
    return jax.tree.map(join, found)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class InParts:
    """p(x|z) for rows z [B, D], decoded part by part for each method and never as a whole.

    Except in ``sample``, whose key decides the noise of all rows.
    """

    variables: Variables
    z: Array
    y: Array | None
    model: Model = dataclasses.field(metadata={"static": True})
    count: int = dataclasses.field(metadata={"static": True})

    def _each(self, function: Callable[..., Array], *rows: Any) -> Array:
        def part(variables, z, y, *rows):
            return function(self.model.decode(variables, z, y), *rows)

        return by_parts(part, self.count, self.variables, self.z, self.y, *rows)

    @property
    def mean(self) -> Array:
        """E[x], shape [B, *event]."""
        return self._each(lambda p: p.mean)

    def log_prob(self, x: Array) -> Array:
        """log p(x) in nats, shape [B]."""
        return self._each(lambda p, x: p.log_prob(x), x)

    def sample(self, key: Array) -> Array:
        """One draw, shape [B, *event]."""
        return self.model.decode(self.variables, self.z, self.y).sample(key)


def in_parts(model: Model, count: int) -> Model:
    """``model`` whose encoder, and decoder with its likelihood, process a batch in ``count`` parts.

    Losses built on it are those of ``model``, up to rounding. What the latents compute from the
    features is not split: flows, a hierarchy's levels (all of deep_vae's decoder, for which
    ``remat`` saves memory), a VampPrior's pseudo-inputs.

    Args:
        model: any whose networks treat examples independently.
        count: number of parts of a batch; 1 returns the model itself.
    """
    if count == 1:
        return model

    def encode(variables: Variables, x: Array, y: Array | None = None) -> Any:
        return by_parts(model.encode, count, variables, x, y)

    def decode(variables: Variables, z: Array, y: Array | None = None) -> Distribution:
        return InParts(variables, z, y, model, count)

    return model._replace(encode=encode, decode=decode)
