"""Checkpoints by Orbax, each sealed with the sha256 of what it holds.

A checkpoint is ``state`` and ``meta``. The state has two parts: ``model`` (variables, and moving
average and best variables where kept) and ``training`` (optimizer state, this epoch's sums and the
guard). The model part restores without knowing the optimizer, so a run folder can be loaded for use
alone. A damaged checkpoint never restores: it is set aside, and the newest good one is used. One
that could not be written leaves nothing behind.

A save copies the arrays, and all else of it happens in a thread of our own while training goes on.

Arrays are stored whole, whatever devices they came from, and restored as NumPy's: where they go is
the caller's choice. Of several processes the first alone reads and writes.
"""

from __future__ import annotations

import hashlib
import json
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

from flaxvae.errors import DataError
from flaxvae.training import mesh as meshes
from flaxvae.training.step import TrainState

Parts = dict[str, Any]


class Restored(NamedTuple):
    """What a checkpoint held."""

    parts: Parts
    meta: dict[str, Any]


class Unsaved(Exception):
    """A checkpoint could not be written; the text says why, in a few words."""


def digest(tree: Any) -> str:
    """sha256 over the paths, dtypes, shapes and bytes of a pytree's leaves, as hex."""
    found = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.asarray(leaf)
        found.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n".encode())
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


def structure(tree: Any) -> str:
    """sha256 over the paths, dtypes and shapes of a pytree's leaves, as hex."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    lines = [f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}\n" for path, leaf in leaves]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def to_parts(state: TrainState) -> Parts:
    """The state as a checkpoint's parts; empty fields are left out."""
    model = {"variables": state.variables, "ema": state.ema, "best": state.best}
    names = ("step", "opt_state", "totals", "guard", "offset")
    training = {name: getattr(state, name) for name in names}
    return {"model": {k: v for k, v in model.items() if v}, "training": training}


def from_parts(parts: Parts) -> TrainState:
    """The inverse of ``to_parts``."""
    return TrainState(**{"ema": {}, "best": {}, **parts["model"], **parts["training"]})


def model_part(variables: Any, ema: bool, best: bool) -> Any:
    """The shape of a checkpoint's ``model`` part, given that of the variables."""
    part = {"variables": variables}
    if ema:
        part["ema"] = variables["params"]
    if best:
        part["best"] = variables
    return part


