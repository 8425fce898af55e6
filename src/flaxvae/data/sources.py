"""Where images come from: built-in digits, MNIST and its cousins, or a NumPy file.

Whatever the source, the result is one `Dataset` that went through the same checks: images of
one shape, finite and in range, and labels that fit them. Pixels stay as stored (uint8 where
possible); dividing by ``peak`` brings them to [0, 1].
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from flaxvae.data import idx, tfds
from flaxvae.errors import DataError, Finding, UsageError, did_you_mean


class Dataset(NamedTuple):
    """Training and test examples, as stored."""

    name: str
    """The name in `SOURCES`, or the stem of the file."""
    x_train: np.ndarray
    """[N, H, W, C] (images) or [N, D] (vectors); uint8 in 0..peak, or float32 in [0, 1]."""
    y_train: np.ndarray | None
    """[N] int32 class labels in 0..classes-1; None when unlabelled."""
    x_test: np.ndarray
    y_test: np.ndarray | None
    peak: float
    """The raw value that stands for 1.0 (white)."""
    classes: int | None
    """The number of classes; None when unlabelled."""
    origin: str
    """Where the examples were read, in words."""


class Source(NamedTuple):
    """What is known about a dataset before it is loaded."""

    summary: str
    epochs: int
    """Suggested passes over the training images."""


SOURCES = {
    "digits": Source("1,797 real 8x8 handwritten digits, built in (scikit-learn)", 500),
    "mnist": Source("70,000 28x28 handwritten digits (IDX files or tensorflow-datasets)", 20),
    "fashion_mnist": Source("70,000 28x28 articles of clothing (likewise)", 20),
    "kmnist": Source("70,000 28x28 cursive Japanese characters (likewise)", 20),
}

# The keys an .npz may use, the first one present being taken.
_IMAGE_KEYS = ("x_train", "images", "data", "x")
_LABEL_KEYS = ("y_train", "labels", "y")


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
        DataError: missing, damaged, or not images.
    """
    path = Path(dataset).expanduser()
    if path.suffix.lower() in (".npz", ".npy"):
        return _file(path)
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
    """Whether a dataset of `SOURCES` can be had here, and where; nothing is downloaded."""
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
        return Finding(None, dataset, f"not here: pip install 'flaxvae[tfds]', or {tfds.IDX}")
    if home is None:
        return Finding(None, dataset, "tensorflow-datasets downloads it when it is first used")
    return Finding(True, dataset, f"prepared by tensorflow-datasets in {home}")


def _digits() -> Dataset:
    from sklearn.datasets import load_digits

    digits = load_digits()
    x, y = digits.images.astype(np.uint8), digits.target
    return _checked("digits", "scikit-learn load_digits", x, y, held_out=360)._replace(peak=16.0)


