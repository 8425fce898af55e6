"""Arrays of images and labels, from a NumPy or IDX file or from memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from flaxvae.data import files, idx, indexed, labels, pixels, tables
from flaxvae.data.dataset import Dataset, Part, assembled
from flaxvae.errors import DataError

ARRAYS = "arrays"  # the name of what was arrays in memory, and no file

# The keys an .npz may use; the first one present counts.
_IMAGE_KEYS = ("x_train", "images", "data", "x")
_LABEL_KEYS = ("y_train", "labels", "y")
_TEST_KEYS = ("x_test", "y_test")


class Pictures(NamedTuple):
    """The images of a file, in order, and what else the file has for each of them."""

    x: np.ndarray
    """[N, H, W, C] or [N, D], with the file's dtype."""
    y: np.ndarray | None
    """[N] labels, whole numbers or text."""
    others: dict[str, np.ndarray]
    """Arrays of length N, by key."""
    notes: list[str]
    """What was left out, and why."""
    unlabelled: str
    """Why labels that there are cannot be used."""


def read_images(path: Path) -> Pictures:
    """All images of an .npz, .npy or IDX file. Raises DataError if there are none."""
    if idx.is_named(path):
        return Pictures(*idx.read_images(path), {}, [], "")
    with files.opened(path) as arrays:
        key, label = _keys(arrays)
        x = pixels.array(arrays.read(key), f"{path}: images")
        y, others, notes, unlabelled = _labels(arrays, label), {}, [], ""
        try:
            y = None if y is None else labels.column(y, len(x))
        except labels.Unusable as why:
            y, unlabelled = None, f"labels are {why}"
            notes.append(f"{label} left out: {unlabelled}")
        for name in arrays.keys:
            if name in (key, label, *_TEST_KEYS):
                continue
            try:
                other = arrays.read(name)
            except files.Objects:
                notes.append(f"{name} left out: Python objects (a pickle) are never loaded")
                continue
            if other.shape[:1] == (len(x),):
                others[name] = other
            else:
                notes.append(f"{name} left out: not one entry for each of the {len(x):,} images")
    return Pictures(x, y, others, notes, unlabelled)


def load(path: Path) -> Dataset:
    """The arrays of an .npz, or the images of an .npy or an IDX file."""
    if idx.is_named(path):
        return checked(path.stem, str(path), idx.read_file(path))
    with files.opened(path) as arrays:
        return _from(arrays, path.stem)


class _Mapping:
    """Arrays in memory, as ``files.Arrays`` gives those of a file."""

    path = "arrays"

    def __init__(self, arrays: Mapping[str, Any]):
        self._arrays, self.keys = arrays, list(arrays)

    def read(self, key: str) -> np.ndarray:
        return np.asarray(self._arrays[key])


def from_arrays(data: Any) -> Dataset:
    """Images in memory: an array [N, *shape]; a pair of those and labels; or a mapping with the
    keys of an .npz file. Also a table of pandas or polars, and what gives examples by number.

    Raises DataError unless they are images or a table.
    """
    if tables.is_frame(data):
        return tables.from_frame(data, ARRAYS)
    if (found := indexed.sources(data)) is not None:
        return indexed.load(found, ARRAYS)
    if isinstance(data, tuple):
        if len(data) != 2:
            raise DataError(f"a tuple of {len(data)}: expected images, or a pair (images, labels)")
        data = {"x_train": data[0], "y_train": data[1]}
    return _from(_Mapping(data if isinstance(data, Mapping) else {"x_train": data}), ARRAYS)


def _from(arrays: files.Arrays | _Mapping, name: str) -> Dataset:
    key, label = _keys(arrays)
    parts = {"training": (arrays.read(key), _labels(arrays, label))}
    if "x_test" in arrays.keys:
        parts["test"] = arrays.read("x_test"), _labels(arrays, "y_test")
    return checked(name, str(arrays.path), parts)


def _keys(arrays: files.Arrays | _Mapping) -> tuple[str, str | None]:
    """The keys of the images and of the labels, if any."""
    images, label = (
        next((key for key in keys if key in arrays.keys), None)
        for keys in (_IMAGE_KEYS, _LABEL_KEYS)
    )
    if images is None:
        raise DataError(
            f"{arrays.path}: no images, its keys are {labels.listed(arrays.keys) or 'none'}; "
            f"expected one of {', '.join(_IMAGE_KEYS)}"
        )
    return images, label


def _labels(arrays: files.Arrays | _Mapping, key: str | None) -> np.ndarray | None:
    """The labels under this key, if any; an empty array if they are Python objects."""
    try:
        return arrays.read(key) if key in arrays.keys else None
    except files.Objects:
        return np.empty(0, object)


def checked(
    name: str,
    origin: str,
    parts: Mapping[str, tuple[np.ndarray, np.ndarray | None]],
    held_out: int | None = None,
    peak: float | None = None,
) -> Dataset:
    """Checks images with their labels, and makes a `Dataset` of them.

    ``parts`` and ``held_out`` are those of `assembled`. ``peak`` is the value of white if it is
    known; else `pixels.images` finds it.
    """
    stored = pixels.images({f"{origin}: {what} images": x for what, (x, _) in parts.items()})
    found = {
        what: Part(x, y) for x, (what, (_, y)) in zip(stored.arrays, parts.items(), strict=True)
    }
    white, notes = (stored.form.peak, stored.notes) if peak is None else (peak, [])
    return assembled(name, origin, found, white, notes, held_out, signed=stored.form.signed)
