"""log p(x) by annealing against models whose log p(x) is known, and its parts against theory.

The decoder is x = W z + b + s eps with correlated columns of W, so that p(x) is a Gaussian and the
posterior one with a full covariance, which no diagonal q can be.
"""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from flaxvae import lookup
from flaxvae.analysis import annealing, hmc, importance, refinement
from flaxvae.analysis.annealed import Annealing, annealed, bracket
from flaxvae.core import Batch, log_weights
from flaxvae.recipe import DataSpec

S = 0.5
W = np.array([[1.0, 0.8], [1.0, 0.2], [0.5, 0.6], [0.0, 0.4], [0.3, -0.4]])
BIAS = np.array([0.1, -0.2, 0.3, 0.0, 1.0])
PRECISION = np.eye(2) + W.T @ W / S**2  # of the posterior
GAUSSIAN = stats.multivariate_normal(BIAS, W @ W.T + S**2 * np.eye(5))  # p(x)
IMAGES, OFF = 3, 0.7
MODEL = lookup.build(
    "vae",
    DataSpec("linear-gaussian", (5,)),
    latent_dim=2,
    net="mlp",
    widths=(),
    likelihood="gaussian",
    sigma=S,
).model


def linear(off, variance):
    """Variables, images, log p(x) [B]: the encoder's means are ``off`` too high, in sds of q."""
    gain, sd = W @ np.linalg.inv(PRECISION) / S**2, np.sqrt(variance)

    def dense(kernel, bias):
        return {"kernel": jnp.float32(kernel), "bias": jnp.float32(bias)}

    heads = {
        "mean": dense(gain, -BIAS @ gain + off * sd),
        "log_var": dense(np.zeros((5, 2)), 2 * np.log(sd)),
    }
    params = {"encoder": {"heads": heads}, "decoder": {"out": dense(W.T, BIAS)}}
    x = np.random.default_rng(0).normal(size=(IMAGES, 5), scale=1.5)
    return {"params": params}, Batch(jnp.float32(x)), GAUSSIAN.logpdf(x)


# q has the variances of the best diagonal Gaussian.
VARIABLES, BATCH, LOG_PX = linear(OFF, 1 / np.diag(PRECISION))


def moved(target, z, step, scale, count):
    """[R, D] after ``count`` transitions, and all probabilities of acceptance."""

    def one(z, key):
        found = hmc.transition(target, key, z, step, scale, 5)
        return found.z, found.acceptance

    return jax.jit(lambda z: jax.lax.scan(one, z, jax.random.split(jax.random.key(1), count)))(z)


def test_a_transition_leaves_its_density_as_it_is(assert_mean):
    """Exact draws of a skewed density and of a Gaussian remain so, though a third is refused."""
    rows = 20_000
    gamma, normal = jax.random.split(jax.random.key(0))
    start = jnp.stack(
        [jnp.log(jax.random.gamma(gamma, 2.0, (rows,))), jax.random.normal(normal, (rows,))], 1
    )

    def target(z):  # the logarithm of a Gamma(2) variable, and N(0, 1)
        u, v = z.T
        return 2 * u - jnp.exp(u) - v**2 / 2, ()

    z, acceptance = moved(target, start, jnp.full(rows, 0.9), jnp.ones((rows, 2)), 5)
    assert 0.4 < float(acceptance.mean()) < 0.9
    assert np.mean(np.abs(np.asarray(z - start)) > 0.1) > 0.8  # they do move
    u, v = np.float64(z).T
    known = special.digamma(2), special.polygamma(1, 2), special.polygamma(2, 2)
    centred = u - known[0]
    assert_mean(np.stack([centred, centred**2 - known[1], centred**3 - known[2]], 1))
    assert_mean(np.stack([v, v**2 - 1, v**4 - 3, v * centred], 1))


