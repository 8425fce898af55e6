"""The live part of a page: its engine computes what JAX does, and its controls move the picture."""

import base64
import json
import shutil
import subprocess
import zlib
from importlib import resources
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from conftest import rare
from flaxvae import zoo
from flaxvae.export import interpreter, tracing
from flaxvae.recipe import DataSpec
from flaxvae.report import explorer
from flaxvae.report.explorer import facts, functions, packing, rounding, weights
from flaxvae.settings import Body

OWN = resources.files("flaxvae.report.explorer")
ENGINE = "".join((OWN / name).read_text() for name in ("product.js", "engine.js"))
NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="node is not installed")
# The engine, executing what stands on its standard input.
PROGRAM = (
    ENGINE
    + """
const { described, data, calls } = JSON.parse(require("fs").readFileSync(0, "utf8"));
const { load, ofText } = flaxvaeEngine();
const engine = load(described, new Uint8Array(require("zlib").inflateRawSync(ofText(data))));
const plain = (x) => Array.from(x, (v) => (Number.isFinite(v) ? v : String(v)));
console.log(JSON.stringify(calls.map(([name, inputs]) => Object.fromEntries(
  Object.entries(engine.run(name, inputs)).map(([key, value]) => [key, plain(value)])))));
"""
)


def run_engine(graphs, calls, forms=None):
    """The outputs of calls [(graph, {input: array})] by the engine, each in one row."""
    packed = packing.pack(graphs, forms=forms)
    given = {
        "described": packed.described,
        "data": packing.text(packed.compressed()),
        "calls": [
            [name, {key: np.ravel(x).tolist() for key, x in inputs.items()}]
            for name, inputs in calls
        ],
    }
    done = subprocess.run(
        [str(NODE), "-e", PROGRAM], input=json.dumps(given), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return [{k: np.array(v, float) for k, v in one.items()} for one in json.loads(done.stdout)]


def inputs_of(one, seed=0):
    """Inputs that suit a graph, by their names."""
    rng, found = np.random.default_rng(seed), {}
    for name, number in one.inputs.items():
        dtype, shape = one.shapes[number]
        if name in ("image", "noise"):
            found[name] = rng.uniform(0.05, 0.95, shape).astype(np.float32)
        elif dtype == "int32":
            found[name] = rng.integers(0, 2, shape).astype(np.int32)
        else:
            found[name] = rng.normal(size=shape).astype(np.float32)
    return found


def compare(graphs, calls, tolerance):
    """Both interpreters agree, relative to numbers above 1."""
    found = run_engine(graphs, calls)
    for (name, inputs), seen in zip(calls, found, strict=True):
        wanted = interpreter.run(graphs[name], *inputs.values())
        for output, expected in zip(graphs[name].outputs, wanted, strict=True):
            expected = np.ravel(expected).astype(float)
            error = np.abs(seen[output] - expected) / np.maximum(1, np.abs(expected))
            assert error.max() <= tolerance, (name, output, error.max())


# ---- operations


def _convolve(x, kernel, stride=1, pads=(1, 1), dilation=1, spread=1):
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [pads, pads],
        lhs_dilation=(dilation, dilation),
        rhs_dilation=(spread, spread),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


KERNEL = np.random.default_rng(1).normal(size=(3, 3, 3, 5)).astype(np.float32)
WIDE = np.random.default_rng(3).normal(size=(3, 3, 20, 27)).astype(np.float32) / 20
MATRIX = np.random.default_rng(2).normal(size=(6, 7)).astype(np.float32)
ROW = np.arange(7, dtype=np.float32)
# (function, shapes of its inputs)
CASES = {
    "matrix of one row": (lambda x: jax.nn.relu(x) @ MATRIX + ROW, [(1, 6)]),
    "matrix of rows": (lambda x: x @ MATRIX + ROW, [(5, 6)]),
    "two unknown matrices": (lambda x, y: x @ y, [(5, 6), (6, 3)]),
    "products of a batch": (lambda x, y: jnp.einsum("bij,bkj->bki", x, y), [(2, 3, 4), (2, 5, 4)]),
    "convolution": (lambda x: _convolve(x, KERNEL) + ROW[:5], [(1, 6, 5, 3)]),
    "strides": (lambda x: _convolve(x, KERNEL, 2, (1, 0)), [(2, 7, 6, 3)]),
    "transpose": (lambda x: _convolve(x, KERNEL, 1, (1, 2), 2), [(1, 4, 5, 3)]),
    "transpose by three": (lambda x: _convolve(x, KERNEL, 1, (2, 3), 3), [(1, 3, 2, 3)]),
    "transpose with strides": (lambda x: _convolve(x, KERNEL, 2, (2, 2), 3), [(1, 5, 4, 3)]),
    "wide kernel": (lambda x: _convolve(x, KERNEL, 1, (2, 2), 1, 2), [(1, 6, 6, 3)]),
    "large convolution": (
        lambda x: _convolve(x, WIDE[:, :, :5]) + WIDE[0, 0, 0],
        [(1, 17, 19, 5)],
    ),
    "large transpose": (lambda x: _convolve(x, WIDE, 1, (1, 2), 2), [(1, 16, 15, 20)]),
    "cut edges": (lambda x: _convolve(x, KERNEL, 1, (-1, -1)), [(1, 8, 8, 3)]),
    "unknown kernel": (lambda x, w: _convolve(x, w), [(1, 4, 4, 2), (3, 3, 2, 3)]),
    "smooth": (
        lambda x: [
            f(x) for f in (jnp.exp, jnp.tanh, jax.nn.sigmoid, jax.nn.gelu, jax.nn.elu, lax.erf)
        ],
        [(4, 3)],
    ),
    "positive": (
        lambda x: [f(jnp.abs(x) + 0.1) for f in (jnp.log, jnp.sqrt, lax.rsqrt, jnp.log1p)],
        [(9,)],
    ),
    "tails": (lambda x: lax.erf_inv(jnp.tanh(2 * x)), [(40,)]),
    "rounding": (lambda x: [jnp.floor(4 * x), jnp.ceil(x), jnp.round(2 * x), jnp.sign(x)], [(30,)]),
    "halves": (lambda x: jnp.round(jnp.arange(-3.5, 4) + 0 * x), [(8,)]),
    "choices": (lambda x, y: [jnp.where(x > y, x, 2 * y), jnp.clip(x, -0.5, 0.5)], [(4, 5), (5,)]),
    "axes": (
        lambda x: [x.T[::-1], jnp.flip(x, 1)[:, 1:4:2], jnp.pad(x, ((1, 2), (0, 1)))],
        [(3, 5)],
    ),
    "cut": (lambda x: lax.pad(x, 0.5, [(-1, 2, 1), (3, -2, 0)]), [(3, 5)]),
    "joined": (lambda x, y: jnp.concatenate([x, y, x], 1), [(2, 3), (2, 1)]),
    "stacked": (lambda x: jnp.stack([x, 2 * x], 1), [(2, 3)]),
    "reductions": (lambda x: [x.sum(1), x.max((0, 2)), x.min(), x.prod(0)], [(2, 3, 4)]),
    "furthest": (lambda x: [jnp.argmax(x, 1), jnp.argmin(x, 0)], [(3, 4)]),
    "sums": (lambda x: [jnp.cumsum(x, 1), lax.cumsum(x, 0, reverse=True)], [(3, 4)]),
    "taken": (
        lambda x, y: jnp.asarray(MATRIX)[jnp.argmax(x, 1)] + y[:, jnp.array([2, 0])].sum(),
        [(4, 6), (3, 4)],
    ),
    "one-hot": (lambda x: jax.nn.one_hot(jnp.argmax(x, -1), 5), [(4, 5)]),
    "whole numbers": (lambda x: (x * 9).astype(jnp.int32) % 4 // 2 * 7, [(12,)]),
    "bits": (lambda x: ~(x * 9).astype(jnp.int32), [(12,)]),
    "not a number": (lambda x: jnp.isnan(jax.nn.relu(jnp.log(x)) * 2), [(12,)]),
    "powers": (lambda x: [x**3, x**-2, jnp.abs(x) ** 1.5], [(6,)]),
    "not finite": (lambda x: jnp.isfinite(jnp.where(x > 0, x, jnp.inf)), [(6,)]),
}


def graphs_of(cases):
    with jax.numpy_rank_promotion("allow"):
        return {
            name: tracing.trace(f, *(jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes))
            for name, (f, shapes) in cases.items()
        }


@needs_node
def test_the_engine_computes_every_operation_as_numpy_does():
    graphs = graphs_of(CASES)
    compare(graphs, [(name, inputs_of(one)) for name, one in graphs.items()], 2e-6)
    seen = {op.name for one in graphs.values() for op in one.ops}
    assert {"conv_general_dilated", "dot_general", "take", "pad", "select_n", "argmin"} <= seen


@needs_node
def test_large_convolutions_do_not_need_webassembly(monkeypatch):
    graphs = graphs_of({name: CASES[name] for name in ("large convolution", "large transpose")})
    calls = [(name, inputs_of(one)) for name, one in graphs.items()]
    fast = run_engine(graphs, calls)
    monkeypatch.setitem(globals(), "PROGRAM", f"delete globalThis.WebAssembly;{PROGRAM}")
    compare(graphs, calls, 2e-6)
    for a, b in zip(fast, run_engine(graphs, calls), strict=True):
        assert (a["output0"] != b["output0"]).any()  # it was in use


# ---- models

SPEC = DataSpec("images", (8, 8, 1), classes=3, levels=256, examples=100)
BODIES = {
    "deep_vae": Body(net="conv", convolutions="native"),
    "vq_vae": Body(net="conv", convolutions="native"),
    "vae": Body(net="resnet", channels=(4,), convolutions="native"),
    "beta_vae": Body(net="conv", convolutions="native", likelihood="continuous_bernoulli"),
    "tc_vae": Body(net="mlp", widths=(9,), likelihood="discretized_logistic"),
    "mmd_vae": Body(net="mlp", widths=(9,), activation="tanh", likelihood="gaussian_pixel"),
}
SMALL = {"flow_vae": {"flow_steps": 2, "flow_width": 8}, "flow_prior_vae": {"flow_width": 8}}
SMALL |= {"vamp_vae": {"pseudo_inputs": 4}, "mog_vae": {"prior_components": 4}}
SMALL |= {"ladder_vae": {"latent_dims": (4, 2), "level_widths": (8, 8)}}
SMALL |= {"deep_vae": {"width": 4, "levels": ("4x2", "1x1")}}


def model_of(name):
    """A recipe, with small random numbers as its variables."""
    body = BODIES.get(name, Body(net="mlp", widths=(9,)))
    sizes = SMALL.get(name, {})
    if "latent_dim" in zoo.RECIPES[name].__kwdefaults__:
        sizes = {"latent_dim": 4, **sizes}
    recipe = zoo.RECIPES[name](SPEC, body, **sizes)
    image, label = jnp.zeros((1, *SPEC.shape)), None
    if recipe.classes is not None:
        label = jnp.zeros(1, jnp.int32)
    shapes = jax.eval_shape(recipe.model.init, jax.random.key(0), image, label)
    rng = np.random.default_rng(0)
    draw = lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) * 0.3, leaf.dtype)  # noqa: E731
    return recipe, jax.tree.map(draw, shapes)


