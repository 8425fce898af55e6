"""Many pictures to the rows of one file, with as many threads as there are cores.

What all of them have in common decides the preprocessing, so a few are looked at first. If a later
one is not like that, for instance the first with colours, decoding begins anew; that is at most
three times, because what pictures agree on only becomes less.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from flaxvae import machine
from flaxvae.data import pictures
from flaxvae.data.containers import Container, shown
from flaxvae.data.pictures import Preprocessing, Seen, Unreadable
from flaxvae.errors import DataError
from flaxvae.settings import Background, Resize

Watch = Callable[[int, int], None]  # of pictures: done, in all
SAMPLE, CHUNK = 64, 32  # pictures to look at first; pictures that a thread decodes in one go


class Asked(NamedTuple):
    """What is asked of the preprocessing: all of it, or what the pictures do not decide."""

    size: tuple[int, int] | None
    resize: Resize
    background: Background
    exactly: Preprocessing | None = None

    def of(self, seen: Iterable[Seen]) -> Preprocessing:
        """The preprocessing of such pictures together."""
        rest = self.size, self.resize, self.background
        return self.exactly or pictures.agreed(list(seen), *rest)


class Written(NamedTuple):
    """What became of files whose rows were written."""

    how: Preprocessing
    total: int  # of rows
    broken: dict[str, str]  # file: why it gave no row
    seen: Counter[Seen]  # how many pictures were like that
    low: int
    high: int


def write(
    path: Path, container: Container, names: Sequence[str], asked: Asked, watch: Watch | None
) -> Written:
    """Decode files into a new .npy, [N, H, W, C] in their order, without those that are broken.

    Raises:
        DataError: none of them is a picture.
        OSError: the file cannot be written.
    """
    threads = ThreadPoolExecutor(machine.cores(), thread_name_prefix="pictures")
    with pictures.decoding(), threads as pool:
        known = _sampled(pool, container, names)
        while known:
            found = _pass(path, pool, container, names, asked, known, watch)
            if found is not None and found.total:
                return found
            if found is not None:
                break
    why = _looked(container, names[:1]).broken.get(names[0], "damaged")
    first = f"{shown(names[0])}: {why}; expected pictures"
    if len(names) == 1:
        raise DataError(f"{container.path}: its only file cannot be read as a picture, {first}")
    raise DataError(
        f"{container.path}: none of its {len(names):,} files is a picture that can be read; the "
        f"first is {first}"
    )


class _Chunk(NamedTuple):
    """What became of some files."""

    rows: np.ndarray | None  # None: some need another preprocessing
    broken: dict[str, str]
    seen: Counter[Seen]


def _sampled(pool: ThreadPoolExecutor, container: Container, names: Sequence[str]) -> Counter[Seen]:
    """What some of the pictures are like: one at least, if there is any."""
    sample = names[:: max(1, len(names) // SAMPLE)]
    known = Counter[Seen]()
    for some in (sample, names):
        for chunk in _flow(pool, lambda few: _looked(container, few), some, 4):
            known += chunk.seen
            if known and some is names:
                break
        if known:
            break
    return known


def _pass(
    path: Path,
    pool: ThreadPoolExecutor,
    container: Container,
    names: Sequence[str],
    asked: Asked,
    known: Counter[Seen],
    watch: Watch | None,
) -> Written | None:
    """Write all rows; or None, if a picture, then ``known``, needs another preprocessing."""
    how, fine = asked.of(known), set(known)

    def takes(one: Seen) -> bool:
        if one not in fine and asked.of([*known, one]) != how:
            return False
        fine.add(one)
        return True

    seen, broken, count, done = Counter[Seen](), dict[str, str](), 0, 0
    low, high = 65535, 0
    with path.open("wb") as file:
        _head(file, how, len(names))
        for chunk in _flow(pool, lambda some: _rows(container, some, how, takes), names, CHUNK):
            if chunk.rows is None:
                known.update(chunk.seen)
                return None
            if len(chunk.rows):
                file.write(chunk.rows.data)
                low, high = min(low, int(chunk.rows.min())), max(high, int(chunk.rows.max()))
            count += len(chunk.rows)
            seen += chunk.seen
            broken |= chunk.broken
            done += len(chunk.rows) + len(chunk.broken)
            if watch is not None:
                watch(done, len(names))
        file.seek(0)
        _head(file, how, count)
        file.flush()
        os.fsync(file.fileno())
    return Written(how, count, broken, seen, low, high)


def _head(file: Any, how: Preprocessing, count: int) -> None:
    """The header of an .npy, whose length does not depend on the number of rows."""
    kind = np.lib.format.dtype_to_descr(np.dtype(how.dtype))
    about = {"descr": kind, "fortran_order": False, "shape": (count, *how.shape)}
    np.lib.format.write_array_header_1_0(file, about)


def _flow(
    pool: ThreadPoolExecutor,
    work: Callable[[Sequence[str]], _Chunk],
    names: Sequence[str],
    size: int,
) -> Iterator[_Chunk]:
    """The results for chunks of names, in order; a bounded number of them is in work or waits."""
    chunks = (names[i : i + size] for i in range(0, len(names), size))
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
            seen[pictures.look(content(container, name))] += 1
        except Unreadable as why:
            broken[name] = str(why)
    return _Chunk(None, broken, seen)


def _rows(
    container: Container, names: Sequence[str], how: Preprocessing, takes: Callable[[Seen], bool]
) -> _Chunk:
    found, count = np.empty((len(names), *how.shape), how.dtype), 0
    seen, broken = Counter[Seen](), dict[str, str]()
    for name in names:
        try:
            one, row = pictures.row(content(container, name), how, takes)
        except Unreadable as why:
            broken[name] = str(why)
            continue
        seen[one] += 1
        if row is None:
            return _Chunk(None, broken, seen)
        found[count] = row
        count += 1
    return _Chunk(found[:count], broken, seen)


def content(container: Container, name: str) -> bytes:
    """What is in a file. Raises Unreadable, or DataError if no file can be read."""
    try:
        return container.read(name)
    except DataError:
        raise
    except Exception as error:  # zipfile and zlib raise almost anything on damage
        said = getattr(error, "strerror", None) or " ".join(str(error).split())[:80]
        raise Unreadable(f"cannot be read ({said or type(error).__name__})") from None
