"""The training loop: Python once a segment of about half a second, the rest compiled.

A segment is cut where the epoch ends, and otherwise wherever the clock says, for that changes no
bit of the result. At cuts: progress, checkpoints, signals. At the end of an epoch: metrics,
validation, early stopping.
"""

from __future__ import annotations

import dataclasses
import math
import signal
import threading
import time
from collections.abc import Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from flaxvae.core import Variables
from flaxvae.data.pipeline import Data
from flaxvae.errors import DivergedError, Stopped
from flaxvae.settings import TrainSettings
from flaxvae.training import batches
from flaxvae.training.checkpoints import Checkpoints, from_parts, to_parts
from flaxvae.training.runs import RunFolder
from flaxvae.training.step import Trainer, TrainState, keys
from flaxvae.zoo import Recipe

SEGMENT_SECONDS = 0.5
CHECKPOINT_SECONDS = 15.0


class Watcher(Protocol):
    """Who is told how training goes."""

    def start(self, total_steps: int, steps_per_epoch: int, done: int = 0) -> None: ...

    def progress(
        self, step: int, metrics: Mapping[str, float], images_per_second: float
    ) -> None: ...

    def epoch(self, record: Mapping[str, Any]) -> None: ...

    def note(self, text: str) -> None: ...


class Quiet:
    """A watcher that says nothing."""

    def start(self, total_steps, steps_per_epoch, done=0): ...

    def progress(self, step, metrics, images_per_second): ...

    def epoch(self, record): ...

    def note(self, text): ...


@contextmanager
def caught_signals():
    """A list that SIGINT and SIGTERM are put into, between steps; the second one stops at once."""
    seen: list[int] = []

    def handler(number, frame):
        if seen:
            raise KeyboardInterrupt
        seen.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield seen
        return
    previous = {
        number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield seen
    finally:
        for number, old in previous.items():
            signal.signal(number, old)


def _means(state: TrainState, steps: int) -> dict[str, float]:
    return {name: float(total) / max(steps, 1) for name, total in state.totals.items()}


def _epochs_since_best(history: list[dict[str, Any]]) -> int:
    """By the validation ELBO; by the reconstruction where a model has no bound."""
    values = [row.get("validation_elbo", -row["validation_reconstruction"]) for row in history]
    return len(values) - 1 - values.index(max(values)) if values else 0


def resume(trainer: Trainer, checkpoints: Checkpoints, note) -> TrainState | None:
    """The state of the newest good checkpoint, on the trainer's devices."""
    shapes = jax.eval_shape(trainer.init)
    sharding = trainer.sharding
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes)
    parts = checkpoints.restore(to_parts(like), note)
    return None if parts is None else from_parts(parts)


def fit(
    recipe: Recipe,
    trainer: Trainer,
    data: Data,
    settings: TrainSettings,
    mesh: Mesh,
    folder: RunFolder | None = None,
    watch: Watcher | None = None,
) -> tuple[Variables, list[dict[str, Any]]]:
    """Train to the end, from the newest checkpoint in ``folder`` if there is one.

    Args:
        recipe, trainer, data, settings, mesh: what to train, compiled by ``step.trainer``.
        folder: takes metrics and checkpoints; None keeps nothing.
        watch: hears of progress.

    Returns:
        The variables to use (the best ones with early stopping, else the last, averaged where
        asked) and the rows of metrics.jsonl, one an epoch.

    Raises:
        DivergedError: the loss is not finite; that state is not saved.
        Stopped: SIGINT or SIGTERM came; the state is saved.
    """
    watch = watch or Quiet()
    if folder is None:
        return _fit(recipe, trainer, data, settings, mesh, None, None, watch)
    with Checkpoints(folder.checkpoints) as checkpoints:
        try:
            return _fit(recipe, trainer, data, settings, mesh, folder, checkpoints, watch)
        finally:
            folder.close()