@needs_node
@pytest.mark.parametrize("name", rare(zoo.RECIPES, *({*zoo.RECIPES} - {"vae", "gumbel_vae"})))
def test_the_engine_computes_every_recipe(name):
    found = functions.trace(*model_of(name))
    expected = {"decode", "look", "bound"}
    expected |= set() if name in ("gumbel_vae", "vq_vae") else {"sample"}
    expected |= {"redraw"} if name in ("ladder_vae", "deep_vae") else set()
    assert {*found.graphs} == expected, found.missing
    compare(found.graphs, [(key, inputs_of(one)) for key, one in found.graphs.items()], 1e-5)


@needs_node
def test_decoded_images_are_those_of_jax():
    recipe, variables = model_of("vae")
    found = functions.trace(recipe, variables).graphs["decode"]
    inputs = inputs_of(found)
    wanted = np.ravel(recipe.model.decode(variables, inputs["z"]).mean)
    (exact,) = run_engine({"decode": found}, [("decode", inputs)])
    assert np.abs(exact["image"] - wanted).max() <= 1e-5
    forms = packing.halves({"decode": found})
    (short,) = run_engine({"decode": found}, [("decode", inputs)], forms)
    rounded = recipe.model.decode(
        jax.tree.map(
            lambda x: np.float32(np.float16(x)) if x.size >= packing.LARGE else x, variables
        ),
        inputs["z"],
    ).mean
    assert 0 < np.abs(short["image"] - wanted).max() <= 1e-2
    assert np.abs(short["image"] - np.ravel(rounded)).max() <= 1e-5


