"""The median filter, which needs no model, and the peak signal-to-noise ratio."""

from __future__ import annotations

import math

import numpy as np

Array = np.ndarray

WIDTHS = (3, 5, 7)  # of windows against noise


def psnr(x: Array, original: Array, where: Array | None = None) -> float:
    """10 log10(1 / mean squared error) in dB, over pixels ``where`` of images in [0, 1].

    The mean is over the pixels of all images, so that one that is restored perfectly, whose own
    ratio is infinite, does not decide. ``where`` [N, H, W] holds for all channels.
    """
    errors = np.square(np.asarray(x, np.float64) - original)
    errors = errors if where is None else errors[where]
    return math.inf if not errors.any() else -10 * math.log10(errors.mean())


def smoothed(x: Array, width: int) -> Array:
    """The median of each pixel's ``width`` x ``width`` window, borders repeated: [N, H, W, C]."""
    reach = width // 2
    padded = np.pad(x, [(0, 0), (reach, reach), (reach, reach), (0, 0)], mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (width, width), (1, 2))
    return np.median(windows, (-2, -1)).astype(x.dtype)


def filled(x: Array, hidden: Array) -> Array:
    """Hidden pixels [N, H, W] replaced by a median of seen ones, those in the smallest window.

    The window grows until it has a seen pixel. An image without any becomes grey, 1/2.
    """
    found, left = x.copy(), hidden.copy()
    values = np.where(hidden[..., None], np.nan, x).astype(np.float64)
    for reach in range(1, max(x.shape[1:3])):
        if not left.any():
            return found
        pad = [(0, 0), (reach, reach), (reach, reach), (0, 0)]
        padded = np.pad(values, pad, constant_values=np.nan)
        width = 2 * reach + 1
        for n, i, j in zip(*np.nonzero(left), strict=True):
            window = padded[n, i : i + width, j : j + width].reshape(-1, x.shape[-1])
            known = window[~np.isnan(window[:, 0])]
            if len(known):
                found[n, i, j], left[n, i, j] = np.median(known, 0), False
    found[left] = 0.5
    return found
