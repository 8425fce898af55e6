"""A comparison from paths: what can be loaded is measured on the same images; the rest is said."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from flaxvae import lookup
from flaxvae.analysis.evaluation import UNITS
from flaxvae.data.pipeline import Split
from flaxvae.errors import DataError, FlaxvaeError, UsageError, counted
from flaxvae.report import compared, comparison, shown, sweeps, tables, words
from flaxvae.report.compared import Pictures
from flaxvae.report.comparison import Compared
from flaxvae.report.terminal import Terminal
from flaxvae.runs import differing, listing, pages
from flaxvae.runs.folder import RunFolder
from flaxvae.runs.listing import Entry
from flaxvae.runs.run import opened
from flaxvae.settings import Place

PAGE = "comparison.html"
PICTURED = 12  # runs of which the page has pictures


class Found(NamedTuple):
    """What is compared."""

    runs: list[Compared]
    entries: list[Entry]  # of the runs
    pictures: list[Pictures | None]  # of the runs
    test: Split | None  # the images of those on the first one's data
    ends: Split | None  # pairs of them that all walk between
    sweep: Entry | None  # whose members they are
    remarks: list[str]


def entries(paths: Sequence[str]) -> tuple[list[Entry], Entry | None]:
    """The runs that are asked for, and the sweep, if they are one's members.

    Raises UsageError for fewer than two, or what is no run.
    """
    found = list[Entry]()
    for path in map(Path, paths):
        one = listing.entry(path)
        if one is None:
            seen = "nothing" if not path.exists() else "neither a run nor a sweep"
            raise UsageError(f"{path} is {seen}: expected folders that flaxvae wrote")
        found.append(one)
    for one in found:
        if one.kind == "sweep" and len(found) > 1:
            raise UsageError(
                f"{one.path} is a sweep: expected it alone, or runs; its members are runs"
            )
        if not one.record:
            raise UsageError(f"{one.why}")
    if len(found) == 1 and found[0].kind == "sweep":
        return [*comparison.members(found[0]).values()], found[0]
    if len({one.path.resolve() for one in found}) < 2:
        raise UsageError(
            f"{' '.join(paths) or 'no run'}: expected two runs or more, or a sweep, to compare"
        )
    return found, None


def compare(
    paths: Sequence[str],
    *,
    images: int,
    seed: int,
    page: bool,
    out: str | None,
    recipes: Mapping[str, lookup.Variant],
    place: Place,
    terminal: Terminal,
) -> None:
    """Print the table, and write the page; see ``commands.compare``.

    Raises:
        UsageError: fewer than two runs, or a page that is no .html file.
        DataError: the page cannot be written.
    """
    each, sweep = entries(paths)
    target = None
    if page:
        target = _target(out, each if sweep is None else [sweep])
    elif out is not None:
        raise UsageError(f"--out {out} has no effect with --no-page: expected one of them")
    chosen = each if sweep is None else _representatives(sweep, each)
    found = _loaded(chosen, sweep, images, seed, page, recipes, place, terminal)
    _print(found, each, terminal)
    if target is not None:
        from flaxvae.report.html import comparison as html

        pages.write(target, html.page(found, each))
        terminal.summary({"page": words.relative(target)}, [])


def _target(out: str | None, each: Sequence[Entry]) -> Path:
    """Where the page goes. Raises UsageError or DataError if it cannot."""
    if out is not None and Path(out).suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--out {out}: expected a name that ends in .html")
    first = each[0]
    folder = first.path if first.kind == "sweep" else first.path.resolve().parent
    path = Path(out) if out is not None else folder / PAGE
    if not os.access(path.parent, os.W_OK):
        raise DataError(f"{path.parent} cannot be written: expected a folder; give --out FILE")
    if os.path.lexists(path):
        try:
            pages.check(path)
        except (DataError, OSError):
            raise DataError(
                f"{path} is no page as flaxvae wrote it, so it stays: move it away, or give "
                "--out FILE"
            ) from None
    return path


def _representatives(sweep: Entry, each: Sequence[Entry]) -> list[Entry]:
    """One member of every setting of a sweep, of its first seed that did not diverge."""
    by_name = {one.path.name: one for one in each}
    found = comparison.settings(sweep, by_name)
    return [by_name[one.members[0]] for one in found if one.members]


def _loaded(
    each: Sequence[Entry],
    sweep: Entry | None,
    images: int,
    seed: int,
    page: bool,
    recipes: Mapping[str, lookup.Variant],
    place: Place,
    terminal: Terminal,
) -> Found:
    """The runs, measured and pictured as far as they and their data can be loaded."""
    settings = [differing.settings(one, recipes) for one in each]
    names = differing.differing(settings)
    if sweep is not None:
        names = [*sweep.record["varied"]]
    runs, pictures = list[Compared](), list[Pictures | None]()
    test, ends, lost, remarks = None, None, "", list[str]()
    for number, (one, known) in enumerate(zip(each, settings, strict=True), 1):
        own = {name: known[name] for name in names if name in known}
        same = differing.data(one) == differing.data(each[0])
        said = _remarks(one, same)
        run, found, shown_ = None, None, None
        try:
            if page or (images and sweep is None):
                run = opened(one.path, recipes=recipes)
                said += [remark for remark in run.remarks if one.state == "finished"]
            if run is not None and same and test is None and images and not lost:
                try:
                    test = run.data(place, terminal.watch("decoding pictures")).test
                    ends = shown.pairs(test, compared.WALKS, same_class=_conditional(each, recipes))
                except FlaxvaeError as error:
                    lost = f"without test images: {error}"
                    remarks.append(lost)
            seen = test if same else None
            if run is not None and seen is not None and sweep is None:
                some = shown.first(seen, images)
                found = compared.measure(run, some, seed, terminal.watch(f"run {number}"))
            if run is not None and page and number <= PICTURED:
                shown_ = compared.pictures(run, seen, ends if same else None, seed)
        except FlaxvaeError as error:
            failed = "loaded" if run is None else "compared" if found is None else "pictured"
            said.append(f"not {failed}: {error}")
            if sweep is not None:
                remarks.append(f"no pictures of {sweeps.label(own) or 'all'}: {error}")
        label = str(number) if sweep is None else sweeps.label(own) or "all"
        runs.append(Compared(label, words.relative(one.path), own, one.test, said, same, found))
        pictures.append(shown_)
    if page and len(each) > PICTURED:
        remarks.append(f"the page has pictures of the first {PICTURED}")
    return Found(runs, list(each), pictures, test, ends, sweep, remarks)


def _conditional(each: Sequence[Entry], recipes: Mapping[str, lookup.Variant]) -> bool:
    """Whether some models take labels, so that they walk between images of one class alone."""
    for one in each:
        with contextlib.suppress(FlaxvaeError):
            if RunFolder(one.path, recipes).recipe().classes is not None:
                return True
    return False


def _remarks(entry: Entry, same: bool) -> list[str]:
    """What to know of a run beside its numbers."""
    said = []
    if entry.state != "finished":
        epoch = entry.last.get("epoch", 0)
        of = entry.record["training"].get("epochs") or "?"
        said.append(f"{entry.state}, epoch {epoch} of {of}")
    if not same:
        name = entry.record.get("data_spec", {}).get("name", "unknown")
        said.append(f"of other data than 1: {name}")
    return said


def _print(found: Found, each: Sequence[Entry], terminal: Terminal) -> None:
    record = each[0].record
    name = record.get("data_spec", {}).get("name", record["data"].get("dataset", ""))
    same = all(one.same_data for one in found.runs)
    other = "not the same of all, so their numbers cannot be compared; of 1: "
    facts = {"data": f"{'' if same else other}{name}"}
    if found.sweep is None:
        terminal.header(facts | {one.name: comparison.described(one) for one in found.runs})
        terminal.table(comparison.lines(found.runs, terminal.width))
        for text in [*comparison.notes(found.runs), *found.remarks]:
            terminal.note(text)
        return
    members = {one.path.name: one for one in each}
    missing = len(found.sweep.record["members"]) - len(members)
    facts["sweep"] = f"{words.relative(found.sweep.path)}, {counted(len(members), 'member')}"
    if missing:
        facts["sweep"] += f"; {missing} diverged or are not finished"
    terminal.header(facts)
    terminal.table(tables.labelled(*comparison.sweep_numbers(found.sweep, members), terminal.width))
    terminal.note(f"{sweeps.NOTE}; {UNITS}")
    terminal.note(comparison.BY_SEED)
    for text in found.remarks:
        terminal.note(text)
