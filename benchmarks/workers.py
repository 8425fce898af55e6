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
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from benchmarks.case import Case

Spread = dict[str, float]  # "low", "middle", "high": quartiles over the rounds
Found = dict[str, dict[str, Any]]  # by contender: "rate" (a Spread), "rates", "peak_mib"

# PyTorch asks for and returns memory at each step; malloc then keeps it (read at process start).
TUNED = {
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**33),
    "MALLOC_TOP_PAD_": str(2**28),
}
TUNED_ONES = ("torch tuned", "torch channels_last", "torch compiled")


class Turns(NamedTuple):
    """How often a contender's turn comes, and about how many seconds it takes."""

    rounds: int = 9
    moment: float = 0.7


USUAL = Turns()
QUICK = Turns(3, 0.05)  # shows that all runs, no more


class Worker:
    """A contender, waiting in its process; of "NAME, …" the name is NAME."""

    def __init__(self, name: str, case: Case, python: str | None = None):
        contender = name.partition(",")[0]
        environment = os.environ | (TUNED if contender in TUNED_ONES else {})
        self.name, self.peak_mib = name, float("nan")
        command = [python or sys.executable, "-m", "benchmarks.worker", contender]
        self._process = subprocess.Popen(
            [*command, json.dumps(dataclasses.asdict(case))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def ready(self) -> Worker:
        """Wait until it has compiled what it is asked to do."""
        self._answer()
        return self

    def _answer(self) -> str:
        line = self._process.stdout.readline()  # type: ignore[union-attr]
        if not line:
            raise RuntimeError(f"{self.name} ended with {self._process.wait()}")
        return line.strip()

    def seconds(self, steps: int) -> float:
        print(steps, file=self._process.stdin, flush=True)
        return float(self._answer())

    def steps_in(self, moment: float) -> int:
        """About how many steps take that many seconds."""
        steps, spent = 1, self.seconds(1)
        while spent < moment / 4:
            steps *= 4
            spent = self.seconds(steps)
        return max(1, round(steps * moment / spent))

    def close(self) -> None:
        self._process.stdin.close()  # type: ignore[union-attr]
        self.peak_mib = float(self._answer())
        self._process.wait()


def interleaved(
    cases: Mapping[str, Case],
    unit: Mapping[str, int],
    python: Mapping[str, str] | None = None,
    turns: Turns = USUAL,
) -> Found:
    """Rates of the contenders: units a second, in every round.

    Args:
        cases: {contender: what it does}; one contender does several as "NAME, …".
        unit: images (or operations) of one step, by contender.
        python: other interpreters than this one, by contender.
        turns: how long to measure.
    """
    workers = {name: Worker(name, case, (python or {}).get(name)) for name, case in cases.items()}
    for worker in workers.values():
        worker.ready()
    steps = {name: worker.steps_in(turns.moment) for name, worker in workers.items()}
    rates: dict[str, list[float]] = {name: [] for name in workers}
    order = list(workers)
    for _ in range(turns.rounds):
        for name in order:
            rates[name].append(steps[name] * unit[name] / workers[name].seconds(steps[name]))
        order.reverse()  # back and forth, so that who comes first is nobody's advantage
    for worker in workers.values():
        worker.close()
    return {
        name: {"rate": spread(values), "rates": values, "peak_mib": workers[name].peak_mib}
        for name, values in rates.items()
    }


def spread(values: Iterable[float]) -> Spread:
    """Median and quartiles."""
    return dict(zip(("low", "middle", "high"), statistics.quantiles(values, n=4)))


def ratio(found: Found, ours: str, theirs: str, scale: float = 1.0) -> Spread:
    """``scale`` times our rate by theirs in the same round."""
    rounds = zip(found[ours]["rates"], found[theirs]["rates"], strict=True)
    return spread(scale * a / b for a, b in rounds)
