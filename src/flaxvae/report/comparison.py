"""Runs beside one another as text: in what they differ, and their numbers with errors."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from flaxvae.analysis import paired
from flaxvae.analysis.evaluation import UNITS
from flaxvae.analysis.paired import Difference
from flaxvae.data.pipeline import Split
from flaxvae.declared import short
from flaxvae.errors import counted
from flaxvae.report import sweeps, tables
from flaxvae.report.compared import Measured, Pictures
from flaxvae.runs import listing
from flaxvae.runs.listing import Entry

BOUND = "importance_weighted_elbo"  # of a run's numbers
NOTE = "±: standard error over test images"
BY_SEED = (
    "the difference: mean over the seeds that both settings have, each less that of the first "
    "setting with the same seed; ± its standard error"
)


class Compared(NamedTuple):
    """One of the runs."""

    name: str  # in tables: 1, 2, …
    path: str
    settings: Mapping[str, Any]  # those in which the runs differ; without those it has not
    test: Mapping[str, Any]  # summary.json's numbers on test images, and a bound of eval --k
    remarks: Sequence[str] = ()  # it is not finished, it is of other data, …
    same_data: bool = True  # as the first run
    measured: Measured | None = None


class Found(NamedTuple):
    """What is compared."""

    runs: list[Compared]
    entries: list[Entry]  # of the runs
    pictures: list[Pictures | None]  # of the runs
    test: Split | None  # the images of those on the first one's data
    ends: Split | None  # pairs of them that all walk between
    sweep: Entry | None  # whose members they are
    remarks: list[str]


def described(each: Compared) -> str:
    """A run in a line: where it is, its settings, what to know of it."""
    chosen = [f"{name.replace('_', '-')} {short(x)}" for name, x in each.settings.items()]
    return "; ".join([each.path, *([", ".join(chosen)] if chosen else []), *each.remarks])


def differences(runs: Sequence[Compared], what: str) -> list[Difference | None]:
    """Of -ELBO (``bound``) or ``mse`` on the same images, each run's from the first's.

    None where they are not on the same images, or are not of the same kind.
    """
    first, found = runs[0].measured, list[Difference | None]()
    for each in runs:
        theirs = each.measured
        if each is runs[0] or first is None or theirs is None or not each.same_data:
            found.append(None)
            continue
        a, b = getattr(first, what), getattr(theirs, what)
        alike = what != "bound" or first.kind == theirs.kind
        found.append(paired.difference(a, b) if alike and a is not None and b is not None else None)
    return found


def numbers(runs: Sequence[Compared]) -> tuple[list[str], list[list[str]]]:
    """The headings and the cells of the table of numbers, a row for each run."""
    names = [name for name in sweeps.MEASURES if any(_has(name, each.test) for each in runs)]
    headings = [sweeps.MEASURES[name][0] for name in names]
    cells = [[_cell(name, each.test) for name in names] for each in runs]
    bounds = [each.test.get(BOUND) for each in runs]
    if sizes := {one["k"] for one in bounds if one}:
        headings.insert(1, "-IW-ELBO" + (f", k {min(sizes)}" if len(sizes) == 1 else ""))
        for row, one in zip(cells, bounds, strict=True):
            row.insert(1, "" if one is None else _bound(one, len(sizes) > 1))
    for what, heading in (("bound", "-ELBO"), ("mse", "MSE")):
        found = differences(runs, what)
        if what == "mse" and list(map(bool, found)) == list(map(bool, differences(runs, "bound"))):
            continue  # -ELBOs say more, where they can be compared
        if not any(found):
            continue
        headings += [f"{heading} - {runs[0].name}'s", "lower"]
        for row, one in zip(cells, found, strict=True):
            row += [_signed(one, 2 if what == "bound" else 5), share(one)]
    return headings, cells


def _has(name: str, test: Mapping[str, Any]) -> bool:
    """Whether there is this number; an older flaxvae's hierarchies have active units, too."""
    return name in test and not (name == "active_units" and "active_blocks" in test)


def _cell(name: str, test: Mapping[str, Any]) -> str:
    if not _has(name, test):
        return ""
    _, sign, places = sweeps.MEASURES[name]
    if isinstance(test[name], int):
        return str(test[name])
    error = test.get("elbo_standard_error") if name == "elbo" else None
    return f"{sign * test[name]:,.{places}f}" + ("" if error is None else f" ± {error:.{places}f}")


def _bound(found: Mapping[str, Any], named: bool) -> str:
    """A bound of importance samples, and its error; ``named``: with its k."""
    said = f"{-found['nats']:,.2f} ± {found['standard_error']:.2f}"
    return said + f", k {found['k']}" * named


def _signed(found: Difference | None, places: int) -> str:
    """A difference and its error, of which a digit is seen."""
    if found is None:
        return ""
    error = found.standard_error
    if error:
        places = min(max(places, -math.floor(math.log10(error))), 9)
    said = "" if error is None else f" ± {error:.{places}f}"
    return f"{found.mean:+,.{places}f}{said}"


