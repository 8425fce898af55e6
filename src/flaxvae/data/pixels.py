"""Which arrays may be images, how they are stored, and which value is white.

Whole numbers stay whole: uint8 with white at 255 if none is larger, else uint16 with white at
65535. Floats are in [0, 1], bool is 0 and 1.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from flaxvae.errors import DataError

KINDS = {"b": "bool", "i": "whole numbers", "u": "whole numbers", "f": "floats"}
ROUNDING = 8 * float(np.finfo(np.float32).eps)  # how far floats may lie outside [0, 1]


def array(x: np.ndarray, what: str) -> np.ndarray:
    """``x`` as [N, H, W, C] or [N, D] if it may be images, else DataError about ``what``."""
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
        raise DataError(
            f"{what} are of shape {x.shape}, which looks like {first} channels before height and "
            f"width: expected [N, H, W, C], here [{len(x)}, {rest[0]}, {rest[1]}, {first}]; save "
            "np.moveaxis(x, 1, -1)"
        )
    finite = np.isfinite(x) if x.dtype.kind == "f" else np.True_
    if not finite.all():
        first = tuple(int(i) for i in np.unravel_index(np.argmin(finite), x.shape))
        raise DataError(
            f"{what} hold {np.sum(~finite)} values that are NaN or infinite, the first at index "
            f"{first}; expected numbers"
        )
    return x[..., None] if x.ndim == 3 else x


def channels_first(shape: tuple[int, ...]) -> bool:
    """Whether an image's shape makes more sense as [C, H, W] than as [H, W, C]."""
    first, middle, last = shape
    return last > 4 and first < min(middle, last) and (first <= 4 or middle == last)


def stored(x: np.ndarray, peak: float, what: str) -> tuple[np.ndarray, float]:
    """Images as they are stored, where ``peak`` is white for whole numbers.

    Returns:
        uint8 or uint16 in 0..peak, or float32 in [0, 1]; and the value to divide by.

    Raises DataError for values out of range.
    """
    kind = x.dtype.kind
    low, high = x.min(), x.max()
    if kind == "b":
        return x.astype(np.uint8), 1.0
    top = peak if kind in "iu" else 1.0
    slack = max(ROUNDING, 8 * float(np.finfo(x.dtype).eps)) if kind == "f" else 0
    if low < -slack or high > top + slack:
        raise DataError(
            f"{what} are {x.dtype} from {low:.9g} to {high:.9g}; expected 0 to {top:g}: "
            f"{_advice(float(low), float(high), kind == 'f')}"
        )
    if kind == "f":
        return np.clip(x, 0, 1).astype(np.float32), 1.0
    return x.astype(np.uint8 if peak <= 255 else np.uint16), peak


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


def images(named: Mapping[str, np.ndarray]) -> tuple[list[np.ndarray], float, list[str]]:
    """Checks and stores arrays of images that belong together, by the name used in messages.

    Returns:
        The arrays as stored, the value to divide them by, and remarks.

    Raises DataError if one does not hold images, or if they differ in kind or shape.
    """
    arrays = [array(x, what) for what, x in named.items()]
    seen = [f"{KINDS[x.dtype.kind]} of shape {x.shape[1:]}" for x in arrays]
    for what, this in zip(named, seen, strict=True):
        if this != seen[0]:
            raise DataError(f"{what} are {this}; expected {seen[0]}, as in training")
    first, kind = next(iter(named)), arrays[0].dtype.kind
    low, high = min(x.min() for x in arrays), max(x.max() for x in arrays)
    peak = 1.0 if kind in "bf" else 255.0 if high <= 255 else 65535.0
    kept = [stored(x, peak, what)[0] for (what, x) in zip(named, arrays, strict=True)]
    if kind in "iu" and high == 1:
        raise DataError(
            f"{first} are {arrays[0].dtype} of 0 and 1, where white is 255; save them as bool"
        )
    remarks = []
    if kind in "iuf" and high < peak / 2:
        remarks.append(
            f"all images are dark: values {low:g} to {high:g} of {peak:g}; if {high:g} is white, "
            f"save x / {high:g}"
        )
    return kept, peak, remarks
