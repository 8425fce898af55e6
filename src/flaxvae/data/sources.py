"""Sources of images: built-in digits, MNIST and its relatives, or a NumPy file.

Every source gives a `Dataset` that has passed the same checks: images of one shape, finite and in
range (`pixels`), with labels that fit them (`labels`). Pixels stay as stored (bytes where
possible); dividing by ``peak`` brings them to [0, 1].
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from flaxvae.data import files, idx, labels, pixels, tfds
from flaxvae.data.rows import Rows
from flaxvae.errors import DataError, Finding, UsageError, did_you_mean
from flaxvae.settings import IN_FOLDERS


class Part(NamedTuple):
    """Examples that belong together, as stored."""

    x: np.ndarray | Rows
    """[N, H, W, C] (images) or [N, D] (vectors): uint8 or uint16 in 0..peak, or float32 in
    [0, 1]. It may be memory-mapped, or a view of such: take rows of it, never all."""
    y: np.ndarray | None = None
    """[N] class labels, whole numbers or text; None when unlabelled."""
    files: Sequence[str] | None = None
    """[N] the name of the file that each example is from, relative to the source."""
    factors: np.ndarray | None = None
    """[N, F] ground-truth factors, as indices of their values."""
    render: Callable[[Any], Any] | None = None
    """Makes images of rows of x: float32 j / peak, [B, *shape]; None: the rows are images."""


class Dataset(NamedTuple):
    """Training and test examples, as stored."""

    name: str
    """The name in `SOURCES`, or the stem of the file."""
    train: Part
    test: Part
    peak: float
    """The stored value that means 1.0 (white)."""
    classes: int | None
    """The number of classes; None when unlabelled."""
    origin: str
    """Where the examples come from, in words."""
    names: labels.Names | None = None
    """The labels that occur, in order; None when they are 0 to classes - 1, or unlabelled."""
    unlabelled: str = ""
    """Why labels that there are cannot be used."""
    notes: tuple[str, ...] = ()
    """Remarks on these examples."""
    validation: Part | None = None
    """Given by the source; else some of the training examples are held out."""


class Source(NamedTuple):
    """A dataset that can be loaded by name."""

    summary: str
    epochs: int
    """Suggested passes over the training images."""


SOURCES = {
    "digits": Source("1,797 real 8x8 handwritten digits, built in (scikit-learn)", 500),
    "mnist": Source("70,000 28x28 handwritten digits (IDX files or tensorflow-datasets)", 20),
    "fashion_mnist": Source("70,000 28x28 articles of clothing (likewise)", 20),
    "kmnist": Source("70,000 28x28 cursive Japanese characters (likewise)", 20),
}

ARRAYS = "arrays"  # the name of what was arrays in memory, and no file

# The keys an .npz may use; the first one present counts.
_IMAGE_KEYS = ("x_train", "images", "data", "x")
_LABEL_KEYS = ("y_train", "labels", "y")
_TEST_KEYS = ("x_test", "y_test")


def in_file(dataset: str) -> bool:
    """Whether a dataset is the path of a file."""
    return Path(dataset).suffix.lower() in (".npz", ".npy")


def in_folder(dataset: str) -> bool:
    """Whether a dataset may be read from a folder."""
    return dataset in IN_FOLDERS


def load(dataset: str, data_dir: str | None = None) -> Dataset:
    """A dataset by name, or a NumPy file by path.

    Args:
        dataset: a name in `SOURCES`, or a path ending in .npz or .npy.
        data_dir: folder with the IDX files of mnist, fashion_mnist or kmnist, in it or in a
            sub-folder named after the dataset; else the FLAXVAE_DATA_DIR variable, else
            tensorflow-datasets.

    Returns:
        The examples, checked.

    Raises:
        UsageError: no such dataset.
        DataError: the files are missing, damaged, or not images.
    """
    path = Path(dataset).expanduser()
    if in_file(dataset):
        return _file(path)
    if dataset == ARRAYS:
        raise DataError(
            "the images were arrays in memory: expected a file of the same; write them with "
            "np.savez('images.npz', x_train=x), and give it as --dataset images.npz"
        )
    if dataset not in SOURCES and path.exists():
        raise UsageError(
            f"--dataset {dataset}: not an .npz or .npy file; read the images into one array and "
            "save it with np.savez('images.npz', x=images)"
        )
    if dataset not in SOURCES:
        raise UsageError(
            f"--dataset {dataset}: expected {', '.join(SOURCES)}, or the path of an .npz or .npy "
            f"file{did_you_mean(dataset, SOURCES)}"
        )
    if dataset == "digits":
        return _digits()
    folder = data_dir or os.environ.get("FLAXVAE_DATA_DIR")
    if folder:
        arrays, origin = idx.read_folder(Path(folder).expanduser(), dataset)
    else:
        arrays, origin = tfds.read(dataset)
    x, y, x_test, y_test = arrays
    return _checked(dataset, origin, x, y, x_test, y_test)


def find(dataset: str) -> Finding:
    """Whether a dataset of `SOURCES` is available, and where; downloads nothing."""
    folder = os.environ.get("FLAXVAE_DATA_DIR")
    try:
        if dataset == "digits":
            return Finding(True, dataset, _digits().origin)
        if folder:
            path = Path(folder).expanduser()
            if path.is_dir() and not idx.present(path, dataset):
                return Finding(None, dataset, f"no IDX files in FLAXVAE_DATA_DIR, {path}")
            return Finding(True, dataset, idx.read_folder(path, dataset)[1])
    except (DataError, ImportError) as error:
        return Finding(False, dataset, str(error))
    home = tfds.prepared(dataset)
    if not tfds.installed():
        return Finding(None, dataset, f"not available: pip install 'flaxvae[tfds]', or {tfds.IDX}")
    if home is None:
        return Finding(None, dataset, "tensorflow-datasets downloads it on first use")
    return Finding(True, dataset, f"prepared by tensorflow-datasets in {home}")


def _digits() -> Dataset:
    from sklearn.datasets import load_digits

    digits = load_digits()
    x, y = digits.images.astype(np.uint8), digits.target
    return _checked("digits", "scikit-learn load_digits", x, y, held_out=360, peak=16.0)


class Pictures(NamedTuple):
    """The images of a file, in order, and what else the file has for each of them."""

    x: np.ndarray
    """[N, H, W, C] or [N, D], with the file's dtype."""
    y: np.ndarray | None
    """[N] labels, whole numbers or text."""
    others: dict[str, np.ndarray]
    """Arrays of length N, by key."""
    notes: list[str]
    """What was left out, and why."""
    unlabelled: str
    """Why labels that there are cannot be used."""


