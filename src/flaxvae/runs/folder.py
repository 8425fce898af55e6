"""The run folder: everything that describes a run and is needed to rebuild it.

runs/<dataset>-<model>-s<seed>-<time>/
    run.json         the settings and versions, from which the model is rebuilt
    metrics.jsonl    one line per epoch
    lock             while a process trains it
    summary.json     the final numbers
    checkpoints/     Orbax
    figures/*.png
    report.html      the page of the run
    tb/              TensorBoard events, if tensorboardX is installed
runs/latest          points to the newest
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from flaxvae import lookup, outside, writing
from flaxvae.errors import DataError, FlaxvaeError, UsageError, command
from flaxvae.machine import versions
from flaxvae.plan import Plan
from flaxvae.recipe import DataSpec, Recipe
from flaxvae.runs import events, places, records
from flaxvae.runs.lock import Held
from flaxvae.runs.schema import FORMAT, Format, Record, Summary
from flaxvae.settings import DataSettings, TrainSettings, asdict


def write_json(path: Path, value: Any, *, compact: bool = False) -> None:
    """Write JSON atomically: the file is the old or the new one; an object is sealed.

    ``compact``: on one line, for long lists of numbers.
    """
    how: dict[str, Any] = {"separators": (",", ":")} if compact else {"indent": 2}
    writing.text(path, json.dumps(records.sealed(value), **how) + "\n")


def _used(function: lookup.Variant, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Recorded arguments, but for those that once were recorded of a recipe that ignores them."""
    unused = lookup.without(function)
    return {name: value for name, value in arguments.items() if name not in unused}


