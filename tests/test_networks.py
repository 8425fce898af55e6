"""Networks: shapes, parameters, labels, and what their weights say."""

import functools
import itertools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxvae import lookup
from flaxvae.core import Batch
from flaxvae.parts import assemble, convolutions, image_networks, latents, likelihoods, networks
from flaxvae.recipe import DataSpec


def uniform(seed, *shape):
    return jax.random.uniform(jax.random.key(seed), shape)


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def filled(fill, init, *args):
    """Variables with leaves fill(shape), which need no compilation of ``init``."""
    variables = jax.eval_shape(init, jax.random.key(0), *args)
    return jax.tree.map(lambda leaf: jnp.asarray(fill(leaf.shape), leaf.dtype), variables)


def gaussians(seed, scale=0.3):
    rng = np.random.default_rng(seed)
    return lambda shape: scale * rng.standard_normal(shape)


# XLA's convolutions compile faster; that both lowerings agree has its own test.
native_conv = functools.partial(image_networks.conv, lowering="native")
native_resnet = functools.partial(image_networks.resnet, lowering="native")
tiny_resnet = functools.partial(native_resnet, channels=(3, 4))
NETS = {
    "mlp": functools.partial(networks.mlp, widths=(8,)),
    "conv": native_conv,
    "conv-grid": functools.partial(native_conv, spatial=True),
    "resnet": tiny_resnet,
    "resnet-grid": functools.partial(tiny_resnet, spatial=True),
}
HEADS = {"mean": 4, "log_var": 4}
# The smallest map after two halvings, each rounding up.
SHAPES = {(28, 28, 1): (7, 7), (10, 14, 3): (3, 4), (7, 5, 1): (2, 2), (1, 2, 3): (1, 1)}


@pytest.mark.parametrize("classes", [None, 10])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("net", NETS)
def test_network_shapes(net, shape, classes):
    network = NETS[net](shape, HEADS, 2 * shape[-1])
    labels = None if classes is None else jnp.zeros((3, classes))

    def run(key):
        heads, _ = network.encoder.init_with_output(key, jnp.zeros((3, *shape)), labels)
        return heads, network.decoder.init_with_output(key, heads["mean"], labels)[0]

    heads, raw = jax.eval_shape(run, jax.random.key(0))
    h, w = SHAPES[shape] if "grid" in net else (1, 1)
    assert network.grid == (h, w)
    assert {name: head.shape for name, head in heads.items()} == dict.fromkeys(
        HEADS, (3, h * w * 4)
    )
    assert raw.shape == (3, *shape[:2], 2 * shape[-1])
    assert {a.dtype for a in jax.tree.leaves((heads, raw))} == {jnp.dtype("float32")}


def test_mlp_of_vectors_gives_values_a_vector():
    network = networks.mlp((5,), {"code": 2}, 10)
    raw, _ = jax.eval_shape(network.decoder.init_with_output, jax.random.key(0), jnp.zeros((3, 2)))
    assert raw.shape == (3, 10)


# --- parameters ---------------------------------------------------------------------------------


def count(model, shape):
    example = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    params = jax.eval_shape(model.init, jax.random.key(0), example)["params"]
    sizes = jax.tree.map(lambda leaf: leaf.size, params)
    return {half: sum(jax.tree.leaves(tree)) for half, tree in sizes.items()}


def test_parameters_of_the_tutorials_conv_net():
    """Kernels and biases: Conv 32, Conv 64, Dense 256, two heads of 20, and back."""
    latent = latents.gaussian(20)
    network = image_networks.conv((28, 28, 1), latent.heads, 1)
    encoder = [
        3 * 3 * 1 * 32 + 32,
        3 * 3 * 32 * 64 + 64,
        7 * 7 * 64 * 256 + 256,
        2 * (256 * 20 + 20),
    ]
    decoder = [
        20 * 256 + 256,
        256 * 7 * 7 * 64 + 7 * 7 * 64,
        3 * 3 * 64 * 32 + 32,
        3 * 3 * 32 * 1 + 1,
    ]
    model = assemble.model(network, latent, likelihoods.bernoulli(1))
    assert count(model, (28, 28, 1)) == {"encoder": sum(encoder), "decoder": sum(decoder)}