def test_latents_are_read_if_the_image_has_a_gradient_in_them():
    recipe, variables = model_of("ladder_vae")  # of 4 and 2
    found = functions.trace(recipe, variables).graphs["decode"]
    z = jnp.asarray(inputs_of(found)["z"])
    slopes = jax.jacobian(lambda z: recipe.model.decode(variables, z).mean.ravel())(z)
    (moving,) = np.nonzero(np.abs(slopes).sum((0, 1)))
    assert moving.tolist() == [*range(functions.latents_read(found))]
    assert len(moving) == 4 and z.shape == (1, 6)


@pytest.mark.parametrize("part", ["decode", "encode", "prior_sample"])
def test_a_model_that_cannot_be_traced_loses_what_needs_it(part):
    recipe, variables = model_of("vae")

    def fails(*given):
        raise RuntimeError("no trace\nof it")

    model = recipe.model._replace(**{part: fails})
    found = functions.trace(recipe._replace(model=model), variables)
    lost = ["sample"] if part == "prior_sample" else ["decode", "look", "bound"]
    assert found.missing == dict.fromkeys(lost, "no trace")
    assert len(found.graphs) == (3 if part == "prior_sample" else 0)


def test_a_model_that_is_not_finite_has_no_explorer():
    run = SimpleNamespace(spec=SimpleNamespace(kind="images"), variables={"w": np.array([np.nan])})
    assert "weights of the model are not finite" in explorer.section(SimpleNamespace(run=run)).body


