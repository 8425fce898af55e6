"""Tables: rows of numbers in named columns, from CSV or Parquet files.

A column of numbers is standardised by the mean and the standard deviation of the training rows;
`Columns` keeps both with a run, so that rows seen later are standardised in the very same way. A
column called label, class, target or y has the labels, one called id or name the names of the
rows. Other text is left out, and it is said.
"""

from __future__ import annotations

import csv
import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from flaxvae.data import labels
from flaxvae.data.dataset import Dataset, Part, assembled, hold_out, taken
from flaxvae.data.files import check_size
from flaxvae.errors import DataError, did_you_mean, remedy

SUFFIXES = (".csv", ".tsv", ".parquet")
_LABELS = ("label", "labels", "class", "target", "y")
_NAMES = ("id", "name", "key", "filename", "file_name", "file", "")
_MISSING = ("", "na", "n/a", "nan", "null", "none", "-", "?")


class Table(NamedTuple):
    """The columns of a file, of equal length."""

    path: Path
    columns: dict[str, np.ndarray]
    """Of N numbers (float64), or N texts, by name in the file's order."""
    row: str
    """What a row is called: "line", counted from the header's 1, or "row", from 1."""

    def at(self, index: int) -> str:
        """Where a row is in the file, in words."""
        return f"{self.row} {index + (2 if self.row == 'line' else 1)}"


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
                first = _first_text(table.columns[name])
                raise DataError(
                    f"{table.path}: column {name} has {str(table.columns[name][first])!r} in "
                    f"{table.at(first)}; expected numbers, as in training"
                )
        return _numbers(table, self.names)

    def as_json(self) -> dict[str, Any]:
        """Its fields, for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Columns:
        """The inverse of ``as_json``."""
        return cls(*(tuple(stored[field.name]) for field in dataclasses.fields(cls)))


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
    _check_header(Path(name), [str(column) for column in frame.columns])
    columns = {str(column): _values(frame[column].to_numpy()) for column in frame.columns}
    return _dataset(_examples(Table(Path(name), columns, "row")), name)


def _values(column: np.ndarray) -> np.ndarray:
    """Numbers as float64, nan where one is missing; whatever else as text."""
    if column.dtype.kind in "biuf":
        return column.astype(np.float64)
    missing = [value is None or value != value for value in column.tolist()]
    given = zip(column.tolist(), missing, strict=True)
    if all(gone or isinstance(value, int | float) for value, gone in given):
        return np.array([math.nan if gone else v for v, gone in zip(column.tolist(), missing)])
    return np.array(["" if gone else str(v) for v, gone in zip(column.tolist(), missing)], np.str_)


def _dataset(found: Examples, name: str) -> Dataset:
    """A tenth of the rows are held out."""
    path = found.table.path
    train, test = hold_out(len(next(iter(found.table.columns.values()))), str(path))
    values = _numbers(found.table, found.names)
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
    return _examples(read(path))


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
        first = _first_text(column)
        notes.append(f"{name} left out: {str(column[first])!r} in {table.at(first)} is no number")
    if not numeric:
        raise DataError(
            f"{path}: no column of numbers among {labels.listed([*table.columns])}; expected one "
            "or more"
        )
    y = None if label is None else _classes(table.columns[label])
    rows = None if key is None else [_word(value) for value in table.columns[key].tolist()]
    return Examples(table, numeric, y, rows, notes)


def read(path: Path) -> Table:
    """A CSV or Parquet file. Raises DataError if it cannot be read as one."""
    try:
        if not path.exists():
            raise DataError(f"{path}: no such file")
        if not path.is_file():
            raise DataError(f"{path}: a folder or a pipe; expected a CSV or Parquet file")
        check_size(path, 4 * path.stat().st_size)  # of text, lists of Python are larger
        found = _parquet(path) if path.suffix.lower() == ".parquet" else _csv(path)
    except OSError as error:
        advice = remedy(error.strerror, "write or download it again")
        raise DataError(f"{path}: cannot be read ({error.strerror or error}); {advice}") from error
    if not len(next(iter(found.columns.values()), ())):
        raise DataError(f"{path}: no rows; expected a header and at least two rows of numbers")
    return found


def _csv(path: Path) -> Table:
    """A table of text: a header, then lines of values between commas, semicolons or tabs."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            start = file.readline()
            file.seek(0)
            delimiter = max(",;\t", key=start.count)
            lines = csv.reader(file, delimiter=delimiter, strict=True)
            header = [name.strip() for name in next(lines, [])]
            _check_header(path, header)
            rows = []
            for row in lines:
                if not row:
                    continue
                if len(row) != len(header):
                    raise DataError(
                        f"{path}: line {lines.line_num} has {len(row)} values; expected "
                        f"{len(header)}, as in the header"
                    )
                rows.append(row)
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a CSV file in UTF-8 ({error}); write it again") from error
    columns = zip(*rows, strict=True) if rows else ([] for _ in header)
    made = {name: _typed(column) for name, column in zip(header, columns, strict=True)}
    return Table(path, made, "line")


