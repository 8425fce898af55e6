"""Sources by name or path: built-in, drawn or published datasets, arrays, tables, pictures.

Every source gives a `Dataset` that has passed the same checks: images of one shape, finite and in
range (`pixels`), with labels that fit them (`labels`). Pixels stay as stored (bytes where
possible); dividing by ``peak`` brings them to [0, 1].
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from flaxvae.data import arrays, catalog, cifar, containers, frey, idx, tables, tfds
from flaxvae.data.arrays import ARRAYS, Pictures, from_arrays, read_images
from flaxvae.data.dataset import Dataset, Part
from flaxvae.data.folder import load as load_folder
from flaxvae.errors import DataError, Finding, UsageError, did_you_mean
from flaxvae.settings import ARRAY_FILES, DRAWN, IN_FOLDERS, DataSettings, of_pictures

__all__ = ["ARRAYS", "Dataset", "Part", "Pictures", "from_arrays", "read_images"]


SOURCES = {  # by name
    "digits": "1,797 real 8x8 handwritten digits, built in (scikit-learn)",
    "sprites": "737,280 64x64 shapes, drawn from known factors (as in dSprites)",
    "sprites_color": "the same in colours, which are two more factors",
    "mnist": "70,000 28x28 handwritten digits (IDX files or tensorflow-datasets)",
    "fashion_mnist": "70,000 28x28 articles of clothing (likewise)",
    "kmnist": "70,000 28x28 cursive Japanese characters (likewise)",
    "cifar10": "60,000 32x32 colour photographs of ten classes (its archive in --data-dir)",
    "frey_faces": "1,965 28x20 frames of a face (frey_faces.npz in --data-dir)",
}
_ARCHIVES = {"cifar10": cifar, "frey_faces": frey}  # that only --data-dir has


def in_file(dataset: str) -> bool:
    """Whether a dataset is the path of a file."""
    return dataset.lower().endswith(ARRAY_FILES)


def in_table(dataset: str) -> bool:
    """Whether a dataset is the path of a table."""
    return dataset.lower().endswith(tables.SUFFIXES)


def is_path(dataset: str) -> bool:
    """Whether a dataset is a file or a folder of the user's, which may be moved."""
    return in_file(dataset) or (of_pictures(dataset) and not catalog.is_named(dataset))


def called(dataset: str) -> str:
    """A dataset's name, or that of its file or folder without the ending."""
    if catalog.is_named(dataset):
        return catalog.called(dataset)
    return containers.stem(dataset) if of_pictures(dataset) else Path(dataset).stem


def in_folder(dataset: str) -> bool:
    """Whether a dataset may be read from a folder."""
    return dataset in IN_FOLDERS


def load(
    dataset: str,
    data_dir: str | None = None,
    settings: DataSettings = DataSettings(),
    watch: Callable[[int, int], None] | None = None,
) -> Dataset:
    """A dataset by name, or by path.

    Args:
        dataset: a name in `SOURCES`; tfds:NAME, an image dataset of tensorflow-datasets; or the
            path of a NumPy or IDX file, of a table, or of a folder of pictures or a zip or tar of
            one.
        data_dir: folder with the files of a published dataset, in it or in a sub-folder named
            after the dataset; else the FLAXVAE_DATA_DIR variable, else, for MNIST and its
            relatives, tensorflow-datasets.
        settings: how pictures are preprocessed and split.
        watch: is told how many pictures of how many are decoded.

    Returns:
        The examples, checked.

    Raises:
        UsageError: no such dataset, or a setting that it does not have.
        DataError: the files are missing, damaged, or not images.
    """
    path = Path(dataset).expanduser()
    if in_file(dataset):
        return (tables if in_table(dataset) else arrays).load(path)
    if catalog.is_named(dataset):
        return load_folder(dataset, settings, watch)
    missing = not path.exists() and (path.name != dataset or containers.is_archive(dataset))
    if of_pictures(dataset) and (path.is_dir() or containers.is_archive(dataset) or missing):
        return load_folder(dataset, settings, watch)
    if dataset == ARRAYS:
        raise DataError(
            "the images were arrays in memory: expected a file of the same; write them with "
            "np.savez('images.npz', x_train=x), and give it as --dataset images.npz"
        )
    if dataset not in SOURCES and path.exists():
        raise UsageError(
            f"--dataset {dataset}: not a folder, a zip or a tar of pictures, a table or an .npz, "
            ".npy or IDX file: expected one of them, such as np.savez('images.npz', x=images) "
            "writes"
        )
    if dataset not in SOURCES:
        raise UsageError(
            f"--dataset {dataset}: expected {', '.join(SOURCES)}, tfds:NAME, or the path of a "
            f"folder of pictures, of an .npz, .npy or IDX file or of a table"
            f"{did_you_mean(dataset, (*SOURCES, *_here()))}"
        )
    if dataset == "digits":
        return _digits()
    if dataset in DRAWN:
        from flaxvae.data import sprites  # which imports JAX

        return sprites.load(dataset)
    folder = data_dir or os.environ.get("FLAXVAE_DATA_DIR")
    if dataset in _ARCHIVES:
        if not folder:
            raise DataError(
                f"{dataset}: expected its file in a folder; give --data-dir DIR (or set "
                "FLAXVAE_DATA_DIR)"
            )
        parts, origin = _ARCHIVES[dataset].read(Path(folder).expanduser())
        return arrays.checked(dataset, origin, parts)
    if folder:
        (x, y, *test), origin = idx.read_folder(Path(folder).expanduser(), dataset)
    else:
        (x, y, *test), origin = tfds.read(dataset)
    return arrays.checked(dataset, origin, {"training": (x, y), "test": (test[0], test[1])})


def _here() -> list[str]:
    """What lies in the working folder."""
    return [path.name for path in Path().iterdir()]


def find(dataset: str) -> Finding:
    """Whether a dataset of `SOURCES` is available, and where; downloads nothing."""
    folder = os.environ.get("FLAXVAE_DATA_DIR")
    try:
        if dataset == "digits":
            return Finding(True, dataset, _digits().origin)
        if dataset in DRAWN:
            return Finding(True, dataset, "drawn from their factors")
        if dataset in _ARCHIVES:
            home = Path(folder).expanduser() if folder else None
            if home is None or _ARCHIVES[dataset].find(home) is None:
                return Finding(None, dataset, f"not in FLAXVAE_DATA_DIR, {folder or 'not set'}")
            return Finding(True, dataset, f"in {home}")
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
    return arrays.checked("digits", "scikit-learn load_digits", {"training": (x, y)}, 360, 16.0)
