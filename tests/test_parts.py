"""Likelihoods, latents, networks, labels and objectives, each against what it says it is."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from flaxvae.core import Batch, elbo_samples
from flaxvae.parts import assemble, convolutions, latents, likelihoods, networks, objectives

pytestmark = pytest.mark.usefixtures("quick_compilation")

EPS = float(np.finfo(np.float32).eps)


def uniform(seed, *shape):
    return jax.random.uniform(jax.random.key(seed), shape)


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


# --- likelihoods --------------------------------------------------------------------------------

LOW, HIGH = 2 * math.log(0.01), 0.0


def test_bounded_log_var():
    raw = jnp.concatenate([jnp.linspace(-1e4, 1e4, 101), jnp.linspace(-20, 20, 101)]).sort()
    value = np.asarray(likelihoods.bounded_log_var(raw))
    slope = np.asarray(jax.vmap(jax.grad(likelihoods.bounded_log_var))(raw))
    assert (value >= LOW * (1 + EPS)).all()
    assert (value <= HIGH + 1e-6).all()
    assert (np.diff(value) >= 0).all()
    inner = np.abs(raw) <= 20  # five times the range: still some gradient
    assert (slope[inner] > 0).all()
    assert np.isfinite(slope).all()
    assert (slope <= 1 + 4 * EPS).all()
    np.testing.assert_allclose(jax.grad(likelihoods.bounded_log_var)(0.0), 1.0, rtol=4 * EPS)
    np.testing.assert_allclose(likelihoods.bounded_log_var(0.0), (LOW + HIGH) / 2, rtol=4 * EPS)
    np.testing.assert_allclose(value[[0, -1]], [LOW, HIGH], rtol=4 * EPS, atol=1e-6)


@pytest.mark.parametrize("sigma", [0.05, 1.0, 3.0])
def test_gaussian_is_scipys_density(sigma):
    likelihood = likelihoods.gaussian(sigma)
    assert (likelihood.values, likelihood.init()) == (1, {})
    raw, x = normal(0, 4, 3, 2, 1), uniform(1, 4, 3, 2)
    found = likelihood.distribution({}, raw)
    expected = stats.norm.logpdf(np.float64(x), np.float64(raw[..., 0]), sigma).sum((1, 2))
    np.testing.assert_allclose(found.log_prob(x), expected, rtol=1e-5)
    np.testing.assert_array_equal(found.mean, raw[..., 0])


def test_gaussian_shared_learns_one_sigma():
    likelihood = likelihoods.gaussian_shared()
    own = likelihood.init()
    chex.assert_trees_all_equal_shapes_and_dtypes(own, {"raw_log_var": jnp.zeros(())})
    raw, x = normal(0, 4, 3, 2, 1), normal(0, 4, 3, 2) + 0.1 * normal(1, 4, 3, 2)
    squared = np.square(np.float64(x) - np.float64(raw[..., 0]))

    def total(own):
        return likelihood.distribution(own, raw).log_prob(x).sum()

    sd = math.exp((LOW + HIGH) / 4)
    expected = stats.norm.logpdf(np.float64(x), np.float64(raw[..., 0]), sd).sum()
    np.testing.assert_allclose(total(own), expected, rtol=1e-5)
    slope = ((squared / sd**2 - 1) / 2).sum()  # at raw = 0, where d log_var / d raw = 1
    np.testing.assert_allclose(jax.grad(total)(own)["raw_log_var"], slope, rtol=1e-5)
    # The best sigma is the root mean squared error, and the range holds it.
    climb = jax.jit(lambda own: jax.tree.map(lambda p, g: p + 0.02 * g, own, jax.grad(total)(own)))
    for _ in range(300):
        own = climb(own)
    found = likelihood.distribution(own, raw).log_var
    np.testing.assert_allclose(found, np.log(squared.mean()), rtol=1e-4)


def test_gaussian_pixel_has_a_sigma_each():
    likelihood = likelihoods.gaussian_pixel()
    assert (likelihood.values, likelihood.init()) == (2, {})
    raw, x = normal(0, 4, 3, 2, 2), uniform(1, 4, 3, 2)
    mean, log_var = raw[..., 0], likelihoods.bounded_log_var(raw[..., 1])
    sd = np.exp(np.float64(log_var) / 2)
    expected = stats.norm.logpdf(np.float64(x), np.float64(mean), sd).sum((1, 2))
    found = likelihood.distribution({}, raw)
    np.testing.assert_allclose(found.log_prob(x), expected, rtol=1e-4)
    np.testing.assert_array_equal(found.mean, mean)
    gradient = jax.grad(lambda raw: likelihood.distribution({}, raw).log_prob(x).sum())(raw)
    chex.assert_tree_all_finite(gradient)
    assert (np.asarray(gradient) != 0).all()


@pytest.mark.parametrize("name", ["gaussian", "gaussian_shared", "gaussian_pixel"])
def test_densities_integrate_to_one(name):
    likelihood = getattr(likelihoods, name)()
    raw = jnp.broadcast_to(
        jnp.array([0.3, -1.0])[: likelihood.values], (8001, 1, likelihood.values)
    )
    x = jnp.linspace(-9.0, 9.0, 8001)[:, None]
    log_prob = likelihood.distribution(likelihood.init(), raw).log_prob(x)
    total = integrate.simpson(np.exp(np.float64(log_prob)), x=np.float64(x[:, 0]))
    np.testing.assert_allclose(total, 1.0, rtol=1e-4)


def test_bernoulli_probabilities_add_up_to_one():
    x = np.indices((2, 2, 2)).reshape(3, 8).T.astype(np.float32)
    likelihood = likelihoods.bernoulli()
    assert (likelihood.values, likelihood.init()) == (1, {})
    raw = jnp.broadcast_to(normal(0, 1, 3, 1), (8, 3, 1))
    log_prob = likelihood.distribution({}, raw).log_prob(jnp.asarray(x))
    np.testing.assert_allclose(np.exp(np.float64(log_prob)).sum(), 1.0, rtol=1e-6)


# --- latents ------------------------------------------------------------------------------------


def test_gaussian_latent():
    family = latents.gaussian(3)
    assert dict(family.heads) == {"mean": 3, "log_var": 3}
    heads = {"mean": normal(0, 5, 3), "log_var": normal(1, 5, 3)}
    mean, log_var = (np.float64(heads[name]) for name in ("mean", "log_var"))
    draw = family.draw(jax.random.key(0), heads)
    chex.assert_shape([draw.z, draw.code, draw.kl], (5, 3))
    chex.assert_shape([draw.log_ratio, draw.penalty], (5,))
    np.testing.assert_array_equal(draw.code, heads["mean"])
    np.testing.assert_array_equal(draw.penalty, 0.0)
    assert draw.updates == {}
    z = np.float64(draw.z)
    log_q = stats.norm.logpdf(z, mean, np.exp(log_var / 2)).sum(-1)
    expected = stats.norm.logpdf(z).sum(-1) - log_q
    np.testing.assert_allclose(draw.log_ratio, expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(
        draw.kl, (mean**2 + np.exp(log_var) - 1 - log_var) / 2, rtol=1e-5, atol=1e-6
    )
    at_mean = family.draw(None, heads)
    np.testing.assert_array_equal(at_mean.z, heads["mean"])
    np.testing.assert_array_equal(at_mean.kl, draw.kl)
    np.testing.assert_array_equal(family.draw(jax.random.key(0), heads).z, draw.z)
    assert (family.draw(jax.random.key(1), heads).z != draw.z).all()


def test_log_ratio_averages_to_the_kl(assert_mean):
    family = latents.gaussian(2)
    heads = {"mean": normal(0, 3, 2), "log_var": normal(1, 3, 2)}
    keys = jax.random.split(jax.random.key(0), 20_000)
    draws = jax.jit(jax.vmap(lambda key: family.draw(key, heads)))(keys)
    assert_mean(-draws.log_ratio, np.asarray(draws.kl[0].sum(-1)))
    assert_mean(draws.z, np.asarray(heads["mean"]))


def test_reparameterization_reaches_both_heads():
    """dz/d mean = 1 and dz/d log_var = (z - mean) / 2."""
    heads, family = {"mean": normal(0, 3, 2), "log_var": normal(1, 3, 2)}, latents.gaussian(2)
    gradient = jax.grad(lambda heads: family.draw(jax.random.key(0), heads).z.sum())(heads)
    z = family.draw(jax.random.key(0), heads).z
    np.testing.assert_array_equal(gradient["mean"], 1.0)
    expected = (np.asarray(z) - np.asarray(heads["mean"])) / 2
    np.testing.assert_allclose(gradient["log_var"], expected, rtol=1e-4, atol=1e-6)


def test_point_latent_has_no_noise_and_no_kl():
    family = latents.point(3)
    assert dict(family.heads) == {"code": 3}
    heads = {"code": normal(0, 5, 3)}
    for key in (None, jax.random.key(0)):
        draw = family.draw(key, heads)
        np.testing.assert_array_equal(draw.z, heads["code"])
        np.testing.assert_array_equal(draw.code, heads["code"])
        chex.assert_shape([draw.kl], (5, 3))
        chex.assert_shape([draw.log_ratio, draw.penalty], (5,))
        for zeros in (draw.kl, draw.log_ratio, draw.penalty):
            np.testing.assert_array_equal(zeros, 0.0)


@pytest.mark.parametrize(
    "family", [latents.gaussian(2), latents.point(2)], ids=["gaussian", "point"]
)
def test_prior_sample(family, assert_mean):
    z = np.float64(family.prior_sample(jax.random.key(0), 20_000, 0.5))
    assert z.shape == (20_000, 2)
    assert_mean(z)
    assert_mean(z**2, 0.25)  # temperature scales the standard deviation
    np.testing.assert_array_equal(family.prior_sample(jax.random.key(0), 5, 0.0), 0.0)


# --- networks -----------------------------------------------------------------------------------

SHAPES = [(28, 28, 1), (8, 8, 1), (10, 14, 3), (7, 5, 1)]
HEADS = {"mean": 4, "log_var": 4}


@pytest.mark.parametrize("classes", [None, 10])
@pytest.mark.parametrize("values", [1, 2])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("net", ["mlp", "conv"])
def test_network_shapes(net, shape, values, classes):
    network = getattr(networks, net)(shape, HEADS, values)
    labels = classes and jnp.zeros((3, classes))

    def run(key):
        heads, _ = network.encoder.init_with_output(key, jnp.zeros((3, *shape)), labels)
        return heads, network.decoder.init_with_output(key, heads["mean"], labels)[0]

    heads, raw = jax.eval_shape(run, jax.random.key(0))
    assert {name: head.shape for name, head in heads.items()} == {"mean": (3, 4), "log_var": (3, 4)}
    assert raw.shape == (3, *shape, values)
    assert {a.dtype for a in jax.tree.leaves((heads, raw))} == {jnp.dtype("float32")}


def count(model, shape):
    example = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    params = jax.eval_shape(model.init, jax.random.key(0), example)["params"]
    sizes = jax.tree.map(lambda leaf: leaf.size, params)
    return {half: sum(jax.tree.leaves(tree)) for half, tree in sizes.items()}


def test_parameters_of_the_tutorials_conv_net():
    """Kernels and biases: Conv 32, Conv 64, Dense 256, two heads of 20, and back."""
    latent = latents.gaussian(20)
    network = networks.conv((28, 28, 1), latent.heads, 1)
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
    model = assemble.model(network, latent, likelihoods.bernoulli())
    assert count(model, (28, 28, 1)) == {"encoder": sum(encoder), "decoder": sum(decoder)}


def test_parameters_of_an_mlp():
    latent = latents.gaussian(3)
    network = networks.mlp((8, 8, 1), latent.heads, 2, (16, 5))
    model = assemble.model(network, latent, likelihoods.gaussian_pixel())
    encoder = (64 * 16 + 16) + (16 * 5 + 5) + 2 * (5 * 3 + 3)
    decoder = (3 * 5 + 5) + (5 * 16 + 16) + (16 * 128 + 128)
    assert count(model, (8, 8, 1)) == {"encoder": encoder, "decoder": decoder}


@pytest.mark.parametrize("activation", sorted(networks.ACTIVATIONS))
def test_mlp_is_what_its_weights_say(activation):
    """Two hidden layers written out; the decoder mirrors the encoder's widths."""
    reference = {"relu": jax.nn.relu, "tanh": jnp.tanh, "gelu": jax.nn.gelu}
    reference |= {"silu": jax.nn.silu, "elu": jax.nn.elu}
    network = networks.mlp((2, 3), {"code": 4}, 2, (7, 5), activation)
    x = normal(0, 6, 2, 3)
    heads, variables = jax.jit(network.encoder.init_with_output)(jax.random.key(1), x)

    def dense(x, layer):
        return x @ layer["kernel"] + layer["bias"][None]

    act, p = reference[activation], variables["params"]
    hidden = act(dense(act(dense(x.reshape(6, 6), p["body"]["Dense_0"])), p["body"]["Dense_1"]))
    np.testing.assert_allclose(heads["code"], dense(hidden, p["heads"]["code"]), rtol=1e-5)
    raw, variables = jax.jit(network.decoder.init_with_output)(jax.random.key(2), heads["code"])
    p = variables["params"]
    hidden = act(dense(heads["code"], p["body"]["Dense_0"]))
    hidden = act(dense(hidden, p["body"]["Dense_1"]))
    assert p["body"]["Dense_0"]["kernel"].shape == (4, 5)
    expected = dense(hidden, p["out"]).reshape(6, 2, 3, 2)
    np.testing.assert_allclose(raw, expected, rtol=1e-5, atol=1e-6)


