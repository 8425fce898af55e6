"""Facts about this computer, from the operating system: no heavy import, no driver started."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import platform
import re
import shutil
import subprocess
import warnings
from importlib import metadata
from pathlib import Path

PROC = Path("/proc")
DEV = Path("/dev")
CGROUP = Path("/sys/fs/cgroup")


def processor() -> str:
    """A short name for the kind of processor; compiled code may be shared where it is equal."""
    # The instruction sets: "flags" on x86, "Features" on ARM.
    about = _cpuinfo("model name|flags|Features|CPU part")
    seen = "\n".join([platform.machine(), platform.processor(), *sorted(set(about))])
    return f"{platform.machine() or 'cpu'}-{hashlib.sha256(seen.encode()).hexdigest()[:8]}"


def processor_name() -> str:
    """The processor's product name, if the system knows it."""
    for line in _cpuinfo("model name"):
        return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cpuinfo(names: str) -> list[str]:
    """Lines "name : value" of /proc/cpuinfo whose name matches the pattern ``names``."""
    try:
        return re.findall(rf"^(?:{names})\s*:.*", (PROC / "cpuinfo").read_text(), re.M)
    except OSError:
        return []


def cores() -> int:
    """Number of processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory() -> int | None:
    """Bytes of memory that this process may use, or None if unknown."""
    try:
        found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None
    try:
        return min(found, int((CGROUP / "memory.max").read_text()))  # a container's limit
    except (OSError, ValueError):  # no container, or no limit: "max"
        return found


def free_memory() -> int | None:
    """Bytes of memory that are free or could be freed, or as ``memory`` where that is unknown."""
    most = memory()
    with contextlib.suppress(OSError):
        found = re.search(r"^MemAvailable:\s*(\d+) kB", (PROC / "meminfo").read_text(), re.M)
        if found:
            free = int(found[1]) * 1024
            return free if most is None else min(free, most)
    return most


def nvidia() -> bool:
    """Whether there is an NVIDIA GPU with its driver."""
    return (PROC / "driver" / "nvidia" / "version").exists() or (DEV / "nvidia0").exists()


def nvidia_driver() -> str | None:
    """The NVIDIA driver's version, such as "580.65.06", or None if it cannot be read."""
    try:
        text = (PROC / "driver" / "nvidia" / "version").read_text()
    except OSError:
        text = _nvidia_smi()
    found = re.search(r"\b\d{3,}\.\d+(?:\.\d+)?\b", text)
    return found[0] if found else None


def _nvidia_smi() -> str:
    command = shutil.which("nvidia-smi")
    if command is None:
        return ""
    asked = [command, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(asked, capture_output=True, text=True, timeout=10).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that affect results."""
    names = ("flaxvae", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # run from a source tree, not installed
            found[name] = "not installed"
    return found


def count_cores() -> None:
    """Let joblib count the cores, for scikit-learn.

    Where it cannot, as in a chroot, it prints a traceback the first time, and takes the logical
    ones.
    """
    import joblib

    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        joblib.cpu_count(only_physical_cores=True)
