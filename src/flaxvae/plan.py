"""A plan: everything that a run was asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from flaxvae import choosing, declared, lookup
from flaxvae.choosing import Choice
from flaxvae.declared import hints
from flaxvae.errors import UsageError
from flaxvae.recipe import DataSpec, Recipe
from flaxvae.settings import DataSettings, TrainSettings, asdict
from flaxvae.synonyms import hint

_EMPTY = (None, ())


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything that determines a run's result on a given machine."""

    model: str
    arguments: Mapping[str, Any]  # of the recipe
    data: DataSettings
    training: TrainSettings
    variant: lookup.Variant | None = dataclasses.field(default=None, repr=False, compare=False)
    # the recipe's function; by default the one of this name in the zoo

    def __post_init__(self):
        object.__setattr__(self, "variant", lookup.recipe(self.function))

    @property
    def function(self) -> lookup.Variant | str:
        """The recipe's function, or its name in the zoo if no function was given."""
        return self.model if self.variant is None else self.variant

    def recipe(self, spec: DataSpec) -> Recipe:
        """The recipe, built for these data."""
        return lookup.build(self.function, spec, **self.arguments)

    def chosen(self, spec: DataSpec) -> dict[str, Choice]:
        """What these data decide, of what the plan leaves open: by name."""
        own = {
            name: note.choose(spec)
            for name, note in lookup.by_data(self.function).items()
            if self.arguments[name] in _EMPTY
        }
        return choosing.chosen(self._may_be_open(), spec) | own

    def settled(self, spec: DataSpec) -> Plan:
        """The plan, with this chosen."""
        return self._with({name: x.value for name, x in self.chosen(spec).items()})

    def like(self, other: Plan) -> Plan:
        """The plan, with what it leaves open as it is in another plan."""
        settings, others = self._may_be_open(), flat(other)
        names = [name for name in settings if choosing.is_open(settings, name)]
        names += [n for n in lookup.by_data(self.function) if self.arguments[n] in _EMPTY]
        return self._with({name: others[name] for name in names if name in others})

    def _may_be_open(self) -> dict[str, Any]:
        return {**lookup.body(self.function, self.arguments), "epochs": self.training.epochs}

    def _with(self, values: Mapping[str, Any]) -> Plan:
        own = {name: x for name, x in values.items() if name != "epochs"}
        training = dataclasses.replace(
            self.training, epochs=values.get("epochs", self.training.epochs)
        )
        return dataclasses.replace(self, arguments={**self.arguments, **own}, training=training)


def kinds(model: str | lookup.Variant) -> dict[str, Any]:
    """The declared type of each setting that ``make_plan`` takes, {name: type}."""
    return hints(DataSettings) | hints(TrainSettings) | lookup.hints(model)


def make_plan(model: str | lookup.Variant = "vae", **choices: Any) -> Plan:
    """A plan from keyword arguments: fields of DataSettings, TrainSettings, and the recipe's own.

    ``model`` is a name in the zoo, or a recipe from outside.

    Raises:
        UsageError: an unknown model or argument (with the nearest name), a value that does not
            fit its declared type, or one that has no effect given the others.
    """
    plan = plan_of(model, **choices)
    check_effects([plan])
    return plan


def plan_of(model: str | lookup.Variant, **choices: Any) -> Plan:
    """``make_plan`` without the check that every choice has an effect."""
    known, fields = kinds(model), (hints(DataSettings), hints(TrainSettings))
    for name in choices:
        if name not in known:
            meant, called = hint(name, known), lookup.recipe(model).__name__
            raise UsageError(f"unknown argument {name!r} for model {called!r}{meant}")
    data = DataSettings(**{k: v for k, v in choices.items() if k in fields[0]})
    training = TrainSettings(**{k: v for k, v in choices.items() if k in fields[1]})
    own = {k: v for k, v in choices.items() if k not in {*fields[0], *fields[1]}}
    function = lookup.recipe(model)  # the recipe checks the ranges of its own arguments
    return Plan(function.__name__, lookup.arguments(model, own), data, training, function)


def flat(plan: Plan) -> dict[str, Any]:
    """All settings of a plan by name."""
    return {"model": plan.model, **asdict(plan.data), **asdict(plan.training), **plan.arguments}


def check_effects(plans: Sequence[Plan], before: Plan | None = None) -> None:
    """Raises UsageError for a chosen setting that has no effect in any of the plans.

    All plans have the same model; ``before`` is the plan that they resume, whose settings count as
    not chosen.
    """
    model = plans[0].function
    usual = [
        flat(
            dataclasses.replace(
                plans[0],
                arguments=lookup.arguments(model),
                data=DataSettings(),
                training=TrainSettings(),
            )
        )
    ]
    usual += [flat(before)] if before is not None else []
    found = declared.idle(kinds(model), [flat(plan) for plan in plans], usual)
    if found is not None:
        raise UsageError(found)


def settle(plans: Sequence[Plan], spec: DataSpec) -> list[Plan]:
    """Plans of one model, with all chosen that these data decide.

    Raises UsageError for a setting that has no effect beside what was chosen.
    """
    found = [plan.settled(spec) for plan in plans]
    if found != list(plans):
        check_effects(found)
    return found


def fitting(plan: Plan, spec: DataSpec) -> tuple[Plan, dict[str, Choice]]:
    """The plan, with a smaller batch if the default is more than all training images."""
    usual = TrainSettings().batch_size
    if plan.training.batch_size != usual or not 0 < spec.examples < usual:
        return plan, {}
    size = 1 << (spec.examples.bit_length() - 1)  # a power of 2, as devices are
    training = dataclasses.replace(plan.training, batch_size=size)
    why = f"{spec.examples:,} training image{'s' * (spec.examples > 1)}"
    return dataclasses.replace(plan, training=training), {"batch_size": Choice(size, why)}


def changed(old: Plan, new: Plan) -> dict[str, tuple[Any, Any]]:
    """The settings in which two plans differ: {name: (old, new)}."""
    before, after = flat(old), flat(new)
    names = [*before, *(name for name in after if name not in before)]
    return {
        name: (before.get(name), after.get(name))
        for name in names
        if before.get(name) != after.get(name)
    }
