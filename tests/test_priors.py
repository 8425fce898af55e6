"""Learned priors: densities against scipy, samples against moments, and a model that has one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy import special, stats

from flaxvae.core import Batch, Model, elbo_samples
from flaxvae.distributions import Normal
from flaxvae.parts import assemble, latents, likelihoods, networks, priors
from flaxvae.parts.flows import Flow

SHAPE = (3, 2, 1)


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def affine(dim):
    """z = A eps + b: a flow whose density is N(b, A A^T)."""

    def init(key):
        return {"A": jnp.eye(dim) + 0.3 * jax.random.normal(key, (dim, dim)), "b": jnp.ones(dim)}

    def log_det(params, z):
        return jnp.full(z.shape[0], jnp.linalg.slogdet(params["A"])[1])

    def forward(params, z, context):
        return z @ params["A"].T + params["b"][None], log_det(params, z)

    def inverse(params, z, context):
        eps = jnp.linalg.solve(params["A"], (z - params["b"][None]).T).T
        return eps, -log_det(params, z)

    return Flow(context=0, init=init, forward=forward, inverse=inverse)


def encoder(dim):
    """q(z|x) of a linear encoder, as a function of x and as the float64 numpy of the same."""
    weights = normal(90, 6, dim), 0.5 * normal(91, 6, dim)

    def q(x):
        flat = x.reshape(x.shape[0], -1)
        return Normal(flat @ weights[0], flat @ weights[1] - 1)

    def naive(x):
        flat = np.float64(x).reshape(len(x), -1)
        return flat @ np.float64(weights[0]), flat @ np.float64(weights[1]) - 1

    return q, naive


def cases(dim):
    """Each prior with parameters away from where it starts."""
    mixture = {
        "logits": normal(0, 4),
        "mean": 0.7 * normal(1, 4, dim),
        "log_var": 0.4 * normal(2, 4, dim) - 1,
    }
    return {
        "mixture": (priors.mixture(dim, 4), mixture),
        "vamp": (priors.vamp(SHAPE, 5), {"raw": 0.1 * normal(3, 5, *SHAPE)}),
        "flow": (
            priors.flow(dim, affine(dim)),
            {"A": 0.6 * jnp.eye(dim) + 0.15 * normal(4, dim, dim), "b": 0.5 * normal(5, dim)},
        ),
    }


NAMES = list(cases(2))


def gaussians(name, params, dim):
    """What the prior is in float64: weights [K], means [K, D], covariances [K, D, D]."""
    if name == "flow":
        a, b = np.float64(params["A"]), np.float64(params["b"])
        return np.ones(1), b[None], (a @ a.T)[None]
    if name == "vamp":
        mean, log_var = encoder(dim)[1](special.expit(10 * np.float64(params["raw"])))
        weights = np.full(len(mean), 1 / len(mean))
    else:
        weights = special.softmax(np.float64(params["logits"]))
        mean, log_var = np.float64(params["mean"]), np.float64(params["log_var"])
    return weights, mean, np.stack([np.diag(v) for v in np.exp(log_var)])


@pytest.mark.parametrize("name", NAMES)
def test_log_prob_is_that_of_scipy(name):
    dim = 3
    prior, params = cases(dim)[name]
    z = 2 * normal(6, 50, dim)
    expected = np.logaddexp.reduce(
        [
            np.log(weight) + stats.multivariate_normal(mean, covariance).logpdf(np.float64(z))
            for weight, mean, covariance in zip(*gaussians(name, params, dim))
        ]
    )
    actual = jax.jit(lambda z: prior.log_prob(params, encoder(dim)[0], z))(z)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_density_integrates_to_one(name):
    prior, params = cases(2)[name]
    axis, step = np.linspace(-15, 15, 301, retstep=True)
    grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2).astype(np.float32)
    log_prob = prior.log_prob(params, encoder(2)[0], grid)
    assert np.exp(np.float64(log_prob)).sum() * step**2 == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("name", NAMES)
def test_moments_of_samples(name, temperature, assert_mean):
    prior, params = cases(2)[name]
    z = prior.sample(params, encoder(2)[0], jax.random.key(0), 20_000, temperature)
    z = np.float64(z)
    assert z.shape == (20_000, 2)
    weights, means, covariances = gaussians(name, params, 2)
    second = temperature**2 * covariances + means[:, :, None] * means[:, None, :]
    assert_mean(z, weights @ means)
    assert_mean(z[:, :, None] * z[:, None, :], np.tensordot(weights, second, 1))


@pytest.mark.parametrize("name", NAMES)
def test_temperature_zero_and_keys(name, assert_mean):
    prior, params = cases(2)[name]
    draw = functools.partial(prior.sample, params, encoder(2)[0])
    weights, means, _ = gaussians(name, params, 2)
    z = np.float64(draw(jax.random.key(0), 5_000, 0.0))
    near = np.abs(z[:, None] - means[None]).max(-1) < 1e-4
    np.testing.assert_array_equal(near.sum(-1), 1)
    assert_mean(near, weights, rounding=1e-12)  # the rounding is for a certain component
    first = draw(jax.random.key(1), 8, 1.0)
    np.testing.assert_array_equal(draw(jax.random.key(1), 8, 1.0), first)
    assert (draw(jax.random.key(2), 8, 1.0) != first).all()


@jax.jit
@functools.partial(jax.grad, argnums=(0, 1), has_aux=True)
def component_gradients(components, z):
    log_prob = priors.component_log_prob(components, z)
    return jax.nn.logsumexp(log_prob, axis=-1).sum(), log_prob


@pytest.mark.parametrize("log_var", [0.0, -4.0, -8.0, -12.0])
def test_narrow_components_keep_their_digits(log_var):
    """Value and gradients in float32, in 40 dimensions, against numpy in float64."""
    k, dim = 20, 40
    components = Normal(2 * normal(0, k, dim), log_var + 0.3 * normal(1, k, dim))
    z = jnp.concatenate([components.sample(key) for key in jax.random.split(jax.random.key(2), 3)])
    (by_component, by_z), actual = component_gradients(components, z)

    mean, log_var, points = (np.float64(v) for v in (components.mean, components.log_var, z))
    precision = np.exp(-log_var)[None]
    difference = points[:, None] - mean[None]
    squared = difference**2 * precision
    expected = -0.5 * (np.log(2 * np.pi) + log_var[None] + squared).sum(-1)
    own = np.arange(3 * k) % k
    rows = np.arange(3 * k)
    # The points themselves are rounded to float32 alike on both sides: nothing is lost to that.
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
    np.testing.assert_allclose(actual[rows, own], expected[rows, own], rtol=0, atol=1e-4)

    share = special.softmax(expected, -1)[:, :, None]
    gradients = [
        (by_component.mean, (share * precision * difference).sum(0)),
        (by_component.log_var, (share * (squared - 1) / 2).sum(0)),
        (by_z, -(share * precision * difference).sum(1)),
    ]
    for value, reference in gradients:
        np.testing.assert_allclose(value, reference, rtol=0, atol=1e-5 * np.abs(reference).max())


def test_priors_start_with_components_that_differ():
    raw = np.asarray(priors.vamp(SHAPE, 6).init(jax.random.key(0))["raw"])
    inputs = special.expit(10 * raw).reshape(6, -1)
    assert inputs.min() > 0 and inputs.max() < 0.3
    means = np.asarray(priors.mixture(3, 6).init(jax.random.key(0))["mean"])
    for points in (inputs, means):
        distances = np.abs(points[:, None] - points[None]).max(-1)
        assert distances[~np.eye(6, dtype=bool)].min() > 0.005


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_every_parameter(name):
    """All gradients agree with central differences, and none is zero."""
    prior, params = cases(2)[name]
    z, (q, _) = normal(7, 6, 2), encoder(2)
    flat, unravel = ravel_pytree(params)
    value = jax.jit(lambda flat: prior.log_prob(unravel(flat), q, z).sum())
    gradient = jax.grad(value)(flat)
    steps = 1e-2 * jnp.eye(flat.size)
    numeric = jax.vmap(lambda step: (value(flat + step) - value(flat - step)) / 2e-2)(steps)
    assert (np.asarray(gradient) != 0).all()
    np.testing.assert_allclose(gradient, numeric, rtol=1e-2, atol=1e-2)


def test_a_flow_must_be_invertible_and_free_of_context():
    with pytest.raises(ValueError, match="no inverse"):
        priors.flow(2, affine(2)._replace(inverse=None))
    with pytest.raises(ValueError, match="context of 3"):
        priors.flow(2, affine(2)._replace(context=3))


# Models with a learned prior


def gaussian_model():
    latent = latents.gaussian(2)
    network = networks.mlp(SHAPE, latent.heads, 1, widths=(7,))
    return assemble.model(network, latent, likelihoods.bernoulli(1))


def stretched_model():
    """z = 1.5 z0 + 0.2 with z0 Gaussian given x: a q(z|x) that the features are not that of."""
    base = gaussian_model()

    def reparameterize(variables, key, features, train):
        latent = base.reparameterize(variables, key, features, train)
        z = 1.5 * latent.z + 0.2
        log_p, log_q = base.prior_log_prob(variables, z), latent.log_q - 2 * jnp.log(1.5)
        return latent._replace(z=z, kl=(log_q - log_p)[:, None], log_p=log_p, log_q=log_q)

    return base._replace(reparameterize=reparameterize)


X = jax.random.uniform(jax.random.key(80), (3, *SHAPE), minval=0.05, maxval=0.95)


def with_prior(model: Model, prior, params=None):
    """The model and its variables, with these parameters of the prior in place of its own."""
    model = priors.learned(model, prior)
    variables = jax.jit(model.init)(jax.random.key(0), X)
    if params is not None:
        variables["params"]["prior"] = params
    return model, variables


@pytest.mark.parametrize("base", [gaussian_model(), stretched_model()], ids=["gaussian", "other"])
def test_one_standard_component_is_the_usual_prior(base):
    params = {"logits": jnp.ones(1), "mean": jnp.zeros((1, 2)), "log_var": jnp.zeros((1, 2))}
    model, variables = with_prior(base, priors.mixture(2, 1), params)
    features = model.encode(variables, X)
    for key in (None, jax.random.key(1)):
        expected = base.reparameterize(variables, key, features, True)
        actual = model.reparameterize(variables, key, features, True)
        np.testing.assert_array_equal(actual.z, expected.z)
        np.testing.assert_array_equal(actual.code, expected.code)
        np.testing.assert_allclose(actual.log_ratio, expected.log_ratio, rtol=0, atol=2e-6)
        np.testing.assert_array_equal(actual.kl, -actual.log_ratio[:, None])


def test_a_pseudo_input_equal_to_x_costs_nothing():
    params = {"raw": special.logit(X[:1]) / 10}
    model, variables = with_prior(gaussian_model(), priors.vamp(SHAPE, 1), params)
    features = model.encode(variables, X[:1])
    reparameterize = jax.jit(model.reparameterize, static_argnums=3)
    for seed in range(3):
        latent = reparameterize(variables, jax.random.key(seed), features, True)
        np.testing.assert_allclose(latent.log_ratio, 0, atol=1e-5)
    z = model.prior_sample(variables, jax.random.key(0), 4, temperature=0.0)
    np.testing.assert_allclose(z, np.tile(features["mean"], (4, 1)), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "base"),
    [(name, gaussian_model()) for name in NAMES] + [("mixture", stretched_model())],
    ids=[*NAMES, "other posterior"],
)
def test_expected_ratio_is_one(name, base, assert_mean):
    """E_q[p(z) / q(z|x)] = 1: both densities are normalised, and z is drawn from q."""
    model, variables = with_prior(base, *cases(2)[name])
    features = model.encode(variables, X)
    keys = jax.random.split(jax.random.key(1), 20_000)
    draw = jax.vmap(lambda key: model.reparameterize(variables, key, features, False).log_ratio)
    log_ratio = np.float64(jax.jit(draw)(keys))
    assert log_ratio.std() > 0.05
    assert_mean(np.exp(log_ratio), 1.0)


@pytest.mark.parametrize("name", NAMES)
def test_only_pseudo_inputs_carry_gradients_to_the_encoder(name):
    """With the features of x held fixed, log p(z) reaches the encoder through q(z|u) alone."""
    model, variables = with_prior(gaussian_model(), cases(2)[name][0])
    features = model.encode(variables, X)

    def log_ratio(params):
        latent = model.reparameterize({"params": params}, jax.random.key(1), features, True)
        return latent.log_ratio.sum()

    gradients = jax.jit(jax.grad(log_ratio))(variables["params"])
    for gradient in jax.tree.leaves(gradients["encoder"]):
        assert np.any(gradient) == (name == "vamp")
    for gradient in jax.tree.leaves(gradients["prior"]):
        assert np.any(gradient)


def test_pseudo_inputs_are_encoded_once_for_all_draws():
    model, variables = with_prior(gaussian_model(), priors.vamp(SHAPE, 13))

    def bound(variables):
        return elbo_samples(model, variables, jax.random.key(0), Batch(X), 5).log_w

    program = str(jax.make_jaxpr(bound)(variables))
    assert "f32[13,7]" in program  # the hidden layer at the pseudo-inputs
    assert "f32[5,13,7]" not in program
    assert "f32[5,3,13]" in program  # the components' densities at all draws
