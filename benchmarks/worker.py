"""One contender in a process of its own: a number on stdin is so many steps; seconds come back."""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import time

from benchmarks.case import Case
from benchmarks.nets import DEEP

MODULES = {"torch": "pytorch", "flax": "plain_flax", "guard": "guard", "epochs": "epochs"}
MODULES |= {"pictures": "pictures"}


def find(name: str, case: Case):
    """The function of that contender; only the framework it needs is imported."""
    module = MODULES.get(name.split()[0], "ours")
    if module == "pytorch" and case.net in DEEP:
        module = "photographs"
    if case.exported:
        module = "exported"
    return importlib.import_module(f"benchmarks.contenders.{module}").CONTENDERS[name]


def main(name: str, case: Case) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed goes to stderr
    if case.devices > 1:
        os.environ.setdefault("JAX_NUM_CPU_DEVICES", str(case.devices))
    run = find(name, case)(case)
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        run(int(line))
        print(time.perf_counter() - start, file=answers, flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(peak / 2**10, file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Case(**json.loads(sys.argv[2])))
