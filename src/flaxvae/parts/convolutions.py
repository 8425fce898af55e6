"""Strided convolutions and their transposes, lowered to what is fast on the platform.

A convolution is y = W^T patches(x); its transpose is x = scatter(W y), where ``scatter`` is the
adjoint of ``patches``. On GPU and TPU XLA's own convolutions are best. On CPU they are slow, and
several times slower inside a compiled loop, so there the same sums are one GEMM over activations
[C, H, W, B]: with the batch as the last axis, a strided slice is contiguous.

Both lowerings take the same kernels [k, k, C_large, C_small] and compute the same numbers:

    conv:           [large H, W, C_large] -> [small H, W, C_small],  small = ceil(large / stride)
    conv_transpose: the adjoint, [small, C_small] -> [large, C_large], for any such ``large``

Padding is as in the tutorials' ``k=3, stride=2, padding=1``: (k - 1) // 2 rows before the image,
the rest after it.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from flaxvae.parts.networks import add_bias

Array = jax.Array
Size = tuple[int, int]


class Lowering(NamedTuple):
    """A layout of activations, and the two layers in that layout."""

    enter: Callable[[Array], Array]  # [B, H, W, C] -> the layout
    leave: Callable[[Array], Array]  # and back
    conv: Callable[[Array, Array, Array, int], Array]  # (x, kernel, bias, stride)
    conv_transpose: Callable[[Array, Array, Array, int, Size], Array]  # (…, stride, size)
    batch: int  # the axis of the images
    channels: int


def small_size(large: Size, stride: int) -> Size:
    """Height and width after a convolution with this stride, each ceil(large / stride)."""
    return -(-large[0] // stride), -(-large[1] // stride)


def _padding(large: int, kernel: int, stride: int) -> tuple[int, int]:
    small = -(-large // stride)
    before = (kernel - 1) // 2
    # With a stride larger than the kernel, no tap reads the last rows: then nothing is padded.
    return before, max(stride * (small - 1) + kernel - before - large, 0)


# --- native -----------------------------------------------------------------------------------

_NHWC = ("NHWC", "HWIO", "NHWC")


def _native_conv(x: Array, kernel: Array, bias: Array, stride: int) -> Array:
    k = kernel.shape[0]
    pads = [_padding(n, k, stride) for n in x.shape[1:3]]
    y = lax.conv_general_dilated(x, kernel, (stride, stride), pads, dimension_numbers=_NHWC)
    return add_bias(y, bias[None, None, None])


def _native_conv_transpose(x: Array, kernel: Array, bias: Array, stride: int, size: Size) -> Array:
    k = kernel.shape[0]
    pads = []
    for small, large in zip(x.shape[1:3], size):
        before = k - 1 - _padding(large, k, stride)[0]
        pads.append((before, large + k - 1 - before - (stride * (small - 1) + 1)))
    flipped = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    y = lax.conv_general_dilated(
        x, flipped, (1, 1), pads, lhs_dilation=(stride, stride), dimension_numbers=_NHWC
    )
    return add_bias(y, bias[None, None, None])


NATIVE = Lowering(lambda x: x, lambda x: x, _native_conv, _native_conv_transpose, 0, 3)


# --- GEMM, activations [C, H, W, B] -------------------------------------------------------------


def _patches(x: Array, k: int, stride: int) -> Array:
    """[C, H, W, B] -> [k, k, C, h, w, B]: the pixels under each tap."""
    height, width = x.shape[1:3]
    h, w = small_size((height, width), stride)
    pads = (_padding(height, k, stride), _padding(width, k, stride))
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    h_end, w_end = stride * (h - 1) + 1, stride * (w - 1) + 1
    # Row by row: a stack of three is one loop with its slices; a stack of nine copies each twice.
    rows = [
        jnp.stack([x[:, i : i + h_end : stride, j : j + w_end : stride] for j in range(k)])
        for i in range(k)
    ]
    return jnp.stack(rows)


def _scatter(taps: Array, stride: int, size: Size) -> Array:
    """The adjoint of ``_patches``: [k, k, C, h, w, B] -> [C, H, W, B].

    Row r of the image receives tap i of patch (r + before - i) / stride. So each of the image's
    stride^2 phases (the rows and columns with one remainder) is a sum of shifted taps. Phases are
    interleaved by stacking, which copies contiguous memory.
    """
    k, c, b = taps.shape[0], taps.shape[2], taps.shape[5]
    small, rest = taps.shape[3:5], [-(-n // stride) for n in size]  # of a tap, of a phase
    zero = jnp.zeros((), taps.dtype)

    def shifts(phase: int) -> list[tuple[int, int]]:
        """The taps of a phase, and which patch each adds to the first row."""
        first, offset = divmod(phase + (k - 1) // 2, stride)
        return [(i, first - i // stride) for i in range(offset, k, stride)]

    def phase(p: int, q: int) -> Array:
        total = jnp.zeros((c, *rest, b), taps.dtype)
        for (i, top), (j, left) in itertools.product(shifts(p), shifts(q)):
            pads = [
                (-shift, n - have + shift, 0) for shift, n, have in zip((top, left), rest, small)
            ]
            total = total + lax.pad(taps[i, j], zero, ((0, 0, 0), *pads, (0, 0, 0)))
        return total

    def interleave(phases: list[Array], axis: int) -> Array:
        shape = list(phases[0].shape)
        shape[axis] *= stride
        return jnp.stack(phases, axis + 1).reshape(shape)

    rows = [interleave([phase(p, q) for q in range(stride)], 2) for p in range(stride)]
    return interleave(rows, 1)[:, : size[0], : size[1]]


# Products contract axes in the order in which both arrays have them. An einsum would sort them by
# letter: XLA then copies the arrays first, which takes as long as the product. As matrices, with
# [h, w, B] merged into one axis, a batch on several devices would be gathered.


def _product(a: Array, b: Array, a_axes: tuple[int, ...], b_axes: tuple[int, ...]) -> Array:
    """Contract these axes; the result has the other axes of a, then those of b."""
    return lax.dot_general(a, b, ((a_axes, b_axes), ((), ())))


def _contract(kernel: Array, patches: Array) -> Array:
    """W^T patches: [k, k, C, O], [k, k, C, h, w, B] -> [O, h, w, B]."""
    return _product(kernel, patches, (0, 1, 2), (0, 1, 2))


def _expand(kernel: Array, y: Array) -> Array:
    """W y: [k, k, C, O], [O, h, w, B] -> [k, k, C, h, w, B]."""
    return _product(kernel, y, (3,), (0,))


def _outer(patches: Array, y: Array) -> Array:
    """patches y^T, the gradient of a kernel: [k, k, C, O]."""
    return _product(patches, y, (3, 4, 5), (1, 2, 3))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _down(x: Array, kernel: Array, stride: int) -> Array:
    return _contract(kernel, _patches(x, kernel.shape[0], stride))


def _down_forward(x, kernel, stride):
    return _down(x, kernel, stride), (x, kernel)


def _down_backward(stride, saved, dy):
    x, kernel = saved
    # The patches are gathered again: keeping them would hold k*k copies of every activation.
    dx = _scatter(_expand(kernel, dy), stride, x.shape[1:3])
    return dx, _outer(_patches(x, kernel.shape[0], stride), dy)


_down.defvjp(_down_forward, _down_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _up(x: Array, kernel: Array, stride: int, size: Size) -> Array:
    return _scatter(_expand(kernel, x), stride, size)


def _up_forward(x, kernel, stride, size):
    return _up(x, kernel, stride, size), (x, kernel)


def _up_backward(stride, size, saved, dy):
    x, kernel = saved
    patches = _patches(dy, kernel.shape[0], stride)
    return _contract(kernel, patches), _outer(patches, x)


_up.defvjp(_up_forward, _up_backward)


def _gemm_conv(x: Array, kernel: Array, bias: Array, stride: int) -> Array:
    k, _, inputs, outputs = kernel.shape
    if stride == 1 and k % 2 and k > 1 and outputs < inputs:
        # It is also the transpose with the kernel turned round: taps of the few outputs are
        # scattered, instead of patches of the many inputs gathered.
        turned = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
        y = _up(x, turned, 1, (x.shape[1], x.shape[2]))
    else:
        y = _down(x, kernel, stride)
    return add_bias(y, bias[:, None, None, None])


def _gemm_conv_transpose(x: Array, kernel: Array, bias: Array, stride: int, size: Size) -> Array:
    return add_bias(_up(x, kernel, stride, size), bias[:, None, None, None])


# Through [H W C, B], whose transpose is fused into the product of an adjacent Dense layer; the rest
# moves contiguous runs of the batch.


def _enter(x: Array) -> Array:
    b, h, w, c = x.shape
    return x.reshape(b, -1).T.reshape(h, w, c, b).transpose(2, 0, 1, 3)


def _leave(x: Array) -> Array:
    c, h, w, b = x.shape
    return x.transpose(1, 2, 0, 3).reshape(-1, b).T.reshape(b, h, w, c)


GEMM = Lowering(_enter, _leave, _gemm_conv, _gemm_conv_transpose, 3, 0)


def lowering(choice: str = "auto") -> Lowering:
    """The lowering "gemm" or "native"; "auto" is the one for JAX's default backend.

    Call it when a network is built, not while one is traced, perhaps for another platform. "auto"
    starts the backend, so processes that train together have to join first.
    """
    if choice == "auto":
        choice = "gemm" if jax.default_backend() == "cpu" else "native"
    return {"gemm": GEMM, "native": NATIVE}[choice]


def in_bf16(lowering: Lowering) -> Lowering:
    """The lowering with the layers' products in bf16, from and to float32 maps.

    What is between the layers, such as sums of residual blocks, stays float32.
    """

    def half(layer):
        def of_halves(x, kernel, bias, *others):
            x, kernel = x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)
            return layer(x, kernel, bias, *others).astype(jnp.float32)

        return of_halves

    layers = half(lowering.conv), half(lowering.conv_transpose)
    return lowering._replace(conv=layers[0], conv_transpose=layers[1])