def test_conv_net_is_the_same_in_both_lowerings(monkeypatch):
    """One set of parameters, outputs and all gradients, by GEMM and by XLA's convolutions."""
    shape = (5, 6, 2)
    network = networks.conv(shape, {"code": 3}, 1)
    x, target = normal(0, 4, *shape), normal(1, 4, *shape, 1)

    @jax.jit
    def init(key, x):
        code, encoder = network.encoder.init_with_output(key, x)
        return encoder, network.decoder.init(key, code["code"])

    params, found = init(jax.random.key(2), x), {}
    for name in ("GEMM", "NATIVE"):
        monkeypatch.setattr(convolutions, "lowering", lambda n=name: getattr(convolutions, n))

        @jax.jit
        @functools.partial(jax.value_and_grad, has_aux=True)
        def run(params, x):
            code = network.encoder.apply(params[0], x)["code"]
            raw = network.decoder.apply(params[1], code)
            return jnp.vdot(raw, target), (code, raw)

        found[name] = run(params, x)
    chex.assert_trees_all_equal_shapes_and_dtypes(found["GEMM"], found["NATIVE"])
    # Sums of hundreds of products, in another order.
    chex.assert_trees_all_close(found["GEMM"], found["NATIVE"], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("net", ["mlp", "conv"])
def test_labels_reach_both_networks(net):
    shape, latent = (4, 4, 1), latents.gaussian(2)
    arguments = {"widths": (8,)} if net == "mlp" else {}
    network = getattr(networks, net)(shape, latent.heads, 1, **arguments)
    x, y = uniform(0, 6, *shape), jnp.arange(6)
    key = jax.random.key(1)

    @functools.partial(jax.jit, static_argnums=0)
    def outputs(model, variables, x, y):
        z = model.prior_sample(variables, key, 6, y)
        return model.encode(variables, x, y)["mean"], model.decode(variables, z, y).mean

    model = assemble.model(network, latent, likelihoods.bernoulli(), classes=10)
    variables = jax.jit(model.init)(key, x, y)
    here, there = outputs(model, variables, x, y), outputs(model, variables, x, y + 1)
    for a, b in zip(here, there):
        assert (np.abs(np.asarray(a - b)).reshape(6, -1).max(-1) > 1e-4).all()
    mixed = outputs(model, variables, x, y.at[0].set(7))
    for a, b in zip(here, mixed):  # each row sees its own label only
        np.testing.assert_allclose(a[1:], b[1:], rtol=1e-5, atol=1e-6)
        assert (np.asarray(a[0]) != np.asarray(b[0])).any()

    blind = assemble.model(network, latent, likelihoods.bernoulli())
    variables = jax.jit(blind.init)(key, x)
    chex.assert_trees_all_equal(
        outputs(blind, variables, x, y), outputs(blind, variables, x, y + 1)
    )


# --- objectives ---------------------------------------------------------------------------------


def small_model(family=latents.gaussian):
    latent = family(2)
    network = networks.mlp((3, 3), latent.heads, 1, (6,), "tanh")
    return assemble.model(network, latent, likelihoods.bernoulli())


MODEL = small_model()
X = uniform(0, 4, 3, 3)
KEY, STEP = jax.random.key(3), jnp.int32(7)


@pytest.fixture(scope="module")
def variables():
    """Random weights, the heads' biases moved so that the KL is of some nats."""
    found = jax.jit(MODEL.init)(jax.random.key(1), X)
    return jax.tree.map(
        lambda p: p + 0.3 * jax.random.normal(jax.random.key(p.size), p.shape), found
    )


def evaluate(loss, variables, batch, key=KEY, step=STEP):
    value, (metrics, updates) = jax.jit(loss)(variables, key, batch, step)
    chex.assert_shape([value, *metrics.values()], ())
    chex.assert_tree_all_finite((value, metrics))
    assert updates == {}
    assert value == metrics["loss"]
    return float(value), metrics


@pytest.mark.parametrize("samples", [1, 5])
@pytest.mark.parametrize("closed_form", [True, False])
def test_beta_one_is_the_negative_elbo(variables, closed_form, samples):
    loss = objectives.negative_elbo(MODEL, closed_form=closed_form, samples=samples)
    found, metrics = evaluate(loss, variables, Batch(X))
    np.testing.assert_array_equal(metrics["elbo"], -found)  # to the last bit
    terms = jax.jit(elbo_samples, static_argnums=(0, 4))(MODEL, variables, KEY, Batch(X), samples)
    expected = terms.elbo if closed_form else terms.log_w
    np.testing.assert_allclose(found, -np.float64(expected).mean(), rtol=1e-6)
    np.testing.assert_allclose(
        metrics["reconstruction"], -np.float64(terms.log_px).mean(), rtol=1e-6
    )
    np.testing.assert_allclose(found, metrics["reconstruction"] + metrics["kl"], rtol=1e-6)


@pytest.mark.parametrize("closed_form", [True, False])
def test_beta_weighs_the_kl(variables, closed_form):
    """A number, or a function of the step; the metrics stay those of the bound."""

    def value(beta, step=STEP):
        loss = objectives.negative_elbo(MODEL, beta=beta, closed_form=closed_form)
        return evaluate(loss, variables, Batch(X), step=step)

    one, metrics = value(1.0)
    assert abs(metrics["kl"]) > 0.1
    for beta in (0.0, 0.5, 4.0):
        found, others = value(beta)
        expected = metrics["reconstruction"] + beta * metrics["kl"]
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        for name in ("elbo", "kl", "reconstruction"):
            np.testing.assert_allclose(others[name], metrics[name], rtol=1e-6)
    ramp = lambda step: jnp.minimum(step / 14, 1.0)  # noqa: E731
    np.testing.assert_allclose(value(ramp)[0], value(0.5)[0], rtol=1e-6)
    np.testing.assert_allclose(value(ramp, jnp.int32(20))[0], one, rtol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        objectives.negative_elbo,
        functools.partial(objectives.negative_elbo, beta=3.0, closed_form=False, samples=2),
        objectives.reconstruction,
    ],
    ids=["elbo", "monte_carlo", "reconstruction"],
)
def test_mask_leaves_padding_out(variables, make):
    """Losses, metrics and gradients do not see padded rows, and average over the real ones."""
    loss, mask = make(MODEL), jnp.array([1.0, 1.0, 0.0, 0.0])
    gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))

    def run(padding, mask=mask):
        return gradient(variables, KEY, Batch(X.at[2:].set(padding), mask=mask), STEP)

    chex.assert_trees_all_close(run(0.0), run(1.0), rtol=1e-6, atol=1e-7)
    assert run(0.0, None)[0][0] != run(1.0, None)[0][0]
    first = run(0.0, jnp.array([1.0, 0.0, 0.0, 0.0]))[0][0]
    second = run(0.0, jnp.array([0.0, 1.0, 0.0, 0.0]))[0][0]
    np.testing.assert_allclose(run(0.0)[0][0], (first + second) / 2, rtol=1e-6)
    np.testing.assert_allclose(run(0.0, jnp.ones(4))[0][0], run(0.0, None)[0][0], rtol=1e-6)
    nothing = run(0.0, jnp.zeros(4))
    chex.assert_tree_all_finite(nothing)
    assert nothing[0][0] == 0


