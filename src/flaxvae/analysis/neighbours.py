"""The nearest codes to a code, by Euclidean distance in latent space."""

from __future__ import annotations

import numpy as np

from flaxvae.declared import Positive, typed
from flaxvae.errors import UsageError

Array = np.ndarray

_AT_ONCE = 2**22  # distances computed at once: bounds memory


@typed
def nearest(codes: Array, queries: Array, k: Positive) -> tuple[Array, Array]:
    """The k codes [N, D] nearest to each query [M, D], the nearest first.

    Returns:
        Their rows, and their distances, [M, k] each. Of equal distances the first row is first.

    Raises:
        UsageError: fewer than k codes.
    """
    if k > len(codes):
        raise UsageError(f"--k {k}: expected 1 to {len(codes)}, the number of codes")
    codes, queries = np.asarray(codes, np.float64), np.asarray(queries, np.float64)
    centre = codes.mean(0)  # so that the expanded square loses few digits
    codes, queries = codes - centre, queries - centre
    squares, step = np.square(codes).sum(1), max(1, _AT_ONCE // len(codes))
    rows, distances = [], []
    for start in range(0, len(queries), step):
        some = queries[start : start + step]
        apart = squares - 2 * some @ codes.T
        found = np.argpartition(apart, k - 1, 1)[:, :k] if k < len(codes) else None
        found = np.tile(np.arange(len(codes)), (len(some), 1)) if found is None else found
        exact = np.linalg.norm(some[:, None] - codes[found], axis=-1)
        order = np.lexsort((found, exact), axis=-1)
        rows.append(np.take_along_axis(found, order, 1))
        distances.append(np.take_along_axis(exact, order, 1))
    return np.concatenate(rows), np.concatenate(distances)
