"""A grid: the settings of a sweep, the product of several values of each."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from typing import Any, get_origin

from flaxvae import choosing, declared, lookup
from flaxvae.choosing import Choice
from flaxvae.declared import Positive, Seed, typed
from flaxvae.errors import UsageError
from flaxvae.plan import Plan, check_effects, kinds, plan_of, settle
from flaxvae.recipe import DataSpec
from flaxvae.report import words
from flaxvae.settings import TrainSettings

SEEDS = 5
# What all members of a sweep share.
_SINGLE = {"seed", "epochs", "patience", "devices", "checkpoint_every"}


@dataclasses.dataclass(frozen=True)
class Grid:
    """The settings of a sweep: the product of all values; the first setting varies slowest."""

    model: str | lookup.Variant
    choices: Mapping[str, Any]  # shared by all members, as ``make_plan`` takes them
    varied: Mapping[str, list[Any]]
    seeds: list[int]

    def settings(self) -> list[dict[str, Any]]:
        """Every combination of the varied settings."""
        combined = itertools.product(*self.varied.values())
        return [dict(zip(self.varied, values, strict=True)) for values in combined]

    def plans(self) -> dict[str, Plan]:
        """Every member's plan by the name of its folder; seeds vary fastest."""
        found = {}
        for settings, seed in itertools.product(self.settings(), self.seeds):
            named = [f"{name}={words.value(x)}" for name, x in settings.items()]
            plan = plan_of(self.model, **self.choices, **settings, seed=seed)
            found[",".join([*named, f"seed={seed}"])] = plan
        return found

    def settled(self, spec: DataSpec) -> Grid:
        """The grid, with what these data decide chosen.

        Raises UsageError for a setting that has no effect beside what was chosen, or for two
        values of one that come to the same.
        """
        settle([*self.plans().values()], spec)
        choices = {name: choice.value for name, choice in self.chosen(spec).items()}
        varied = {
            name: [choosing.settled({name: x}, spec)[name] for x in values]
            for name, values in self.varied.items()
        }
        for name, values in varied.items():
            _check_once(name, values)
        return dataclasses.replace(self, choices={**self.choices, **choices}, varied=varied)

    def chosen(self, spec: DataSpec) -> dict[str, Choice]:
        """What these data decide of what all members share and the grid leaves open, by name."""
        first, *others = [plan.chosen(spec) for plan in self.plans().values()]
        return {
            name: choice
            for name, choice in first.items()
            if name not in self.varied and all(other.get(name) == choice for other in others)
        }


@typed
def make_grid(model: str | lookup.Variant = "vae", seeds: Positive = SEEDS, **choices: Any) -> Grid:
    """A grid from keyword arguments; a list gives several values of a setting.

    For a setting that is a single number or word, so does a tuple, a range or a 1-D array.

    Raises:
        UsageError: as ``make_plan`` for any member; no value or the same twice; several values of
            a setting that all members share.
    """
    types = kinds(model)
    varied = {
        name: [declared.conform(name, types[name], x) for x in values]
        for name, values in ((name, _row(types.get(name), x)) for name, x in choices.items())
        if values is not None
    }
    can_vary = (lookup.arguments(model).keys() | vars(TrainSettings()).keys()) - _SINGLE
    for name, values in varied.items():
        seen = f"{declared.flag(name)} {' '.join(map(words.value, values))}".rstrip()
        if not values:
            raise UsageError(f"{seen}: expected at least one value")
        _check_once(name, values)
        if name not in can_vary and len(values) > 1:
            hint = (
                "use --seed for the first and --seeds for how many"
                if name == "seed"
                else "it is the same for all members of a sweep"
            )
            raise UsageError(f"{seen}: expected one value; {hint}")
    fixed = {name: x for name, x in choices.items() if name not in varied}
    fixed |= {name: varied.pop(name)[0] for name in [*varied] if name not in can_vary}
    first = declared.conform("seed", Seed, fixed.pop("seed", 0))
    grid = Grid(model, fixed, varied, list(range(first, first + seeds)))
    plans = list(grid.plans().values())
    check_effects(plans)
    for plan in plans:
        for name, ok, expected in _TOGETHER:
            value = getattr(plan.training, name)
            if not ok(value):
                seen = declared.flag(name) + f" {value}" * (value is not True)
                raise UsageError(f"{seen} in a sweep, whose members train together: {expected}")
    return grid


def _check_once(name: str, values: list[Any]) -> None:
    if any(values.index(x) != i for i, x in enumerate(values)):
        seen = f"{declared.flag(name)} {' '.join(map(words.value, values))}"
        raise UsageError(f"{seen}: expected each value once")


_TOGETHER: list[tuple[str, Callable[[Any], bool], str]] = [  # what a member cannot do by itself
    ("patience", lambda x: x is None, "expected all to train for --epochs; leave it out"),
    ("on_nan", lambda x: x != "rollback", "expected stop or skip, for each member"),
    ("shard_params", lambda x: not x, "expected each device to hold whole members; leave it out"),
]


def _row(kind: Any, given: Any) -> list[Any] | None:
    """The values that ``given`` lists for a setting; None if it is a single value, or unknown."""
    several = get_origin(declared.plain(kind)) is tuple
    if kind is None:
        return None
    row = isinstance(given, tuple | range) or getattr(given, "ndim", 0) == 1
    return list(given) if isinstance(given, list) or (row and not several) else None
