"""The training loop: Python runs once per segment of about half a second; the rest is compiled.

A segment ends where the epoch ends or a checkpoint is due, and otherwise when the first process's
clock says so; where it ends changes no bit of the result. Between segments: progress, checkpoints,
signals, values that are not finite. At the end of an epoch: metrics, validation, early stopping.

The same loop trains a single model or the members of a sweep side by side; their arrays have a
leading axis of members. It knows no folder: a Watcher reports progress, a Keeper saves the state.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from math import inf, isfinite
from typing import Any

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
from flaxvae.settings import TrainSettings, interval
from flaxvae.training import guard, schedules
from flaxvae.training.feed import Fed
from flaxvae.training.observers import Histories, Keeper, Kept, Nothing, Quiet, Row, Watcher
from flaxvae.training.step import SKIPPED, Trainer, TrainState, keys

SEGMENT_SECONDS = 0.5

Validate = Callable[[Variables], dict[str, np.ndarray]]  # arrays [N] or, of M members, [N, M]


def value(row: Mapping[str, Any]) -> float:
    """An epoch's validation ELBO, or -reconstruction without a bound; the higher the better."""
    found = row.get("validation_elbo", -row.get("validation_reconstruction", inf))
    return found if isfinite(found) else -inf


def _epochs_since_best(rows: Sequence[Row]) -> int:
    best = max(rows, key=value, default=None)  # the first of equals
    return rows[-1]["epoch"] - best["epoch"] if best else 0


def resume(
    trainer: Trainer,
    restore: Callable[[TrainState], Kept | None],
    note: Callable[[str], None],
) -> TrainState | None:
    """The newest saved state, placed on the devices; ``restore`` is a Keeper's."""
    like = jax.eval_shape(trainer.init)
    found = restore(like)
    if found is None:
        return None
    state, sharding = found.state, trainer.sharding
    if state.is_closed:
        return jax.tree.map(meshes.place, state, sharding.closed())
    per_epoch = found.steps_per_epoch or trainer.steps_per_epoch
    return jax.tree.map(meshes.place, _adopt(state, like, trainer, per_epoch, note), sharding)


def _adopt(
    state: TrainState, like: TrainState, trainer: Trainer, per_epoch: int, note
) -> TrainState:
    """Adapt a state to settings changed since (``runs.resume.check_resume`` says which may be)."""
    if bool(state.ema) != bool(like.ema):
        ema = jax.tree.map(np.copy, state.variables["params"]) if like.ema else {}
        state = dataclasses.replace(state, ema=ema)
    if bool(state.best) != bool(like.best):
        best = jax.tree.map(np.copy, state.evaluated()) if like.best else {}
        state = dataclasses.replace(state, best=best)
    if (per_epoch, set(state.totals)) == (trainer.steps_per_epoch, set(like.totals)):
        return state
    epochs = int(state.step - state.offset) // per_epoch
    note(f"epoch {epochs + 1} starts again, with {counted(trainer.steps_per_epoch, 'step')}")
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
    keeper: Keeper | None = None,
    watch: Watcher | None = None,
) -> tuple[Variables, list[Row]]:
    """Train to the end, from the newest saved state if there is one.

    Args:
        recipe, trainer, data, settings, mesh: what to train, compiled by ``step.trainer``.
        keeper: saves metrics and states; None saves nothing.
        watch: reports progress.

    Returns:
        The variables to use (the best ones with early stopping, else the last, averaged if
        asked) and the rows of metrics.jsonl, one per epoch.

    Raises:
        DivergedError: a value is not finite, and ``settings.on_nan`` does not help; the last
            good state is saved.
        Stopped: a signal arrived; the state is saved.
        DataError: training has finished, but its last state or rows could not be saved.
    """
    validate = None
    held = data.validation
    if held is not None:
        terms = batches.over_split(batches.bound_terms(recipe.model), mesh)
        key = keys(settings.seed).evaluation

        def validate(variables):
            return terms(held, variables, key)

    members = [(recipe, settings)]
    made = Training(members, trainer, validate, keeper or Nothing(), watch or Quiet())
    state, (history,) = made.run()
    return state.final(), history


