"""Measures that hold a factor still: the BetaVAE and the FactorVAE score, and IRS.

Two of them need the codes of images that share the value of a factor, the others being random: a
`Sample` gives these, by drawing from images at hand (``resampled``) or by rendering new ones.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

from flaxvae.analysis.disentanglement.inputs import (
    Array,
    halves,
    linear_classifier,
    pairs,
    standardized,
)
from flaxvae.declared import AboveZero, Positive, Seed, typed
from flaxvae.errors import UsageError

POINTS, PAIRS = 1600, 64  # of the BetaVAE score
VOTES, SIZE = 1600, 64  # of the FactorVAE score
IMAGES = 2 * POINTS * PAIRS + VOTES * SIZE  # that both ask for


class Sample(Protocol):
    """Codes of groups of images that share the value of one factor.

    Args:
        generator: of the draws.
        fixed: [G] the factor that is shared in each group; its value is random.
        size: images of a group.

    Returns:
        [G, size, D].
    """

    def __call__(self, generator: np.random.Generator, fixed: Array, size: int) -> Array: ...


def resampled(codes: Array, factors: Array) -> Sample:
    """Draws from the codes [N, D] of images with factors [N, F], with replacement.

    The value that a group shares is that of a random image, among those that others have, too.

    Raises UsageError for a factor whose values are all different.
    """
    z, v, values = pairs(codes, factors)
    orders = [np.argsort(column, kind="stable") for column in v.T]  # images by value
    counts = [np.bincount(column, minlength=k) for column, k in zip(v.T, values, strict=True)]
    for f, count in enumerate(counts):
        if count.max() < 2:
            raise UsageError(f"factor {f}: no two images share a value; expected some that do")

    def sample(generator: np.random.Generator, fixed: Array, size: int) -> Array:
        rows = np.empty((len(fixed), size), int)
        for f, (order, count) in enumerate(zip(orders, counts, strict=True)):
            groups = fixed == f
            shared = np.where(count > 1, count, 0)
            chosen = generator.choice(len(count), groups.sum(), p=shared / shared.sum())
            first = (np.cumsum(count) - count)[chosen, None]
            among = generator.integers(count[chosen, None], size=(len(chosen), size))
            rows[groups] = order[first + among]
        return z[rows]

    return sample


@typed
def beta_vae_score(
    sample: Sample,
    factors: Positive,
    *,
    seed: Seed = 0,
    points: Positive = POINTS,
    pairs: Positive = PAIRS,
) -> float:
    """How well a linear classifier tells which factor two images share (Higgins et al. 2017).

    A point is the mean of |z_1 - z_2| over ``pairs`` pairs of images that share the value of factor
    f; from it a softmax regression predicts f. Its accuracy on the half of the points that it has
    not learnt from: 1 at best, 1 / F by chance. It can be 1 for codes that are mixtures, such as a
    sum and a difference of unlike factors: it asks for a linear boundary, not for axes.

    Args:
        sample: the codes.
        factors: F.
    """
    generator = np.random.default_rng(seed)
    fixed = generator.integers(factors, size=points)
    parts = [  # some at a time, for new images are many
        np.abs(np.diff(sample(generator, np.repeat(part, pairs), 2), axis=1))
        .reshape(len(part), pairs, -1)
        .mean(1)
        for part in np.array_split(fixed, max(points // 50, 1))
    ]
    x = standardized(np.concatenate(parts))
    learn, test = halves(points, seed)
    if len(np.unique(fixed[learn])) < 2:
        raise UsageError(f"points {points}: too few to learn {factors} factors from; expected more")
    fitted = linear_classifier(x[learn], fixed[learn], 100.0)
    return float((fitted.predict(x[test]) == fixed[test]).mean())


@typed
def factor_vae_score(
    sample: Sample,
    variance: Array,
    factors: Positive,
    *,
    seed: Seed = 0,
    votes: Positive = VOTES,
    size: Positive = SIZE,
) -> float:
    """How well the stillest unit tells which factor images share (Kim & Mnih 2018).

    A vote is the unit whose variance in a group of ``size`` images that share a factor's value is
    least, divided by its variance over all images. Half of the votes say which factor each unit
    stands for, by their majority; the score is the part of the other half that it tells rightly: 1
    at best, 1 / F by chance.

    Args:
        sample: the codes.
        variance: [D] of each unit over all images; a unit of 0 has no vote.
        factors: F.
    """
    generator = np.random.default_rng(seed)
    fixed = generator.integers(factors, size=votes)
    used = variance > 0
    won = []
    for part in np.array_split(fixed, max(votes // 100, 1)):
        within = sample(generator, part, size).var(1)
        won.append(np.where(used, within / np.where(used, variance, 1), np.inf).argmin(1))
    unit = np.concatenate(won)
    learn, test = halves(votes, seed)
    count = np.zeros((len(variance), factors), int)
    np.add.at(count, (unit[learn], fixed[learn]), 1)
    return float((count.argmax(1)[unit[test]] == fixed[test]).mean())


class Robustness(NamedTuple):
    mean: float  # IRS, weighted by how much each unit moves at all; nan if none moves
    of_pairs: Array  # [D, F]: 1 if factor f alone decides unit d
    of_units: Array  # [D] of the factor that fits best; nan where a unit does not move


@typed
def interventional_robustness(
    codes: Array, factors: Array, quantile: AboveZero = 0.99
) -> Robustness:
    """IRS: how little a unit moves where a factor is fixed, others not (Suter et al. 2019).

    1 - E_v[m_d(v_f = v)] / m_d, with m_d(v_f = v) the largest |z_d - mean| among images whose
    factor f has the value v, from their mean, and m_d that among all images. A unit's score is
    that of its best factor; IRS is their mean, weighted by m_d.

    The largest of many distances is an outlier's: in its place stands their ``quantile``, 1 for
    the paper's.
    """
    z, v, values = pairs(codes, factors)
    if quantile > 1:
        raise UsageError(f"--quantile {quantile}: expected at most 1")

    def largest(some: Array) -> Array:
        return np.quantile(np.abs(some - some.mean(0)), quantile, axis=0)

    whole = largest(z)
    moves = whole > 1e-9 * np.maximum(np.abs(z).max(0), 1e-300)
    within = np.zeros((z.shape[1], len(values)))
    for f, (column, count) in enumerate(zip(v.T, values, strict=True)):
        for value in range(count):
            here = column == value
            within[:, f] += here.mean() * largest(z[here])
    of_pairs = np.where(moves[:, None], 1 - within / np.where(moves, whole, 1)[:, None], 0.0)
    of_units = np.where(moves, of_pairs.max(1), np.nan)
    if not moves.any():
        return Robustness(float("nan"), of_pairs, of_units)
    return Robustness(float(np.average(of_units[moves], weights=whole[moves])), of_pairs, of_units)
