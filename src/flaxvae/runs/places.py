"""Where a run's data are: where its settings say, else where they were, or where the user says.

A relative path is kept as typed and moves with the project; run.json also has it as an absolute
path, for use from another folder. Data found there are compared with the run's own.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flaxvae import declared
from flaxvae.data import pipeline, sources
from flaxvae.data.pipeline import Data
from flaxvae.errors import DataError, UsageError
from flaxvae.settings import DataSettings, Place


def recorded(settings: DataSettings) -> dict[str, str]:
    """The absolute path of a file or folder of data, which run.json records with the settings."""
    dataset, folder = settings.dataset, settings.data_dir or os.environ.get("FLAXVAE_DATA_DIR")
    if sources.is_path(dataset):
        return {"dataset": _absolute(dataset)}
    if sources.in_folder(dataset) and folder:
        return {"data_dir": _absolute(folder)}
    return {}


def chosen(settings: DataSettings, place: Place) -> DataSettings:
    """Settings with the place that the user gave. Raises UsageError if that is not possible."""
    new, old = place.dataset, settings.dataset
    own = sources.is_path(old) or old == sources.ARRAYS  # the user's own: it may be anywhere
    if new is not None and new != old and not (sources.is_path(new) and own):
        what = "a file or a folder" if own else f"{old}, or leave it out"
        raise UsageError(f"--dataset {new}: the run was trained on {old}; expected {what}")
    if place.data_dir is not None and not sources.in_folder(old):
        raise UsageError(
            f"--data-dir {place.data_dir} has no effect with {old}, which the run was trained on: "
            "expected none" + ", but --dataset with its file" * own
        )
    given = {name: where for name, where in vars(place).items() if where is not None}
    return dataclasses.replace(settings, **given)


def find(
    settings: DataSettings,
    record: Mapping[str, Any],
    check: Callable[[Data], Data],
    place: Place = Place(),
    watch: Callable[[int, int], None] | None = None,
) -> tuple[Data, DataSettings]:
    """The data of a run, and the settings with which they were found.

    Args:
        settings: the run's.
        record: run.json, whose ``data_paths`` tell where they were.
        check: raises DataError unless they are the run's data.
        place: where they are now, if the user says so.
        watch: is told how many pictures are decoded, of how many.

    Raises:
        UsageError: an impossible place.
        DataError: they are not found, or are not the run's.
    """
    where = chosen(settings, place)
    were = {name: path for name, path in (record.get("data_paths") or {}).items() if path}
    name, before = next(iter(were.items()), ("dataset", ""))
    here = _here(where, name)
    if place == Place() and not here and before and Path(before).exists():
        there: dict[str, Any] = {name: before}
        where, here = dataclasses.replace(where, **there), True
    try:
        return check(pipeline.prepare(where, watch=watch)), where
    except (DataError, UsageError) as error:
        if isinstance(error, UsageError) and not (were and not here):
            raise
        hint = ""
        if were and not here:
            hint = f"; if it was moved, give its new place with {declared.flag(name)}"
        elif before and recorded(where).get(name) != before and Path(before).exists():
            hint = f"; the run was trained on those of {before}"
        raise DataError(f"{error}{hint}") from None


def _here(settings: DataSettings, name: str) -> bool:
    """Whether there is something at the path in the settings."""
    path = recorded(settings).get(name)
    return path is not None and Path(path).exists()


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute())
