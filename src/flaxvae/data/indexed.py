"""Examples of whatever gives them by number, one at a time: datasets of Grain, PyTorch and others.

Nothing is kept: an image is asked for again whenever it is needed, by several threads. So there may
be more of them than fit on a disk, as long as their labels fit in memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np

from flaxvae import machine
from flaxvae.data import pixels
from flaxvae.data.dataset import Dataset, Part, assembled
from flaxvae.data.layouts import SPLIT
from flaxvae.data.rows import Rows
from flaxvae.errors import DataError

_PARTS = SPLIT | {"x_train": "train", "x_test": "test"}
_IMAGE, _LABEL = ("image", "images", "img", "x"), ("label", "labels", "y", "target")


def is_source(data: Any) -> bool:
    """Whether something gives examples by number, and is no array, list, tuple or mapping."""
    known = isinstance(data, Mapping | list | tuple | str | bytes) or hasattr(data, "__array__")
    return not known and hasattr(data, "__len__") and hasattr(data, "__getitem__")


def sources(data: Any) -> dict[str, Any] | None:
    """Sources by what they are for, train, validation or test; None if ``data`` are no sources."""
    if is_source(data):
        return {"train": data}
    if not isinstance(data, Mapping) or not data or not all(map(is_source, data.values())):
        return None
    unknown = [key for key in data if key not in _PARTS]
    if unknown or "train" not in (found := {_PARTS[key]: one for key, one in data.items()}):
        raise DataError(
            f"sources called {', '.join(map(str, data))}: expected train, and where there are any "
            "validation and test"
        )
    return found


class Indexed:
    """The images of a source, as the rows of an array that is not in memory.

    Args:
        source: ``source[i]`` is an image, a pair (image, label), or a mapping with ``image`` and
            ``label``, for i from 0 to ``len(source)`` - 1, from any thread.
        name: what messages call it.

    Raises DataError if the first example is no image.
    """

    def __init__(self, source: Any, name: str):
        self._source, self.name = source, name
        if not len(source):
            raise DataError(f"{name}: no examples; expected at least two")
        image, label = self._example(0)
        first = self._image(image, 0)
        whole = pixels.array(first[None], f"{name}: images")
        self.shape, self.dtype = (len(source), *whole.shape[1:]), whole.dtype
        self._given = first.shape
        self._channels_first = first.ndim == 3 and pixels.channels_first(first.shape)
        self.labels: list[Any] | None = None if label is None else [None] * len(source)
        """What the examples that were read had beside their images."""

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, which: Any) -> np.ndarray:
        numbers = np.arange(len(self))[which]
        found = np.empty((len(numbers), *self.shape[1:]), self.dtype)

        def read(start: int, end: int) -> None:
            for i in range(start, end):
                found[i] = self._row(int(numbers[i]))

        cores = machine.cores()
        bounds = np.linspace(0, len(numbers), min(cores, len(numbers)) + 1).astype(int)
        with ThreadPoolExecutor(cores, thread_name_prefix="examples") as pool:
            for done in [pool.submit(read, *ends) for ends in pairwise(bounds)]:
                done.result()
        return found

    def _row(self, i: int) -> np.ndarray:
        image, label = self._example(i)
        if self.labels is not None:
            self.labels[i] = label
        found = self._image(image, i)
        if found.shape != self._given or found.dtype != self.dtype:
            raise DataError(
                f"{self.name}: example {i} is {found.dtype} of shape {found.shape}; expected "
                f"{self.dtype} of shape {self._given}, as the first"
            )
        if self._channels_first:
            return np.moveaxis(found, 0, -1)
        return found.reshape(self.shape[1:])

    def _example(self, i: int) -> tuple[Any, Any]:
        found = self._source[i]
        if isinstance(found, Mapping):
            image = next((key for key in _IMAGE if key in found), None)
            if image is None:
                raise DataError(
                    f"{self.name}: example {i} has {', '.join(map(str, found)) or 'nothing'}; "
                    f"expected one of {', '.join(_IMAGE)}"
                )
            return found[image], next((found[key] for key in _LABEL if key in found), None)
        if isinstance(found, tuple | list) and len(found) == 2:
            return found[0], found[1]
        return found, None

    def _image(self, image: Any, i: int) -> np.ndarray:
        found = np.asarray(image)
        if found.ndim not in (1, 2, 3) or found.dtype.kind not in pixels.KINDS:
            seen = f"{found.dtype} of shape {found.shape}" if found.ndim else type(image).__name__
            raise DataError(
                f"{self.name}: example {i} is {seen[:80]}; expected an image [H, W, C] or [H, W], "
                "a pair (image, label), or a mapping with image and label"
            )
        return found


def load(parts: Mapping[str, Any], name: str) -> Dataset:
    """Sources as a `Dataset`; all of their images are looked at once.

    Args:
        parts: as of ``sources``.
        name: of the dataset.

    Raises DataError unless all are images of one kind and shape.
    """
    read = {part: Indexed(source, f"{name}: {part}") for part, source in parts.items()}
    stored = pixels.images({f"{name}: {part} images": Rows(x) for part, x in read.items()})
    made = {
        "training" if part == "train" else part: Part(x, _labels(indexed.labels))
        for x, (part, indexed) in zip(stored.arrays, read.items(), strict=True)
    }
    form = stored.form
    return assembled(name, name, made, form.peak, stored.notes, signed=form.signed)


def _labels(found: Sequence[Any] | None) -> np.ndarray | None:
    """Labels as an array; of what is not a number or a text, one of objects."""
    if found is None:
        return None
    plain = [one.item() if hasattr(one, "item") and np.ndim(one) == 0 else one for one in found]
    try:
        return np.array(plain)
    except ValueError:  # of several lengths
        return np.empty(0, object)
