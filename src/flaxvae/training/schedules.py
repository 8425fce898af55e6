"""Numbers of a loss that depend on the step, and whether training reaches their final values."""

from __future__ import annotations

from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np

from flaxvae.errors import counted
from flaxvae.recipe import Recipe
from flaxvae.settings import TrainSettings

_CALLED = {"kl_weight": "the KL's weight", "kl_target": "the KL's target"}


def numbers(recipe: Recipe, steps: int) -> dict[str, float]:
    """The value of each of the recipe's schedules at the last of ``steps`` steps."""
    last = max(steps - 1, 0)
    return {name: float(schedule(last)) for name, schedule in recipe.schedules.items()}


def remarks(recipe: Recipe, settings: TrainSettings, steps: int) -> Iterator[str]:
    """A line for each schedule that has not reached its final value after ``steps`` steps."""
    training = f"the training's {counted(steps, 'step')}"
    later = jnp.asarray(np.minimum(np.geomspace(max(steps, 1), 1e9, 4096), 1e9), jnp.int32)
    for name, last in numbers(recipe, steps).items():
        values = np.asarray(recipe.schedules[name](later), np.float32)  # the first is the next one
        if steps and not np.allclose(values, values.flat[0], rtol=1e-5, atol=0):
            yield (
                f"{_CALLED.get(name, name)} ends at {last:.3g}, not at {values.max():.3g}: its "
                f"schedule is longer than {training}"
            )
    if steps and settings.warmup_steps >= steps:
        yield (
            f"the learning rate does not reach {settings.learning_rate:g}: its warm-up of "
            f"{settings.warmup_steps:,} is longer than {training}"
        )
