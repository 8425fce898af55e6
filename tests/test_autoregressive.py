"""The autoregressive prior over codes: enumerated, perturbed, sampled, fitted."""

import itertools
import math

import chex
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import special

from flaxvae.core import Batch
from flaxvae.devices import batches
from flaxvae.errors import UsageError
from flaxvae.parts import autoregressive

GRID, CODES = (2, 2), 3
PRIOR = autoregressive.code_prior(GRID, CODES, width=8, layers=2, heads=2)
LOGITS, LOG_PROB = jax.jit(PRIOR.logits), jax.jit(PRIOR.log_prob)
SAMPLE = jax.jit(PRIOR.sample, static_argnums=2)
EVERY = np.array(list(itertools.product(range(CODES), repeat=4)), np.int32)  # [81, 4]


def generic(prior, seed=0, scale=0.5):
    """Weights without the zeros and ones of an initialisation, so that nothing cancels."""

    @jax.jit
    def weights(key):
        init_key, noise_key = jax.random.split(key)
        flat, restore = jax.flatten_util.ravel_pytree(prior.init(init_key))
        return restore(flat + scale * jax.random.normal(noise_key, flat.shape))

    return weights(jax.random.key(seed))


@pytest.fixture(scope="module")
def params():
    return generic(PRIOR)


@pytest.fixture(scope="module")
def logits(params):
    """Of every grid of codes, [81, 4, 3]."""
    return np.asarray(LOGITS(params, EVERY))


@pytest.fixture(scope="module")
def log_prob(params):
    """Of every grid of codes, [81]."""
    return np.asarray(LOG_PROB(params, EVERY))


def test_shapes(params, logits, log_prob):
    indices = SAMPLE(params, jax.random.key(0), 6)
    chex.assert_shape(indices, (6, 4))
    chex.assert_type(indices, jnp.int32)
    chex.assert_shape(logits, (81, 4, 3))
    chex.assert_shape(log_prob, (81,))
    assert PRIOR.grid == GRID


def test_a_position_sees_every_earlier_code_and_no_other(logits):
    """Of each pair of grids that differ in one code only."""
    for a, b in itertools.combinations(range(len(EVERY)), 2):
        (changed,) = np.nonzero(EVERY[a] != EVERY[b])
        if len(changed) == 1:
            moved = np.abs(logits[a] - logits[b]).max(-1)
            np.testing.assert_array_less(moved[: changed[0] + 1], 1e-5)
            np.testing.assert_array_less(1e-3, moved[changed[0] + 1 :])


def test_probabilities_sum_to_one(logits, log_prob):
    np.testing.assert_allclose(special.logsumexp(np.float64(log_prob)), 0.0, atol=1e-5)
    assert log_prob.std() > 0.5  # far from uniform, for which this would be easy
    each = special.log_softmax(np.float64(logits), axis=-1)
    expected = [sum(each[n, i, c] for i, c in enumerate(row)) for n, row in enumerate(EVERY)]
    np.testing.assert_allclose(log_prob, expected, atol=1e-5)


def layer_norm(p, x):
    centred = x - x.mean(-1, keepdims=True)
    return p["scale"] * centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) + p["bias"]


def dense(p, x):
    return x @ p["kernel"] + p["bias"]


def naive(params, codes, heads):
    """The logits of one grid [2, 2], position by position, with no mask."""
    p = jax.tree.map(np.float64, params)
    x = []
    for i in range(codes.size):
        previous = codes.flat[i - 1] if i else CODES
        row, column = divmod(i, codes.shape[1])
        rows, columns = p["row"]["embedding"], p["column"]["embedding"]
        x.append(p["token"]["embedding"][previous] + rows[row] + columns[column])
    x = np.stack(x)
    for block in (p["block_0"], p["block_1"]):
        normed = layer_norm(block["LayerNorm_0"], x)
        query, key, value = np.split(dense(block["qkv"], normed), 3, axis=-1)
        seen, size = np.zeros_like(x), x.shape[1] // heads
        for i, head in itertools.product(range(len(x)), range(heads)):
            part = slice(head * size, (head + 1) * size)
            scores = key[: i + 1, part] @ query[i, part] / math.sqrt(size)
            seen[i, part] = special.softmax(scores) @ value[: i + 1, part]
        x = x + dense(block["mix"], seen)
        hidden = dense(block["expand"], layer_norm(block["LayerNorm_1"], x))
        x = x + dense(block["contract"], np.maximum(hidden, 0))
    return dense(p["logits"], layer_norm(p["norm"], x))