@pytest.mark.parametrize("standard", [True, False])
def test_an_image_decoded_beforehand_is_that_of_its_place_in_the_plane(standard):
    z = np.random.default_rng(0).normal(1.5, (3.0, 2.0, 1.0), (50, 3))
    run = SimpleNamespace(
        spec=SimpleNamespace(shape=(1, 1, 3), names=()),
        recipe=SimpleNamespace(classes=None),
        latent_size=3,
        decode=lambda z, y: z[:, None, None] / 60 + 0.5,
    )
    directions = facts._principal(z, 3)[0]
    said = {"order": [0, 1, 2], "standard": standard}
    tiles, (low, high) = facts._tiles(run, {"codes": z, "directions": directions}, said)
    n = len(tiles)
    places = ((tiles[:, :, 0, 0] / 255 - 0.5) * 60 - (0 if standard else z.mean(0))) @ directions.T
    across, down = np.meshgrid(np.linspace(low, high, n), np.linspace(high, low, n))
    np.testing.assert_allclose(places, np.stack([across, down], -1), atol=0.25)  # of 8 bits
    assert n == 15 and high >= np.abs((z - (0 if standard else z.mean(0))) @ directions.T).max()


# ---- packing


def test_shared_weights_are_stored_once():
    weights = np.random.default_rng(0).normal(size=(40, 50)).astype(np.float32)
    x = jax.ShapeDtypeStruct((1, 40), jnp.float32)
    one, two = tracing.trace(lambda x: x @ weights, x), tracing.trace(lambda x: x @ weights + 1, x)
    alone = packing.pack({"one": one})
    both = packing.pack({"one": one, "two": two})
    assert len(alone.data) == weights.nbytes and len(both.data) == weights.nbytes + 4
    assert (
        len(packing.pack({"one": one}, forms=packing.halves({"one": one})).data)
        == weights.nbytes // 2
    )
    assert zlib.decompress(both.compressed(), -zlib.MAX_WBITS) == both.data


def test_half_precision_is_two_planes_of_bytes():
    array = np.array([1.5, -2.25, 7e4, 6e-8], np.float32)
    form = packing.half(array)
    raw = np.frombuffer(form.stored, np.uint8).astype(np.uint16)
    expected = [1.5, -2.25, 65504.0, float(np.float16(6e-8))]
    assert (raw[:4] | raw[4:] << 8).astype(np.uint16).view(np.float16).tolist() == expected
    assert form.value.tolist() == expected


@pytest.mark.parametrize("size", range(6))
def test_text_is_base_85_and_ends_no_element(size):
    data = bytes([0, 255, 7, 60, 61, 62][:size])
    assert base64.b85decode(packing.text(data).replace(".", "<")) == data
    many = packing.text(bytes(np.random.default_rng(0).integers(0, 256, 40_000, np.uint8)))
    assert "<" not in many and len(many) == 50_000


# ---- rounding


def product(weights):
    x = jax.ShapeDtypeStruct((1, len(weights)), jnp.float32)
    return tracing.trace(lambda x: x @ weights, x, names=["x"])


def related(rng, count, width, rank):
    """Inputs that depend on a few numbers alone, and a little noise."""
    x = rng.normal(size=(count, rank)) @ rng.normal(size=(rank, width)) / np.sqrt(rank)
    return (x + 0.1 * rng.normal(size=x.shape)).astype(np.float32)


