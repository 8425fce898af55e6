"""The training loop: Python once a segment of about half a second, the rest compiled.

A segment is cut where the epoch ends or a checkpoint is due after so many steps, and otherwise
wherever the clock says (that of the first process), for that changes no bit of the result. At cuts:
progress, checkpoints, signals, and what was not finite. At the end of an epoch: metrics,
validation, early stopping.

Nothing that goes wrong on the disk ends a training; it ends with an error if its last state was
lost.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from flaxvae import signals
from flaxvae.core import Variables
from flaxvae.data.pipeline import Data
from flaxvae.devices import batches, hosts
from flaxvae.devices import mesh as meshes
from flaxvae.errors import DataError, DivergedError, Stopped, counted
from flaxvae.recipe import Recipe
from flaxvae.runs.checkpoints import Checkpoints, Restored
from flaxvae.runs.contents import as_saved, closed, from_parts, is_closed, to_parts
from flaxvae.runs.folder import RunFolder
from flaxvae.runs.keeper import Keeper, value
from flaxvae.settings import TrainSettings, interval
from flaxvae.training import guard, schedules
from flaxvae.training.step import Trainer, TrainState, keys

SEGMENT_SECONDS = 0.5


class Watcher(Protocol):
    """Who is told how training goes."""

    def start(self, total_steps: int, steps_per_epoch: int, done: int = 0) -> None: ...

    def progress(
        self, step: int, metrics: Mapping[str, float], images_per_second: float
    ) -> None: ...

    def epoch(self, record: Mapping[str, Any]) -> None: ...

    def stage(self, what: str, done: int = 0, total: int = 0) -> None: ...

    def note(self, text: str) -> None: ...


class Quiet:
    """A watcher that says nothing."""

    def start(self, total_steps, steps_per_epoch, done=0): ...

    def progress(self, step, metrics, images_per_second): ...

    def epoch(self, record): ...

    def stage(self, what, done=0, total=0): ...

    def note(self, text): ...


def _epochs_since_best(history: list[dict[str, Any]]) -> int:
    best = max(history, key=value, default=None)  # the first of equals
    return history[-1]["epoch"] - best["epoch"] if best else 0


def resume(trainer: Trainer, checkpoints: Checkpoints | None, note) -> TrainState | None:
    """The state of the newest good checkpoint, which the first process has, on all devices."""
    like = jax.eval_shape(trainer.init)
    found = _restore(like, checkpoints, note)
    if found is None:
        return None
    state = from_parts(found.parts)
    if is_closed(state):
        return jax.tree.map(meshes.place, state, closed(trainer.sharding))
    per_epoch = found.meta.get("steps_per_epoch", trainer.steps_per_epoch)
    state = _adopt(state, like, trainer, per_epoch, note)
    return jax.tree.map(meshes.place, state, trainer.sharding)


def _restore(like: TrainState, checkpoints: Checkpoints | None, note) -> Restored | None:
    """The first process's newest good checkpoint, at every process."""
    found = None
    if checkpoints is not None:
        found = checkpoints.restore(to_parts(like), note)
    meta = hosts.share(found and found.meta)
    if meta is None:
        return None
    if checkpoints is not None:
        then, now = meta.get("machine", {}), checkpoints.facts.get("machine", {})
        changed = [f"{k} {then[k]} -> {now[k]}" for k in then if then[k] != now.get(k)]
        if changed:
            note(f"the last bits may differ from here on: {', '.join(changed)}")
    return Restored(hosts.share_arrays(found and found.parts, as_saved(to_parts(like), meta)), meta)


