"""Observers of a training: a Watcher is told of its progress, a Keeper saves its state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from flaxvae.training.step import TrainState

Row = dict[str, Any]  # a row of metrics.jsonl: the numbers of an epoch
Histories = list[list[Row]]  # for each member; one that is no longer finite gets no more rows


class Watcher(Protocol):
    """Is told of the progress of a training."""

    def start(self, total_steps: int, steps_per_epoch: int, done: int = 0) -> None: ...

    def progress(
        self, step: int, metrics: Mapping[str, float], images_per_second: float
    ) -> None: ...

    def epoch(self, record: Mapping[str, Any]) -> None: ...

    def stage(self, what: str, done: int = 0, total: int = 0) -> None: ...

    def note(self, text: str) -> None: ...


class Quiet:
    """A watcher that prints nothing; it can replace a Terminal."""

    def header(self, facts): ...

    def table(self, lines): ...

    def summary(self, facts, next_commands): ...

    def start(self, total_steps, steps_per_epoch, done=0): ...

    def progress(self, step, metrics, images_per_second): ...

    def epoch(self, record): ...

    def stage(self, what, done=0, total=0): ...

    def note(self, text): ...

    def watch(self, what):
        return lambda done, total: None


class Kept(NamedTuple):
    """A saved state, as NumPy arrays."""

    state: TrainState
    steps_per_epoch: int | None  # of its training; None: the current number


class Keeper(Protocol):
    """Saves the states and rows of a training.

    A failed save does not end the training, unless the last state is lost. Several processes all
    call the same functions in the same order.
    """

    def restore(self, like: TrainState) -> Kept | None:
        """The newest saved state, in every process; ``like`` has its shapes."""

    def rewind(self, epochs: int) -> Histories:
        """The rows of the first ``epochs``, in every process; later ones are dropped."""

    def busy(self) -> bool:
        """Whether a save is in flight, which another save would wait for."""

    def save(self, state: TrainState, histories: Histories) -> Any:
        """Begin to save a state."""

    def settle(self) -> Any:
        """Wait for a save in flight."""

    def close(self, state: TrainState, histories: Histories) -> str:
        """Save a last state; returns how to resume from it. Raises DataError if it is lost."""

    def add(self, histories: Histories) -> None:
        """Save the last row."""

    def write(self, histories: Histories) -> None:
        """Replace all saved rows by these."""


class Nothing:
    """A keeper of a single training that saves nothing."""

    def restore(self, like): ...

    def rewind(self, epochs):
        return [[]]

    def busy(self):
        return False

    def save(self, state, histories): ...

    def settle(self): ...

    def close(self, state, histories):
        return ""

    def add(self, histories): ...

    def write(self, histories): ...