def gaussian_path(mean, variance):
    """From N(0, 1) to f_1 = Z N(mean, variance), log Z = 1.5, whose every f_b is a Gaussian."""

    def densities(z):
        z = z[:, 0]
        log_start = -0.5 * (z**2 + math.log(2 * math.pi))
        log_end = 1.5 - 0.5 * ((z - mean) ** 2 / variance + math.log(2 * math.pi * variance))
        return log_start, log_end - log_start

    def at(beta):
        """Mean and variance of f_b."""
        precision = 1 - beta + beta / variance
        return beta * mean / variance / precision, 1 / precision

    def transition(key, z, t, beta):
        centre, spread = at(beta)
        z = centre + jnp.sqrt(spread) * jax.random.normal(key, z.shape)
        return hmc.Moved(z, densities(z)[1], jnp.ones(len(z)))

    return densities, at, transition


def test_log_weights_of_perfect_transitions(assert_mean):
    """In closed form: E log w = log Z - sum_t KL(f_{t-1} || f_t), and back log Z + the reverse."""
    mean, variance, rows = 2.0, 0.25, 20_000
    densities, at, transition = gaussian_path(mean, variance)
    betas = annealing.schedule(6)
    np.testing.assert_allclose(betas[[0, 3, 6]], [0, 0.5, 1], atol=1e-6)

    def kl(a, b):
        return 0.5 * (np.log(b[1] / a[1]) - 1 + (a[1] + (a[0] - b[0]) ** 2) / b[1])

    places = [at(np.float64(beta)) for beta in betas]
    lost = sum(kl(a, b) for a, b in itertools.pairwise(places))
    lost_back = sum(kl(b, a) for a, b in itertools.pairwise(places))
    noise = jax.random.normal(jax.random.key(1), (rows, 1))

    @jax.jit
    def both(key):
        there, back = jax.random.split(key)
        end = mean + math.sqrt(variance) * noise
        return (
            annealing.forward(densities, transition, betas, there, noise).log_w,
            annealing.backward(densities, transition, betas, back, end).log_w,
        )

    there, back = both(jax.random.key(2))
    assert_mean(there, 1.5 - lost, 1e-5)
    assert_mean(-np.asarray(back), 1.5 + lost_back, 1e-5)
    assert lost > 0.3  # so that the test says something
    assert_mean(np.exp(np.float64(there) - 1.5), 1.0)


def test_step_sizes_are_those_that_accept_two_thirds():
    """Adapted for each group: one is ten times as wide as its scale says, so its steps are."""
    widths = jnp.repeat(jnp.array([1.0, 10.0]), 64)[:, None]

    def densities(z):
        log_start = -0.5 * jnp.square(z / widths).sum(-1)
        return log_start, jnp.zeros(len(z))

    def steps(key):
        scale = jnp.ones((128, 20))
        z = widths * jax.random.normal(jax.random.key(0), (128, 20))
        betas = annealing.schedule(80)
        return annealing.adapted(densities, lambda beta: scale, betas, key, z, 2, 5)

    found = np.asarray(jax.jit(steps)(jax.random.key(1)))
    assert found.shape == (80, 2)
    last = found[40:].mean(0)
    np.testing.assert_allclose(last[1], 10 * last[0], rtol=0.1)
    assert 0.3 < last[0] < 2
    # In a walk of 160 temperatures every second one is between two of these 80.
    there = annealing.at(jnp.asarray(found), jnp.float32(40 / 160))
    between = annealing.at(jnp.asarray(found), jnp.float32(41 / 160))
    np.testing.assert_allclose(there, found[19], rtol=1e-5)
    np.testing.assert_allclose(between, found[19:21].mean(0), rtol=1e-5)


def nats(log_w):
    return np.asarray(importance.log_mean(log_w), np.float64)


