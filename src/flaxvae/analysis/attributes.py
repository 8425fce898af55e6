"""Attributes as directions in latent space: "glasses", a digit, a factor (White 2016).

    v = mean code of images with the attribute - mean code of images without it

(Larsen et al. 2016). Images with the attribute usually have others more often as well. Made
orthogonal to the vectors w_1 .. w_A of those,

    v' = v - P v,    P the projection onto the span of w_1 .. w_A,

a step along v' does not change the code along any of them.
"""

from __future__ import annotations

import numpy as np

from flaxvae.errors import UsageError

Array = np.ndarray


def vector(codes: Array, has: Array, called: str = "the attribute") -> Array:
    """The vector [D] of an attribute that the images of codes [N, D] have, or not, ``has`` [N].

    Raises UsageError if all of them have it, or none, or if that makes no difference to the codes.
    """
    has = np.asarray(has, bool)
    if has.all() or not has.any():
        which = "all" if has.any() else "none"
        raise UsageError(
            f"{called}: {which} of {len(has)} images; expected some with, some without"
        )
    codes = np.asarray(codes, np.float64)
    found = codes[has].mean(0) - codes[~has].mean(0)
    if np.abs(found).max() <= 1e-7 * np.abs(codes).max():
        raise UsageError(
            f"{called}: images with it and without it have the same mean code: expected other "
            "images, or a model whose codes differ"
        )
    return found


def orthogonal(own: Array, others: Array) -> Array:
    """The part of a vector [D] that is orthogonal to all of ``others`` [A, D].

    Raises UsageError if nothing of it is left.
    """
    if not len(others):
        return own
    axes, sizes, _ = np.linalg.svd(np.asarray(others, np.float64).T, full_matrices=False)
    axes = axes[:, sizes > 1e-6 * sizes.max(initial=0)]
    rest = own - axes @ (axes.T @ own)
    if np.linalg.norm(rest) <= 1e-4 * np.linalg.norm(own):
        raise UsageError(
            "nothing is left of the attribute: expected one that is no sum of those it is made "
            "orthogonal to; leave some of them out"
        )
    return rest


def along(codes: Array, direction: Array, strengths: Array) -> Array:
    """codes + s direction for each strength s: [N, D], [D], [S] -> [S, N, D]."""
    steps = np.asarray(strengths, np.float64)[:, None, None] * direction[None, None]
    return (codes[None] + steps).astype(np.float32)
