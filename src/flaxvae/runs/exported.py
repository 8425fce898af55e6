"""Codes of images as files for other tools, by the ending of their name.

| ending   | file                                                                               |
|----------|------------------------------------------------------------------------------------|
| .npz     | all arrays as they are                                                             |
| .csv     | a row for each image: z1 … zD, and what else is known of it, one number or text    |
| .parquet | the same columns, for pandas, polars or DuckDB; needs pyarrow                      |
| .tsv     | for the TensorFlow Embedding Projector: vectors alone; beside it, as NAME-metadata |
|          | .tsv, the other columns                                                            |
"""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from flaxvae import writing
from flaxvae.errors import UsageError

SUFFIXES = (".npz", ".csv", ".parquet", ".tsv")
CODES = "z"


def write(path: Path, arrays: Mapping[str, np.ndarray]) -> list[str]:
    """Write arrays, of which ``z`` [N, D] are the codes.

    Returns:
        The names of those that have no place in a table, which are left out.

    Raises:
        UsageError: another ending, or a .parquet without pyarrow.
    """
    if path.suffix == ".npz":
        with writing.whole(path) as file, zipfile.ZipFile(file, "w") as archive:
            for name, array in arrays.items():  # np.savez would not take all names
                with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                    np.lib.format.write_array(entry, np.asanyarray(array), allow_pickle=False)
        return []
    codes, rest = arrays[CODES], {k: a for k, a in arrays.items() if k != CODES}
    units = {f"z{unit}": column for unit, column in enumerate(codes.T, 1)}
    kept = {k: a for k, a in rest.items() if a.shape == codes.shape[:1] and k not in units}
    if path.suffix == ".tsv":
        _text(path, [], units, "\t")
        _text(path.with_name(f"{path.stem}-metadata.tsv"), [*kept], kept, "\t")
    elif path.suffix == ".parquet":
        _parquet(path, units | kept)
    else:
        columns = units | kept
        _text(path, [*columns], columns, ",")
    return [name for name in rest if name not in kept]


def check(path: Path) -> None:
    """Raises UsageError for an ending of which nothing can be written."""
    if path.suffix not in SUFFIXES:
        raise UsageError(f"--out {path}: expected a name that ends in {', '.join(SUFFIXES)}")
    if path.suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError:
            raise UsageError(
                f"--out {path}: Parquet needs pyarrow; pip install 'flaxvae[parquet]', or write "
                "a .csv"
            ) from None


def _text(
    path: Path, header: Sequence[str], columns: Mapping[str, np.ndarray], separator: str
) -> None:
    # The projector takes no header above a single column.
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    text = io.StringIO()
    out = csv.writer(text, delimiter=separator, lineterminator="\n")
    if len(header) > 1 or (header and separator == ","):
        out.writerow(header)
    out.writerows(rows)
    with writing.whole(path) as file:
        file.write(text.getvalue().encode("utf-8", "surrogateescape"))


def _parquet(path: Path, columns: Mapping[str, np.ndarray]) -> None:
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.table({name: pyarrow.array(column) for name, column in columns.items()})
    with writing.whole(path) as file:
        parquet.write_table(table, file)
