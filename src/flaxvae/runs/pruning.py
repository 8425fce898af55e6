"""Removing runs: never one that is in training, nor anything that is no run or not flaxvae's.

A run is removed under its own lock, so that no training can begin in it meanwhile, and its folder
is renamed first: what is interrupted leaves no half of a run that looks like one.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from flaxvae import writing
from flaxvae.errors import DataError
from flaxvae.runs import lock
from flaxvae.runs.listing import Entry, listing
from flaxvae.runs.verify import LEFTOVERS, READ

# What commands write into a run, beside what ``verify`` reads.
WRITTEN = ("report*.html", "*.png", "*.gif", "latents*", "scores*", "restored*", "samples*")


def spared(entry: Entry) -> str:
    """Why a run may not be removed, in words; "" if it may."""
    holder = lock.holder(entry.path)
    return _unfit(entry) or (f"in use by {holder}" if holder else "")


def _unfit(entry: Entry) -> str:
    """``spared``, but for its lock."""
    path = entry.path
    if entry.kind == "sweep":
        return "a sweep, which is removed as a whole by hand"
    if (path.parent / "sweep.json").exists():
        return "a member of a sweep, whose table is of all its members"
    if path.is_symlink():
        return f"a link to {path.resolve()}"
    if not entry.record:
        return "its run.json is damaged, so it may be anything; remove it by hand"
    return _strange(path)


def _strange(path: Path) -> str:
    """What is in a run's folder that flaxvae did not write, in words."""
    known = (*READ, *LEFTOVERS, *WRITTEN)
    with os.scandir(path) as found:
        names = sorted(x.name for x in found if not any(map(Path(x.name).match, known)))
    return f"it holds {names[0]}, which flaxvae did not write; move that away" if names else ""


def size(path: Path) -> int:
    """Bytes of the files in a folder; links are not followed."""
    each = (Path(folder, name) for folder, _, files in os.walk(path) for name in files)
    return sum(file.lstat().st_size for file in each)


def remove(entry: Entry) -> None:
    """Remove a run's folder, and point ``latest`` beside it to the newest that is left.

    Raises DataError or UsageError, and leaves it, if it may not be removed.
    """
    path = entry.path
    with lock.hold(path):
        if reason := _unfit(entry):
            raise DataError(f"{path}: {reason}")
        aside = writing.temporary(path)
        path.rename(aside)
    shutil.rmtree(aside)
    latest = path.parent / "latest"
    if latest.is_symlink() and not latest.exists():
        left = [each for each in listing([path.parent]).entries if each.kind == "run"]
        newest = max(left, key=lambda each: str(each.record.get("created", "")), default=None)
        if newest is None:
            latest.unlink()
        else:
            writing.link(latest, newest.path.name)
