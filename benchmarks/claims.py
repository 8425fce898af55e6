"""The speed targets on two CPU cores, and where in the results to find what was measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.groups import GEMM, OURS
from benchmarks.workers import Spread, ratio

Rows = Sequence[Mapping[str, Any]]
PEAK = 180e9  # operations a second of the machine for which the likelihood's target is 50 images/s


class Claim(NamedTuple):
    """A number that should be at least, or at most, its target."""

    what: str
    group: str
    found: Callable[[Rows], Spread | None]  # None if it was not measured
    asked: float
    unit: str = "x"
    at_most: bool = False


def _row(rows: Rows, **keys: str) -> Mapping[str, Any]:
    return next(row for row in rows if all(row.get(key) == value for key, value in keys.items()))


def _faster(net: str, theirs: str) -> Callable[[Rows], Spread | None]:
    """Our rate of training steps divided by theirs."""
    return lambda rows: _row(rows, net=net)["found"].get(theirs, {}).get("ratio")


def _times(values: Spread, scale: float) -> Spread:
    return {name: scale * value for name, value in values.items()}


def _of_peak(rows: Rows) -> Spread:
    return _times(_row(rows, net="conv")["found"][OURS]["of_peak"], 100)


def _likelihood(rows: Rows) -> Spread:
    """Images/s divided by the target, which is 50 on a machine of PEAK, scaled to this machine."""
    return ratio(rows[0]["found"], "flaxvae likelihood", GEMM, PEAK / 50)


def _memory(rows: Rows) -> Spread:
    return dict.fromkeys(("low", "middle", "high"), rows[0]["mib"])


def _streamed(rows: Rows) -> Spread:
    return rows[0]["found"][OURS]["ratio"]


def _growth(rows: Rows) -> Spread:
    """Memory of a training on ten times as many images, divided by that on the usual number."""
    small, large = rows[0]["mib"].values()
    return dict.fromkeys(("low", "middle", "high"), large / small)


def _seconds(name: str) -> Callable[[Rows], Spread]:
    return lambda rows: rows[0]["seconds"][name]


def _cost(what: str, net: str) -> Callable[[Rows], Spread]:
    return lambda rows: _times(_row(rows, what=what, net=net)["cost"], 100)


def _of_pillow(label: str) -> Callable[[Rows], Spread | None]:
    """Our rate of decoding divided by a bare loop's."""

    def found(rows: Rows) -> Spread | None:
        ours = [row for row in rows if label in row["label"]]
        return ours[0]["found"]["pictures pillow"]["ratio"] if ours else None

    return found


def _second_start(rows: Rows) -> Spread:
    return max((row["second_start"] for row in rows), key=lambda seconds: seconds["middle"])


def _drawn(name: str) -> Callable[[Rows], Spread]:
    """The rate at which images are drawn divided by that at which a network takes them."""
    return lambda rows: _row(rows, what="drawn", name=name)["found"][f"{OURS} {name}"]["ratio"]


def _photographs(what: str) -> Callable[[Rows], Spread | None]:
    """Our rate divided by that of the fastest in PyTorch."""

    def found(rows: Rows) -> Spread | None:
        others = _row(rows, what=what)["found"].items()
        ratios = [row["ratio"] for name, row in others if name != OURS]
        return min(ratios, key=lambda ratio: ratio["middle"], default=None)

    return found


def _grows(what: str, value: int) -> Callable[[Rows], Spread]:
    """Time a pixel of this batch or size, divided by that of the first in the row."""
    name = f"{OURS}, {what} {value}"
    return lambda rows: _row(rows, what=what, who=OURS)["found"][name]["ratio"]


