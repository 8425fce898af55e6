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
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from flaxvae import compilation, machine, writing
from flaxvae.data import pictures
from flaxvae.data.containers import Container
from flaxvae.data.pictures import Preprocessing, Seen, Unreadable
from flaxvae.errors import DataError, remedy

Watch = Callable[[int, int], None]  # of pictures: done, in all
FORMAT = 1
SAMPLE, CHUNK = 64, 32  # pictures to look at first; pictures that a thread decodes in one go


class Asked(NamedTuple):
    """What is asked of the preprocessing: all of it, or what the pictures do not decide."""

    size: tuple[int, int] | None
    resize: pictures.Resize
    background: pictures.Background
    exactly: Preprocessing | None = None

    def of(self, seen: Iterable[Seen]) -> Preprocessing:
        rest = self.size, self.resize, self.background
        return self.exactly or pictures.agreed(list(seen), *rest)


class Decoded(NamedTuple):
    """The rows of some pictures, and what became of the files."""

    x: np.ndarray  # [N, H, W, C], memory-mapped, of the files that were pictures
    how: Preprocessing
    broken: Mapping[str, str]  # file: why it gave no row
    seen: Mapping[Seen, int]  # how many pictures were like that
    sha256: str  # as `digest` of the parts
    low: int
    high: int


def folder() -> Path | None:
    """The folder of all such caches; None if nothing is to be kept."""
    root = compilation.root()
    return None if root is None else root / "pictures"


