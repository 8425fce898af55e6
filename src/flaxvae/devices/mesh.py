"""One mesh over the devices of all processes: state is replicated, a batch split by examples.

Nothing inside a step knows how many devices there are; ``jit`` inserts the one all-reduce. A state
that fills a device can be shared out between them instead.
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
        UsageError: more devices asked for than there are, or fewer than several processes have.
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
    """A mesh over those devices (of ``mesh``, default: of all) that are this process's own."""
    own = jax.local_devices() if mesh is None else mesh.local_devices
    return Mesh(np.array(own), mesh.axis_names if mesh else ("data",))


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Examples, which lie along ``axis``, shared out between the devices."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, "data"))


def describe(mesh: Mesh) -> str:
    """For people: "1 x cpu", "8 x NVIDIA H100"."""
    kinds = {d.device_kind for d in mesh.devices.flat}
    return f"{mesh.size} x {', '.join(sorted(kinds))}"


def machine(mesh: Mesh) -> dict[str, Any]:
    """What the last bits of a result depend on, besides its settings."""
    known = versions()
    packages = {name: known[name] for name in ("flaxvae", "jax", "jaxlib")}
    devices = {"devices": describe(mesh), "processes": jax.process_count()}
    return {**devices, "cores": os.cpu_count(), **packages}


SMALL = 2**14  # numbers in an array, below which sharing it out costs more than it saves


def all_whole(shapes: Any, mesh: Mesh) -> Any:
    """A sharding for each array: whole on every device."""
    return jax.tree.map(lambda leaf: replicated(mesh), shapes)


def shared_out(shapes: Any, mesh: Mesh) -> Any:
    """A sharding for each array: its largest axis that the devices divide; small ones whole.

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
    """Copy an array, which every process has whole, to the devices."""
    if sharding.is_fully_addressable:
        return jax.device_put(leaf, sharding)
    return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])


def put(tree: Any, sharding: NamedSharding) -> Any:
    """Copy a pytree of arrays, which every process has whole, to the devices."""
    return jax.tree.map(lambda leaf: place(leaf, sharding), tree)


def fetch(tree: Any) -> Any:
    """NumPy copies of whole arrays, at every process; all processes have to ask."""

    def one(leaf: jax.Array) -> np.ndarray:
        if leaf.is_fully_addressable or leaf.is_fully_replicated:
            return jax.device_get(leaf)
        return multihost_utils.process_allgather(leaf, tiled=True)

    return jax.tree.map(one, tree)
