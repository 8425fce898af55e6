"""Trainings of one kind after another, such as the folds of a cross-validation: compiled once.

The rows, the labels and the seed are inputs of the compiled program. All else decides it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh

from flaxvae.data.pipeline import Data
from flaxvae.devices import mesh as meshes
from flaxvae.recipe import Recipe
from flaxvae.settings import TrainSettings
from flaxvae.training import feed as feeds
from flaxvae.training import guard as guards
from flaxvae.training import step as steps
from flaxvae.training.step import Trainer

MOST = 16  # programs that are kept: of a search, each candidate's for two sizes of folds
Kept = TypeVar("Kept")
Make = Callable[[Data, int], Trainer]  # of data of the same shapes, and a seed


def trainers(recipe: Recipe, data: Data, settings: TrainSettings, mesh: Mesh) -> Make:
    """A function that gives ``step.trainer`` for other rows, labels and seeds, compiled once.

    It is for rows that stay on the devices, and parameters that are whole on each of them. It keeps
    no rows.
    """
    steps.check(recipe, data, settings, mesh)
    x, y = jax.tree.map(_shapes, steps.images_and_labels(recipe, data))
    train = data.train._replace(x=x, y=y, names=None)
    alike = data._replace(train=train, validation=None, test=train)
    functions = steps.program(recipe, alike, settings, settings.epochs or 0)
    whole, per_epoch = meshes.replicated(mesh), functions.steps_per_epoch
    order = jax.jit(functions.order, out_shardings=meshes.split(mesh, axis=1))
    shapes = jax.eval_shape(functions.init, steps.keys(0), x, y)
    sharding = meshes.all_whole(shapes, mesh)
    init = jax.jit(functions.init, out_shardings=sharding)
    compute = functools.partial(steps.segment, functions, per_epoch, sharding)
    compiled = jax.jit(compute, donate_argnums=1, out_shardings=sharding)
    tolerance = guards.tolerance(settings.on_nan)

    def made(data: Data, seed: int) -> Trainer:
        given = [feeds.whole(a) for a in steps.images_and_labels(recipe, data)]
        first = [None if a is None else a[:2] for a in given]
        stream, (x, y) = meshes.put((steps.keys(seed), given), whole)

        def of(epoch: Any) -> jax.Array:
            return order(stream, epoch)

        return Trainer(
            per_epoch,
            functions.total_steps,
            functions.learning_rate,
            sharding,
            lambda: init(stream, *first),
            of,
            feeds.Resident(x, y, of, per_epoch),
            lambda state, rows, steps: compiled(stream, state, rows, steps, tolerance),
        )

    return made


def kept(key: Any, make: Callable[[], Kept]) -> Kept:
    """What ``make`` has given for this key before, if that is not too long ago."""
    if key not in _KEPT:
        found = make()
        while len(_KEPT) >= MOST:
            _KEPT.pop(next(iter(_KEPT)), None)
        _KEPT[key] = found
    return _KEPT[key]


_KEPT: dict[Any, Any] = {}


def _shapes(a: Any) -> Any:
    """An array of the same shape and type, in no memory."""
    return np.broadcast_to(np.zeros((), a.dtype), a.shape)
