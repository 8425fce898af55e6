"""The IDX format, in which MNIST and its relatives are distributed.

A file is a magic number (two zero bytes, 8 for uint8, the number of axes), one big-endian
uint32 for the length of each axis, then the bytes. A dataset is four files, each ``.gz`` or not.
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from flaxvae.data.files import check_size
from flaxvae.errors import DataError, remedy

FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
_ENDINGS = ("-ubyte", "-ubyte.gz", ".idx", ".idx.gz")


def read(path: Path, axes: int) -> np.ndarray:
    """One IDX file.

    Args:
        path: the file, compressed or not, as its content shows.
        axes: 3 for images, 1 for labels.

    Returns:
        uint8, [N, H, W] for images or [N] for labels; read-only.

    Raises:
        DataError: the file cannot be read, is not IDX, or does not have the length in its header.
    """
    start = 4 + 4 * axes
    magic = bytes([0, 0, 8, axes])
    try:
        with _plain(path) as file:
            header = file.read(start)
            if header[:4] != magic or len(header) < start:
                what = "images" if axes == 3 else "labels"
                raise DataError(
                    f"{path}: begins with 0x{header[:4].hex()}, expected the magic number "
                    f"0x{magic.hex()} of IDX {what} and the length of each axis; download it again"
                )
            shape = [int.from_bytes(header[at : at + 4], "big") for at in range(4, start, 4)]
            size = math.prod(shape)
            check_size(path, size)
            raw = file.read(size)
            more = file.read(1)  # up to the end, where gzip checks its checksum
    except (OSError, EOFError, zlib.error) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        advice = remedy(reason, "download it again")
        raise DataError(f"{path}: cannot be read ({reason or error}); {advice}") from error
    if len(raw) < size or more:
        seen = f"more than {size}" if more else f"{len(raw)}"
        raise DataError(
            f"{path}: {seen} bytes of data, expected {size} for the shape {shape} in its header; "
            "download it again"
        )
    return np.frombuffer(raw, np.uint8).reshape(shape)


def _plain(path: Path) -> BinaryIO:
    """The open file, decompressed on the fly if it is compressed."""
    with path.open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    return cast(BinaryIO, gzip.open(path) if compressed else path.open("rb"))


def is_named(path: Path) -> bool:
    """Whether a file is named like one of IDX."""
    return path.name.lower().endswith(_ENDINGS)


def read_images(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Images [N, H, W], and the labels [N] in the file beside them, if there is one.

    That is named like theirs, with ``labels`` and ``idx1`` where theirs has ``images`` and
    ``idx3``. Raises DataError if one of them cannot be read, or they differ in number.
    """
    images, labels = read(path, 3), None
    beside = _beside(path, ("images", "labels"), ("idx3", "idx1"))
    if beside is not None:
        labels = read(beside, 1)
        _check_number(path, images, beside, labels)
    return images, labels


def read_file(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
    """The training images of a file, and those for the test, with their labels.

    The test images are in the file beside it with ``t10k`` or ``test`` in the place of ``train``;
    where there is none, the dictionary has none. Raises DataError as ``read_images`` does.
    """
    parts = {"training": read_images(path)}
    for spelling in ("t10k", "test"):
        beside = _beside(path, ("train", spelling))
        if beside is not None:
            parts["test"] = read_images(beside)
            break
    return parts


def _beside(path: Path, *changes: tuple[str, str]) -> Path | None:
    """The file named like ``path`` but for these changes, compressed or not."""
    name = path.name.removesuffix(".gz")
    for old, new in changes:
        name = new.join(name.rsplit(old, 1))
    if name == path.name.removesuffix(".gz"):
        return None
    return next(
        (p for p in (path.with_name(name), path.with_name(f"{name}.gz")) if p.is_file()), None
    )


def _check_number(path: Path, images: np.ndarray, beside: Path, labels: np.ndarray) -> None:
    if len(images) != len(labels):
        raise DataError(
            f"{path}: {len(images)} images, but {len(labels)} labels in {beside.name}; download "
            "both again"
        )


def read_folder(folder: Path, dataset: str) -> tuple[list[np.ndarray], str]:
    """The four files of a dataset, from ``folder/dataset`` or else from ``folder``.

    Returns:
        Training images [N, H, W] and labels [N], test images and labels (all uint8), and
        their origin, in words.

    Raises:
        DataError: a file is missing or damaged, or images and labels differ in number.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; expected one with the IDX files of {dataset}")
    home = _home(folder, dataset)
    paths = []
    for name in FILES:
        path = _find(home, name)
        if path is None:
            also = "" if home == folder / dataset else f", nor in a sub-folder {dataset}"
            raise DataError(
                f"{home}: no {name} there (.gz or not){also}; put all four IDX files of "
                f"{dataset} there: {', '.join(FILES)}"
            )
        paths.append(path)
    arrays = [read(path, axes) for path, axes in zip(paths, (3, 1, 3, 1))]
    for at in (0, 2):
        _check_number(paths[at], arrays[at], paths[at + 1], arrays[at + 1])
    return arrays, f"IDX files in {home}"


def present(folder: Path, dataset: str) -> bool:
    """Whether any of the four files is where ``read_folder`` looks for it."""
    return any(_find(_home(folder, dataset), name) for name in FILES)


def _home(folder: Path, dataset: str) -> Path:
    inner = folder / dataset
    return inner if any(_find(inner, name) for name in FILES) else folder


def _find(folder: Path, name: str) -> Path | None:
    """``name`` in ``folder``, spelt with ``-idx`` or ``.idx``, with or without ``.gz``."""
    for spelling in (name, name.replace("-idx", ".idx")):
        for path in (folder / spelling, folder / f"{spelling}.gz"):
            if path.is_file():
                return path
    return None
