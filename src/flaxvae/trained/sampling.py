"""Draws from a prior: their temperature, and draws down a hierarchy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from flaxvae import declared
from flaxvae.analysis.fitted_prior import FittedPrior
from flaxvae.core import Variables
from flaxvae.errors import UsageError
from flaxvae.parts.levels import Levels
from flaxvae.trained.programs import Programs

Array = jax.Array
DRAWN = 64  # rows that are drawn down a hierarchy at a time, each time with all its maps


def codes(
    programs: Programs,
    variables: Variables,
    fitted: FittedPrior | None,
    key: Array,
    n: int,
    temperature: tuple[float, ...],
) -> np.ndarray:
    """n draws of z [n, D] from the fitted prior, if there is one, else from the model's own.

    Raises UsageError for a temperature that the prior does not have.
    """
    drawn, hierarchy = 1 << (n - 1).bit_length(), programs.recipe.hierarchy  # few sizes to compile
    if fitted is not None:
        return np.asarray(programs.fitted_sample(*fitted, key, drawn, _one(temperature)))[:n]
    scale = of_levels(temperature, hierarchy)
    if hierarchy is None:
        return np.asarray(programs.prior_sample(variables, key, drawn, scale))[:n]

    def some(key: Array, rows: np.ndarray) -> Array:
        return programs.prior_sample(variables, key, len(rows), scale)

    return down(n, some, key)


def down(n: int, some: Callable[[Array, np.ndarray], Array], key: Array) -> np.ndarray:
    """n rows of z drawn down a hierarchy, DRAWN at a time: ``some`` of a key and the rows."""
    parts = [
        np.asarray(some(jax.random.fold_in(key, start), np.arange(start, start + DRAWN)))
        for start in range(0, n, DRAWN)
    ]
    return np.concatenate(parts)[:n]


def of_levels(temperature: tuple[float, ...], hierarchy: Levels | None) -> Any:
    """One number, or of several, one for each level, those of the KL's columns.

    Raises UsageError for another number of them.
    """
    if len(temperature) == 1:
        return temperature[0]
    if hierarchy is None or len(temperature) != len(hierarchy.names):
        names = () if hierarchy is None else hierarchy.names
        other = f", or one for each level, {', '.join(names)}" if len(names) > 1 else ""
        raise UsageError(f"--temperature {declared.seen(temperature)}: expected one number{other}")
    return np.asarray(hierarchy.each(temperature), np.float32)


def _one(temperature: tuple[float, ...]) -> float:
    """The temperature of a prior without levels. Raises UsageError for several numbers."""
    if len(temperature) > 1:
        raise UsageError(
            f"--temperature {declared.seen(temperature)}: expected one number, since the fitted "
            "prior has no levels"
        )
    return temperature[0]


def key_of_pixels(seed: int) -> Array:
    """The key of draws from p(x|z), beside those of z from the same seed."""
    return jax.random.fold_in(jax.random.key(seed), 2**32 - 1)
