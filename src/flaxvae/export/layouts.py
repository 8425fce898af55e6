"""Where a Flax layer's arrays go in PyTorch's layers, and back.

| layer                 | Flax                   | PyTorch                |
|-----------------------|------------------------|------------------------|
| Dense                 | [inputs, outputs]      | [outputs, inputs]      |
| convolution           | [k, k, inputs, outputs]| [outputs, inputs, k, k]|
| transposed convolution| [k, k, outputs, inputs]| [inputs, outputs, k, k]|

Flax's maps are flattened in the order height, width, channels, PyTorch's in the order channels,
height, width: the Dense layers beside them have their inputs or outputs in another order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

Map = tuple[int, ...]  # [height, width, channels], or [features]


class Layer(NamedTuple):
    """A layer with a kernel and a bias: where it is, and how it lies."""

    path: tuple[str, ...]  # in params
    convolution: bool = False
    inputs: Map | None = None  # what its inputs are, flattened
    outputs: Map | None = None
    labels: int = 0  # further inputs after those: the label, one-hot


class Layers(NamedTuple):
    """The layers of a model with one vector of latents, in the order of the data's way."""

    encoder: list[Layer]
    heads: list[Layer]
    decoder: list[Layer]


def layers(
    net: str,
    shape: Map,
    values: int,
    widths: Sequence[int],
    channels: Sequence[int],
    blocks: int,
    heads: Sequence[str] = ("mean", "log_var"),
    labels: int = 0,
) -> Layers:
    """Those of ``networks.mlp``, or ``image_networks.conv`` and ``resnet``, with these settings."""
    raw = (*shape[:-1], values)
    ends = [Layer(("encoder", "heads", name)) for name in heads]
    if net == "mlp":
        names = [f"Dense_{i}" for i in range(len(widths))]
        into = [Layer(("encoder", "body", name)) for name in names]
        back = [Layer(("decoder", "body", name)) for name in names]
        if names:
            into[0] = into[0]._replace(inputs=shape, labels=labels)
        else:  # a linear model
            ends = [each._replace(inputs=shape, labels=labels) for each in ends]
        return Layers(into, ends, [*back, Layer(("decoder", "out"), outputs=raw)])
    smallest = (*small(shape, len(channels)), channels[-1])
    stem = net == "resnet"
    blocks = blocks if stem else 0

    def block(side: str, i: int) -> list[Layer]:
        at = [(side, f"block_{i}_{j}", f"conv_{k}") for j in range(blocks) for k in range(2)]
        return [Layer(path, convolution=True) for path in at]

    def one(side: str, name: str) -> Layer:
        return Layer((side, name), convolution=True)

    into = [one("encoder", "stem")] if stem else []
    for i in range(len(channels)):
        into += [one("encoder", f"conv_{i}"), *block("encoder", i)]
    into.append(Layer(("encoder", "dense"), inputs=smallest, labels=labels))
    back = [Layer(("decoder", "dense_0")), Layer(("decoder", "dense_1"), outputs=smallest)]
    for i in reversed(range(len(channels))):
        back += [*block("decoder", i), one("decoder", f"conv_{i}")]
    return Layers(into, ends, back + ([one("decoder", "stem")] if stem else []))


def small(shape: Map, halvings: int) -> tuple[int, int]:
    """Height and width after some halvings, rounded up."""
    height, width = shape[:2]
    for _ in range(halvings):
        height, width = -(-height // 2), -(-width // 2)
    return height, width


def to_torch(layer: Layer, params: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Weight and bias as PyTorch has them."""
    at: Any = params
    for name in layer.path:
        at = at[name]
    kernel, bias = np.asarray(at["kernel"]), np.asarray(at["bias"])
    if layer.convolution:
        return kernel.transpose(3, 2, 0, 1), bias
    if layer.inputs is not None:
        order = _order(layer.inputs)
        kernel = kernel[[*order, *range(len(order), len(order) + layer.labels)]]
    if layer.outputs is not None:
        kernel, bias = kernel[:, _order(layer.outputs)], bias[_order(layer.outputs)]
    return kernel.T, bias


def from_torch(layer: Layer, weight: np.ndarray, bias: np.ndarray) -> dict[str, np.ndarray]:
    """The inverse: kernel and bias as Flax has them. Raises ValueError for another size."""
    for of, size in ((layer.inputs, weight.shape[1]), (layer.outputs, weight.shape[0])):
        if of is not None and math.prod(of) != size:
            raise ValueError(f"{size} features: expected {math.prod(of)}")
    if layer.convolution:
        return {"kernel": weight.transpose(2, 3, 1, 0), "bias": bias}
    kernel = weight.T
    if layer.inputs is not None:
        kernel = kernel[np.argsort(_order(layer.inputs))]
    if layer.outputs is not None:
        back = np.argsort(_order(layer.outputs))
        kernel, bias = kernel[:, back], bias[back]
    return {"kernel": kernel, "bias": bias}


def _order(of: Map) -> np.ndarray:
    """Which of Flax's features each of PyTorch's is."""
    return np.moveaxis(np.arange(math.prod(of)).reshape(of), -1, 0).ravel()
