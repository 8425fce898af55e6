"""Named columns of numbers and of text, from CSV and Parquet files and frames in memory."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from flaxvae.data.files import check_size
from flaxvae.errors import DataError, remedy

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


def values_of(column: np.ndarray) -> np.ndarray:
    """Numbers as float64, nan where one is missing; whatever else as text."""
    if column.dtype.kind in "biuf":
        return column.astype(np.float64)
    missing = [value is None or value != value for value in column.tolist()]
    given = zip(column.tolist(), missing, strict=True)
    if all(gone or isinstance(value, int | float) for value, gone in given):
        return np.array([math.nan if gone else v for v, gone in zip(column.tolist(), missing)])
    return np.array(["" if gone else str(v) for v, gone in zip(column.tolist(), missing)], np.str_)


def _csv(path: Path) -> Table:
    """A table of text: a header, then lines of values between commas, semicolons or tabs."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            start = file.readline()
            file.seek(0)
            delimiter = max(",;\t", key=start.count)
            lines = csv.reader(file, delimiter=delimiter, strict=True)
            header = [name.strip() for name in next(lines, [])]
            check_header(path, header)
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


def check_header(path: Path, header: Sequence[str]) -> None:
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
    check_header(path, found.column_names)
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


def first_text(column: np.ndarray) -> int:
    """Where a column of text first has something that is no number."""
    texts = column.tolist()
    return next((i for i, text in enumerate(texts) if text and not _is_number(text)), 0)


def numbers(table: Table, names: Sequence[str]) -> np.ndarray:
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