def read_images(path: Path) -> Pictures:
    """All images of an .npz or .npy file. Raises DataError if there are none."""
    with files.opened(path) as arrays:
        key, label = _keys(arrays)
        x = pixels.array(arrays.read(key), f"{path}: images")
        y, others, notes, unlabelled = _labels(arrays, label), {}, [], ""
        try:
            y = None if y is None else labels.column(y, len(x))
        except labels.Unusable as why:
            y, unlabelled = None, f"labels are {why}"
            notes.append(f"{label} left out: {unlabelled}")
        for name in arrays.keys:
            if name in (key, label, *_TEST_KEYS):
                continue
            try:
                other = arrays.read(name)
            except files.Objects:
                notes.append(f"{name} left out: Python objects (a pickle) are never loaded")
                continue
            if other.shape[:1] == (len(x),):
                others[name] = other
            else:
                notes.append(f"{name} left out: not one entry for each of the {len(x):,} images")
    return Pictures(x, y, others, notes, unlabelled)


def _file(path: Path) -> Dataset:
    """The arrays of an .npz, or the images of an .npy."""
    with files.opened(path) as arrays:
        return _from(arrays, path.stem)


class _Mapping:
    """Arrays in memory, as ``files.Arrays`` gives those of a file."""

    path = "arrays"

    def __init__(self, arrays: Mapping[str, Any]):
        self._arrays, self.keys = arrays, list(arrays)

    def read(self, key: str) -> np.ndarray:
        return np.asarray(self._arrays[key])


