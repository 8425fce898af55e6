"""Networks: an encoder (data -> heads) and a decoder (latents -> raw values).

A network does not know what its encoder's heads mean (``latents`` does), nor what its decoder's
values mean (``likelihoods`` does). Labels, if there are any, are one-hot vectors appended to
features. Here are the fully connected network and what all networks share; ``image_networks`` has
the convolutional ones.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

Array = jax.Array

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": nn.relu,
    "tanh": nn.tanh,
    "gelu": nn.gelu,
    "silu": nn.silu,
    "elu": nn.elu,
}


# Of an mlp's weights. Variances of 1 / fan-in and 2 / fan-in preserve the size of signals from
# layer to layer (LeCun et al. 1998, He et al. 2015). relu has the tutorials' 1 / (3 fan-in): with
# 1 / fan-in the loss on held-out MNIST images ends 0.9 nats higher for 784-500-20 with relu (10
# epochs), and as low for 784-200-200-50 with tanh (30): experiments/flax_example, iwae.
INITIAL_SCALES = {
    "relu": 1.0,
    "tanh": math.sqrt(3),
    "elu": math.sqrt(3),
    "gelu": math.sqrt(6),
    "silu": math.sqrt(6),
}


def fan_in_uniform(
    in_axis: int = -2, out_axis: int = -1, scale: float = 1.0
) -> nn.initializers.Initializer:
    """Uniform with variance scale^2 / (3 fan-in); scale 1 is PyTorch's default, as in tutorials."""
    return nn.initializers.variance_scaling(
        scale**2 / 3, "fan_in", "uniform", in_axis=in_axis, out_axis=out_axis
    )


def add_bias(x: Array, bias: Array) -> Array:
    """x + bias, computed in float32 and returned in the precision of x.

    The gradient of a bias is a sum over the batch, and over all pixels of a map. In bf16 it would
    stop growing after a few hundred terms.
    """
    return (x.astype(jnp.float32) + bias.astype(jnp.float32)).astype(x.dtype)


def affine(x: Array, kernel: Array, bias: Array) -> Array:
    """x W + b: [..., F], [F, G], [G] -> [..., G]."""
    return add_bias(x @ kernel, bias.reshape((1,) * (x.ndim - 1) + (-1,)))


class Dense(nn.Module):
    """x W + b: [..., F] -> [..., features]."""

    features: int
    kernel_init: nn.initializers.Initializer = fan_in_uniform()

    @nn.compact
    def weights(self, inputs: int) -> tuple[Array, Array]:
        """Kernel and bias, for this number of inputs."""
        kernel = self.param("kernel", self.kernel_init, (inputs, self.features))
        return kernel, self.param("bias", nn.initializers.zeros, (self.features,))

    def __call__(self, x):
        return affine(x, *self.weights(x.shape[-1]))


def _dense(activation: str) -> Callable[..., Dense]:
    """``Dense`` for a network with this activation."""
    scale = INITIAL_SCALES[activation]
    return functools.partial(Dense, kernel_init=fan_in_uniform(scale=scale))


class Network(NamedTuple):
    """Encoder and decoder, as Flax modules with the call signatures below."""

    encoder: nn.Module  # (x [B, *data], labels [B, C] or None) -> {head: [B, size]}
    decoder: nn.Module  # (z [B, D], labels [B, C] or None) -> [B, *space, values]
    grid: tuple[int, int] = (1, 1)  # height and width of the latents, [h, w, D] flattened to z
    compute: str = "float32"  # precision of both; inputs and outputs are float32


def append_labels(x: Array, labels: Array | None) -> Array:
    """Append labels [B, C] to the features of x [B, ..., F], the same at every point."""
    if labels is None:
        return x
    labels = labels.reshape(labels.shape[0], *[1] * (x.ndim - 2), labels.shape[1])
    maps = jnp.broadcast_to(labels, (*x.shape[:-1], labels.shape[-1]))
    return jnp.concatenate([x, maps], axis=-1)


class Heads(nn.Module):
    """One Dense layer for each head, computed as one product: [B, F] -> {name: [B, size]}."""

    sizes: Mapping[str, int]
    activation: str = "relu"  # before the heads

    @nn.compact
    def __call__(self, x):
        dense, inputs = _dense(self.activation), x.shape[-1]
        each = [dense(size, name=name).weights(inputs) for name, size in self.sizes.items()]
        kernel, bias = (jnp.concatenate(weights, axis=-1) for weights in zip(*each))
        ends = list(itertools.accumulate(self.sizes.values()))
        return dict(zip(self.sizes, jnp.split(affine(x, kernel, bias), ends[:-1], axis=-1)))


class Mlp(nn.Module):
    """Dense layers, each followed by the activation: [B, F] -> [B, widths[-1]]."""

    widths: tuple[int, ...]
    activation: str

    @nn.compact
    def __call__(self, x):
        for width in self.widths:
            x = ACTIVATIONS[self.activation](_dense(self.activation)(width)(x))
        return x


class MlpEncoder(nn.Module):
    widths: tuple[int, ...]
    activation: str
    heads: Mapping[str, int]

    @nn.compact
    def __call__(self, x, labels=None):
        x = append_labels(x.reshape(x.shape[0], -1), labels)
        x = Mlp(self.widths, self.activation, name="body")(x)
        return Heads(self.heads, self.activation, name="heads")(x)


class MlpDecoder(nn.Module):
    widths: tuple[int, ...]
    activation: str
    shape: tuple[int, ...]
    values: int

    @nn.compact
    def __call__(self, z, labels=None):
        x = Mlp(self.widths, self.activation, name="body")(append_labels(z, labels))
        shape = (*self.shape[:-1], self.values)
        out = _dense(self.activation)(math.prod(shape), name="out")(x)
        return out.reshape(x.shape[0], *shape)


def mlp(
    data_shape: tuple[int, ...],
    heads: Mapping[str, int],
    values: int,
    widths: tuple[int, ...] = (512, 256),
    activation: str = "relu",
) -> Network:
    """A fully connected encoder with the given widths, and its mirror image as decoder.

    Args:
        data_shape: shape of one example.
        heads: sizes of the encoder's outputs, by name.
        values: numbers the decoder returns for each point of space, instead of the channels.
        widths: hidden layer sizes of the encoder, from the data inwards; () is a linear model.
        activation: one of ACTIVATIONS.
    """
    return Network(
        MlpEncoder(widths, activation, heads),
        MlpDecoder(widths[::-1], activation, tuple(data_shape), values),
    )
