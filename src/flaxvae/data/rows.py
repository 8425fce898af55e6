"""Some rows of an array that may be larger than memory, read where they are asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from flaxvae.data import reading

IN_MEMORY = 2**28  # bytes up to which an array is read whole
AT_ONCE = 2**24  # bytes that are read at once where all of an array is gone through


class Rows:
    """A view of rows of an array, often memory-mapped: indexing it reads, nothing else does.

    It has the shape and the dtype of an array; ``rows[index]``, for a slice or an array of
    indices or of bools, gives an ordinary array of those rows. Unlike an array's, its rows never
    come all at once by accident: ``np.asarray(rows)`` is refused.
    """

    def __init__(
        self,
        base: Any,
        index: np.ndarray | None = None,
        convert: Callable[[np.ndarray], np.ndarray] | None = None,
    ):
        """
        Args:
            base: [N, ...], in memory, memory-mapped, or with rows that are read otherwise: with
                a length, shape and dtype, and an array for a slice or an array of indices.
            index: [M] the rows of ``base`` that these are; by default all.
            convert: makes what is seen of rows of ``base``, each row by itself.
        """
        self._base, self._index, self._convert = reading.reader(base), index, convert
        one = np.zeros((1, *base.shape[1:]), base.dtype)
        one = one if convert is None else convert(one)
        count = len(base) if index is None else len(index)
        self.shape: tuple[int, ...] = (count, *one.shape[1:])
        self.dtype: np.dtype = one.dtype

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """Of all rows, were they in memory."""
        return self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, which: slice | np.ndarray) -> np.ndarray:
        """The rows of a slice, or of indices or bools [B], in their order: an array."""
        if not isinstance(which, slice | np.ndarray | list):
            raise TypeError(f"rows at {which!r}: expected a slice or an array of indices")
        if self._index is not None:
            which = self._index[which]
        found = np.array(self._base[which])
        return found if self._convert is None else self._convert(found)

    def taken(self, which: np.ndarray) -> Rows:
        """A view of some of these rows; nothing is read."""
        index = np.arange(len(self._base)) if self._index is None else self._index
        return Rows(self._base, index[which], self._convert)

    def converted(self, convert: Callable[[np.ndarray], np.ndarray]) -> Rows:
        """A view of what a function makes of these rows, each by itself; nothing is read."""
        first = self._convert
        both = convert if first is None else lambda x: convert(first(x))
        return Rows(self._base, self._index, both)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        raise TypeError(f"{len(self):,} rows as one array: take some of them, such as rows[:512]")

    def __repr__(self) -> str:
        return f"Rows(shape={self.shape}, dtype={self.dtype})"


def is_mapped(x: np.ndarray | Rows) -> bool:
    """Whether an array is memory-mapped, and too large to be read whole."""
    return isinstance(x, np.memmap) and x.nbytes > IN_MEMORY


def view(x: np.ndarray | Rows) -> np.ndarray | Rows:
    """A view of what is large and not in memory; else the array."""
    return Rows(x) if isinstance(x, np.ndarray) and is_mapped(x) else x


def taken(x: np.ndarray | Rows, which: np.ndarray) -> np.ndarray | Rows:
    """Some rows: a view of what is large and not in memory, else an array."""
    x = view(x)
    return x.taken(which) if isinstance(x, Rows) else x[which]


def chunks(x: np.ndarray | Rows) -> Iterator[np.ndarray]:
    """All rows, in order, some at a time."""
    row = max(x.nbytes // max(len(x), 1), 1)
    step, x = max(AT_ONCE // row, 1), view(x)
    for start in range(0, len(x), step):
        yield x[start : start + step]


def digest(arrays: Iterable[np.ndarray | Rows]) -> str:
    """The sha256 of arrays: of their types, shapes and contents, some rows at a time."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.dtype}{array.shape}".encode())
        for part in chunks(array):
            found.update(np.ascontiguousarray(part).data)
    return found.hexdigest()