@pytest.mark.parametrize(
    ("start", "temperatures", "chains"),
    [("encoder", 60, 20), pytest.param("prior", 300, 50, marks=pytest.mark.slow)],
)
def test_both_sides_of_log_px(start, temperatures, chains, assert_mean):
    """On data that the model makes, where weights have a known mean, and their noise is as stated.

    200 images with chains of their own stand for 200 seeds.
    """
    how = Annealing(temperatures, chains, start, leapfrogs=5, together=chains)
    rows = Batch(jnp.zeros((200, 5)))
    found = jax.jit(bracket(MODEL, how))(VARIABLES, jax.random.key(1), rows)
    truth = GAUSSIAN.logpdf(np.asarray(found.x))
    for sign, log_w in {1: found.lower, -1: found.upper}.items():
        off = nats(log_w) - sign * truth  # log of the mean weight, less that of its mean
        assert_mean(np.exp(off), 1.0)  # without bias
        stated = np.square(error(log_w)).mean()
        assert_mean(np.square(off) / stated, 1.0, 0.15)  # to first order in the weights' variance
        assert abs(off.mean()) < 0.01
        alone = sign * (truth[:, None] - sign * np.float64(log_w)).mean(1)
        # Of one chain the bound is clearly to one side.
        assert alone.mean() > 4 * alone.std() / math.sqrt(200) and alone.mean() > 0.01
    lower, upper = nats(found.lower) - truth, -nats(found.upper) - truth
    assert lower.mean() > -0.05 and upper.mean() < 0.05
    apart = upper - lower  # of many chains less than their noise
    assert apart.mean() > -4 * apart.std() / math.sqrt(200)
    assert 0.5 < float(found.acceptance.mean()) < 0.8


def error(log_w):
    """Standard error of the logarithm of an image's mean weight, from its C chains.

    To first order that of the mean weight over its mean, the square root of 1/ESS - 1/C.
    """
    return np.sqrt(1 / np.asarray(importance.effective(log_w)) - 1 / log_w.shape[1])


def test_an_effective_sample_size_of_large_log_weights():
    log_w = np.random.default_rng(0).normal(0, 1, 16).astype(np.float32)
    w = np.exp(np.float64(np.float32(log_w + 1e6) - np.float32(1e6)))
    expected = w.sum() ** 2 / (w**2).sum()
    np.testing.assert_allclose(importance.effective(jnp.asarray(log_w + 1e6)), expected, rtol=1e-5)


def test_bounds_of_several_k_from_the_same_draws(assert_mean):
    """Blocks in a chunk, and over several, are those that one would cut by hand."""
    ks, chunk, key = (1, 3, 8, 20, 40), 8, jax.random.key(3)
    found = jax.jit(importance.bounds(MODEL, ks, chunk))(VARIABLES, key, BATCH)
    weigh = jax.jit(log_weights, static_argnums=(0, 4))
    chunks = [weigh(MODEL, VARIABLES, jax.random.fold_in(key, i), BATCH, chunk) for i in range(5)]
    chunks = np.float64(chunks)  # [5, 8, B]
    blocks = {
        1: chunks.reshape(40, 1, -1),
        3: chunks[:, :6].reshape(10, 3, -1),
        8: chunks,
        20: chunks.reshape(40, -1)[None, :20],  # three chunks, of the last one a half
        40: chunks.reshape(1, 40, -1),
    }
    for i, k in enumerate(ks):
        log_w = blocks[k]
        expected = (special.logsumexp(log_w, axis=1) - np.log(k)).mean(0)
        np.testing.assert_allclose(found.nats[:, i], expected, rtol=1e-5)
        w = np.exp(log_w - log_w.max(1, keepdims=True))
        size = (w.sum(1) ** 2 / (w**2).sum(1)).mean(0)
        np.testing.assert_allclose(found.effective[:, i], size, rtol=1e-4)


