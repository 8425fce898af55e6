"""Who looks on while a model trains: a Watcher hears how it goes, a Keeper keeps its state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from flaxvae.training.step import TrainState

Row = dict[str, Any]  # of metrics.jsonl: the numbers of an epoch
Histories = list[list[Row]]  # of each member; one that is no longer finite gets no more rows


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
    """A watcher that says nothing; it can stand in for a whole Terminal."""

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
    """A state that was kept, as NumPy arrays."""

    state: TrainState
    steps_per_epoch: int | None  # of the training that it is of; None: as now


class Keeper(Protocol):
    """Who keeps the states of a training, and its rows.

    What goes wrong with that does not end the training, unless it is the last state that is lost.
    Of several processes all call the same functions in the same order.
    """

    def restore(self, like: TrainState) -> Kept | None:
        """The newest state that was kept, at every process; ``like`` has its shapes."""

    def rewind(self, epochs: int) -> Histories:
        """The rows of the first ``epochs``, at every process; later ones are forgotten."""

    def busy(self) -> bool:
        """Whether a save is in flight, for which another would wait."""

    def save(self, state: TrainState, histories: Histories) -> Any:
        """Begin to keep a state."""

    def settle(self) -> Any:
        """Wait for a save in flight."""

    def close(self, state: TrainState, histories: Histories) -> str:
        """Keep a last state; returns how to go on from there. Raises DataError if it is lost."""

    def add(self, histories: Histories) -> None:
        """Keep the last row."""

    def write(self, histories: Histories) -> None:
        """Keep these rows and no others."""


class Nothing:
    """A keeper that keeps nothing, of one training."""

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