def _check_header(path: Path, header: Sequence[str]) -> None:
    if header and all(_is_number(name) for name in header):
        raise DataError(
            f"{path}: begins with a line of numbers; expected a header with the names of the "
            "columns: add one"
        )
    twice = next((name for name in header if header.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{path}: two columns are called {twice!r}; expected another name for each")
    if not header:
        raise DataError(f"{path}: empty; expected a header and rows of numbers")


def _parquet(path: Path) -> Table:
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError:
        raise DataError(
            f"{path}: Parquet needs pyarrow; pip install 'flaxvae[parquet]', or write a CSV file"
        ) from None
    try:
        found = parquet.read_table(path)
    except (arrow.ArrowException, OSError) as error:
        seen = " ".join(str(error).split())[:200]
        raise DataError(f"{path}: cannot be read as Parquet ({seen}); write it again") from error
    _check_header(path, found.column_names)
    types, made = arrow.types, {}
    for name, column in zip(found.column_names, found.columns, strict=True):
        kind = column.type
        if types.is_dictionary(kind):
            kind, column = kind.value_type, column.cast(kind.value_type)
        number = types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)
        values = column.to_pylist()
        if number or types.is_decimal(kind):
            made[name] = np.array([math.nan if v is None else float(v) for v in values])
        else:
            made[name] = np.array(["" if v is None else str(v) for v in values], np.str_)
    return Table(path, made, "row")


def _typed(column: Sequence[str]) -> np.ndarray:
    """Numbers, where all that is not missing is one: nan where it is. Else text."""
    try:
        return np.array(column, np.float64)
    except ValueError:
        pass
    missing = [value.strip().casefold() in _MISSING for value in column]
    if all(missing):
        return np.full(len(column), np.nan)
    try:
        given = [math.nan if gone else float(v) for v, gone in zip(column, missing, strict=True)]
    except ValueError:
        return np.array(column, np.str_)
    return np.array(given)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _first_text(column: np.ndarray) -> int:
    """Where a column of text first has something that is no number."""
    texts = column.tolist()
    return next((i for i, text in enumerate(texts) if text and not _is_number(text)), 0)


def _numbers(table: Table, names: Sequence[str]) -> np.ndarray:
    """[N, D] columns of numbers. Raises DataError for one that is missing or infinite."""
    values = np.stack([table.columns[name] for name in names], 1)
    finite = np.isfinite(values)
    if not finite.all():
        row, column = (int(i) for i in np.argwhere(~finite)[0])
        infinite = np.isinf(values[row, column])
        count = int((~finite).sum())
        raise DataError(
            f"{table.path}: column {names[column]} {'is infinite' if infinite else 'has no value'} "
            f"in {table.at(row)} ({count} such in all); expected numbers: fill them in, or leave "
            "out those rows or columns"
        )
    return values


def _classes(column: np.ndarray) -> np.ndarray:
    """A column of labels: whole numbers where all are."""
    whole = column.dtype.kind == "f" and np.isfinite(column).all() and (column % 1 == 0).all()
    return column.astype(np.int64) if whole else column


def _word(value: float | str) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
