"""How rows of a table become rows of a model, kept with a run for rows that are seen later."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from flaxvae.data import labels, tabular
from flaxvae.data.tabular import Table
from flaxvae.errors import DataError, did_you_mean


@dataclasses.dataclass(frozen=True)
class Columns:
    """How rows of a file become rows of a model: D columns by name, and their standardisation."""

    names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def standardized(self, values: np.ndarray) -> np.ndarray:
        """[N, D] as in the file to float32 of mean 0 and standard deviation 1 in training."""
        return ((np.asarray(values, np.float64) - self.mean) / self.std).astype(np.float32)

    def restored(self, x: np.ndarray) -> np.ndarray:
        """The inverse, float64 as in the file."""
        return np.asarray(x, np.float64) * self.std + self.mean

    def of(self, table: Table) -> np.ndarray:
        """[N, D] these columns of a file. Raises DataError if it lacks one."""
        for name in self.names:
            if name not in table.columns:
                hint = did_you_mean(name, table.columns)
                raise DataError(
                    f"{table.path}: no column {name}; expected those of the training, "
                    f"{labels.listed(self.names)}{hint}"
                )
            if table.columns[name].dtype.kind != "f":
                first = tabular.first_text(table.columns[name])
                raise DataError(
                    f"{table.path}: column {name} has {str(table.columns[name][first])!r} in "
                    f"{table.at(first)}; expected numbers, as in training"
                )
        return tabular.numbers(table, self.names)

    def as_json(self) -> dict[str, Any]:
        """Its fields, for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Columns:
        """The inverse of ``as_json``."""
        return cls(*(tuple(stored[field.name]) for field in dataclasses.fields(cls)))