def test_rounding_keeps_products_better_than_the_nearest_whole_number():
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(160, 120)).astype(np.float32)
    x, other = np.split(related(rng, 400, 160, 12), 2)
    [(_, seen)] = rounding.inputs(product(weights), [[one[None]] for one in x]).values()
    np.testing.assert_array_equal(seen, x)
    c = 0.05
    form = rounding._rounded(weights, *rounding._factor(x), c)
    wanted = other @ weights
    error = np.square(other @ form.value - wanted).mean()
    assert error <= 1.5 * len(weights) * c**2 / 12  # as the equation says, and for others, too
    whole = form.value / form.steps[:, None]
    np.testing.assert_allclose(whole, np.rint(whole), atol=1e-3)
    _, counts = np.unique(np.rint(whole), return_counts=True)
    bits = -(counts / counts.sum() * np.log2(counts / counts.sum())).sum()
    # Rounded to the nearest, the same number of bits leaves more than four times the error.
    step = 2.0 ** (np.log2(np.sqrt(2 * np.pi * np.e)) - bits)
    nearest = np.rint(weights / step) * step
    assert np.square(other @ nearest - wanted).mean() > 4 * error


@needs_node
def test_the_engine_reads_rounded_matrices():
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(160, 120)).astype(np.float32)
    one, x = product(weights), related(rng, 60, 160, 5)
    matrices = rounding.inputs(one, [[each[None]] for each in x[:50]])

    def error(forms):
        given = packing.shown(one, forms)
        runs = [interpreter.run(given, each[None])[0] - each[None] @ weights for each in x[50:]]
        return float(np.abs(runs).max())

    forms = rounding.rounded(matrices, error, 0.05)
    assert forms is not None and 0 < error(forms) <= 0.05
    (seen,) = run_engine({"one": one}, [("one", {"x": x[55]})], forms)
    (expected,) = interpreter.run(packing.shown(one, forms), x[55:56])
    np.testing.assert_allclose(seen["output0"], expected[0], atol=1e-4)
    assert len(packing.pack({"one": one}, forms=forms).compressed()) < 1.2 * weights.size


def test_no_rounding_is_better_than_one_that_is_off():
    weights = np.random.default_rng(0).normal(size=(160, 120)).astype(np.float32)
    matrices = rounding.inputs(product(weights), [[np.ones((1, 160), np.float32)]] * 3)
    assert rounding.rounded(matrices, lambda forms: 1.0, 0.05) is None
    assert rounding.rounded(matrices, lambda forms: float("nan"), 0.05) is None


@pytest.mark.parametrize(("off", "close"), [([0.5, 0], True), ([0, 0.5], False)])
def test_each_code_is_close_in_its_own_spread(off, close):
    x = jax.ShapeDtypeStruct((1, 2), jnp.float32)
    decode = tracing.trace(lambda z: z, x, names=["z"], outputs=["image"])
    look = tracing.trace(
        lambda x: (x + np.float32([off]), x), x, names=["image"], outputs=["z", "image"]
    )
    zeros = dict.fromkeys(["probe_codes", "probe_images", "probe_pixels"], np.zeros((1, 2), "f4"))
    arrays = zeros | {"sd": np.float32([100, 1])}
    found = functions.Functions({"decode": decode, "look": look}, {})
    assert weights.is_close(found, arrays, {}) == close


def test_weights_take_the_fewest_bytes_that_are_close(monkeypatch):
    recipe = zoo.RECIPES["vae"](SPEC, Body(net="mlp", widths=(300,)), latent_dim=4)
    shapes = jax.eval_shape(recipe.model.init, jax.random.key(0), jnp.zeros((1, *SPEC.shape)), None)
    rng = np.random.default_rng(0)
    draw = lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) * 0.1, leaf.dtype)  # noqa: E731
    found = functions.trace(recipe, jax.tree.map(draw, shapes))
    pixels = rng.uniform(size=(40, *SPEC.shape)).astype(np.float32)
    codes = np.concatenate([interpreter.run(found.graphs["look"], x[None])[0] for x in pixels])
    images = [interpreter.run(found.graphs["decode"], z[None])[0] for z in codes[:4]]
    arrays = {"pictures": (pixels * 255).round().astype(np.uint8), "codes": codes}
    arrays |= {"mean": codes.mean(0), "sd": codes.std(0), "probe_pixels": pixels[:4]}
    arrays |= {"probe_codes": codes[:4], "probe_images": np.concatenate(images)}

    def size():
        forms, name = weights.choose(found, arrays, None)
        return name, len(packing.pack(found.graphs, forms=forms).compressed())

    (first, small), _ = size(), monkeypatch.setattr(rounding, "LEAST", 10**9)
    (second, middle), _ = size(), monkeypatch.setattr(weights, "CLOSE", 0.0)
    third, large = size()
    assert [first, second, third] == ["rounded", "float16", "float32"]
    assert small < 0.7 * middle and middle < 0.6 * large