def share(found: Difference | None) -> str:
    """For how many of the images it is lower."""
    return "" if found is None else f"{100 * found.lower:.0f} %"


def lines(runs: Sequence[Compared], width: int = 80) -> list[str]:
    """The table of numbers for a terminal: a column for each run, in parts if not all fit."""
    return _across(*numbers(runs), [each.name for each in runs], width)


def sweep_lines(sweep: Entry, members: Mapping[str, Entry], width: int = 80) -> list[str]:
    """A sweep's table for a terminal: a row for each setting, or a column if rows are too long."""
    table = sweep_numbers(sweep, members)
    rows = tables.labelled(*table, width)
    return rows if max(map(len, rows)) <= width else _across(*table, width)


def _across(
    headings: Sequence[str], cells: tables.Rows, names: Sequence[str], width: int
) -> list[str]:
    """A column for each name, in parts if not all fit."""

    def part(start: int, end: int) -> list[str]:
        rows = [list(row) for row in zip(headings, *cells[start:end], strict=True)]
        return tables.columns(["", *names[start:end]], rows)

    found, start = list[str](), 0
    while start < len(names):
        end = len(names)
        while end > start + 1 and max(map(len, part(start, end))) > width:
            end -= 1
        found += [""] * bool(found) + part(start, end)
        start = end
    return found


def notes(runs: Sequence[Compared]) -> list[str]:
    """What the numbers are."""
    found = [one for what in ("bound", "mse") for one in differences(runs, what) if one]
    said = [f"{UNITS}; {NOTE}"]
    if found:
        said.append(
            f"the difference: mean over the same {counted(found[0].images, 'test image')}, with "
            f"its own standard error; lower: on how many it is below that of {runs[0].name}"
        )
    if any(BOUND in each.test for each in runs):
        said.append(
            "-IW-ELBO: the tighter bound, of k importance samples, that eval --k has written"
        )
    odd = [each.name for each in runs if _other_kind(runs[0], each)]
    if odd:
        said.append(
            f"no difference of -ELBO between {runs[0].name} and {', '.join(odd)}: they bound "
            "different quantities"
        )
    return said


def _other_kind(first: Compared, each: Compared) -> bool:
    ours, theirs = first.measured, each.measured
    return ours is not None and theirs is not None and ours.kind != theirs.kind


# ---- a sweep


class Setting(NamedTuple):
    """The members of a sweep that differ only in the seed."""

    settings: Mapping[str, Any]
    tests: Mapping[int, Mapping[str, Any]]  # by seed, of those that are finished
    members: Sequence[str]  # their folders, by seed

    @property
    def label(self) -> str:
        return sweeps.label(self.settings) or "all"


def settings(sweep: Entry, members: Mapping[str, Entry]) -> list[Setting]:
    """The settings of a sweep, in the order of its grid; ``members`` by name."""
    record = sweep.record
    found = []
    for values in itertools.product(*record["varied"].values()):
        chosen = dict(zip(record["varied"], values, strict=True))
        called = sweeps.label(chosen)
        alike = [each for each in record["members"] if sweeps.label(each["settings"]) == called]
        alike = sorted(
            (each for each in alike if each["name"] in members), key=lambda each: each["seed"]
        )
        tests = {each["seed"]: members[each["name"]].test for each in alike}
        found.append(Setting(chosen, tests, [each["name"] for each in alike]))
    return found


def by_seed(found: Sequence[Setting], name: str = "elbo") -> list[Difference | None]:
    """Each setting's -ELBO less the first one's, paired by the seed that both were trained with."""
    first, differences = found[0].tests, list[Difference | None]()
    sign = sweeps.MEASURES[name][1]
    for each in found:
        seeds = [
            seed
            for seed in first
            if seed in each.tests and name in first[seed] and name in each.tests[seed]
        ]
        a, b = ([sign * tests[seed][name] for seed in seeds] for tests in (first, each.tests))
        differences.append(None if each is found[0] else paired.difference(a, b))
    return differences


def sweep_numbers(
    sweep: Entry, members: Mapping[str, Entry]
) -> tuple[list[str], list[list[str]], list[str]]:
    """The headings, the cells and the labels of a sweep's table, with differences."""
    found = settings(sweep, members)
    tests = {name: each.test for name, each in members.items() if each.test}
    rows = sweeps.table([each.settings for each in found], sweep.record["members"], tests)
    headings, cells, labels = sweeps.cells(rows)
    differ = by_seed(found)
    if any(differ):
        headings.append("-ELBO - first's")
        for row, one in zip(cells, differ, strict=True):
            row.append(_signed(one, 2))
    return headings, cells, labels


def members(sweep: Entry) -> dict[str, Entry]:
    """The members of a sweep that are finished, by name."""
    found = (listing.entry(sweep.path / each["name"]) for each in sweep.record["members"])
    return {each.path.name: each for each in found if each and each.state == "finished"}
