"""What is kept for the next time, as ``flaxvae cache`` lists and removes it.

<user's cache>/flaxvae/pictures/       decoded pictures (``data.cache``), a folder each
<user's cache>/flaxvae/classifiers/    classifiers of training images (``classified``), a file each
<user's cache>/flaxvae/archives/       which files compressed tars hold (``data.tar_index``)

Compiled programs are not listed: they have a limit of their own (``compilation``). Nothing here
imports JAX.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from flaxvae import compilation, writing
from flaxvae.data import cache, tar_index
from flaxvae.errors import UsageError, did_you_mean

CLASSIFIERS = "classifiers"


class Entry(NamedTuple):
    """Something that is kept."""

    name: str
    path: Path
    source: str  # what it is of; "" of one that is damaged
    shape: tuple[int, ...]  # of decoded pictures, [N, H, W, C]
    size: int  # bytes
    used: float  # last, in seconds since 1970


def entries() -> list[Entry]:
    """All that is kept, the last used first."""
    pictures = [_pictures(path) for path in _visible(cache.folder()) if path.is_dir()]
    files = [
        _file(path, what)
        for folder, what in ((classifiers(), "classifier of"), (tar_index.folder(), "files in"))
        for path in _visible(folder)
        if path.suffix == ".npz"
    ]
    return sorted([*pictures, *files], key=lambda entry: -entry.used)


def classifiers() -> Path | None:
    """The folder of classifiers; None if nothing is to be kept."""
    root = compilation.root()
    return None if root is None else root / CLASSIFIERS


def _visible(folder: Path | None) -> list[Path]:
    """What is in a folder, if there is one, without what is half written."""
    if folder is None or not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if not path.name.startswith(".")]


def _pictures(path: Path) -> Entry:
    source, shape, size, used = "", tuple[int, ...](), 0, 0.0
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        size = sum(file.stat().st_size for file in path.iterdir())
        source, shape, used = cache.about(path)
    return Entry(path.name, path, source, shape, size, used)


def _file(path: Path, what: str) -> Entry:
    size, used = 0, 0.0
    with contextlib.suppress(OSError):
        size, used = path.stat().st_size, path.stat().st_mtime
    return Entry(path.stem, path, f"{what} {_data(path.stem)}", (), size, used)


def _data(name: str) -> str:
    """The data's name in an entry's: the rest is a key."""
    return name.rpartition("-")[0]


def clear(names: Sequence[str] = ()) -> list[Entry]:
    """Remove what is kept, by default all, and return it.

    ``names`` are those of entries, or of data. Whoever has one open keeps it until the end.

    Raises UsageError for a name that is of none.
    """
    found = entries()
    chosen = {entry.path: entry for entry in found if not names}
    for name in names:
        of = {e.path: e for e in found if name in (e.name, _data(e.name))}
        if not of:
            raise UsageError(
                f"--clear {name}: expected the name of a cache, as `flaxvae cache` lists them"
                f"{did_you_mean(name, [e.name for e in found])}"
            )
        chosen |= of
    for path in chosen:
        aside = writing.temporary(path)  # never half of one under its name
        path.rename(aside)
        shutil.rmtree(aside) if aside.is_dir() else aside.unlink()
    return list(chosen.values())
