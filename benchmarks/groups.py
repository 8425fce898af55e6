"""What is measured: each group is a function of How that returns rows for results/<group>.json."""

from __future__ import annotations

import itertools
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from benchmarks import start as starts
from benchmarks.case import IMAGES, Case
from benchmarks.nets import GEMM_SIZE, IMAGES_AT_ONCE, NETS, decoding_flops, training_flops
from benchmarks.workers import (
    QUICK,
    USUAL,
    Found,
    Spread,
    Turns,
    Worker,
    interleaved,
    ratio,
    spread,
)
from flaxvae import machine
from flaxvae.settings import DRAWN

Row = dict[str, Any]

OURS, STREAMED, GEMM = "flaxvae", "flaxvae streamed", "gemm"
GEMM_OPERATIONS = 2 * GEMM_SIZE**3
FLAX = ("flax loop", "flax example")
TORCH = ("torch DataLoader", "torch tensors", "torch tuned")
TORCH_GPU = ("torch DataLoader", "torch tensors", "torch compiled", "torch graph")
TORCH_PHOTOGRAPHS = ("torch tensors", "torch tuned", "torch channels_last")
TORCH_PHOTOGRAPHS_GPU = ("torch tensors", "torch channels_last", "torch graph")
PHOTOGRAPHS = 4096  # so many, for 60,000 of the larger ones would not fit
SHORT = Turns(7, 0.5)
LONG = Turns(5, 1.0)  # of cases that differ in size: the largest takes seconds a step
GPU = Turns(7, 0.25)  # a GPU's turns differ less
BLOCKS = Turns(4, 11.0)  # a turn begins with nothing read, and takes some blocks of images
PAIRS, TURN = 60, 0.3  # what costs a percent or two is seen in many turns of so many seconds


class How(NamedTuple):
    """What is chosen on the command line."""

    python: str  # the interpreter that has PyTorch
    quick: bool  # only see that all runs
    zip: str = ""  # the path of a zip of small pictures

    def has_torch(self) -> bool:
        asked = [self.python, "-c", "import torch"]
        return subprocess.run(asked, capture_output=True).returncode == 0

    def compiles(self) -> bool:
        """Whether torch.compile works there: on a CPU it needs a C++ compiler."""
        tried = "import torch; torch.compile(torch.sin)(torch.ones(2))"
        found = subprocess.run([self.python, "-c", tried], capture_output=True, text=True)
        if found.returncode:
            reason = (found.stderr.strip().splitlines() or ["?"])[-1]
            print(f"without torch.compile, which failed: {reason}", flush=True)
        return found.returncode == 0

    def time(self, cases: dict[str, Case], unit: dict[str, int], turns: Turns = USUAL) -> Found:
        unit = unit | {GEMM: GEMM_OPERATIONS}
        python = {name: self.python for name in cases if name.startswith("torch")}
        return interleaved(cases, unit, python, QUICK if self.quick else GPU if gpu() else turns)


def gpu() -> bool:
    return jax.default_backend() == "gpu"


def _say(what: str, found: Found) -> None:
    """The rates, and how many times each one the first is."""
    print(what, flush=True)
    first = next(iter(found))
    for name, row in found.items():
        times = "" if name in (first, GEMM) else f"{ratio(found, first, name)['middle']:6.2f}x"
        print(f"  {name:<22}{row['rate']['middle']:>20,.1f} {times}", flush=True)


def _compared(what: str, found: Found, flops: float | None = None) -> Found:
    """With ratios of the first to each and, given FLOPs an image, the part of the GEMM peak."""
    _say(what, found)
    first = next(iter(found))
    for name, row in found.items():
        if name != GEMM:
            row["ratio"] = ratio(found, first, name)
            if flops:
                row["of_peak"] = ratio(found, name, GEMM, flops)
    return found


def training(how: How) -> list[Row]:
    torch = (TORCH_GPU if gpu() else TORCH) if how.has_torch() else ()
    rows = []
    for net, shape in NETS.items():
        case = Case(net)
        cases = dict.fromkeys((OURS, *torch, *FLAX, GEMM), case)
        found = how.time(cases, dict.fromkeys(cases, case.batch))
        _compared(f"{shape.label}, batch {case.batch}: images/s", found, training_flops(shape))
        rows.append({"net": net, "label": shape.label, "batch": case.batch, "found": found})
    return rows


