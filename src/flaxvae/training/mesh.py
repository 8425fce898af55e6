"""One mesh over the devices: state is replicated, a batch is split along its examples.

Nothing inside a step knows how many devices there are; ``jit`` inserts the one all-reduce.
"""

from __future__ import annotations

import os
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from flaxvae.errors import UsageError
from flaxvae.training.runs import versions


def make(devices: int | None = None) -> Mesh:
    """A mesh over the first ``devices`` devices (default: all), with the one axis "data".

    Raises:
        UsageError: more devices asked for than there are.
    """
    available = jax.devices()
    if devices is not None and devices > len(available):
        raise UsageError(
            f"--devices {devices}: expected at most {len(available)}, the "
            f"{available[0].platform} devices here"
        )
    return Mesh(np.array(available[:devices]), ("data",))


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
    return {"devices": describe(mesh), "cores": os.cpu_count(), **packages}


def put(tree: Any, sharding: NamedSharding) -> Any:
    """Copy a pytree of arrays to the devices."""
    return jax.tree.map(lambda leaf: jax.device_put(leaf, sharding), tree)
