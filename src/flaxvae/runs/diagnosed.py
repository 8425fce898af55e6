"""The diagnosis of a run: which of its images are looked at, and what is said of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from flaxvae.analysis import diagnosis
from flaxvae.analysis.diagnosis import Measured
from flaxvae.analysis.judgement import Judgement, judge
from flaxvae.data.dataset import taken
from flaxvae.data.pipeline import Data, Split
from flaxvae.devices import batches
from flaxvae.errors import UsageError

if TYPE_CHECKING:
    from flaxvae.runs.run import Run

FILE = "diagnosis.json"
IMAGES = 2000  # by default: the lower bound of I(x; z) is at most the log of this


class Diagnosis(NamedTuple):
    """What was measured of a run, and what it means, the most important first.

    Its text is one sentence a line.
    """

    images: int  # that were looked at, of the test images or
    split: str  # "validation", where the test images have anomalies among them
    measured: Measured
    judgements: list[Judgement]

    def __str__(self) -> str:
        return "\n".join(lines(self.judgements))


def lines(judgements: list[Judgement]) -> list[str]:
    """What is wrong, then what is worth knowing."""
    if not any(judgement.serious for judgement in judgements):
        well = "Nothing is wrong with it, as far as these numbers show."
        return [well, *(judgement.text for judgement in judgements)]
    order = sorted(judgements, key=lambda judgement: not judgement.serious)
    return [judgement.text for judgement in order]


def diagnose(
    run: Run, data: Data, images: int = IMAGES, seed: int = 0, watch: batches.Watch | None = None
) -> Diagnosis:
    """``Run.diagnose`` on the run's ``data``."""
    if images < 2:
        raise UsageError(f"--images {images}: expected at least 2, which are compared")

    def some(split: Split) -> Split:
        order = np.random.default_rng(seed).permutation(len(split.x))
        return run.split(taken(split, np.sort(order[:images])))

    held, name = data.test, "test"
    if run.plan.data.normal and data.validation is not None:
        held, name = data.validation, "validation"
    test = some(held)
    measured = diagnosis.measure(
        diagnosis.known(run.recipe, run.plan, run.folder.history(), None),
        run.recipe,
        run.variables,
        test,
        run.prepared(some(data.train)),
        generates=run.generates,
        seed=seed,
        mesh=run.mesh,
        watch=watch,
    )
    return Diagnosis(len(test.x), name, measured, judge(measured))
