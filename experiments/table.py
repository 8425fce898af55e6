"""What a study returns, what its numbers are read beside, and the README that lists both."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

HERE = Path(__file__).parent


class Row(NamedTuple):
    """One number: what, on which data, at what budget, and what was obtained."""

    quantity: str
    data: str
    budget: str
    ours: str


class Beside(NamedTuple):
    """What a row is read beside: the numbers it must lie between, and why these; others' number.

    A bound is a number, or the name of the quantity that gives it, on the same data and budget.
    """

    quantity: str
    low: float | str
    high: float | str
    why: str
    reference: str = ""
    budget: str = ""  # of the row meant, where several are of this quantity
    data: str = ""

    def is_of(self, row: Row) -> bool:
        return row.quantity == self.quantity and self.budget in row.budget and self.data in row.data


def numbers(row: Row) -> list[float]:
    """What was obtained: 86.39 of "86.39 ± 0.23", 13 of "13 of 50", both of "14.13, 10.93"."""
    found = [re.match(r"-?\d+(\.\d+)?", each) for each in row.ours.split(", ")]
    if None in found:
        raise ValueError(f"{row.quantity}: {row.ours!r}: expected a number")
    return [float(each[0]) for each in found if each is not None]


def bounds(beside: Beside, rows: Iterable[Row]) -> tuple[float, float]:
    """The numbers that a row must lie between."""

    def value(bound: float | str) -> float:
        if isinstance(bound, float | int):
            return bound
        (row,) = filter(beside._replace(quantity=bound).is_of, rows)
        return numbers(row)[0]

    return value(beside.low), value(beside.high)


def misses(rows: list[Row], beside: Iterable[Beside]) -> list[str]:
    """What lies outside of what is expected of it, on either side."""
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


def save(name: str, rows: list[Row], minutes: float) -> None:
    """Keep a study's rows in results/<name>.json."""
    record = {"minutes": round(minutes, 1), "rows": [row._asdict() for row in rows]}
    _write(HERE / "results" / f"{name}.json", record)


def load(name: str) -> tuple[list[Row], float] | None:
    """A study's kept rows and minutes; None if it was not run."""
    path = HERE / "results" / f"{name}.json"
    if not path.exists():
        return None
    record = json.loads(path.read_text())
    rows = [Row(*(row[field] for field in Row._fields)) for row in record["rows"]]
    return rows, record["minutes"]


def save_choices(name: str, outcomes: dict[str, dict[str, float]]) -> None:
    """Keep what a study's candidates gave on held-out images in results/choices/<name>.json."""
    _write(HERE / "results" / "choices" / f"{name}.json", outcomes)


def load_choices(name: str) -> dict[str, dict[str, float]]:
    """{what was tried: {candidate: number}} of a study; {} if nothing was."""
    path = HERE / "results" / "choices" / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _write(path: Path, record: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def readme(studies: dict[str, ModuleType]) -> str:
    """README.md, from the kept results and what the studies say of them."""
    lines = [
        "# Experiments",
        "",
        "Written by `make experiments`; one study alone: `make experiments ARGS=NAME`. MNIST comes",
        "from `FLAXVAE_DATA_DIR` or tensorflow-datasets. Nats are summed over pixels and latent",
        "dimensions and averaged over the 10,000 test images (digits: 360), from one draw of z an",
        'image unless stated; "±" is a standard error over images, of one training. "-log p(x),',
        'k = 1,000" is an upper bound on -log p(x) from 1,000 importance samples. Of "pixels in',
        '[0, 1]" under a Bernoulli, the default, nats are cross-entropies, which bound no',
        "log-density. Minutes are those of 2 shared CPU cores.",
        "",
        "A number outside of what is expected, on either side, fails the study and the tests:",
        "one that is too good is an error as well. No setting is to be chosen on what is reported.",
        "Where one was tried in several values, models were trained on 50,000 of the training",
        "images and compared on the other 10,000 (`make experiments ARGS='choose NAME'`): in bold",
        "is what the study takes. Each was trained once, so some tenths of a nat are chance. What",
        "was chosen earlier and otherwise, the study says.",
    ]
    for name, module in studies.items():
        kept = load(name)
        if kept is None:
            continue
        rows, minutes = kept
        title, _, text = (module.__doc__ or "").strip().partition("\n")
        lines += ["", f"## {title.rstrip('.')}", "", text.strip(), ""]
        lines += [f"`make experiments ARGS={name}` ({minutes:g} minutes)", ""]
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