def _adopt(
    state: TrainState, like: TrainState, trainer: Trainer, per_epoch: int, note
) -> TrainState:
    """A state of settings that have changed since (``api.check_resume`` says which may)."""
    if bool(state.ema) != bool(like.ema):
        ema = jax.tree.map(np.copy, state.variables["params"]) if like.ema else {}
        state = dataclasses.replace(state, ema=ema)
    if bool(state.best) != bool(like.best):
        best = jax.tree.map(np.copy, state.evaluated()) if like.best else {}
        state = dataclasses.replace(state, best=best)
    if (per_epoch, set(state.totals)) == (trainer.steps_per_epoch, set(like.totals)):
        return state
    epochs = int(state.step - state.offset) // per_epoch
    note(f"epoch {epochs + 1} begins anew, in {counted(trainer.steps_per_epoch, 'step')}")
    zero: Any = np.int32(0)
    offset: Any = np.int32(int(state.step) - epochs * trainer.steps_per_epoch)
    totals = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like.totals)
    guarded = state.guard._replace(skipped=zero)
    return dataclasses.replace(state, offset=offset, totals=totals, guard=guarded)


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
        DivergedError: something is not finite, and ``settings.on_nan`` has no help; the last
            good state is saved.
        Stopped: a signal came; the state is saved.
        DataError: the training is over, but its last state or rows could not be saved.
    """
    watch = watch or Quiet()
    if folder is None:
        return _Training(recipe, trainer, data, settings, mesh, None, None, watch).run()
    facts = {"steps_per_epoch": trainer.steps_per_epoch, "machine": meshes.machine(mesh)}
    owners = folder.digests()
    with Checkpoints(folder.checkpoints, facts=facts, owners=owners) as checkpoints:
        try:
            made = _Training(recipe, trainer, data, settings, mesh, folder, checkpoints, watch)
            return made.run()
        finally:
            folder.close()


class _Training:
    """One call of ``fit``."""

    def __init__(self, recipe, trainer, data, settings, mesh, folder, checkpoints, watch):
        self.recipe, self.trainer, self.data = recipe, trainer, data
        self.settings, self.mesh, self.watch = settings, mesh, watch
        self.checkpoints: Checkpoints | None = checkpoints
        self.per_epoch: int = trainer.steps_per_epoch
        state = resume(trainer, checkpoints, watch.note)
        self.state: TrainState = trainer.init() if state is None else state
        self.over = is_closed(self.state)
        epochs = self.position // self.per_epoch
        kept = folder.rewind(epochs, watch.note) if folder else []
        self.history: list[dict[str, Any]] = hosts.share(kept)
        every, self.unit = interval(settings.checkpoint_every) or (0, "seconds")
        if self.unit == "epochs":
            every, self.unit = every * self.per_epoch, "steps"
        self.every: float = every
        self.order: tuple[int, Any] = (-1, None)  # an epoch, and its order of the images
        self.chunk, self.done, self.seconds = 1, 0, 0.0  # steps; and since the epoch's begin
        self.keeper = Keeper(folder, checkpoints, watch.note)
        self.skipped = False
        self.validate = None
        if data.validation is not None:
            self.validate = batches.over_split(batches.bound_terms(recipe.model), mesh)

    @property
    def step(self) -> int:
        """Steps done."""
        return int(self.state.step)

    @property
    def position(self) -> int:
        """Steps done, as if all had been of this batch size."""
        return self.step - int(self.state.offset)

    @property
    def total(self) -> int:
        """Steps at the end."""
        return self.trainer.total_steps + int(self.state.offset)

    def run(self) -> tuple[Variables, list[dict[str, Any]]]:
        with signals.caught() as heard:
            return self._run(heard)

    def _run(self, heard: list[int]) -> tuple[Variables, list[dict[str, Any]]]:
        if self.over:
            self.watch.note("the training is over, and of it the model alone is kept")
        if not self.finished():
            if self.step == 0:
                self.save()
            for text in schedules.remarks(self.recipe, self.settings, self.total):
                self.watch.note(text)
        self.watch.start(self.total, self.per_epoch, self.step)
        if not self.finished():
            # No steps: compiles, so that what follows is timed without it.
            self.state = self.trainer.segment(self.state, self.trainer.order(0), 0)
        self.saved = time.monotonic()
        while not self.finished():
            due, signalled = self.agree(heard)
            if signalled:
                kept = self.keeper.close(self.state, self.history)
                raise Stopped(f"stopped at step {self.step} of {self.total}{kept}", signalled)
            if due:
                self.save()
            self.advance()
            if int(self.state.guard.fault):
                self.recover()
                continue
            self.watch.progress(self.step, self.means(), self.speed())
            if self.position % self.per_epoch == 0:
                self.end_epoch()
        goes_on = self.settings.open_ended and not self.tired()
        self.keeper.close(self.state if goes_on else closed(self.state), self.history)
        return self.state.final(), self.history

    def finished(self) -> bool:
        return self.over or self.step >= self.total or self.tired()

    def tired(self) -> bool:
        """Whether early stopping has ended it."""
        patience = self.settings.patience
        return patience is not None and _epochs_since_best(self.history) >= patience

    def advance(self) -> None:
        """One segment: up to the epoch's end, a checkpoint due, a fault, or the clock's cut."""
        before, (epoch, within) = self.step, divmod(self.position, self.per_epoch)
        if self.order[0] != epoch:
            self.order = epoch, self.trainer.order(epoch)
        steps = min(self.chunk, self.per_epoch - within)
        if self.unit == "steps":
            steps = min(steps, int(self.every - before % self.every))
        start = time.perf_counter()
        self.state = self.trainer.segment(self.state, self.order[1], steps)
        jax.block_until_ready(self.state)
        elapsed = max(time.perf_counter() - start, 1e-6)  # a clock may go back
        self.done, self.seconds = self.done + self.step - before, self.seconds + elapsed
        self.chunk = max(1, min(4 * steps, round(SEGMENT_SECONDS * steps / elapsed)))

    def agree(self, heard: list[int]) -> tuple[bool, int]:
        """Whether to save, by the first process's clock, and the signal that came to any, or 0.

        Clocks and signals are a process's own: what follows from them all do alike.
        """
        said = hosts.gather(self.chunk, self.due(), heard[0] if heard else 0)
        self.chunk, due = said[0, :2].tolist()
        return bool(due), int(said[:, 2].max())

    def speed(self) -> float:
        """Images a second in this epoch."""
        return self.done * self.settings.batch_size / max(self.seconds, 1e-6)

    def means(self) -> dict[str, float]:
        """Of this epoch's metrics, over the steps that were not skipped."""
        steps = (self.position - 1) % self.per_epoch + 1 - int(self.state.guard.skipped)
        return {k: float(total) / steps for k, total in self.state.totals.items()} if steps else {}

    def end_epoch(self) -> None:
        state, guards = self.state, self.state.guard
        row: dict[str, Any] = {"epoch": self.position // self.per_epoch, "step": self.step}
        row |= {f"train_{name}": value for name, value in self.means().items()}
        if self.validate is not None:
            key = keys(self.settings.seed).evaluation
            found = self.validate(self.data.validation, state.evaluated(), key)
            if self.recipe.has_bound:
                row["validation_elbo"] = float(found["elbo"].mean(dtype="float64"))
                row["validation_kl"] = float(found["kl"].sum(-1).mean(dtype="float64"))
            reconstruction = float(found["reconstruction"].mean(dtype="float64"))
            row["validation_reconstruction"] = reconstruction
        rate = float(self.trainer.learning_rate(self.position - 1))
        row["learning_rate"] = rate * float(guards.scale)
        row |= schedules.numbers(self.recipe, self.step)
        row["images_per_second"] = round(self.speed(), 1)
        counts = {"skipped_steps": int(guards.skipped), "rollbacks": int(guards.rollbacks)}
        row |= {name: count for name, count in counts.items() if count}
        if guards.skipped and not self.skipped:
            self.skipped = True  # once is enough
            self.watch.note(
                f"epoch {row['epoch']}: not finite at {int(guards.skipped)} of its steps, which "
                "were skipped; metrics.jsonl counts them"
            )
        self.history.append(row)
        if state.best and _epochs_since_best(self.history) == 0:
            state = dataclasses.replace(state, best=jax.tree.map(jnp.copy, state.evaluated()))
        totals, skipped = jax.tree.map(jnp.zeros_like, (state.totals, guards.skipped))
        guards = guards._replace(skipped=skipped)
        self.state = dataclasses.replace(state, totals=totals, guard=guards)
        self.keeper.add(self.history)
        self.watch.epoch(row)
        self.done, self.seconds = 0, 0.0

    # ---- what is not finite

    def recover(self) -> None:
        """Go back and on, or raise DivergedError with the last good state saved."""
        guards, settings = self.state.guard, self.settings
        epoch = self.position // self.per_epoch + 1
        found = (
            f"{guard.FAULTS[int(guards.fault)]} not finite at step {self.step + 1} (epoch {epoch})"
        )
        self.set_guard(fault=np.int32(0), in_row=np.int32(0))
        if settings.on_nan == "rollback" and int(guards.rollbacks) < guard.ROLLBACKS:
            self.roll_back(found)
            return
        after = {
            "stop": "",
            "skip": f", nor at the {guard.SKIPS} skipped before it",
            "rollback": f", after {guard.ROLLBACKS} rollbacks",
        }
        other = "rollback" if settings.on_nan == "skip" else "skip"
        try:
            kept = self.keeper.close(self.state, self.history)
        except DataError as error:
            kept = f"; {error}"
        raise DivergedError(
            f"{found}{after[settings.on_nan]}: expected finite numbers{kept}; try a lower "
            f"--learning-rate or --clip-norm 1, both with --allow-changes, or --on-nan {other}"
        )

    def roll_back(self, found: str) -> None:
        """To the newest checkpoint, or without one to the last good step, at half the rate."""
        count, scale = int(self.state.guard.rollbacks) + 1, float(self.state.guard.scale) / 2
        self.keeper.settle()
        state = resume(self.trainer, self.checkpoints, self.watch.note)
        self.state = self.state if state is None else state
        self.set_guard(rollbacks=np.int32(count), scale=np.float32(scale))
        self.watch.note(
            f"{found}: back to step {self.step}, with {scale:g} of the learning rate "
            f"({count} of {guard.ROLLBACKS})"
        )
        epochs, rows = self.position // self.per_epoch, len(self.history)
        self.history = [row for row in self.history if row["epoch"] <= epochs]
        if len(self.history) < rows:
            self.keeper.write(self.history)
        self.chunk, self.done, self.seconds = 1, 0, 0.0  # a chunk that all have

    def set_guard(self, **values: np.generic) -> None:
        placed = meshes.put(values, meshes.replicated(self.mesh))
        guards = self.state.guard._replace(**placed)
        self.state = dataclasses.replace(self.state, guard=guards)

    # ---- saving

    def due(self) -> bool:
        """Whether to save now; by the clock only if no save is in flight, which would be waited
        for. A clock that has gone back makes it due."""
        if self.unit == "steps":
            return self.step % self.every == 0
        late = not 0 <= time.monotonic() - self.saved <= self.every
        return late and not self.keeper.busy()

    def save(self) -> None:
        self.saved = time.monotonic()
        self.keeper.save(self.state, self.history)
