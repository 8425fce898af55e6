"""Networks: an encoder body (data -> features) and a decoder body (latents -> raw values).

A network knows neither what its encoder's heads mean (``latents`` decides) nor what its decoder's
values mean (``likelihoods`` decides). Labels, where given, enter as one-hot vectors: appended to
the features of a convolution and to the input of an MLP.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxvae.parts import convolutions

Array = jax.Array

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": nn.relu,
    "tanh": nn.tanh,
    "gelu": nn.gelu,
    "silu": nn.silu,
    "elu": nn.elu,
}


def _kernel(in_axis: int = -2, out_axis: int = -1) -> nn.initializers.Initializer:
    """Uniform with variance 1 / (3 fan-in), as in the tutorials (PyTorch's default).

    784-500-20 on MNIST ends its 10th epoch 0.6 nats lower than from a variance of 1 / fan-in.
    """
    return nn.initializers.variance_scaling(
        1 / 3, "fan_in", "uniform", in_axis=in_axis, out_axis=out_axis
    )


Dense = functools.partial(nn.Dense, kernel_init=_kernel())


class Network(NamedTuple):
    """Both halves, as Flax modules with the call signatures below."""

    encoder: nn.Module  # (x [B, *data], labels [B, C] or None) -> {head: [B, size]}
    decoder: nn.Module  # (z [B, D], labels [B, C] or None) -> [B, *data, values]


def _append(x: Array, labels: Array | None) -> Array:
    return x if labels is None else jnp.concatenate([x, labels], axis=-1)


class Heads(nn.Module):
    """One Dense layer for each named head: [B, F] -> {name: [B, size]}."""

    sizes: Mapping[str, int]

    @nn.compact
    def __call__(self, x):
        return {name: Dense(size, name=name)(x) for name, size in self.sizes.items()}


class Mlp(nn.Module):
    """Dense layers, each followed by the activation: [B, F] -> [B, widths[-1]]."""

    widths: tuple[int, ...]
    activation: str

    @nn.compact
    def __call__(self, x):
        for width in self.widths:
            x = ACTIVATIONS[self.activation](Dense(width)(x))
        return x


class MlpEncoder(nn.Module):
    widths: tuple[int, ...]
    activation: str
    heads: Mapping[str, int]

    @nn.compact
    def __call__(self, x, labels=None):
        x = _append(x.reshape(x.shape[0], -1), labels)
        return Heads(self.heads, name="heads")(Mlp(self.widths, self.activation, name="body")(x))


class MlpDecoder(nn.Module):
    widths: tuple[int, ...]
    activation: str
    shape: tuple[int, ...]
    values: int

    @nn.compact
    def __call__(self, z, labels=None):
        x = Mlp(self.widths, self.activation, name="body")(_append(z, labels))
        x = Dense(math.prod(self.shape) * self.values, name="out")(x)
        return x.reshape(x.shape[0], *self.shape, self.values)


class Conv(nn.Module):
    """3x3 convolution of stride 2 in the layout of ``convolutions.lowering()``."""

    channels: int
    inputs: int

    @nn.compact
    def __call__(self, lowering, x):
        kernel = self.param("kernel", _kernel(), (3, 3, self.inputs, self.channels))
        bias = self.param("bias", nn.initializers.zeros, (self.channels,))
        return lowering.conv(x, kernel, bias, 2)


class ConvTranspose(nn.Module):
    """The transpose: each small pixel adds a 3x3 stamp to an image of the given size."""

    channels: int
    inputs: int
    size: tuple[int, int]

    @nn.compact
    def __call__(self, lowering, x):
        # Kernels are stored as those of the convolution they transpose, [3, 3, large, small].
        kernel = self.param("kernel", _kernel(-1, -2), (3, 3, self.channels, self.inputs))
        bias = self.param("bias", nn.initializers.zeros, (self.channels,))
        return lowering.conv_transpose(x, kernel, bias, 2, self.size)


class ConvEncoder(nn.Module):
    """Conv 32, relu, Conv 64, relu (3x3, stride 2, padding 1), Dense 256, relu, heads."""

    channels: tuple[int, ...]
    width: int
    heads: Mapping[str, int]

    @nn.compact
    def __call__(self, x, labels=None):
        lowering = convolutions.lowering()
        inputs, x = x.shape[-1], lowering.enter(x)
        for i, channels in enumerate(self.channels):
            x = nn.relu(Conv(channels, inputs, name=f"conv_{i}")(lowering, x))
            inputs = channels
        x = lowering.leave(x)
        x = _append(x.reshape(x.shape[0], -1), labels)
        x = nn.relu(Dense(self.width, name="dense")(x))
        return Heads(self.heads, name="heads")(x)


class ConvDecoder(nn.Module):
    """Dense 256, relu, Dense 7*7*64, relu, ConvTranspose 32, relu, ConvTranspose to the image."""

    channels: tuple[int, ...]  # as in the encoder: (32, 64)
    width: int
    shape: tuple[int, int, int]
    values: int

    @nn.compact
    def __call__(self, z, labels=None):
        lowering = convolutions.lowering()
        sizes = [self.shape[:2]]
        for _ in self.channels:
            sizes.append(convolutions.small_size(sizes[-1], 2))
        x = nn.relu(Dense(self.width, name="dense_0")(_append(z, labels)))
        smallest = (*sizes[-1], self.channels[-1])
        x = nn.relu(Dense(math.prod(smallest), name="dense_1")(x))
        x = lowering.enter(x.reshape(-1, *smallest))
        outputs = (self.shape[-1] * self.values, *self.channels[:-1])
        for i in reversed(range(len(self.channels))):
            layer = ConvTranspose(outputs[i], self.channels[i], sizes[i], name=f"conv_{i}")
            x = layer(lowering, x)
            x = nn.relu(x) if i else x
        x = lowering.leave(x)
        return x.reshape(x.shape[0], *self.shape, self.values)


def mlp(
    data_shape: tuple[int, ...],
    heads: Mapping[str, int],
    values: int,
    widths: tuple[int, ...] = (512, 256),
    activation: str = "relu",
) -> Network:
    """Fully connected encoder of the given widths, and its mirror image as decoder.

    Args:
        data_shape: shape of one example.
        heads: sizes of the encoder's outputs, by name.
        values: numbers the decoder gives for every number of an example.
        widths: hidden layers of the encoder, from the data inwards; () is a linear model.
        activation: one of ACTIVATIONS.
    """
    return Network(
        MlpEncoder(widths, activation, heads),
        MlpDecoder(widths[::-1], activation, tuple(data_shape), values),
    )


def conv(data_shape: tuple[int, ...], heads: Mapping[str, int], values: int) -> Network:
    """The tutorials' convolutional pair, for images [H, W, C] of any size (28x28: 7x7x64 inside).

    Each convolution halves the image, rounding up; each transpose restores the size before it.
    """
    height, width, channels = data_shape
    stack, dense = (32, 64), 256
    return Network(
        ConvEncoder(stack, dense, heads),
        ConvDecoder(stack, dense, (height, width, channels), values),
    )
