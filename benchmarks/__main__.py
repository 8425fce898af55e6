"""``python -m benchmarks [GROUP …]``: time what is named (by default all), and write the results.

    training     images/s against PyTorch and plain flax, fraction of the GEMM peak, memory
    growth       training by batch size, size of image, devices
    likelihood   images/s of log p(x) by 5,000 importance samples
    start        seconds to the first step, with a cold and a warm compilation cache, and of --help

Each group writes results/<group>.json; docs/benchmarks.md and its plot are made from those. PyTorch
is timed where it is installed (`pip install torch==2.13.0`), here or under --torch-python.
Absolute numbers are those of one machine; ratios are of neighbours in one interleaved run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from benchmarks import machine, report
from benchmarks.case import Case
from benchmarks.nets import NETS, decoding_flops, training_flops
from benchmarks.workers import interleaved, ratio

RESULTS = Path(__file__).parent / "results"
OURS, GEMM = "flaxvae", "gemm"
GEMM_OPERATIONS = 2 * 1024**3
FLAX = ("flax loop", "flax example")
TORCH = ("torch DataLoader", "torch tensors", "torch tuned")
TORCH_GPU = ("torch compiled", "torch compiled bf16")

Found = dict[str, Any]


def _torch(python: str) -> tuple[str, ...]:
    found = subprocess.run([python, "-c", "import torch"], capture_output=True).returncode == 0
    if not found:
        print("PyTorch is not installed: timing without it (pip install torch==2.13.0)")
        return ()
    return TORCH + (TORCH_GPU if jax.default_backend() == "gpu" else ())


def _time(names: dict[str, Case], unit: dict[str, int], python: str) -> Found:
    return interleaved(names, unit, {n: python for n in names if n.startswith("torch")})


def _say(what: str, found: Found, ours: str = OURS) -> None:
    print(what, flush=True)
    for name, row in found.items():
        times = "" if name in (ours, GEMM) else f"{ratio(found, ours, name):6.2f}x"
        print(f"  {name:<22}{row['rate']:>16,.0f} {times}", flush=True)


def training(python: str) -> list[Found]:
    rows = []
    for key, net in NETS.items():
        case = Case(key)
        names = dict.fromkeys((OURS, *_torch(python), *FLAX, GEMM), case)
        unit = dict.fromkeys(names, case.batch) | {GEMM: GEMM_OPERATIONS}
        found = _time(names, unit, python)
        _say(f"{net.label}, batch {case.batch}: images/s", found)
        for name, row in found.items():
            if name != GEMM:
                row["ratio"] = ratio(found, OURS, name)
                row["of_peak"] = row["rate"] * training_flops(net) / found[GEMM]["rate"]
        rows.append({"net": key, "label": net.label, "batch": case.batch, "found": found})
    return rows


def growth(python: str) -> list[Found]:
    cores = os.cpu_count() or 1
    devices = [n for n in (1, 2, 4, 8) if n <= max(jax.device_count(), cores)]
    cases = [("batch", n, Case("conv", batch=n)) for n in (32, 128, 512, 2048)]
    cases += [("size", n, Case("conv", size=n, images=4000)) for n in (28, 56, 112)]
    cases += [("devices", n, Case("conv", batch=512, devices=n)) for n in devices]
    torch = ("torch tensors",) if _torch(python) else ()
    rows = []
    for what, value, case in cases:
        names = dict.fromkeys((OURS, *(torch if what != "devices" else ())), case)
        found = _time(names, dict.fromkeys(names, case.batch), python)
        _say(f"conv, {what} {value}: images/s", found)
        rows.append({"what": what, "value": value, "found": found})
    return rows


def likelihood(python: str) -> list[Found]:
    case = Case("iwae", images=1000)
    names = {f"{OURS} likelihood": case, GEMM: case}
    names |= {"torch likelihood": case} if _torch(python) else {}
    unit = dict.fromkeys(names, 1) | {GEMM: GEMM_OPERATIONS}
    found = _time(names, unit, python)
    _say(f"{NETS['iwae'].label}, k = {case.k:,}: images/s", found, f"{OURS} likelihood")
    for name, row in found.items():
        if name != GEMM:
            row["of_peak"] = row["rate"] * case.k * decoding_flops(case.shape) / found[GEMM]["rate"]
    from benchmarks.contenders import ours

    return [
        {"net": "iwae", "k": case.k, "temporary_mib": ours.likelihood_mib(case), "found": found}
    ]


def start(python: str) -> list[Found]:
    with tempfile.TemporaryDirectory() as folder:

        def first(name: str, cache: str) -> float:
            environment = os.environ | {"FLAXVAE_CACHE_DIR": cache}
            command = [sys.executable, "-m", "benchmarks.first_step", "--dataset", "digits"]
            command += ["--run", f"{folder}/{name}"]
            begun = time.perf_counter()
            subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
            return time.perf_counter() - begun

        def helped() -> float:
            begun = time.perf_counter()
            subprocess.run(
                [sys.executable, "-m", "flaxvae", "train", "--help"],
                check=True,
                stdout=subprocess.DEVNULL,
            )
            return time.perf_counter() - begun

        seconds: dict[str, list[float]] = {"cold": [], "warm": [], "help": []}
        for i in range(5):
            seconds["cold"].append(first(f"cold{i}", f"{folder}/cache{i}"))
            seconds["warm"].append(first(f"warm{i}", f"{folder}/cache{i}"))
            seconds["help"].append(helped())
    found = {name: statistics.median(values) for name, values in seconds.items()}
    print("seconds:", {name: round(value, 2) for name, value in found.items()}, flush=True)
    return [{"seconds": found, "all": seconds}]


GROUPS: dict[str, Callable[[str], list[Found]]] = {
    "training": training,
    "growth": growth,
    "likelihood": likelihood,
    "start": start,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("groups", nargs="*", metavar="GROUP")
    parser.add_argument("--torch-python", default=sys.executable)
    parser.add_argument("--label", default="", help="added to the results' names, such as h100")
    asked = parser.parse_args()
    for name in asked.groups or GROUPS:
        if name not in GROUPS:
            parser.error(f"unknown group {name!r}: expected one of {', '.join(GROUPS)}")
        rows = GROUPS[name](asked.torch_python)
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{name}{'-' + asked.label if asked.label else ''}.json"
        record = {"machine": machine.describe(), "rows": rows}
        path.write_text(json.dumps(record, indent=1) + "\n")
    report.write(RESULTS)


if __name__ == "__main__":
    main()
