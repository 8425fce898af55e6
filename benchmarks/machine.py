"""What the timings were taken on."""

from __future__ import annotations

import platform
import time

from flaxvae import machine
from flaxvae.devices import mesh as meshes
from flaxvae.machine import versions


def describe() -> dict[str, object]:
    """Processor, cores, devices, versions, date."""
    return {
        "processor": machine.processor_name(),
        "cores": machine.cores(),
        "device": meshes.describe(meshes.make()),
        "system": platform.platform(),
        **versions(),
        "date": time.strftime("%Y-%m-%d"),
    }
