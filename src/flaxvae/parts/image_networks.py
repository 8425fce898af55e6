"""Convolutional networks for images of any size: the tutorials' network, and residual networks.

Both are pyramids. The encoder halves the image repeatedly, rounding up; the decoder mirrors it and
restores each size exactly:

    x [H, W, C] -> (stem) -> [stride-2 convolution -> residual blocks] for each size -> features

Next to the latents there is either a Dense layer, which sees the whole image, or nothing. In the
second case the posterior is ``spatial``: a grid [h, w] of latents at the points of the smallest
map, each for a part of the image, like the codes of a VQ-VAE (van den Oord et al. 2017). Residual
blocks are those of He et al. 2016 without batch norm, so the networks have no state and treat
images independently.

Labels are appended to the features before the Dense layers, or, if spatial, to the image and the
latents as constant maps.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import NamedTuple

import flax.linen as nn

from flaxvae.parts import convolutions, networks

# Compensates a layer's loss of variance: 1/3 by its weights, E[silu(u)^2] = 0.356 for u ~ N(0, 1).
# On MNIST at 14x14, the loss of resnet after 400 steps of Adam is 9 nats lower than with scale 1.
SILU_SCALE = math.sqrt(3 / 0.356)


class Conv(nn.Module):
    """Convolution with a square kernel, from size to ceil(size / stride)."""

    channels: int
    inputs: int
    kernel_size: int = 3
    stride: int = 2
    init_scale: float = 1.0

    @nn.compact
    def __call__(self, lowering, x):
        shape = (self.kernel_size, self.kernel_size, self.inputs, self.channels)
        kernel = self.param("kernel", networks.fan_in_uniform(scale=self.init_scale), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.channels,))
        return lowering.conv(x, kernel, bias, self.stride)


class ConvTranspose(nn.Module):
    """The transpose: each pixel adds a scaled kernel to an image of the given size."""

    channels: int
    inputs: int
    size: tuple[int, int]
    kernel_size: int = 3
    stride: int = 2
    init_scale: float = 1.0

    @nn.compact
    def __call__(self, lowering, x):
        # Kernels are stored like those of the convolution they transpose, [k, k, large, small].
        shape = (self.kernel_size, self.kernel_size, self.channels, self.inputs)
        kernel = self.param("kernel", networks.fan_in_uniform(-1, -2, self.init_scale), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.channels,))
        return lowering.conv_transpose(x, kernel, bias, self.stride, self.size)


class DenseMap(nn.Module):
    """A Dense layer from features [F, B] to a map [B, h, w, C], in the layout for convolutions.

    The bias is added after the change of layout, which XLA then fuses into the matrix product.
    Features come first although the product transposes them: XLA then stores them so for the
    gradients, and a step of ``conv`` takes 5 % less time on CPU than with [B, F].
    """

    shape: tuple[int, int, int]
    init_scale: float = 1.0

    @nn.compact
    def __call__(self, lowering, x):
        width, init = math.prod(self.shape), networks.fan_in_uniform(scale=self.init_scale)
        kernel = self.param("kernel", init, (x.shape[0], width))
        bias = self.param("bias", nn.initializers.zeros, (width,))
        y = (x.T @ kernel).reshape(-1, *self.shape)
        bias = bias.reshape(1, *self.shape)
        return networks.add_bias(lowering.enter(y), lowering.enter(bias))


class Residual(nn.Module):
    """x + conv(silu(conv(silu(x)))), convolutions 3x3: pre-activation (He et al. 2016).

    The second convolution starts at a tenth of the first's scale, so that a deep stack starts near
    the identity. Starting at zero, the first would get no gradient in the first step.
    """

    channels: int
    init_scale: float = SILU_SCALE

    @nn.compact
    def __call__(self, lowering, x):
        layer = functools.partial(Conv, self.channels, self.channels, stride=1)
        y = layer(init_scale=self.init_scale, name="conv_0")(lowering, nn.silu(x))
        return x + layer(init_scale=0.1 * self.init_scale, name="conv_1")(lowering, nn.silu(y))


class Pyramid(NamedTuple):
    """What encoder and decoder share, from the image inwards."""

    lowering: convolutions.Lowering
    size: tuple[int, int]  # of the image
    channels: tuple[int, ...]  # after each halving of the image
    activation: str
    init_scale: float = 1.0  # of all weights but those of the two output layers
    stem: bool = False  # a convolution at full size, next to the image
    blocks: int = 0  # residual blocks at each size
    width: int = 256  # of the Dense layer next to the latents
    spatial: bool = False  # latents at each point of the smallest map, and no Dense layer
    remat: bool = False  # compute residual blocks again for the gradient, and store nothing

    @property
    def residual(self) -> type[Residual]:
        """The class of residual blocks, called with (channels, name=…)."""
        return nn.remat(Residual, static_argnums=(1,)) if self.remat else Residual

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Height and width of the image and after each halving."""
        sizes = [self.size]
        for _ in self.channels:
            sizes.append(convolutions.small_size(sizes[-1], 2))
        return sizes


def _dense(pyramid: Pyramid, width: int, name: str) -> networks.Dense:
    return networks.Dense(
        width, kernel_init=networks.fan_in_uniform(scale=pyramid.init_scale), name=name
    )


