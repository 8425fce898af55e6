"""Codes and factors, as the measures of disentanglement take them."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np

from flaxvae import machine
from flaxvae.errors import UsageError, counted

Array = np.ndarray


class Pairs(NamedTuple):
    """The codes of images, and what is in them."""

    codes: Array  # [N, D] float64; a unit that says nothing is constant
    factors: Array  # [N, F] whole numbers 0 to K_f - 1, each of which occurs
    values: tuple[int, ...]  # K_f, of each factor


def pairs(codes: Any, factors: Any, least: int = 2) -> Pairs:
    """Codes [N, D] and factors [N, F] of any values, checked; values are numbered in their order.

    Raises UsageError for arrays that do not fit each other, codes that are not finite, fewer than
    two factors or four images, or a factor of fewer than ``least`` values: of one there is nothing
    to know.
    """
    z, v = np.asarray(codes, np.float64), np.asarray(factors)
    if z.ndim != 2 or not z.shape[1]:
        raise UsageError(f"codes of shape {z.shape}: expected [N, D]")
    if v.ndim != 2 or len(v) != len(z):
        raise UsageError(
            f"factors of shape {v.shape}: expected [{len(z)}, F], a row for each of "
            f"{counted(len(z), 'image')}"
        )
    if len(z) < 4:
        raise UsageError(f"codes of {counted(len(z), 'image')}: expected 4 or more")
    if v.shape[1] < 2:
        raise UsageError(f"{counted(v.shape[1], 'factor')}: expected two or more to tell apart")
    if not np.isfinite(z).all():
        raise UsageError("codes that are not finite: expected finite numbers")
    found = [np.unique(column, return_inverse=True) for column in v.T]
    values = tuple(len(names) for names, _ in found)
    if min(values) < least:
        f = values.index(min(values))
        raise UsageError(
            f"factor {f} has one value in all {counted(len(z), 'image')}: expected two or more; "
            "leave it out"
        )
    return Pairs(z, np.stack([rank.ravel() for _, rank in found], 1), values)


def silenced(codes: Array, used: Array) -> Array:
    """Codes [N, D] whose unused units are 0: what such a unit still says, the decoder ignores.

    The mean of a collapsed q(z_d|x) moves by a hair with x, and a measure that does not look at the
    scale would take that for information. ``used`` is [D] bool.
    """
    return np.where(used, codes, 0.0)


def standardized(codes: Array) -> Array:
    """Codes with mean 0 and standard deviation 1 in each unit; constant units are 0."""
    deviation = codes.std(0)
    moves = deviation > 1e-9 * np.maximum(np.abs(codes).max(0), 1e-300)  # more than rounding
    return np.where(moves, codes - codes.mean(0), 0.0) / np.where(moves, deviation, 1.0)


def halves(count: int, seed: int) -> tuple[Array, Array]:
    """Rows to learn from and rows to test on, at random."""
    order = np.random.default_rng(seed).permutation(count)
    return order[: count // 2], order[count // 2 :]


def linear_classifier(x: Array, y: Array, c: float = 1.0) -> Any:
    """A logistic regression of y [N] on x [N, D], softmax if y has more than two values.

    ``c`` is the inverse weight of its L2 penalty. One that has not quite converged is as good.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    machine.count_cores()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(C=c, max_iter=300).fit(x, y)