def test_parameters_of_an_mlp():
    latent = latents.gaussian(3)
    network = networks.mlp((8, 8, 1), latent.heads, 2, (16, 5))
    model = assemble.model(network, latent, likelihoods.gaussian_pixel(1))
    encoder = (64 * 16 + 16) + (16 * 5 + 5) + 2 * (5 * 3 + 3)
    decoder = (3 * 5 + 5) + (5 * 16 + 16) + (16 * 128 + 128)
    assert count(model, (8, 8, 1)) == {"encoder": encoder, "decoder": decoder}


CONV_PARAMETERS = {  # name: shape, and the last number drawn from key 0
    "encoder": {
        "conv_0/kernel": ((3, 3, 2, 32), 0.211826),
        "conv_1/kernel": ((3, 3, 32, 64), -0.005634149),
        "dense/kernel": ((256, 256), 0.02818348),
        "heads/code/kernel": ((256, 3), 0.03274991),
    },
    "decoder": {
        "conv_0/kernel": ((3, 3, 2, 32), 0.05295649),
        "conv_1/kernel": ((3, 3, 32, 64), -0.003983945),
        "dense_0/kernel": ((3, 256), 0.07481498),
        "dense_1/kernel": ((256, 256), -0.03588642),
    },
}


def test_conv_keeps_the_names_and_draws_of_its_parameters():
    """What checkpoints and published seeds rely on."""
    network = image_networks.conv((5, 6, 2), {"code": 3}, 2)
    trees = {
        "encoder": jax.jit(network.encoder.init)(jax.random.key(0), jnp.zeros((1, 5, 6, 2))),
        "decoder": jax.jit(network.decoder.init)(jax.random.key(0), jnp.zeros((1, 3))),
    }
    for half, tree in trees.items():
        leaves = jax.tree_util.tree_flatten_with_path(tree["params"])[0]
        found = {"/".join(key.key for key in path): leaf for path, leaf in leaves}
        biases = [leaf for name, leaf in found.items() if name.endswith("bias")]
        assert not any(np.any(bias) for bias in biases)
        kernels = {name: leaf for name, leaf in found.items() if name.endswith("kernel")}
        assert len(biases) == len(kernels)
        shapes = {name: (kernel.shape, 0) for name, kernel in kernels.items()}
        assert shapes == {n: (shape, 0) for n, (shape, _) in CONV_PARAMETERS[half].items()}
        for name, kernel in kernels.items():
            drawn = CONV_PARAMETERS[half][name][1]
            np.testing.assert_allclose(kernel.reshape(-1)[-1], drawn, rtol=1e-5, err_msg=name)


# --- what the weights say -----------------------------------------------------------------------


@pytest.mark.parametrize("activation", sorted(networks.ACTIVATIONS))
def test_mlp_is_what_its_weights_say(activation):
    """Two hidden layers written out; the decoder mirrors the encoder's widths."""
    reference = {"relu": jax.nn.relu, "tanh": jnp.tanh, "gelu": jax.nn.gelu}
    reference |= {"silu": jax.nn.silu, "elu": jax.nn.elu}
    sizes = {"code": 4, "spread": 3}
    network = networks.mlp((2, 3), sizes, 6, (7, 5), activation)
    x = normal(0, 6, 2, 3)
    variables = filled(gaussians(0), network.encoder.init, x)
    heads = jax.jit(network.encoder.apply)(variables, x)

    def dense(x, layer):
        return x @ layer["kernel"] + layer["bias"][None]

    act, p = reference[activation], variables["params"]
    hidden = act(dense(act(dense(x.reshape(6, 6), p["body"]["Dense_0"])), p["body"]["Dense_1"]))
    expected = {name: dense(hidden, p["heads"][name]) for name in sizes}
    chex.assert_trees_all_close(heads, expected, rtol=1e-5, atol=1e-6)
    variables = filled(gaussians(1), network.decoder.init, heads["code"])
    raw = jax.jit(network.decoder.apply)(variables, heads["code"])
    p = variables["params"]
    hidden = act(dense(heads["code"], p["body"]["Dense_0"]))
    hidden = act(dense(hidden, p["body"]["Dense_1"]))
    assert p["body"]["Dense_0"]["kernel"].shape == (4, 5)
    expected = dense(hidden, p["out"]).reshape(6, 2, 6)
    np.testing.assert_allclose(raw, expected, rtol=1e-5, atol=1e-6)


