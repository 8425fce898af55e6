"""Simulation-based calibration of q(z|x) on data drawn from the model (Talts et al. 2018).

    z ~ p(z),   x ~ p(x|z),   z_1 .. z_L ~ q(z|x),   rank_d = how many of z_1d .. z_Ld are below z_d

Given x, z is a draw of the true posterior p(z|x). If q(z|x) is that posterior, the rank of each
dimension is uniform on 0 .. L, whatever the model, and its central 90 % interval holds z_d for
90 % of the data. Where q is too narrow, ranks pile up at both ends and the intervals hold fewer.
The converse is not true: correct ranks of single dimensions do not make q exact.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flaxvae.core import Batch, Model, Variables

Array = jax.Array

DRAWS = 99  # L: of 100 ranks, the middle 90 and 50 are central intervals
CENTRAL = (0.5, 0.9)


class Coverage(NamedTuple):
    """How often the central intervals of q hold z, averaged over dimensions and draws."""

    simulations: int
    half: float  # of 50 % intervals
    most: float  # of 90 % intervals
    worst: float  # of 90 % intervals, in the dimension where it is lowest


def simulation(
    model: Model, draws: int = DRAWS
) -> Callable[[Variables, Array, Batch], dict[str, Array]]:
    """Draws from the model as a function of (variables, key, batch), for one row of ``batch`` each.

    Of the batch only the number of rows and the labels are used. Returns z [B, D], and the ranks
    [B, D] among ``draws`` of q(z|x), whole numbers from 0 to ``draws``.
    """

    def simulate(variables: Variables, key: Array, batch: Batch) -> dict[str, Any]:
        prior_key, data_key, posterior_key = jax.random.split(key, 3)
        z = model.prior_sample(variables, prior_key, len(batch.x), batch.y)
        x = model.decode(variables, z, batch.y).sample(data_key)
        features = model.encode(variables, x, batch.y)

        def add(below, key):
            drawn = model.reparameterize(variables, key, features, False).z
            return below + (drawn < z), None

        none = jnp.zeros(z.shape, jnp.int32)
        ranks = jax.lax.scan(add, none, jax.random.split(posterior_key, draws))[0]
        return {"prior": z, "ranks": ranks}

    return simulate


def coverage(ranks: np.ndarray, draws: int = DRAWS) -> Coverage:
    """How often central intervals hold z, of ranks [N, D] from 0 to ``draws``.

    The interval of the middle c (L + 1) ranks has probability c if these are uniform.
    """
    middle = np.abs(ranks - draws / 2)
    held = [middle < c * (draws + 1) / 2 for c in CENTRAL]
    half, most = (float(inside.mean()) for inside in held)
    return Coverage(len(ranks), half, most, float(held[1].mean(0).min()))
