"""A study's rows, what they are compared to, and the README that lists both."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

HERE = Path(__file__).parent
CORES = "2 shared CPU cores"


class Row(NamedTuple):
    """One result: the quantity, the data, the budget, and what was obtained."""

    quantity: str
    data: str
    budget: str
    ours: str


class Beside(NamedTuple):
    """What a row is compared to: its bounds, with the reasons for them, and a published number.

    A bound is a number, or the name of a quantity with the same data and budget.
    """

    quantity: str
    low: float | str
    high: float | str
    why: str
    reference: str = ""
    budget: str = ""  # to choose between several rows of this quantity
    data: str = ""

    def is_of(self, row: Row) -> bool:
        return row.quantity == self.quantity and self.budget in row.budget and self.data in row.data


def numbers(row: Row) -> list[float]:
    """The numbers obtained: 86.39 of "86.39 ± 0.23", 13 of "13 of 50", both of "14.13, 10.93"."""
    found = [re.match(r"-?\d+(\.\d+)?", each) for each in row.ours.split(", ")]
    if None in found:
        raise ValueError(f"{row.quantity}: {row.ours!r}: expected a number")
    return [float(each[0]) for each in found if each is not None]


def bounds(beside: Beside, rows: Iterable[Row]) -> tuple[float, float]:
    """The bounds of a row."""

    def value(bound: float | str) -> float:
        if isinstance(bound, float | int):
            return bound
        (row,) = filter(beside._replace(quantity=bound).is_of, rows)
        return numbers(row)[0]

    return value(beside.low), value(beside.high)


def misses(rows: list[Row], beside: Iterable[Beside]) -> list[str]:
    """The rows outside their bounds, on either side."""
    found = []
    for expected in beside:
        low, high = bounds(expected, rows)
        for row in filter(expected.is_of, rows):
            if not all(low <= each <= high for each in numbers(row)):
                found.append(
                    f"{row.quantity}, {row.budget}: {row.ours}; expected {low:g} to {high:g} "
                    f"({expected.why})"
                )
    return found


class Kept(NamedTuple):
    """What results/<name>.json holds."""

    rows: list[Row]
    minutes: float  # of the whole study
    machine: str  # that it ran on


def save(name: str, rows: list[Row], minutes: float, machine: str = CORES) -> None:
    """Save a study's rows in results/<name>.json."""
    record = {"minutes": round(minutes, 1), "machine": machine}
    _write(_path(name), record | {"rows": [row._asdict() for row in rows]})


def put(name: str, row: Row, found: Sequence[Row] = ()) -> None:
    """Save one row, in the place of an older one of the same quantity and data if there is one.

    So a study that is stopped keeps what it found. Of several such rows, the one with the same
    budget gives way, or else the first; ``found`` are rows of this run, which all stay.
    """
    kept = load(name) or Kept([], 0, CORES)
    rows = kept.rows
    older = [i for i, each in enumerate(rows) if each[:2] == row[:2] and each not in found]
    place = min(older, key=lambda i: rows[i].budget != row.budget, default=len(rows))
    save(name, [*rows[:place], row, *rows[place + 1 :]], kept.minutes, kept.machine)


def load(name: str) -> Kept | None:
    """A study's saved rows; None if it has not been run."""
    if not _path(name).exists():
        return None
    record = json.loads(_path(name).read_text())
    rows = [Row(*(row[field] for field in Row._fields)) for row in record["rows"]]
    return Kept(rows, record["minutes"], record.get("machine", CORES))


def _path(name: str) -> Path:
    return HERE / "results" / f"{name}.json"


def save_choices(name: str, outcomes: dict[str, dict[str, float]]) -> None:
    """Save the results of a study's candidates in results/choices/<name>.json."""
    _write(HERE / "results" / "choices" / f"{name}.json", outcomes)


def load_choices(name: str) -> dict[str, dict[str, float]]:
    """The results of a study's candidates, {what was tried: {candidate: number}}."""
    path = HERE / "results" / "choices" / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _write(path: Path, record: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def readme(studies: dict[str, ModuleType]) -> str:
    """README.md, from the saved results and the studies' docstrings."""
    lines = [
        "# Experiments",
        "",
        "Written by `make experiments`; `make experiments ARGS=NAME` runs one study, and with",
        "`ARGS=table` this page is written from the saved results. MNIST comes from",
        "`FLAXVAE_DATA_DIR` or tensorflow-datasets. Nats are summed over pixels and latent",
        "dimensions and averaged over the 10,000 test images (digits: 360), from one draw of z per",
        'image unless stated otherwise. "±" is a standard error over images, for one training.',
        '"-log p(x), k = 1,000" is an upper bound on -log p(x) from 1,000 importance samples.',
        '"Pixels in [0, 1]" under a Bernoulli, the default, give cross-entropies, which do not',
        f"bound a log-density. Times were measured on {CORES}, or on the GPU that is named,",
        "which up to four studies shared.",
        "",
        "A number outside its expected range, on either side, fails the study and the tests: a",
        "number that is too good is an error as well. No setting should be chosen on the reported",
        "numbers. Where several values were tried, models were trained on 50,000 of the training",
        "images and compared on the other 10,000 (`make experiments ARGS='choose NAME'`); the",
        "study uses the value in bold. Each was trained once, so some tenths of a nat are chance.",
        "If a setting was chosen otherwise, the study says so.",
    ]
    for name, module in studies.items():
        kept = load(name)
        if kept is None:
            continue
        rows, minutes, machine = kept
        title, _, text = (module.__doc__ or "").strip().partition("\n")
        lines += ["", f"## {title.rstrip('.')}", "", text.strip(), ""]
        where = "" if machine == CORES else f", {machine}"
        lines += [f"`make experiments ARGS={name}` ({minutes:g} minutes{where})", ""]
        lines += _table(rows, module.BESIDE)
        kept_choices = load_choices(name)
        for what, choice in getattr(module, "CHOICES", {}).items():
            if what in kept_choices:
                lines += ["", *_choice(what, choice, kept_choices[what])]
        for figure in sorted((HERE / "figures").glob(f"{name}*.png")):
            alt = figure.stem.replace("_", " ")
            lines += ["", f"![{alt}](figures/{figure.name})"]
    return "\n".join(lines) + "\n"


def _table(rows: list[Row], beside: Iterable[Beside]) -> list[str]:
    lines = [
        "| quantity | data | budget | flaxvae | expected | reference |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        expected, reference = "", ""
        for found in beside:
            if found.is_of(row):
                low, high = bounds(found, rows)
                expected = f"{low:g} to {high:g}: {found.why}"
                reference = found.reference
        lines.append("| " + " | ".join([*row, expected, reference]) + " |")
    return lines


def _choice(what: str, choice: Any, outcomes: dict[str, float]) -> list[str]:
    lines = [f"| tried: {what} | {choice.quantity} |", "|---|---|"]
    for name, found in outcomes.items():
        shown = f"**{name}**" if name == choice.chosen else name
        lines.append(f"| {shown} | {found:.2f} |")
    if choice.why_another:
        lines += ["", f"Not the best of these: {choice.why_another}."]
    return lines
