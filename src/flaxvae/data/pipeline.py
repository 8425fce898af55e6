"""From a source to the three splits a run uses: train, validation, test.

Training images stay as stored (uint8) and become floats, and binary where asked, inside the
compiled step. Validation and test images are binarized once, by a draw that no setting changes,
so that a number means the same in every epoch and every run.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import jax
import numpy as np

from flaxvae.data import images, sources
from flaxvae.errors import UsageError
from flaxvae.settings import Binarization, DataSettings
from flaxvae.zoo import DataSpec


class Split(NamedTuple):
    """Images as stored, with labels where there are any."""

    x: np.ndarray  # [N, *shape] uint8 in 0..peak, or float32 in [0, 1]
    y: np.ndarray | None  # [N] int32
    peak: float  # the stored value that stands for 1.0


class Data(NamedTuple):
    """All a run needs to know of its data."""

    spec: DataSpec
    train: Split
    validation: Split | None
    test: Split
    peak: float  # the value that stands for 1.0 in the source's own images
    binarization: Binarization  # what is still to be done to train, at every visit
    origin: str
    sha256: str  # of the stored training and test images


def binarized(split: Split, how: Binarization, fold: int) -> Split:
    """Images binarized once, as uint8 0/1; ``dynamic`` and ``fixed`` give the same draw.

    ``fold`` separates the draws of different splits.
    """
    if how == "none":
        return split
    key = jax.random.fold_in(jax.random.key(images.FIXED_SEED), fold)
    x = images.binarize(images.scale(split.x, split.peak), how, key)
    return Split(np.asarray(x.astype(np.uint8)), split.y, 1.0)


def _hold_out(count: int, part: float) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the training and the validation images, each in file order."""
    order = np.random.default_rng(images.FIXED_SEED).permutation(count)
    held = round(part * count)
    if part > 0 and not 0 < held < count:
        raise UsageError(
            f"--validation {part:g} of {count} images is {held}: expected at least one image in "
            "each part; use --validation 0 to train on all"
        )
    return np.sort(order[held:]), np.sort(order[:held])


def _digest(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def prepare(settings: DataSettings) -> Data:
    """Load the dataset, split off the validation images, binarize what is binarized once.

    Raises:
        UsageError: unknown dataset, or a validation part that leaves a split empty.
        DataError: files missing, damaged, or not images.
    """
    dataset = sources.load(settings.dataset, settings.data_dir)
    how = settings.binarization
    name = f"{dataset.name}, {images.PHRASES[how]}"
    labels = dataset.y_train

    def rows(which: np.ndarray) -> Split:
        y = None if labels is None else labels[which]
        return Split(dataset.x_train[which], y, dataset.peak)

    train_rows, held_rows = _hold_out(len(dataset.x_train), settings.validation)
    train = rows(train_rows)
    validation = binarized(rows(held_rows), how, fold=1) if len(held_rows) else None
    test = binarized(Split(dataset.x_test, dataset.y_test, dataset.peak), how, fold=2)
    if how != "dynamic":
        train, how = binarized(train, how, fold=0), "none"
    integers = np.issubdtype(dataset.x_train.dtype, np.integer)
    spec = DataSpec(
        name,
        dataset.x_train.shape[1:],
        dataset.classes,
        binary=settings.binarization != "none",
        levels=2
        if settings.binarization != "none"
        else round(dataset.peak) + 1
        if integers
        else None,
        examples=len(train_rows),
    )
    digest = _digest(dataset.x_train, dataset.x_test)
    return Data(spec, train, validation, test, dataset.peak, how, dataset.origin, digest)
