"""The command that trains a run again."""

from __future__ import annotations

from typing import Any

from flaxvae import declared, lookup, outside
from flaxvae.data.arrays import ARRAYS
from flaxvae.errors import command
from flaxvae.plan import Plan, flat, kinds
from flaxvae.runs.folder import RunFolder
from flaxvae.settings import DataSettings, TrainSettings

USUAL = "vae"  # the model of `flaxvae train` without --model


def again(folder: RunFolder) -> str:
    """The command, or where images came as arrays the call, that trains a run like this one.

    It has every setting that is not the default and has an effect, also what the data decided.
    """
    plan = folder.plan()
    chosen = settings(plan)
    if plan.data.dataset == ARRAYS:
        chosen.pop("dataset", None)
        model: Any = plan.model if folder.recipes.get(plan.model) is None else None
        said = [f"model={model!r}" if model else f"model={plan.model}"]
        said += [f"{name}={value!r}" for name, value in chosen.items()]
        return f"flaxvae.train({', '.join(['images', *said])})"
    words = [] if plan.model == USUAL else ["--model", plan.model]
    for name, value in chosen.items():
        flag = declared.flag(name)
        if isinstance(value, bool):
            words.append(flag if value else declared.flag(f"no_{name}"))
        else:
            words += [flag, *map(_word, value if isinstance(value, tuple) else (value,))]
    return command("flaxvae", "train", *words, *outside.flag(folder.recipes))


def settings(plan: Plan) -> dict[str, Any]:
    """The settings of a plan that differ from the defaults and have an effect."""
    usual = flat(
        Plan(
            plan.model,
            lookup.arguments(plan.function),
            DataSettings(),
            TrainSettings(),
            lookup.recipe(plan.function),
        )
    )
    own, types = flat(plan), kinds(plan.function)
    return {
        name: value
        for name, value in own.items()
        if name in types
        and value != usual[name]
        and value not in (None, ())
        and declared.has_effect(types[name], own)
    }


def _word(value: Any) -> str:
    return repr(value) if isinstance(value, float) else str(value)
