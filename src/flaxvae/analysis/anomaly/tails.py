"""How far a vector of statistics lies from those of the training images.

Mahalanobis   sqrt((u - m)^T C^-1 (u - m)), with their mean m and covariance C
COPOD         the empirical copula's tails (Li et al. 2020): for each dimension d the parts of
              the training values at or below u_d, F_d, and at or above it, G_d; then
              max(-sum_d log F_d, -sum_d log G_d, -sum_d log H_d), where H_d is F_d if the
              dimension is skewed to the left, and else G_d
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from flaxvae.errors import DataError, counted

Array = np.ndarray


class Reference(NamedTuple):
    """What is kept of N training vectors of D statistics."""

    mean: Array  # [D]
    covariance: Array  # [D, D]
    skewness: Array  # [D], whose sign alone counts
    sorted: Array  # [D, N] each statistic's values in order


def reference(vectors: Array) -> Reference:
    """Of vectors [N, D]. Raises DataError unless two or more are finite."""
    vectors = np.asarray(vectors, np.float64)
    vectors = vectors[np.isfinite(vectors).all(1)]
    if len(vectors) < 2:
        raise DataError(
            f"statistics of {counted(len(vectors), 'normal training image')}: expected two or more "
            "for mahalanobis and copod"
        )
    mean = vectors.mean(0)
    return Reference(
        mean,
        np.atleast_2d(np.cov(vectors.T)),
        ((vectors - mean) ** 3).mean(0),
        np.sort(vectors, axis=0).T,
    )


def mahalanobis(vectors: Array, known: Reference) -> Array:
    """The distance of each of vectors [N, D]: [N].

    Directions in which the training vectors do not vary do not count.
    """
    apart = np.asarray(vectors, np.float64) - known.mean
    scale = np.sqrt(np.diag(known.covariance))
    scale = np.where(scale > 0, scale, 1)  # statistics may be of any size
    inverse = np.linalg.pinv(known.covariance / np.outer(scale, scale), hermitian=True)
    apart = apart / scale
    return np.sqrt(np.maximum(np.einsum("nd,de,ne->n", apart, inverse, apart), 0))


def copod(vectors: Array, known: Reference) -> Array:
    """-log of the probability of a tail as far out, of each of vectors [N, D]: [N], in nats.

    A vector counts itself among the training vectors, so that no part is 0.
    """
    vectors = np.asarray(vectors, np.float64)
    count = known.sorted.shape[1]
    at_most, at_least = np.zeros_like(vectors), np.zeros_like(vectors)
    for d, column in enumerate(known.sorted):
        at_most[:, d] = np.searchsorted(column, vectors[:, d], side="right")
        at_least[:, d] = count - np.searchsorted(column, vectors[:, d], side="left")
    left, right = (-np.log((part + 1) / (count + 1)) for part in (at_most, at_least))
    skewed = np.where(known.skewness < 0, left, right)
    found = np.stack([left.sum(1), right.sum(1), skewed.sum(1)]).max(0)
    return np.where(np.isnan(vectors).any(1), np.nan, found)
