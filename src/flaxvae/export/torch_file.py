"""Tensors of a file that ``torch.save`` wrote, read without PyTorch and without executing anything.

Such a file is a zip: ``data.pkl``, a pickle of the state_dict, and the bytes of every tensor. A
pickle may name any function to call. This reader knows the few that make tensors, in its own form,
and refuses every other.
"""

from __future__ import annotations

import collections
import io
import math
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from flaxvae.errors import DataError
from flaxvae.export import safetensors

_KINDS = {
    "Float": "<f4",
    "Double": "<f8",
    "Half": "<f2",
    "BFloat16": "<u2",
    "Long": "<i8",
    "Int": "<i4",
    "Short": "<i2",
    "Char": "i1",
    "Byte": "u1",
    "Bool": "?",
}
_LARGEST = 2**24  # bytes of a pickle
_DAMAGE = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    EOFError,
    OverflowError,
    MemoryError,
    RuntimeError,  # an encrypted file, an unknown compression, deep recursion
)


def read(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a state_dict by name: of a file of ``torch.save``, or a .safetensors.

    A dictionary with one state_dict in it, as of a checkpoint, will do.

    Raises DataError for what is no such file, or holds more than tensors and plain values.
    """
    if not path.is_file():
        seen = "no file" if path.exists() else "missing"
        raise DataError(
            f"{path} is {seen}: expected a state_dict that torch.save wrote, or a .safetensors"
        )
    try:
        if not zipfile.is_zipfile(path):
            if path.suffix == ".safetensors":
                return safetensors.read(path)[0]
            raise DataError(
                f"{path} is no zip: expected a state_dict that torch.save wrote (PyTorch 1.6 or "
                "newer), or a .safetensors; save it again"
            )
        with zipfile.ZipFile(path) as file:
            return _tensors(_Reader(file, path).load(), path)
    except _DAMAGE as error:
        reason = (str(error) or type(error).__name__).partition("\n")[0]
        raise DataError(
            f"{path} is damaged ({reason}): expected a state_dict that torch.save wrote; save it "
            "again"
        ) from None


def _tensors(found: Any, path: Path) -> dict[str, np.ndarray]:
    if not _is_state(found):
        inner = found.values() if isinstance(found, dict) else ()
        states = [each for each in inner if _is_state(each)]
        if len(states) != 1:
            raise DataError(
                f"{path}: {len(states)} state_dicts in it: expected one; save model.state_dict()"
            )
        found = states[0]
    return {
        name.removeprefix("module.").removeprefix("_orig_mod."): array
        for name, array in found.items()
    }


def _is_state(found: Any) -> bool:
    return (
        isinstance(found, dict)
        and len(found) > 0
        and all(isinstance(k, str) and isinstance(x, np.ndarray) for k, x in found.items())
    )


class _Reader(pickle.Unpickler):
    """Reads data.pkl; nothing that it names is imported."""

    def __init__(self, file: zipfile.ZipFile, path: Path):
        self._file, self._path, self._read = file, path, dict[str, np.ndarray]()
        names = [name for name in file.namelist() if name.rpartition("/")[2] == "data.pkl"]
        if len(names) != 1:
            raise ValueError("no data.pkl in it")
        self._folder = names[0].rpartition("data.pkl")[0]
        super().__init__(io.BytesIO(self._bytes(names[0], _LARGEST)))

    def _bytes(self, name: str, most: int) -> bytes:
        about = self._file.getinfo(name)
        if about.compress_type != zipfile.ZIP_STORED or about.file_size > most:
            raise ValueError(f"{name} is compressed, or too large")
        return self._file.read(about)

    def find_class(self, module: str, name: str) -> Any:
        kind = name.removesuffix("Storage")
        if module == "torch" and kind in _KINDS and kind != name:
            return kind
        known = {
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            ("torch._utils", "_rebuild_parameter"): lambda data, *rest: data,
            ("torch", "Size"): tuple,
        }
        if (module, name) not in known:
            raise DataError(
                f"{self._path} names {module}.{name}, which is not executed: expected tensors "
                "alone; save model.state_dict()"
            )
        return known[module, name]

    def persistent_load(self, pid: Any) -> np.ndarray:
        _, kind, key, _, count = pid
        if key not in self._read:
            raw = self._bytes(f"{self._folder}data/{key}", self._path.stat().st_size)
            self._read[key] = np.frombuffer(raw, _KINDS[kind], count)
            if kind == "BFloat16":
                self._read[key] = safetensors.widened(self._read[key])
        return self._read[key]


def _tensor(
    storage: np.ndarray, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *rest: Any
) -> np.ndarray:
    """A tensor: elements of a storage, at strides."""
    size, stride = tuple(map(int, size)), tuple(map(int, stride))
    if min((offset, *size, *stride)) < 0 or len(size) != len(stride):
        raise ValueError(f"a tensor of shape {size} with strides {stride}")
    if math.prod(size) == 0:
        return np.zeros(size, storage.dtype)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if last >= len(storage) or math.prod(size) > len(storage):
        raise ValueError("a tensor beyond its storage")
    steps = [step * storage.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], size, steps).copy()
