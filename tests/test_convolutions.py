"""Both lowerings are the same layer: outputs, gradients, adjointness."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxvae.parts import convolutions as cv

CASES = [  # kernel, stride, image, channels of the large and the small side
    (3, 2, (28, 28), (1, 4)),
    (3, 2, (7, 7), (3, 2)),
    (3, 2, (5, 8), (3, 2)),
    (3, 1, (5, 8), (3, 2)),
    (3, 1, (5, 8), (2, 3)),
    (1, 1, (5, 8), (3, 2)),
    (5, 1, (4, 7), (3, 2)),
    (4, 2, (8, 7), (3, 2)),
    (4, 1, (5, 8), (1, 4)),
    (5, 3, (10, 7), (2, 3)),
    (2, 3, (9, 9), (1, 2)),
    (3, 2, (1, 1), (1, 2)),
]


def _arrays(k, stride, size, channels):
    keys = jax.random.split(jax.random.key(0), 5)
    large, small = channels
    x = jax.random.normal(keys[0], (6, *size, large))
    y = jax.random.normal(keys[1], (6, *cv.small_size(size, stride), small))
    kernel = jax.random.normal(keys[2], (k, k, large, small))
    return x, y, kernel, jax.random.normal(keys[3], (small,)), jax.random.normal(keys[4], (large,))


def _conv(lowering, x, kernel, bias, stride):
    return lowering.leave(lowering.conv(lowering.enter(x), kernel, bias, stride))


def _conv_transpose(lowering, y, kernel, bias, stride, size):
    return lowering.leave(lowering.conv_transpose(lowering.enter(y), kernel, bias, stride, size))


@pytest.mark.parametrize(("k", "stride", "size", "channels"), CASES)
def test_gemm_equals_native(k, stride, size, channels):
    x, y, kernel, small_bias, large_bias = _arrays(k, stride, size, channels)

    def value_and_gradients(layer, lowering, bias, *args):
        def scalar(args, kernel, bias):
            out = layer(lowering, args, kernel, bias, stride, *rest)
            return jnp.sum(jnp.sin(out)), out

        args, *rest = args
        grads, out = jax.jit(jax.grad(scalar, (0, 1, 2), has_aux=True))(args, kernel, bias)
        return out, grads

    for layer, bias, args in [(_conv, small_bias, (x,)), (_conv_transpose, large_bias, (y, size))]:
        gemm = value_and_gradients(layer, cv.GEMM, bias, *args)
        native = value_and_gradients(layer, cv.NATIVE, bias, *args)
        chex.assert_trees_all_equal_shapes_and_dtypes(gemm, native)
        chex.assert_trees_all_close(gemm, native, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("k", "stride", "size", "channels"), CASES)
@pytest.mark.parametrize("lowering", [cv.GEMM, cv.NATIVE], ids=["gemm", "native"])
def test_transpose_is_the_adjoint(lowering, k, stride, size, channels):
    """<conv(x), y> = <x, conv_transpose(y)> with one kernel and no bias."""
    x, y, kernel, small_bias, large_bias = _arrays(k, stride, size, channels)
    down = _conv(lowering, x, kernel, 0 * small_bias, stride)
    up = _conv_transpose(lowering, y, kernel, 0 * large_bias, stride, size)
    chex.assert_equal_shape([down, y])
    chex.assert_equal_shape([up, x])
    np.testing.assert_allclose(jnp.vdot(down, y), jnp.vdot(x, up), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("lowering", [cv.GEMM, cv.NATIVE], ids=["gemm", "native"])
def test_against_a_sum_written_out(lowering):
    """k=3, stride=2, padding=1, by four nested loops."""
    x, _, kernel, bias, _ = _arrays(3, 2, (5, 8), (2, 3))
    padded = np.pad(np.asarray(x, np.float64), ((0, 0), (1, 2), (1, 2), (0, 0)))
    expected = np.zeros((6, 3, 4, 3))
    for h, w, i, j in itertools.product(range(3), range(4), range(3), range(3)):
        expected[:, h, w] += padded[:, 2 * h + i, 2 * w + j] @ np.asarray(kernel[i, j])
    out = _conv(lowering, x, kernel, bias, 2)
    np.testing.assert_allclose(out, expected + np.asarray(bias), rtol=1e-4, atol=1e-4)
