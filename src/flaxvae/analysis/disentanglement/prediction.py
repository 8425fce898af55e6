"""Measures that predict factors from codes: DCI, SAP and explicitness."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from flaxvae import machine
from flaxvae.analysis.disentanglement.inputs import (
    Array,
    halves,
    linear_classifier,
    pairs,
    standardized,
)
from flaxvae.declared import Positive, Seed, typed

DEPTHS = (4, 8, 16)  # of trees
_AT_MOST = 6000  # images that trees learn from


class Shares(NamedTuple):
    """How the importance of units for factors is shared out; all are in [0, 1]."""

    disentanglement: float  # of units over factors: 1 if each unit matters for one factor alone
    completeness: float  # of factors over units: 1 if one unit alone matters for each factor
    of_units: Array  # [D] nan where a unit matters for none
    of_factors: Array  # [F] nan where no unit matters


def shares(importance: Array) -> Shares:
    """D and C of an importance matrix R [D, F], not negative (Eastwood & Williams 2018):

        D_d = 1 - H(R_df / sum_f R_df) / log F,    D = sum_d r_d D_d,   r_d = sum_f R_df / sum R,
        C_f = 1 - H(R_df / sum_d R_df) / log D,    C = 1/F sum_f C_f.

    A single unit is complete for whatever it matters for.
    """
    of_units, of_factors = _concentration(importance), _concentration(importance.T)
    weight = importance.sum(1)
    known = ~np.isnan(of_factors)
    if not known.any():
        return Shares(float("nan"), float("nan"), of_units, of_factors)
    disentanglement = np.average(np.nan_to_num(of_units), weights=weight)
    return Shares(float(disentanglement), float(of_factors[known].mean()), of_units, of_factors)


def _concentration(rows: Array) -> Array:
    """1 - entropy / its largest, of each row as a distribution; nan of a row of zeros."""
    total, count = rows.sum(1), rows.shape[1]
    p = rows / np.where(total > 0, total, 1)[:, None]
    entropy = -(p * np.log(np.where(p > 0, p, 1))).sum(1)
    return np.where(total > 0, 1 - entropy / np.log(max(count, 2)), np.nan)


class Dci(NamedTuple):
    disentanglement: float
    completeness: float
    informativeness: float  # mean of accuracy
    importance: Array  # [D, F] sums to 1 over units, for each factor that any unit predicts
    accuracy: Array  # [F] of predictions of images not learnt from
    chance: Array  # [F] that of always guessing the commonest value
    of_units: Array  # [D]
    of_factors: Array  # [F]


@typed
def dci(codes: Array, factors: Array, *, seed: Seed = 0, trees: Positive = 20) -> Dci:
    """Disentanglement, completeness, informativeness (Eastwood & Williams 2018).

    A random forest predicts each factor from all units; R_df, the importance of unit d for factor
    f, is the decrease of Gini impurity by its splits. ``shares`` of R are D and C. I is the
    accuracy, the part of images whose value is predicted: a classification, for values need not
    have an order (the paper's is an error of regression). The trees' depth is the one of DEPTHS
    that predicts best a quarter of the images, learning from half of them (6,000 at most); accuracy
    is that of the last quarter.

    The forest sees every unit at each split, so that a unit that says nothing has importance 0.
    """
    from sklearn.ensemble import RandomForestClassifier

    machine.count_cores()

    z, v, values = pairs(codes, factors)
    learn, rest = halves(len(z), seed)
    learn, choose, test = learn[:_AT_MOST], rest[::2], rest[1::2]
    importance = np.zeros((z.shape[1], len(values)))
    accuracy, chance = np.zeros((2, len(values)))
    x = standardized(z)
    for f, column in enumerate(v.T):
        best = -1.0
        for depth in DEPTHS:
            forest = RandomForestClassifier(
                trees, max_depth=depth, max_features=None, random_state=seed, n_jobs=-1
            ).fit(x[learn], column[learn])
            found = float((forest.predict(x[choose]) == column[choose]).mean())
            if found > best:
                best, importance[:, f] = found, forest.feature_importances_
                accuracy[f] = (forest.predict(x[test]) == column[test]).mean()
        chance[f] = (np.bincount(column[learn]).argmax() == column[test]).mean()
    split = shares(importance)
    return Dci(
        split.disentanglement,
        split.completeness,
        float(accuracy.mean()),
        importance,
        accuracy,
        chance,
        split.of_units,
        split.of_factors,
    )


class Separation(NamedTuple):
    mean: float  # SAP
    of_factors: Array  # [F]
    scores: Array  # [D, F]


def separated_predictability(
    codes: Array, factors: Array, unordered: Collection[int] = ()
) -> Separation:
    """SAP: the gap between the two units that best predict a factor alone (Kumar et al. 2018).

    The score of a unit for a factor is the R^2 of a line, the squared correlation; for an
    ``unordered`` factor, the balanced accuracy of the best thresholds (``threshold_accuracy``). A
    constant unit scores 0. SAP is the mean of the gaps over factors; with a single unit, the gap is
    to 0.
    """
    z, v, values = pairs(codes, factors)
    x = standardized(z)
    moves = x.any(0)
    scores = np.square(x.T @ standardized(v.astype(float)) / len(x))
    for f in unordered:
        each = [threshold_accuracy(unit, v[:, f], values[f]) for unit in x.T]
        scores[:, f] = np.where(moves, each, 0.0)
    order = np.sort(np.concatenate([scores, np.zeros((1, len(values)))]), axis=0)
    gaps = order[-1] - order[-2]
    return Separation(float(gaps.mean()), gaps, scores)


def threshold_accuracy(code: Array, value: Array, count: int) -> float:
    """The best balanced accuracy of K - 1 thresholds on one unit, for a factor of K values.

    Thresholds cut the line into intervals, and each interval stands for a value. The mean over
    values of the part of their images in intervals of their own is maximised exactly: with
    g_s(i) the best of s intervals over the first i distinct codes and c_v(i) the weight of value v
    among them,

        g_s(i) = max_v max_{j <= i} g_{s-1}(j) + c_v(i) - c_v(j).

    Args:
        code: [N].
        value: [N] 0 to K - 1, each of which occurs.
        count: K.
    """
    places = np.unique(code, return_inverse=True)[1].ravel()
    weight = np.zeros((places.max() + 2, count))
    np.add.at(weight, (places + 1, value), 1 / (count * np.bincount(value)[value]))
    until = np.cumsum(weight, 0)
    best = np.zeros((len(until), 1))
    for _ in range(count):
        best = (until + np.maximum.accumulate(best - until, 0)).max(1, keepdims=True)
    return float(best[-1, 0])


class Explicitness(NamedTuple):
    mean: float  # over factors
    of_factors: Array  # [F] mean over values


@typed
def explicitness(codes: Array, factors: Array, *, seed: Seed = 0) -> Explicitness:
    """How well each value of a factor is told from the others by a linear classifier of the codes.

    The area under the ROC curve of a logistic regression of one value against the rest, on the half
    of the images that it has not learnt from (Ridgeway & Mozer 2018): 1 at best, 0.5 by chance. A
    value in the middle of others on one axis is not linearly separable: a perfect code of many
    ordered values is well below 1.

    A value that one half lacks is left out; a factor of only such values is nan.
    """
    from sklearn.metrics import roc_auc_score

    z, v, values = pairs(codes, factors)
    x, (learn, test) = standardized(z), halves(len(z), seed)
    of_factors = np.full(len(values), np.nan)
    for f, (column, count) in enumerate(zip(v.T, values, strict=True)):
        areas = []
        for value in range(count):
            own = column == value
            if all(0 < own[half].sum() < len(half) for half in (learn, test)):
                fitted = linear_classifier(x[learn], own[learn])
                areas.append(roc_auc_score(own[test], fitted.decision_function(x[test])))
        if areas:
            of_factors[f] = np.mean(areas)
    known = of_factors[~np.isnan(of_factors)]
    return Explicitness(float(known.mean()) if len(known) else float("nan"), of_factors)
