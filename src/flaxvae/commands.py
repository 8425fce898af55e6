"""What the commands other than ``train`` do with a run folder: load, look, write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from flaxvae.analysis import bounds
from flaxvae.data import sources
from flaxvae.errors import UsageError
from flaxvae.report import figures
from flaxvae.report.terminal import Terminal
from flaxvae.report.words import UNITS, numbers, relative
from flaxvae.training.runs import write_json
from flaxvae.training.trained import Run, load


def evaluate(
    run: str,
    *,
    k: int = 0,
    samples: int = 1,
    split: str = "test",
    images: int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure a run on held-out images, print the numbers, write them to evaluation.json.

    Raises UsageError for numbers out of range, or a validation split that the run has not.
    """
    loaded = load(run)
    data = loaded.data()
    chosen = data.test if split == "test" else data.validation
    if chosen is None:
        raise UsageError("--split validation: the run has no validation images; use test")
    if images is not None:
        if not 1 <= images <= len(chosen.x):
            raise UsageError(f"--images {images}: expected 1 to {len(chosen.x)}")
        y = None if chosen.y is None else chosen.y[:images]
        chosen = chosen._replace(x=chosen.x[:images], y=y)
    with Terminal() as terminal:
        found = bounds.evaluate(
            loaded, chosen, k=k, samples=samples, seed=seed, watch=terminal.watch("log p(x)")
        )
        write_json(
            loaded.path / "evaluation.json",
            {"split": split, "seed": seed, "samples": samples, "data": loaded.spec.name}
            | found
            | {"units": UNITS},
        )
        facts = numbers(loaded, found, split)
        facts["written"] = relative(loaded.path / "evaluation.json")
        terminal.summary(facts, [])
    return found


def sample(run: str, *, n: int, seed: int, temperature: float, out: str | None) -> str:
    """Draw a mosaic of samples; returns the file's path."""
    loaded = load(run)
    path = _target(out, loaded.folder.figures / "samples.png", ".png")
    return relative(figures.samples(path, loaded, n, seed=seed, temperature=temperature))


def reconstruct(run: str, *, images: str | None, n: int, out: str | None) -> str:
    """Draw images over their reconstructions; returns the file's path."""
    if n < 1:
        raise UsageError(f"--n {n}: expected 1 or more")
    loaded = load(run)
    path = _target(out, loaded.folder.figures / "reconstructions.png", ".png")
    if images is None:
        return relative(figures.reconstructions(path, loaded, test_images(loaded)[:n]))
    split = loaded.split(sources.read_images(Path(images))[:n])
    shown = figures.pixels(split, slice(None))
    return relative(figures.reconstructions(path, loaded, shown, Path(images).name))


def interpolate(run: str, *, rows: int, steps: int, out: str | None) -> str:
    """Draw walks between pairs of test images; returns the file's path."""
    loaded = load(run)
    test = loaded.data().test
    if not 1 <= rows <= len(test.x) // 2:
        raise UsageError(f"--rows {rows}: expected 1 to {len(test.x) // 2}")
    path = _target(out, loaded.folder.figures / "interpolations.png", ".png")
    return relative(figures.interpolations(path, loaded, figures.pairs(test, rows), steps))


def encode(run: str, *, images: str | None, out: str | None) -> str:
    """Write codes and scores of images to an .npz file; returns its path."""
    loaded = load(run)
    path = _target(out, loaded.path / "latents.npz", ".npz")
    labels: dict[str, Any] = {}
    if images is None:
        test = loaded.data().test
        x = figures.pixels(test, slice(None))
        labels = {} if test.y is None else {"labels": test.y}
    else:
        x = sources.read_images(Path(images))
    arrays = {"z": loaded.encode(x), "score": loaded.score(x), **labels}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.stem + ".partial.npz")
    np.savez(partial, **arrays)
    partial.replace(path)
    return relative(path)


def draw(run: str) -> list[str]:
    """Draw all figures of a run again; returns their paths."""
    loaded = load(run)
    test = loaded.data().test
    evaluation = bounds.evaluate(loaded, test)
    return [relative(p) for p in figures.write(loaded, evaluation, test, loaded.folder.figures)]


def test_images(run: Run) -> np.ndarray:
    """The test images of a run in [0, 1], as its model saw them."""
    return figures.pixels(run.data().test, slice(None))


def _target(out: str | None, default: Path, suffix: str) -> Path:
    """Where a command writes."""
    path = Path(out) if out else default
    if path.suffix.lower() != suffix:
        raise UsageError(f"--out {path}: expected a name that ends in {suffix}")
    return path
