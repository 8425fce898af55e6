"""What the data decide where nobody else has: likelihood, network and number of epochs.

Whatever is ``auto`` (or None, or empty) is chosen here and nowhere else, from the description of
the data alone, and written down as chosen. ``experiments/choosing.py`` has the measurements.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from flaxvae.recipe import DataSpec
from flaxvae.settings import Body

AUTO = "auto"
OPEN: Mapping[str, Any] = {"likelihood": AUTO, "net": AUTO, "channels": (), "epochs": None}
# Fraction of values from 1/4 to 3/4, above which pixels are not just rounded or blurred zeros and
# ones: 0.05 of MNIST, 0.17 of digits; 0.62 of CIFAR-10, 0.74 of the Frey faces.
GREY = 1 / 3
PASSES = (500, 200, 100, 50, 20, 10, 5, 2)
SEEN = 1_500_000  # training images at most, each as often as it is seen, but for two epochs


class Choice(NamedTuple):
    """A value, and what it was chosen for."""

    value: Any
    why: str


class ByData(NamedTuple):
    """A recipe's own setting that the data decide where it is None or empty: a part of its type."""

    choose: Callable[[DataSpec], Choice]


def likelihood(data: DataSpec) -> Choice:
    """One that is a probability of discrete data; of what is nearly binary, a cross-entropy."""
    levels, grey = data.levels or 0, data.grey
    colour = len(data.shape) == 3 and data.shape[-1] > 2
    if data.binary or levels == 2:
        return Choice("bernoulli", "binary data")
    if data.kind == "table":
        return Choice("gaussian", "a table")
    if data.factors:
        return Choice("bernoulli", "drawn images")
    if grey is None:  # described by hand
        grey = 1.0 if colour and levels else 0.0
    if grey < GREY:
        return Choice("bernoulli", f"nearly binary {data.kind}")
    what = "colour" if colour else "grey"
    if not levels:
        return Choice("gaussian_shared", f"{what} images of any numbers in [0, 1]")
    depth = f"{levels}-level" if levels & (levels - 1) else f"{levels.bit_length() - 1}-bit"
    return Choice("discretized_logistic", f"{depth} {what} photographs")


def net(data: DataSpec) -> Choice:
    """Of vectors a fully connected network, of images a convolutional one."""
    if len(data.shape) != 3:
        return Choice("mlp", "vectors")
    return Choice("conv", "images")


def channels(data: DataSpec) -> Choice:
    """Of a resnet: a halving more for each doubling of the image, down to maps of 8 pixels."""
    side, found = max(data.shape[:2]), [32, 64]
    while side > 8 << len(found):
        found.append(64)
    return Choice(tuple(found), f"images of {side} pixels")


def epochs(data: DataSpec) -> Choice:
    """Fewer of more images: 500 of up to 3,000, 20 of up to 75,000."""
    passes = next((n for n in PASSES if n * data.examples <= SEEN), PASSES[-1])
    return Choice(passes, f"{data.examples:,} images")


_CHOOSE = {"likelihood": likelihood, "net": net, "channels": channels, "epochs": epochs}


def is_open(settings: Mapping[str, Any], name: str) -> bool:
    """Whether this setting is there and left to the data."""
    return name in OPEN and name in settings and settings[name] == OPEN[name]


def chosen(settings: Mapping[str, Any], data: DataSpec) -> dict[str, Choice]:
    """What is chosen for the settings that are open, by name; channels only of a resnet."""
    found = {name: choose(data) for name, choose in _CHOOSE.items() if is_open(settings, name)}
    used = found["net"].value if "net" in found else settings.get("net")
    if used != "resnet":
        found.pop("channels", None)
    return found


def body(data: DataSpec, given: Body) -> Body:
    """Networks and likelihood, with those that were open chosen."""
    return dataclasses.replace(given, **{k: x.value for k, x in chosen(vars(given), data).items()})


def settled(settings: Mapping[str, Any], data: DataSpec) -> dict[str, Any]:
    """These settings, with those that were open chosen."""
    return {**settings, **{name: x.value for name, x in chosen(settings, data).items()}}
