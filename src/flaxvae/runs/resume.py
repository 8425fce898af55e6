"""Which settings may change on resume, and which make it a different run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from flaxvae.data import sources
from flaxvae.errors import UsageError
from flaxvae.plan import Plan, changed
from flaxvae.recipe import DataSpec
from flaxvae.runs import contents
from flaxvae.runs.run import example
from flaxvae.settings import DataSettings

# What may change on resume: where the data are, the devices, how long to train, and safeguards.
_FREE_ON_RESUME = {
    "data_dir",
    "devices",
    "data_placement",
    "shard_params",
    "epochs",
    "on_nan",
    "checkpoint_every",
}


def listed(changes: Mapping[str, tuple[Any, Any]]) -> str:
    return ", ".join(f"{name} {seen[0]} -> {seen[1]}" for name, seen in changes.items())


def another_run(old: Plan, new: Plan) -> dict[str, tuple[Any, Any]]:
    """The settings in which ``new`` would make ``old`` a different run: {name: (old, new)}."""
    differences = changed(old, new)
    refused = {k: v for k, v in differences.items() if k not in _FREE_ON_RESUME}
    where = refused.get("dataset", ())
    if where and all(x == sources.ARRAYS or sources.is_path(x) for x in where):
        del refused["dataset"]  # it may have been moved: its contents are compared
    was, now = old.training.epochs or 0, new.training.epochs or 0
    # Only more epochs, and only if past learning rates did not depend on their number.
    if now < was or (now > was and not old.training.open_ended):
        refused["epochs"] = (was, now)
    return refused


def check_resume(
    old: Plan,
    new: Plan,
    what: str = "--resume",
    advice: str = "leave them out, give --allow-changes, or train a new run",
) -> None:
    """Raises UsageError, naming the differences, if ``new`` would make ``old`` a different run."""
    refused = another_run(old, new)
    if refused:
        raise UsageError(
            f"{what} with other settings ({listed(refused)}): expected those of the run; {advice}"
        )


def check_changes(old: Plan, new: Plan, spec: DataSpec) -> dict[str, tuple[Any, Any]]:
    """The changes that --allow-changes makes to a run.

    Raises UsageError, naming them, for those that are never possible: another model, other data, or
    other shapes of the parameters.
    """

    def shapes(plan: Plan) -> Any:
        made = jax.eval_shape(plan.recipe(spec).model.init, jax.random.key(0), *example(spec))
        return contents.structure(made)

    def reshapes(name: str) -> bool:
        try:
            arguments = {**old.arguments, name: new.arguments[name]}
            return shapes(dataclasses.replace(old, arguments=arguments)) != shapes(old)
        except UsageError:  # valid only together with other changes
            return False

    changes = another_run(old, new)
    own = [name for name in changes if name in new.arguments]
    fixed = {"model", *(f.name for f in dataclasses.fields(DataSettings))} & changes.keys()
    if not fixed:
        fixed = {name for name in own if reshapes(name)}
    if not fixed and shapes(new) != shapes(old):
        fixed = set(own)
    if fixed:
        refused = listed({name: seen for name, seen in changes.items() if name in fixed})
        raise UsageError(
            f"--allow-changes with {refused}: expected changes that keep the model, the data and "
            "the shapes of the parameters; train a new run"
        )
    return changes
