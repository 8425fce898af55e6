"""Attributes added to the codes of images, and a - b + c, as figures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flaxvae.analysis import attributes
from flaxvae.data import pipeline
from flaxvae.data.dataset import taken
from flaxvae.data.pipeline import Split
from flaxvae.report.shown import Grid, first
from flaxvae.report.words import heading, value
from flaxvae.runs.attributes import has
from flaxvae.runs.run import Run

Array = np.ndarray


def named(run: Run, train: Split, name: str) -> Array:
    """The vector of an attribute that labels or factors of the training images say, [D]."""
    having, lacking = has(run, train, name)
    split = pipeline.binarized(train, run.binarization, fold=0)
    rows = np.flatnonzero(having | lacking)
    return attributes.vector(run.encode(taken(split, rows)), having[rows], name)


def between(run: Run, having: Split, lacking: Split) -> Array:
    """The vector between two sets of images, [D]."""
    codes = np.concatenate([run.encode(having), run.encode(lacking)])
    return attributes.vector(codes, np.arange(len(codes)) < len(having.x))


def walk(
    run: Run,
    split: Split,
    count: int,
    own: Array,
    called: str,
    others: Sequence[Array],
    against: Sequence[str],
    strengths: Sequence[float],
) -> Grid:
    """The first images with an attribute added at several strengths, a row for each."""
    direction = attributes.orthogonal(own, np.array(others))
    shown = first(split, count)
    codes = attributes.along(run.encode(shown), direction, np.array(strengths))
    labels = None if run.recipe.classes is None else np.tile(np.asarray(shown.y), len(strengths))
    decoded = run.decode(codes.reshape(-1, codes.shape[-1]), labels)
    rows = [shown.images(), *decoded.reshape(len(strengths), count, *decoded.shape[1:])]
    names = ["original", *(f"{one:+g}".replace("-", "−") if one else "0" for one in strengths)]
    left = np.linalg.norm(direction) / np.linalg.norm(own)
    beside = f", orthogonal to {value(tuple(against))}: {100 * left:.0f} % of its length"
    title = f"Codes plus a number of times the vector of {called}" + beside * bool(others)
    return Grid(rows, names, f"{title}\n{heading(run)}")


def analogy(run: Run, split: Split, numbers: Sequence[int]) -> Grid:
    """Three images, their reconstructions, and what a - b + c decodes to, with c's label."""
    three = taken(split, np.array(numbers))
    a, b, c = codes = run.encode(three)
    labels = None if run.recipe.classes is None else three.y
    result = run.decode((a - b + c)[None], None if labels is None else labels[2:])
    images = three.images()
    rows = [images, np.concatenate([run.decode(codes, labels), result])]
    columns = [f"a, image {numbers[0]}", f"b, image {numbers[1]}", f"c, image {numbers[2]}"]
    title = f"The sum a − b + c of three codes, decoded\n{heading(run)}"
    return Grid(rows, ["original", "reconstruction"], title, [*columns, "a − b + c"])
