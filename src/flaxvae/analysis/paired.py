"""Two models on the same images: the mean of the differences, and its standard error.

With d_i = b_i - a_i for each of N images (or seeds, or anything that both were measured on),

    mean = 1/N sum_i d_i,    standard error = sqrt( sum_i (d_i - mean)^2 / (N - 1) / N ).

Images differ in how hard they are far more than two models do on any of them. Each model's own
standard error has that variance in it; that of the difference has not, for what a and b share
cancels. So models whose own intervals overlap may well differ beyond doubt.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np


class Difference(NamedTuple):
    """b - a, in the units of both."""

    images: int  # of which both are known and finite
    mean: float
    standard_error: float | None  # None of a single image
    lower: float  # share of images for which b is below a; of equal ones half


def difference(a: Any, b: Any) -> Difference | None:
    """How b differs from a, measured on the same N images, [N] each; None if none is finite.

    Raises ValueError if they are not as many.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"shapes {a.shape} and {b.shape}: expected [N] of the same images")
    known = np.isfinite(a) & np.isfinite(b)
    d = (b - a)[known]
    if not len(d):
        return None
    error = float(d.std(ddof=1) / math.sqrt(len(d))) if len(d) > 1 else None
    lower = float((d < 0).mean() + 0.5 * (d == 0).mean())
    return Difference(len(d), float(d.mean()), error, lower)