def gradients(loss, variables, n, seed):
    """[n, P] gradients of independent draws."""

    def one(key):
        grads = jax.grad(lambda v: loss(v, key, Batch(X), STEP)[0])(variables)
        return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(grads)])

    return np.float64(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(seed), n)))


def test_both_kls_have_the_same_gradient_in_expectation(variables, assert_mean):
    closed = gradients(objectives.negative_elbo(MODEL, beta=2.0), variables, 4000, 0)
    sampled = objectives.negative_elbo(MODEL, beta=2.0, closed_form=False)
    sampled = gradients(sampled, variables, 4000, 0)
    assert_mean(closed - sampled, 0.0, rounding=1e-6 * np.abs(closed).max())
    assert np.abs(closed - sampled).max() > 1e-2  # for each draw they differ


def test_samples_divide_the_variance(variables):
    """Gradients with L = 8 draws vary 8 times less, within five standard errors of that ratio."""
    n = 4000
    variances = []
    for samples in (1, 8):
        loss = objectives.negative_elbo(MODEL, samples=samples)
        values = gradients(loss, variables, n, samples)
        centred = values - values.mean(0)
        variance = (centred**2).sum(-1)  # a sum over parameters, for each draw
        variances.append((variance.mean(), variance.std() / math.sqrt(n)))
    (one, one_error), (eight, eight_error) = variances
    assert abs(one / 8 - eight) < 5 * math.hypot(one_error / 8, eight_error)


def test_reconstruction_is_the_autoencoders_loss(variables):
    model = small_model(latents.point)
    weights = jax.jit(model.init)(jax.random.key(1), X)
    found, metrics = evaluate(objectives.reconstruction(model), weights, Batch(X))
    z = model.encode(weights, X)["code"]
    np.testing.assert_allclose(found, -model.decode(weights, z).log_prob(X).mean(), rtol=1e-6)
    assert set(metrics) == {"loss", "reconstruction"}
