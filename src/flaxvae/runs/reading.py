"""Images that are not a run's own, prepared as those were: of an array file, a table or pictures.

Pictures in a folder, a zip, a tar or a file become rows by the very preprocessing that the run's
record has. A run of arrays has none: of its pictures only the shape and the white are known, and
the rest is as in any training.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from flaxvae.data import folder, sources, tables
from flaxvae.data.columns import Columns
from flaxvae.data.pictures import Preprocessing
from flaxvae.data.pipeline import Split
from flaxvae.data.rows import Rows
from flaxvae.errors import DataError, UsageError
from flaxvae.runs import records
from flaxvae.settings import DataSettings

if TYPE_CHECKING:
    from flaxvae.runs.run import Run

Watch = Callable[[int, int], None]  # of pictures: decoded, in all


class Read(NamedTuple):
    """The images of a file or a folder."""

    split: Split
    """Prepared; with labels as they are there, and the names of the files."""
    others: dict[str, np.ndarray]
    """What else an .npz file has for each of them, by key."""
    notes: list[str]
    """What to know of them."""


def read(run: Run, path: str | os.PathLike[str], watch: Watch | None = None) -> Read:
    """The images at ``path``, as ``run`` takes them; ``watch`` is told how many are decoded.

    Raises:
        UsageError: of another shape than the run's, or without labels where it needs them.
        DataError: there is nothing that can be read as images.
    """
    name = os.fspath(path)
    if run.columns is not None or sources.in_file(name):
        return _arrays(run, name)
    return _pictures(run, name, watch)


def _arrays(run: Run, name: str) -> Read:
    path = Path(name).expanduser()
    found = sources.read_images(path) if run.columns is None else _rows(path, run.columns)
    if found.unlabelled and run.recipe.classes is not None:
        raise DataError(f"{name}: {found.unlabelled}")
    split = run.split(found.x, found.y, f"{name}: images")
    return Read(split._replace(y=found.y), found.others, found.notes)


def _rows(path: Path, columns: Columns) -> sources.Pictures:
    """The rows of a table, as a run takes them."""
    found = tables.examples(path)
    names = {} if found.rows is None else {"names": np.array(found.rows)}
    return sources.Pictures(columns.of(found.table), found.y, names, found.notes, "")


def _pictures(run: Run, name: str, watch: Watch | None) -> Read:
    how, notes = preprocessing(run, name)
    found = folder.read(name, how, watch)
    x, peak = _levels(run, found.x, how.peak)
    split = Split(x, found.y, peak, files=found.files)
    # A model without classes looks at no labels: nor does its noise.
    split = run.prepared(run.split(split), f"{name}: pictures")
    return Read(split._replace(y=found.y), {}, [*notes, *found.notes])


def preprocessing(run: Run, name: str) -> tuple[Preprocessing, list[str]]:
    """How pictures become what a run takes, and what to say of it.

    Raises UsageError if the run is not of pictures. ``name`` says which, in messages.
    """
    stored, shape = run.folder.record().get("preprocessing"), run.spec.shape
    if stored is not None:
        try:
            how = Preprocessing.from_json(stored)
        except ValueError as error:
            raise records.damaged(run.path / "run.json", f"preprocessing {error}") from None
        if how.shape != shape:
            raise records.damaged(run.path / "run.json", f"preprocessing {stored}")
        return how, []
    if len(shape) != 3 or shape[2] not in (1, 3):
        seen = " x ".join(map(str, shape))
        what = f"images of {seen}" if len(shape) == 3 else f"vectors of {seen} values"
        raise UsageError(
            f"{name}: the run was trained on {what}; expected an .npz or .npy file of such, for "
            "pictures are grey or RGB"
        )
    usual = DataSettings()
    how = Preprocessing(*shape, usual.resize, usual.background, 65535 if run.peak == 65535 else 255)
    colours = "grey" if how.channels == 1 else "RGB"
    return how, [
        f"the run was trained on arrays: pictures are made {how.height}x{how.width} {colours} by "
        f"{how.resize} for it"
    ]


def _levels(run: Run, x: np.ndarray, peak: float) -> tuple[np.ndarray | Rows, float]:
    """Pictures in the levels that a run's whole numbers have, and their white."""
    white = None if run.spec.binary or run.spec.levels is None else run.spec.levels - 1
    if white in (None, int(peak)):
        return x, peak

    def coarser(rows: np.ndarray) -> np.ndarray:
        return np.rint(rows * np.float32(white / peak)).astype(np.uint8 if white < 256 else "u2")

    return Rows(x, convert=coarser), float(white)