def digest(arrays: Iterable[np.ndarray]) -> str:
    """A hash of types, shapes and contents, a few rows at a time."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.dtype}{array.shape}".encode())
        step = max(1, 2**24 // max(array[:1].nbytes, 1))
        for start in range(0, len(array), step):
            found.update(np.ascontiguousarray(array[start : start + step]).data)
    return found.hexdigest()


def decoded(
    container: Container, parts: Sequence[Sequence[str]], asked: Asked, name: str,
    watch: Watch | None = None,
) -> Decoded:  # fmt: skip
    """The rows of these files, part after part: from the cache, or else decoded into it.

    Raises DataError if they cannot be written, or if there are no pictures.
    """
    home = folder()
    try:
        if home is None:  # for this process alone: open files outlive their names
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
                return _opened(_built(Path(scratch), container, parts, asked, watch))
        path = home / f"{name[:60]}-{_key(container, parts, asked)}"
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _locked(path):
            found = _kept(path)
            if found is None:
                writing.clear(home)
                partial = writing.temporary(path)
                try:
                    partial.mkdir()
                    _built(partial, container, parts, asked, watch)
                    shutil.rmtree(path, ignore_errors=True)
                    partial.rename(path)
                finally:
                    shutil.rmtree(partial, ignore_errors=True)
                found = _opened(path)
    except OSError as error:
        reason = error.strerror or str(error)
        advice = remedy(error.strerror)
        raise DataError(
            f"{home or tempfile.gettempdir()}: decoded pictures cannot be kept there ({reason}); "
            f"{advice}, or set FLAXVAE_CACHE_DIR to another folder"
        ) from None
    return found


def _key(container: Container, parts: Sequence[Sequence[str]], asked: Asked) -> str:
    exactly = None if asked.exactly is None else asked.exactly.as_json()
    found = hashlib.sha256(json.dumps([FORMAT, *asked[:3], exactly, parts]).encode())
    stamps = {member.name: member.stamp for member in container.members}
    found.update(json.dumps([stamps[name] for part in parts for name in part]).encode())
    return found.hexdigest()[:16]


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Wait until nobody else is at ``path``, where the system has such locks.

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


# ---- reading


def _kept(path: Path) -> Decoded | None:
    """The rows of a cache; None if there is none, or it is damaged."""
    try:
        found = _opened(path)
    except (OSError, ValueError, LookupError, TypeError):
        return None
    os.utime(path / "cache.json")  # its last use
    return found


def _opened(path: Path) -> Decoded:
    about = json.loads((path / "cache.json").read_text())
    if about["format"] != FORMAT:
        raise ValueError(about["format"])
    how = Preprocessing.from_json(about["preprocessing"])
    x = np.load(path / "rows.npy", mmap_mode="r", allow_pickle=False)
    if x.shape != (about["images"], *how.shape) or x.dtype != how.dtype:
        raise ValueError(x.shape)
    seen = {Seen(*one): count for one, count in about["seen"]}
    return Decoded(x, how, about["broken"], seen, about["sha256"], about["low"], about["high"])


# ---- building


class _Chunk(NamedTuple):
    """What became of some files."""

    rows: np.ndarray | None  # None: some need another preprocessing
    names: list[str]  # of the rows
    broken: dict[str, str]
    seen: Counter[Seen]


def _built(
    path: Path,
    container: Container,
    parts: Sequence[Sequence[str]],
    asked: Asked,
    watch: Watch | None,
) -> Path:
    """Decode pictures into an empty folder, with as many threads as there are cores."""
    names = [name for part in parts for name in part]
    where = machine.cores()
    with pictures.decoding(), ThreadPoolExecutor(where, thread_name_prefix="pictures") as pool:
        sample = names[:: max(1, len(names) // SAMPLE)]
        known = Counter[Seen]()
        for chunk in pool.map(lambda some: _looked(container, some), _chunks(sample, 4)):
            known += chunk.seen
        if not known:  # all of the sample are broken; is there any picture?
            for chunk in _flow(pool, lambda some: _looked(container, some), names):
                known += chunk.seen
                if known:
                    break
        while known:
            how = asked.of(known)
            found = _written(path, pool, container, parts, how, asked, known, watch)
            if found is not None:
                return path
    reasons = _looked(container, names[:1]).broken
    raise DataError(
        f"{container.path}: none of its {len(names):,} files is a picture that can be read; the "
        f"first is {next(iter(reasons))}: {next(iter(reasons.values()))}"
    )


def _written(
    path: Path,
    pool: ThreadPoolExecutor,
    container: Container,
    parts: Sequence[Sequence[str]],
    how: Preprocessing,
    asked: Asked,
    known: Counter[Seen],
    watch: Watch | None,
) -> Path | None:
    """Write all rows; or, once a picture needs another preprocessing, None, and it is ``known``."""
    names = [name for part in parts for name in part]
    fine = set(known)

    def takes(seen: Seen) -> bool:
        if seen in fine:
            return True
        if asked.of([*known, seen]) != how:
            return False
        fine.add(seen)
        return True

    def work(some: Sequence[str]) -> _Chunk:
        return _rows(container, some, how, takes)

    seen, broken, kept = Counter[Seen](), dict[str, str](), list[str]()
    low, high = 65535, 0
    with (path / "rows.npy").open("wb") as file:
        _head(file, how, len(names))
        for chunk in _flow(pool, work, names):
            if chunk.rows is None:
                known.update(chunk.seen)
                return None
            if len(chunk.rows):
                file.write(chunk.rows.data)
                low, high = min(low, int(chunk.rows.min())), max(high, int(chunk.rows.max()))
            kept += chunk.names
            seen += chunk.seen
            broken |= chunk.broken
            if watch is not None:
                watch(len(kept) + len(broken), len(names))
        file.seek(0)
        _head(file, how, len(kept))
        file.flush()
        os.fsync(file.fileno())
    if not kept:
        known.clear()
        return None
    x = np.load(path / "rows.npy", mmap_mode="r")
    sizes = [sum(name not in broken for name in part) for part in parts]
    ends = np.cumsum(sizes)
    about = {
        "format": FORMAT,
        "source": str(container.path.absolute()),
        "images": len(kept),
        "preprocessing": how.as_json(),
        "broken": broken,
        "seen": [[list(one), count] for one, count in seen.items()],
        "sha256": digest(x[end - size : end] for end, size in zip(ends, sizes)),
        "low": low,
        "high": high,
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    writing.text(path / "cache.json", json.dumps(about, indent=1) + "\n")
    return path


def _head(file: Any, how: Preprocessing, count: int) -> None:
    """The header of an .npy, whose length does not depend on the number of rows."""
    shape = (count, *how.shape)
    kind = np.lib.format.dtype_to_descr(np.dtype(how.dtype))
    np.lib.format.write_array_header_1_0(
        file, {"descr": kind, "fortran_order": False, "shape": shape}
    )


def _chunks(names: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (names[i : i + size] for i in range(0, len(names), size))


def _flow(
    pool: ThreadPoolExecutor, work: Callable[[Sequence[str]], _Chunk], names: Sequence[str]
) -> Iterator[_Chunk]:
    """The chunks in order, a bounded number of them in work or waiting."""
    chunks = _chunks(names, CHUNK)
    waiting = [pool.submit(work, some) for some in islice(chunks, 4 * machine.cores())]
    try:
        while waiting:
            yield waiting.pop(0).result()
            waiting += [pool.submit(work, some) for some in islice(chunks, 1)]
    finally:
        for one in waiting:
            one.cancel()


def _looked(container: Container, names: Sequence[str]) -> _Chunk:
    seen, broken = Counter[Seen](), dict[str, str]()
    for name in names:
        try:
            seen[pictures.look(_content(container, name))] += 1
        except Unreadable as why:
            broken[name] = str(why)
    return _Chunk(None, [], broken, seen)


def _rows(
    container: Container,
    names: Sequence[str],
    how: Preprocessing,
    takes: Callable[[Seen], bool],
) -> _Chunk:
    found = np.empty((len(names), *how.shape), how.dtype)
    kept, seen, broken, other = list[str](), Counter[Seen](), dict[str, str](), False
    for name in names:
        try:
            one, row = pictures.row(_content(container, name), how, takes)
        except Unreadable as why:
            broken[name] = str(why)
            continue
        seen[one] += 1
        if row is None:
            other = True
            break
        found[len(kept)] = row
        kept.append(name)
    return _Chunk(None if other else found[: len(kept)], kept, broken, seen)


def _content(container: Container, name: str) -> bytes:
    try:
        return container.read(name)
    except OSError as error:
        raise Unreadable(f"cannot be read ({error.strerror or error})") from None
    except Exception as error:  # zipfile and zlib raise almost anything on damage
        reason = " ".join(str(error).split())[:80]
        raise Unreadable(f"cannot be read ({reason or type(error).__name__})") from None
