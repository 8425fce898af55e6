"""Categorical latents against a model small enough to sum over all of its latents."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from flaxvae.core import Batch, elbo_samples, log_weights
from flaxvae.parts import assemble, discrete, likelihoods, networks

N, K, PIXELS = 2, 3, 4
HARD = {"relaxation": {"temperature": jnp.float32(1.0)}, "params": {}}
samples_of = jax.jit(elbo_samples, static_argnums=(0, 4))
weights_of = jax.jit(log_weights, static_argnums=(0, 4))


def normal(seed, *shape, scale=1.0):
    return scale * jax.random.normal(jax.random.key(seed), shape)


def at(temperature):
    return {"params": {}, "relaxation": {"temperature": jnp.float32(temperature)}}


def draws(family, temperature, heads, train):
    """20,000 draws. Temperature and heads are arguments, so that one compilation serves many."""

    @jax.jit
    def function(state, keys, heads):
        return jax.vmap(lambda key: family.draw(state, key, heads, train))(keys)

    return function(at(temperature), jax.random.split(jax.random.key(1), 20_000), heads)


# --- the bound --------------------------------------------------------------------------------


def small_model(variables):
    """Linear encoder and decoder with large random weights, and all binary images of 4 pixels."""
    family = discrete.categorical(variables, K)
    network = networks.mlp((PIXELS, 1), family.heads, 1, widths=())
    model = assemble.model(network, family, likelihoods.bernoulli(1))
    x = np.array(list(itertools.product([0.0, 1.0], repeat=PIXELS)), np.float32)[..., None]
    variables = jax.jit(model.init)(jax.random.key(0), x)
    rng = np.random.default_rng(0)
    wide = jax.tree.map(lambda leaf: jnp.float32(rng.normal(size=leaf.shape)), variables["params"])
    return model, {**variables, "params": wide}, Batch(jnp.asarray(x))


def joint(variables, batch, count):
    """log p(x, z) [K^N, B] in float64, from the decoder's weights."""
    z = np.array(list(itertools.product(np.eye(K), repeat=count))).reshape(K**count, -1)
    out = variables["params"]["decoder"]["out"]
    logits = (z @ np.float64(out["kernel"]) + np.float64(out["bias"]))[:, None]
    x = np.float64(batch.x)[None, ..., 0]
    return stats.bernoulli.logpmf(x, special.expit(logits)).sum(-1) - count * np.log(K)


def test_bound_is_below_the_likelihood_and_rises_to_it(assert_mean):
    model, variables, batch = small_model(N)
    exact = special.logsumexp(joint(variables, batch, N), axis=0)
    np.testing.assert_allclose(special.logsumexp(exact), 0, atol=1e-6)  # all images: one
    log_w = np.float64(weights_of(model, variables, jax.random.key(0), batch, 60_000))
    assert_mean(np.exp(log_w - exact), 1.0)
    bounds = []
    for k in (1, 5, 50):
        groups = log_w.reshape(-1, k, len(exact))
        bounds.append(special.logsumexp(groups, axis=1).mean(0) - np.log(k))
    assert (np.diff(bounds, axis=0) > 0).all()
    assert (bounds[0] < exact - 0.01).all()
    np.testing.assert_allclose(
        special.logsumexp(log_w, axis=0) - np.log(len(log_w)), exact, atol=0.1
    )


def test_closed_and_sampled_bounds_agree_with_the_sum(assert_mean):
    """ELBO = sum_z q(z|x) [log p(x, z) - log q(z|x)], by summation."""
    model, variables, batch = small_model(N)
    logits = np.float64(model.encode(variables, batch.x)["logits"]).reshape(-1, N, K)
    log_q = special.log_softmax(logits, axis=-1)
    log_q = (log_q[:, 0, :, None] + log_q[:, 1, None, :]).reshape(-1, K**N).T
    expected = (np.exp(log_q) * (joint(variables, batch, N) - log_q)).sum(0)
    terms = samples_of(model, variables, jax.random.key(0), batch, 20_000)
    assert_mean(terms.log_w, expected)
    assert_mean(terms.elbo, expected)


