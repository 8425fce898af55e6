"""Mutual information of latent dimensions and factors, its gap (MIG), and modularity.

I(z_d; v_f) = sum p(b, v) log p(b, v) / (p(b) p(v)), in nats, with z_d in bins b of equal width: the
plug-in estimate, from counts. Of N images it is too large by about (B - 1)(K_f - 1) / 2N, for B
bins in use and K_f values: 0.03 nats for 20 bins, 32 values and 10,000 images. Where a unit's
range is set by a few outliers, its bins are coarse, and the estimate too small.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from flaxvae.analysis.disentanglement.inputs import Array, pairs
from flaxvae.declared import Positive, typed

BINS = 20
_NOTHING = 1e-9  # nats: rounding


@typed
def discretized(codes: Array, bins: Positive = BINS) -> Array:
    """Codes [N, D] as numbers of bins of equal width over each unit's range; constants are 0."""
    low, span = codes.min(0), np.ptp(codes, 0)
    part = (codes - low) / np.where(span > 0, span, 1)
    return np.minimum((part * bins).astype(int), bins - 1)


@typed
def information(codes: Array, factors: Array, bins: Positive = BINS) -> Array:
    """I(z_d; v_f) in nats, [D, F], from codes [N, D] in ``bins`` bins and factors [N, F]."""
    z, v, values = pairs(codes, factors, least=1)
    found = np.empty((z.shape[1], len(values)))
    for d, binned in enumerate(discretized(z, bins).T):
        for f, (column, count) in enumerate(zip(v.T, values, strict=True)):
            joint = np.bincount(binned * count + column, minlength=bins * count)
            found[d, f] = _of_counts(joint.reshape(bins, count))
    return found


def _of_counts(joint: Array) -> float:
    p = joint / joint.sum()
    apart = p.sum(1, keepdims=True) * p.sum(0, keepdims=True)
    seen = p > 0
    return max(float((p[seen] * np.log(p[seen] / apart[seen])).sum()), 0.0)


def entropy(factors: Array) -> Array:
    """H(v_f) in nats, [F], of the values of factors [N, F] in these images."""
    parts = [np.unique(column, return_counts=True)[1] / len(factors) for column in factors.T]
    return np.array([-(p * np.log(p)).sum() for p in parts])


class Gaps(NamedTuple):
    mean: float  # the score: 1 if each factor is known from one unit, and from no other
    of_factors: Array  # [F]
    units: Array  # [F] the unit that knows most of each factor


def mutual_information_gap(found: Array, entropies: Array) -> Gaps:
    """MIG = 1/F sum_f (I(z_1st; v_f) - I(z_2nd; v_f)) / H(v_f) (Chen et al. 2018).

    The gap is between the two units that know most of a factor; with a single unit, to 0.

    The numbers depend on what counts as z and as a factor. Chen et al. draw z from q(z|x); with its
    mean, and bins, as is common since, they are larger. A factor that no unit can know, such as an
    orientation with symmetries, lowers the mean.

    Args:
        found: [D, F] I(z_d; v_f).
        entropies: [F] H(v_f), in the same unit.
    """
    order = np.sort(np.concatenate([found, np.zeros((1, found.shape[1]))]), axis=0)
    gaps = (order[-1] - order[-2]) / entropies
    return Gaps(float(gaps.mean()), gaps, found.argmax(0))


class Modularity(NamedTuple):
    mean: float  # over units that say something; nan if none does
    of_units: Array  # [D] nan where a unit says nothing


def modularity(found: Array) -> Modularity:
    """How far each unit knows one factor alone (Ridgeway & Mozer 2018), from I(z_d; v_f), [D, F]:

    1 - 1 / (F - 1) sum_{f != f*} (I(z_d; v_f) / I(z_d; v_f*))^2,  f* = argmax_f I(z_d; v_f).

    1 if the others are 0, and 0 if the unit knows all of them equally well.
    """
    most = found.max(1)
    says = most > _NOTHING
    parts = (found / np.where(says, most, 1)[:, None]) ** 2
    of_units = np.where(says, 1 - (parts.sum(1) - 1) / (found.shape[1] - 1), np.nan)
    return Modularity(float(of_units[says].mean()) if says.any() else float("nan"), of_units)
