"""What a comparison shows of each run: numbers of the same images, and pictures.

Noise is that of an image, not of a model (``Trained.score``): of two models with as many latent
dimensions, an image's z is drawn with the same standard normal numbers. That takes noise from their
difference and leaves its mean as it is.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from flaxvae.data.dataset import taken
from flaxvae.data.pipeline import Split
from flaxvae.devices import batches
from flaxvae.report import shown
from flaxvae.runs.run import Run

Array = np.ndarray
RECONSTRUCTED, DRAWN, WALKS, STEPS = 10, 10, 3, 9  # images, samples, walks and their steps


class Measured(NamedTuple):
    """A run on the test images that all are compared on, in one order."""

    kind: tuple[bool, str, bool]  # what ``bound`` bounds: only equal ones can be compared
    bound: Array | None  # [N] -ELBO in nats, of one draw of z; None: no bound
    mse: Array  # [N] squared error of the reconstruction from the code, averaged over pixels


class Pictures(NamedTuple):
    """The same images through one run; None where it has no such picture."""

    reconstructions: Array | None  # [N, *shape]
    samples: Array | None  # [N, *shape]
    walks: Array | None  # [W, steps, *shape] between the codes of the same pairs of images


def measure(run: Run, test: Split, seed: int = 0, watch: batches.Watch | None = None) -> Measured:
    """The numbers of a run on images."""
    recipe = run.recipe
    kind = (recipe.has_bound, recipe.log_px, recipe.classes is not None)
    bound = run.score(test, samples=1, seed=seed, watch=watch) if recipe.has_bound else None
    decoded = run.reconstruct(test)
    if run.columns is not None:  # a table's errors are those of standardised values
        decoded = run.columns.standardized(decoded)
    error = np.square(decoded - shown.pixels(test, slice(None)))
    return Measured(kind, bound, error.reshape(len(error), -1).mean(-1))


def pictures(run: Run, test: Split | None, ends: Split | None, seed: int = 0) -> Pictures:
    """The pictures of a run.

    Args:
        run: of images; of a table there are none.
        test: the images that all are compared on; None if they are not of the run's data.
        ends: pairs of such images, one after the other, to walk between.
        seed: decides the samples.
    """
    if run.spec.kind == "table":
        return Pictures(None, None, None)
    reconstructed = walks = None
    if test is not None:
        reconstructed = run.reconstruct(shown.first(test, RECONSTRUCTED))
    if ends is not None and len(ends.x):
        places = np.arange(len(ends.x))
        start, end = (taken(ends, places[first::2]) for first in (0, 1))
        walks = run.interpolate(start, end, steps=STEPS)
    drawn = run.sample(DRAWN, seed=seed, prior="own") if run.generates else None
    return Pictures(reconstructed, drawn, walks)