def test_the_gap_has_two_parts():
    """The amortization gap is that of the encoder's means, the rest is for the correlation."""
    refine = jax.jit(refinement.refine(MODEL, 300, 2000, full=True))
    found = refine(VARIABLES, jax.random.key(0), BATCH)
    _, log_det = np.linalg.slogdet(PRECISION)
    approximation = 0.5 * (np.log(np.diag(PRECISION)).sum() - log_det)  # of the best diagonal q
    assert approximation > 0.1
    np.testing.assert_allclose(LOG_PX - np.asarray(found.own), approximation, atol=0.05)
    np.testing.assert_allclose(found.full, LOG_PX, atol=0.01)
    # The encoder's: precision-weighted squared distance of its means, less what q cannot have.
    bounds = jax.jit(importance.bounds(MODEL, (1, 100_000), 1000))
    elbo = bounds(VARIABLES, jax.random.key(1), BATCH)
    distance = OFF / np.sqrt(np.diag(PRECISION))
    amortization = 0.5 * distance @ PRECISION @ distance
    seen = np.asarray(found.own) - np.asarray(elbo.nats[:, 0])
    np.testing.assert_allclose(seen, amortization, atol=0.1)
    assert amortization > 0.3
    # With the posterior's own means and variances importance weights are light-tailed.
    close, *_ = linear(0.0, np.diag(np.linalg.inv(PRECISION)))
    exact = bounds(close, jax.random.key(2), BATCH).nats[:, 1]
    np.testing.assert_allclose(exact.mean(), LOG_PX.mean(), atol=0.01)


OPTIONS = {
    "vae": {},
    "cvae": {},
    "flow_vae": {"flow_width": 8, "flow_steps": 2},
    "vamp_vae": {"pseudo_inputs": 3},
    "mog_vae": {"prior_components": 3},
    "flow_prior_vae": {"flow_width": 8, "flow_steps": 2},
    "ladder_vae": {"latent_dims": (2, 1), "level_widths": (8, 8)},
    "deep_vae": {"levels": ("2x1", "1x1"), "latent_channels": (1, 2), "width": 4},
}


@pytest.mark.slow
@pytest.mark.parametrize("start", ["encoder", "prior"])
@pytest.mark.parametrize("name", OPTIONS)
def test_every_prior_that_has_a_density(name, start, assert_mean):
    """Annealing and 10,000 importance samples agree, where z is so small that both are exact."""
    body = {} if name == "deep_vae" else {"net": "mlp", "widths": (8,)}
    size = {} if "latent" in str(OPTIONS[name]) else {"latent_dim": 2}
    data = DataSpec("pictures", (4, 4, 1), classes=3, binary=True)
    model = lookup.build(name, data, **body, **size, **OPTIONS[name]).model
    x = jax.random.bernoulli(jax.random.key(0), 0.5, (16, 4, 4, 1)).astype(jnp.float32)
    batch = Batch(x, jnp.arange(16) % 3)
    variables = jax.jit(model.init)(jax.random.key(1), *batch[:2])
    # Larger weights, so that x says something about z; the ladder's q is too narrow under them.
    by = 1.0 if name == "ladder_vae" else 1.5
    variables |= {"params": jax.tree.map(lambda leaf: by * leaf, variables["params"])}
    exact = jax.jit(importance.bounds(model, (10_000,), 500))
    how = Annealing(temperatures=100, chains=20, start=start, together=20)
    found = jax.jit(annealed(model, how))(variables, jax.random.key(2), batch)
    weighted = exact(variables, jax.random.key(3), batch)
    expected = np.asarray(weighted.nats[:, 0])
    off = nats(found.log_w) - expected
    assert_mean(np.exp(off), 1.0, 0.002)  # the mean weight has no bias; its logarithm has
    exact_error = np.sqrt(1 / np.asarray(weighted.effective[:, 0]) - 1 / 10_000)
    own = np.sqrt(np.square(error(found.log_w)).mean())  # of 20 chains it is itself uncertain
    assert (np.abs(off) < 5 * np.hypot(np.maximum(own, error(found.log_w)), exact_error)).all()
    assert exact_error.max() < 0.1
    assert 0.4 < float(found.acceptance.mean()) < 0.9
