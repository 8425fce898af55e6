"""How often an added attribute appears, and how often others change with it.

A judge reads attributes of decoded images: a classifier that never saw the model, or a measurement.
It reads the reconstruction at each code, and the image decoded after a step along the attribute's
vector (``attributes``). Of the images that are read as without the attribute before the step,

    wanted    the share that are read as with it afterwards
    unwanted  for each other attribute, the share of which it is read differently afterwards

A step against the vector has a negative strength; it is to take the attribute away from the images
that have it. A random direction of the same length says how much of this is due to any step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from flaxvae.errors import UsageError

Array = np.ndarray
Readings = Mapping[str, Array]  # of each attribute by its name, [N]: whether, or which value


class Changed(NamedTuple):
    """Fractions of ``images``."""

    images: int  # without the attribute before: all that could change
    wanted: float  # nan if there are none
    unwanted: dict[str, float]  # of each other attribute

    @property
    def unwanted_mean(self) -> float:
        """Over the other attributes; nan if there are none."""
        return float(np.mean(list(self.unwanted.values()))) if self.unwanted else float("nan")


def changed(
    before: Readings, after: Readings, name: str, *, gained: bool = True, value_of: str = ""
) -> Changed:
    """What changes between readings of the same images.

    Args:
        before, after: of every attribute, in the same images; those of ``name`` are bool [N].
        name: the attribute that was added.
        gained: False: it was taken away.
        value_of: the reading of which the attribute is one value, as 7 is of the digit. To get
            another value instead is unwanted; of an attribute that is taken away it is not counted.

    Raises:
        UsageError: readings of other attributes, or of other numbers of images.
    """
    shapes = {key: np.shape(values) for key, values in before.items()}
    if shapes != {key: np.shape(values) for key, values in after.items()} or name not in before:
        raise UsageError(
            f"readings of {', '.join(before)} and of {', '.join(after)}: expected the same, of the "
            f"same images, and {name} among them"
        )
    candidates = np.asarray(before[name], bool) != gained
    got = np.asarray(after[name], bool) == gained
    differ = {
        key: (np.asarray(after[key]) != values) & ~(got & (key == value_of))
        for key, values in before.items()
        if key != name and (gained or key != value_of)
    }

    def rate(which: Array) -> float:
        return float(which[candidates].mean()) if candidates.any() else float("nan")

    unwanted = {key: rate(which) for key, which in differ.items()}
    return Changed(int(candidates.sum()), rate(got), unwanted)


def random_direction(like: Array, seed: int) -> Array:
    """A direction [D] as long as ``like`` [D], uniform over all of them."""
    drawn = np.random.default_rng(seed).standard_normal(len(like))
    return drawn * np.linalg.norm(like) / np.linalg.norm(drawn)
