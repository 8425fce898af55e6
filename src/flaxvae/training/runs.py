"""The run folder: everything that describes a run, and from which it is rebuilt.

runs/<dataset>-<model>-s<seed>-<time>/
    run.json         what was asked for and with what versions: rebuilds the model
    metrics.jsonl    one line an epoch
    lock             while a process trains it
    summary.json     the closing numbers
    checkpoints/     Orbax
    figures/*.png
    tb/              TensorBoard events, where tensorboardX is installed
runs/latest          points to the newest
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from flaxvae import writing, zoo
from flaxvae.errors import DataError, UsageError, command
from flaxvae.settings import DataSettings, TrainSettings, asdict
from flaxvae.training import events
from flaxvae.training.lock import Held

FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a run is asked to be: all that decides its result, given the machine."""

    model: str
    arguments: Mapping[str, Any]  # of the recipe
    data: DataSettings
    training: TrainSettings  # with epochs filled in

    def recipe(self, spec: zoo.DataSpec) -> zoo.Recipe:
        """The recipe, built for these data."""
        return zoo.build(self.model, spec, **self.arguments)


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that the file is either the old one or the whole new one."""
    writing.text(path, json.dumps(value, indent=2) + "\n")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """What goes wrong inside is the file's fault: DataError."""
    try:
        yield
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise DataError(f"{path} is damaged ({reason}): expected what train wrote") from None


