"""The figures of a run: what `flaxvae train` writes at its end, and `flaxvae figures` again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from flaxvae.analysis import latent_space
from flaxvae.data import images
from flaxvae.data.pipeline import Split
from flaxvae.report import plots
from flaxvae.training.trained import Run


def pixels(split: Split, rows: slice) -> np.ndarray:
    """Images of a split as a figure shows them, in [0, 1]."""
    return np.asarray(images.scale(split.x[rows], split.peak))


def heading(run: Run) -> str:
    """Model and data, for titles: "vae on mnist, pixels in [0, 1]"."""
    return f"{run.plan.model} on {run.spec.name}"


def reconstructions(path: Path, run: Run, originals: np.ndarray, which: str = "test images"):
    """Originals in [0, 1] over the decoder's means at their posterior means."""
    decoded = run.reconstruct(originals)
    mse = float(np.square(decoded - originals).mean())
    title = f"Reconstructions of {which}: {heading(run)}, mean squared error {mse:.4f} a pixel"
    return plots.reconstructions(path, originals, decoded, title=title)


def samples(path: Path, run: Run, n: int = 100, *, seed: int = 0, temperature: float = 1.0):
    """Decoded draws from the prior; of a plain autoencoder, from a prior it never had."""
    what = "Samples from the prior" if run.recipe.has_bound else "Decoded random codes z ~ N(0, I)"
    at = "" if temperature == 1 else f", temperature {temperature:g}"
    title = f"{what}, means of p(x|z): {heading(run)}{at}"
    return plots.samples(path, run.sample(n, seed=seed, temperature=temperature), title=title)


def interpolations(path: Path, run: Run, originals: np.ndarray, steps: int = 10):
    """Straight lines between the codes of pairs of images, decoded."""
    title = f"Interpolation between the codes of two test images: {heading(run)}"
    found = latent_space.interpolations(run, originals, steps)
    return plots.interpolations(path, found, title=title)


def manifold(path: Path, run: Run, kl_per_unit: np.ndarray, n: int = 20):
    """The plane of the two units with the most KL, through the prior's inverse CDF."""
    found = latent_space.manifold(run, n, kl_per_unit)
    first, second = (f"z{unit + 1}" for unit in found.units)
    rest = "" if len(kl_per_unit) == 2 else ", all other units 0"
    title = f"Latent manifold, means of p(x|z) at equal steps of prior probability{rest}: "
    return plots.manifold(
        path, found.images, z=found.z, title=title + heading(run), xlabel=first, ylabel=second
    )


def latent_scatter(path: Path, run: Run, split: Split):
    """Codes of a split, coloured by label; by PCA above two dimensions."""
    codes = run.encode(pixels(split, slice(None)))
    found = latent_space.plane(codes)
    if found.explained is None:
        labels = ["z1 (posterior mean)", "z2 (posterior mean)"]
    else:
        labels = [
            f"principal component {i} ({100 * part:.0f} % of variance)"
            for i, part in enumerate(found.explained, 1)
        ]
    title = f"Codes of {len(codes):,} test images: {heading(run)}"
    return plots.latent_scatter(
        path, found.points, split.y, title=title, xlabel=labels[0], ylabel=labels[1]
    )


def write(run: Run, evaluation: dict[str, Any], test: Split, folder: Path) -> list[Path]:
    """Every figure that suits the model.

    Args:
        run: the model.
        evaluation: what ``bounds.evaluate`` found.
        test: the images to show.
        folder: where the PNG files go.

    Returns:
        The files written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shown = pixels(test, slice(20))
    ends = pairs(test)
    written = [
        reconstructions(folder / "reconstructions.png", run, shown),
        samples(folder / "samples.png", run),
        latent_scatter(folder / "latent_scatter.png", run, test),
    ]
    if len(ends):
        written.append(interpolations(folder / "interpolations.png", run, ends))
    kl = np.asarray(evaluation.get("kl_per_unit", []))
    if len(kl) >= 2:
        written.append(manifold(folder / "manifold.png", run, kl))
    history = run.folder.history()
    if history:
        title = f"Training: {heading(run)}"
        written.append(plots.curves(folder / "curves.png", history, title=title))
    return written


def pairs(test: Split, rows: int = 8) -> np.ndarray:
    """Successive images of different classes, where labels tell."""
    count = 2 * min(rows, len(test.x) // 2)
    picked = list(range(count))
    if test.y is not None:
        picked = []
        for i in range(len(test.x)):
            if len(picked) % 2 == 0 or test.y[i] != test.y[picked[-1]]:
                picked.append(i)
            if len(picked) == count:
                break
        picked = picked[: len(picked) // 2 * 2]
    return np.asarray(images.scale(test.x[np.array(picked, int)], test.peak))
