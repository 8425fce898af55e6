"""What the timings were taken on."""

from __future__ import annotations

import os
import platform
import time
from importlib import metadata
from pathlib import Path

import jax


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def describe() -> dict[str, object]:
    """Processor, cores, devices, versions, date."""
    versions = {name: metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax")}
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "system": platform.platform(),
        "python": platform.python_version(),
        **versions,
        "date": time.strftime("%Y-%m-%d"),
    }