def versions() -> dict[str, str]:
    """Versions of Python and the packages that decide a result."""
    names = ("flaxvae", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # run from a source tree, not installed
            found[name] = "not installed"
    return found


class RunFolder:
    """The files of one run; knows their names and formats, nothing of models."""

    def __init__(self, path: Path):
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.figures = path / "figures"
        self.goes_on = command("flaxvae", "train", "--resume", path)
        self.saved: int | None = None  # the last step, once it is on the disk
        self._held: Held | None = None
        self._events: events.Events | None = None
        self._left: tuple[int, int] | None = None  # metrics.jsonl, as this process left it

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
            **facts,
            "versions": versions(),
            "cores": os.cpu_count(),
            "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
        write_json(path / "run.json", record)
        return cls(path)

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """An existing run folder.

        Raises:
            UsageError: ``path`` is not a run folder.
        """
        path = Path(path).resolve()
        if not (path / "run.json").is_file():
            seen = "no such folder" if not path.exists() else "no run.json in it"
            raise UsageError(
                f"{path} is not a run folder ({seen}): expected one that `flaxvae train` wrote, "
                "such as runs/latest"
            )
        return cls(path)

    def extend(self, plan: Plan, changes: Mapping[str, tuple[Any, Any]] | None = None) -> None:
        """Record that the run goes on, to other epochs, on other devices, or otherwise.

        ``changes``, {name: (old, new)}, are those that make it another run than it was: run.json
        lists them, with their time.
        """
        record = self.record() | {
            "arguments": dict(plan.arguments),
            "data": asdict(plan.data),
            "training": asdict(plan.training),
        }
        if changes:
            now = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "changed": dict(changes)}
            record["changes"] = [*record.get("changes", []), now]
        write_json(self.path / "run.json", record)

    def record(self) -> dict[str, Any]:
        """The contents of run.json. Raises DataError if it cannot be read as such."""
        path = self.path / "run.json"
        with _reading(path):
            record = json.loads(path.read_text())
            known = record["format"] == FORMAT
        if not known:
            raise DataError(
                f"{path} has format {record['format']}: expected {FORMAT}; use the flaxvae "
                f"that wrote it ({record.get('versions', {}).get('flaxvae', 'unknown')})"
            )
        return record

    def plan(self) -> Plan:
        """What the run was asked to be."""
        record = self.record()
        with _reading(self.path / "run.json"):
            arguments = {
                name: tuple(value) if isinstance(value, list) else value
                for name, value in record["arguments"].items()
            }
            return Plan(
                record["model"],
                arguments,
                DataSettings(**record["data"]),
                TrainSettings(**record["training"]),
            )

    def spec(self) -> zoo.DataSpec:
        """What the recipe was told of the data."""
        record = self.record()
        with _reading(self.path / "run.json"):
            lists = {k: tuple(v) for k, v in record["data_spec"].items() if isinstance(v, list)}
            return zoo.DataSpec(**record["data_spec"] | lists)

    def history(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl; a last line that was cut off does not count."""
        rows = []
        path = self.path / "metrics.jsonl"
        for line in path.read_text().splitlines() if path.exists() else []:
            try:
                rows.append(json.loads(line))
            except ValueError:
                break
        return rows

    def as_left(self) -> bool:
        """Whether metrics.jsonl is the file that this process last wrote, in full."""
        return self._left == self._rows_file()

    def _rows_file(self) -> tuple[int, int] | None:
        with suppress(OSError):
            found = (self.path / "metrics.jsonl").stat()
            return found.st_ino, found.st_size
        return None

    def hold(self, held: Held | None) -> None:
        """Be the folder that ``held`` is, or one within it, for ``mend``."""
        self._held = held
        if held is not None:
            held.keep(self.path / "run.json")

    def mend(self) -> list[str]:
        """Write again what has gone of a folder in training; returns the names of it.

        Raises:
            DataError: another run is in its place.
            OSError: it cannot be written.
        """
        gone = self._held.mend() if self._held is not None else []
        if gone:
            self.close()  # what is written there is lost
        return gone

    def check_complete(self) -> None:
        """Raises DataError unless all is there that a finished run is loaded from."""
        for path in (self.path / "summary.json", self.checkpoints / str(self.saved)):
            if not path.exists():
                raise DataError(
                    f"{path} has gone since it was written: expected a folder that is left alone "
                    "until its training ends; move it back and resume it, or train again"
                )
        self.mend()

    def rewind(self, epochs: int) -> list[dict[str, Any]]:
        """Forget the epochs after the first ``epochs``, which a resume will do again."""
        rows = [row for row in self.history() if row["epoch"] <= epochs]
        self.rewrite(rows)
        return rows

    def rewrite(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Make these the rows of metrics.jsonl, whatever became of it."""
        content = "".join(json.dumps(row) + "\n" for row in rows)
        writing.text(self.path / "metrics.jsonl", content)
        self._left = self._rows_file()

    def append(self, row: Mapping[str, Any]) -> None:
        """Add an epoch to metrics.jsonl, and to TensorBoard's events where it is installed.

        Raises OSError if it may not be there in full: then ``rewrite`` what there should be.
        """
        writing.append(self.path / "metrics.jsonl", json.dumps(row) + "\n")
        self._left = self._rows_file()
        if self._events is None:
            self._events = events.writer(self.path / "tb")
        self._events.add(row)

    def flush(self) -> None:
        """Have TensorBoard's events on the disk."""
        if self._events is not None:
            self._events.flush()

    def close(self) -> None:
        """Flush TensorBoard's events, if there is room for them."""
        written, self._events = self._events, None
        if written is not None:
            written.close()


def check_new(path: Path, goes_on: str) -> None:
    """Raises UsageError unless ``path`` can be a new folder: there is none, or nothing in it.

    ``goes_on`` is the command that would go on with what is in it.
    """
    if path.exists() and not (path.is_dir() and writing.is_empty(path)):
        raise UsageError(
            f"--run {path} exists and is not empty: expected a new folder; to go on with it, "
            f"`{command(*goes_on.split(), path)}`"
        )


def make_new(stem: str, root: Path = Path("runs")) -> Path:
    """Make a folder of its own, even if another process asks for one of this name just now."""
    for number in itertools.count(1):
        path = root / (stem if number == 1 else f"{stem}-{number}")
        with suppress(FileExistsError):
            path.mkdir(parents=True)
            return path
    raise AssertionError


def point_latest(path: Path) -> str:
    """Point ``latest`` beside a run folder to it; returns why that cannot be, or ""."""
    link = path.parent / "latest"
    if link.is_symlink() or not link.exists():
        try:
            writing.link(link, path.name)
        except (OSError, NotImplementedError) as error:
            return getattr(error, "strerror", None) or str(error)
    return ""
