"""The contents of a checkpoint: the state in two parts, each sealed with its sha256.

``model`` has the variables, and the moving average and best variables if kept; ``training`` the
optimizer's state, this epoch's sums and the guard. The model part restores without the optimizer,
so that a run can be loaded just for use. If a training cannot be resumed, its last checkpoint is
closed: it has only the final variables, and how far training got.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

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
    return {
        "model": {k: v for k, v in model.items() if v},
        "training": {k: v for k, v in training.items() if not _empty(v)},
    }


def _empty(field: Any) -> bool:
    return isinstance(field, dict | tuple) and not field


def from_parts(parts: Parts) -> TrainState:
    """The inverse of ``to_parts``."""
    empty: Parts = {"ema": {}, "best": {}, "opt_state": (), "totals": {}}
    return TrainState(**{**empty, **parts["model"], **parts["training"]})


def final(model: Mapping[str, Any]) -> Any:
    """The final variables of a training, from a checkpoint's ``model`` part."""
    variables = model["variables"]
    if "ema" in model:
        variables = {**variables, "params": model["ema"]}
    return model.get("best", variables)


def model_part(variables: Any, ema: bool, best: bool) -> Any:
    """The shapes of a checkpoint's ``model`` part, given those of the variables."""
    part = {"variables": variables}
    if ema:
        part["ema"] = variables["params"]
    if best:
        part["best"] = variables
    return part


def as_saved(like: Parts, meta: Mapping[str, Any]) -> Parts:
    """``like`` with the moving average, best variables and sums that a checkpoint has."""
    model = model_part(like["model"]["variables"], meta["ema"], meta["best"])
    found = {**like, "model": model}
    if "training" in like:
        training = like["training"]
        scalar = next(iter(training["totals"].values()))
        found["training"] = training | {"totals": dict.fromkeys(meta["totals"], scalar)}
        if meta.get("closed"):
            found["training"] = {
                k: v for k, v in training.items() if k not in ("opt_state", "totals")
            }
    return found
