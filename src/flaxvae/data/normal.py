"""Training on normal classes alone, of a dataset that has classes; it is tested on all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flaxvae.data import labels
from flaxvae.data.dataset import Dataset, Part, taken
from flaxvae.errors import DataError, UsageError, counted


def only(dataset: Dataset, normal: Sequence[str]) -> Dataset:
    """The dataset without training and validation examples of other classes.

    Raises:
        UsageError: it has no classes, or none of such a name.
        DataError: no training examples are left.
    """
    if dataset.train.y is None:
        raise UsageError(
            f"--normal {' '.join(normal)}: {dataset.name} has no labels; expected classes"
        )
    names = dataset.names or tuple(range(dataset.classes or 0))
    chosen, strange = labels.find(np.array(normal), names)
    if strange is not None:
        raise UsageError(
            f"--normal {strange}: no such class in {dataset.name}, the classes are "
            f"{labels.listed(names)}"
        )
    train, left_out = _part(dataset.train, np.array(names)[chosen])
    if not len(train.x):
        raise DataError(
            f"{dataset.origin}: no example of {labels.listed(normal)} to train on; expected some"
        )
    validation, more = dataset.validation, 0
    if validation is not None and validation.y is not None:
        validation, more = _part(validation, np.array(names)[chosen])
    note = f"trained on {labels.listed(normal)}, {counted(left_out + more, 'example')} left out"
    return dataset._replace(
        train=train, validation=validation, notes=(*dataset.notes, note), sha256=None
    )


def _part(part: Part, chosen: np.ndarray) -> tuple[Part, int]:
    """The examples of these classes, and how many others there are."""
    assert part.y is not None
    which = np.flatnonzero(np.isin(part.y, chosen))
    return taken(part, which), len(part.x) - len(which)
