"""From a source to the three splits of a run: train, validation, test.

Training images stay as stored (bytes); the compiled step turns them into floats and, if asked,
binarizes them. Validation and test images are binarized once, by a draw that does not depend on
any setting, so that results are comparable between epochs and runs.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from flaxvae import machine
from flaxvae.data import images, labels, normal, sources, tones
from flaxvae.data import rows as row_views
from flaxvae.data.columns import Columns
from flaxvae.data.dataset import Dataset, taken
from flaxvae.data.images import Render
from flaxvae.data.pictures import Preprocessing
from flaxvae.data.rows import Rows
from flaxvae.data.split import AT_ONCE, Split
from flaxvae.errors import UsageError
from flaxvae.recipe import DataSpec
from flaxvae.settings import Binarization, DataSettings, of_pictures

VALIDATION = 1 / 12  # of the training images, unless a source or the settings say otherwise


@dataclasses.dataclass(frozen=True)
class Binarized:
    """Renders images that are binarized, by a draw that depends on an image's row alone."""

    render: Render
    how: Binarization
    fold: int

    def __call__(self, rows: jax.Array) -> jax.Array:
        def one(row, x):
            key = binarization_key(self.fold)
            for value in row:
                key = jax.random.fold_in(key, value)
            return images.binarize(x, self.how, key)

        return jax.vmap(one)(rows, self.render(rows))


class Data(NamedTuple):
    """Everything a run needs to know about its data."""

    spec: DataSpec
    train: Split
    validation: Split | None
    test: Split
    peak: float  # the value that means 1.0 in the source's images
    binarization: Binarization  # what each training step still has to do to ``train`` images
    origin: str
    sha256: str  # of the stored training and test images
    labels_sha256: str | None = None  # of their labels
    notes: tuple[str, ...] = ()  # remarks
    signed: bool = False  # the source has floats in [-1, 1], of which these in [0, 1] are made
    preprocessing: Preprocessing | None = None  # of pictures in files, where they are from some
    columns: Columns | None = None  # of a table: how rows of its file became these
    flip: bool = False  # each training step mirrors half of the ``train`` images, at random


def binarization_key(fold: int) -> jax.Array:
    """The key of a draw that does not depend on any setting; ``fold`` tells draws apart."""
    key = jax.random.key(images.FIXED_SEED, impl="threefry2x32")  # whatever JAX is set to
    return jax.random.fold_in(key, fold)


def binarized(split: Split, how: Binarization, fold: int) -> Split:
    """Images binarized once, as uint8 0/1; ``dynamic`` and ``fixed`` give the same draw.

    ``fold`` differs between splits. What is rendered stays so, and is binarized after that.
    """
    if how == "none":
        return split
    if split.render is not None:
        return split._replace(render=Binarized(split.render, how, fold))
    if isinstance(split.x, Rows) and how == "threshold":
        peak = np.float32(split.peak)
        x = split.x.converted(lambda x: (x.astype(np.float32) / peak >= 0.5).astype(np.uint8))
        return split._replace(x=x, peak=1.0)
    if isinstance(split.x, Rows):
        _check_room(split.x)
    drawn, key, done = np.empty(split.x.shape, np.uint8), binarization_key(fold), 0
    for part in row_views.chunks(split.x):
        grey = images.scale(part, split.peak)
        drawn[done : done + len(part)] = images.binarize_part(grey, how, key, done)
        done += len(part)
    return split._replace(x=drawn, peak=1.0)


def _check_room(x: Rows) -> None:
    """Raises UsageError if images that are drawn once do not fit half of the free memory."""
    free = machine.free_memory()
    if free is not None and x.size > free // 2:
        raise UsageError(
            f"--binarization of {len(x):,} images drawn once, {x.size / 10**9:,.3g} GB: expected "
            f"at most {free / 2 / 10**9:,.3g} GB, half of the free memory; dynamic draws training "
            "images as they are used, and threshold needs no memory"
        )


def fingerprints(split: Split) -> np.ndarray:
    """A number for each image, [N] uint32, a hash of its pixels (to 16 bits) and its label.

    It seeds noise that depends on an image and not on its position. Two images share a number, and
    so their noise, with probability 2^-32.
    """
    found = np.empty(len(split.x), np.uint32)
    classes = np.zeros(len(split.x), np.int32) if split.classes is None else split.classes
    peak = split.peak if split.render is None else 1.0
    for start in range(0, len(split.x), AT_ONCE):
        rows = slice(start, start + AT_ONCE)
        pixels = split.x[rows] if split.render is None else split.images(rows)
        for i, (x, label) in enumerate(zip(pixels, classes[rows], strict=True), start):
            levels = x.astype("<f4")
            if split.bounded:
                levels = np.rint(x.astype(np.float32) * np.float32(65535 / peak)).astype("<u2")
            content = levels.tobytes() + int(label).to_bytes(4, "little")
            digest = hashlib.blake2b(content, digest_size=4).digest()
            found[i] = int.from_bytes(digest, "little")
    return found


