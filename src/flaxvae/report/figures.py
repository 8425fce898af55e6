"""The figures of a run: what `flaxvae train` writes at its end, and `flaxvae figures` again."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxvae.analysis import latent_space
from flaxvae.data import images
from flaxvae.data.pipeline import Split
from flaxvae.devices import batches
from flaxvae.errors import counted
from flaxvae.report import plots
from flaxvae.report.words import heading
from flaxvae.runs.run import Run


def pixels(split: Split, rows: slice) -> np.ndarray:
    """Images of a split as a figure shows them, in [0, 1]."""
    return np.asarray(images.scale(split.x[rows], split.peak))


def reconstructions(path: Path, run: Run, shown: Split, which: str = "test images"):
    """Originals over the decoder's means at their codes."""
    originals = pixels(shown, slice(None))
    decoded = run.reconstruct(originals, shown.y)
    mse = float(np.square(decoded - originals).mean())
    title = f"Reconstructions of {which}, mean squared error {mse:.4f} a pixel\n{heading(run)}"
    return plots.reconstructions(path, originals, decoded, title=title)


def denoising(path: Path, run: Run, shown: Split):
    """Originals, what corruption leaves of them, and what the model makes of that."""
    corrupt = run.recipe.corrupt
    assert corrupt is not None
    originals = pixels(shown, slice(None))
    corrupted = np.asarray(corrupt(jax.random.key(0), jnp.asarray(originals)))
    # As they are: Run.reconstruct would binarize them again, where the data are binary.
    restore = batches.over_split(run.reconstruction, run.mesh)
    seen = shown._replace(x=corrupted, peak=1.0)
    restored = restore(seen, run.variables, jax.random.key(0))
    rows = ["original", "corrupted", "reconstruction"]
    title = f"What the model sees through, test images\n{heading(run)}"
    return plots.image_grid(path, [originals, corrupted, restored], rows, title=title)


def samples(
    path: Path,
    run: Run,
    n: int = 100,
    *,
    seed: int = 0,
    temperature: float = 1.0,
    label: Any = None,
):
    """Decoded draws from the prior; of a plain autoencoder, from a prior it never had."""
    what = "Samples from the prior" if run.recipe.has_bound else "Decoded random codes z ~ N(0, I)"
    at = "" if temperature == 1 else f", temperature {temperature:g}"
    if run.recipe.classes is not None:
        at += ", the classes in order" if label is None else f", class {label}"
    title = f"{what}, means of p(x|z){at}\n{heading(run)}"
    images = run.sample(n, seed=seed, temperature=temperature, y=label)
    return plots.samples(path, images, title=title)


def interpolations(path: Path, run: Run, ends: Split, steps: int = 10):
    """Straight lines between the codes of pairs of images, decoded."""
    title = f"Interpolation between the codes of two test images\n{heading(run)}"
    shown = pixels(ends, slice(None))
    found = latent_space.interpolations(run, shown, steps, ends.y)
    both = shown.reshape(-1, 2, *shown.shape[1:])
    return plots.interpolations(path, found, ends=both, title=title)


