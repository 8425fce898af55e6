"""Rows of a memory-mapped file, read by the system's own call.

A mapped page that was looked at stays in a process's memory, and where the file has become shorter
since, looking at it ends the process (SIGBUS). What is read in the usual way does neither.
"""

from __future__ import annotations

import os
import weakref
from typing import Any

import numpy as np

from flaxvae.errors import DataError


class File:
    """The rows of an array in a file, as an array's: ``file[slice or indices]`` reads them.

    Args:
        mapped: the array.
        start: bytes before it in its file.
    """

    def __init__(self, mapped: np.memmap, start: int):
        self.shape, self.dtype = mapped.shape, mapped.dtype
        self._path, self._start = mapped.filename, start
        self._row = mapped.nbytes // len(mapped)
        self._file = os.open(os.fspath(mapped.filename or ""), os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, which: Any) -> np.ndarray:
        if isinstance(which, slice):
            which = np.arange(*which.indices(len(self)))
        else:
            which = np.asarray(which)
            which = np.flatnonzero(which) if which.dtype == bool else which
            if which.size and not -len(self) <= which.min() <= which.max() < len(self):
                raise IndexError(f"rows {which.min()} to {which.max()} of {len(self)}")
            which = which % len(self)
        found = np.empty((len(which), *self.shape[1:]), self.dtype)
        into = found.reshape(-1).view(np.uint8).data
        # A run of rows is one read.
        begins = np.flatnonzero(np.diff(which, prepend=-2) != 1)
        sizes = np.diff(begins, append=len(which)) * self._row
        places = (self._start + which[begins].astype(np.int64) * self._row).tolist()
        runs = list(zip((begins * self._row).tolist(), sizes.tolist(), places, strict=True))
        if len(runs) > 1 and hasattr(os, "posix_fadvise"):  # a disk finds many at a time
            for _, size, place in runs:
                os.posix_fadvise(self._file, place, size, os.POSIX_FADV_WILLNEED)
        for begin, size, place in runs:
            self._read(into[begin : begin + size], place)
        return found

    def _read(self, into: memoryview, place: int) -> None:
        while into:
            count = os.preadv(self._file, [into], place)
            if not count:
                raise DataError(
                    f"{self._path}: it has become shorter, and ends before byte "
                    f"{place + len(into):,}; expected it as it was; put it back"
                )
            into, place = into[count:], place + count


def reader(array: Any) -> Any:
    """A File of an array that is memory-mapped, where it can be read so; else the array."""
    if type(array) is not np.memmap or not hasattr(os, "preadv"):
        return array
    named = isinstance(array.filename, os.PathLike | str) and array.mode != "c"
    if not named or not array.nbytes or not array.flags.c_contiguous:
        return array
    whole: Any = array
    while isinstance(whole.base, np.ndarray):
        whole = whole.base
    return File(array, whole.offset + array.ctypes.data - whole.ctypes.data)
