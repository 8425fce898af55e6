"""Orbax checkpoints, each sealed with the sha256 of its contents.

A checkpoint consists of ``state``, whose parts ``contents`` describes, and ``meta``. A damaged one
is never restored: it is set aside, and the newest good one is used. A failed save leaves nothing
behind.

A save copies the arrays; the rest happens in a thread of our own while training continues.

Arrays are stored whole, whichever devices they came from, and restored as NumPy arrays: the caller
decides where they go. With several processes, only the first reads and writes.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from flaxvae import writing
from flaxvae.devices import mesh as meshes
from flaxvae.errors import DataError
from flaxvae.runs import contents, records
from flaxvae.training.step import TrainState

LOOK_AGAIN = 0.2  # seconds, enough for a training to finish removing a checkpoint


class Restored(NamedTuple):
    """The contents of a checkpoint."""

    parts: contents.Parts
    meta: dict[str, Any]


class Unsaved(Exception):
    """A checkpoint could not be written; the text says briefly why."""


def _reason(error: Exception) -> str:
    """An error in one short line; for errors of the operating system, only their text."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        if number := re.search(r"os_error_code=\W*(\d+)", str(cause)):  # TensorStore's
            return os.strerror(int(number[1]))
        cause = cause.__cause__ or cause.__context__
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]


def _check_room(folder: Path, size: int) -> None:
    """Raises OSError unless ``size`` bytes can be written: on a full disk, Orbax prints a lot."""
    with writing.scratch(folder / "room") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.write(bytes(size))


def _identity(folder: Path) -> tuple[int, int] | None:
    """What distinguishes a folder from one that replaces it; None if there is no folder."""
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


class _NewestAndBest:
    """Orbax's preservation policy: the ``keep`` newest, and the best of those with a value."""

    def __init__(self, keep: int):
        self._keep = keep
        self.values: Mapping[int, float] = {}  # by step; higher is better

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        steps = [each.step for each in checkpoints]
        finite = [step for step in steps if np.isfinite(self.values.get(step, np.nan))]
        kept = {*steps[-self._keep :], *sorted(finite, key=self.values.__getitem__)[-1:]}
        return [step in kept for step in steps]


