"""Attributes added to the codes of images, and a - b + c, as figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from flaxvae.analysis import attributes, changes
from flaxvae.analysis.changes import Readings
from flaxvae.data import pipeline
from flaxvae.data.dataset import taken
from flaxvae.data.pipeline import Split
from flaxvae.recipe import DataSpec
from flaxvae.report import tables
from flaxvae.report.shown import Grid, first
from flaxvae.report.words import heading, value
from flaxvae.runs.attributes import has
from flaxvae.runs.judges import Judge
from flaxvae.runs.run import Run

Array = np.ndarray
JUDGED = 1000  # images at most


def named(run: Run, train: Split, name: str) -> Array:
    """The vector of an attribute that labels or factors of the training images say, [D]."""
    having, lacking = has(run.spec, train, name)
    split = pipeline.binarized(train, run.binarization, fold=0)
    rows = np.flatnonzero(having | lacking)
    return attributes.vector(run.encode(taken(split, rows)), having[rows], name)


def halves(spec: DataSpec, name: str) -> str:
    """Which values of a factor are set against which, if that is what an attribute means; or ""."""
    count = dict(spec.factors).get(name)
    if count is None or name in map(str, spec.names):
        return ""
    return f"{name} {(count + 1) // 2} to {count - 1} against 0 to {count // 2 - 1}"


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
    names = ["original", *map(_signed, strengths)]
    left = np.linalg.norm(direction) / np.linalg.norm(own)
    beside = f", orthogonal to {value(tuple(against))}: {100 * left:.0f} % of its length"
    title = f"Codes plus a number of times the vector of {called}" + beside * bool(others)
    return Grid(rows, names, f"{title}\n{heading(run)}")


def judged(
    run: Run,
    split: Split,
    judge: Judge,
    called: str,
    direction: Array,
    strengths: Sequence[float],
) -> list[str]:
    """A table of what a judge sees change, a line for each strength but 0.

    Images are means of p(x|z), clipped to [0, 1]; of binary data draws, since means are grey.
    """
    some = first(split, JUDGED)
    codes = run.encode(some)

    def read(codes: Array) -> Readings:
        images = run.decode(codes, some.y, draw_pixels=run.spec.binary)
        return judge.read(np.clip(images, 0, 1).astype(np.float32))

    before, rows = read(codes), []
    others = [name for name in before if name != called]
    for strength in strengths:
        if not strength:
            continue
        after, gained = read(codes + np.float32(strength * direction)), strength > 0
        how: dict[str, Any] = {"gained": gained, "value_of": judge.value_of}
        one = changes.changed(before, after, called, **how)
        rates = [one.wanted, *(one.unwanted.get(name, math.nan) for name in others)]
        rows.append([_signed(strength), f"{one.images:,}", *map(_percent, rates)])
    names = [f"another {name}" if name == judge.value_of else name for name in others]
    accuracy = ", ".join(f"{name} {_percent(found)}" for name, found in judge.accuracy.items())
    what = f"judged by classifiers of the training images, in {len(codes):,} decoded images"
    return [
        what,
        *[f"right on test images: {accuracy}"] * bool(accuracy),
        f"changed, of the images without {called} (at strengths below 0: with it):",
        *tables.columns(["strength", "images", "wanted", *names], rows, left=()),
    ]


def _percent(rate: float) -> str:
    return "-" if math.isnan(rate) else f"{100 * rate:.1f} %"


def _signed(strength: float) -> str:
    return f"{strength:+g}".replace("-", "−") if strength else "0"


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