def from_arrays(data: Any) -> Dataset:
    """Images in memory: an array [N, *shape]; a pair of those and labels; or a mapping with the
    keys of an .npz file.

    Raises DataError unless they are images.
    """
    if isinstance(data, tuple):
        if len(data) != 2:
            raise DataError(f"a tuple of {len(data)}: expected images, or a pair (images, labels)")
        data = {"x_train": data[0], "y_train": data[1]}
    return _from(_Mapping(data if isinstance(data, Mapping) else {"x_train": data}), ARRAYS)


def _from(arrays: files.Arrays | _Mapping, name: str) -> Dataset:
    key, label = _keys(arrays)
    x, y, y_test = arrays.read(key), _labels(arrays, label), _labels(arrays, "y_test")
    x_test = arrays.read("x_test") if "x_test" in arrays.keys else None
    return _checked(name, str(arrays.path), x, y, x_test, y_test)


def _keys(arrays: files.Arrays | _Mapping) -> tuple[str, str | None]:
    """The keys of the images and of the labels, if any."""
    images, label = (
        next((key for key in keys if key in arrays.keys), None)
        for keys in (_IMAGE_KEYS, _LABEL_KEYS)
    )
    if images is None:
        raise DataError(
            f"{arrays.path}: no images, its keys are {labels.listed(arrays.keys) or 'none'}; "
            f"expected one of {', '.join(_IMAGE_KEYS)}"
        )
    return images, label


def _labels(arrays: files.Arrays | _Mapping, key: str | None) -> np.ndarray | None:
    """The labels under this key, if any; an empty array if they are Python objects."""
    try:
        return arrays.read(key) if key in arrays.keys else None
    except files.Objects:
        return np.empty(0, object)


def _checked(
    name: str,
    origin: str,
    x: np.ndarray,
    y: np.ndarray | None,
    x_test: np.ndarray | None = None,
    y_test: np.ndarray | None = None,
    held_out: int | None = None,
    peak: float | None = None,
) -> Dataset:
    """Checks these arrays and makes a `Dataset` of them.

    Without test images, ``held_out`` training images or a tenth of them are held out. ``peak`` is
    the value of white if it is known; else `pixels.images` finds it.
    """
    parts = {f"{origin}: training images": x}
    if x_test is not None:
        parts[f"{origin}: test images"] = x_test
    (x, *rest), found_peak, notes = pixels.images(parts)
    columns, names, unlabelled = _classes([y, y_test][: len(parts)], [x, *rest])
    if unlabelled:
        notes.append(f"without labels: {unlabelled}")
    if not rest:
        if len(x) < 2:
            raise DataError(f"{origin}: 1 image; expected at least one to train and one to test on")
        held_out = held_out or max(1, len(x) // 10)
        # RandomState, because NumPy has frozen its stream: always the same rows.
        order = np.random.RandomState(0).permutation(len(x))
        test, train = order[:held_out], order[held_out:]
        x, rest = x[train], [x[test]]
        columns = columns and [columns[0][train], columns[0][test]]
    if peak is not None:
        found_peak, notes = peak, []
    y, y_test = columns or (None, None)
    classes = len(names) if names else None
    if names and labels.counted(names):
        y, y_test, names = *(column.astype(np.int32) for column in columns), None
    elif names:
        notes.append(f"{classes} classes: {labels.listed(names)}")
    parts_of = Part(x, y), Part(rest[0], y_test)
    return Dataset(name, *parts_of, found_peak, classes, origin, names, unlabelled, tuple(notes))


def _classes(
    given: list[np.ndarray | None], images: list[np.ndarray]
) -> tuple[list[np.ndarray], labels.Names | None, str]:
    """The labels of each part as columns, the classes, and why there are none."""
    if all(y is None for y in given):
        return [], None, ""
    columns: list[np.ndarray] = []
    try:
        for y, x in zip(given, images, strict=True):
            if y is None:
                raise labels.Unusable("missing; expected labels for all images, or for none")
            columns.append(labels.column(y, len(x)))
    except labels.Unusable as why:
        part = ("training", "test")[len(columns)]
        return [], None, f"{part} labels are {why}"
    try:
        return columns, labels.classes(*columns), ""
    except labels.Unusable as why:
        return [], None, f"labels are {why}"