@pytest.mark.parametrize("row", [0, 41, 74])
def test_logits_are_those_of_a_causal_transformer(params, logits, row):
    expected = naive(params, EVERY[row].reshape(GRID), heads=2)
    np.testing.assert_allclose(logits[row], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("grid", [(1, 2), (2, 1)])
def test_sample_frequencies(grid, assert_mean):
    """Temperature divides the logits of each factor; checked on all nine grids."""
    prior = autoregressive.code_prior(grid, CODES, width=8, layers=1, heads=2)
    params, sample = generic(prior, seed=3), jax.jit(prior.sample, static_argnums=2)
    pairs = np.array(list(itertools.product(range(CODES), repeat=2)), np.int32)
    logits = np.float64(jax.jit(prior.logits)(params, pairs))
    for temperature in (1.0, 0.5):
        each = special.log_softmax(logits / temperature, axis=-1)
        exact = np.exp(each[np.arange(9), 0, pairs[:, 0]] + each[np.arange(9), 1, pairs[:, 1]])
        drawn = np.asarray(sample(params, jax.random.key(0), 5_000, temperature))
        hits = drawn @ [CODES, 1] == np.arange(9)[:, None]
        assert_mean(hits.T, exact, rounding=1e-3)  # some cells are too rare for a standard error


def test_no_temperature_is_greedy(params, logits):
    expected = np.zeros(4, np.int32)
    for i in range(4):
        row = expected @ [27, 9, 3, 1]  # where EVERY has it
        expected[i] = np.argmax(logits[row, i])
    assert len(set(expected)) > 1
    found = SAMPLE(params, jax.random.key(0), 6, 0.0)
    np.testing.assert_array_equal(found, np.tile(expected, (6, 1)))


def test_samples_of_many_keys(params):
    """Under vmap, the draws of each key alone; other keys, other draws."""
    keys = jax.random.split(jax.random.key(0), 3)
    together = jax.jit(jax.vmap(lambda key: PRIOR.sample(params, key, 6)))(keys)
    np.testing.assert_array_equal(together, [SAMPLE(params, key, 6) for key in keys])
    assert (together[0] != together[1]).any()


START = np.array([0.6, 0.3, 0.1])
NEXT = np.array([[0.8, 0.1, 0.1], [0.1, 0.2, 0.7], [0.3, 0.6, 0.1]])


PREDECESSOR = [-1, 0, 1, 0, 1, 2]  # of a 2x3 grid: the left neighbour, below it the one above


def markov(seed, count):
    """Grids [count, 6] whose codes are each drawn from their predecessor's row of NEXT."""
    rng = np.random.default_rng(seed)
    found = np.zeros((count, 6), np.int32)
    found[:, 0] = rng.choice(CODES, count, p=START)
    for i in range(1, 6):
        below = NEXT.cumsum(-1)[found[:, PREDECESSOR[i]], :-1]
        found[:, i] = (rng.random((count, 1)) > below).sum(-1)
    return found


def test_fits_a_markov_chain():
    prior = autoregressive.code_prior((2, 3), CODES, width=16, layers=1, heads=2)
    model, objective = autoregressive.fitting(prior)
    loss = objective(model)
    data = jnp.asarray(markov(0, 20_000).reshape(-1, 2, 3))
    optimizer = optax.adam(optax.cosine_decay_schedule(1e-2, 300))

    @jax.jit
    def fit(key):
        variables = model.init(key, data[:1])

        def step(i, state):
            variables, moments = state
            rows = jax.random.randint(jax.random.fold_in(key, i), (64,), 0, len(data))
            gradient = jax.grad(lambda v: loss(v, key, Batch(data[rows]), i)[0])(variables)
            change, moments = optimizer.update(gradient, moments)
            return optax.apply_updates(variables, change), moments

        return jax.lax.fori_loop(0, 300, step, (variables, optimizer.init(variables)))[0]

    fitted = fit(jax.random.key(0))["params"]
    fresh = markov(1, 10_000)
    log_prob = np.float64(jax.jit(prior.log_prob)(fitted, fresh))
    exact = np.log(START[fresh[:, 0]])
    exact += np.log(NEXT[fresh[:, PREDECESSOR[1:]], fresh[:, 1:]]).sum(-1)
    gap = exact - log_prob  # in the mean KL(chain || prior), which is not below zero
    error = 5 / math.sqrt(len(fresh))
    assert -error * gap.std() < gap.mean() < 0.05

    marginals, entropy = [START], -START @ np.log(START)
    for i in range(1, 6):
        before = marginals[PREDECESSOR[i]]
        entropy -= before @ (NEXT * np.log(NEXT)).sum(-1)
        marginals.append(before @ NEXT)
    assert abs(log_prob.mean() + entropy) < 0.05 + error * log_prob.std()


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_fitting_minimises_the_negative_log_probability(params, log_prob, dtype):
    model, objective = autoregressive.fitting(PRIOR)
    loss = objective(model)
    x, expected = EVERY[20:28].reshape(-1, *GRID).astype(dtype), log_prob[20:28]
    variables, key, compiled = {"params": params}, jax.random.key(0), jax.jit(loss)
    for real in (8, 3):  # the rows after them only pad the batch
        batch = Batch(x, mask=(np.arange(8) < real).astype(np.float32))
        value, (metrics, updates) = compiled(variables, key, batch, jnp.int32(0))
        chex.assert_shape([value, *metrics.values()], ())
        np.testing.assert_allclose(value, -expected[:real].mean(), rtol=1e-5)
        np.testing.assert_allclose(metrics["bits_per_code"], value / math.log(2) / 4, rtol=1e-6)
        assert set(metrics) == {"loss", "bits_per_code"}
        assert metrics["loss"] == value
        assert updates == {}
    terms = jax.jit(batches.bound_terms(model))(variables, key, Batch(x))
    np.testing.assert_allclose(terms["elbo"], expected, rtol=1e-5)
    np.testing.assert_allclose(terms["reconstruction"], -expected, rtol=1e-5)
    np.testing.assert_array_equal(terms["kl"], np.zeros((8, 1)))


def test_fitting_decodes_to_the_prior(params):
    model, _ = autoregressive.fitting(PRIOR)
    variables = {"params": params}
    made = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *GRID)))
    chex.assert_trees_all_equal_shapes_and_dtypes(made, variables)
    z = model.prior_sample(variables, jax.random.key(1), 6)
    chex.assert_shape(z, (6, 0))
    p = model.decode(variables, z)
    drawn, mean = jax.jit(lambda p, key: (p.sample(key), p.mean))(p, jax.random.key(2))
    chex.assert_type([drawn, mean], jnp.float32)
    expected = SAMPLE(params, jax.random.key(2), 6)
    np.testing.assert_array_equal(drawn, expected.reshape(6, *GRID))
    greedy = SAMPLE(params, jax.random.key(3), 6, 0.0)
    np.testing.assert_array_equal(mean, greedy.reshape(6, *GRID))


def test_misuse_is_said():
    with pytest.raises(UsageError, match="multiple of 4"):
        autoregressive.code_prior(GRID, CODES, width=10, heads=4)
    model, _ = autoregressive.fitting(PRIOR)
    with pytest.raises(UsageError, match=r"expected grids \[2, 2\]"):
        model.init(jax.random.key(0), jnp.zeros((1, 3, 2)))
