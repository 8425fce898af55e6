"""What a training saves to disk. If a save fails, training continues.

It warns once and tries again at the next save; only losing the last state is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from flaxvae.core import Variables
from flaxvae.data.pipeline import Data
from flaxvae.devices import hosts
from flaxvae.devices import mesh as meshes
from flaxvae.errors import DataError, remedy
from flaxvae.recipe import Recipe
from flaxvae.runs import contents, records
from flaxvae.runs.checkpoints import Checkpoints, Unsaved
from flaxvae.runs.folder import RunFolder, write_json
from flaxvae.runs.lock import Held
from flaxvae.settings import TrainSettings
from flaxvae.training import loop, observers
from flaxvae.training.loop import value
from flaxvae.training.observers import Histories, Kept, Row
from flaxvae.training.step import Trainer, TrainState


def fit(
    recipe: Recipe,
    trainer: Trainer,
    data: Data,
    settings: TrainSettings,
    mesh: Mesh,
    folder: RunFolder | None = None,
    watch: observers.Watcher | None = None,
) -> tuple[Variables, list[Row]]:
    """``loop.fit`` from the newest checkpoint in ``folder``, if there is one.

    With several processes, only the first has a folder.
    """
    watch = watch or observers.Quiet()
    facts = {"steps_per_epoch": trainer.steps_per_epoch, "machine": meshes.machine(mesh)}
    with Keeper(folder, facts, watch.note) as keeper:
        return loop.fit(recipe, trainer, data, settings, mesh, keeper, watch)


class _Saves:
    """Checkpoints that may fail, with a single warning; the next save tries again."""

    def __init__(self, checkpoints: Checkpoints, note: Callable[[str], None]):
        self.checkpoints, self._note, self._warned = checkpoints, note, False

    def warn(self, what: str, error: Exception | str) -> str:
        """Warn once that something could not be written; returns why."""
        reason = getattr(error, "strerror", None) or str(error)
        if not self._warned:
            self._note(f"{what} could not be written ({reason}): training continues")
        self._warned = True
        return reason

    def begin(self, state: TrainState, values: Mapping[int, float]) -> str:
        """Begin to save; returns why that failed, or ""."""
        try:
            self.checkpoints.save(state, values)
        except Unsaved as error:
            return self.warn("a checkpoint", error)
        return ""

    def settle(self) -> str:
        """Wait for a save in flight; returns why it failed, or ""."""
        try:
            self.checkpoints.wait()
        except Unsaved as error:
            return self.warn("a checkpoint", error)
        return ""

    def close(self, step: int, reason: str, resuming: str) -> None:
        """Raises DataError, saying what to do, unless the state of this step is on disk."""
        reason = self.settle() or reason
        try:
            steps = self.checkpoints.steps()
        except Exception:  # the folder itself is gone
            steps = []
        if step not in steps:
            newest = f"the newest checkpoint is of step {steps[-1]}" if steps else "there is none"
            raise DataError(
                f"the state of step {step} could not be saved in {self.checkpoints.folder} "
                f"({reason}): {newest}; {remedy(reason)}, then `{resuming}` repeats the steps "
                "since"
            )


class Keeper:
    """Checkpoints and rows of a training in a run folder, an ``observers.Keeper``.

    A context manager. With several processes, only the first has a folder, but all must call the
    same functions.
    """

    def __init__(
        self, folder: RunFolder | None, facts: Mapping[str, Any], note: Callable[[str], None]
    ):
        self._note = note
        self._files: tuple[RunFolder, _Saves] | None = None
        self._unwritten = ""  # why metrics.jsonl is incomplete
        if folder is not None:
            owners = folder.digests()
            checkpoints = Checkpoints(folder.checkpoints, facts=facts, owners=owners)
            self._files = folder, _Saves(checkpoints, note)

    def __enter__(self) -> Keeper:
        return self

    def __exit__(self, *exception) -> None:
        if self._files is not None:
            folder, saves = self._files
            try:
                saves.checkpoints.__exit__(*exception)
            finally:
                folder.close()

    def restore(self, like: TrainState) -> Kept | None:
        """The first process's newest good checkpoint, in every process."""
        return restored(self._files and self._files[1].checkpoints, like, self._note)

    def rewind(self, epochs: int) -> Histories:
        """The rows of the first ``epochs``; later ones are dropped."""
        rows = self._files[0].rewind(epochs, self._note) if self._files is not None else []
        return [hosts.share(rows)]

    def busy(self) -> bool:
        """Whether a save is in flight."""
        return self._files is not None and self._files[1].checkpoints.busy()

    def save(self, state: TrainState, histories: Histories) -> str:
        """Begin to save the state; returns why that failed, "" if all is well so far."""
        if self._files is None:
            if hosts.several():
                meshes.fetch(contents.to_parts(state))  # this process's part in a save
            return ""
        folder, saves = self._files
        _mend(folder.mend, saves, self._note)
        reason = saves.begin(state, {row["step"]: value(row) for row in histories[0]})
        if self._unwritten or not folder.as_left():
            self.write(histories)
        try:
            folder.flush()
        except OSError as error:
            saves.warn("TensorBoard's events", error)
        return reason

    def settle(self) -> None:
        """Wait for a save in flight."""
        if self._files is not None:
            self._files[1].settle()

    def close(self, state: TrainState, histories: Histories) -> str:
        """Save, and check that it is on disk; returns how to resume from there.

        Raises DataError if state or rows could not be written, saying what to do.
        """
        reason = self.save(state, histories)
        if self._files is None:
            return ""
        folder, saves = self._files
        saves.close(int(state.step), reason, folder.resuming)
        folder.saved = int(state.step)
        if self._unwritten:
            raise DataError(
                f"{folder.path / 'metrics.jsonl'} could not be written ({self._unwritten}): "
                f"the model is saved, rows are lost; {remedy(self._unwritten)}, then resume with "
                f"`{folder.resuming}`"
            )
        return f", saved; resume with `{folder.resuming}`"

    def add(self, histories: Histories) -> None:
        """Add the last row to metrics.jsonl."""
        if self._files is None:
            return
        folder, _ = self._files
        if self._unwritten or not folder.as_left():
            self.write(histories)
        else:
            self._try(folder.append, histories[0][-1])

    def write(self, histories: Histories) -> None:
        """Rewrite metrics.jsonl."""
        if self._files is not None:
            self._try(self._files[0].rewrite, histories[0])

    def _try(self, write: Callable[[Any], None], what: Any) -> None:
        assert self._files is not None
        try:
            write(what)
            self._unwritten = ""
        except OSError as error:
            self._unwritten = self._files[1].warn("metrics.jsonl", error)


