"""Seconds that a command takes to start: to its help, and to the first step of a training."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping

from benchmarks.workers import Spread, spread

HELP = {"help": ("--help",), "train help": ("train", "--help")}


def measure(times: int) -> dict[str, Spread]:
    """{"cold", "warm": the first step without and with a filled compilation cache; of HELP}."""
    found: dict[str, list[float]] = {name: [] for name in ("cold", "warm", *HELP)}
    with tempfile.TemporaryDirectory() as folder:
        for i in range(times):
            cache = {"FLAXVAE_CACHE_DIR": f"{folder}/cache{i}"}
            for name in ("cold", "warm"):
                command = ("benchmarks.first_step", "--run", f"{folder}/{name}{i}")
                found[name].append(_seconds(command, cache))
            for name, asked in HELP.items():
                found[name].append(_seconds(("flaxvae", *asked)))
    return {name: spread(seconds) for name, seconds in found.items()}


def of_pictures(path: str, times: int) -> Spread:
    """The first step of a training on pictures that were decoded by one before it."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for i in range(times + 1):
            command = ("benchmarks.first_step", "--dataset", path, "--run", f"{folder}/run{i}")
            found.append(_seconds(command, {"FLAXVAE_CACHE_DIR": f"{folder}/cache"}))
    return spread(found[1:] * 2)  # twice, because quartiles need two


def _seconds(module: tuple[str, ...], variables: Mapping[str, str] | None = None) -> float:
    begun = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", *module],
        env=os.environ | (variables or {}),
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return time.perf_counter() - begun
