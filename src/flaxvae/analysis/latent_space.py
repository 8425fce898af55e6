"""Walks through latent space: interpolation, traversal, the 2-D manifold, a plane of codes."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from flaxvae.declared import AboveZero, Positive, Steps, typed


@typed
def interpolate(start: np.ndarray, end: np.ndarray, steps: Steps) -> np.ndarray:
    """Straight lines between codes: [N, D], [N, D] -> [N, steps, D], both ends included."""
    weight = np.linspace(0.0, 1.0, steps, dtype=np.float32)[None, :, None]
    return (1 - weight) * start[:, None] + weight * end[:, None]


@typed
def spherical(start: np.ndarray, end: np.ndarray, steps: Steps) -> np.ndarray:
    """Great circles between codes, [N, D], [N, D] -> [N, steps, D] (Shoemake 1985; White 2016):

    z_t = [sin((1 - t) w) start + sin(t w) end] / sin(w),   w the angle between them.

    Draws of N(0, I) in many dimensions have lengths near sqrt(D), which a straight line leaves on
    its way. Between codes of (nearly) one direction, or opposite ones, the line is straight.
    """
    start, end = np.asarray(start, np.float64), np.asarray(end, np.float64)
    sizes = np.linalg.norm(start, axis=1) * np.linalg.norm(end, axis=1)
    cosine = (start * end).sum(1) / np.maximum(sizes, np.finfo(np.float64).tiny)
    angle = np.arccos(np.clip(cosine, -1, 1))[:, None, None]
    t = np.linspace(0.0, 1.0, steps)[None, :, None]
    turns = np.sin(angle) > 1e-4
    sine = np.where(turns, np.sin(angle), 1.0)
    first = np.where(turns, np.sin((1 - t) * angle) / sine, 1 - t)
    last = np.where(turns, np.sin(t * angle) / sine, t)
    return (first * start[:, None] + last * end[:, None]).astype(np.float32)


Decode = Callable[..., np.ndarray]  # (z [N, D], label) -> [N, *shape]


class Traversal(NamedTuple):
    images: np.ndarray  # [U, steps, *shape]: in row u only unit units[u] moves
    units: np.ndarray  # [U] latent dimensions, most used first


@typed
def traversal(
    decode: Decode,
    usage: np.ndarray,
    *,
    codes: np.ndarray | None = None,
    start: np.ndarray | None = None,
    label: Any = None,
    units: Positive = 10,
    steps: Steps = 11,
    span: AboveZero = 3.0,
) -> Traversal:
    """Decode walks along one latent dimension at a time, the others fixed (Higgins et al. 2017).

    Args:
        decode: for continuous latents.
        usage: [D] how much each unit is used: its KL, or the variance of its code.
        codes: [N, D] codes of the data, whose mean and standard deviation replace the prior's 0
            and 1; needed if the prior is not standard normal.
        start: [D] the code to walk through; by default the mean.
        label: for a conditional model.
        units: how many units, the most used ones.
        steps: images per row.
        span: standard deviations on either side of the mean.

    Raises:
        UsageError: numbers out of range.
    """
    size = len(usage)
    mean = np.zeros(size) if codes is None else codes.mean(0)
    scale = np.ones(size) if codes is None else codes.std(0)
    chosen = np.argsort(usage)[::-1][:units]
    z = np.tile(mean if start is None else start, (len(chosen), steps, 1))
    for row, unit in enumerate(chosen):
        z[row, :, unit] = mean[unit] + scale[unit] * np.linspace(-span, span, steps)
    images = decode(z.reshape(-1, size), label)
    return Traversal(images.reshape(len(chosen), steps, *images.shape[1:]), chosen)


class Manifold(NamedTuple):
    images: np.ndarray  # [n * n, *shape]: i * n + j is decoded from (z[j], z[i])
    z: np.ndarray  # [n] increasing values of either coordinate
    units: tuple[int, int]  # which two latent dimensions; the others are 0


def manifold(
    decode: Decode, n: int, usage: np.ndarray, units: tuple[int, int] | None = None
) -> Manifold:
    """A grid through the prior's inverse CDF, decoded (Kingma & Welling 2013, figure 4).

    z = Phi^-1(u) for u evenly spaced inside (0, 1), so that every tile stands for the same mass of
    the prior, in the plane of two ``units``: by default those with the largest ``usage`` [D] (their
    KL). The other units are 0, the mean of N(0, I).
    """
    if units is None:
        first, second = np.sort(np.argsort(usage)[-2:]).tolist()
        units = first, second
    quantile = statistics.NormalDist().inv_cdf
    z = np.array([quantile((i + 0.5) / n) for i in range(n)], np.float32)
    codes = np.zeros((n, n, len(usage)), np.float32)
    codes[..., units[0]] = z[None, :]
    codes[..., units[1]] = z[:, None]
    images = decode(codes.reshape(n * n, -1))
    return Manifold(images, z, units)


class Plane(NamedTuple):
    points: np.ndarray  # [N, 2]
    explained: tuple[float, float] | None  # fractions of the variance; None: the latents themselves


def plane(codes: np.ndarray) -> Plane:
    """Codes [N, D] in two dimensions: unchanged if D = 2, else by PCA (padded with 0 if D = 1)."""
    if codes.shape[1] == 1:
        return Plane(np.concatenate([codes, np.zeros_like(codes)], 1), None)
    if codes.shape[1] == 2:
        return Plane(codes, None)
    centred = codes - codes.mean(0)
    _, singular, axes = np.linalg.svd(centred, full_matrices=False)
    parts = singular**2 / max((singular**2).sum(), np.finfo(np.float32).tiny)
    return Plane(centred @ axes[:2].T, (float(parts[0]), float(parts[1])))