def growth(how: How) -> list[Row]:
    most = max(jax.device_count(), machine.cores())
    cases = [("batch", n, Case("conv", batch=n)) for n in (32, 128, 512, 2048)]
    cases += [("size", n, Case("conv", size=n, images=4000)) for n in (28, 56, 112)]
    cases += [("devices", n, Case("conv", batch=512, devices=n)) for n in (1, 2, 4, 8) if n <= most]
    torch = ("torch tensors",) if how.has_torch() else ()
    rows = []
    for what, value, case in cases:
        names = dict.fromkeys((OURS, *(torch if what != "devices" else ())), case)
        found = how.time(names, dict.fromkeys(names, case.batch))
        _compared(f"conv, {what} {value}: images/s", found)
        rows.append({"what": what, "value": value, "found": found})
    return rows


def photographs(how: How) -> list[Row]:
    """Residual networks and deep_vae; then batches and sizes of one resnet, each in one run."""
    torch: tuple[str, ...] = ()
    if how.has_torch():
        torch = TORCH_PHOTOGRAPHS_GPU if gpu() else TORCH_PHOTOGRAPHS
        torch += ("torch compiled",) if not gpu() and how.compiles() else ()
    rows = []
    for net, size, channels in (
        ("resnet", 32, 3),
        ("resnet", 64, 3),
        ("deep", 32, 3),
        ("deep", 28, 1),
    ):
        case = Case(net, size=size, channels=channels, images=PHOTOGRAPHS)
        cases = dict.fromkeys((OURS, *torch), case)
        label = f"{case.shape.label}, {size}x{size}x{channels}"
        found = how.time(cases, dict.fromkeys(cases, case.batch), SHORT)
        _compared(f"{label}, batch {case.batch}: images/s", found)
        rows.append({"what": label, "batch": case.batch, "found": found})
    if gpu():  # where no cache decides how large a batch or an image may be
        return rows
    first = rows[0]["found"]
    best = sorted(torch, key=lambda name: -first[name]["rate"]["middle"])[:1]
    shapes = {
        "batch": [Case("resnet", n, 32, 3, images=PHOTOGRAPHS) for n in (128, 32, 512, 2048)],
        "size": [Case("resnet", 128, n, 3, images=PHOTOGRAPHS) for n in (28, 112)],
    }
    for what, several in shapes.items():
        for name in (OURS, *best):
            cases = {f"{name}, {what} {getattr(case, what)}": case for case in several}
            unit = {key: case.batch * case.size**2 for key, case in cases.items()}
            found = how.time(cases, unit, LONG)
            _compared(f"{several[0].shape.label} by {what}: pixels/s", found)
            sides = [case.size for case in several]
            rows.append({"what": what, "who": name, "sides": sides, "found": found})
    return rows


def evaluation(how: How) -> list[Row]:
    contenders = ["flaxvae evaluation", *(["torch evaluation"] if how.has_torch() else [])]
    rows = []
    for net, shape in NETS.items():
        case = Case(net, images=10_000)
        cases = dict.fromkeys(contenders, case)
        found = how.time(cases, dict.fromkeys(cases, case.images))
        _compared(f"{shape.label}, ELBO: images/s", found)
        rows.append({"net": net, "label": shape.label, "found": found})
    return rows


def likelihood(how: How) -> list[Row]:
    from benchmarks.contenders import ours

    case = Case("iwae", images=1000)
    torch = ["torch likelihood"] if how.has_torch() else []
    cases = dict.fromkeys(["flaxvae likelihood", *torch, GEMM], case)
    found = how.time(cases, dict.fromkeys(cases, IMAGES_AT_ONCE))
    label = case.shape.label
    _compared(f"{label}, k = {case.k:,}: images/s", found, case.k * decoding_flops(case.shape))
    return [{"label": label, "k": case.k, "mib": ours.likelihood_mib(case), "found": found}]


def sprites(how: How) -> list[Row]:
    """How fast sprites come: images that are drawn, and a network that takes them."""
    rows = []
    for name in DRAWN:
        case = Case("conv", size=64)
        cases = {f"draw {name}": case, f"{OURS} {name}": case}
        found = how.time(cases, dict.fromkeys(cases, case.batch))
        _compared(f"{name}, drawn and trained on: images/s", found)
        rows.append({"what": "drawn", "name": name, "found": found})
    return rows


