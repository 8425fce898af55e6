"""The VAEs of PyTorch's tutorials, recognised by the shapes of their weights.

- fully connected: Linear layers into two heads, mean and log-variance, and back in the mirror
  image, as in pytorch/examples (784-400-20);
- convolutional: Conv2d 32 and 64, Linear 256, two heads; and back: Linear 256, Linear,
  ConvTranspose2d 32 and C, all 3x3 with stride 2 and padding 1.

The heads may be one layer with twice the outputs, mean first. A head of log sigma, by its name, is
doubled, for log sigma^2 = 2 log sigma.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from flaxvae.errors import DataError, UsageError
from flaxvae.export import layouts
from flaxvae.recipe import DataSpec

EXPECTED = "Linear layers, or Conv2d 32 and 64 with Linear 256, two heads, and the mirror image"
_STD = re.compile(r"(sigma|std)(?!_?(2|sq))", re.I)
_LOG_STD = re.compile(rf"(log|ln)_?{_STD.pattern}", re.I)
_LOG_VAR = re.compile(r"(log|ln)_?(var|sigma|std)|lv|var", re.I)


class Weights(NamedTuple):
    """A layer of PyTorch."""

    name: str
    weight: np.ndarray
    bias: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """Outputs, inputs and, of a convolution, its kernel's sides."""
        return self.weight.shape


class Found(NamedTuple):
    """A VAE: what it is in flaxvae, and its layers in the order of the data's way."""

    settings: dict[str, Any]  # of the recipe vae
    encoder: list[Weights]
    heads: tuple[Weights, Weights]  # mean and log-variance
    decoder: list[Weights]


def recognised(state: Mapping[str, np.ndarray]) -> Found:
    """What VAE a state_dict is. Raises DataError if it is another network."""
    found = _recognised(_weights(state))
    mean, spread = found.heads
    for one in found.heads:
        if _STD.search(one.name) and not (one is spread and _LOG_STD.search(one.name)):
            raise DataError(
                f"a head {one.name}, of a standard deviation by its name: expected log-variances, "
                "or log sigma; rename it to log_sigma or log_var if it gives one of these"
            )
    if _LOG_STD.search(spread.name):
        return found._replace(
            heads=(mean, spread._replace(weight=2 * spread.weight, bias=2 * spread.bias))
        )
    return found


def assumed(found: Found) -> str:
    """Which layer was taken for the mean and which for the log-variance, if no name says it."""
    mean, log_var = found.heads
    if mean.name == log_var.name:
        half = len(mean.bias)
        return f"{mean.name}: its first {half} outputs are taken as the mean, the others as log_var"
    if _LOG_STD.search(log_var.name):
        return f"{log_var.name} is taken as log sigma, so that log_var is twice what it gives"
    if bool(_LOG_VAR.search(mean.name)) != bool(_LOG_VAR.search(log_var.name)):
        return ""
    return (
        f"{mean.name} is taken as the mean and {log_var.name} as the log-variance, in their order; "
        f"if it is the other way round, rename {mean.name} to log_var in the file"
    )


def _recognised(every: Sequence[Weights]) -> Found:
    try:
        return _in_order(every)  # that of their definition
    except DataError:
        # A .safetensors may have them sorted by name.
        with contextlib.suppress(DataError):
            return _in_order(sorted(every, key=lambda one: _natural(one.name)))
        raise


def _in_order(every: Sequence[Weights]) -> Found:
    """What VAE these layers are, if they come in the order of the data's way."""
    convolutions = [one for one in every if one.weight.ndim == 4]
    before, heads, after = _parted([one for one in every if one.weight.ndim == 2])
    latent_dim = len(heads[0].bias)
    chain = [*(one.shape for one in before), heads[0].shape]
    back = [one.shape for one in after]
    chained = all(a[0] == b[1] for sizes in (chain, back) for a, b in itertools.pairwise(sizes))
    if not back or not chained or back[0][1] != latent_dim:
        raise _other([*before, *heads, *after])
    if not convolutions:
        widths = tuple(shape[0] for shape in chain[:-1])
        if widths != tuple(shape[0] for shape in back[:-1])[::-1]:
            raise _other([*before, *heads, *after])
        settings = {"net": "mlp", "widths": widths, "latent_dim": latent_dim}
        return Found(settings, before, heads, after)
    # A transposed convolution's weight has the shape of the one that it transposes: biases differ.
    into = sorted((x for x in convolutions if len(x.bias) == x.shape[0]), key=lambda x: x.shape[0])
    out = sorted((x for x in convolutions if len(x.bias) == x.shape[1]), key=lambda x: -x.shape[0])
    sides = {one.shape[2:] for one in convolutions}
    sizes = [one.shape[0] for one in [*into, *out]]
    fits = sizes == [32, 64, 64, 32] and sides == {(3, 3)}
    dense = [shape[0] for shape in chain[:-1]] == [256] == [shape[0] for shape in back[:1]]
    if not fits or not dense or len(back) != 2 or len(convolutions) != 4:
        raise _other(every)
    return Found({"net": "conv", "latent_dim": latent_dim}, [*into, *before], heads, [*after, *out])