def naive_dense(x, layer):
    return x @ layer["kernel"] + layer["bias"]


def naive_conv(x, layer, stride=1):
    """Tap by tap: y[p] = bias + sum_t x[stride p + t - 1] kernel[t], zero outside the image."""
    kernel, (h, w) = layer["kernel"], x.shape[1:3]
    y = np.zeros((len(x), -(-h // stride), -(-w // stride), kernel.shape[3])) + layer["bias"]
    for i, j, s, t in itertools.product(range(y.shape[1]), range(y.shape[2]), range(3), range(3)):
        row, column = stride * i + s - 1, stride * j + t - 1
        if 0 <= row < h and 0 <= column < w:
            y[:, i, j] += x[:, row, column] @ kernel[s, t]
    return y


def naive_conv_transpose(y, layer, size):
    """Each pixel p of y adds its stamp at 2 p + t - 1."""
    kernel, (h, w) = layer["kernel"], size
    x = np.zeros((len(y), h, w, kernel.shape[2])) + layer["bias"]
    for i, j, s, t in itertools.product(range(y.shape[1]), range(y.shape[2]), range(3), range(3)):
        row, column = 2 * i + s - 1, 2 * j + t - 1
        if 0 <= row < h and 0 <= column < w:
            x[:, row, column] += y[:, i, j] @ kernel[s, t].T
    return x


def silu(x):
    return x / (1 + np.exp(-x))


def naive_block(x, p):
    return x + naive_conv(silu(naive_conv(silu(x), p["conv_0"])), p["conv_1"])


def naive_resnet(encoder, decoder, x, z, labels, grid):
    """Two halvings of 5x6 and one block at each size: both halves, in numpy and float64."""
    maps = np.tile(labels[:, None, None], (1, 5, 6, 1))
    x = silu(naive_conv(np.concatenate([x, maps], -1) if grid else x, encoder["stem"]))
    for i in range(2):
        x = naive_conv(x, encoder[f"conv_{i}"], stride=2)
        x = silu(naive_block(x, encoder[f"block_{i}_0"]))
    if not grid:
        x = np.concatenate([x.reshape(len(x), -1), labels], -1)
        x = silu(naive_dense(x, encoder["dense"]))
    code = naive_dense(x, encoder["heads"]["code"]).reshape(len(x), -1)

    if grid:
        maps = np.tile(labels[:, None, None], (1, 2, 2, 1))
        y = naive_conv(np.concatenate([z.reshape(-1, 2, 2, 3), maps], -1), decoder["grid"])
    else:
        y = silu(naive_dense(np.concatenate([z, labels], -1), decoder["dense_0"]))
        y = naive_dense(y, decoder["dense_1"]).reshape(-1, 2, 2, 4)
    for i, size in [(1, (3, 3)), (0, (5, 6))]:
        y = silu(naive_block(y, decoder[f"block_{i}_0"]))
        y = naive_conv_transpose(y, decoder[f"conv_{i}"], size)
    return code, naive_conv(silu(y), decoder["stem"])


@pytest.mark.parametrize("grid", [False, True], ids=["flat", "grid"])
def test_resnet_is_what_its_weights_say(grid):
    shape = (5, 6, 2)
    network = tiny_resnet(shape, {"code": 3}, 2, spatial=grid)
    x, labels = normal(0, 4, *shape), jax.nn.one_hot(jnp.arange(4), 5)
    z = normal(1, 4, 12 if grid else 3)

    # Biases are not zero here, and blocks are far from the identity.
    encoder = filled(gaussians(0), network.encoder.init, x, labels)
    decoder = filled(gaussians(1), network.decoder.init, z, labels)
    code = jax.jit(network.encoder.apply)(encoder, x, labels)["code"]
    raw = jax.jit(network.decoder.apply)(decoder, z, labels)
    arrays = jax.tree.map(np.float64, (encoder["params"], decoder["params"], x, z, labels))
    expected = naive_resnet(*arrays, grid)
    for found, wanted in zip((code, raw), expected):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize(
    "net", [image_networks.conv, functools.partial(image_networks.resnet, channels=(3,))]
)
def test_networks_are_the_same_in_both_lowerings(net):
    """One set of parameters, outputs and all gradients, by GEMM and by XLA's convolutions."""
    shape = (5, 6, 2)
    both = {name: net(shape, {"code": 3}, 2, lowering=name) for name in ("gemm", "native")}
    x, target = normal(0, 4, *shape), normal(1, 4, *shape)
    encoder = filled(gaussians(0, 0.1), both["gemm"].encoder.init, x)
    params = (encoder, filled(gaussians(1, 0.1), both["gemm"].decoder.init, jnp.zeros((4, 3))))

    def run(network, params, x):
        code = network.encoder.apply(params[0], x)["code"]
        raw = network.decoder.apply(params[1], code)
        return jnp.vdot(raw, target), (code, raw)

    gradient = jax.value_and_grad(run, argnums=1, has_aux=True)
    found = {
        name: jax.jit(functools.partial(gradient, network))(params, x)
        for name, network in both.items()
    }
    chex.assert_trees_all_equal_shapes_and_dtypes(found["gemm"], found["native"])
    for a, b in zip(*map(jax.tree.leaves, found.values())):  # sums taken in another order
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())


@pytest.mark.parametrize("net", ["conv", "resnet"])
def test_the_lowering_is_chosen_when_a_network_is_built(net, monkeypatch):
    """And is that of a program for another platform, too; "auto" is what JAX runs on by default."""

    def convolutions_of(choice):
        """In a training step, compiled here for a GPU."""
        loss, params = built(net=net, convolutions=choice)
        monkeypatch.setattr(jax, "default_backend", lambda: pytest.fail("asked in a trace"))
        traced = jax.jit(jax.grad(loss)).trace(params)
        monkeypatch.undo()
        return traced.lower(lowering_platforms=("cuda",)).as_text().count("stablehlo.convolution")

    assert convolutions_of("gemm") == convolutions_of("auto") == 0
    assert convolutions_of("native") > 10
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert convolutions.lowering("auto") is convolutions.NATIVE
    monkeypatch.setattr(jax, "default_backend", lambda: pytest.fail("asked without need"))
    assert convolutions.lowering("gemm") is convolutions.GEMM
    assert convolutions.lowering("native") is convolutions.NATIVE


def test_a_residual_block_begins_near_the_identity():
    """Near it, and with a gradient for each of its parameters in the first step."""
    lowering, block = convolutions.NATIVE, image_networks.Residual(8)
    x, target = normal(0, 4, 6, 6, 8), normal(1, 4, 6, 6, 8)

    @jax.jit
    def run(key):
        variables = block.init(key, lowering, x)
        y = block.apply(variables, lowering, x)
        loss = lambda v: jnp.vdot(block.apply(v, lowering, x), target)  # noqa: E731
        return y, jax.grad(loss)(variables)

    y, gradient = run(jax.random.key(2))
    relative = np.linalg.norm(y - x) / np.linalg.norm(x)
    assert 0.01 < relative < 0.2
    assert all(np.abs(leaf).min() > 0 for leaf in jax.tree.leaves(gradient))


def test_depth_does_not_shrink_the_signals_of_a_resnet():
    """The spread of the posterior means across images, from 1 block at each size to 8."""
    x = uniform(0, 16, 16, 16, 1)

    def spread(blocks):
        network = native_resnet((16, 16, 1), {"mean": 8}, 1, (8, 8), blocks)
        heads, _ = jax.jit(network.encoder.init_with_output)(jax.random.key(1), x)
        return heads["mean"].std(0).mean()

    shallow, deep = spread(1), spread(8)
    assert shallow > 0.01
    assert deep > 0.5 * shallow


# --- grids --------------------------------------------------------------------------------------

# Strides of the encoder's 3x3 layers, from the image inwards.
CONV_LAYERS = [2, 2]
RESNET_LAYERS = [1, 2, 1, 1, 2, 1, 1]


def seen_by(point, strides):
    """Rows that a row of the grid sees through 3x3 convolutions: first and last, unclipped."""
    first = last = point
    for stride in reversed(strides):
        first, last = stride * first - 1, stride * last + 1
    return first, last


def sees(points, pixel, strides):
    """[points] whether each row of the grid sees this row of the image."""
    ranges = [seen_by(point, strides) for point in range(points)]
    return np.array([first <= pixel <= last for first, last in ranges])


@pytest.mark.parametrize("net", ["conv-grid", "resnet-grid"])
def test_a_grid_is_local(net):
    """A pixel moves just the points that see it, and a point just the pixels that it is sent to.

    With all weights positive nothing cancels, so that every connection shows.
    """
    shape, (h, w), size = (24, 39, 1), (6, 10), 2
    network = NETS[net](shape, {"code": size}, 1)
    x, z = uniform(0, 1, *shape), uniform(1, 1, h * w * size)

    fill = functools.partial(np.full, fill_value=0.05)
    encoder = filled(fill, network.encoder.init, x)
    decoder = filled(fill, network.decoder.init, z)
    encode = jax.jit(lambda x: network.encoder.apply(encoder, x)["code"].reshape(h, w, size))
    decode = jax.jit(lambda z: network.decoder.apply(decoder, z)[0, :, :, 0])

    inwards = RESNET_LAYERS if "resnet" in net else CONV_LAYERS
    before = encode(x)
    for row, column in [(0, 0), (23, 38), (0, 38), (11, 20)]:
        moved = np.asarray(encode(x.at[0, row, column].add(1e3)) != before)
        expected = np.outer(sees(h, row, inwards), sees(w, column, inwards))
        assert 0 < expected.sum() < expected.size
        np.testing.assert_array_equal(moved, np.repeat(expected[..., None], size, -1))

    # The decoder's reach is the same relation, with the convolution at the grid before it.
    outwards, before = [*inwards, 1], decode(z)
    for row, column in [(0, 0), (5, 9), (2, 7)]:
        index = (row * w + column) * size + 1
        moved = np.asarray(decode(z.at[0, index].add(1e3)) != before)
        rows = np.array([sees(h, pixel, outwards)[row] for pixel in range(24)])
        columns = np.array([sees(w, pixel, outwards)[column] for pixel in range(39)])
        expected = np.outer(rows, columns)
        assert 0 < expected.sum() < expected.size
        np.testing.assert_array_equal(moved, expected)


# --- labels -------------------------------------------------------------------------------------


@pytest.mark.parametrize("net", NETS)
def test_labels_reach_both_networks(net):
    shape, latent = (4, 4, 1), latents.gaussian(2)
    network = NETS[net](shape, latent.heads, 1)
    x, y = uniform(0, 6, *shape), jnp.arange(6)
    z = normal(2, 6, 2)  # the grid is 1x1

    @functools.partial(jax.jit, static_argnums=0)
    def outputs(model, variables, y):
        return model.encode(variables, x, y)["mean"], model.decode(variables, z, y).logits

    model = assemble.model(network, latent, likelihoods.bernoulli(1), classes=10)
    variables = filled(gaussians(0), model.init, x, y)
    here, there = outputs(model, variables, y), outputs(model, variables, y + 1)
    for a, b in zip(here, there):
        assert (np.abs(np.asarray(a - b)).reshape(6, -1).max(-1) > 1e-4).all()
    mixed = outputs(model, variables, y.at[0].set(7))
    for a, b in zip(here, mixed):  # each row sees its own label only
        np.testing.assert_allclose(a[1:], b[1:], rtol=1e-5, atol=1e-6)
        assert (np.asarray(a[0]) != np.asarray(b[0])).any()


def test_without_classes_labels_change_nothing():
    latent = latents.gaussian(2)
    network = NETS["mlp"]((4, 4, 1), latent.heads, 1)
    model = assemble.model(network, latent, likelihoods.bernoulli(1))
    x, y, z = uniform(0, 6, 4, 4, 1), jnp.arange(6), normal(2, 6, 2)
    variables = filled(gaussians(0), model.init, x)
    for function, argument in [(model.encode, x), (model.decode, z)]:
        chex.assert_trees_all_equal(
            function(variables, argument, y), function(variables, argument, y + 1)
        )


# --- precision, rematerialisation ---------------------------------------------------------------


def built(**choices):
    """A vae of 8x8 images: its loss as a function of the parameters, and parameters."""
    spec = DataSpec("noise", (8, 8, 1), None, False, 17, 100)
    recipe = lookup.build("vae", spec, **choices)
    x = np.random.default_rng(0).random((4, 8, 8, 1), np.float32)
    variables = jax.jit(recipe.model.init)(jax.random.key(0), x)

    def loss(params):
        return recipe.loss({"params": params}, jax.random.key(1), Batch(x), jnp.int32(0))[0]

    return loss, variables["params"]


def kept(loss, params) -> int:
    """Numbers that the forward pass keeps for the gradient."""
    backward = jax.eval_shape(lambda p: jax.vjp(loss, p)[1], params)
    return sum(leaf.size for leaf in jax.tree.leaves(backward))


@pytest.mark.slow
def test_remat_keeps_less_and_changes_no_gradient():
    plain, params = built(net="resnet", channels=(8,), blocks=3)
    remat, same = built(net="resnet", channels=(8,), blocks=3, remat=True)
    chex.assert_trees_all_equal(params, same)
    assert kept(remat, params) < 0.9 * kept(plain, params)
    found, expected = jax.jit(jax.grad(remat))(params), jax.jit(jax.grad(plain))(params)
    chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("net", ["conv", "mlp"])
def test_bf16_computes_in_bf16_from_and_to_float32(net):
    """Every product of the networks, and nothing that is kept, summed or scored."""
    full, params = built(net=net)
    half, same = built(net=net, precision="bf16")
    chex.assert_trees_all_equal(params, same)
    program = str(jax.make_jaxpr(half)(params))
    products = re.findall(r":(\w+)\[[\d,]*\] = dot_general", program)
    assert products == ["bf16"] * {"conv": 8, "mlp": 6}[net]
    value, gradient = jax.jit(jax.value_and_grad(half))(params)
    assert {leaf.dtype.name for leaf in jax.tree.leaves((value, gradient))} == {"float32"}
    expected, exact = jax.jit(jax.value_and_grad(full))(params)
    assert value != expected
    np.testing.assert_allclose(value, expected, rtol=1e-3)
    flat = lambda tree: np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])  # noqa: E731
    error = np.linalg.norm(flat(gradient) - flat(exact)) / np.linalg.norm(flat(exact))
    assert error < 0.05


@pytest.mark.parametrize("shape", [(6272, 8), (8, 14, 14, 32)])
def test_the_gradient_of_a_bias_is_summed_in_float32(shape):
    """A sum in bf16 stops at a few hundred of these terms."""
    bias = jnp.zeros([1 if n > 8 else n for n in shape], jnp.bfloat16)
    half = jnp.ones(shape, jnp.bfloat16)
    found = jax.grad(lambda b: networks.add_bias(half, b).astype(jnp.float32).sum())(bias)
    assert networks.add_bias(half, bias).dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, jnp.bfloat16(half.size / bias.size))
