"""Pictures that have been decoded, kept as one memory-mapped array for the next time.

<user's cache>/flaxvae/pictures/<name>-<key>/
    rows.npy      [N, H, W, C]: training rows, then those of validation, then of test
    cache.json    what they are of, the files that gave none, and the hash of the rows

The key is a hash of the files (names, sizes, times of change; in a zip their checksums), of their
order, and of what was asked of the preprocessing: of other files there is another cache. It is
written beside and renamed, so it is there in full or not at all. Of two processes that want the
same one, the second waits for the first.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from flaxvae import compilation, writing
from flaxvae.data import decode, rows
from flaxvae.data.containers import Container
from flaxvae.data.decode import Asked, Watch
from flaxvae.data.pictures import Preprocessing, Seen
from flaxvae.errors import DataError, remedy

FORMAT = 1
_ABOUT, _ROWS = "cache.json", "rows.npy"


class Decoded(NamedTuple):
    """The rows of some pictures, and what became of the files."""

    x: np.ndarray  # [N, H, W, C], memory-mapped, of the files that were pictures
    how: Preprocessing
    broken: Mapping[str, str]  # file: why it gave no row
    seen: Mapping[Seen, int]  # how many pictures were like that
    sha256: str  # as ``rows.digest`` of the parts
    low: int
    high: int


def folder() -> Path | None:
    """The folder of all such caches; None if nothing is to be kept."""
    root = compilation.root()
    return None if root is None else root / "pictures"


def decoded(
    container: Container,
    parts: Sequence[Sequence[str]],
    asked: Asked,
    name: str,
    watch: Watch | None = None,
) -> Decoded:
    """The rows of these files, part after part: from the cache, or else decoded into it.

    Raises DataError if they cannot be written, or if there are no pictures.
    """
    home = folder()
    try:
        if home is None:  # for this process alone: open files outlive their names
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
                _build(Path(scratch), container, parts, asked, watch)
                return _opened(Path(scratch))
        path = home / f"{name[:60]}-{_key(container, parts, asked)}"
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = _kept(path)
        if found is not None:
            return found
        with _locked(path):
            found = _kept(path)  # of whom this process has waited for
            if found is not None:
                return found
            writing.clear(home)
            partial = writing.temporary(path)
            try:
                partial.mkdir()
                _build(partial, container, parts, asked, watch)
                shutil.rmtree(path, ignore_errors=True)
                partial.rename(path)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
            return _opened(path)
    except OSError as error:
        raise DataError(
            f"{home or tempfile.gettempdir()}: decoded pictures cannot be kept there "
            f"({error.strerror or error}); {remedy(error.strerror)}, or set FLAXVAE_CACHE_DIR to "
            "another folder"
        ) from None


def _key(container: Container, parts: Sequence[Sequence[str]], asked: Asked) -> str:
    exactly = None if asked.exactly is None else asked.exactly.as_json()
    stamps = {member.name: member.stamp for member in container.members}
    files = [[(name, stamps[name]) for name in part] for part in parts]
    what = json.dumps([FORMAT, *asked[:3], exactly, files])
    return hashlib.sha256(what.encode()).hexdigest()[:16]


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Wait until nobody else builds ``path``, where the system has such locks.

    Without one, two processes may do the same work; the second then replaces what is the same.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    lock = path.with_name(f".{path.name}.lock")
    with lock.open("w") as file:
        with contextlib.suppress(OSError):  # a file system without them
            fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                lock.unlink()


def _build(
    path: Path,
    container: Container,
    parts: Sequence[Sequence[str]],
    asked: Asked,
    watch: Watch | None,
) -> None:
    """Fill an empty folder."""
    names = [name for part in parts for name in part]
    found = decode.write(path / _ROWS, container, names, asked, watch)
    x = np.load(path / _ROWS, mmap_mode="r")
    sizes = [sum(name not in found.broken for name in part) for part in parts]
    ends = np.cumsum(sizes)
    about = {
        "format": FORMAT,
        "source": str(container.path.absolute()),
        "images": found.total,
        "preprocessing": found.how.as_json(),
        "broken": found.broken,
        "seen": [[list(one), count] for one, count in found.seen.items()],
        "sha256": rows.digest(x[end - size : end] for end, size in zip(ends, sizes)),
        "low": found.low,
        "high": found.high,
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    writing.text(path / _ABOUT, json.dumps(about, indent=1) + "\n")


def _kept(path: Path) -> Decoded | None:
    """The rows of a cache; None if there is none, or it is damaged."""
    try:
        found = _opened(path)
    except (OSError, ValueError, LookupError, TypeError):
        return None
    with contextlib.suppress(OSError):
        os.utime(path / _ABOUT)  # its last use
    return found


def _opened(path: Path) -> Decoded:
    about = json.loads((path / _ABOUT).read_text())
    if about["format"] != FORMAT:
        raise ValueError(about["format"])
    how = Preprocessing.from_json(about["preprocessing"])
    x = np.load(path / _ROWS, mmap_mode="r", allow_pickle=False)
    if x.shape != (about["images"], *how.shape) or x.dtype != how.dtype:
        raise ValueError(x.shape)
    seen = {Seen(*one): count for one, count in about["seen"]}
    return Decoded(x, how, about["broken"], seen, about["sha256"], about["low"], about["high"])


def about(path: Path) -> tuple[str, tuple[int, ...], float]:
    """What the rows in a folder are of, their shape, and when they were last used.

    Raises OSError, ValueError, LookupError or TypeError if it is damaged.
    """
    source = json.loads((path / _ABOUT).read_text())["source"]
    return str(source), _opened(path).x.shape, (path / _ABOUT).stat().st_mtime
