"""deep_vae: latents as maps at many resolutions, one block given those above it."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conftest import rare
from flaxvae import core, lookup
from flaxvae.errors import UsageError
from flaxvae.parts import convolutions, deep, likelihoods, resolutions
from flaxvae.recipe import DataSpec

SPEC = DataSpec("bits", (7, 5, 1), binary=True, levels=2, examples=100)
LEVELS = resolutions.levels((7, 5), ("4x2", "1x1"), 4, ())
X = jax.random.bernoulli(jax.random.key(1), 0.4, (6, 7, 5, 1)).astype(jnp.float32)
KEY = jax.random.key(2)


@functools.cache
def made(lowering=convolutions.GEMM, levels=LEVELS):
    """A model whose heads say something, as they do not at the start."""
    model = deep.model((7, 5, 1), levels, likelihoods.bernoulli(1), lowering)
    rng, variables = np.random.default_rng(3), jax.jit(model.init)(jax.random.key(0), X)
    return model, jax.tree.map(lambda x: x + np.float32(rng.normal(0, 0.1, x.shape)), variables)


def drawn(model, variables, n, temperature=1.0):
    sample = jax.jit(model.prior_sample, static_argnums=2)
    return np.asarray(sample(variables, KEY, n, None, jnp.asarray(temperature)))


# ---- levels


@pytest.mark.parametrize(
    ("size", "words"),
    [
        ((28, 28), "14x2 7x3 4x2 1x1"),
        ((32, 32), "16x2 8x2 4x2 1x1"),
        ((64, 48), "32x2 16x2 8x2 4x2 1x1"),
        ((7, 5), "4x2 1x1"),
        ((3, 2), "2x2 1x1"),
        ((1, 1), "1x1"),
    ],
)
def test_levels_that_suit_an_image(size, words):
    assert " ".join(resolutions.by_default(size)) == words
    found = resolutions.levels(size, (), 16, ())
    assert found[-1].size == (1, 1) and found[-1].latents == 16
    assert [f"{max(level.size)}x{level.blocks}" for level in found] == words.split()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"levels": ("14x3",)}, r"--levels 14x3: an image of 7x5 has no maps of side 14"),
        ({"levels": ("4",)}, r"--levels 4: expected SIDExBLOCKS"),
        ({"levels": ("4x0",)}, r"--levels 4x0: expected SIDExBLOCKS"),
        ({"levels": ("4x10000",)}, r"--levels 4x10000: expected SIDExBLOCKS"),
        ({"levels": ("4x" + "9" * 5000,)}, r"expected SIDExBLOCKS"),
        ({"levels": ("1x1", "4x1")}, r"--levels 4x1: expected the largest maps first"),
        ({"latent_channels": (0, 2)}, r"--latent-channels 0 2: expected 2 numbers, 1 or more"),
        ({"latent_channels": (1,)}, r"--latent-channels 1: expected 2 numbers"),
        ({"width": 0}, "--width 0"),
        ({"net": "mlp"}, "--net mlp has no effect: deep_vae has a network of its own"),
        ({"net": "conv"}, "--net conv has no effect: deep_vae has a network of its own"),
        ({"widths": (8, 4)}, "--widths 8 4 has no effect: deep_vae has a network of its own"),
        ({"share_top": True}, "--share-top with 1 block of the smallest maps: expected 2 or more"),
    ],
)
def test_what_is_refused(given, words):
    from flaxvae.errors import typed_by

    with typed_by("flaxvae"), pytest.raises(UsageError, match=words):
        lookup.build("deep_vae", SPEC, **given)


@pytest.mark.parametrize(
    ("shape", "likelihood"),
    [
        ((8, 8, 1), "bernoulli"),
        pytest.param((28, 28, 1), "bernoulli", marks=pytest.mark.slow),
        ((28, 20, 1), "discretized_logistic"),
        ((32, 32, 3), "logistic_mixture"),
        ((64, 48, 3), "gaussian_shared"),
    ],
)
def test_images_of_any_size_and_channels(shape, likelihood):
    made = lookup.build("deep_vae", DataSpec("x", shape, levels=256), likelihood=likelihood)

    def run():
        x = jnp.zeros((2, *shape))
        variables = made.model.init(KEY, x)
        terms = core.elbo(made.model, variables, KEY, core.Batch(x))
        return made.model.decode(variables, terms.latent.z).mean, terms

    mean, terms = jax.eval_shape(run)
    columns = made.hierarchy.columns
    assert mean.shape == (2, *shape) and terms.kl.shape == (2, len(columns))
    assert terms.latent.z.shape[1] == sum(made.hierarchy.each(made.hierarchy.sizes))
    assert columns[-1] == "1x1" and columns[0].startswith(f"{-(-shape[0] // 2)}x")


def test_tables_are_refused():
    with pytest.raises(UsageError, match="deep_vae' on wine: expected images; use vae or"):
        lookup.build("deep_vae", DataSpec("wine", (13,), kind="table"))


# ---- densities


@pytest.mark.parametrize(
    "lowering", [convolutions.GEMM, convolutions.NATIVE], ids=["gemm", "native"]
)
def test_what_is_drawn_is_what_is_decoded(lowering):
    """p(x|z) and p(z) of a draw are those of its z."""
    model, variables = made(lowering)
    terms = jax.jit(lambda v: core.elbo(model, v, KEY, core.Batch(X)))(variables)
    z = terms.latent.z
    assert z.shape == (6, 2 * 4 * 3 * 4 + 16) and terms.kl.shape == (6, 3)
    found = jax.jit(lambda v: model.decode(v, z).log_prob(X))(variables)
    np.testing.assert_allclose(found, terms.log_px, rtol=1e-5)
    prior = jax.jit(model.prior_log_prob)(variables, z)
    np.testing.assert_allclose(prior, terms.latent.log_p, rtol=1e-5)


def test_both_lowerings_compute_the_same_of_the_same_noise():
    (model, variables), (other, _) = made(), made(convolutions.NATIVE)
    bound = jax.jit(core.elbo, static_argnums=0)
    found, expected = (bound(m, variables, KEY, core.Batch(X)) for m in (model, other))
    np.testing.assert_allclose(found.log_w, expected.log_w, rtol=1e-4)
    np.testing.assert_allclose(found.latent.z, expected.latent.z, rtol=1e-3, atol=1e-5)
    a, b = (drawn(m, variables, 5) for m in (model, other))
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def test_the_kl_is_that_of_the_draws(assert_mean):
    model, variables = made()
    terms = jax.jit(lambda v: core.elbo_samples(model, v, KEY, core.Batch(X), 4000))(variables)
    assert_mean(terms.kl.sum(-1) + terms.latent.log_ratio, rounding=1e-3)
    assert terms.kl.mean() > 1e-3


@pytest.mark.slow
def test_weights_average_to_the_likelihood_of_prior_draws():
    """log p(x) by draws from the posterior, and by draws from the prior."""
    model, variables = made()
    x, variables = X[:2], jax.tree.map(lambda leaf: leaf, variables)  # which others share
    for name, block in variables["params"]["decoder"].items():
        if name.startswith("block"):  # q near p, and so weights of small variance
            kernel = block["posterior_1"]["kernel"]
            block["posterior_1"] = jax.tree.map(lambda leaf: 0.3 * leaf, block["posterior_1"])
            assert np.abs(kernel).max() > 0.1

    @jax.jit
    def both(variables):
        weights = core.log_weights(model, variables, KEY, core.Batch(x), 20_000)
        z = model.prior_sample(variables, jax.random.key(5), 20_000)
        px = model.decode(variables, z)
        plain = jnp.stack(
            [px.log_prob(jnp.broadcast_to(one, (20_000, *one.shape))) for one in x], 1
        )
        return weights, plain

    for logs, others in zip(*(np.float64(each).T for each in both(variables)), strict=True):
        means, errors = [], []
        for log in (logs, others):
            w = np.exp(log - logs.max())
            means.append(w.mean())
            errors.append(w.std() / np.sqrt(len(w)))
        assert abs(means[0] - means[1]) < 5 * np.hypot(*errors)
        assert errors[1] < 0.15 * means[1]


def test_draws_of_the_prior_have_its_scale():
    """The top is drawn first; with temperature 0 all are the prior's means, as its density says."""
    model, variables = made()
    z, mean = drawn(model, variables, 500), drawn(model, variables, 3, 0.0)
    np.testing.assert_array_equal(mean[0], mean[1])
    top, centre = z[:, -16:], mean[0, -16:]
    np.testing.assert_allclose(top.mean(0), centre, atol=5 * top.std(0).max() / np.sqrt(500))
    density = jax.jit(model.prior_log_prob)
    assert (density(variables, mean) >= density(variables, z).max()).all()
    cold = drawn(model, variables, 9, (1.0, 1.0, 0.0))
    np.testing.assert_array_equal(cold[:, -16:], np.broadcast_to(centre, (9, 16)))
    assert cold[:, :-16].std(0).min() > 0.1


