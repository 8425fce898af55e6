"""In what runs differ: their settings, as far as these have an effect, and their data.

Nothing here imports JAX.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from flaxvae import declared, lookup
from flaxvae.errors import UsageError
from flaxvae.runs.listing import Entry
from flaxvae.settings import Body, Bound, DataSettings, TrainSettings

# Settings on which no result depends, but for rounding.
WITHOUT_EFFECT = {
    *("data_dir", "devices", "data_placement", "shard_params", "checkpoint_every", "remat"),
    *("strict", "on_nan"),
}


def settings(
    entry: Entry, recipes: Mapping[str, lookup.Variant] = lookup.NO_RECIPES
) -> dict[str, Any]:
    """The model and the settings of a run that have an effect beside the others, by name."""
    record = entry.record
    chosen = {
        name: value
        for part in ("arguments", "data", "training")
        for name, value in record[part].items()
    }
    kinds = declared.hints(DataSettings) | declared.hints(TrainSettings)
    with contextlib.suppress(UsageError):  # a recipe from outside that is not given
        kinds |= lookup.hints(lookup.recipe(record["model"], recipes))
    return {"model": record["model"]} | {
        name: value
        for name, value in chosen.items()
        if name not in WITHOUT_EFFECT and declared.has_effect(kinds.get(name), chosen)
    }


def differing(each: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of the settings of which there are two values.

    A setting that some have not, because their models do not, counts if it is not the usual one.
    """
    usual = vars(Body()) | vars(Bound())
    found = []
    for name in dict.fromkeys(name for one in each for name in one):
        values = [one[name] for one in each if name in one]
        nothing: tuple[Any, ...] = (usual.get(name), None, False, [], ())
        own = values[0] not in nothing and len(values) < len(each)
        if own or any(value != values[0] for value in values):
            found.append(name)
    return found


def data(entry: Entry) -> tuple[Any, ...]:
    """What is equal of runs that are tested on the same images, prepared in the same way."""
    record, spec = entry.record, entry.record.get("data_spec", {})
    normal = record["data"].get("normal") or []
    return record.get("data_sha256"), spec.get("name"), *spec.get("shape", ()), *normal
