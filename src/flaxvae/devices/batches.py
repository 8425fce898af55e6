"""Apply a function of a batch to every example of a split, on all devices."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from flaxvae.core import Batch, Model, elbo
from flaxvae.data import images
from flaxvae.data.pipeline import Split
from flaxvae.devices import mesh as meshes

Watch = Callable[[int, int], None]  # (examples done, examples in all)


# Numbers in the images that are computed at once, whatever their size: for one of a grey image, a
# resnet's maps and their patches are some hundreds.
VALUES = 2**21


def at_once(shape: Sequence[int]) -> int:
    """Images of this shape that VALUES numbers hold, at least one."""
    return max(VALUES // math.prod(shape), 1)


def rows_at_once(
    count: int, shape: Sequence[int], devices: int = 1, batch_size: int = 512, base: int = 2
) -> int:
    """Examples of this shape in a batch of ``over_split``, of a split of ``count``.

    At most ``batch_size``; a power of ``base`` where a split has fewer, or a power of two where
    fewer are ``at_once``, so that splits of many sizes cost few compilations; and a multiple of
    ``devices``.
    """
    fits = 1 << (at_once(shape).bit_length() - 1)
    power = 1
    while power < count:
        power *= base
    size = min(batch_size, fits, power)
    return -(-size // devices) * devices


def over_split(
    function: Callable[[Any, jax.Array, Batch], Any],
    mesh: Mesh,
    batch_size: int = 512,
    *,
    whole: bool = False,
    base: int = 2,
) -> Callable[..., Any]:
    """Compile ``function(variables, key, batch)`` for whole splits.

    Args:
        function: returns a pytree of arrays whose axis 0 is the example.
        mesh: devices, between which a batch is split.
        batch_size: examples at once, or as many as ``rows_at_once`` says.
        whole: every device gets the whole batch, where something else is shared out between them.
        base: of the powers that small batches are padded to: the larger, the fewer compilations.

    Returns:
        ``run(split, variables, key, watch=None, own=None)``: the pytree for all examples in order,
        as NumPy arrays. Batch i gets the key ``fold_in(key, i)``, or each of several keys [M]
        folded so: noise by position, another one for the same image elsewhere. With numbers
        ``own`` [N], one an example, ``function`` gets a key for each row instead, [B]: then an
        example's noise is its own, wherever it stands. ``watch`` hears how far it is.
    """
    placed = meshes.replicated(mesh) if whole else meshes.split(mesh)

    @functools.partial(jax.jit, static_argnames="render")
    def one(variables, key, number, x, y, peak, render):
        factors = None if render is None else x
        batch = Batch(images.made(x, peak, render), y, factors=factors)
        fold = jax.random.fold_in
        if key.ndim or number.ndim:
            fold = jax.vmap(fold, (0 if key.ndim else None, 0 if number.ndim else None))
        return function(variables, fold(key, number), batch)

    def run(split: Split, variables, key, watch: Watch | None = None, own=None):
        count, classes = len(split.x), split.classes
        shape, devices = split.shape, 1 if whole else mesh.size
        size = rows_at_once(count, shape, devices, batch_size, base)
        parts = []
        for i, start in enumerate(range(0, count, size)):
            rows = np.arange(start, start + size) % count  # the last batch is padded
            taken = [None if a is None else a[rows] for a in (split.x, classes, own)]
            x, y, numbers = meshes.put(taken, placed)
            number = np.int32(i) if numbers is None else numbers
            parts.append(one(variables, key, number, x, y, split.peak, split.render))
            if watch is not None:
                jax.block_until_ready(parts[-1])
                watch(min((i + 1) * size, count), count)
        return jax.tree.map(lambda *leaves: np.concatenate(meshes.fetch(leaves))[:count], *parts)

    return run


def bound_terms(model: Model) -> Callable[[Any, jax.Array, Batch], dict[str, jax.Array]]:
    """Per example, in nats: {"elbo" [B], "reconstruction" [B] = -log p(x|z), "kl" [B, L]}."""

    def terms(variables, key, batch):
        found = elbo(model, variables, key, batch)
        return {"elbo": found.elbo, "reconstruction": -found.log_px, "kl": found.kl}

    return terms


def own_terms(
    model: Model,
) -> Callable[[tuple[Any, Any], jax.Array, Batch], dict[str, jax.Array]]:
    """The terms of -ELBO in nats, averaged over draws of z, where each row has a key of its own.

    A function of ((variables, draws), keys [B], batch): "reconstruction" [B] = -log p(x|z), and
    "kl" [B]. No row's draws depend on the others.
    """

    def terms(inputs, keys, batch):
        variables, samples = inputs
        features = model.encode(variables, batch.x, batch.y)

        def row(key, features):
            one = jax.tree.map(lambda leaf: leaf[None], features)
            latent = model.reparameterize(variables, key, one, False)
            return latent.z[0], latent.kl.sum()

        def add(i, total):
            z, kl = jax.vmap(row)(jax.vmap(jax.random.fold_in, (0, None))(keys, i), features)
            log_px = model.decode(variables, z, batch.y).log_prob(batch.x)
            return {"reconstruction": total["reconstruction"] - log_px, "kl": total["kl"] + kl}

        nothing = jnp.zeros(batch.x.shape[0])
        sums = jax.lax.fori_loop(0, samples, add, {"reconstruction": nothing, "kl": nothing})
        return jax.tree.map(lambda total: total / samples, sums)

    return terms


def of_one(
    function: Callable[[Any, jax.Array, Batch], Any],
) -> Callable[[Any, jax.Array, Batch], Any]:
    """``function`` of batches, applied to each row alone, with a key of its own: keys [B].

    All rows are one compiled program, and none depends on the others.
    """

    def rows(variables, keys, batch):
        def one(key, x, y):
            alone = Batch(x[None], None if y is None else y[None])
            return jax.tree.map(lambda leaf: leaf[0], function(variables, key, alone))

        return jax.vmap(one)(keys, batch.x, batch.y)

    return rows
