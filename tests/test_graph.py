"""Graphs against JAX and against hand-made functions."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conftest import rare
from flaxvae import lookup
from flaxvae.export import interpreter, tracing
from flaxvae.export.graph import Unsupported
from test_zoo import CASES, RECIPES, SPEC, batch_of, variables

OTHERS = [case for case in CASES if case not in RECIPES and case.split("-")[0] != "cvae"]
NATIVE = {"convolutions": "native"}


def recipe(case):
    name, arguments = CASES[case]
    return lookup.build(name, SPEC, **arguments | NATIVE)


def functions(case):
    """encode and decode of a recipe, and its labels."""
    made, weights, y = recipe(case), variables(case), batch_of(case).y
    weights = jax.tree.map(jnp.asarray, weights)

    def encode(x, *y):
        features = made.model.encode(weights, x, *y)
        return made.model.reparameterize(weights, None, features, False).code

    def decode(z, *y):
        return made.model.decode(weights, z, *y).mean

    return encode, decode, () if y is None else (y,)


def like(any_number, *arrays):
    """Shapes of arrays, of any number of rows."""
    return [jax.ShapeDtypeStruct((any_number, *a.shape[1:]), a.dtype) for a in arrays]


def close(found, expected):
    expected = np.asarray(expected)
    assert found.shape == expected.shape and found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, atol=1e-5 * max(1, np.abs(expected).max()))


FAST = ["vae-conv", "vq_vae-mlp"]
every_case = pytest.mark.parametrize(
    "case", rare([*RECIPES, *OTHERS], *{*RECIPES, *OTHERS} - {*FAST})
)


@every_case
def test_graphs_compute_what_jax_does(case):
    """Of one image, as a page has it, and of any number."""
    encode, decode, y = functions(case)
    x = jnp.asarray(batch_of(case).x[:3])
    y = tuple(each[:3] for each in y)
    z = jax.jit(encode)(x, *y)
    for function, given in ((encode, x), (decode, z)):
        expected = jax.jit(function)(given, *y)
        any_batch = tracing.trace(function, *like(tracing.any_number(), given, *y))
        (found,) = interpreter.run(any_batch, given, *y)
        close(found, expected)
        one = tracing.trace(function, given[:1], *(each[:1] for each in y))
        (found,) = interpreter.run(one, given[:1], *(each[:1] for each in y))
        close(found, expected[:1])
        assert {op.name for op in one.ops} <= set(interpreter.OPERATIONS)
        json.dumps([(op.params, one.shapes[op.output]) for op in one.ops])


def test_what_depends_on_constants_alone_is_a_constant():
    """Weights, keys and their draws; what no output needs is nowhere."""
    weights = jnp.arange(6.0).reshape(2, 3)

    @jax.jit
    def function(x):
        noise = jax.random.normal(jax.random.key(1), (3,))
        unused = jnp.sin(x).sum()
        return {"y": jax.nn.relu(x) @ jnp.flip(2 * weights, 0) + noise[None]}, unused

    made = tracing.trace(lambda x: function(x)[0], np.ones((4, 2), np.float32), names=["x"])
    assert [op.name for op in made.ops] == ["max", "dot_general", "add"]
    held = {value.shape: value for value in made.constants.values()}
    np.testing.assert_array_equal(held[2, 3], [[6, 8, 10], [0, 2, 4]])
    np.testing.assert_allclose(held[1, 3][0], jax.random.normal(jax.random.key(1), (3,)), 1e-6)
    x = np.float32([[1, -1], [0, 2], [3, 4], [-5, -6]])
    np.testing.assert_allclose(interpreter.run(made, x)[0], function(x)[0]["y"], rtol=1e-6)
    assert list(made.inputs) == ["x"] and list(made.outputs) == ["output0"]


def test_constants_stay_as_small_as_they_are():
    bias = np.arange(3, dtype=np.float32)
    shape = jax.ShapeDtypeStruct((tracing.any_number(), 50, 50, 3), np.float32)
    own = jnp.asarray(bias)[None, None, None]
    made = tracing.trace(lambda x: (x + 2 * own) * jnp.full(x.shape, 0.5), shape)
    assert [op.name for op in made.ops] == ["add", "mul"]
    assert max(value.size for value in made.constants.values()) == 3
    assert made.shapes[made.ops[-1].output] == ("float32", ("batch", 50, 50, 3))
    x = np.random.default_rng(0).normal(size=(2, 50, 50, 3)).astype(np.float32)
    np.testing.assert_allclose(interpreter.run(made, x)[0], (x + 2 * bias) / 2, rtol=1e-6)


def test_loops_and_reductions_are_written_out():
    """Of a function that is not commutative, in order; of sizes that are no power of two."""

    def function(x):
        def affine(a, b):  # b after a
            return a[0] * b[0], a[1] * b[0] + b[1]

        ends = jax.lax.reduce((x, 2 * x), (jnp.float32(1), jnp.float32(0)), affine, [1])
        total, rows = jax.lax.scan(lambda c, row: (c * 0.5 + row, c), jnp.zeros(7), x)
        seen = jnp.where(jnp.tril(jnp.ones((3, 3), bool)), x[:, :3], -1)
        row = jax.lax.fori_loop(0, 2, lambda i, a: a.at[:, i].set(x[:, 6]), x)
        parts = x.at[:, 2:4].set(x[:, 5:7]), x[:, ::3], jnp.stack([x, x], 1)
        return *ends, total, rows, *parts, row, seen

    x = np.random.default_rng(1).normal(size=(3, 7)).astype(np.float32)
    made = tracing.trace(function, x)
    assert not {"reduce", "scan", "scatter", "stack"} & {op.name for op in made.ops}
    assert {str(value.dtype) for value in made.constants.values()} <= {"float32", "int32", "bool"}
    for found, expected in zip(interpreter.run(made, x), function(jnp.asarray(x)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_draws_are_made_of_uniform_numbers():
    """Those of which JAX's own draws are made give JAX's draws, row by row."""
    key, n = jax.random.key(3), 5

    def draw(n):
        one, two = jax.random.split(key)
        k = jax.random.categorical(one, jnp.log(jnp.array([0.2, 0.5, 0.3])), shape=(n,))
        return jnp.eye(3)[k], jax.random.normal(two, (n, 2))

    bits = [jax.random.bits(k, s) for k, s in zip(jax.random.split(key), [(n, 3), (n, 2)])]
    uniform = np.concatenate(bits, 1).astype(np.float64) / 2**32
    shape = jax.ShapeDtypeStruct((tracing.any_number(),), np.float32)
    made = tracing.trace(lambda x: (draw(x.shape[0]), x), shape, names=["x"], draws="uniform")
    assert made.shapes[made.inputs["uniform"]] == ("float32", ("batch", 5))
    low = np.float32(np.floor(uniform * 2**24) / 2**24)
    codes, noise, _ = interpreter.run(made, np.zeros(n), low)
    expected = draw(n)
    np.testing.assert_array_equal(codes, expected[0])
    np.testing.assert_allclose(noise, expected[1], rtol=1e-5, atol=1e-6)
    extremes = np.float32([[0] * 5, [1 - 2**-24] * 5])
    assert all(np.isfinite(each).all() for each in interpreter.run(made, np.zeros(2), extremes))


def test_what_cannot_be_said_is_refused():
    x = np.ones((2, 3), np.float32)
    refused = {
        "'sort'": lambda x: jnp.sort(x),
        "'while'": lambda x: jax.lax.while_loop(lambda a: a.sum() < 9, lambda a: a + 1, x),
        "2,000 steps": lambda x: jax.lax.fori_loop(0, 2000, lambda i, a: a * 2, x),
        "'dynamic_slice'": lambda x: jax.lax.dynamic_slice(x, (0, x[0, 0].astype(int)), (2, 1)),
    }
    for words, function in refused.items():
        with pytest.raises(Unsupported, match=words):
            tracing.trace(function, x)
    made = tracing.trace(lambda x: x + 1, x)
    with pytest.raises(ValueError, match="input0 of shape"):
        interpreter.run(made, x[:1])
