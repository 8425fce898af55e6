"""The Frey faces: 1,965 video frames of one face, 28x20 (Brendan Frey and Sam Roweis)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from flaxvae.data import files
from flaxvae.errors import DataError

FILE = "frey_faces.npz"
TRAIN, VALIDATION, TEST = 1565, 200, 200


def find(folder: Path) -> Path | None:
    """The file, in a folder or in its sub-folder frey_faces."""
    places = (folder / "frey_faces" / FILE, folder / FILE)
    return next((path for path in places if path.is_file()), None)


def frames() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The numbers of the frames of the video that are training, validation and test images."""
    order = np.random.RandomState(0).permutation(TRAIN + VALIDATION + TEST)
    train, held, test = np.split(order, [TRAIN, TRAIN + VALIDATION])
    return train, held, test


def read(folder: Path) -> tuple[dict[str, tuple[np.ndarray, None]], str]:
    """Training, validation and test images, in a seeded random order; and their origin.

    The sizes are those of published results.

    Raises DataError if the file is missing, or another.
    """
    path = find(folder)
    if path is None:
        raise DataError(f"{folder}: no {FILE} there; expected the Frey faces, as images")
    with files.opened(path) as arrays:
        if "images" not in arrays.keys:
            raise DataError(f"{path}: no images; expected the Frey faces under that key")
        x = arrays.read("images")
    count = TRAIN + VALIDATION + TEST
    if x.shape != (count, 28, 20) or x.dtype != np.uint8:
        raise DataError(f"{path}: {x.dtype} of shape {x.shape}; expected uint8 ({count}, 28, 20)")
    train, held, test = frames()
    parts = {"training": x[train], "validation": x[held], "test": x[test]}
    return {what: (part, None) for what, part in parts.items()}, str(path)