def test_a_deep_stack_starts_near_a_constant_image():
    """Bits per value of grey noise: less than 2 above a uniform distribution's 8, of any depth."""
    x = jnp.round(255 * jax.random.uniform(KEY, (16, 7, 5, 1))) / 255
    levels = resolutions.levels((7, 5), ("4x4",), 4, ())
    model = deep.model(
        (7, 5, 1), levels, likelihoods.discretized_logistic(1, 256), convolutions.GEMM
    )

    @jax.jit
    def bits(key):
        terms = core.elbo(model, model.init(key, x), KEY, core.Batch(x))
        return -terms.elbo.mean() / (35 * np.log(2))

    assert max(bits(jax.random.key(seed)) for seed in range(4)) < 10


def test_images_do_not_see_each_other():
    model, variables = made()
    encode, draw = (
        jax.jit(model.encode),
        jax.jit(lambda v, f: model.reparameterize(v, None, f, False)),
    )
    alone, whole = encode(variables, X[3:4]), encode(variables, X)
    for name, every in whole.items():
        np.testing.assert_allclose(alone[name][0], every[3], rtol=1e-4, atol=1e-5)
    code, every = draw(variables, alone), draw(variables, whole)
    np.testing.assert_allclose(code.z[0], every.z[3], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(code.kl[0], every.kl[3], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("words", [("7x1", "2x1"), ("4x2", "1x1"), ("1x3",)])
def test_every_parameter_has_a_gradient(words):
    model, variables = made(levels=resolutions.levels((7, 5), words, 4, ()))

    def loss(variables):
        return -core.elbo(model, variables, KEY, core.Batch(X)).elbo.mean()

    slopes = jax.jit(jax.grad(loss))(variables)
    for path, slope in jax.tree_util.tree_leaves_with_path(slopes):
        assert np.isfinite(slope).all() and np.abs(slope).max() > 0, path


def test_shared_blocks_have_one_set_of_weights():
    """As deep, with other latents, and with fewer parameters."""
    levels = resolutions.levels((7, 5), ("4x1", "2x4"), 4, ())
    arguments = (7, 5, 1), levels, likelihoods.bernoulli(1), convolutions.GEMM
    counts = []
    for share in (False, True):
        model = deep.model(*arguments, share_top=share)

        def draw(model=model):
            variables = model.init(jax.random.key(0), X)
            features = model.encode(variables, X)
            return variables, model.reparameterize(variables, KEY, features, False)

        variables, latent = jax.eval_shape(draw)
        assert latent.kl.shape == (6, 5) and latent.z.shape == (6, 4 * 3 * 4 + 4 * 2 * 2 * 8)
        blocks = [name for name in variables["params"]["decoder"] if name.startswith("block")]
        assert len(blocks) == (2 if share else 5)
        counts.append({name: x.size for name, x in weights_of(variables)})
    plain, shared = counts
    gone = sum(plain[name] for name in plain if name.startswith(("block_1_1", "block_1_2")))
    assert shared.items() <= plain.items()
    assert sum(plain.values()) - sum(shared.values()) == pytest.approx(1.5 * gone)


def weights_of(variables):
    leaves = jax.tree_util.tree_leaves_with_path(variables["params"]["decoder"])
    return [("/".join(key.key for key in path), leaf) for path, leaf in leaves]


# ---- memory and precision


@pytest.fixture(scope="module")
def plain():
    return learned()


def learned(**choices):
    """The loss as a function of the parameters, and parameters."""
    recipe = lookup.build("deep_vae", SPEC, levels=("4x3", "1x1"), width=4, **choices)
    variables = jax.jit(recipe.model.init)(jax.random.key(0), X)

    def loss(params):
        return recipe.loss({"params": params}, KEY, core.Batch(X), jnp.int32(0))[0]

    return loss, variables["params"]


def kept(loss, params):
    """Numbers that the forward pass keeps for the gradient."""
    backward = jax.eval_shape(lambda p: jax.vjp(loss, p)[1], params)
    return sum(leaf.size for leaf in jax.tree.leaves(backward))


@pytest.mark.slow
def test_remat_keeps_less_and_changes_no_gradient(plain):
    (loss, params), (remat, same) = plain, learned(remat=True)
    chex.assert_trees_all_equal(params, same)
    assert kept(remat, params) < 0.6 * kept(loss, params)
    found, expected = jax.jit(jax.grad(remat))(params), jax.jit(jax.grad(loss))(params)
    chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("lowering", ["gemm", "native"])
def test_bf16_is_of_products_alone(plain, lowering):
    """The loss within 2 %, each gradient within 10 % in norm; parameters and gradients float32."""
    (loss, params), (half, same) = plain, learned(precision="bf16", convolutions=lowering)
    chex.assert_trees_all_equal(params, same)
    program = str(jax.make_jaxpr(half)(params))
    products = re.findall(r":(\w+)\[[\d,]*\] = (?:dot_general|conv_general_dilated)", program)
    assert set(products) == {"bf16"}
    value, gradient = jax.jit(jax.value_and_grad(half))(params)
    expected, exact = jax.jit(jax.value_and_grad(loss))(params)
    assert {leaf.dtype.name for leaf in jax.tree.leaves((value, gradient))} == {"float32"}
    assert value != expected and abs(value - expected) < 0.02 * abs(expected)
    for a, b in zip(*map(jax.tree.leaves, (gradient, exact)), strict=True):
        assert jnp.linalg.norm(a - b) <= 0.1 * jnp.linalg.norm(b) + 1e-3


@pytest.mark.parametrize("channels", rare([1, 4], 1))
def test_colours_of_a_logistic_mixture(channels):
    """Every parameter has a finite gradient, at the start some nats for each value."""
    spec = DataSpec("colours", (5, 4, channels), levels=256, examples=100)
    choices = {"levels": ("3x1", "1x1"), "width": 4, "components": 2}
    recipe = lookup.build("deep_vae", spec, likelihood="logistic_mixture", **choices)
    x = jax.random.randint(KEY, (3, 5, 4, channels), 0, 256) / 255
    variables = jax.jit(recipe.model.init)(jax.random.key(0), x)
    loss = jax.jit(jax.grad(recipe.loss, has_aux=True))
    slope, (metrics, _) = loss(variables, KEY, core.Batch(x), jnp.int32(0))
    chex.assert_tree_all_finite(slope)
    per_value = metrics["reconstruction"] / (20 * channels)
    assert 0.5 * np.log(256) < per_value < 3 * np.log(256)
