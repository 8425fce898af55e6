"""Which arrays may be images, how their values are stored, and which value is white.

Whole numbers stay whole: uint8 with white at 255 if none is larger, else uint16 with white at
65535; only 0 and 1 are black and white. Floats are in [0, 1]. What can be meant in one way only
is converted: channels that come first, floats that are all bytes, and floats from -1 to 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from flaxvae.data import rows
from flaxvae.data.rows import Rows
from flaxvae.errors import DataError

KINDS = {"b": "bool", "i": "whole numbers", "u": "whole numbers", "f": "floats"}
ROUNDING = 8 * float(np.finfo(np.float32).eps)  # how far floats may lie outside their range


class Values(NamedTuple):
    """The values of an array."""

    low: float
    high: float
    whole: bool
    """Whether all are whole numbers."""

    def joined(self, other: Values) -> Values:
        low, high = min(self.low, other.low), max(self.high, other.high)
        return Values(low, high, self.whole and other.whole)


class Form(NamedTuple):
    """How values are stored: uint8 or uint16 in 0..peak, or float32 in [0, 1]."""

    dtype: type[np.generic]
    peak: float
    """The stored value that means 1.0."""
    signed: bool = False
    """Given as floats in [-1, 1]."""

    def of(self, x: np.ndarray) -> np.ndarray:
        """Values as they are in a file, as they are stored."""
        if self.signed:
            x = (x.astype(np.promote_types(x.dtype, np.float32), copy=False) + 1) / 2
        if self.dtype is np.float32:
            x = np.clip(x, 0, 1)
        return x.astype(self.dtype)


def array(x: np.ndarray, what: str) -> np.ndarray:
    """``x`` as [N, H, W, C] or [N, D] if it may be images, else DataError about ``what``.

    A view: nothing is read. `values` says whether it is finite.
    """
    if x.dtype.kind not in KINDS:
        raise DataError(
            f"{what} are of type {str(x.dtype)[:60]}; expected bytes or other whole numbers, bool, "
            "or floats in [0, 1]"
        )
    if x.ndim not in (2, 3, 4) or x.size == 0:
        raise DataError(
            f"{what} are of shape {x.shape}; expected [N, H, W, C], [N, H, W] or [N, D], with no "
            "axis of length 0"
        )
    if x.ndim == 4 and channels_first(x.shape[1:]):
        first, *rest = x.shape[1:]
        if first > 4:
            raise DataError(
                f"{what} are of shape {x.shape}, which looks like {first} channels before height "
                f"and width: expected [N, H, W, C], here [{len(x)}, {rest[0]}, {rest[1]}, {first}]"
                "; save np.moveaxis(x, 1, -1)"
            )
        return np.moveaxis(x, 1, -1)
    return x[..., None] if x.ndim == 3 else x


def channels_first(shape: tuple[int, ...]) -> bool:
    """Whether an image's shape makes more sense as [C, H, W] than as [H, W, C]."""
    first, middle, last = shape
    return last > 4 and first < min(middle, last) and (first <= 4 or middle == last)


def values(x: np.ndarray | Rows, what: str) -> Values:
    """The range of all values, read some rows at a time.

    Raises DataError for values that are not finite.
    """
    found: Values | None = None
    bad, start = 0, 0
    first: tuple[int, ...] = ()
    floats = x.dtype.kind == "f"
    for part in rows.chunks(x):
        finite = np.isfinite(part) if floats else np.True_
        if not finite.all():
            if not bad:
                row, *rest = np.unravel_index(np.argmin(finite), part.shape)
                first = (start + int(row), *map(int, rest))
            bad += int(np.sum(~finite))
        start += len(part)
        if bad:
            continue
        low, high = float(part.min()), float(part.max())
        whole = not floats or bool((part == np.floor(part)).all())
        these = Values(low, high, whole)
        found = these if found is None else found.joined(these)
    if bad:
        raise DataError(
            f"{what} hold {bad} values that are NaN or infinite, the first at index {first}; "
            "expected numbers"
        )
    assert found is not None
    return found


def form(dtype: np.dtype, seen: Values) -> Form | None:
    """The form of values as they are in a file; None if they can be meant in several ways."""
    low, high, whole = seen
    if dtype.kind == "b":
        return Form(np.uint8, 1.0)
    if dtype.kind in "iu":
        if low < 0 or high > 65535:
            return None
        return Form(np.uint8, 1.0 if high == 1 else 255.0) if high <= 255 else _SIXTEEN
    slack = _slack(dtype)
    if low >= -slack and high <= 1 + slack:
        return Form(np.float32, 1.0)
    for made in (_EIGHT, _SIXTEEN):
        if whole and low >= 0 and made.peak / 2 < high <= made.peak:
            return made
    if -1 - slack <= low < -0.5 and 0.5 < high <= 1 + slack:
        return Form(np.float32, 1.0, signed=True)
    return None


_EIGHT, _SIXTEEN = Form(np.uint8, 255.0), Form(np.uint16, 65535.0)


def _slack(dtype: np.dtype) -> float:
    return max(ROUNDING, 8 * float(np.finfo(dtype).eps)) if dtype.kind == "f" else 0


