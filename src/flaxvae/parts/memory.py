"""The same numbers in less memory: networks that see a batch in parts, one after another.

A network's activations, kept for its gradient, are what fills a memory; what stands between the
networks (features, z, noise, the terms of the bound) is small. ``in_parts`` therefore cuts the
batch around each network and nowhere else: a part is encoded, or decoded and scored, and its
activations are forgotten and computed again for the gradient (Chen et al. 2016). Everything
between sees the whole batch. So the loss is that of the whole batch, whatever it asks of it: the
same noise, state that moves once, sums over pairs of images.
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
    """``function(variables, *rows)`` of each of ``count`` parts of the rows, one after another.

    Args:
        function: of rows one by one: row i of what it returns depends on row i alone.
        count: parts. Row i belongs to part i mod ``count``, so that a batch that lies on several
            devices has a share of every part on each. Where ``count`` does not divide the rows,
            the first ones fill the last parts and are left out again.
        variables: what all rows share.
        rows: pytrees of arrays [B, ...], as is what ``function`` returns.

    Returns:
        What ``function(variables, *rows)`` is, but for rounding. Its gradient takes the memory of
        one part, and the time of computing every part once more.
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
    """p(x|z) of rows z [B, D], decoded part by part for each question and never as a whole.

    But for ``sample``, whose key decides the noise of all rows.
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
    """``model`` whose encoder, and decoder with its likelihood, see a batch in ``count`` parts.

    Losses built on it are those of ``model``, but for rounding. What is not in parts is what its
    latents compute of the features: flows, a ladder's levels, a VampPrior's pseudo-inputs.

    Args:
        model: any whose networks treat examples one by one.
        count: parts of a batch; 1 gives the model itself.
    """
    if count == 1:
        return model

    def encode(variables: Variables, x: Array, y: Array | None = None) -> Any:
        return by_parts(model.encode, count, variables, x, y)

    def decode(variables: Variables, z: Array, y: Array | None = None) -> Distribution:
        return InParts(variables, z, y, model, count)

    return model._replace(encode=encode, decode=decode)
