"""Interleaved timing: every contender runs for a moment, again and again, never two at once.

What the machine does besides then falls on all of them alike, and ratios of one round's
neighbours mean something where absolute times do not.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from benchmarks.case import Case

ROUNDS, MOMENT = 9, 0.7  # turns of each contender, and about how many seconds a turn takes
# PyTorch asks for and returns memory at each step; malloc then keeps it (read at process start).
TUNED = {
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**33),
    "MALLOC_TOP_PAD_": str(2**28),
}


class Worker:
    """A contender, waiting in its process."""

    def __init__(self, name: str, case: Case, python: str | None = None):
        environment = os.environ | (TUNED if name == "torch tuned" else {})
        self.name, self.peak_mib = name, float("nan")
        command = [python or sys.executable, "-m", "benchmarks.worker", name]
        self._process = subprocess.Popen(
            [*command, json.dumps(dataclasses.asdict(case))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self._answer()

    def _answer(self) -> str:
        line = self._process.stdout.readline()  # type: ignore[union-attr]
        if not line:
            raise RuntimeError(f"{self.name} ended with {self._process.wait()}")
        return line.strip()

    def seconds(self, steps: int) -> float:
        print(steps, file=self._process.stdin, flush=True)
        return float(self._answer())

    def close(self) -> None:
        self._process.stdin.close()  # type: ignore[union-attr]
        self.peak_mib = float(self._answer())
        self._process.wait()


def interleaved(
    names: Mapping[str, Case], unit: Mapping[str, int], python: Mapping[str, str] | None = None
) -> dict[str, dict[str, Any]]:
    """Rates of the contenders: units a second, median and quartiles over the rounds.

    Args:
        names: {contender: what it does}.
        unit: images (or operations) of one step, by contender.
        python: other interpreters than this one, by contender.

    Returns:
        {contender: {"rate", "low", "high", "rates" of each round, "peak_mib"}}.
    """
    workers = {name: Worker(name, case, (python or {}).get(name)) for name, case in names.items()}
    steps = {}
    for name, worker in workers.items():
        count = 10 if "likelihood" in name else 3
        spent = min(worker.seconds(count), worker.seconds(count))
        steps[name] = max(count, round(MOMENT / spent) * count)
    rates: dict[str, list[float]] = {name: [] for name in workers}
    for _ in range(ROUNDS):
        for name, worker in workers.items():
            rates[name].append(steps[name] * unit[name] / worker.seconds(steps[name]))
    for worker in workers.values():
        worker.close()
    found = {}
    for name, values in rates.items():
        low, middle, high = statistics.quantiles(values, n=4)
        found[name] = {
            "rate": middle,
            "low": low,
            "high": high,
            "rates": values,
            "peak_mib": workers[name].peak_mib,
        }
    return found


def ratio(found: Mapping[str, Mapping[str, Any]], ours: str, theirs: str) -> float:
    """Median over the rounds of our rate by theirs in the same round."""
    return statistics.median(
        a / b for a, b in zip(found[ours]["rates"], found[theirs]["rates"], strict=True)
    )
