"""From scores to decisions: a threshold, percentiles, and how well anomalies are told from others.

Scores are high for what is unusual, and what is not a number is more unusual than anything.
Anomalies are the positive class.
"""

from __future__ import annotations

import math

import numpy as np

from flaxvae.errors import UsageError

Array = np.ndarray


def _ordered(scores: Array) -> Array:
    """The scores as float64, with infinity for what is not a number."""
    scores = np.asarray(scores, np.float64)
    return np.where(np.isnan(scores), np.inf, scores)


def threshold(held_out: Array, rate: float) -> float:
    """The score above which a new normal image is with a probability of ``rate`` or less.

    Of n held-out scores this is the ceil((1 - rate)(n + 1))-th smallest. If these and the new one
    are exchangeable, the probability, over both, is at most ``rate`` (conformal prediction: Vovk
    et al. 2005; Bates et al. 2023).

    Args:
        held_out: [n] scores of normal images that the model was not trained on.
        rate: of false positives, above 0 and below 1.

    Raises UsageError if n is too small for the rate.
    """
    count = len(held_out)
    rank = math.ceil((1 - rate) * (count + 1) - 1e-9)
    if rank > count:
        raise UsageError(
            f"--false-positive-rate {rate:g} with {count} held-out images: expected "
            f"{math.ceil(1 / rate - 1e-9) - 1} or more of them; choose a higher rate"
        )
    return float(np.sort(_ordered(held_out))[max(rank, 1) - 1])


def flagged(scores: Array, above: float) -> Array:
    """Which scores are above a threshold, [N] bool."""
    return _ordered(scores) > above


def percentiles(scores: Array, reference: Array) -> Array:
    """The share of the reference whose score is lower, in percent: [N]."""
    known = np.sort(_ordered(reference))
    return 100 * np.searchsorted(known, _ordered(scores), side="left") / len(known)


def auroc(scores: Array, anomalous: Array) -> float:
    """The area under the ROC curve: the probability that an anomaly scores above another image.

    Ties count one half (Mann & Whitney 1947). nan unless there are some of both.
    """
    positive = np.asarray(anomalous, bool)
    some, others = positive.sum(), (~positive).sum()
    if not some or not others:
        return math.nan
    scores = _ordered(scores)
    known = np.sort(scores[~positive])
    below = np.searchsorted(known, scores[positive], side="left")
    up_to = np.searchsorted(known, scores[positive], side="right")
    return float((below + up_to).sum() / 2 / some / others)


def auprc(scores: Array, anomalous: Array) -> float:
    """The area under the curve of precision over recall, as the average precision.

    sum_t (R_t - R_{t-1}) P_t over the thresholds t, the different scores from the highest down: no
    interpolation, which would be too optimistic (Davis & Goadrich 2006). Chance gives about the
    share of anomalies. nan if there are none.
    """
    positive = np.asarray(anomalous, bool)
    if not positive.any():
        return math.nan
    scores = _ordered(scores)
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(scores[order][1:] != scores[order][:-1]), len(scores) - 1)
    found = np.cumsum(positive[order])[last]
    gained = np.diff(found, prepend=0)
    return float((gained * found / (last + 1)).sum() / positive.sum())


def f1(flags: Array, anomalous: Array) -> float:
    """2 TP / (2 TP + FP + FN): the harmonic mean of precision and recall. nan without anomalies."""
    flags, positive = np.asarray(flags, bool), np.asarray(anomalous, bool)
    if not positive.any():
        return math.nan
    return float(2 * (flags & positive).sum() / (flags.sum() + positive.sum()))
