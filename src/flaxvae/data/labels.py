"""Labels: the names of the classes in a file, and the numbers 0, 1, 2… that a model takes.

The classes are the labels that occur. All interfaces use the file's own labels, whole numbers or
text; they become numbers only on their way to a device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Names = tuple[int, ...] | tuple[str, ...]

LONGEST = 40  # characters of a class's name


class Unusable(Exception):
    """Labels that are not classes; the text says what was seen and what was expected."""


def column(y: np.ndarray, count: int) -> np.ndarray:
    """One label per image, [count] int64 or text.

    Args:
        y: [count] or [count, 1] whole numbers of any type, or text; or [count, C] one-hot rows.
        count: number of images.

    Raises Unusable if ``y`` is none of these.
    """
    if y.dtype == object:
        raise Unusable("Python objects (a pickle), never loaded; expected whole numbers or text")
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim == 2 and _one_hot(y):
        y = y.argmax(1)
    if y.ndim != 1 or y.dtype.kind not in "biufUS":
        raise Unusable(
            f"{y.dtype} of shape {y.shape}; expected one whole number or name per image, or "
            "one-hot rows"
        )
    if len(y) != count:
        raise Unusable(f"{len(y)} for {count} images; expected one per image")
    if y.dtype.kind in "US":
        return _text(y)
    if y.dtype.kind == "f":
        whole = np.isfinite(y) & (y == np.floor(y)) & (np.abs(y) < 2**53)
        if not whole.all():
            first = int(np.argmin(whole))
            raise Unusable(f"{y.dtype}, {y[first]} at index {first}; expected whole numbers")
    elif y.size and int(y.max()) >= 2**63:
        raise Unusable(f"{y.dtype} up to {y.max()}; expected numbers below 2^63")
    return y.astype(np.int64)


def _one_hot(y: np.ndarray) -> bool:
    if y.dtype.kind not in "biuf" or not y.size:
        return False
    return bool(((y == 0) | (y == 1)).all() and (y.sum(1) == 1).all())


def _text(y: np.ndarray) -> np.ndarray:
    try:
        y = np.char.decode(y, "utf-8") if y.dtype.kind == "S" else y
        names = np.unique(y).tolist()
    except (UnicodeDecodeError, ValueError):
        raise Unusable(f"{y.dtype}, not all in UTF-8; expected names of classes") from None
    for name in names:
        if not (name.isprintable() and 0 < len(name) <= LONGEST):
            shown = repr(name[:LONGEST]) + "…" * (len(name) > LONGEST)
            raise Unusable(f"text, such as {shown}; expected names of 1 to {LONGEST} characters")
    return y


def classes(*columns: np.ndarray) -> Names:
    """The labels that occur in these columns, sorted. Raises Unusable if there are too many."""
    if len({y.dtype.kind for y in columns}) > 1:
        raise Unusable("partly numbers and partly text; expected one kind")
    names = tuple(np.unique(np.concatenate(columns)).tolist())
    count = sum(map(len, columns))
    if len(names) > max(10, count // 2):
        raise Unusable(
            f"{len(names):,} different ones for {count:,} images; expected classes with at least "
            "two images on average"
        )
    return names


def counted(names: Names) -> bool:
    """Whether the classes are named 0, 1, 2 and so on."""
    return names == tuple(range(len(names)))


def numbers(y: np.ndarray, names: Names) -> np.ndarray:
    """[N] labels, all of them in ``names`` (sorted), as int32 in 0..len(names)-1."""
    return np.searchsorted(np.array(names), y).astype(np.int32)


def find(y: Any, names: Sequence[int | str]) -> tuple[np.ndarray, Any]:
    """The numbers of labels that a user gave.

    Args:
        y: one label or an array of them: whole numbers of any type, or text ("3" is 3).
        names: the names of the classes, in order.

    Returns:
        int32 in the shape of ``y``, and the first label that is not a class, or None.
    """
    given = np.asarray(y)
    if given.dtype.kind not in "biufUS":
        return np.zeros(given.shape, np.int32), y
    known = {str(name): number for number, name in enumerate(names)}
    values, where = np.unique(given.ravel(), return_inverse=True)
    found = np.array([known.get(_key(value), -1) for value in values.tolist()], np.int32)
    strange = values[found < 0].tolist()
    return found[where].reshape(given.shape), strange[0] if strange else None


def _key(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    whole = isinstance(value, bool) or (isinstance(value, float) and value.is_integer())
    return str(int(value) if whole else value)


def listed(names: Sequence[int | str], most: int = 8) -> str:
    """The classes in words: "0 to 9", or "1990, 1991, …, 1999" with the middle left out."""
    if len(names) > 2 and counted(tuple(names)):  # type: ignore[arg-type]
        return f"0 to {len(names) - 1}"
    words = list(map(str, names))
    if len(words) > most:
        words = [*words[: most - 2], "…", words[-1]]
    return ", ".join(words)
