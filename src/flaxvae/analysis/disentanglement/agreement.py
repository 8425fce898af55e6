"""UDR: how far trainings that differ in their seed find the same latent dimensions, up to their
order and their sign (Duan et al. 2020). It needs no factors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from flaxvae.analysis.disentanglement.inputs import Array, standardized
from flaxvae.errors import UsageError


def rank_correlation(a: Array, b: Array) -> Array:
    """|Spearman's rho| of units of two codes, [N, D] and [N, E] -> [D, E]; 0 of constant ones."""
    from scipy.stats import rankdata

    first, second = (standardized(rankdata(x, axis=0)) for x in (a, b))
    return np.abs(first.T @ second) / len(first)


def agreement(similarity: Array, informative: Array, others: Array) -> float:
    """UDR of a pair of models from the similarity R [D, E] of their units (Duan et al. 2020):

        1 / (d_a + d_b) [sum_b max_a R(a, b)^2 / sum_a R(a, b)
                         + sum_a max_b R(a, b)^2 / sum_b R(a, b)],

    with the outer sums over informative units, of which there are d_a [D] and d_b [E]. 1 if each
    has one counterpart and nothing in common with the rest; 0 if no unit is informative.
    """

    def strength(r: Array, counted: Array) -> float:
        total = r.sum(0)
        found = r.max(0) ** 2 / np.where(total > 0, total, 1)
        return float(found[counted].sum())

    count = int(informative.sum() + others.sum())
    both = strength(similarity, others) + strength(similarity.T, informative)
    return both / count if count else 0.0


class Ranking(NamedTuple):
    scores: Array  # [M] of each model, the median over the others; nan of a single one
    of_pairs: Array  # [M, M]; the diagonal, 1, counts for nothing


def unsupervised_ranking(
    codes: Sequence[Array], informative: Sequence[Array] | None = None
) -> Ranking:
    """UDR of models, with Spearman's correlation: the higher, the more likely disentangled.

    Args:
        codes: of each model the codes of the same images, [N, D_m]. The paper compares trainings
            of the same settings with different seeds.
        informative: [D_m] bool of each model: which units are used (the paper: a KL above 0.01
            nats); by default all that are not constant.

    Raises UsageError for codes of different numbers of images.
    """
    lengths = sorted({len(z) for z in codes})
    if len(lengths) != 1:
        raise UsageError(f"codes of {lengths} images: expected those of the same images")
    if informative is None:
        informative = [np.ptp(z, 0) > 0 for z in codes]
    quiet = [np.where(used, z, 0.0) for z, used in zip(codes, informative, strict=True)]
    of_pairs = np.eye(len(quiet))
    for i, a in enumerate(quiet):
        for j, b in enumerate(quiet[:i]):
            found = agreement(rank_correlation(a, b), informative[i], informative[j])
            of_pairs[i, j] = of_pairs[j, i] = found
    rest = [np.delete(row, i) for i, row in enumerate(of_pairs)]
    scores = [float(np.median(row)) if len(row) else float("nan") for row in rest]
    return Ranking(np.array(scores), of_pairs)
