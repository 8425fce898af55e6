"""A comparison from paths: what can be loaded is measured on the same images; the rest is said."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flaxvae import declared, lookup
from flaxvae.analysis.evaluation import UNITS
from flaxvae.analysis.paired import Difference
from flaxvae.errors import DataError, FlaxvaeError, UsageError, counted
from flaxvae.report import compared, comparison, shown, sweeps, words
from flaxvae.report.compared import Pictures
from flaxvae.report.comparison import Compared, Found
from flaxvae.report.terminal import Terminal
from flaxvae.runs import differing, evaluated, listing, pages
from flaxvae.runs.folder import RunFolder
from flaxvae.runs.listing import Entry
from flaxvae.runs.run import Run, opened
from flaxvae.settings import Place
from flaxvae.training import observers

PAGE = "comparison.html"
PICTURED = 12  # runs of which the page has pictures


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


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Runs, or the settings of a sweep, beside one another; its text is the table."""

    found: Found = dataclasses.field(repr=False)
    entries: list[Entry] = dataclasses.field(repr=False)  # the runs; of a sweep, its members
    page: Path | None  # that shows them

    @property
    def names(self) -> list[str]:
        """What each is called: 1, 2, …, or the settings of a sweep."""
        return [one.name for one in self.found.runs]

    @property
    def elbo(self) -> list[Difference | None]:
        """-ELBO less that of the first, in nats: over the same images, or a sweep's same seeds."""
        if self.found.sweep is None:
            return comparison.differences(self.found.runs, "bound")
        settings = comparison.settings(self.found.sweep, self._members)
        known = zip(settings, comparison.by_seed(settings), strict=True)
        return [one for setting, one in known if setting.members]

    @property
    def mse(self) -> list[Difference | None]:
        """Squared error less that of the first, over the same images; None of a sweep's."""
        return comparison.differences(self.found.runs, "mse")

    @property
    def _members(self) -> dict[str, Entry]:
        return {one.path.name: one for one in self.entries}

    def lines(self, width: int = 80) -> list[str]:
        """The table for a terminal."""
        if self.found.sweep is None:
            return comparison.lines(self.found.runs, width)
        return comparison.sweep_lines(self.found.sweep, self._members, width)

    def __str__(self) -> str:
        about = [f"{one.name}: {comparison.described(one)}" for one in self.found.runs]
        return "\n".join([*(about if self.found.sweep is None else []), *self.lines(), *self.notes])

    @property
    def notes(self) -> list[str]:
        """What the numbers are, and what is missing."""
        said = comparison.notes(self.found.runs)
        if self.found.sweep is not None:
            said = [f"{sweeps.NOTE}; {UNITS}", comparison.BY_SEED]
        return [*said, *self.found.remarks]


def compare(
    *runs: str | Path | Run,
    images: int = 2000,
    seed: int = 0,
    page: bool = True,
    out: str | Path | None = None,
    recipes: Mapping[str, lookup.Variant] = lookup.NO_RECIPES,
    place: Place = Place(),
    terminal: Terminal | None = None,
) -> Comparison:
    """Runs, or the members of a sweep, beside one another, and a page to look at.

    ``print(flaxvae.compare("runs/a", "runs/b"))`` shows the table: settings that differ, numbers
    with errors, and of runs on the same data the mean difference from the first one on the same
    test images, which is far more certain than two errors side by side.

    Args:
        runs: run folders or Runs, or a sweep's folder.
        images: how many test images to compare on, the first ones; or all, if there are fewer. 0:
            only what the folders say, which needs no data.
        seed: decides the draws.
        page: whether to write the page.
        out: the page's file; by default comparison.html beside the first run, or in the sweep.
        recipes: recipes from outside, by name, if a run uses one.
        place: where the first run's data are, if they have moved.
        terminal: shows progress, and the table.

    Raises:
        UsageError: fewer than two runs, or a page that is no .html file.
        DataError: the page cannot be written.
    """
    images = declared.conform("images", declared.Count, images)
    seed = declared.conform("seed", declared.Seed, seed)
    paths = list[str]()
    for run in runs:
        if isinstance(run, Run):
            recipes, run = {**run.folder.recipes, **recipes}, run.path
        paths.append(declared.conform("runs", str, run))
    each, sweep = entries(paths)
    target = None
    if page:
        target = _target(None if out is None else str(out), each if sweep is None else [sweep])
    elif out is not None:
        raise UsageError(f"--out {out} has no effect with --no-page: expected one of them")
    chosen = each if sweep is None else _representatives(sweep, each)
    watch = terminal or observers.Quiet()
    loaded = _loaded(chosen, sweep, images, seed, page, recipes, place, watch)
    found = Comparison(loaded, each, target)
    if terminal is not None:
        _show(found, terminal)
    if target is not None:
        from flaxvae.report.html import comparison as html

        pages.write(target, html.page(loaded, each))
        watch.summary({"page": words.relative(target)}, [])
    return found


def _show(found: Comparison, terminal: Terminal) -> None:
    record, sweep = found.entries[0].record, found.found.sweep
    name = record.get("data_spec", {}).get("name", record["data"].get("dataset", ""))
    same = all(one.same_data for one in found.found.runs)
    other = "not the same of all, so their numbers cannot be compared; of 1: "
    facts = {"data": f"{'' if same else other}{name}"}
    if sweep is None:
        facts |= {one.name: comparison.described(one) for one in found.found.runs}
    else:
        members = len(found.entries)
        missing = len(sweep.record["members"]) - members
        facts["sweep"] = f"{words.relative(sweep.path)}, {counted(members, 'member')}"
        if missing:
            facts["sweep"] += f"; {missing} diverged or are not finished"
    terminal.header(facts)
    terminal.table(found.lines(terminal.width))
    for text in found.notes:
        terminal.note(text)


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
    watch: Any,
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
                    test = run.data(place, watch.watch("decoding pictures")).test
                    ends = shown.pairs(test, compared.WALKS, same_class=_conditional(each, recipes))
                except FlaxvaeError as error:
                    lost = f"without test images: {error}"
                    remarks.append(lost)
            seen = test if same else None
            if run is not None and seen is not None and sweep is None:
                some = shown.first(seen, images)
                found = compared.measure(run, some, seed, watch.watch(f"run {number}"))
            if run is not None and page and number <= PICTURED:
                shown_ = compared.pictures(run, seen, ends if same else None, seed)
        except FlaxvaeError as error:
            failed = "loaded" if run is None else "compared" if found is None else "pictured"
            said.append(f"not {failed}: {error}")
            if sweep is not None:
                remarks.append(f"no pictures of {sweeps.label(own) or 'all'}: {error}")
        label = str(number) if sweep is None else sweeps.label(own) or "all"
        test_ = _numbers(one)
        runs.append(Compared(label, words.relative(one.path), own, test_, said, same, found))
        pictures.append(shown_)
    if page and len(each) > PICTURED:
        remarks.append(f"the page has pictures of the first {PICTURED}")
    return Found(runs, list(each), pictures, test, ends, sweep, remarks)


def _numbers(entry: Entry) -> Mapping[str, Any]:
    """A finished run's numbers on test images, with the bound of eval --k, if it is on record."""
    bound = evaluated.bound(entry.path, entry.summary) if entry.test else None
    return {**entry.test, comparison.BOUND: bound} if bound else entry.test


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
