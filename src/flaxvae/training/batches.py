"""Apply a function of a batch to every example of a split, on all devices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from flaxvae.core import Batch, Model, elbo
from flaxvae.data import images
from flaxvae.data.pipeline import Split
from flaxvae.training import mesh as meshes

Watch = Callable[[int, int], None]  # (examples done, examples in all)


def over_split(
    function: Callable[[Any, jax.Array, Batch], Any],
    split: Split,
    mesh: Mesh,
    batch_size: int = 500,
) -> Callable[..., Any]:
    """Compile ``function(variables, key, batch)`` for all of ``split``.

    Args:
        function: returns a pytree of arrays whose axis 0 is the example.
        split: the examples; the last batch is padded and the padding cut off again.
        mesh: devices; ``batch_size`` is rounded up to a multiple of their number.

    Returns:
        ``run(variables, key, watch=None)``: the pytree for all examples in order, as NumPy
        arrays. Batch i gets the key ``fold_in(key, i)``. ``watch`` hears how far it is.
    """
    count = len(split.x)
    size = -(-min(batch_size, count) // mesh.size) * mesh.size
    starts = range(0, count, size)
    by_row = meshes.split(mesh)

    def rows(array: np.ndarray, start: int) -> np.ndarray:
        part = array[start : start + size]
        return np.concatenate([part, np.repeat(part[:1], size - len(part), 0)])

    batches = [
        meshes.put(
            (rows(split.x, start), None if split.y is None else rows(split.y, start)), by_row
        )
        for start in starts
    ]

    @jax.jit
    def one(variables, key, i, x, y):
        batch = Batch(images.scale(x, split.peak), y)
        return function(variables, jax.random.fold_in(key, i), batch)

    def run(variables, key, watch: Watch | None = None):
        parts = []
        for i, (x, y) in enumerate(batches):
            parts.append(one(variables, key, i, x, y))
            if watch is not None:
                jax.block_until_ready(parts[-1])
                watch(min((i + 1) * size, count), count)
        return jax.tree.map(lambda *leaves: np.concatenate(jax.device_get(leaves))[:count], *parts)

    return run


def bound_terms(model: Model) -> Callable[[Any, jax.Array, Batch], dict[str, jax.Array]]:
    """Per example, in nats: {"elbo" [B], "reconstruction" [B] = -log p(x|z), "kl" [B, L]}."""

    def terms(variables, key, batch):
        found = elbo(model, variables, key, batch)
        return {"elbo": found.elbo, "reconstruction": -found.log_px, "kl": found.kl}

    return terms
