"""What scores say of images, in lines of text, and a picture of the pixels that cost most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import jax
import numpy as np

from flaxvae.analysis.anomaly import detection, pixels
from flaxvae.data.dataset import taken
from flaxvae.data.pipeline import Split
from flaxvae.devices import batches
from flaxvae.report import shown
from flaxvae.report.words import heading
from flaxvae.runs.run import Run
from flaxvae.settings import AnomalyScore

Array = np.ndarray

WORST = 8  # images in the picture
LONGEST = 14  # characters of a name in the picture
COLUMNS = ("images", "AUROC", "AUPRC", "F1")


def by_class(scores: Array, flags: Array | None, y: Array, anomalous: Array) -> list[str]:
    """How well one score tells each class of anomalies from the normal images; the last line: all.

    Args:
        scores, y, anomalous: [N] of each image.
        flags: [N] which are flagged; None: no threshold.
    """
    rows = {}
    if len(classes := np.unique(y[anomalous])) > 1:
        for name in classes:
            some = ~anomalous | (y == name)
            rows[str(name)] = _measures(scores, flags, anomalous, some)
    else:
        rows = {str(classes[0]): _measures(scores, flags, anomalous)}
    if len(classes) > 1:
        rows["all of these"] = _measures(scores, flags, anomalous)
    return _table("anomalies", rows)


def by_score(
    scores: Mapping[AnomalyScore, Array],
    flags: Mapping[AnomalyScore, Array | None],
    anomalous: Array,
) -> list[str]:
    """How well each score tells all anomalies from the normal images."""
    rows = {str(name): _measures(x, flags[name], anomalous) for name, x in scores.items()}
    return _table("score", rows)


def _measures(
    scores: Array, flags: Array | None, anomalous: Array, some: Array | None = None
) -> tuple[str, ...]:
    some = np.ones(len(scores), bool) if some is None else some
    scores, anomalous = scores[some], anomalous[some]
    numbers = [detection.auroc(scores, anomalous), detection.auprc(scores, anomalous)]
    texts = [f"{number:.3f}" for number in numbers]
    f1 = "-" if flags is None else f"{detection.f1(flags[some], anomalous):.3f}"
    return (f"{anomalous.sum():,}", *texts, f1)


def _table(first: str, rows: Mapping[str, Sequence[str]]) -> list[str]:
    width = min(max(map(len, (first, *rows))), 40)
    lines: dict[str, Sequence[str]] = {first: COLUMNS, **rows}
    return [
        "  ".join([name[:40].ljust(width), *(cell.rjust(7) for cell in cells)])
        for name, cells in lines.items()
    ]


def picture(
    run: Run, split: Split, order: Array, names: Sequence[Any], what: str
) -> dict[str, Any]:
    """The most unusual images, their reconstructions, and -log p(x|z) of each pixel as colours.

    Arguments of ``plots.image_grid``.

    Args:
        run: the model.
        split: the images.
        order: [N] their numbers, the most unusual first.
        names: [N] what they are called.
        what: the score, in words.
    """
    some = order[:WORST]
    worst = taken(split, some)
    function = batches.over_split(pixels.heat(run.recipe.model), run.mesh, base=8)
    found = function(run.split(worst), run.variables, jax.random.key(0))
    costs = found["costs"]
    low, high = float(costs.min()), float(costs.max())
    rows = [shown.pixels(worst, slice(None)), found["mean"], hot((costs - low) / (high - low or 1))]
    label = f"-log p(x|z) of each pixel, black {low:.2f} to white {high:.2f} nats"
    title = f"The pixels that cost most in the most unusual images, by {what}".replace("-", "−")
    return {
        "rows": rows,
        "labels": ["image", "reconstruction", label.replace("-", "−")],
        "columns": [_short(names[i]) for i in some],
        "title": f"{title}\n{heading(run)}",
    }


def hot(values: Array) -> Array:
    """Numbers from 0 to 1 as colours from black over red and yellow to white: [...] -> [..., 3]."""
    return np.clip(3 * values[..., None] - np.arange(3), 0, 1)


def _short(name: Any) -> str:
    text = PurePath(str(name)).name
    return text if len(text) <= LONGEST else "…" + text[1 - LONGEST :]
