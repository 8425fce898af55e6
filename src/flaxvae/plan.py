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

    def recipe(self, spec: DataSpec) -> Recipe:
        """The recipe, built for these data."""
        return zoo.build(self.model, spec, **self.arguments)
