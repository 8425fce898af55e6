"""NumPy files, read safely: no pickle, and at most half of this machine's memory.

A large array is memory-mapped: the .npy, or a member of an .npz that is not compressed. A few
kilobytes of a compressed one can expand to terabytes. So the size of an array is checked before it
is read: an .npz member gives no more bytes than its archive entry declares.
"""

from __future__ import annotations

import contextlib
import math
import stat
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from flaxvae import machine
from flaxvae.data import rows
from flaxvae.errors import DataError, remedy

GB = 10**9


def check_size(path: Path, size: int, what: str = "it") -> None:
    """Raises DataError if ``size`` bytes are more than half of the machine's memory."""
    most = (machine.memory() or 64 * GB) // 2
    if size > most:
        raise DataError(
            f"{path}: {what} takes {size / GB:,.3g} GB when read; expected at most "
            f"{most / GB:,.3g} GB, half of this machine's memory"
        )


class Objects(DataError):
    """An array of Python objects, which only pickle can store."""


class Arrays:
    """The arrays of an open file, by key; the key of an .npy is ``x``."""

    def __init__(self, path: Path, loaded: Any):
        self.path, self._loaded, self._taken = path, loaded, 0
        self.keys: list[str] = ["x"] if isinstance(loaded, np.ndarray) else list(loaded.files)

    def read(self, key: str) -> np.ndarray:
        """One array. Raises DataError if it is damaged, too large, or has Python objects."""
        with _reading(self.path):
            if isinstance(self._loaded, np.ndarray):
                return self._loaded
            members = {info.filename: info for info in self._loaded.zip.infolist()}
            member = members.get(f"{key}.npy") or members.get(key)
            size = 0 if member is None else member.file_size
            if member is not None and size > rows.IN_MEMORY and not member.compress_type:
                return _mapped(self.path, member)
            self._taken += size
            check_size(
                self.path, self._taken, key if self._taken == size else f"{key}, with others,"
            )
            return np.asarray(self._loaded[key])


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Arrays]:
    """The arrays of an .npz or .npy. Raises DataError if it cannot be read as one."""
    with _reading(path):
        about = path.stat()
        if stat.S_ISDIR(about.st_mode):
            raise DataError(
                f"{path}: a folder; expected an .npz or .npy file: read the images into one array "
                "and save it with np.savez('images.npz', x=images)"
            )
        if not stat.S_ISREG(about.st_mode):
            raise DataError(f"{path}: a pipe or a device; expected an .npz or .npy file")
        with path.open("rb") as file:
            start = file.read(6)
        if not start.startswith((b"PK\x03\x04", b"PK\x05\x06", b"\x93NUMPY")):
            raise DataError(
                f"{path}: not a NumPy file (it begins with {start!r}); write it with np.savez"
            )
        mapped = about.st_size > rows.IN_MEMORY and start.startswith(b"\x93NUMPY")
        loaded = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        yield Arrays(path, loaded)
        return
    with loaded:
        yield Arrays(path, loaded)


def _mapped(path: Path, member: zipfile.ZipInfo) -> np.ndarray:
    """An array that is stored in an archive as it is in an .npy file, memory-mapped."""
    with path.open("rb") as file:
        file.seek(member.header_offset)
        local = struct.unpack("<4s5H3L2H", file.read(30))  # the zip's header of this member
        file.seek(local[-2] + local[-1], 1)  # its name and extra field
        start = file.tell()
        version = np.lib.format.read_magic(file)
        header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if local[0] != b"PK\x03\x04" or header is None:
            raise ValueError(f"member {member.filename} is not an .npy of version 1 or 2")
        shape, columns_first, dtype = header(file)
        if dtype.hasobject:
            raise ValueError("Object arrays cannot be loaded")
        offset = file.tell()
        if offset - start + math.prod(shape) * dtype.itemsize != member.file_size:
            raise ValueError(f"member {member.filename} is not as long as its header says")
    order: Any = "F" if columns_first else "C"
    return np.memmap(path, dtype, "r", offset, shape, order)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except Exception as error:  # numpy, zipfile and zlib raise almost anything on damage
        seen = " ".join(str(error).split()) or type(error).__name__
        if "Object arrays" in seen or "Python objects" in seen:
            raise Objects(
                f"{path}: holds Python objects (a pickle), which are never loaded; save plain "
                "arrays of numbers, all images of one shape"
            ) from error
        reason = error.strerror if isinstance(error, OSError) else None
        advice = remedy(reason, "write or download it again")
        raise DataError(f"{path}: cannot be read ({(reason or seen)[:200]}); {advice}") from error
