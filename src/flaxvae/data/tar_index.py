"""Which files a compressed tar holds, kept so that it need not be decompressed to know.

<user's cache>/flaxvae/archives/<name>-<key>.npz    names, sizes, and offsets in the plain tar

The key is a hash of the archive's path, size and times of change: of another archive there is
another index. One that cannot be read is made anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from flaxvae import compilation, writing

FORMAT = 1


class File(NamedTuple):
    """A file in a tar."""

    name: str
    size: int  # bytes
    offset: int  # of its first byte


def stamp(path: Path) -> tuple[int, int, int]:
    """What changes when an archive does."""
    about = path.stat()
    return about.st_size, about.st_mtime_ns, about.st_ctime_ns


def folder() -> Path | None:
    """The folder of all indices; None if nothing is to be kept."""
    root = compilation.root()
    return None if root is None else root / "archives"


def kept(path: Path, stamp: tuple[int, ...]) -> list[File] | None:
    """The files in an archive with this stamp, in its order; None if they are not known."""
    index = _path(path, stamp)
    if index is None:
        return None
    try:
        with np.load(index, allow_pickle=False) as file:
            names = bytes(file["names"]).decode("utf-8", "surrogateescape").split("\0")
            found = [names, file["sizes"].tolist(), file["offsets"].tolist()]
        files = [File(*one) for one in zip(*found, strict=True)]
    except Exception:  # numpy, zipfile and zlib raise almost anything on damage
        return None
    with contextlib.suppress(OSError):
        os.utime(index)  # its last use
    return files


def keep(path: Path, stamp: tuple[int, ...], files: list[File]) -> None:
    """Keep the files in an archive with this stamp; without room or access, nothing is kept."""
    index = _path(path, stamp)
    if index is None or not files:
        return
    names = "\0".join(one.name for one in files).encode("utf-8", "surrogateescape")
    with contextlib.suppress(OSError):
        index.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        writing.clear(index.parent)
        with writing.whole(index) as file:
            np.savez(
                file,
                names=np.frombuffer(names, np.uint8),
                sizes=np.array([one.size for one in files], np.int64),
                offsets=np.array([one.offset for one in files], np.int64),
            )


def _path(path: Path, stamp: tuple[int, ...]) -> Path | None:
    home = folder()
    of = [FORMAT, str(path.absolute()), *stamp]
    key = hashlib.sha256(json.dumps(of).encode()).hexdigest()[:16]
    name = re.sub(r"[^\w.+-]+", "_", re.sub(r"(\.tar)?\.\w+$", "", path.name))[:60]
    return None if home is None else home / f"{name}-{key}.npz"