class Training:
    """One training, or several side by side that share a compiled program.

    If values are not finite, ``on_nan`` decides for a single training; one of several members
    stops at its last good step, and the others continue.

    Args:
        members: the recipe and settings of each. They differ only in numbers that the compiled
            program takes as inputs.
        trainer: trains them.
        validate: the bound's terms for each validation image.
        keeper, watch: as in ``fit``.
    """

    def __init__(
        self,
        members: Sequence[tuple[Recipe, TrainSettings]],
        trainer: Trainer,
        validate: Validate | None,
        keeper: Keeper,
        watch: Watcher,
    ):
        self.members, self.trainer, self.validate = members, trainer, validate
        self.keeper, self.watch = keeper, watch
        self.settings = members[0][1]
        self.per_epoch: int = trainer.steps_per_epoch
        state = resume(trainer, keeper.restore, watch.note)
        self.state: TrainState = trainer.init() if state is None else state
        self.over = self.state.is_closed
        self.histories: Histories = keeper.rewind(self.position // self.per_epoch)
        every, self.unit = interval(self.settings.checkpoint_every) or (0, "seconds")
        if self.unit == "epochs":
            every, self.unit = every * self.per_epoch, "steps"
        self.every: float = every
        # Steps of the next segment; steps and seconds since the epoch began.
        self.chunk, self.done, self.seconds = 1, 0, 0.0
        self.skipped = self.large = False  # whether it was said

    @property
    def step(self) -> int:
        """Steps done."""
        return int(self.state.step)

    @property
    def position(self) -> int:
        """Steps done, converted to the current batch size."""
        return self.step - int(self.state.offset)

    @property
    def total(self) -> int:
        """Steps at the end."""
        return self.trainer.total_steps + int(self.state.offset)

    def run(self) -> tuple[TrainState, Histories]:
        """The last state, and the rows of each member.

        Raises DivergedError (a single training only), Stopped and DataError, as ``fit`` does.
        """
        with signals.caught() as heard, contextlib.closing(self.trainer.feed):
            return self._run(heard)

    def _run(self, heard: list[int]) -> tuple[TrainState, Histories]:
        if self.over:
            self.watch.note("the training is finished, and only the model was kept")
        if not self.finished():
            if self.step == 0:
                self.save()
            if self.trainer.feed.remark:
                self.watch.note(self.trainer.feed.remark)
            remarks = [schedules.remarks(*member, self.total) for member in self.members]
            for text in dict.fromkeys(text for each in remarks for text in each):
                self.watch.note(text)
        self.watch.start(self.total, self.per_epoch, self.step)
        if not self.finished():
            # Zero steps: this compiles, so that timings leave it out.
            self.state = self.trainer.segment(self.state, self.feed().rows, 0)
        self.saved = time.monotonic()
        while not self.finished():
            due, signalled = self.agree(heard)
            if signalled:
                kept = self.keeper.close(self.state, self.histories)
                raise Stopped(f"stopped at step {self.step} of {self.total}{kept}", signalled)
            if due:
                self.save()
            self.advance()
            going = self.going()
            if not going:
                if not self.trainer.together:
                    self.recover()
                continue
            means = self.means()
            speed = self.speed() * len(self.members)
            self.watch.progress(self.step, _average([means[i] for i in going]), speed)
            if self.position % self.per_epoch == 0:
                self.end_epoch(going)
        resumable = self.settings.open_ended and not self.tired()
        self.keeper.close(self.state if resumable else self.state.closed(), self.histories)
        return self.state, self.histories

    def finished(self) -> bool:
        gone = self.trainer.together and not self.going()
        return self.over or self.step >= self.total or self.tired() or gone

    def going(self) -> list[int]:
        """The members whose values are all finite so far."""
        return np.flatnonzero(_each(self.state.guard.fault) == 0).tolist()

    def tired(self) -> bool:
        """Whether early stopping has ended a single training."""
        patience = self.settings.patience
        return patience is not None and _epochs_since_best(self.histories[0]) >= patience

    def feed(self) -> Fed:
        """What the next steps need, for at most the rest of the epoch."""
        try:
            return self.trainer.feed.at(self.position)
        except DataError as error:
            if hosts.several():  # the others do not save with this process
                raise
            kept = self.keeper.close(self.state, self.histories)
            raise DataError(f"{error}; stopped at step {self.step} of {self.total}{kept}") from None

    def advance(self) -> None:
        """One segment: as far as the images at hand, to a due checkpoint, a fault, or in time."""
        before, start = self.step, time.perf_counter()
        rows, enough = self.feed()
        steps = min(self.chunk, enough)
        if self.unit == "steps":
            steps = min(steps, int(self.every - before % self.every))
        self.state = self.trainer.segment(self.state, rows, steps)
        jax.block_until_ready(self.state)
        elapsed = max(time.perf_counter() - start, 1e-6)  # a clock can step back
        self.done, self.seconds = self.done + self.step - before, self.seconds + elapsed
        self.chunk = max(1, min(4 * steps, round(SEGMENT_SECONDS * steps / elapsed)))

    def agree(self, heard: list[int]) -> tuple[bool, int]:
        """Whether to save, by the first process's clock, and the signal that any received, or 0.

        Clocks and signals differ between processes; what follows from them must not.
        """
        said = hosts.gather(self.chunk, self.due(), heard[0] if heard else 0)
        self.chunk, due = said[0, :2].tolist()
        return bool(due), int(said[:, 2].max())

    def speed(self) -> float:
        """Images per second of each member in this epoch."""
        return self.done * self.settings.batch_size / max(self.seconds, 1e-6)

    def means(self) -> list[dict[str, float]]:
        """Means of this epoch's metrics, over the steps whose loss and gradient were finite."""
        steps = (self.position - 1) % self.per_epoch + 1 - _each(self.state.guard.skipped)
        totals = {name: _each(total) for name, total in self.state.totals.items()}
        totals.pop(SKIPPED, None)
        return [
            {name: float(x[i]) / int(count) for name, x in totals.items()} if count else {}
            for i, count in enumerate(steps)
        ]

    def end_epoch(self, going: Sequence[int]) -> None:
        state, guards = self.state, self.state.guard
        means, validated = self.means(), self.validated()
        scales, counts = _each(guards.scale), {"skipped_steps": _each(guards.skipped)}
        counts["rollbacks"] = _each(guards.rollbacks)
        counts[SKIPPED] = _each(state.totals.get(SKIPPED, np.zeros(len(means), int)))
        rates, speed = _each(self.trainer.learning_rate(self.position - 1)), self.speed()
        at = {"epoch": self.position // self.per_epoch, "step": self.step}
        for i in going:
            row: Row = at | {f"train_{name}": value for name, value in means[i].items()}
            row |= {name: float(x[i]) for name, x in validated.items()}
            row["learning_rate"] = float(rates[i]) * float(scales[i])
            row |= schedules.numbers(self.members[i][0], self.step)
            row["images_per_second"] = round(speed, 1)
            row |= {name: int(x[i]) for name, x in counts.items() if x[i]}
            self.histories[i].append(row)
        skipped = int(counts["skipped_steps"][going].sum())
        if skipped and not self.skipped:
            self.skipped = True  # say it once
            self.watch.note(
                f"epoch {at['epoch']}: not finite at {skipped} of its steps, which were skipped; "
                "metrics.jsonl counts them"
            )
        large = int(counts[SKIPPED][going].sum())
        if large and not self.large:
            self.large = True
            self.watch.note(
                f"epoch {at['epoch']}: the gradient was above --skip-norm at {large} of its "
                "steps, whose updates were left out; metrics.jsonl counts them"
            )
        if state.best and _epochs_since_best(self.histories[0]) == 0:
            state = dataclasses.replace(state, best=jax.tree.map(jnp.copy, state.evaluated()))
        totals, none = jax.tree.map(jnp.zeros_like, (state.totals, guards.skipped))
        guards = guards._replace(skipped=none)
        self.state = dataclasses.replace(state, totals=totals, guard=guards)
        self.keeper.add(self.histories)
        shown = _average([self.histories[i][-1] for i in going]) | at
        if len(self.members) > 1:
            shown["images_per_second"] = round(speed * len(self.members), 1)
        self.watch.epoch(shown)
        self.done, self.seconds = 0, 0.0

    def validated(self) -> dict[str, np.ndarray]:
        """The validation columns of each member's row."""
        if self.validate is None:
            return {}
        found, columns = self.validate(self.state.evaluated()), {}
        recipe, _ = self.members[0]
        if recipe.has_bound:
            columns["validation_elbo"] = found["elbo"]
            columns["validation_kl"] = found["kl"].sum(-1)
        if recipe.hierarchy is not None:
            names = (f"validation_{key}" for key in recipe.hierarchy.keys)
            columns |= zip(names, np.moveaxis(found["kl"], -1, 0), strict=True)
        columns["validation_reconstruction"] = found["reconstruction"]
        return {name: _each(x.mean(0, dtype="float64")) for name, x in columns.items()}

    # ---- values that are not finite

    def recover(self) -> None:
        """Roll back and continue, or save the last good state and raise DivergedError."""
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
            kept = self.keeper.close(self.state, self.histories)
        except DataError as error:
            kept = f"; {error}"
        lower = "a lower --learning-rate, --clip-norm 1 or"
        if kept:  # and resumed with other settings
            lower = "a lower --learning-rate or --clip-norm 1, both with --allow-changes, or"
        raise DivergedError(
            f"{found}{after[settings.on_nan]}: expected finite numbers{kept}; try {lower} "
            f"--on-nan {other}"
        )

    def roll_back(self, found: str) -> None:
        """Return to the newest checkpoint, or else to the last good step, and halve the rate."""
        count, scale = int(self.state.guard.rollbacks) + 1, float(self.state.guard.scale) / 2
        self.keeper.settle()
        state = resume(self.trainer, self.keeper.restore, self.watch.note)
        self.state = self.state if state is None else state
        self.set_guard(rollbacks=np.int32(count), scale=np.float32(scale))
        self.watch.note(
            f"{found}: back to step {self.step}, with {scale:g} of the learning rate "
            f"({count} of {guard.ROLLBACKS})"
        )
        epochs, (rows,) = self.position // self.per_epoch, self.histories
        self.histories = [[row for row in rows if row["epoch"] <= epochs]]
        if len(self.histories[0]) < len(rows):
            self.keeper.write(self.histories)
        self.chunk, self.done, self.seconds = 1, 0, 0.0  # the same on every process

    def set_guard(self, **values: np.generic) -> None:
        shardings: Any = self.trainer.sharding.guard
        placed = {name: meshes.place(x, getattr(shardings, name)) for name, x in values.items()}
        guards = self.state.guard._replace(**placed)
        self.state = dataclasses.replace(self.state, guard=guards)

    # ---- saving

    def due(self) -> bool:
        """Whether to save now. By the clock, only if no save is in flight, since a new one would
        wait for it; a clock that has stepped back makes a save due."""
        if self.unit == "steps":
            return self.step % self.every == 0
        late = not 0 <= time.monotonic() - self.saved <= self.every
        return late and not self.keeper.busy()

    def save(self) -> None:
        self.saved = time.monotonic()
        self.keeper.save(self.state, self.histories)


def _each(x: Any) -> np.ndarray:
    """One number per member, [M]; M is 1 for a single training."""
    return np.atleast_1d(np.asarray(x))


def _average(rows: Sequence[Row]) -> Row:
    """Means over members of the columns that all have; a single row is copied."""
    if len(rows) == 1:
        return dict(rows[0])
    names = [name for name in rows[0] if all(name in row for row in rows)]
    return {name: float(np.mean([row[name] for row in rows])) for name in names}