def _hold_out(count: int, part: float) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the training and the validation images, each in file order.

    If any are held out, at least one image is, and never all.
    """
    order = np.random.default_rng(images.FIXED_SEED).permutation(count)
    held = min(max(round(part * count), 1), count - 1) if part > 0 else 0
    return np.sort(order[held:]), np.sort(order[:held])


def prepare(
    settings: DataSettings, arrays: Any = None, watch: Callable[[int, int], None] | None = None
) -> Data:
    """Load the dataset, or take one; hold out validation images, binarize what is binarized once.

    ``watch`` is told how many pictures of how many are decoded, where they are.

    Raises:
        UsageError: the dataset is unknown, or a table that is to be binarized.
        DataError: the files are missing, damaged, or neither images nor a table.
    """
    if arrays is None:
        dataset = sources.load(settings.dataset, settings.data_dir, settings, watch)
    else:
        dataset = sources.from_arrays(arrays)
    return divided(dataset, settings)


def divided(dataset: Dataset, settings: DataSettings) -> Data:
    """``prepare`` for a dataset that is there already."""
    if settings.normal and not of_pictures(settings.dataset):  # of those, by the source
        dataset = normal.only(dataset, settings.normal)
    how, notes, table = settings.binarization, list(dataset.notes), dataset.kind == "table"
    if table and how != "none":
        raise UsageError(f"--binarization {how} on a table: expected none; leave it out")
    if settings.flip:
        _check_flip(dataset)
    share = VALIDATION if settings.validation is None else settings.validation
    whole = [dataset.train, dataset.test]

    def split(part: sources.Part) -> Split:
        about = dataset.names, part.files, part.factors, part.render, not table
        return Split(row_views.view(part.x), part.y, dataset.peak, *about)

    if dataset.validation is not None:
        if settings.validation is not None and not of_pictures(settings.dataset):
            raise UsageError(
                f"--validation {settings.validation:g} has no effect with {dataset.name}, which "
                "says what to validate on: expected none; leave it out"
            )
        whole.insert(1, dataset.validation)
        train, held = split(dataset.train), split(dataset.validation)
    else:
        train_rows, held_rows = _hold_out(len(dataset.train.x), share)
        given = split(dataset.train)
        train, held = taken(given, train_rows), taken(given, held_rows)
    validation = binarized(held, how, fold=1) if len(held.x) else None
    if share > 0 and validation is None:
        notes.append("only one training image, so no validation images")
    test, digest = binarized(split(dataset.test), how, fold=2), None
    if train.y is not None and test.y is not None:
        digest = row_views.digest(part.y for part in whole if part.y is not None)
        missing = tuple(np.setdiff1d(test.y, train.y).tolist())
        if missing:
            notes.append(f"labels that only test images have: {labels.listed(missing)}")
    binary = settings.binarization != "none"
    grey = 0.0 if binary or table else tones.grey(len(train.x), train.images)
    if how != "dynamic":
        train, how = binarized(train, how, fold=0), "none"
    levels = train.render is not None or np.issubdtype(dataset.train.x.dtype, np.integer)
    spec = DataSpec(
        f"{dataset.name}, {'standardised' if table else images.PHRASES[settings.binarization]}",
        train.shape,
        dataset.classes,
        binary=binary,
        levels=2 if binary else round(dataset.peak) + 1 if levels else None,
        examples=len(train.x),
        labels=dataset.names,
        unlabelled=dataset.unlabelled,
        kind="table" if table else "images" if len(train.shape) == 3 else "vectors",
        grey=grey,
        factors=dataset.factors,
    )
    return Data(
        spec,
        train,
        validation,
        test,
        dataset.peak,
        how,
        dataset.origin,
        dataset.sha256 or row_views.digest(part.x for part in whole),
        digest,
        tuple(notes),
        dataset.signed,
        dataset.preprocessing,
        dataset.columns,
        settings.flip,
    )


def _check_flip(dataset: Dataset) -> None:
    """Raises UsageError unless the mirror image of an example is one, too."""
    if dataset.train.render is not None:
        what = f"{dataset.name}, whose images are drawn from their factors"
    elif len(dataset.train.x.shape) != 4:
        what = f"a {'table' if dataset.kind == 'table' else 'set of vectors'}"
    else:
        return
    raise UsageError(f"--flip on {what}: expected images [N, H, W, C]; leave it out")