class GroupKeeper:
    """Checkpoints and rows of members that train together, an ``observers.Keeper``.

    A context manager. They serve to resume the sweep: its members have no folders yet.
    """

    def __init__(
        self, path: Path, members: int, held: Held, resuming: str, note: Callable[[str], None]
    ):
        self._path, self._members, self._held, self._resuming = path, members, held, resuming
        self._note, self._saves = note, _Saves(Checkpoints(path / "checkpoints"), note)

    def __enter__(self) -> GroupKeeper:
        return self

    def __exit__(self, *exception) -> None:
        self._saves.checkpoints.__exit__(*exception)

    def restore(self, like: TrainState) -> Kept | None:
        """The newest good checkpoint."""
        return restored(self._saves.checkpoints, like, self._note)

    def rewind(self, epochs: int) -> Histories:
        """The rows of the first ``epochs``."""
        if not epochs:
            return [[] for _ in range(self._members)]
        path = self._path / "history.json"
        found = records.read(path, list[list[dict[str, float]]])
        seen = [[row.get("epoch") for row in rows] for rows in found]
        if len(found) != self._members or any(x != [*range(1, len(x) + 1)] for x in seen):
            raise records.damaged(path, f"not the rows of {self._members} members", "sweep again")
        return [rows[:epochs] for rows in found]

    def busy(self) -> bool:
        """Whether a save is in flight."""
        return self._saves.checkpoints.busy()

    def save(self, state: TrainState, histories: Histories) -> str:
        """Begin to save the state; returns why that failed, "" if all is well so far."""
        _mend(self._held.mend, self._saves, self._note)
        try:  # first: a checkpoint never lacks its epochs
            self._path.mkdir(parents=True, exist_ok=True)
            write_json(self._path / "history.json", histories)
        except OSError as error:
            return self._saves.warn("a checkpoint", error)
        return self._saves.begin(state, {})

    def settle(self) -> None:
        """Wait for a save in flight."""
        self._saves.settle()

    def close(self, state: TrainState, histories: Histories) -> str:
        """Save, and check that it is on disk; returns how to resume. Raises DataError if not."""
        reason = self.save(state, histories)
        self._saves.close(int(state.step), reason, self._resuming)
        return f", saved; resume with `{self._resuming}`"

    def add(self, histories: Histories) -> None:
        """Nothing: rows are written with the next state."""

    def write(self, histories: Histories) -> None:
        """Nothing: rows are written with the next state."""


def _mend(mend: Callable[[], Sequence[str]], saves: _Saves, note: Callable[[str], None]) -> None:
    """Restore the folder if it has gone. Raises DataError if another has taken its place."""
    try:
        gone = mend()
    except OSError as error:
        saves.warn("the run folder", error)
    else:
        if gone:
            note(f"{', '.join(gone)}: missing, and written again")


def restored(
    checkpoints: Checkpoints | None, like: TrainState, note: Callable[[str], None]
) -> Kept | None:
    """The newest good checkpoint, which only the first process has, in every process."""
    shapes = contents.to_parts(like)
    found = checkpoints.restore(shapes, note) if checkpoints is not None else None
    meta = hosts.share(found and found.meta)
    if meta is None:
        return None
    if checkpoints is not None:
        then, now = meta.get("machine", {}), checkpoints.facts.get("machine", {})
        changed = [f"{k} {then[k]} -> {now[k]}" for k in then if then[k] != now.get(k)]
        if changed:
            note(f"the last bits may differ from here on: {', '.join(changed)}")
    parts = hosts.share_arrays(found and found.parts, contents.as_saved(shapes, meta))
    return Kept(contents.from_parts(parts), meta.get("steps_per_epoch"))