def params(found: Found, data: DataSpec) -> dict[str, Any]:
    """The params of flaxvae's network, for these data. Raises UsageError if they do not fit it."""
    shape, settings = data.shape, found.settings
    if settings["net"] == "conv" and len(shape) != 3:
        raise UsageError(f"weights of a convolutional network on {data.name}: expected images")
    widths = settings.get("widths", ())
    layers = layouts.layers(settings["net"], shape, shape[-1], widths, (32, 64), 0)
    slots = [*layers.encoder, *layers.heads, *layers.decoder]
    given = [*found.encoder, *found.heads, *found.decoder]
    result: dict[str, Any] = {}
    for slot, one in zip(slots, given, strict=True):
        try:
            made = layouts.from_torch(slot, one.weight.astype("f4"), one.bias.astype("f4"))
        except ValueError:
            raise _misfit(one, data) from None
        at = result
        for name in slot.path:
            at = at.setdefault(name, {})
        at.update({name: np.ascontiguousarray(array) for name, array in made.items()})
    return result


def check(made: Any, like: Any, data: DataSpec) -> None:
    """Raises UsageError unless the arrays of ``made`` have the shapes of ``like``."""
    for name, layers in like.items():
        if name not in made:
            raise UsageError(f"weights without {name}: expected {EXPECTED}; see --likelihood")
        if isinstance(layers, Mapping):
            check(made[name], layers, data)
        elif made[name].shape != layers.shape:
            seen, wanted = ("x".join(map(str, x.shape)) for x in (made[name], layers))
            size = " x ".join(map(str, data.shape))
            raise UsageError(
                f"a {name} of {seen} does not fit {data.name}, {size}: expected {wanted}; give "
                "the --dataset that the weights were trained on"
            )


def _misfit(one: Weights, data: DataSpec) -> UsageError:
    size = " x ".join(map(str, data.shape))
    return UsageError(
        f"{one.name} of {'x'.join(map(str, one.shape))} does not fit {data.name}, {size}: expected "
        "weights for such images; give the --dataset that they were trained on"
    )


def _weights(state: Mapping[str, np.ndarray]) -> list[Weights]:
    """The layers, in their order."""
    found = []
    for name, array in state.items():
        stem, _, kind = name.rpartition(".")
        fits = kind in ("weight", "bias") and {f"{stem}.weight", f"{stem}.bias"} <= {*state}
        if not fits or array.dtype.kind != "f":
            raise DataError(f"weights with {name}: expected {EXPECTED}, all with biases")
        if not np.isfinite(array).all():
            raise DataError(f"{name} has values that are not finite: expected numbers")
        if kind == "weight":
            found.append(Weights(stem, array, state[f"{stem}.bias"]))
    return found


def _natural(name: str) -> list[Any]:
    """Sorts encoders before decoders, and 10 after 2."""
    parts = re.split(r"(\d+)", name)
    numbers = [(int(part), "") if part.isdigit() else (-1, part) for part in parts]
    return [bool(re.match("dec", name)), numbers]


def _parted(
    dense: Sequence[Weights],
) -> tuple[list[Weights], tuple[Weights, Weights], list[Weights]]:
    """Linear layers before the heads, the heads, mean first, and those after."""
    for i, j in itertools.combinations(range(len(dense)), 2):
        a, b = dense[i], dense[j]
        names = bool(_LOG_VAR.search(a.name)) != bool(_LOG_VAR.search(b.name))
        if a.shape == b.shape and (names or (j == i + 1 and a.shape[0] != a.shape[1])):
            rest = [one for one in dense if one is not a and one is not b]
            swapped = names and bool(_LOG_VAR.search(a.name))
            before = [one for one in rest if not re.match("dec", one.name)][:i]
            after = [one for one in rest if all(one is not each for each in before)]
            return before, (b, a) if swapped else (a, b), after
    for i, (a, b) in enumerate(itertools.pairwise(dense)):
        if a.shape[0] == 2 * b.shape[1]:  # one layer for both
            half = b.shape[1]
            mean = Weights(a.name, a.weight[:half], a.bias[:half])
            log_var = Weights(a.name, a.weight[half:], a.bias[half:])
            return [*dense[:i]], (mean, log_var), [*dense[i + 1 :]]
    raise _other(dense)


def _other(layers: Sequence[Weights]) -> DataError:
    shapes = ", ".join(f"{one.name} {'x'.join(map(str, one.shape))}" for one in layers[:8])
    return DataError(f"weights {shapes or 'without Linear layers'}: expected {EXPECTED}")