def test_exact_posterior_weighs_all_draws_alike():
    """One variable: p(z|x) is a softmax of logits linear in a binary x, which the encoder has."""
    model, variables, batch = small_model(1)
    out = variables["params"]["decoder"]["out"]
    kernel, bias = out["kernel"], out["bias"]  # [K, pixels], [pixels]
    logits = kernel + bias[None]
    head = {"kernel": logits.T, "bias": -jax.nn.softplus(logits).sum(-1)}
    params = {**variables["params"], "encoder": {"heads": {"logits": head}}}
    variables = {**variables, "params": params}
    exact = special.logsumexp(joint(variables, batch, 1), axis=0)
    terms = samples_of(model, variables, jax.random.key(0), batch, 50)
    np.testing.assert_allclose(terms.log_w, np.broadcast_to(exact, (50, 16)), atol=2e-5)
    assert np.asarray(terms.latent.z).std(0).max() > 0.1  # draws that do differ


# --- hard and relaxed draws -------------------------------------------------------------------


def test_hard_samples_are_categorical(assert_mean):
    family, heads = discrete.categorical(N, K), {"logits": normal(0, 2, N * K, scale=2.0)}
    q = special.softmax(np.float64(heads["logits"]).reshape(2, N, K), axis=-1)
    latent = draws(family, 1.0, heads, train=False)
    z = np.asarray(latent.z).reshape(-1, 2, N, K)
    assert set(np.unique(z)) == {0.0, 1.0}
    np.testing.assert_array_equal(z.sum(-1), 1.0)
    assert_mean(z, q)
    assert_mean(z[:, :, 0, :, None] * z[:, :, 1, None, :], q[:, 0, :, None] * q[:, 1, None, :])
    log_q = (z * np.log(q)).sum((-1, -2))
    np.testing.assert_allclose(latent.log_ratio, -N * np.log(K) - log_q, atol=2e-5)
    assert latent.updates == {}
    np.testing.assert_array_equal(latent.penalty, 0.0)


@pytest.mark.parametrize("temperature", [0.1, 1.0, 10.0])
def test_relaxed_samples_have_categorical_arg_max(temperature, assert_mean):
    family, heads = discrete.categorical(N, K), {"logits": normal(0, 2, N * K)}
    q = special.softmax(np.float64(heads["logits"]).reshape(2, N, K), axis=-1)
    latent = draws(family, temperature, heads, train=True)
    z = np.asarray(latent.z).reshape(-1, 2, N, K)
    np.testing.assert_allclose(z.sum(-1), 1.0, atol=1e-5)
    chosen = np.eye(K)[z.argmax(-1)]
    assert_mean(chosen, q)
    # log_ratio is that of the arg max, and the arg max that of the hard draw of this key.
    log_q = (chosen * np.log(q)).sum((-1, -2))
    np.testing.assert_allclose(latent.log_ratio, -N * np.log(K) - log_q, atol=2e-5)
    hard = draws(family, temperature, heads, train=False)
    np.testing.assert_array_equal(chosen.reshape(hard.z.shape), hard.z)


def test_relaxed_samples_have_the_density_of_the_paper():
    """K = 2: logit(z_1) T is logistic with location logits_1 - logits_2 (Maddison et al. 2016)."""
    family, heads = discrete.categorical(1, 2), {"logits": jnp.array([[0.7, -0.4]])}
    t = 0.5
    z = np.float64(draws(family, t, heads, train=True).z)[:, 0]
    gap = t * (np.log(z[:, 0]) - np.log(z[:, 1]))
    assert stats.kstest(gap, stats.logistic(loc=1.1).cdf).pvalue > 1e-4


def test_relaxed_samples_tend_to_one_hot_vectors():
    family, heads = discrete.categorical(N, K), {"logits": normal(0, 2, N * K)}
    distances = []
    for t in (1.0, 0.1, 0.01, 0.001):
        z = np.asarray(draws(family, t, heads, train=True).z).reshape(-1, K)
        distances.append(1 - z.max(-1).mean())
    assert (np.diff(distances) < 0).all()
    assert distances[-1] < 0.002


