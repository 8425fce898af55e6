"""Which pixels of images are hidden: halves by name, or what a file says."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from flaxvae.data import files, pictures
from flaxvae.errors import DataError, UsageError, did_you_mean

NAMES = ("lower-half", "upper-half", "left-half", "right-half", "centre", "none")
SUFFIXES = (".npz", ".npy")


def hidden(mask: str, count: int, height: int, width: int) -> np.ndarray:
    """Hidden pixels, [N, H, W] bool.

    Args:
        mask: one of NAMES; or a picture whose white pixels are hidden, or an .npz or .npy whose
            values are 0 where a pixel is seen: one mask [H, W] for all, or one for each [N, H, W].
        count, height, width: of the images, N, H and W.

    Raises:
        UsageError: neither a name nor a file.
        DataError: a mask of another shape, or one that hides nothing or everything.
    """
    if mask in NAMES:
        named = _named(mask, height, width)
        if mask != "none" and (named.all() or not named.any()):
            what = "everything" if named.all() else "nothing"
            raise DataError(f"--mask {mask} of {height}x{width} images hides {what}")
        return np.broadcast_to(named, (count, height, width))
    path = Path(mask).expanduser()
    if not path.is_file():
        raise UsageError(
            f"--mask {mask}: expected {', '.join(NAMES)}, or a file: a picture, .npz or .npy"
            f"{did_you_mean(mask, NAMES)}"
        )
    found = _array(path) if path.suffix.lower() in SUFFIXES else _picture(path)
    if found.ndim == 4 and found.shape[-1] == 1:
        found = found[..., 0]
    if found.shape not in ((height, width), (count, height, width), (1, height, width)):
        raise DataError(
            f"{mask}: a mask of shape {found.shape}; expected {(height, width)}, that of the "
            f"images, or {(count, height, width)}, one for each"
        )
    hidden = np.broadcast_to(found != 0, (count, height, width))
    if not hidden.any() or hidden.all():
        what = "everything" if hidden.any() else "nothing"
        raise DataError(f"{mask}: hides {what}; expected white, or not 0, where pixels are hidden")
    return hidden


def _named(mask: str, height: int, width: int) -> np.ndarray:
    found = np.zeros((height, width), bool)
    halves = {
        "lower-half": np.s_[height // 2 :, :],
        "upper-half": np.s_[: height // 2, :],
        "left-half": np.s_[:, : width // 2],
        "right-half": np.s_[:, width // 2 :],
        "centre": np.s_[height // 4 : height - height // 4, width // 4 : width - width // 4],
    }
    if mask in halves:
        found[halves[mask]] = True
    return found


def _array(path: Path) -> np.ndarray:
    with files.opened(path) as arrays:
        keys = arrays.keys
        key = "mask" if "mask" in keys else keys[0] if len(keys) == 1 else None
        if key is None:
            raise DataError(f"{path}: {', '.join(keys)}; expected one array, or one called mask")
        found = arrays.read(key)
    if found.dtype.kind not in "biuf" or (found.dtype.kind == "f" and not np.isfinite(found).all()):
        raise DataError(f"{path}: {key} is {found.dtype}; expected finite numbers or booleans")
    return found


def _picture(path: Path) -> np.ndarray:
    content = path.read_bytes()
    try:
        with pictures.decoding():
            seen = pictures.look(content)
            how = pictures.Preprocessing(seen.height, seen.width, 1, "fit", "black", 255.0)
            row = pictures.row(content, how)[1]
    except pictures.Unreadable as error:
        raise DataError(f"{path}: {error}; expected a mask as a picture, .npz or .npy") from None
    assert row is not None
    return row[..., 0] > 127