def streaming(how: How) -> list[Row]:
    """What streaming costs, and the memory of trainings on one and on ten times as many images."""
    case = Case("conv")
    names = (STREAMED, OURS)
    found = how.time(dict.fromkeys(names, case), dict.fromkeys(names, case.batch), BLOCKS)
    _compared(f"{case.shape.label}, batch {case.batch}: images/s", found)
    steps, mib = 10 if how.quick else 2 * IMAGES // case.batch, {}
    for images in (IMAGES, 10 * IMAGES):
        worker = Worker(STREAMED, Case("mlp512", images=images)).ready()
        worker.seconds(steps)
        worker.close()
        mib[str(images)] = worker.peak_mib
    print("peak MiB:", mib, flush=True)
    return [{"label": case.shape.label, "batch": case.batch, "found": found, "mib": mib}]


def start(how: How) -> list[Row]:
    seconds = starts.measure(2 if how.quick else 7)
    print("seconds:", {name: round(s["middle"], 2) for name, s in seconds.items()}, flush=True)
    return [{"seconds": seconds}]


def _added(worker: Worker, steps: int, pairs: int) -> tuple[Spread, list[float]]:
    """What every other turn takes beyond the mean of its neighbours, as a part of that."""
    seconds = [worker.seconds(steps) for _ in range(2 * pairs + 1)]
    worker.close()
    bare = [(before + after) / 2 for before, after in itertools.pairwise(seconds[::2])]
    return spread(a / b - 1 for a, b in zip(seconds[1::2], bare, strict=True)), seconds


def overhead(how: How) -> list[Row]:
    """Time that care adds, as a part of the time without it."""
    rows, pairs = [], 3 if how.quick else PAIRS

    def add(what: str, net: str, added: tuple[Spread, list[float]], part: float = 1) -> None:
        cost = {name: part * value for name, value in added[0].items()}
        print(f"{NETS[net].label}: {what} {100 * cost['middle']:+.1f} %", flush=True)
        row = {"what": what, "net": net, "label": NETS[net].label, "cost": cost}
        rows.append({**row, "seconds": added[1]})

    for net in NETS:
        worker = Worker("guard", Case(net)).ready()
        both = min(worker.seconds(8) + worker.seconds(8) for _ in range(3))  # without and with
        steps = 1 if how.quick else round(16 / both * TURN)
        add("guard", net, _added(worker, steps, pairs))
    for net, parts in (("conv", 5), ("mlp512", 3)):
        # What a save adds to a short epoch that outlasts it, as a part of a whole epoch's time.
        worker = Worker("epochs", Case(net, images=IMAGES // parts)).ready()
        add("checkpoints", net, _added(worker, 1, pairs), 1 / parts)
    return rows


def data(how: How) -> list[Row]:
    """Pictures into the cache, by a bare loop over Pillow, and seconds to a second start."""
    from benchmarks.contenders import pictures

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        pictures.make(Path(folder), 300 if how.quick else pictures.MIXED)
        sources = {"JPEGs of 64 to 320 pixels a side, to 64x64": (folder, 64)}
        if how.zip:
            sources["small JPEGs in a zip, 32x32"] = (how.zip, 32)
        for label, (path, size) in sources.items():
            case = Case("conv", images=200 if how.quick else 4000, size=size, pictures=path)
            cases = dict.fromkeys(("pictures cache", "pictures pillow"), case)
            found = how.time(cases, dict.fromkeys(cases, case.images), Turns(5, 0.5))
            _compared(f"{label}: pictures/s", found)
            seconds = starts.of_pictures(path, 1 if how.quick else 3)
            print(f"{label}: {seconds['middle']:.1f} s to a second start's first step", flush=True)
            rows.append({"label": label, "found": found, "second_start": seconds})
    return rows


def ways_out(how: How) -> list[Row]:
    """The score of one image, by the run and by its exports."""
    from benchmarks.contenders import exported

    with tempfile.TemporaryDirectory() as folder:
        case = Case("conv", images=200, exported=folder)
        exported.make(Path(folder), case)
        torch = ["torch score"] if how.has_torch() else []
        cases = dict.fromkeys(["flaxvae score", "onnx score", *torch], case)
        found = how.time(cases, dict.fromkeys(cases, 1))
    _compared(f"{case.shape.label}, one image: scores/s", found)
    return [{"label": case.shape.label, "found": found}]


GROUPS: dict[str, Callable[[How], list[Row]]] = {
    "training": training,
    "growth": growth,
    "photographs": photographs,
    "evaluation": evaluation,
    "likelihood": likelihood,
    "sprites": sprites,
    "streaming": streaming,
    "start": start,
    "overhead": overhead,
    "data": data,
    "ways_out": ways_out,
}