def test_straight_through_is_hard_with_the_soft_gradient():
    heads = {"logits": normal(0, 3, N * K)}
    weights, key, state = normal(1, 3, N * K), jax.random.key(2), at(0.7)

    def value(family, heads):
        z = family.draw(state, key, heads, True).z
        return (weights * z).sum(), z

    def gradient(family):
        return jax.jit(jax.value_and_grad(functools.partial(value, family), has_aux=True))(heads)

    soft = gradient(discrete.categorical(N, K))
    hard = gradient(discrete.categorical(N, K, straight_through=True))
    np.testing.assert_array_equal(hard[1]["logits"], soft[1]["logits"])
    assert np.abs(soft[1]["logits"]).min() > 0
    z = np.asarray(hard[0][1])
    assert set(np.unique(z)) == {0.0, 1.0}
    np.testing.assert_array_equal(discrete.indices(z, K), discrete.indices(soft[0][1], K))


def test_gradient_of_a_relaxed_sample():
    """dz_i / d logits_j = z_i (delta_ij - z_j) / T."""
    family, state, logits = discrete.categorical(1, K), at(0.6), normal(0, 1, K)

    def z(logits):
        return family.draw(state, jax.random.key(0), {"logits": logits[None]}, True).z[0]

    value = np.asarray(z(logits[0]))
    expected = (np.diag(value) - np.outer(value, value)) / 0.6
    np.testing.assert_allclose(jax.jit(jax.jacobian(z))(logits[0]), expected, atol=1e-6)


# --- state, KL, mode, prior -------------------------------------------------------------------


def test_temperature_is_annealed():
    family = discrete.categorical(N, K, temperature=2.0, minimum=0.5, rate=0.1)
    state, heads = family.init(jax.random.key(0)), {"logits": normal(0, 2, N * K)}
    assert state["params"] == {}
    step = jax.jit(lambda state: family.draw(state, jax.random.key(0), heads, True).updates)
    seen = []
    for _ in range(20):
        seen.append(float(state["relaxation"]["temperature"]))
        state = {**state, **step(state)}
    expected = np.maximum(0.5, 2 * np.exp(-0.1 * np.arange(20)))
    assert expected[-1] == 0.5
    np.testing.assert_allclose(seen, expected, rtol=1e-5)


def test_kl_to_uniform():
    family = discrete.categorical(N, K)
    logits = np.float64(normal(0, 5, N * K, scale=3.0)).reshape(5, N, K)
    logits[0, 0], logits[0, 1] = 0.3, [80.0, 0.0, -80.0]  # uniform, and all but certain
    latent = family.draw(
        HARD, jax.random.key(0), {"logits": jnp.float32(logits.reshape(5, -1))}, False
    )
    expected = math.log(K) - stats.entropy(special.softmax(logits, axis=-1), axis=-1)
    np.testing.assert_allclose(latent.kl, expected, rtol=1e-5, atol=1e-6)


def test_without_a_key_z_is_the_mode():
    family, heads = discrete.categorical(N, K), {"logits": normal(0, 5, N * K)}
    modes = np.asarray(heads["logits"]).reshape(5, N, K).argmax(-1)
    for train in (True, False):
        latent = family.draw(HARD, None, heads, train)
        np.testing.assert_array_equal(latent.z, np.eye(K)[modes].reshape(5, -1))
        np.testing.assert_array_equal(latent.code, latent.z)
        np.testing.assert_array_equal(discrete.indices(latent.z, K), modes)
        log_q = special.log_softmax(np.asarray(heads["logits"]).reshape(5, N, K), axis=-1).max(-1)
        np.testing.assert_allclose(latent.log_ratio, -N * np.log(K) - log_q.sum(-1), atol=1e-5)
        drawn = family.draw(HARD, jax.random.key(0), heads, train)
        np.testing.assert_array_equal(drawn.code, latent.z)


def test_prior_is_uniform(assert_mean):
    family = discrete.categorical(N, K)
    z = np.asarray(family.prior_sample(HARD, jax.random.key(0), 20_000, 0.3)).reshape(-1, N, K)
    np.testing.assert_array_equal(z.sum(-1), 1.0)
    assert_mean(z, 1 / K)
    assert_mean(z[:, 0, :, None] * z[:, 1, None, :], 1 / K**2)
