"""What a training leaves on the disk, and what it does when the disk fails: it goes on.

It warns once and tries again at the next save; only a last state that could not be saved is an
error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flaxvae.errors import DataError, remedy
from flaxvae.devices import hosts
from flaxvae.devices import mesh as meshes
from flaxvae.runs.checkpoints import Checkpoints, Unsaved
from flaxvae.runs.contents import to_parts
from flaxvae.runs.folder import RunFolder
from flaxvae.training.step import TrainState

Row = Mapping[str, Any]


def value(row: Row) -> float:
    """How good an epoch's model is: its validation ELBO, or what stands for it without a bound."""
    found = row.get("validation_elbo", -row.get("validation_reconstruction", math.inf))
    return found if math.isfinite(found) else -math.inf


class Keeper:
    """Checkpoints and rows of one training; without a folder nothing is kept.

    Of several processes the first alone has a folder, yet all have to call ``save`` and ``close``.
    """

    def __init__(
        self,
        folder: RunFolder | None,
        checkpoints: Checkpoints | None,
        note: Callable[[str], None],
    ):
        self.folder, self.checkpoints, self._note = folder, checkpoints, note
        self._unwritten = ""  # why metrics.jsonl is not whole
        self._warned = False

    def busy(self) -> bool:
        """Whether a save is in flight."""
        return self.checkpoints is not None and self.checkpoints.busy()

    def save(self, state: TrainState, history: Sequence[Row]) -> str:
        """Begin to save the state; returns why it cannot be, "" if all is well so far."""
        if self.folder is None or self.checkpoints is None:
            if hosts.several():
                meshes.fetch(to_parts(state))  # this process's part in a save
            return ""
        reason = ""
        self._mend()
        try:
            self.checkpoints.save(state, {row["step"]: value(row) for row in history})
        except Unsaved as error:
            reason = str(error)
            self._warn("a checkpoint", reason)
        if self._unwritten or not self.folder.as_left():
            self.write(history)
        try:
            self.folder.flush()
        except OSError as error:
            self._warn("TensorBoard's events", error.strerror or str(error))
        return reason

    def settle(self) -> str:
        """Wait for a save in flight; returns why it failed, or ""."""
        try:
            if self.checkpoints is not None:
                self.checkpoints.wait()
        except Unsaved as error:
            self._warn("a checkpoint", str(error))
            return str(error)
        return ""

    def close(self, state: TrainState, history: Sequence[Row]) -> str:
        """Save, and see that it is on the disk; returns how to go on from there.

        Raises DataError if state or rows could not be written: what is lost, and what to do.
        """
        reason = self.save(state, history)
        if self.folder is None or self.checkpoints is None:
            return ""
        reason = self.settle() or reason
        try:
            steps = self.checkpoints.steps()
        except Exception:  # the folder itself is gone
            steps = []
        if int(state.step) not in steps:
            newest = f"the newest checkpoint is of step {steps[-1]}" if steps else "there is none"
            raise DataError(
                f"the state of step {int(state.step)} could not be saved in "
                f"{self.folder.checkpoints} ({reason}): {newest}; {remedy(reason)}, "
                f"then `{self.folder.goes_on}` does the steps since again"
            )
        self.folder.saved = int(state.step)
        if self._unwritten:
            raise DataError(
                f"{self.folder.path / 'metrics.jsonl'} could not be written ({self._unwritten}): "
                f"the model is saved, rows are lost; {remedy(self._unwritten)}, then "
                f"`{self.folder.goes_on}` goes on"
            )
        return f", saved; `{self.folder.goes_on}` goes on"

    def add(self, history: Sequence[Row]) -> None:
        """Add the last row of the history to metrics.jsonl."""
        if self.folder is None:
            return
        if self._unwritten or not self.folder.as_left():
            self.write(history)
        else:
            self._try(self.folder.append, history[-1])

    def write(self, history: Sequence[Row]) -> None:
        """Write metrics.jsonl anew."""
        if self.folder is not None:
            self._try(self.folder.rewrite, history)

    def _mend(self) -> None:
        """See that the folder is still there. Raises DataError if another has taken its place."""
        try:
            gone = self.folder.mend() if self.folder is not None else []
        except OSError as error:
            self._warn("the run folder", error.strerror or str(error))
        else:
            if gone:
                self._note(f"{', '.join(gone)} had gone, and is written again")

    def _try(self, write: Callable[[Any], None], what: Any) -> None:
        try:
            write(what)
            self._unwritten = ""
        except OSError as error:
            self._unwritten = error.strerror or str(error)
            self._warn("metrics.jsonl", self._unwritten)

    def _warn(self, what: str, reason: str) -> None:
        if not self._warned:
            self._note(f"{what} could not be written ({reason}): training goes on")
        self._warned = True
