"""A plan: what a run is asked to be."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from flaxvae import zoo
from flaxvae.recipe import DataSpec, Recipe
from flaxvae.settings import DataSettings, TrainSettings


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a run is asked to be: all that decides its result, given the machine."""

    model: str
    arguments: Mapping[str, Any]  # of the recipe
    data: DataSettings
    training: TrainSettings  # with epochs filled in
    variant: zoo.Variant | None = dataclasses.field(default=None, repr=False, compare=False)
    # the recipe's function; by default the zoo's of this name

    def __post_init__(self):
        object.__setattr__(self, "variant", zoo.recipe(self.function))

    @property
    def function(self) -> zoo.Variant | str:
        """The recipe's function, or where there is none the name of the zoo's."""
        return self.model if self.variant is None else self.variant

    def recipe(self, spec: DataSpec) -> Recipe:
        """The recipe, built for these data."""
        return zoo.build(self.function, spec, **self.arguments)