def traversals(
    path: Path,
    run: Run,
    evaluation: dict[str, Any],
    test: Split | None,
    *,
    image: int | None = None,
    label: Any = None,
    units: int | None = None,
    steps: int = 11,
    span: float = 3.0,
):
    """One row a unit, which alone moves from -span to span; those most used first.

    By default those in use, 2 to 10 of them, of a conditional model for the class in the middle.
    ``test`` images are needed to walk through one of them, or where the prior is not N(0, I).
    """
    units = units or min(max(evaluation.active_units, 2), 10)
    start, codes, through = None, None, "through the prior's mean"
    if image is not None:
        assert test is not None
        one = rows(test, np.array([image]))
        start = run.encode(pixels(one, slice(None)), one.y)[0]
        through = f"through test image {image}"
        if label is None and one.y is not None:
            label = one.y[0]
    if not run.recipe.standard_prior:
        assert test is not None
        codes = run.encode(pixels(test, slice(None)), test.y)
        through = through if image is not None else "through the mean code of the test images"
    if run.recipe.classes is not None:
        label = run.spec.names[run.recipe.classes // 2] if label is None else label
        through += f", class {label}"
    usage = used(run, evaluation)
    found = latent_space.traversal(
        run, usage, codes=codes, start=start, label=label, units=units, steps=steps, span=span
    )
    title = f"Traversals {through}: each row moves one unit{collapse(evaluation)}"
    kl = len(evaluation.kl_per_unit) == run.latent_size
    names = [f"z{unit + 1}, {'KL' if kl else 'variance'} {usage[unit]:.2f}" for unit in found.units]
    return plots.image_grid(
        path,
        list(found.images),
        names,
        title=f"{title}\n{heading(run)}",
        columns=[f"{at:.3g}".replace("-", "−") for at in np.linspace(-span, span, steps)],
        xlabel="standard deviations of the " + ("prior" if codes is None else "unit's codes"),
    )


def manifold(path: Path, run: Run, evaluation: dict[str, Any], n: int = 20):
    """The plane of the two units with the most KL, through the prior's inverse CDF."""
    found = latent_space.manifold(run, n, used(run, evaluation))
    first, second = (f"z{unit + 1}" for unit in found.units)
    rest = "" if run.latent_size == 2 else ", all other units 0"
    title = (
        f"Latent manifold, means of p(x|z) at equal steps of prior probability{rest}"
        f"{collapse(evaluation)}\n{heading(run)}"
    )
    return plots.manifold(path, found.images, z=found.z, title=title, xlabel=first, ylabel=second)


def collapse(evaluation: dict[str, Any]) -> str:
    """What a title adds where the codes say nothing of the images."""
    none = evaluation.active_units == 0 or evaluation.codes_used == 1
    return "; posterior collapse: no unit is in use" if none else ""


def latent_scatter(path: Path, run: Run, evaluation: dict[str, Any], split: Split):
    """Codes of a split, coloured by label; by PCA above two dimensions."""
    codes = run.encode(pixels(split, slice(None)), split.y)
    found = latent_space.plane(codes)
    if found.explained is None:
        labels = [f"z{unit} ({run.recipe.code})" for unit in range(1, codes.shape[1] + 1)]
    else:
        labels = [
            f"principal component {i} ({100 * part:.0f} % of variance)"
            for i, part in enumerate(found.explained, 1)
        ]
    title = f"Codes of {counted(len(codes), 'test image')}{collapse(evaluation)}\n{heading(run)}"
    return plots.latent_scatter(
        path, found.points, split.y, title=title, xlabel=labels[0], ylabel="".join(labels[1:])
    )


def suited(run: Run, evaluation: dict[str, Any], test: Split) -> dict[str, Callable[[Path], Path]]:
    """Every figure that suits the model, by name: what draws it into a file.

    ``evaluation`` is what ``evaluation.evaluate`` found of the images ``test``.
    """
    recipe = run.recipe
    shown = first(test, 20)
    found: dict[str, Callable[[Path], Path]] = {
        "reconstructions": lambda path: reconstructions(path, run, shown),
        "latent_scatter": lambda path: latent_scatter(path, run, evaluation, test),
    }
    if run.generates:
        found["samples"] = lambda path: samples(path, run)
    ends = pairs(test, same_class=recipe.classes is not None)
    if len(ends.x):
        found["interpolations"] = lambda path: interpolations(path, run, ends)
    if recipe.corrupt is not None:
        found["denoising"] = lambda path: denoising(path, run, first(test, 10))
    if recipe.has_bound and recipe.codes is None:
        found["traversals"] = lambda path: traversals(path, run, evaluation, test)
    if recipe.has_bound and recipe.standard_prior and not recipe.classes and run.latent_size > 1:
        found["manifold"] = lambda path: manifold(path, run, evaluation)
    history = run.folder.history()
    if history:
        title = f"Training\n{heading(run)}"
        found["curves"] = lambda path: plots.curves(path, history, title=title)
    return found


def write(
    run: Run,
    evaluation: dict[str, Any],
    test: Split,
    folder: Path,
    watch: Callable[[int, int], None] = lambda done, total: None,
) -> list[Path]:
    """Draw every figure that suits the model.

    Args:
        run: the model.
        evaluation: what ``evaluation.evaluate`` found.
        test: the images to show.
        folder: where the PNG files go.
        watch: hears how many are drawn, of how many.

    Returns:
        The files written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    drawers = suited(run, evaluation, test)
    for name, draw in drawers.items():
        watch(len(written), len(drawers))
        written.append(draw(folder / f"{name}.png"))
    return written


def used(run: Run, evaluation: dict[str, Any]) -> np.ndarray:
    """[D] how much each unit is used: its KL, or where that is not known, its code's variance."""
    kl = np.asarray(evaluation.kl_per_unit)
    return kl if len(kl) == run.latent_size else np.asarray(evaluation.code_variance)


def rows(split: Split, which: np.ndarray) -> Split:
    """Some images of a split, with their labels."""
    return split._replace(x=split.x[which], y=None if split.y is None else split.y[which])


def first(split: Split, count: int) -> Split:
    """As many images of a split, or all there are."""
    return rows(split, np.arange(min(count, len(split.x))))


def pairs(test: Split, count: int = 8, same_class: bool = False) -> Split:
    """Successive images, two by two: of different classes, where labels tell, or of the same.

    The first image without a partner gets the next one that fits; there are ``count`` pairs, or
    as many as there can be.
    """
    if test.y is None:
        return rows(test, np.arange(2 * min(count, len(test.x) // 2)))
    found: list[tuple[int, int]] = []
    waiting: dict[Any, deque[int]] = {}  # by class, images without a partner
    for i, label in enumerate(test.y.tolist()):
        fits = label if same_class else next((other for other in waiting if other != label), None)
        if fits in waiting:
            found.append((waiting[fits].popleft(), i))
            if not waiting[fits]:
                del waiting[fits]
        else:
            waiting.setdefault(label, deque()).append(i)
    return rows(test, np.array(sorted(found)[:count], int).ravel())
