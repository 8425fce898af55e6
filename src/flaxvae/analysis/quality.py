"""How close samples are to data, from features of both: [N, F] arrays, such as of ``features``.

The Fréchet distance compares two Gaussians, fitted to the features of each (Dowson & Landau 1982;
on Inception features it is the FID of Heusel et al. 2017). Precision, recall (Kynkäänniemi et al.
2019), density and coverage (Naeem et al. 2020) compare the two clouds of points, by balls around
them that reach to the k-th nearest neighbour.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from flaxvae.declared import Positive, Seed, typed
from flaxvae.errors import UsageError, counted

Array = np.ndarray

_AT_ONCE = 2**22  # distances computed at once: bounds memory


class Gaussian(NamedTuple):
    mean: Array  # [F]
    covariance: Array  # [F, F]


def fitted(features: Array) -> Gaussian:
    """Mean and covariance of features [N, F], in float64; the covariance divides by N - 1.

    Raises UsageError for fewer than two rows.
    """
    x = _checked(features, 2)
    mean = x.mean(0)
    centred = x - mean
    return Gaussian(mean, centred.T @ centred / (len(x) - 1))


def gaussian_distance(a: Gaussian, b: Gaussian) -> float:
    """The squared Fréchet distance between two Gaussians (their squared 2-Wasserstein distance):

    d^2 = |mean_a - mean_b|^2 + tr(C_a) + tr(C_b) - 2 tr((C_a^1/2 C_b C_a^1/2)^1/2).

    The last trace is the sum of the singular values of C_a^1/2 C_b^1/2, whose factors are symmetric
    roots by eigenvalues: unlike a root of the product, it loses no digits where C_a or C_b has no
    full rank.
    """
    roots = _root(a.covariance) @ _root(b.covariance)
    shared = np.linalg.svd(roots, compute_uv=False).sum()
    apart = np.square(a.mean - b.mean).sum()
    found = apart + np.trace(a.covariance) + np.trace(b.covariance) - 2 * shared
    return max(float(found), 0.0)  # of equal Gaussians rounding can leave less than 0


def _root(covariance: Array) -> Array:
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def frechet_distance(a: Array, b: Array) -> float:
    """``gaussian_distance`` of Gaussians fitted to features [N, F] and [M, F]; 0 if equal.

    It has the unit of the features, squared, so it means something only beside a distance between
    data and data (``distance_of_halves``). Of few rows it is too large: compare distances
    between equal numbers of rows, several times F at least.

    Raises UsageError for features of different sizes, or fewer than two rows.
    """
    _check_same_size(a, b)
    return gaussian_distance(fitted(a), fitted(b))


@typed
def distance_of_halves(features: Array, seed: Seed = 0) -> float:
    """The Fréchet distance between two random halves of features [N, F].

    What N // 2 perfect samples would score against N // 2 images.
    """
    order = np.random.default_rng(seed).permutation(len(features))
    half = len(order) // 2
    return frechet_distance(features[order[:half]], features[order[half : 2 * half]])


class Neighbours(NamedTuple):
    """The numbers of ``neighbours``: fractions, but for density, which can be above 1."""

    precision: float
    recall: float
    density: float
    coverage: float


@typed
def neighbours(real: Array, samples: Array, k: Positive = 5) -> Neighbours:
    """How the balls around features of data [N, F] and of samples [M, F] cover each other.

    The ball B(x_i) around a point reaches to its k-th nearest neighbour in its own cloud, x_i
    itself not counted; its edge belongs to it.

        precision  the fraction of samples in any ball around data
        recall     the fraction of data in any ball around samples
        density    1 / (k M) sum_j sum_i [s_j in B(x_i)]: how many balls around data a sample is in,
                   of the k expected if both have one distribution
        coverage   the fraction of data with any sample in B(x_i)

    Precision and recall are those of Kynkäänniemi et al. 2019, the others those of Naeem et al.
    2020, who use k = 3 and k = 5.

    Raises UsageError for features of different sizes, or k rows or fewer of either.
    """
    _check_same_size(real, samples)
    real, samples = _checked(real, k + 1), _checked(samples, k + 1)
    around_real, around_samples = _radii(real, k), _radii(samples, k)
    inside, balls = np.zeros(len(samples), bool), 0
    recalled, covered = np.zeros((2, len(real)), bool)
    for rows, between in _distances(real, samples):
        held = between <= around_real[rows, None]  # [rows, M] is s_j in B(x_i)?
        inside |= held.any(0)
        balls += int(held.sum())
        covered[rows] = held.any(1)
        recalled[rows] = (between <= around_samples).any(1)
    density = balls / (k * len(samples))
    return Neighbours(float(inside.mean()), float(recalled.mean()), density, float(covered.mean()))


def _radii(x: Array, k: int) -> Array:
    """[N] squared distance of each point of x [N, F] to its k-th nearest other."""
    # The nearest to a point is itself, at distance 0.
    return np.concatenate([np.partition(d, k, axis=1)[:, k] for _, d in _distances(x, x)])


def _distances(a: Array, b: Array):
    """Squared distances from rows of a [N, F] to all of b [M, F], some rows at a time."""
    from scipy.spatial import distance

    step = max(1, _AT_ONCE // max(len(b), 1))
    for start in range(0, len(a), step):
        rows = slice(start, start + step)
        # Of differences, for |a|^2 + |b|^2 - 2 ab would lose the digits that ties need.
        yield rows, distance.cdist(a[rows], b, "sqeuclidean")


def _checked(features: Array, least: int) -> Array:
    x = np.asarray(features, np.float64)
    if x.ndim != 2 or len(x) < least:
        seen = "x".join(map(str, x.shape)) or "a number"
        raise UsageError(f"features of {seen}: expected [N, F], at least {least} rows")
    if lost := int((~np.isfinite(x).all(1)).sum()):
        raise UsageError(
            f"features of {lost} of {counted(len(x), 'image')} are not finite: expected finite "
            "numbers; leave out those images, or look at them: their pixels may not be finite"
        )
    return x


def _check_same_size(a: Array, b: Array) -> None:
    if np.shape(a)[1:] != np.shape(b)[1:]:
        raise UsageError(
            f"features of {np.shape(a)[-1]} and of {np.shape(b)[-1]} numbers: expected those of "
            "one network"
        )
