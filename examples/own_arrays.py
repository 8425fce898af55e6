"""Encode a folder of .npy files: each gets a file of latents and anomaly scores beside it.

    python examples/own_arrays.py                  # on a folder of digits that it makes
    python examples/own_arrays.py FOLDER RUN       # images [N, H, W, C] in FOLDER/*.npy

The files may hold different numbers of images: nothing is compiled again for each.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

import flaxvae as fv


def encode(folder: Path, model) -> list[Path]:
    """Write NAME.latents.npz for each NAME.npy; returns what was written."""
    written = []
    for path in sorted(folder.glob("*.npy")):
        images = np.load(path)
        target = path.with_suffix(".latents.npz")
        np.savez(target, z=model.encode(images), score=model.score(images))
        written.append(target)
    return written


def some_digits(folder: Path) -> np.ndarray:
    """A file for each class, of different lengths; returns all images."""
    digits = load_digits()
    images = digits.images[..., None].astype(np.uint8)
    images = (images * (255 / 16)).round().astype(np.uint8)  # white is 255
    for label in range(10):
        np.save(folder / f"{label}.npy", images[digits.target == label])
    return images


def main(folder: Path, run: str | None = None, epochs: int = 60) -> list[Path]:
    if run is None:
        images = some_digits(folder)
        model = fv.train(
            images, net="mlp", widths=(256, 128), epochs=epochs, run=str(folder / "run")
        )
    else:
        model = fv.load(run)
    written = encode(folder, model)
    for path in written:
        found = np.load(path)
        strange = int(found["score"].argmax())
        print(
            f"{path.name}: z {found['z'].shape}, -ELBO {found['score'].mean():.1f} nats per image; "
            f"the most unusual is image {strange}"
        )
    return written


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "runs/latest")
    else:
        with tempfile.TemporaryDirectory() as made:
            main(Path(made))