def read_images(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """All the images of an .npz or .npy file, in order, and their labels where it has them.

    Returns:
        x [N, H, W, C] or [N, D], y [N] or None.

    Raises DataError if the file is missing, damaged, or holds no images.
    """
    arrays = _arrays(path)
    x, peak = _images(next(arrays[key] for key in _IMAGE_KEYS if key in arrays), str(path))
    y = next((arrays[key] for key in _LABEL_KEYS if key in arrays), None)
    y = None if y is None else _labels(y, len(x), f"{path}: labels")
    return (x if peak != 1.0 else x.astype(np.float32)), y


def _file(path: Path) -> Dataset:
    """The arrays of an .npz, or the images of an .npy."""
    arrays = _arrays(path)
    x = next(arrays[key] for key in _IMAGE_KEYS if key in arrays)
    y = next((arrays[key] for key in _LABEL_KEYS if key in arrays), None)
    return _checked(path.stem, str(path), x, y, arrays.get("x_test"), arrays.get("y_test"))


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a NumPy file by key, images among them; the one of an .npy goes by ``x``."""
    try:
        with path.open("rb") as file:
            start = file.read(6)
        if not start.startswith((b"PK\x03\x04", b"PK\x05\x06", b"\x93NUMPY")):
            raise DataError(
                f"{path}: not a NumPy file (it begins with {start!r}); write it with np.savez"
            )
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"x": loaded}
        with loaded:
            if not any(key in loaded for key in _IMAGE_KEYS):
                raise DataError(
                    f"{path}: no images, its keys are {', '.join(loaded.files) or 'none'}; "
                    f"expected one of {', '.join(_IMAGE_KEYS)}"
                )
            wanted = {*_IMAGE_KEYS, *_LABEL_KEYS, "x_test", "y_test"}
            return {key: np.asarray(loaded[key]) for key in loaded.files if key in wanted}
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except Exception as error:  # damage raises nearly anything inside numpy, zipfile and zlib
        seen = " ".join(str(error).split()) or type(error).__name__
        if "Object arrays" in seen:
            raise DataError(
                f"{path}: holds Python objects (a pickle), which are never loaded; save plain "
                "arrays of numbers, all images of one shape"
            ) from error
        raise DataError(f"{path}: cannot be read ({seen}); write or fetch it again") from error


def _checked(
    name: str,
    origin: str,
    x: np.ndarray,
    y: np.ndarray | None,
    x_test: np.ndarray | None = None,
    y_test: np.ndarray | None = None,
    held_out: int | None = None,
) -> Dataset:
    """The `Dataset` of these arrays, if they are one; without test images some are held out.

    That is ``held_out`` of them, or a tenth.
    """
    x, peak = _images(x, f"{origin}: training images")
    if y is not None:
        y = _labels(y, len(x), f"{origin}: training labels")
    if x_test is None:
        if len(x) < 2:
            raise DataError(f"{origin}: 1 image; expected one to train and one to test on, or more")
        held_out = held_out or max(1, len(x) // 10)
        # RandomState, because NumPy has frozen its stream: the same rows for ever.
        order = np.random.RandomState(0).permutation(len(x))
        test, train = order[:held_out], order[held_out:]
        x, x_test = x[train], x[test]
        y, y_test = (None, None) if y is None else (y[train], y[test])
    else:
        x_test, test_peak = _images(x_test, f"{origin}: test images")
        seen, expected = (
            f"{a.dtype} of shape {a.shape[1:]} with white {white:g}"
            for a, white in ((x_test, test_peak), (x, peak))
        )
        if seen != expected:
            raise DataError(
                f"{origin}: test images are {seen}; expected {expected}, as in training"
            )
        if (y is None) != (y_test is None):
            given = "test" if y is None else "training"
            raise DataError(f"{origin}: only {given} images have labels; label both or neither")
        if y_test is not None:
            y_test = _labels(y_test, len(x_test), f"{origin}: test labels")
    classes = None if y is None or y_test is None else int(max(y.max(), y_test.max())) + 1
    return Dataset(name, x, y, x_test, y_test, peak, classes, origin)


def _images(x: np.ndarray, what: str) -> tuple[np.ndarray, float]:
    """Images as a `Dataset` holds them, and their peak."""
    if x.ndim not in (2, 3, 4) or x.size == 0:
        raise DataError(
            f"{what} are of shape {x.shape}; expected [N, H, W, C], [N, H, W] or [N, D], none of "
            "them 0"
        )
    if x.ndim == 3:
        x = x[..., None]
    if x.dtype == bool:
        return x.astype(np.uint8), 1.0
    if not (np.issubdtype(x.dtype, np.floating) or np.issubdtype(x.dtype, np.integer)):
        raise DataError(f"{what} are of type {x.dtype}; expected uint8, bool or floats in [0, 1]")
    floats = np.issubdtype(x.dtype, np.floating)
    if floats and not np.isfinite(x).all():
        finite = np.isfinite(x)
        first = tuple(int(i) for i in np.unravel_index(np.argmin(finite), x.shape))
        raise DataError(
            f"{what} hold {np.sum(~finite)} values that are NaN or infinite, the first at index "
            f"{first}; expected numbers"
        )
    low, high, top = x.min(), x.max(), 1 if floats else 255
    if low < 0 or high > top:
        raise DataError(
            f"{what} are {x.dtype} from {low:.9g} to {high:.9g}; expected 0 to {top}: rescale them "
            "(floats made from bytes: divide by 255)"
        )
    if not floats and high == 1:
        raise DataError(f"{what} are {x.dtype} of 0 and 1, where white is 255; save them as bool")
    return x.astype(np.float32 if floats else np.uint8), 1.0 if floats else 255.0


def _labels(y: np.ndarray, count: int, what: str) -> np.ndarray:
    """Labels as a `Dataset` holds them."""
    if y.ndim != 1 or not np.issubdtype(y.dtype, np.integer):
        raise DataError(
            f"{what} are {y.dtype} of shape {y.shape}; expected one integer an image (of one-hot "
            "rows: the argmax)"
        )
    if len(y) != count:
        raise DataError(f"{what} are {len(y)} for {count} images; expected one an image")
    if y.min() < 0 or y.max() >= 2**31:
        raise DataError(f"{what} are from {y.min()} to {y.max()}; expected 0, 1, 2 and so on")
    return y.astype(np.int32)
