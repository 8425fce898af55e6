"""Both lowerings are the same layer: outputs, gradients, adjointness."""

import itertools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxvae.parts import convolutions as cv
from flaxvae.parts import image_networks

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


@pytest.mark.parametrize("images", [4, 5])  # batches of 4, 4 and 3, which is padded; and of 5
@pytest.mark.parametrize("spatial", [False, True])
def test_some_images_at_a_time_give_the_same_numbers(monkeypatch, images, spatial):
    """Encoder and decoder with gradients, over parts of a batch, against all images at once."""
    shape, small = (8, 12, 3), cv.GEMM._replace(cache=1)
    monkeypatch.setattr(cv, "LEAST_IMAGES", images)

    def network(lowering):
        monkeypatch.setattr(cv, "lowering", lambda choice: lowering)
        return image_networks.resnet(shape, {"mean": 2}, 3, (4, 6), spatial=spatial)

    whole, split = network(cv.GEMM._replace(cache=0)), network(small)
    keys = jax.random.split(jax.random.key(0), 4)
    x = jax.random.normal(keys[0], (10 if images == 5 else 11, *shape))
    width = 2 * math.prod(whole.grid)
    z = jax.random.normal(keys[1], (len(x), width))
    encoder, decoder = whole.encoder.init(keys[2], x), whole.decoder.init(keys[3], z)
    chex.assert_trees_all_equal(encoder, split.encoder.init(keys[2], x))
    chex.assert_trees_all_equal(decoder, split.decoder.init(keys[3], z))

    def results(network):
        def scalar(encoder, decoder, x, z):
            code = network.encoder.apply(encoder, x)["mean"]
            image = network.decoder.apply(decoder, z)
            return jnp.sum(jnp.sin(code)) + jnp.sum(jnp.sin(image)), (code, image)

        return jax.jit(jax.value_and_grad(scalar, (0, 1, 2, 3), has_aux=True))(
            encoder, decoder, x, z
        )

    turns = str(jax.make_jaxpr(lambda x: split.encoder.apply(encoder, x))(x))
    assert "scan" in turns and f"length={-(-len(x) // images)}" in turns
    chex.assert_trees_all_close(results(split), results(whole), rtol=1e-5, atol=1e-5)


def test_how_many_images_at_once():
    """As many as leave the largest map in the cache; all where the batch is over devices."""
    lowering = cv.GEMM._replace(cache=4 << 20)
    assert lowering.images((32, 32), 32) == 32
    assert lowering.images((28, 28), 1) == (4 << 20) // (4 * 28 * 28)
    assert lowering.images((512, 512), 32) == cv.LEAST_IMAGES
    assert cv.NATIVE.images((32, 32), 32) is None
    assert cv.lowering("gemm").cache == (cv.GEMM.cache if jax.device_count() == 1 else 0)
