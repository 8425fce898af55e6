"""Tables as datasets: which columns are numbers, labels or names of the rows.

A column of numbers is standardised by the mean and the standard deviation of the training rows;
`Columns` keeps both with a run, so that rows seen later are standardised in the very same way. A
column called label, class, target or y has the labels, one called id or name the names of the
rows. Other text is left out, and it is said.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from flaxvae.data import labels, tabular
from flaxvae.data.columns import Columns
from flaxvae.data.dataset import Dataset, Part, assembled, hold_out, taken
from flaxvae.data.tabular import Table
from flaxvae.errors import DataError

SUFFIXES = (".csv", ".tsv", ".parquet")
_LABELS = ("label", "labels", "class", "target", "y")
_NAMES = ("id", "name", "key", "filename", "file_name", "file", "")


class Examples(NamedTuple):
    """The rows of a file, before they are standardised."""

    table: Table
    names: list[str]
    """The columns of numbers."""
    y: np.ndarray | None
    """[N] labels."""
    rows: list[str] | None
    """[N] names of the rows."""
    notes: list[str]


def load(path: Path) -> Dataset:
    """A table as a `Dataset`, a tenth of its rows held out.

    Raises DataError if it cannot be read, has no numbers, or lacks some.
    """
    return _dataset(examples(path), path.stem)


def is_frame(data: Any) -> bool:
    """Whether something is a table of pandas or polars."""
    return hasattr(data, "columns") and hasattr(data, "to_numpy") and hasattr(data, "to_dict")


def from_frame(frame: Any, name: str) -> Dataset:
    """A table of pandas or polars in memory, as ``load`` one from a file."""
    tabular.check_header(Path(name), [str(column) for column in frame.columns])
    columns = {str(column): tabular.values_of(frame[column].to_numpy()) for column in frame.columns}
    return _dataset(_examples(Table(Path(name), columns, "row")), name)


def _dataset(found: Examples, name: str) -> Dataset:
    """A tenth of the rows are held out."""
    path = found.table.path
    train, test = hold_out(len(next(iter(found.table.columns.values()))), str(path))
    values = tabular.numbers(found.table, found.names)
    mean, std = values[train].mean(0), values[train].std(0)
    # A constant's deviation from its mean is rounding.
    varies = std > 1e-12 * np.maximum(np.abs(mean), 1e-300)
    constant = [name for name, ok in zip(found.names, varies, strict=True) if not ok]
    names = [name for name in found.names if name not in constant]
    notes = [*found.notes]
    if constant:
        notes.append(f"left out, constant in training: {labels.listed(constant)}")
    if not names:
        raise DataError(f"{path}: no column varies; expected one or more columns of numbers")
    columns = Columns(tuple(names), tuple(mean[varies].tolist()), tuple(std[varies].tolist()))
    notes.insert(0, f"{len(names)} columns, standardised: {labels.listed(names)}")
    whole = Part(columns.standardized(values[:, varies]), found.y, found.rows)
    parts = {"training": taken(whole, train), "test": taken(whole, test)}
    return assembled(name, str(path), parts, 1.0, notes, kind="table", columns=columns)


def examples(path: Path) -> Examples:
    """The rows of a file. Raises DataError if it cannot be read or has no numbers."""
    return _examples(tabular.read(path))


def _examples(table: Table) -> Examples:
    path = table.path
    folded = {name.strip().casefold(): name for name in reversed(table.columns)}
    label = next((folded[name] for name in _LABELS if name in folded), None)
    key = next((folded[name] for name in _NAMES if name in folded), None)
    numeric, notes = [], []
    for name, column in table.columns.items():
        if name in (label, key):
            continue
        if column.dtype.kind == "f":
            numeric.append(name)
            continue
        first = tabular.first_text(column)
        notes.append(f"{name} left out: {str(column[first])!r} in {table.at(first)} is no number")
    if not numeric:
        raise DataError(
            f"{path}: no column of numbers among {labels.listed([*table.columns])}; expected one "
            "or more"
        )
    y = None if label is None else _classes(table.columns[label])
    rows = None if key is None else [_word(value) for value in table.columns[key].tolist()]
    return Examples(table, numeric, y, rows, notes)


def _classes(column: np.ndarray) -> np.ndarray:
    """A column of labels: whole numbers where all are."""
    whole = column.dtype.kind == "f" and np.isfinite(column).all() and (column % 1 == 0).all()
    return column.astype(np.int64) if whole else column


def _word(value: float | str) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
