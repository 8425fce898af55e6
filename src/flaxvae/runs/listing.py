"""What lies in a folder of runs, from its small files alone: no checkpoint is read, no model built.

Whatever is there may be damaged, half written, in training, or somebody else's: each entry says
what it is, and none stops the others from being listed. Nothing here imports JAX.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, NotRequired, TypedDict

from flaxvae.errors import DataError, UsageError
from flaxvae.runs import lock, records

State = Literal["finished", "training", "stopped", "damaged"]
NOTHING: Mapping[str, Any] = MappingProxyType({})
LARGEST = 2**24  # bytes of a record; those that flaxvae writes have some thousands
TAIL = 2**14  # bytes at the end of metrics.jsonl, with its last row


class _Run(TypedDict):
    """What is looked at of run.json."""

    format: int
    model: str
    arguments: dict[str, Any]
    data: dict[str, Any]
    training: dict[str, Any]
    data_spec: NotRequired[dict[str, Any]]
    created: NotRequired[str]
    parameters: NotRequired[int]


class _Summary(TypedDict):
    epochs: int
    test: dict[str, Any]
    run: NotRequired[str]


class _Member(TypedDict):
    name: str
    settings: dict[str, Any]
    seed: int
    diverged: int | None


class _Sweep(TypedDict):
    """What is looked at of sweep.json."""

    format: int
    model: str
    settings: dict[str, Any]
    varied: dict[str, list[Any]]
    members: list[_Member]
    seeds: NotRequired[list[int]]
    created: NotRequired[str]
    table: NotRequired[list[Any]]


class Entry(NamedTuple):
    """A run, or a sweep of which the members are runs."""

    path: Path
    kind: Literal["run", "sweep"]
    state: State
    record: Mapping[str, Any] = NOTHING  # run.json or sweep.json, if it is whole
    summary: Mapping[str, Any] = NOTHING  # summary.json of a finished run
    last: Mapping[str, Any] = NOTHING  # the last row of metrics.jsonl of a run that is none
    why: str = ""  # it is damaged, in words

    @property
    def test(self) -> Mapping[str, Any]:
        """A finished run's numbers on test images."""
        return self.summary.get("test", NOTHING)


class Listing(NamedTuple):
    """The contents of folders."""

    entries: list[Entry]
    others: list[Path]  # folders that are neither runs nor sweeps


def listing(folders: Sequence[str | Path], members: bool = False) -> Listing:
    """The runs in ``folders``, which may be runs themselves, in the order of their names.

    The members of a sweep are listed with ``members``, or if it is one of ``folders``. What several
    of these lead to is listed once.

    Raises UsageError if there is no such folder.
    """
    entries, others = dict[Path, Entry](), list[Path]()
    for root in map(Path, folders):
        if not root.is_dir():
            raise UsageError(f"{root}: expected a folder of runs, as `flaxvae train` makes one")
        if root.name in ("", ".."):  # which is no name
            root = root.resolve()
        own = entry(root)
        if own is not None and own.kind == "run":
            entries.setdefault(root.resolve(), own)
            continue
        for path in _folders(root):
            found = entry(path)
            if found is None:
                others += [] if own else [path]
                continue
            inside = _folders(path) if members and found.kind == "sweep" else []
            for each in [one for one in map(entry, inside) if one] or [found]:
                entries.setdefault(each.path.resolve(), each)
    return Listing([*entries.values()], others)


def _folders(root: Path) -> list[Path]:
    """The folders in a folder, without links beside the folders that they point to."""
    try:
        with os.scandir(root) as found:
            each = [(x.name, x.is_symlink()) for x in found if _is_dir(x)]
    except OSError as error:
        raise DataError(f"{root}: {error.strerror}: expected a folder that can be read") from None
    own = {root / name for name, linked in each if not linked and name[0] != "."}
    linked = {root / name for name, linked in each if linked}
    resolved = {path.resolve() for path in own} if linked else set()
    return sorted(own | {path for path in linked if path.resolve() not in resolved})


def _is_dir(found: os.DirEntry[str]) -> bool:
    try:
        return found.is_dir()
    except OSError:
        return False