def known_form(dtype: np.dtype, seen: Values, peak: float, signed: bool, what: str) -> Form:
    """The form of further values, where the white of whole numbers is known to be ``peak``.

    Args:
        dtype, seen: of the values.
        peak: white, for whole numbers.
        signed: floats below 0 are in [-1, 1], as those before them were.
        what: what messages call them.

    Raises DataError for values out of range.
    """
    if dtype.kind == "b":
        return Form(np.uint8, 1.0)
    low, high, whole = seen
    slack = _slack(dtype)
    if signed and -1 - slack <= low < -slack and high <= 1 + slack:
        return Form(np.float32, 1.0, signed=True)
    bytes_ = dtype.kind == "f" and whole and low >= 0 and 1 + slack < high <= peak
    if dtype.kind in "iu" or bytes_:
        check_range(dtype, seen, peak, what)
        return Form(np.uint8 if peak <= 255 else np.uint16, peak)
    check_range(dtype, seen, 1.0, what)
    return Form(np.float32, 1.0)


def check_range(dtype: np.dtype, seen: Values, top: float, what: str) -> None:
    """Raises DataError, with what to do, for values outside 0..top."""
    low, high, slack = seen.low, seen.high, _slack(dtype)
    if low < -slack or high > top + slack:
        raise DataError(
            f"{what} are {dtype} from {low:.9g} to {high:.9g}; expected 0 to {top:g}: "
            f"{_advice(low, high, dtype.kind == 'f')}"
        )


def _advice(low: float, high: float, floats: bool) -> str:
    if floats and low >= -0.5 and high <= 1.5:
        return f"np.clip(x, 0, 1) if they are a Gaussian's means; else {_rescale(low, high, True)}"
    return _rescale(low, high, floats)


def _rescale(low: float, high: float, floats: bool) -> str:
    if floats and low < 0 and max(-low, high) <= 1 + ROUNDING:
        return "if they range from -1 to 1, use (x + 1) / 2"
    if low < 0:
        return "rescale them to floats with black at 0 and white at 1"
    made = {255: "bytes", 65535: "16 bits"}
    for white, of in made.items():
        if floats and white / 2 <= high <= white:
            return f"floats made from {of}: divide by {white}"
    return "divide them by the value of white, as floats"


class Stored(NamedTuple):
    """Arrays of images that belong together, as they are stored."""

    arrays: list[np.ndarray | Rows]
    form: Form
    notes: list[str]
    """What was converted, and what is unusual."""


def images(named: Mapping[str, np.ndarray | Rows]) -> Stored:
    """Checks and stores arrays of images that belong together, by the name used in messages.

    What is memory-mapped and large becomes a view, which converts what is read.

    Raises DataError if one does not hold images, or if they differ in kind or shape.
    """
    arrays = [x if isinstance(x, Rows) else array(x, what) for what, x in named.items()]
    seen = [f"{KINDS[x.dtype.kind]} of shape {x.shape[1:]}" for x in arrays]
    for what, this in zip(named, seen, strict=True):
        if this != seen[0]:
            raise DataError(f"{what} are {this}; expected {seen[0]}, as in training")
    each = [values(x, what) for what, x in named.items()]
    together = each[0]
    for other in each[1:]:
        together = together.joined(other)
    dtype, given = arrays[0].dtype, next(iter(named.values()))
    found = form(dtype, together)
    if found is None:
        top = 1.0 if dtype.kind == "f" else 255.0 if together.high <= 255 else 65535.0
        for what, x, these in zip(named, arrays, each, strict=True):
            check_range(x.dtype, these, top, what)
        raise AssertionError("unreachable: together out of range, and none by itself")
    kept = [_kept(x, found) for x in arrays]
    return Stored(kept, found, _notes(given, dtype, together, found))


def _kept(x: np.ndarray | Rows, found: Form) -> np.ndarray | Rows:
    x = rows.view(x)
    if isinstance(x, Rows):
        as_it_is = x.dtype == found.dtype and x.dtype.kind != "f"
        return x if as_it_is else x.converted(found.of)
    return found.of(x)


def _notes(given: np.ndarray | Rows, dtype: np.dtype, seen: Values, found: Form) -> list[str]:
    notes = []
    if given.ndim == 4 and channels_first(given.shape[1:]):
        notes.append(f"channels come first in {given.shape}: read as [N, H, W, C]")
    low, high = seen.low, seen.high
    if found.signed:
        notes.append(f"values are {low:.3g} to {high:.3g}: read as -1 black, 1 white")
    elif dtype.kind == "f" and found.peak > 1:
        notes.append(f"values are whole numbers {low:g} to {high:g}: {found.peak:g} is white")
    elif dtype.kind in "iu" and found.peak == 1:
        notes.append("values are 0 and 1: 1 is white")
    if low == high:
        notes.append(f"all values are {low:g}: there is nothing to learn")
    elif dtype.kind in "iuf" and not found.signed and high < found.peak / 2:
        notes.append(
            f"all images are dark: values {low:g} to {high:g} of {found.peak:g}; if {high:g} is "
            f"white, save x / {high:g}"
        )
    return notes
