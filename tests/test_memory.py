"""A batch in parts: the same rows, the same questions answered, and less memory."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxvae import lookup
from flaxvae.core import Batch
from flaxvae.parts import memory
from flaxvae.recipe import DataSpec


def rows(seed, *shape):
    return jnp.float32(np.random.default_rng(seed).normal(size=shape))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 12])
def test_parts_put_together_are_the_whole(count):
    """Also where they do not divide it: values in their order, and gradients of each row once."""
    x, labels, weight = rows(0, 5, 2, 3), jnp.arange(5), rows(1, 3)
    none = jnp.zeros((5, 0))

    def function(weight, x, y, none, missing):
        assert missing is None and none.shape == (len(x), 0)
        return {"product": jnp.tanh(x @ weight), "label": y}

    def whole(weight, x):
        return function(weight, x, labels, none, None)

    def parts(weight, x):
        return memory.by_parts(function, count, weight, x, labels, none, None)

    found, back = jax.vjp(lambda *a: parts(*a)["product"], weight, x)
    expected, straight = jax.vjp(lambda *a: whole(*a)["product"], weight, x)
    np.testing.assert_array_equal(parts(weight, x)["label"], labels)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    slope = rows(2, 5, 2)
    chex.assert_trees_all_close(back(slope), straight(slope), rtol=1e-5, atol=1e-6)


def test_a_part_is_spread_over_the_batch():
    """Row i belongs to part i mod n, so that devices that hold a batch in a row share each part."""
    seen = []

    def function(none, x):
        jax.debug.callback(lambda part: seen.append(part.tolist()), x)
        return x

    jax.block_until_ready(memory.by_parts(function, 3, None, jnp.arange(6)))
    jax.effects_barrier()
    assert sorted(seen) == [[0, 3], [1, 4], [2, 5]]


SPEC = DataSpec("noise", (8, 8, 1), binary=True, levels=2, examples=200)


def built(**choices):
    """A recipe, variables, and images."""
    made = lookup.build("vae", SPEC, **choices)
    x = jnp.float32(rows(0, 64, 8, 8, 1) > 0)
    return made, jax.jit(made.model.init)(jax.random.key(0), x), x


def test_what_is_decoded_in_parts_answers_as_the_whole():
    made, variables, x = built(net="mlp", widths=(16,))
    z, parts = rows(1, 64, 20), memory.in_parts(made.model, 4)
    assert memory.in_parts(made.model, 1) is made.model
    whole, found = (jax.jit(model.decode)(variables, z) for model in (made.model, parts))
    assert isinstance(found, memory.InParts)
    np.testing.assert_allclose(found.mean, whole.mean, rtol=1e-6)
    np.testing.assert_allclose(found.log_prob(x), whole.log_prob(x), rtol=1e-6)
    np.testing.assert_array_equal(*(p.sample(jax.random.key(2)) for p in (found, whole)))


@functools.cache
def memory_of(count):
    """Bytes beside inputs and outputs that a gradient of so many parts takes, as compiled."""
    made, variables, x = built(net="conv")
    loss = made.objective(memory.in_parts(made.model, count))

    def gradient(params, x):
        return jax.grad(loss, has_aux=True)({"params": params}, jax.random.key(0), Batch(x), 0)

    compiled = jax.jit(gradient).lower(variables["params"], x).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def test_parts_take_less_memory():
    assert memory_of(8) < 0.4 * memory_of(1)
