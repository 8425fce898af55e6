"""Removing runs: never one that is in training, nor anything that is no run or not flaxvae's.

A run is removed under its own lock, so that no training can begin in it meanwhile, and its folder
is renamed first: what is interrupted leaves no half of a run that looks like one.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from flaxvae import writing
from flaxvae.errors import DataError
from flaxvae.runs import export_folder, lock
from flaxvae.runs.listing import Entry, listing
from flaxvae.runs.verify import LEFTOVERS, READ

# What commands write into a run, beside what ``verify`` reads.
WRITTEN = ("report*.html", "latents*.csv", "latents*.tsv", "latents*.parquet")
# And into the folders in it.
INSIDE = {"figures": ("*.png", "*.gif"), "tb": ("events*",), "checkpoints": ("[0-9]*",)}


def spared(entry: Entry) -> str:
    """Why a run may not be removed, in words; "" if it may."""
    holder = lock.holder(entry.path)
    return _unfit(entry) or (f"in use by {holder}" if holder else "")


def _unfit(entry: Entry) -> str:
    """``spared``, but for its lock."""
    path = entry.path
    if entry.kind == "sweep":
        return "a sweep, which is never removed here: all its members would go; remove it by hand"
    if (path.parent / "sweep.json").exists():
        return "a member of a sweep, whose table is of all its members"
    if path.is_symlink():
        return f"a link to {path.resolve()}"
    if not entry.record:
        return "its run.json is damaged, so it may be anything; remove it by hand"
    return _strange(path)


def _strange(path: Path) -> str:
    """What is in a run's folder that flaxvae did not write, in words."""
    found = next(_added(path), None)
    if found is None:
        return ""
    name = found.relative_to(path).as_posix()
    return f"it holds {name}, which flaxvae did not write; move that away"


def _added(path: Path) -> Iterator[Path]:
    """What flaxvae did not write into a run."""
    yield from _unknown(path, (*READ, *WRITTEN))
    for name, known in INSIDE.items():
        yield from _unknown(path / name, known)
    for each in _unknown(path / export_folder.FOLDER, ()):
        try:
            yield from (each / name for name in export_folder.added(each))
            if export_folder.is_edited(each):
                yield each / export_folder.CARD
        except (DataError, OSError):
            yield each
    if (path / "prior").is_dir():
        yield from _added(path / "prior")


def _unknown(folder: Path, known: Sequence[str]) -> list[Path]:
    """What is in a folder, if there is one, and has none of the ``known`` names."""
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    return [each for each in found if not any(map(Path(each.name).match, (*known, *LEFTOVERS)))]


def size(path: Path) -> int:
    """Bytes of the files in a folder; links are not followed."""
    each = (Path(folder, name) for folder, _, files in os.walk(path) for name in files)
    return sum(file.lstat().st_size for file in each)


def clear(folder: Path) -> None:
    """Remove the rest of runs in a folder whose removal was killed."""
    for path in folder.glob(".*.partial"):
        found = re.fullmatch(r"\.(.+)\.\d+-[0-9a-f]{8}\.partial", path.name)
        if found and path.is_dir() and not path.is_symlink():
            writing.clear(folder, found[1])


def remove(entry: Entry) -> None:
    """Remove a run's folder, and point a ``latest`` that names it to the newest that is left.

    Raises DataError or UsageError, and leaves it, if it may not be removed.
    """
    path = entry.path
    with lock.hold(path):
        if reason := _unfit(entry):
            raise DataError(f"{path}: {reason}")
        latest = path.parent / "latest"
        named = latest.is_symlink() and latest.resolve() == path.resolve()
        aside = writing.temporary(path)
        path.rename(aside)
    os.utime(aside)  # it is this process's until it is old
    shutil.rmtree(aside)
    if named and latest.is_symlink() and not latest.exists():  # no training has begun meanwhile
        left = [each for each in listing([path.parent]).entries if each.kind == "run"]
        newest = max(left, key=lambda each: str(each.record.get("created", "")), default=None)
        if newest is None:
            latest.unlink()
        else:
            writing.link(latest, newest.path.name)
