"""Checkpoints by Orbax, each sealed with the sha256 of what it holds.

A checkpoint is ``model`` (variables, and moving average and best variables where kept),
``training`` (optimizer state and this epoch's sums) and ``meta``. The model part restores without
knowing the optimizer, so a run folder can be loaded for use alone. A damaged checkpoint never
restores: it is set aside, and the newest good one is used.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flaxvae.errors import DataError
from flaxvae.training.step import TrainState

Parts = dict[str, Any]


def digest(tree: Any) -> str:
    """sha256 over the paths, dtypes, shapes and bytes of a pytree's leaves, as hex."""
    found = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.asarray(leaf)
        found.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n".encode())
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


def to_parts(state: TrainState) -> Parts:
    """The state as a checkpoint's parts; empty fields are left out."""
    model = {"variables": state.variables, "ema": state.ema, "best": state.best}
    training = {"step": state.step, "opt_state": state.opt_state, "totals": state.totals}
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


def _reason(error: Exception) -> str:
    """An error in a few words, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]


class Checkpoints:
    """The checkpoints of one run. A context manager: leaving it waits for a save in flight.

    With ``read_only`` nothing in the folder is touched, so that a run can be loaded while another
    process trains it.
    """

    def __init__(self, folder: Path, keep: int = 2, read_only: bool = False):
        import orbax.checkpoint as ocp  # 0.9 s: only when checkpoints are touched
        from orbax.checkpoint.checkpoint_managers import preservation_policy

        logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax reports every save and restore
        self._ocp = ocp
        self.folder, self._read_only = folder, read_only
        self._manager = ocp.CheckpointManager(
            folder.absolute(),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=preservation_policy.LatestN(keep),
                enable_async_checkpointing=True,
                cleanup_tmp_directories=not read_only,
                read_only=read_only,
            ),
        )

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *exception) -> None:
        self._manager.close()

    def save(self, state: TrainState) -> None:
        """Write the state, in the background once it is copied from the devices."""
        ocp, parts, step = self._ocp, jax.device_get(to_parts(state)), int(state.step)
        if step in self._manager.all_steps():
            return
        meta = {
            "step": step,
            "sha256": {name: digest(part) for name, part in parts.items()},
            "parameters_sha256": digest(state.variables["params"]),
            "jax": jax.__version__,
            "devices": len(state.step.sharding.device_set),
        }
        items = {name: ocp.args.StandardSave(part) for name, part in to_parts(state).items()}
        self._manager.save(step, args=ocp.args.Composite(meta=ocp.args.JsonSave(meta), **items))

    def restore(self, like: Parts, note: Callable[[str], None] = lambda text: None) -> Parts | None:
        """The newest undamaged checkpoint, or None if there is none at all.

        Args:
            like: the parts wanted, with ShapeDtypeStructs (with shardings) as leaves.
            note: hears one line for each damaged checkpoint.

        Raises:
            DataError: there are checkpoints, and all are damaged.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            try:
                return self._restore(step, like)
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
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                found, why = self._restore(step, like), ""
            except Exception as error:
                if not (self.folder / str(step)).is_dir():
                    continue
                found, why = None, f"damaged ({_reason(error)})"
            yield step, found, why

    def _set_aside(self, step: int) -> str:
        if self._read_only:
            return ", passed over"
        aside = self.folder / f"damaged-{step}"
        (self.folder / str(step)).rename(aside)
        self._manager.reload()
        return f", set aside as {aside.name}"

    def _restore(self, step: int, like: Parts) -> Parts:
        ocp = self._ocp
        items = {name: ocp.args.StandardRestore(part) for name, part in like.items()}
        found = self._manager.restore(
            step, args=ocp.args.Composite(meta=ocp.args.JsonRestore(), **items)
        )
        parts = {name: found[name] for name in like}
        for name, part in parts.items():
            if digest(jax.device_get(part)) != found["meta"]["sha256"][name]:
                raise ValueError(f"the sha256 of its {name} differs from the recorded one")
        return parts
