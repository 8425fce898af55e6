"""One mesh over the devices of all processes: the state is replicated, a batch is split.

A step does not know how many devices there are; ``jit`` inserts the one all-reduce. A state too
large for one device can be sharded instead.
"""

from __future__ import annotations

import os
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from flaxvae.errors import UsageError
from flaxvae.machine import versions


def make(devices: int | None = None) -> Mesh:
    """A mesh over the first ``devices`` devices (default: all), with the one axis "data".

    Raises:
        UsageError: there are fewer devices, or several processes do not use all of theirs.
    """
    available = jax.devices()
    if jax.process_count() > 1 and devices not in (None, len(available)):
        raise UsageError(
            f"--devices {devices}: expected {len(available)}, all devices of the "
            f"{jax.process_count()} processes"
        )
    if devices is not None and devices > len(available):
        raise UsageError(
            f"--devices {devices}: expected at most {len(available)}, the "
            f"{available[0].platform} devices here"
        )
    return Mesh(np.array(available[:devices]), ("data",))


def local(mesh: Mesh | None = None) -> Mesh:
    """A mesh over this process's own devices, of those of ``mesh`` (default: of all)."""
    own = jax.local_devices() if mesh is None else mesh.local_devices
    return Mesh(np.array(own), mesh.axis_names if mesh else ("data",))


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Examples, along ``axis``, split between the devices."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, "data"))


def describe(mesh: Mesh) -> str:
    """In words: "1 x cpu", "8 x NVIDIA H100"."""
    kinds = {d.device_kind for d in mesh.devices.flat}
    return f"{mesh.size} x {', '.join(sorted(kinds))}"


def machine(mesh: Mesh) -> dict[str, Any]:
    """What the exact bits of a result depend on, besides its settings."""
    known = versions()
    packages = {name: known[name] for name in ("flaxvae", "jax", "jaxlib")}
    devices = {"devices": describe(mesh), "processes": jax.process_count()}
    return {**devices, "cores": os.cpu_count(), **packages}


SMALL = 2**14  # numbers in an array below which sharding costs more than it saves


def all_whole(shapes: Any, mesh: Mesh) -> Any:
    """A sharding for each array: the whole array on every device."""
    return jax.tree.map(lambda leaf: replicated(mesh), shapes)


def shared_out(shapes: Any, mesh: Mesh) -> Any:
    """A sharding for each array: by its largest divisible axis; small arrays stay whole.

    Args:
        shapes: a pytree of arrays, or of their shapes.
        mesh: the devices.
    """

    def one(leaf: Any) -> NamedSharding:
        axes = [i for i, size in enumerate(leaf.shape) if size % mesh.size == 0]
        if leaf.size < SMALL or not axes:
            return replicated(mesh)
        return split(mesh, max(axes, key=lambda i: leaf.shape[i]))

    return jax.tree.map(one, shapes)


def place(leaf: Any, sharding: NamedSharding) -> jax.Array:
    """Copy an array, of which every process has the whole, to the devices."""
    if sharding.is_fully_addressable:
        return jax.device_put(leaf, sharding)
    return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])


def put(tree: Any, sharding: NamedSharding) -> Any:
    """Copy a pytree of arrays, of which every process has the whole, to the devices."""
    return jax.tree.map(lambda leaf: place(leaf, sharding), tree)


def fetch(tree: Any) -> Any:
    """NumPy copies of whole arrays, on every process; all processes must call it."""

    def one(leaf: jax.Array) -> np.ndarray:
        if leaf.is_fully_addressable or leaf.is_fully_replicated:
            return jax.device_get(leaf)
        return multihost_utils.process_allgather(leaf, tiled=True)

    return jax.tree.map(one, tree)