class RunFolder:
    """The files of one run; knows their names and formats, but nothing about models.

    ``recipes`` are recipes from outside, by name: no code is imported because run.json names it.
    """

    def __init__(self, path: Path, recipes: Mapping[str, lookup.Variant] = lookup.NO_RECIPES):
        self.path = path
        self.recipes = recipes
        self.checkpoints = path / "checkpoints"
        self.figures = path / "figures"
        self.resuming = command("flaxvae", "train", "--resume", path, *outside.flag(recipes))
        self.saved: int | None = None  # the last step, once it is on disk
        self._held: Held | None = None
        self._events: events.Events | None = None
        self._left: tuple[int, int] | None = None  # metrics.jsonl when last written by this process

    @classmethod
    def create(cls, path: Path, plan: Plan, facts: Mapping[str, Any]) -> RunFolder:
        """Make the folder and its run.json."""
        path.mkdir(parents=True, exist_ok=True)
        record = {
            "format": FORMAT,
            "model": plan.model,
            "arguments": dict(plan.arguments),
            "data": asdict(plan.data),
            "training": asdict(plan.training),
            "data_paths": places.recorded(plan.data),
            **facts,
            "versions": versions(),
            "cores": os.cpu_count(),
            "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
        write_json(path / "run.json", record)
        return cls(path, {plan.model: lookup.recipe(plan.function)})

    @classmethod
    def open(
        cls, path: str | Path, recipes: Mapping[str, lookup.Variant] = lookup.NO_RECIPES
    ) -> RunFolder:
        """An existing run folder.

        Raises:
            UsageError: ``path`` is not a run folder.
        """
        path = Path(path).resolve()
        if not (path / "run.json").exists():
            seen, example = "no run.json in it", Path("runs/latest")
            if not path.exists():
                seen = "no such folder"
            elif not path.is_dir():
                seen = "a file"
            elif (path / "sweep.json").exists():
                seen = "a sweep, whose members are runs"
                example = min((found.parent for found in path.glob("*/run.json")), default=example)
            raise UsageError(
                f"{path} is not a run folder ({seen}): expected one that `flaxvae train` wrote, "
                f"such as {example}"
            )
        return cls(path, recipes)

    def extend(
        self,
        plan: Plan,
        changes: Mapping[str, tuple[Any, Any]] | None = None,
        found: DataSettings | None = None,
    ) -> None:
        """Record that the run is resumed, with other epochs, devices or other settings.

        ``found``: where its data were found. ``changes``, {name: (old, new)}, are those that make
        it a different run: run.json lists them, with their time.
        """
        old = self.record()
        record = old | {
            "arguments": dict(plan.arguments),
            "data": asdict(plan.data),
            "training": asdict(plan.training),
            "data_paths": places.recorded(found or plan.data),
        }
        if changes:
            now = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "changed": dict(changes)}
            record["changes"] = [*record.get("changes", []), now]
        if records.seal(record) != records.seal(old):
            record["former"] = [*record.get("former", []), records.seal(old)]
            write_json(self.path / "run.json", record)

    def record(self) -> records.Record:
        """The contents of run.json. Raises DataError if it is damaged or was changed."""
        path = self.path / "run.json"
        record = records.read(path, Format)
        if record["format"] != FORMAT:
            raise DataError(
                f"{path} has format {record['format']}: expected {FORMAT}; use the flaxvae "
                f"that wrote it ({record.get('versions', {}).get('flaxvae', 'unknown')})"
            )
        return records.fit(path, Record, record)

    def digests(self) -> list[str]:
        """Seals of run.json: the current one, then former ones, which older checkpoints have."""
        record = self.record()
        return [records.seal(record), *record.get("former", [])]

    def plan(self) -> Plan:
        """The plan of the run. Raises UsageError if its recipe is neither known nor given."""
        record = self.record()
        name = record["model"]
        function = lookup.recorded(name, self.recipes, self.path)
        try:
            return Plan(
                name,
                lookup.arguments(function, _used(function, record["arguments"])),
                DataSettings(**record["data"]),
                TrainSettings(**record["training"]),
                function,
            )
        except (UsageError, TypeError) as error:
            raise records.damaged(self.path / "run.json", str(error)) from None

    def spec(self) -> DataSpec:
        """The description of the data that the recipe was built with."""
        found = self.record()["data_spec"]
        lists = {name: tuple(x) for name, x in found.items() if isinstance(x, list)}
        if "factors" in lists:
            lists["factors"] = tuple(map(tuple, lists["factors"]))
        try:
            return DataSpec(**found | lists)
        except TypeError as error:
            raise records.damaged(self.path / "run.json", str(error)) from None

    def recipe(self) -> Recipe:
        """The recipe, built for the run's data."""
        plan, spec = self.plan(), self.spec()
        try:
            return plan.recipe(spec)
        except (FlaxvaeError, ValueError, TypeError, LookupError, ArithmeticError) as error:
            raise records.damaged(self.path / "run.json", str(error)) from None

    def finished(self) -> records.Record | None:
        """summary.json of a finished training; None if it is unfinished or was resumed since.

        Raises DataError if it is damaged.
        """
        path = self.path / "summary.json"
        if not path.exists():
            return None
        advice = f"put back an intact copy, or write it again with `{self.resuming}`"
        found, record = records.read(path, Summary, advice), self.record()
        if "run" in found:
            return found if found["run"] == records.seal(record) else None
        last = max((row["epoch"] for row in self.history()), default=0)  # an older flaxvae's
        return found if last <= found["epochs"] and "former" not in record else None

    def history(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl, without damaged or incomplete ones."""
        path, rows = self.path / "metrics.jsonl", list[dict[str, Any]]()
        if not path.exists():
            return rows
        if not path.is_file():
            raise records.damaged(path, "not a file", "move it away")
        for line in path.read_bytes().splitlines():
            with suppress(ValueError):
                row = records.row(line)
                if not rows or row["epoch"] > rows[-1]["epoch"]:
                    rows.append(row)
        return rows

    def as_left(self) -> bool:
        """Whether metrics.jsonl is unchanged since this process last wrote it."""
        return self._left == self._rows_file()

    def _rows_file(self) -> tuple[int, int] | None:
        with suppress(OSError):
            found = (self.path / "metrics.jsonl").stat()
            return found.st_ino, found.st_size
        return None

    def hold(self, held: Held | None) -> None:
        """Let ``mend`` restore this folder, which is that of ``held`` or inside it."""
        self._held = held
        if held is not None:
            held.keep(self.path / "run.json")

    def mend(self) -> list[str]:
        """Rewrite files that have disappeared during training; returns their names.

        Raises:
            DataError: another run has taken the folder's place.
            OSError: it cannot be written.
        """
        gone = self._held.mend() if self._held is not None else []
        if gone:
            self.close()  # its file is gone
        return gone

    def check_complete(self) -> None:
        """Raises DataError unless everything is there that a finished run is loaded from."""
        for path in (self.path / "summary.json", self.checkpoints / str(self.saved)):
            if not path.exists():
                raise DataError(
                    f"{path} has disappeared since it was written: expected a folder that is left "
                    "alone until training ends; move it back and resume, or train again"
                )
        self.mend()

    def rewind(
        self, epochs: int, note: Callable[[str], None] = lambda text: None
    ) -> list[dict[str, Any]]:
        """Drop the rows after the first ``epochs``, which a resumed training repeats.

        ``note`` is told of rows that are damaged or missing: training continues without them.
        """
        rows = [row for row in self.history() if row["epoch"] <= epochs]
        if lost := sorted({*range(1, epochs + 1)} - {row["epoch"] for row in rows}):
            which = ", ".join(map(str, lost[:5])) + ", …" * (len(lost) > 5)
            note(f"{self.path / 'metrics.jsonl'}: damaged or missing, and left out: epoch {which}")
        self.rewrite(rows)
        return rows

    def rewrite(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Replace the contents of metrics.jsonl by these rows."""
        content = "".join(json.dumps(row) + "\n" for row in rows)
        writing.text(self.path / "metrics.jsonl", content)
        self._left = self._rows_file()

    def append(self, row: Mapping[str, Any]) -> None:
        """Add an epoch to metrics.jsonl, and to TensorBoard's events if that is installed.

        Raises OSError if the row may be incomplete: then call ``rewrite`` with all rows.
        """
        writing.append(self.path / "metrics.jsonl", json.dumps(row) + "\n")
        self._left = self._rows_file()
        if self._events is None:
            self._events = events.writer(self.path / "tb")
        self._events.add(row)

    def flush(self) -> None:
        """Flush TensorBoard's events to disk."""
        if self._events is not None:
            self._events.flush()

    def close(self) -> None:
        """Flush and close TensorBoard's events, if there is room for them."""
        written, self._events = self._events, None
        if written is not None:
            written.close()
