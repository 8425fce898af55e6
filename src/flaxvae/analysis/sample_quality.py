"""How good samples are, beside how good real images would be.

Real images that were not trained on are cut into two random halves. Samples, as many as a half has,
are compared with the first half; so is the second half, which says what perfect samples would
score. All is done anew for several cuts, with new samples for each: means and standard deviations
are over these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from flaxvae.analysis import quality
from flaxvae.analysis.features import Seen
from flaxvae.declared import Positive, Seed, typed
from flaxvae.errors import UsageError, counted

Array = np.ndarray
Draw = Callable[[int, int], Seen]  # (n, seed) -> n samples, as the network sees them

CUTS = 5
CERTAIN = 0.9


class Quality(NamedTuple):
    """Samples beside real images; in the features of another network the numbers are others."""

    distance: float  # Fréchet, in the unit of the features, squared
    precision: float
    recall: float
    density: float
    coverage: float
    # Of a classifier; else None.
    imbalance: float | None  # total variation between the shares of the classes, 0 to 1
    certain: float | None  # the part of the samples of which a class is more probable than CERTAIN


class Measured(NamedTuple):
    """What is found for each cut."""

    half: int  # real images in a half, and samples
    halves: list[Quality]  # the second half beside the first
    samples: dict[str, list[Quality]]
    shares: dict[str, Array]  # [classes] of all real images, ``""``, and of samples; {} without


def compare(real: Seen, other: Seen, k: int = 5) -> Quality:
    """Samples, or real images, beside real images: see ``quality`` for all but the last two.

    The imbalance is 1/2 sum_c |share of class c among the others - share among the real images|,
    each image counted in its most probable class.
    """
    distance = quality.frechet_distance(real.features, other.features)
    around = quality.neighbours(real.features, other.features, k)
    if real.probabilities is None or other.probabilities is None:
        return Quality(distance, *around, None, None)
    apart = np.abs(shares(other.probabilities) - shares(real.probabilities)).sum() / 2
    certain = (other.probabilities.max(-1) > CERTAIN).mean()
    return Quality(distance, *around, float(apart), float(certain))


def shares(probabilities: Array) -> Array:
    """[classes] the part of the images [N, classes] that are most probably of each class."""
    counts = np.bincount(probabilities.argmax(-1), minlength=probabilities.shape[-1])
    return counts / len(probabilities)


@typed
def measure(
    real: Seen,
    draws: Mapping[str, Draw],
    *,
    half: Positive,
    k: Positive = 5,
    cuts: Positive = CUTS,
    seed: Seed = 0,
    watch: Callable[[int, int], None] | None = None,
) -> Measured:
    """Compare samples of each kind with real images.

    Args:
        real: N real images, as a network sees them.
        draws: samples of each kind, by its name.
        half: real images in a half, and samples beside it; at most N / 2.
        k: neighbours that a ball around an image reaches to.
        cuts: how often images are cut into halves, and samples drawn.
        seed: decides the halves and the samples.
        watch: is told how many samples are compared, of how many.

    Raises:
        UsageError: too few real images.
    """
    count = len(real.features)
    if half <= k or 2 * half > count:
        raise UsageError(
            f"{counted(count, 'real image')} in halves of {half:,}: expected more than k = {k} in "
            f"a half, and {2 * half:,} images or more"
        )
    found = Measured(half, [], {name: [] for name in draws}, {})
    seen: dict[str, list[Array]] = {name: [] for name in draws}
    seeds = np.random.SeedSequence(seed).generate_state(cuts).tolist()
    for i, own in enumerate(seeds):
        order = np.random.default_rng(own).permutation(count)
        first, second = _some(real, order[:half]), _some(real, order[half : 2 * half])
        found.halves.append(compare(first, second, k))
        for j, (name, draw) in enumerate(draws.items(), 1):
            samples = draw(half, own)
            found.samples[name].append(compare(first, samples, k))
            if samples.probabilities is not None:
                seen[name].append(shares(samples.probabilities))
            if watch is not None:
                watch((i * len(draws) + j) * half, cuts * len(draws) * half)
    if real.probabilities is not None:
        found.shares[""] = shares(real.probabilities)
        found.shares.update({name: np.mean(each, 0) for name, each in seen.items()})
    return found


def _some(images: Seen, rows: Array) -> Seen:
    given = images.probabilities
    return Seen(images.features[rows], None if given is None else given[rows])


class Figure(NamedTuple):
    """A number over several cuts."""

    mean: float
    spread: float | None  # standard deviation; None of one cut


def figures(found: list[Quality]) -> dict[str, Figure]:
    """Each number that there is, by its name in ``Quality``."""
    columns = zip(Quality._fields, zip(*found, strict=True), strict=True)
    return {
        name: Figure(float(np.mean(x)), float(np.std(x, ddof=1)) if len(x) > 1 else None)
        for name, x in columns
        if x[0] is not None
    }