def _seal(meta: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


def _reason(error: Exception) -> str:
    """An error in a few words, in one line: of the system's errors only their name."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        if number := re.search(r"os_error_code=\W*(\d+)", str(cause)):  # TensorStore's
            return os.strerror(int(number[1]))
        cause = cause.__cause__ or cause.__context__
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]


def _check_room(folder: Path, size: int) -> None:
    """Raises OSError unless ``size`` bytes can be written; Orbax, short of room, is not quiet."""
    probe = folder / "probe"
    try:
        with probe.open("wb") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.write(bytes(size))
    finally:
        with suppress(OSError):
            probe.unlink()


class _NewestAndBest:
    """Orbax's preservation policy: the ``keep`` newest, and the best of those with a value."""

    def __init__(self, keep: int):
        self._keep = keep
        self.values: Mapping[int, float] = {}  # by step, the higher the better

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        steps = [each.step for each in checkpoints]
        finite = [step for step in steps if np.isfinite(self.values.get(step, np.nan))]
        kept = {*steps[-self._keep :], *sorted(finite, key=self.values.__getitem__)[-1:]}
        return [step in kept for step in steps]


class Checkpoints:
    """The checkpoints of one run. A context manager: leaving it waits for a save in flight.

    With ``read_only`` nothing in the folder is touched, so that a run can be loaded while another
    process trains it.
    """

    def __init__(
        self,
        folder: Path,
        keep: int = 2,
        read_only: bool = False,
        facts: Mapping[str, Any] | None = None,
    ):
        """``facts``: recorded in the meta of every checkpoint."""
        for name in ("absl", "asyncio"):  # Orbax reports all that it does
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self.folder, self.facts, self._read_only = folder, facts or {}, read_only
        self._policy = _NewestAndBest(keep)
        self._opened: Any = None
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
        """Steps of the checkpoints, from the oldest, once none is in flight."""
        if self._writing is not None:
            futures.wait([self._writing])
        return sorted(self._manager().all_steps())

    def save(self, state: TrainState, values: Mapping[int, float] | None = None) -> None:
        """Write the state, in the background once it is copied from the devices.

        Of several processes the others have to ``meshes.fetch(to_parts(state))`` meanwhile.

        Args:
            state: nothing is done where its step is there already.
            values: by step, how good that one was; the best checkpoint with a finite value stays.

        Raises:
            Unsaved: there is no room for this one, or the last one could not be written (this one
                then is).
        """
        parts = meshes.fetch(to_parts(state))  # first of all, for the others wait in it
        late: Unsaved | None = None
        try:
            self.wait()
        except Unsaved as error:
            late = error
        step = int(parts["training"]["step"])
        try:
            if step not in self.steps():
                _check_room(self.folder, sum(x.nbytes for x in jax.tree.leaves(parts)) + 2**16)
                parts = jax.tree.map(np.array, parts)  # the next step takes the arrays' memory
                self._writing = self._writer.submit(self._write, step, parts, values or {})
        except Exception as error:
            self._abandon()
            raise Unsaved(_reason(error)) from None
        if late:
            raise late

    def _write(self, step: int, parts: Parts, values: Mapping[int, float]) -> None:
        import orbax.checkpoint as ocp

        model, training = parts["model"], parts["training"]
        meta = {
            "step": step,
            "sha256": {name: digest(part) for name, part in parts.items()},
            "structure": {name: structure(part) for name, part in parts.items()},
            "ema": "ema" in model,
            "best": "best" in model,
            "totals": sorted(training["totals"]),
            "parameters_sha256": digest(model["variables"]["params"]),
            **self.facts,
        }
        self._policy.values = values
        sealed = ocp.args.JsonSave({**meta, "seal": _seal(meta)})
        items = ocp.args.Composite(meta=sealed, state=ocp.args.PyTreeSave(parts))
        self._manager().save(step, args=items)

    def busy(self) -> bool:
        """Whether a save is in flight, for which another would wait."""
        return self._writing is not None and not self._writing.done()

    def wait(self) -> None:
        """Until nothing is in flight. Raises Unsaved if it could not be written."""
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
        self, like: Parts, note: Callable[[str], None] = lambda text: None
    ) -> Restored | None:
        """The newest undamaged checkpoint, NumPy arrays, or None if there is none at all.

        Moving average, best variables and sums come as the checkpoint has them, whether or not
        ``like`` does.

        Args:
            like: the parts wanted, with ShapeDtypeStructs as leaves.
            note: hears one line for each damaged checkpoint.

        Raises:
            DataError: there are checkpoints, and all are damaged; or a good one has other arrays.
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
                "the training again"
            )
        return None

    def each(self, like: Parts) -> Iterator[tuple[int, Parts | None, str]]:
        """Every checkpoint from the newest: its step, and its parts, or None and why not.

        Nothing is set aside. What a training has removed meanwhile is left out.
        """
        for step in self.steps()[::-1]:
            try:
                found, why = self._restore(step, like).parts, ""
            except Exception as error:
                if not (self.folder / str(step)).is_dir():
                    continue
                found, why = None, f"damaged ({_reason(error)})"
            yield step, found, why

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

    def _restore(self, step: int, like: Parts) -> Restored:
        import orbax.checkpoint as ocp

        def read(**items):
            return self._manager().restore(step, args=ocp.args.Composite(**items))

        if (self.folder / str(step) / "model").is_dir():
            raise DataError(
                f"{self.folder / str(step)} is of an older flaxvae: expected a checkpoint of this "
                "one; train anew, or go on with the flaxvae that wrote it"
            )
        meta = read(meta=ocp.args.JsonRestore())["meta"]
        if meta.pop("seal", None) != _seal(meta):
            raise ValueError("the sha256 of its meta differs from the recorded one")
        like = as_saved(like, meta)
        for name, part in like.items():
            if structure(part) != meta["structure"][name]:
                raise DataError(
                    f"{self.folder / str(step)} has other arrays in its {name} than these "
                    "settings give: expected the settings, and the flaxvae, that wrote it"
                )
        whole = jax.tree.map(lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray), like)
        asked = ocp.args.PyTreeRestore(item=like, restore_args=whole, partial_restore=True)
        parts = read(state=asked)["state"]
        for name, part in parts.items():
            if digest(part) != meta["sha256"][name]:
                raise ValueError(f"the sha256 of its {name} differs from the recorded one")
        return Restored(parts, meta)

    def _manager(self) -> Any:
        if self._opened is None:
            import orbax.checkpoint as ocp  # 0.9 s: only when checkpoints are touched

            alone = ocp.options.MultiprocessingOptions(
                primary_host=jax.process_index(), active_processes={jax.process_index()}
            )
            if not self._read_only:
                self.folder.mkdir(parents=True, exist_ok=True)
            # Of weights compression would save 8 %, and costs as long as all else.
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
                    create=False,  # which Orbax refuses to one process among several
                    multiprocessing_options=alone,
                ),
            )
        return self._opened

    def _close(self) -> None:
        """Of a save that failed, Orbax would raise its error here once more."""
        manager, self._opened = self._opened, None
        if manager is not None:
            with suppress(Exception):
                manager.close()

    def _abandon(self) -> None:
        """Forget a save that failed, and make room: what there is of it is of no use."""
        self._close()
        for _ in range(20):  # its threads write on for a moment, into a folder made anew if need be
            partials = list(self.folder.glob("*.orbax-checkpoint-tmp*"))
            if not partials:
                break
            for partial in partials:
                shutil.rmtree(partial, ignore_errors=True)
            time.sleep(0.05)


def as_saved(like: Parts, meta: Mapping[str, Any]) -> Parts:
    """``like`` with the moving average, best variables and sums that a checkpoint has."""
    model = model_part(like["model"]["variables"], meta["ema"], meta["best"])
    found = {**like, "model": model}
    if "training" in like:
        training = like["training"]
        scalar = next(iter(training["totals"].values()))
        totals = dict.fromkeys(meta["totals"], scalar)
        found["training"] = {**training, "totals": totals}
    return found