class Checkpoints:
    """The checkpoints of one run. A context manager: its exit waits for a save in flight.

    With ``read_only`` nothing in the folder is changed, so that a run can be loaded while another
    process trains it.
    """

    def __init__(
        self,
        folder: Path,
        keep: int = 2,
        read_only: bool = False,
        facts: Mapping[str, Any] | None = None,
        owners: Sequence[str] = (),
    ):
        """``facts``: recorded in the meta of every checkpoint.

        ``owners``: seals of the run.json that checkpoints belong to, the current one first; a
        checkpoint of any other is not restored.
        """
        for name in ("absl", "asyncio"):  # Orbax logs everything that it does
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self.folder, self.facts, self._read_only = folder, facts or {}, read_only
        self._owners = owners
        self._policy = _NewestAndBest(keep)
        self._opened: Any = None
        self._seen: tuple[int, int] | None = None  # the folder, when it was opened
        self._writer = futures.ThreadPoolExecutor(1)
        self._writing: futures.Future[None] | None = None

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *exception) -> None:
        try:
            self.wait()
        except Unsaved:
            if exception[0] is None:
                raise
        finally:
            self._writer.shutdown()
            self._close()

    def steps(self) -> list[int]:
        """Steps of the checkpoints, oldest first, after any save in flight."""
        if self._writing is not None:
            futures.wait([self._writing])
        return sorted(self._manager().all_steps())

    def save(self, state: TrainState, values: Mapping[int, float] | None = None) -> None:
        """Write the state, in the background after it is copied from the devices.

        With several processes, the others must call ``meshes.fetch`` on the parts meanwhile.

        Args:
            state: ignored if a checkpoint of its step exists already.
            values: how good each step was; the best checkpoint with a finite value is kept.

        Raises:
            Unsaved: there is no room for this checkpoint, or the previous one could not be written
                (this one is then written).
        """
        parts = meshes.fetch(contents.to_parts(state))  # first: other processes wait in it
        late: Unsaved | None = None
        try:
            self.wait()
        except Unsaved as error:
            late = error
        step = int(parts["training"]["step"])
        try:
            if step not in self.steps():
                _check_room(self.folder, sum(x.nbytes for x in jax.tree.leaves(parts)) + 2**16)
                parts = jax.tree.map(np.array, parts)  # the next step reuses the arrays' memory
                self._writing = self._writer.submit(self._write, step, parts, values or {})
        except Exception as error:
            self._abandon()
            raise Unsaved(_reason(error)) from None
        if late:
            raise late

    def _write(self, step: int, parts: contents.Parts, values: Mapping[int, float]) -> None:
        import orbax.checkpoint as ocp

        model, training = parts["model"], parts["training"]
        meta = {
            "step": step,
            "sha256": {name: contents.digest(part) for name, part in parts.items()},
            "structure": {name: contents.structure(part) for name, part in parts.items()},
            "ema": "ema" in model,
            "best": "best" in model,
            "totals": sorted(training.get("totals", {})),
            "closed": "opt_state" not in training,
            "parameters_sha256": contents.digest(model["variables"]["params"]),
            **self.facts,
        }
        if self._owners:
            meta["run"] = self._owners[0]
        self._policy.values = values
        sealed = ocp.args.JsonSave(records.sealed(meta))
        items = ocp.args.Composite(meta=sealed, state=ocp.args.PyTreeSave(parts))
        self._manager().save(step, args=items)

    def busy(self) -> bool:
        """Whether a save is in flight, which another save would wait for."""
        return self._writing is not None and not self._writing.done()

    def wait(self) -> None:
        """Wait for a save in flight. Raises Unsaved if it could not be written."""
        if self._writing is None:
            return
        try:
            self._writing.result()
        except Exception as error:
            self._abandon()
            raise Unsaved(_reason(error)) from None
        finally:
            self._writing = None

    def restore(
        self, like: contents.Parts, note: Callable[[str], None] = lambda text: None
    ) -> Restored | None:
        """The newest undamaged checkpoint, as NumPy arrays, or None if there are no checkpoints.

        The moving average, best variables and sums are those of the checkpoint, whether or not
        ``like`` has them.

        Args:
            like: the parts wanted, with ShapeDtypeStructs as leaves.
            note: called with a line for each damaged checkpoint.

        Raises:
            DataError: all checkpoints are damaged, or a good one has other arrays.
        """
        steps = self.steps()[::-1]
        for step in steps:
            try:
                return self._restore(step, like)
            except DataError:
                raise
            except Exception as error:
                note(f"checkpoint {step} is damaged ({_reason(error)}){self._set_aside(step)}")
        if steps or any(self.folder.glob("damaged-*")):
            raise DataError(
                f"{self.folder}: all checkpoints are damaged, expected one that restores; start "
                "training again"
            )
        return None

    def each(self, like: contents.Parts) -> Iterator[tuple[int, contents.Parts | None, str]]:
        """Every checkpoint, newest first: its step, and its parts, or None and why not.

        Nothing is set aside. Checkpoints that a training removes meanwhile are left out: one that
        does not restore is tried again, and if none remains, the new ones are read instead.
        """
        steps = self.steps()
        while steps:
            stayed = False
            for step in steps[::-1]:
                found, why = self._look(step, like)
                if found is None and why.startswith("damaged"):
                    time.sleep(LOOK_AGAIN)
                    found, why = self._look(step, like)
                if found is not None or (self.folder / str(step)).is_dir():
                    stayed = True
                    yield step, found, why
            if stayed:
                return
            self._manager().reload()
            steps = self.steps()

    def _look(self, step: int, like: contents.Parts) -> tuple[contents.Parts | None, str]:
        try:
            return self._restore(step, like).parts, ""
        except DataError as error:  # an older flaxvae's, or another model's
            return None, str(error)
        except Exception as error:
            return None, f"damaged ({_reason(error)})"

    def closed(self) -> bool:
        """Whether the newest has only final variables: training cannot be resumed."""
        for step in self.steps()[::-1]:
            with suppress(Exception):
                return bool(self._meta(step).get("closed"))
        return False

    def keep_newest(self) -> None:
        """Remove all but the newest, each completely or not at all."""
        for step in self.steps()[:-1]:
            aside = self.folder / f"{step}.orbax-checkpoint-tmp"  # like an unfinished one
            with suppress(OSError):
                (self.folder / str(step)).rename(aside)
                shutil.rmtree(aside)

    def _set_aside(self, step: int) -> str:
        if self._read_only:
            return ", passed over"
        aside = self.folder / f"damaged-{step}"
        count = 1
        while aside.exists():
            count += 1
            aside = self.folder / f"damaged-{step}-{count}"
        (self.folder / str(step)).rename(aside)
        self._manager().reload()
        return f", set aside as {aside.name}"

    def _restore(self, step: int, like: contents.Parts) -> Restored:
        import orbax.checkpoint as ocp

        if (self.folder / str(step) / "model").is_dir():
            raise DataError(
                f"{self.folder / str(step)} is from an older flaxvae: expected one of this "
                "version; train again, or use the version that wrote it"
            )
        meta = self._meta(step)
        if self._owners and meta.get("run", self._owners[0]) not in self._owners:
            raise DataError(
                f"{self.folder / str(step)} does not belong to the run.json beside it: expected "
                "the one it was written for; put that back"
            )
        like = contents.as_saved(like, meta)
        for name, part in like.items():
            if contents.structure(part) != meta["structure"][name]:
                raise DataError(
                    f"{self.folder / str(step)} has other arrays in its {name} than these "
                    "settings give: expected the settings and the flaxvae that wrote it"
                )
        whole = jax.tree.map(lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray), like)
        asked = ocp.args.PyTreeRestore(item=like, restore_args=whole, partial_restore=True)
        parts = self._manager().restore(step, args=ocp.args.Composite(state=asked))["state"]
        for name, part in parts.items():
            if contents.digest(part) != meta["sha256"][name]:
                raise ValueError(f"the sha256 of its {name} differs from the recorded one")
        return Restored(parts, meta)

    def _meta(self, step: int) -> dict[str, Any]:
        import orbax.checkpoint as ocp

        asked = ocp.args.Composite(meta=ocp.args.JsonRestore())
        meta = self._manager().restore(step, args=asked)["meta"]
        if meta.pop("seal", None) != records.seal(meta):
            raise ValueError("the sha256 of its meta differs from the recorded one")
        return meta

    def _manager(self) -> Any:
        if self._opened is not None and self._seen != _identity(self.folder):
            self._close()  # the folder was moved or removed: the manager's view of it is stale
        if self._opened is None:
            import orbax.checkpoint as ocp  # takes 0.9 s: only when checkpoints are used

            alone = ocp.options.MultiprocessingOptions(
                primary_host=jax.process_index(), active_processes={jax.process_index()}
            )
            if not self._read_only:
                self.folder.mkdir(parents=True, exist_ok=True)
            self._seen = _identity(self.folder)
            # Compression would make weights 8 % smaller and double the time of a save.
            self._opened = ocp.CheckpointManager(
                self.folder.absolute(),
                item_handlers={
                    "state": ocp.PyTreeCheckpointHandler(
                        use_compression=False, multiprocessing_options=alone
                    ),
                    "meta": ocp.JsonCheckpointHandler(multiprocessing_options=alone),
                },
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=self._policy,
                    enable_async_checkpointing=False,
                    cleanup_tmp_directories=not self._read_only,
                    read_only=self._read_only,
                    create=False,  # Orbax cannot do so in one of several processes
                    multiprocessing_options=alone,
                ),
            )
        return self._opened

    def _close(self) -> None:
        """Close the manager; after a failed save, Orbax would raise its error here again."""
        manager, self._opened = self._opened, None
        if manager is not None:
            with suppress(Exception):
                manager.close()

    def _abandon(self) -> None:
        """Discard a failed save, and remove its files to make room."""
        self._close()
        for _ in range(20):  # its threads keep writing for a moment, and may recreate the folder
            partials = list(self.folder.glob("*.orbax-checkpoint-tmp*"))
            if not partials:
                break
            for partial in partials:
                shutil.rmtree(partial, ignore_errors=True)
            time.sleep(0.05)
