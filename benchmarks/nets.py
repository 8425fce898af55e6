"""The networks that are timed, and what one step of them costs in floating-point operations."""

from __future__ import annotations

import itertools
from typing import NamedTuple


class Net(NamedTuple):
    """A VAE: of grey images with a Bernoulli likelihood, of colour ones with one learned sigma."""

    label: str
    kind: str  # conv: Conv 32, Conv 64, Dense 256; mlp; resnet: conv with residual blocks; deep
    widths: tuple[int, ...] = ()
    activation: str = "silu"
    latents: int = 20


NETS = {
    "conv": Net("conv 32-64, dense 256, 20 latents", "conv", (), "relu", 20),
    "mlp512": Net("mlp 784-512-20", "mlp", (512,), "relu", 20),
    "iwae": Net("mlp 784-200-200-50", "mlp", (200, 200), "tanh", 50),
}
# Those of photographs: stem, channels 32 and 64, one residual block each; deep_vae as it is.
DEEP = {"resnet": Net("resnet 32-64", "resnet"), "deep": Net("deep_vae", "deep")}
SIZE = 28  # rows and columns of an image, where nothing else is said
GEMM_SIZE = 4096  # rows and columns of the matrices whose product is the machine's peak
IMAGES_AT_ONCE = 10  # in a step of a likelihood, as `flaxvae eval --k` takes them


def _layers(net: Net, size: int) -> list[int]:
    """Multiply-adds an image of each layer, from the image through the latents and back."""
    if net.kind == "mlp":
        widths = (size * size, *net.widths)
        half = [a * b for a, b in itertools.pairwise(widths)]
    else:
        two = -(-size // 2)
        four = -(-two // 2)
        half = [two**2 * 9 * 32, four**2 * 9 * 32 * 64, four**2 * 64 * 256]
    last = net.widths[-1] if net.kind == "mlp" else 256
    return [*half, last * 2 * net.latents, net.latents * last, *reversed(half)]


def training_flops(net: Net, size: int = SIZE) -> float:
    """Floating-point operations an image of a training step: 2 (3 sum_l m_l - m_1).

    Layer l has m_l multiply-adds an image, and each is done three times: for its values, for the
    gradient of its weights and for that of its inputs; the first layer's, the image, need none.
    What is not a matrix product (activations, KL, Adam) is not counted.
    """
    layers = _layers(net, size)
    return 2.0 * (3 * sum(layers) - layers[0])


def decoding_flops(net: Net, size: int = SIZE) -> float:
    """Floating-point operations of decoding one z."""
    layers = _layers(net, size)
    return 2.0 * sum(layers[len(layers) // 2 :])
