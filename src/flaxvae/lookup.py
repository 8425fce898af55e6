"""Recipes by name: their arguments, with types and defaults, and how one is built from these."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, get_type_hints

from flaxvae import choosing, declared
from flaxvae.errors import UsageError
from flaxvae.recipe import DataSpec, Recipe
from flaxvae.settings import Body
from flaxvae.synonyms import hint
from flaxvae.zoo import RECIPES

Variant = Callable[..., Recipe]  # a recipe's function
NO_RECIPES: Mapping[str, Variant] = MappingProxyType({})  # from outside


def recipe(model: str | Variant, recipes: Mapping[str, Variant] = NO_RECIPES) -> Variant:
    """The recipe with this name, in the zoo or in ``recipes``; a function is returned as it is.

    Raises UsageError if there is none, with the nearest name, or if the function cannot be one.
    """
    if callable(model):
        return _from_outside(model)
    name = model if isinstance(model, str) else declared.conform("model", str, model)
    known = {**recipes, **RECIPES}
    if name not in known:
        raise UsageError(f"unknown model {name!r}{hint(name, known)} (models: {', '.join(known)})")
    return known[name]


def recorded(name: str, recipes: Mapping[str, Variant], path: Path) -> Variant:
    """The recipe of a run folder's model. Raises UsageError if it is neither known nor given."""
    if name not in RECIPES and name not in recipes:
        raise UsageError(
            f"{path} is of model {name!r}, which is not flaxvae's: expected its recipe; "
            f"give the file that defines it, `--recipes FILE`, or recipes={{{name!r}: …}}"
        )
    return recipe(recipes.get(name, name))


def _from_outside(function: Variant) -> Variant:
    parameters = [*inspect.signature(function).parameters.values()]
    name = getattr(function, "__name__", repr(function))
    for parameter in parameters[1:]:
        if not _is_setting(parameter.default) or parameter.kind is parameter.VAR_KEYWORD:
            raise UsageError(
                f"the recipe {name} takes {parameter}: expected the data first, then settings "
                "with a type and a default each, numbers or words, as in "
                "`def my_vae(data: DataSpec, body: Body = Body(), *, latent_dim: int = 20)`"
            )
    if not parameters or not name.isidentifier():
        raise UsageError(f"the recipe {name}: expected a named function of a DataSpec")
    return function


def _is_setting(default: Any) -> bool:
    """Whether this can be the default of a setting, to be stored in run.json."""
    if dataclasses.is_dataclass(default):
        return True
    values = default if isinstance(default, tuple) else (default,)
    return all(value is None or isinstance(value, int | float | str) for value in values)


def shared(model: str | Variant) -> dict[str, Any]:
    """The settings records of a recipe, {parameter: default}: Body, and perhaps Bound."""
    parameters = inspect.signature(recipe(model)).parameters.values()
    return {p.name: p.default for p in parameters if dataclasses.is_dataclass(p.default)}


def own(model: str | Variant) -> dict[str, Any]:
    """A recipe's own arguments, {name: default}."""
    _, *parameters = inspect.signature(recipe(model)).parameters.values()
    return {p.name: p.default for p in parameters if not dataclasses.is_dataclass(p.default)}


def arguments(model: str | Variant, choices: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """All of a recipe's arguments as a flat dictionary, as stored in run.json.

    These are defaults, overridden by ``choices``, which are checked as in ``chosen``.
    """
    found: dict[str, Any] = {}
    for argument, value in chosen(model, choices or {}).items():
        found |= vars(value) if dataclasses.is_dataclass(value) else {argument: value}
    return found


def _types(model: str | Variant) -> dict[str, Any]:
    return get_type_hints(recipe(model), localns={"Recipe": Recipe}, include_extras=True)


def without(model: str | Variant) -> dict[str, declared.Never]:
    """The settings that a recipe shares with others and does nothing with, by name."""
    notes = [note for kind in _types(model).values() for note in declared.notes(kind)]
    return {
        name: note.note
        for note in notes
        if isinstance(note, declared.Without)
        for name in note.names
    }


def by_data(model: str | Variant) -> dict[str, choosing.ByData]:
    """A recipe's own arguments that the data decide where nobody else does, by name."""
    return {
        name: note
        for name, kind in _types(model).items()
        for note in declared.notes(kind)
        if isinstance(note, choosing.ByData)
    }


def hints(model: str | Variant) -> dict[str, Any]:
    """The declared type of each of a recipe's arguments, {name: type}."""
    found = _types(model)
    shared_ones = [declared.hints(type(record)) for record in shared(model).values()]
    fields = {k: v for hints in shared_ones for k, v in hints.items()}
    unused = {k: Annotated[fields[k], note] for k, note in without(model).items()}
    return {**fields, **unused} | {
        k: found.get(k, Any if default is None else type(default))
        for k, default in own(model).items()
    }


def chosen(model: str | Variant, choices: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments of a recipe, from a flat dictionary of choices.

    Raises UsageError for an unknown recipe, an argument that it does not take or does nothing with,
    or a value that does not fit the argument's declared type.
    """
    records, rest = shared(model), own(model)
    known = [*(field for record in records.values() for field in vars(record)), *rest]
    unknown = sorted(choices.keys() - set(known))
    if unknown:
        meant = hint(unknown[0], known)
        name = recipe(model).__name__
        raise UsageError(f"unknown argument {unknown[0]!r} for model {name!r}{meant}")
    unused = without(model)
    for parameter, default in records.items():
        own_choices = {k: v for k, v in choices.items() if k in vars(default)}
        records[parameter] = dataclasses.replace(default, **own_choices)
        for name, value in vars(records[parameter]).items():
            if name in unused and value != vars(default)[name]:
                raise UsageError(
                    f"{declared.flag(name)} {declared.seen(value)} has no effect: "
                    f"{unused[name].why}; leave it out"
                )
    kinds = hints(model)
    rest |= {k: declared.conform(k, kinds[k], choices[k]) for k in rest if k in choices}
    return records | rest


def body(model: str | Variant, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Of a recipe's arguments those that are ``Body``'s, if it takes one and uses them."""
    takes = any(isinstance(record, Body) for record in shared(model).values())
    unused = without(model)
    return {k: settings[k] for k in vars(Body()) if takes and k not in unused}


def build(model: str | Variant, data: DataSpec, **choices: Any) -> Recipe:
    """Build a recipe for these data, with arguments from a flat dictionary.

    Raises UsageError for an unknown recipe or argument, or a value out of range.
    """
    found = chosen(model, choices)
    settled = {k: choosing.body(data, x) if isinstance(x, Body) else x for k, x in found.items()}
    return recipe(model)(data, **settled)
