"""Stroke width and slant of written characters, measured from the image.

    width = 2 A / P,   A = sum_ij x_ij,   P = sum_ij |grad x|_ij

For a stroke of length l and width w with sharp edges, A = w l and the total variation P is its
outline, 2 (w + l): so 2 A / P approaches w for l much longer than w. Grey edges change neither sum.

    slant = cov(a, b) / var(b),   a to the right and b upwards, over pixels weighted by their values

is the tangent of the angle from the vertical, positive to the right: the shear that makes the
character upright (the moments that Morpho-MNIST measures it by, Castro et al. 2019).
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray

_TINY = np.finfo(np.float64).tiny


def width(images: Array) -> Array:
    """[N] stroke widths in pixels of light strokes on a dark ground, [N, H, W] or [N, H, W, 1].

    0 for an image that is black all over.
    """
    x = np.pad(_plain(images), [(0, 0), (1, 1), (1, 1)])
    right, down = x[:, :-1, 1:] - x[:, :-1, :-1], x[:, 1:, :-1] - x[:, :-1, :-1]
    outline = np.hypot(right, down).sum((1, 2))
    return 2 * x.sum((1, 2)) / np.maximum(outline, _TINY)


def slant(images: Array) -> Array:
    """[N] shears of light strokes on a dark ground, [N, H, W] or [N, H, W, 1]; 0 is upright."""
    x = _plain(images)
    total = np.maximum(x.sum((1, 2)), _TINY)
    right = np.arange(x.shape[2])[None, None]
    up = -np.arange(x.shape[1])[None, :, None]

    def mean(values: Array) -> Array:
        return (x * values).sum((1, 2)) / total

    both = mean(right * up) - mean(right) * mean(up)
    return both / np.maximum(mean(up**2) - mean(up) ** 2, _TINY)


def _plain(images: Array) -> Array:
    x = np.asarray(images, np.float64)
    return x[..., 0] if x.ndim == 4 else x