def _fit(recipe, trainer, data, settings, mesh, folder, checkpoints, watch):
    state, history = None, []
    if checkpoints is not None:
        state = resume(trainer, checkpoints, watch.note)
    state = trainer.init() if state is None else state
    step, per_epoch = int(state.step), trainer.steps_per_epoch
    if folder is not None:
        history = folder.rewind(step // per_epoch)
    validate = None
    if data.validation is not None:
        terms = batches.bound_terms(recipe.model)
        validate = batches.over_split(terms, mesh)
    validation_key = keys(settings.seed).evaluation

    def end_epoch(state: TrainState, speed: float) -> tuple[TrainState, dict[str, Any]]:
        row = {"epoch": step // per_epoch, "step": step}
        row |= {f"train_{name}": value for name, value in _means(state, per_epoch).items()}
        if validate is not None:
            found = validate(data.validation, state.evaluated(), validation_key)
            if recipe.has_bound:
                row["validation_elbo"] = float(found["elbo"].mean(dtype="float64"))
                row["validation_kl"] = float(found["kl"].sum(-1).mean(dtype="float64"))
            reconstruction = float(found["reconstruction"].mean(dtype="float64"))
            row["validation_reconstruction"] = reconstruction
        row["learning_rate"] = float(trainer.learning_rate(step - 1))
        row["images_per_second"] = round(speed, 1)
        history.append(row)
        if state.best and _epochs_since_best(history) == 0:
            state = dataclasses.replace(state, best=jax.tree.map(jnp.copy, state.evaluated()))
        totals = jax.tree.map(jnp.zeros_like, state.totals)
        return dataclasses.replace(state, totals=totals), row

    def save() -> None:
        if checkpoints is not None:
            checkpoints.save(state)

    def finished() -> bool:
        patience = settings.patience
        tired = patience is not None and history and _epochs_since_best(history) >= patience
        return step >= trainer.total_steps or bool(tired)

    if step == 0:
        save()
    watch.start(trainer.total_steps, per_epoch, step)
    if not finished():
        # No steps: compiles, so that what follows is timed without it.
        state = trainer.segment(state, trainer.order(0), 0)
    chunk, done, seconds, saved = 1, 0, 0.0, time.monotonic()
    epoch, order = -1, None
    with caught_signals() as signals:
        while not finished():
            if step // per_epoch != epoch:
                epoch, order = step // per_epoch, trainer.order(step // per_epoch)
            steps = min(chunk, per_epoch - step % per_epoch)
            start = time.perf_counter()
            state = trainer.segment(state, order, steps)
            jax.block_until_ready(state)
            elapsed = time.perf_counter() - start
            step, done, seconds = step + steps, done + steps, seconds + elapsed
            chunk = max(1, min(4 * steps, round(SEGMENT_SECONDS * steps / elapsed)))
            speed = done * settings.batch_size / seconds
            metrics = _means(state, (step - 1) % per_epoch + 1)
            if not math.isfinite(metrics["loss"]):  # before anything is saved
                raise DivergedError(
                    f"the loss is {metrics['loss']} within steps {step - steps + 1} to {step} "
                    f"(epoch {epoch + 1}): expected a finite number; try a lower "
                    "--learning-rate, --clip-norm 1, or --warmup-steps 500"
                )
            watch.progress(step, metrics, speed)
            if step % per_epoch == 0:
                state, row = end_epoch(state, speed)
                if folder is not None:
                    folder.append(row)
                watch.epoch(row)
                done, seconds = 0, 0.0
            if signals or time.monotonic() - saved > CHECKPOINT_SECONDS:
                save()
                saved = time.monotonic()
            if signals and not finished():
                raise Stopped(
                    f"stopped at step {step} of {trainer.total_steps}"
                    + (
                        f", saved; `flaxvae train --resume {folder.path}` goes on" if folder else ""
                    ),
                    signals[0],
                )
    save()
    return state.final(), history
