"""The aggregate posterior q(z) = E_x q(z|x) of Gaussian posteriors: what z says, and where it lies.

The average KL of the bound has two parts, and the second one has two (Hoffman & Johnson 2016, Chen
et al. 2018):

    E KL(q(z|x) || p(z)) = I(x; z) + KL(q(z) || p(z))
    KL(q(z) || p(z))     = KL(q(z) || prod_d q(z_d)) + sum_d KL(q(z_d) || p(z_d))   (p factorises)

The first of the last two is the total correlation. Each needs log q(z), of which N images give two
estimates at a draw z_i ~ q(z|x_i):

    with its own     log 1/N sum_j q(z_i|x_j)                too high: q(z_i|x_i) counts too much
    without it       log 1/(N - 1) sum_{j != i} q(z_i|x_j)   too low, by Jensen's inequality

on average over images and draws, so that they bracket every one of these numbers (Poole et al.
2019): I(x; z) lies above an estimate that is at most log N, and below one that has no such limit.
NumPy in float64; N^2 D numbers are computed, some at a time.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from flaxvae.errors import UsageError

Array = np.ndarray

_AT_ONCE = 2**22  # log-densities computed at once: bounds memory
RARE = 0.01  # of the draws of q(z|x) lie where q(z) is lower than at the edge of a hole


class Bracket(NamedTuple):
    """Two estimates between which a number lies, but for their noise, in nats."""

    low: float
    high: float


class Aggregate(NamedTuple):
    """What N posteriors say of the aggregate one, in nats."""

    images: int  # N
    kl: float  # E log q(z|x) - log p(z), of the same draws: the sum of the next two
    information: Bracket  # I(x; z); the lower one is at most log N
    marginal_kl: Bracket  # KL(q(z) || p(z))
    total_correlation: Bracket  # KL(q(z) || prod_d q(z_d))
    holes: float | None  # fraction of draws of the prior that lie in holes, see ``measure``


class Densities(NamedTuple):
    """log q at draws z [M, D], with and without their own posteriors, in nats."""

    own: Array  # [M] log q(z_i|x_i)
    with_own: Array  # [M] log q(z_i)
    without: Array  # [M]
    marginals_with_own: Array  # [M] sum_d log q(z_i_d)
    marginals_without: Array  # [M]


def densities(mean: Array, log_var: Array, z: Array) -> Densities:
    """log q(z) of N Gaussians, mean and log_var [N, D], at a draw of each, z [N, D].

    Raises UsageError for fewer than two.
    """
    mean, log_var, z = (np.asarray(a, np.float64) for a in (mean, log_var, z))
    count = len(mean)
    if count < 2:
        raise UsageError(f"the posterior of {count} image: expected at least two")
    found = np.zeros((5, count))
    for rows, log_q in _each(mean, log_var, z):
        at = np.arange(len(log_q)), np.arange(rows.start, rows.stop)
        joint = log_q.sum(-1)
        own, own_marginals = joint[at], log_q[at]  # [R], [R, D]
        joint[at], log_q[at] = -np.inf, -np.inf
        others, other_marginals = _log_sum(joint), _log_sum(log_q)
        found[:, rows] = (
            own,
            np.logaddexp(others, own) - math.log(count),
            others - math.log(count - 1),
            (np.logaddexp(other_marginals, own_marginals) - math.log(count)).sum(-1),
            (other_marginals - math.log(count - 1)).sum(-1),
        )
    return Densities(*found)


def log_mixture(mean: Array, log_var: Array, z: Array) -> Array:
    """log 1/N sum_j q(z|x_j) of N Gaussians at any z [M, D]: [M] nats."""
    mean, log_var, z = (np.asarray(a, np.float64) for a in (mean, log_var, z))
    parts = [_log_sum(log_q.sum(-1)) for _, log_q in _each(mean, log_var, z)]
    return np.concatenate(parts) - math.log(len(mean))


def measure(
    mean: Array, log_var: Array, z: Array, log_p: Array, prior: Array | None = None
) -> Aggregate:
    """The numbers of ``Aggregate``.

    A draw of the prior lies in a hole if q(z) is lower there than at all but one of a hundred
    draws of q(z|x), each without its own posterior. Were q(z) the prior, one of a hundred would.
    Among few images in many dimensions draws of q(z|x) are far from other images, too: then few
    holes are found.

    Args:
        mean, log_var: of the posteriors of N images, [N, D].
        z: a draw of each, [N, D].
        log_p: log p(z) there, [N].
        prior: draws of the prior, [M, D].

    Raises:
        UsageError: fewer than two images.
    """
    found = densities(mean, log_var, z)
    kl = float((found.own - log_p).mean())
    low = float((found.own - found.with_own).mean())
    # The KL is a bound as well: KL(q(z) || p(z)) is not negative.
    high = max(min(float((found.own - found.without).mean()), kl), low)
    correlation = Bracket(
        max(float((found.without - found.marginals_with_own).mean()), 0.0),
        max(float((found.with_own - found.marginals_without).mean()), 0.0),
    )
    holes = None
    if prior is not None:
        edge = np.quantile(found.without, RARE)
        holes = float((log_mixture(mean, log_var, prior) < edge).mean())
    marginal = Bracket(max(kl - high, 0.0), max(kl - low, 0.0))
    return Aggregate(len(mean), kl, Bracket(low, high), marginal, correlation, holes)


def _each(mean: Array, log_var: Array, z: Array):
    """log q(z_i_d|x_j) [R, N, D] for some rows i of z at a time, with their slice."""
    deviation = np.exp(0.5 * log_var)
    constant = -0.5 * (math.log(2 * math.pi) + log_var)
    step = max(1, _AT_ONCE // mean.size)
    for start in range(0, len(z), step):
        rows = slice(start, min(start + step, len(z)))
        scaled = (z[rows, None] - mean[None]) / deviation[None]
        yield rows, constant[None] - 0.5 * np.square(scaled)


def _log_sum(values: Array) -> Array:
    """log sum exp over axis 1, of which one value at least is finite."""
    top = values.max(1, keepdims=True)
    return np.log(np.exp(values - top).sum(1)) + top[:, 0]