def entry(path: Path) -> Entry | None:
    """The run or sweep at ``path``; None if it is neither."""
    if (path / "sweep.json").is_file():
        return _sweep(path)
    if os.path.lexists(path / "run.json"):
        return _run(path)
    return None


def _run(path: Path) -> Entry | None:
    try:
        record = _read(path / "run.json", _Run)
    except DataError as error:
        return Entry(path, "run", "damaged", why=str(error))
    if record is None:
        return None
    held = lock.holder(path) is not None
    try:
        summary = _read(path / "summary.json", _Summary) if not held else None
    except DataError as error:
        return Entry(path, "run", "damaged", record, last=_last(path), why=str(error))
    if summary is not None and _of(summary, record, path):
        return Entry(path, "run", "finished", record, summary)
    return Entry(path, "run", "training" if held else "stopped", record, last=_last(path))


def _of(summary: Mapping[str, Any], record: Mapping[str, Any], path: Path) -> bool:
    """Whether a summary is of the training that run.json describes, as ``RunFolder.finished``."""
    if "run" in summary:
        return bool(summary["run"] == records.seal(record))
    return "former" not in record and _last(path).get("epoch", 0) <= summary["epochs"]


def _sweep(path: Path) -> Entry | None:
    try:
        record = _read(path / "sweep.json", _Sweep)
    except DataError as error:
        return Entry(path, "sweep", "damaged", why=str(error))
    if record is None:
        return None
    if lock.holder(path) is not None:
        return Entry(path, "sweep", "training", record)
    return Entry(path, "sweep", "finished" if "table" in record else "stopped", record)


def _read(path: Path, kind: Any) -> Any:
    """A record; None if there is none, or another program's. Raises DataError if it is damaged."""
    with suppress(OSError):
        if path.stat().st_size > LARGEST:
            raise records.damaged(path, f"{path.stat().st_size:,} bytes")
    if not os.path.lexists(path):
        return None
    found = records.read(path, dict[str, Any])
    foreign = kind is not _Summary and "format" not in found
    return None if foreign else records.fit(path, kind, found)


def _last(path: Path) -> Mapping[str, Any]:
    """The last whole row of metrics.jsonl."""
    with suppress(OSError), (path / "metrics.jsonl").open("rb") as file:
        file.seek(max(file.seek(0, os.SEEK_END) - TAIL, 0))
        for line in reversed(file.read().splitlines()):
            with suppress(ValueError):
                return records.row(line)
    return NOTHING


def facts(entry: Entry) -> dict[str, Any]:
    """What is known of a run by name: state, settings, and its numbers on test images.

    ``elbo`` and other numbers are in nats as in summary.json; those of an unfinished run are the
    last epoch's, ``validation_elbo`` and the like.
    """
    record, test = entry.record, entry.test
    parts = [record.get(x, {}) for x in ("settings", "data", "training", "arguments")]
    settings = {name: value for part in parts for name, value in part.items()}
    settings.pop("kl", None)  # its estimator; here kl is the number
    numbers = {k: v for k, v in (*entry.last.items(), *test.items()) if _is_number(v)}
    named = {
        "run": entry.path.name,
        "state": entry.state,
        "kind": entry.kind,
        "model": record.get("model"),
        "data": dataset(record),
        "epochs": entry.summary.get("epochs", numbers.pop("epoch", None)),
        "created": record.get("created"),
        "parameters": record.get("parameters"),
    }
    return {k: v for k, v in (numbers | settings | named).items() if v is not None}


def dataset(record: Mapping[str, Any]) -> str | None:
    """The data's name, short: of a file or a folder, that of its last part."""
    named = {**record.get("settings", {}), **record.get("data", {})}.get("dataset")
    return Path(named).name if isinstance(named, str) else None


def _is_number(value: Any) -> bool:
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return known and math.isfinite(value)


def names(entries: Iterable[Entry]) -> list[str]:
    """The names of all that is known of some of them."""
    return list(dict.fromkeys(name for each in entries for name in facts(each)))
