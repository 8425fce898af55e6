"""What is in the images of a run, or of a file: the factors that are counted, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from flaxvae.data.pipeline import Split
from flaxvae.errors import DataError, UsageError, counted, did_you_mean
from flaxvae.runs.run import Run

KEYS = ("factors", "latents_classes")  # arrays of an .npz file that may hold factors


LEAST = 4  # images with a value of a factor, on average


class Factors(NamedTuple):
    values: np.ndarray  # [N, F]
    names: Sequence[str]  # [F]
    columns: Sequence[int]  # [F] which they are of all that the data have


def check_known(run: Run) -> None:
    """Raises UsageError unless the run's own images have factors."""
    if not run.spec.factors:
        raise UsageError(
            f"{run.path} has no factors: {run.spec.name}, does not say what its images show; "
            "expected a run on sprites or sprites_color, or --images FILE.npz with an array "
            '"factors" [N, F]'
        )


def of(
    run: Run,
    split: Split,
    others: Mapping[str, np.ndarray],
    images: str | None,
    without: Sequence[str] = (),
) -> Factors:
    """The factors of a split, but for those ``without``.

    Args:
        run: its names are used where it has as many factors.
        split: the run's own, with factors, or that of the file ``images``.
        others: the file's other arrays of one entry per image.
        images: the file, if it is one.
        without: names.

    Raises:
        UsageError: a name that is none, or fewer than two factors left.
        DataError: a file without factors that fit its images, or a factor about which nothing can
            be known.
    """
    names = [name for name, _ in run.spec.factors]
    values = split.factors if images is None else _in_file(others, images, len(split.x))
    assert values is not None
    if len(names) != values.shape[1]:
        names = [f"factor-{f}" for f in range(1, values.shape[1] + 1)]
    for name in without:
        check_name("without", name, names)
    columns = [f for f, name in enumerate(names) if name not in without]
    if len(columns) < 2:
        raise UsageError(
            f"--without {' '.join(without)}: {counted(len(columns), 'factor')} left; expected two "
            "or more to tell apart"
        )
    found = Factors(values[:, columns], [names[f] for f in columns], columns)
    _check_values(found)
    return found


def check_name(flag: str, name: str, names: Sequence[str]) -> None:
    """Raises UsageError for a name that is not a factor's."""
    if name not in names:
        raise UsageError(
            f"--{flag} {name}: expected some of {', '.join(names)}{did_you_mean(name, names)}"
        )


def _in_file(others: Mapping[str, np.ndarray], images: str, count: int) -> np.ndarray:
    key = next((key for key in KEYS if key in others), None)
    if key is None:
        raise DataError(
            f'{images}: no array "factors" with a row for each of {counted(count, "image")}: '
            "expected [N, F]; add it with np.savez(FILE, x=images, factors=factors)"
        )
    values = others[key]
    if values.ndim != 2 or values.shape[1] < 2:
        raise DataError(
            f"{images}: {key} of shape {values.shape}: expected [{count}, F], F two or more"
        )
    return values


def _check_values(found: Factors) -> None:
    """Raises DataError for too few images, or a factor that is the same, or different, in all."""
    if len(found.values) < 2:
        raise DataError(
            f"{counted(len(found.values), 'image')} with factors: expected many, of which several "
            "have the same value of a factor"
        )
    for name, column in zip(found.names, found.values.T, strict=True):
        if column.dtype.kind == "f" and not np.isfinite(column).all():
            raise DataError(
                f"factor {name} has values that are no numbers, first of image "
                f"{int(np.argmin(np.isfinite(column)))}: expected numbers; or leave it out with "
                f"--without {name}"
            )
        times = np.unique(column, return_counts=True)[1]
        if len(times) > 1 and LEAST * len(times) <= len(column):
            continue
        seen = "one value in all" if len(times) == 1 else f"{len(times):,} values in"
        raise DataError(
            f"factor {name} has {seen} {counted(len(column), 'image')}: expected several, each of "
            f"{LEAST} images or more on average; round it, or leave it out with --without {name}"
        )