class ConvEncoder(nn.Module):
    """Stem; at each size a convolution with stride 2 and residual blocks; Dense; heads."""

    pyramid: Pyramid
    heads: Mapping[str, int]

    @nn.compact
    def __call__(self, x, labels=None):
        p, lowering = self.pyramid, self.pyramid.lowering
        activation, batch = networks.ACTIVATIONS[p.activation], x.shape[0]
        conv = functools.partial(Conv, init_scale=p.init_scale)
        if p.spatial:
            x = networks.append_labels(x, labels)
        inputs, x = x.shape[-1], lowering.enter(x)
        if p.stem:
            x = activation(conv(p.channels[0], inputs, stride=1, name="stem")(lowering, x))
            inputs = p.channels[0]
        for i, channels in enumerate(p.channels):
            x = conv(channels, inputs, name=f"conv_{i}")(lowering, x)
            for j in range(p.blocks):
                x = p.residual(channels, name=f"block_{i}_{j}")(lowering, x)
            x, inputs = activation(x), channels
        x = lowering.leave(x)
        if not p.spatial:
            x = networks.append_labels(x.reshape(batch, -1), labels)
            x = activation(_dense(p, p.width, "dense")(x))
        heads = networks.Heads(self.heads, name="heads")(x)
        return {name: head.reshape(batch, -1) for name, head in heads.items()}


class ConvDecoder(nn.Module):
    """The encoder's mirror image, starting with two Dense layers, or a convolution if spatial."""

    pyramid: Pyramid
    values: int

    @nn.compact
    def __call__(self, z, labels=None):
        p, lowering = self.pyramid, self.pyramid.lowering
        activation, sizes = networks.ACTIVATIONS[p.activation], p.sizes
        smallest = (*sizes[-1], p.channels[-1])
        if p.spatial:
            x = networks.append_labels(z.reshape(z.shape[0], *sizes[-1], -1), labels)
            inputs = x.shape[-1]
            x = lowering.enter(x)
            entry = functools.partial(Conv, stride=1, init_scale=p.init_scale, name="grid")
            x = entry(p.channels[-1], inputs)(lowering, x)
        else:
            x = networks.append_labels(z, labels)
            x = activation(_dense(p, p.width, "dense_0")(x).T)
            x = DenseMap(smallest, p.init_scale, name="dense_1")(lowering, x)
        outputs = (p.channels[0] if p.stem else self.values, *p.channels[:-1])
        for i in reversed(range(len(p.channels))):
            for j in range(p.blocks):
                x = p.residual(p.channels[i], name=f"block_{i}_{j}")(lowering, x)
            up = functools.partial(ConvTranspose, init_scale=p.init_scale, name=f"conv_{i}")
            x = up(outputs[i], p.channels[i], sizes[i])(lowering, activation(x))
        if p.stem:
            x = Conv(self.values, p.channels[0], stride=1, name="stem")(lowering, activation(x))
        return lowering.leave(x)


def _convolutional(pyramid: Pyramid, heads: Mapping[str, int], values: int) -> networks.Network:
    grid = pyramid.sizes[-1] if pyramid.spatial else (1, 1)
    return networks.Network(ConvEncoder(pyramid, heads), ConvDecoder(pyramid, values), grid)


def conv(
    data_shape: tuple[int, ...],
    heads: Mapping[str, int],
    values: int,
    spatial: bool = False,
    lowering: str = "auto",
) -> networks.Network:
    """The tutorials' convolutional network, for images [H, W, C] of any size (28x28 -> 7x7x64).

    Conv 32, relu, Conv 64, relu (3x3, stride 2), Dense 256, relu, heads; and back. Each
    convolution halves the image, rounding up; each transpose restores the size before it.

    Args:
        data_shape: height, width and channels of an image.
        heads: sizes of the encoder's outputs, by name; if spatial, at each point of the grid.
        values: numbers the decoder returns for each pixel, instead of the channels.
        spatial: latents on the grid of the smallest map: heads [B, h*w*size] and z [B, h*w*D] are
            [h, w, size] and [h, w, D] flattened, each point a function of a part of the image.
        lowering: of the convolutions, as in ``convolutions.lowering``.
    """
    height, width, _ = data_shape
    chosen = convolutions.lowering(lowering)
    pyramid = Pyramid(chosen, (height, width), (32, 64), "relu", spatial=spatial)
    return _convolutional(pyramid, heads, values)


def resnet(
    data_shape: tuple[int, ...],
    heads: Mapping[str, int],
    values: int,
    channels: tuple[int, ...] = (32, 64),
    blocks: int = 1,
    spatial: bool = False,
    remat: bool = False,
    lowering: str = "auto",
) -> networks.Network:
    """``conv`` with residual blocks at each size, silu, and a 3x3 convolution at full size.

    Weights start larger than those of ``conv``, so that signals do not shrink with depth.

    Args:
        data_shape, heads, values, spatial, lowering: as in ``conv``.
        channels: channels of the maps after each halving of the image; at least one.
        blocks: residual blocks at each of these sizes, in encoder and decoder each.
        remat: compute blocks again for the gradient (less memory, same numbers).
    """
    height, width, _ = data_shape
    pyramid = Pyramid(
        convolutions.lowering(lowering),
        (height, width),
        tuple(channels),
        "silu",
        SILU_SCALE,
        True,
        blocks,
        spatial=spatial,
        remat=remat,
    )
    return _convolutional(pyramid, heads, values)
