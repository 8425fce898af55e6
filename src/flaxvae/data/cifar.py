"""CIFAR-10 (Krizhevsky 2009), from its Python or binary archive, or the folder inside.

The Python version is six pickles. A pickle can run any code, so these are read with stand-ins for
the few names that they use: whatever else one asks for is refused.
"""

from __future__ import annotations

import io
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from flaxvae.errors import DataError, remedy

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
_ROW = 3 * 32 * 32
_LARGEST = 2**26  # bytes of one file; they have 31 MB
_TRAIN = tuple(f"data_batch_{i}" for i in range(1, 6))
# The folder of each version, its archive, and how a file ends there.
_VERSIONS = {
    "cifar-10-batches-py": ("cifar-10-python.tar.gz", ""),
    "cifar-10-batches-bin": ("cifar-10-binary.tar.gz", ".bin"),
}


def find(folder: Path) -> tuple[Path, str] | None:
    """The archive or the folder of files, and how these end; in a folder or its cifar10."""
    for home in (folder / "cifar10", folder):
        for inner, (archive, ending) in _VERSIONS.items():
            if (home / inner).is_dir():
                return home / inner, ending
            if (home / archive).is_file():
                return home / archive, ending
    return None


def read(folder: Path) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], str]:
    """Training and test images [N, 32, 32, 3] uint8 with their classes' names; and their origin.

    Raises DataError if files are missing, damaged, or hold anything else.
    """
    found = find(folder)
    if found is None:
        archives = " or ".join(archive for archive, _ in _VERSIONS.values())
        raise DataError(f"{folder}: no CIFAR-10 there; put {archives} in it")
    path, ending = found
    names = [*_TRAIN, "test_batch"]
    try:
        files = _files(path, {name + ending for name in names})
    except (OSError, EOFError, tarfile.TarError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        advice = remedy(reason, "download it again")
        raise DataError(f"{path}: cannot be read ({reason or error}); {advice}") from error
    missing = [name + ending for name in names if name + ending not in files]
    if missing:
        raise DataError(f"{path}: no {missing[0]} in it; download it again")
    of: Callable[[bytes], tuple[np.ndarray, np.ndarray]] = _binary if ending else _pickled
    made = []
    for name in names:
        try:
            made.append(of(files[name + ending]))
        except Exception as error:  # unpickling raises almost anything on damage
            seen = " ".join(str(error).split())[:200] or type(error).__name__
            raise DataError(
                f"{path}: {name}{ending} is not a batch of CIFAR-10 ({seen}); download it again"
            ) from error
    x, y = (np.concatenate(arrays) for arrays in zip(*made[:-1], strict=True))
    return {"training": (x, y), "test": made[-1]}, str(path)


def _files(path: Path, names: set[str]) -> dict[str, bytes]:
    if path.is_dir():
        return {name: (path / name).read_bytes() for name in names if (path / name).is_file()}
    found = {}
    with tarfile.open(path, "r:*") as archive:
        for member in archive:
            name = Path(member.name).name
            if name in names and member.isfile():
                if member.size > _LARGEST:
                    raise DataError(f"{path}: {name} has {member.size:,} bytes; download it again")
                content = archive.extractfile(member)
                assert content is not None  # a regular file
                found[name] = content.read()
    return found


def _binary(content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a label and the pixels, a byte each."""
    rows = np.frombuffer(content, np.uint8).reshape(-1, 1 + _ROW)
    return _checked(rows[:, 1:], rows[:, 0])


def _pickled(content: bytes) -> tuple[np.ndarray, np.ndarray]:
    found = _Unpickler(io.BytesIO(content), encoding="bytes").load()
    named = {k.decode() if isinstance(k, bytes) else k: v for k, v in found.items()}
    return _checked(named["data"].made(), np.array(named["labels"], np.int64))


def _checked(pixels: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if pixels.shape != (len(labels), _ROW) or labels.ndim != 1 or not len(labels):
        raise ValueError(f"pixels {pixels.shape} and labels {labels.shape}")
    if labels.min() < 0 or labels.max() > 9:
        raise ValueError(f"a label {labels.max()}, expected 0 to 9")
    images = np.moveaxis(pixels.reshape(-1, 3, 32, 32), 1, -1)
    return np.ascontiguousarray(images), np.array(CLASSES)[labels]


class _Array:
    """What a pickle says of an array, which is made of it only after a look."""

    def __init__(self, *arguments: Any):
        self.state: tuple[Any, ...] = ()

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def made(self) -> np.ndarray:
        _, shape, kind, columns_first, content = self.state
        if not isinstance(kind, _Type) or kind.name not in (b"u1", "u1") or columns_first:
            raise ValueError("an array of another type than uint8")
        return np.frombuffer(content, np.uint8).reshape(shape)


class _Type:
    def __init__(self, name: Any = "", *arguments: Any):
        self.name = name

    def __setstate__(self, state: Any) -> None:
        pass


def _bytes(text: str, encoding: str) -> bytes:
    return text.encode("latin1")


class _Unpickler(pickle.Unpickler):
    """Knows three names, and none of them runs what a pickle says."""

    def find_class(self, module: str, name: str) -> Any:
        numpy = module in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray")
        known: dict[str, Any] = (
            {"_reconstruct": _Array, "ndarray": _Array, "dtype": _Type} if numpy else {}
        )
        if module == "_codecs":
            known = {"encode": _bytes}
        if name not in known:
            raise ValueError(f"asks for {module}.{name}, which no such file does")
        return known[name]
