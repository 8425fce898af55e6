"""Whether p(x|z) is as sure as it may be: predicted and seen values of held-out images.

With z ~ q(z|x), p(x|z) predicts each value x_d by its mean m_d and its deviation. Over all values,

    residual^2 = mean of (x_d - m_d)^2        what is seen
    spread^2   = mean of the variance of p    what is predicted, from one draw of p(x|z)

should agree: a Gaussian's spread is its sigma. Where p(x|z) is a Bernoulli and images are binary,
of the pixels with m_d near 0.3 three in ten should be on: the table of a reliability diagram.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flaxvae.distributions import Distribution, flat

Array = jax.Array

BINS = 10  # of predicted values, 0 to 1
LEAST = 0.01  # of all values, for a bin to count


class Bin(NamedTuple):
    """Values whose prediction lies in one tenth of 0 to 1."""

    share: float  # of all values
    predicted: float  # their average prediction
    seen: float  # their average


class Calibration(NamedTuple):
    spread: float  # predicted
    residual: float  # seen
    bins: tuple[Bin, ...]  # those that hold any value
    error: float  # |predicted - seen|, averaged over all values
    worst: Bin | None  # where it is largest, of bins with 1 % of the values or more


def sums(p: Distribution, x: Array, key: Array) -> dict[str, Array]:
    """What ``calibration`` needs of each row of a batch x [B, *shape], under p(x|z) for each.

    "errors" [B, 2]: means over values of (x - m)^2 and of (draw - m)^2, and "bins" [B, 10, 3]:
    how many values are predicted in each tenth, the sum of these predictions, and of the values.
    """
    draw = flat(p.sample(key))
    x, mean = flat(x), flat(p.mean)
    errors = jnp.stack([jnp.square(a - mean).mean(-1) for a in (x, draw)], -1)
    bin = jnp.clip((mean * BINS).astype(jnp.int32), 0, BINS - 1)

    def one(number):
        inside = bin == number
        return jnp.stack([jnp.where(inside, a, 0).sum(-1) for a in (jnp.ones_like(x), mean, x)], -1)

    return {"errors": errors, "bins": jax.lax.map(one, jnp.arange(BINS)).swapaxes(0, 1)}


def calibration(errors: np.ndarray, bins: np.ndarray) -> Calibration:
    """From the ``sums`` of all images: errors [N, 2], bins [N, 10, 3]."""
    residual, spread = np.sqrt(errors.mean(0, dtype=np.float64)).tolist()
    counts, predicted, seen = bins.sum(0, dtype=np.float64).T
    filled = counts > 0
    share = counts[filled] / counts.sum()
    means = (predicted[filled] / counts[filled], seen[filled] / counts[filled])
    found = tuple(Bin(*row) for row in np.stack([share, *means], -1).tolist())
    apart = [abs(bin.predicted - bin.seen) for bin in found]
    counted = [bin for bin in found if bin.share >= LEAST]
    return Calibration(
        spread=spread,
        residual=residual,
        bins=found,
        error=float(np.dot(share, apart)),
        worst=max(counted, key=lambda bin: abs(bin.predicted - bin.seen), default=None),
    )
