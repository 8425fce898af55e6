"""Scales of charts: which range to draw, where the ticks are, how numbers are written."""

from __future__ import annotations

import math

import numpy as np

Array = np.ndarray


def bulk(values: Array) -> tuple[float, float]:
    """The range to draw: all values, unless a few outliers on one side would take over half."""
    # Tukey's outer fences, but at least the middle nine tenths.
    q5, q25, q75, q95 = np.percentile(values, [5, 25, 75, 95])
    fences = min(4 * q25 - 3 * q75, q5), max(4 * q75 - 3 * q25, q95)
    inside = values[(values >= fences[0]) & (values <= fences[1])]
    low, high = inside.min(), inside.max()
    width = high - low
    if low - values.min() <= width:
        low = values.min()
    if values.max() - high <= width:
        high = values.max()
    return float(low), float(high)


def ticks(low: float, high: float, most: int) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten from ``low`` to ``high``, ``most`` at most."""
    if not high > low:
        return [low]
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    for step in (power, 2 * power, 5 * power, 10 * power):
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first < most:
            break
    return [k * step for k in range(first, last + 1)]


def digits(value: float) -> str:
    """A number with three or four significant digits: 97.9, 0.231, 1,234.6."""
    return (f"{value:,.1f}" if abs(value) >= 10 else f"{value:#.3g}").replace("-", "−")


def plain(value: float, span: float = 0.0) -> str:
    """The number at a tick; what is tiny against the ``span`` of the axis is 0."""
    value = 0.0 if abs(value) < 1e-9 * span else value
    text = f"{value:,.0f}" if abs(value) >= 1e4 and abs(value) < 1e7 else f"{value:.6g}"
    return text.replace("-", "−")
