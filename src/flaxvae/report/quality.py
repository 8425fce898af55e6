"""The quality of samples in a terminal and in quality.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flaxvae.analysis import features, sample_quality
from flaxvae.analysis.sample_quality import CERTAIN, Figure
from flaxvae.report import shown
from flaxvae.runs.quality import SampleQuality
from flaxvae.runs.run import Run

HEADS = {
    "distance": "Fréchet",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "certain": "certain",
}
NAMES = {"": "test images", "own": "own prior", "fitted": "fitted prior"}
FEW = 5  # images for each feature: of fewer, the Fréchet distance is biased upwards
FIRST, WIDTH, MOST = 14, 11, 10  # of columns; classes that a table has room for
UNITS = (
    "distance: the features' unit, squared, of no meaning in other features; all others: parts of "
    "images, but for density, which can be above 1"
)


def facts(run: Run, found: SampleQuality) -> dict[str, str]:
    """What was compared with what, as text."""
    measured, of = found.measured, f"the {found.split} images"
    what = "draws from" if found.drawn else "means of"
    said = {
        "samples": f"{measured.half:,}, {what} p(x|z), beside as many of {of}",
        "features": "of a random network",
    }
    if found.network == "classifier":
        right = "" if found.accuracy is None else f", right for {100 * found.accuracy:.1f} % of "
        said["features"] = "of a classifier of the training images"
        said["features"] += right + of * bool(right)
    if "fitted" in measured.samples:
        said[NAMES["fitted"]] = shown.prior_called(run).removeprefix("the ")
    if not run.recipe.has_bound:
        said[NAMES["own"]] = f"an autoencoder has none: {shown.prior_called(run, 'own')}"
    said["halves"] = f"one half of {of} beside the other: what perfect samples would score"
    cuts = len(measured.halves)
    if cuts > 1:
        said["±"] = (
            f"standard deviation over {cuts} cuts of the same images into halves, with new samples "
            "for each"
        )
    if measured.half < FEW * features.SIZE:
        said["few images"] = (
            f"{measured.half:,} in a half, fewer than {FEW} for each of the {features.SIZE} "
            "features: Fréchet distances are too large, those of the halves too"
        )
    if measured.shares:
        said["certain"] = f"parts read as some class with a probability above {CERTAIN:g}"
        apart = {name: each["imbalance"] for name, each in _all(found).items()}
        told = [f"{_title(name)} {_number(each, 3)}" for name, each in apart.items()]
        said["imbalance"] = f"of classes, 0 to 1: {', '.join(told)}"
    return said


def lines(found: SampleQuality) -> list[str]:
    """A table of all numbers."""
    every = _all(found)
    names = [name for name in HEADS if name in every["halves"]]
    table = [" " * FIRST + "".join(HEADS[name].rjust(WIDTH) for name in names)]
    for title, each in every.items():
        cells = [_number(each[name], 3 if name == "distance" else 2) for name in names]
        table.append(_title(title).ljust(FIRST) + "".join(cell.rjust(WIDTH) for cell in cells))
    return table


def classes(found: SampleQuality, names: Sequence[int | str]) -> list[str]:
    """A table of the shares of the classes, in per cent; none where it has no room for them."""
    shares = found.measured.shares
    if not shares or len(shares[""]) > MOST:
        return []
    called = [str(name)[:5] for name in names[: len(shares[""])]]
    table = ["% of class".ljust(FIRST) + "".join(name.rjust(6) for name in called)]
    for name, each in shares.items():
        title = f"{found.split} images" if not name else NAMES[name]
        table.append(title.ljust(FIRST) + "".join(f"{100 * x:6.1f}" for x in each))
    return table


def as_json(found: SampleQuality) -> dict[str, Any]:
    """What quality.json says."""
    measured = found.measured
    about: dict[str, Any] = {
        "images": found.images,
        "split": found.split,
        "half": measured.half,
        "cuts": len(measured.halves),
        "features": found.network,
        "drawn_pixels": found.drawn,
        "units": UNITS,
    }
    if found.accuracy is not None:
        about["accuracy"] = found.accuracy
    about |= {
        name: {what: each._asdict() for what, each in figures.items()}
        for name, figures in _all(found).items()
    }
    shares = {name or found.split: each.tolist() for name, each in measured.shares.items()}
    return about | ({"classes": shares} if shares else {})


def _all(found: SampleQuality) -> Mapping[str, Mapping[str, Figure]]:
    """The numbers of the halves, then of the samples by their prior."""
    kinds = {"halves": found.measured.halves, **found.measured.samples}
    return {name: sample_quality.figures(each) for name, each in kinds.items()}


def _title(name: str) -> str:
    return NAMES.get(name, name)


def _number(figure: Figure, digits: int) -> str:
    """Mean ± spread: two decimals, or of numbers of any size so many digits."""
    places = 2
    if digits != 2:
        size = int(np.floor(np.log10(abs(figure.mean) or 1.0)))
        places = min(max(digits - 1 - size, 0), 3)
    error = "" if figure.spread is None else f"±{figure.spread:.{places}f}"
    return f"{figure.mean:.{places}f}{error}"