CONV, MLP, IWAE = "conv net", "mlp 784-512-20", "mlp 784-200-200-50"
CLAIMS = (
    Claim(f"{CONV}: PyTorch, DataLoader", "training", _faster("conv", "torch DataLoader"), 2.0),
    Claim(f"{CONV}: PyTorch, tuned", "training", _faster("conv", "torch tuned"), 1.3),
    Claim(f"{CONV}: flax, jitted step", "training", _faster("conv", "flax loop"), 2.8),
    Claim(f"{CONV}: share of GEMM peak", "training", _of_peak, 65, " %"),
    Claim(f"{MLP}: PyTorch, tensors", "training", _faster("mlp512", "torch tensors"), 2.4),
    Claim(f"{MLP}: PyTorch, tuned", "training", _faster("mlp512", "torch tuned"), 1.8),
    Claim(f"{IWAE}: PyTorch, tensors", "training", _faster("iwae", "torch tensors"), 1.4),
    *(
        Claim(f"{what}: fastest PyTorch", "photographs", _photographs(what), 1.3)
        for what in ("resnet 32-64, 32x32x3", "resnet 32-64, 64x64x3")
    ),
    *(
        Claim(
            f"resnet, batch {n}: time an image, of 128",
            "photographs",
            _grows("batch", n),
            1.1,
            at_most=True,
        )
        for n in (512, 2048)
    ),
    Claim(
        "resnet, 112x112: time a pixel, of 28x28",
        "photographs",
        _grows("size", 112),
        1.25,
        at_most=True,
    ),
    Claim("k = 5,000: 50 images/s at 180 GFLOP/s of peak", "likelihood", _likelihood, 1.0),
    Claim("k = 5,000: temporary memory", "likelihood", _memory, 50, " MiB", True),
    Claim("sprites: drawn, of those trained on", "sprites", _drawn("sprites"), 10),
    Claim("sprites_color: drawn, of those trained on", "sprites", _drawn("sprites_color"), 10),
    Claim(f"{CONV}: streamed, of resident images/s", "streaming", _streamed, 0.9),
    Claim("streamed: memory at 10 times the images", "streaming", _growth, 1.05, at_most=True),
    Claim("first step, warm cache", "start", _seconds("warm"), 2.5, " s", True),
    Claim("`flaxvae --help`", "start", _seconds("help"), 0.5, " s", True),
    Claim(f"{CONV}: guard and metrics", "overhead", _cost("guard", "conv"), 5, " %", True),
    Claim(f"{MLP}: guard and metrics", "overhead", _cost("guard", "mlp512"), 5, " %", True),
    Claim(f"{IWAE}: guard and metrics", "overhead", _cost("guard", "iwae"), 5, " %", True),
    Claim(f"{CONV}: checkpoints", "overhead", _cost("checkpoints", "conv"), 2, " %", True),
    Claim(f"{MLP}: checkpoints", "overhead", _cost("checkpoints", "mlp512"), 2, " %", True),
    Claim("cache of small JPEGs: a Pillow loop", "data", _of_pillow("small"), 0.8),
    Claim("cache of mixed JPEGs: a Pillow loop", "data", _of_pillow("64 to 320"), 0.8),
    Claim("pictures: first step, second start", "data", _second_start, 5, " s", True),
)


def table(measured: Mapping[str, Rows]) -> list[str]:
    """Lines of Markdown, a row for each claim about the groups that were measured."""
    lines = []
    for claim in CLAIMS:
        found = claim.found(measured[claim.group]) if claim.group in measured else None
        if found is None:
            continue
        middle, asked = found["middle"], claim.asked
        reached = middle <= asked if claim.at_most else middle >= asked
        lines.append(
            f"| {claim.what} | {middle:.2f}{claim.unit} ({found['low']:.2f} to {found['high']:.2f})"
            f" | at {'most' if claim.at_most else 'least'} {asked:g}{claim.unit}"
            f" | {middle / asked:.2f} | {'yes' if reached else 'no'} |"
        )
    head = ["| | measured | target | measured / target | reached |", "|---|---|---|---|---|"]
    return [*head, *lines] if lines else []
