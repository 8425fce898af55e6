"""The aggregate posterior: its density against mixtures, its MMD against sums and closed forms."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy import integrate, special, stats

from flaxvae.core import Batch, elbo
from flaxvae.distributions import Normal
from flaxvae.parts import aggregate, assemble, latents, likelihoods, networks

log_aggregate = jax.jit(aggregate.log_aggregate, static_argnames="examples")
mmd = jax.jit(aggregate.mmd, static_argnames="kernel")


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def posteriors(seed, n, dim):
    """Overlapping Gaussians, and one draw from each."""
    q = Normal(1.5 * normal(seed, n, dim), 0.5 * normal(seed + 1, n, dim) - 0.5)
    return q, q.sample(jax.random.key(seed + 2))


def components(q, z):
    """log q(z_i_d | x_j), [i, j, d], in float64."""
    mean, deviation = np.float64(q.mean), np.exp(np.float64(q.log_var) / 2)
    return stats.norm.logpdf(np.float64(z)[:, None], mean[None], deviation[None])


def mixture(q, z):
    """log q(z) [B] and log q(z_d) [B, D] of all of q with equal weights."""
    log_q, log_n = components(q, z), np.log(len(q.mean))
    joint = special.logsumexp(log_q.sum(-1), axis=1) - log_n
    return joint, special.logsumexp(log_q, axis=1) - log_n


# --- log q(z) -------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch, examples", [(2, 2), (2, 9), (5, 5), (5, 6), (5, 1000)])
def test_log_aggregate_is_its_definition(batch, examples):
    q, z = posteriors(0, batch, 3)
    joint, marginals = log_aggregate(q, z, examples)
    chex.assert_shape([joint, marginals], [(batch,), (batch, 3)])
    densities, m = np.exp(components(q, z)), batch - 1
    for i in range(batch):
        total, parts, weights = 0.0, np.zeros(3), 0.0
        for j in range(batch):
            if j == i:
                weight = 1 / examples
            elif j == (i + 1) % batch:
                weight = (examples - m) / (examples * m)
            else:
                weight = 1 / m
            weights += weight
            total += weight * densities[i, j].prod()
            parts += weight * densities[i, j]
        np.testing.assert_allclose(weights, 1, rtol=1e-12)
        np.testing.assert_allclose(joint[i], np.log(total), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(marginals[i], np.log(parts), rtol=1e-5, atol=1e-5)


def test_log_aggregate_is_unbiased_over_all_batches():
    """Each example's estimates, averaged over every ordered batch with it, are the mixture's."""
    n, batch = 5, 3
    q, z = posteriors(3, n, 2)
    rows = np.array(list(itertools.permutations(range(n), batch)))
    take = jax.vmap(lambda r: aggregate.log_aggregate(Normal(q.mean[r], q.log_var[r]), z[r], n))
    joint, marginals = (np.exp(np.float64(v)) for v in jax.jit(take)(rows))
    exact_joint, exact_marginals = (np.exp(v) for v in mixture(q, z))
    spreads = []
    for example, position in itertools.product(range(n), range(batch)):
        chosen = rows[:, position] == example
        found = joint[chosen, position]
        np.testing.assert_allclose(found.mean(), exact_joint[example], rtol=1e-5)
        spreads.append(found.std() / found.mean())
        found = marginals[chosen, position].mean(0)
        np.testing.assert_allclose(found, exact_marginals[example], rtol=1e-5)
    assert max(spreads) > 0.1


def test_log_aggregate_is_unbiased_over_random_batches(assert_mean):
    """In probability; in its logarithm it is too low."""
    n, batch = 40, 8
    q, z = posteriors(6, n, 2)

    def one(key):
        r = jax.random.permutation(key, n)[:batch]
        return r, *aggregate.log_aggregate(Normal(q.mean[r], q.log_var[r]), z[r], n)

    keys = jax.random.split(jax.random.key(0), 4000)
    rows, joint, marginals = (np.asarray(v) for v in jax.jit(jax.vmap(one))(keys))
    exact_joint, exact_marginals = mixture(q, z)
    assert_mean(np.exp(joint - exact_joint[rows]), 1.0)
    assert_mean(np.exp(marginals - exact_marginals[rows]), 1.0)
    error = joint - exact_joint[rows]
    assert (error.mean(0) < -5 * error.std(0) / np.sqrt(len(keys))).all()


def test_a_batch_of_all_the_data_is_the_mixture_up_to_two_components():
    """N/(N - 1) q(z_i) - q(z_i|x_i) / (N (N - 1)) - q(z_i|x_s) / N: not q(z_i) itself."""
    n = 7
    q, z = posteriors(9, n, 2)
    joint, marginals = log_aggregate(q, z, n)
    exact_joint, exact_marginals = mixture(q, z)
    own, following = np.arange(n), (np.arange(n) + 1) % n
    log_q = components(q, z)
    for found, exact, parts in (
        (joint, exact_joint, np.exp(log_q.sum(-1))),
        (marginals, exact_marginals, np.exp(log_q)),
    ):
        expected = n / (n - 1) * np.exp(exact)
        expected -= parts[own, own] / (n * (n - 1)) + parts[own, following] / n
        np.testing.assert_allclose(found, np.log(expected), rtol=1e-5, atol=1e-5)
        assert np.abs(np.asarray(found) - exact).max() > 0.01


def decomposed(q, z, examples):
    """Mutual information and total correlation [B] of the draws."""
    joint, marginals = (np.float64(v) for v in log_aggregate(q, z, examples))
    log_q = components(q, z)[np.arange(len(z)), np.arange(len(z))].sum(-1)
    return log_q - joint, joint - marginals.sum(-1)


def test_information_and_correlation_of_clusters():
    """Far clusters: which one is all that z tells of x, and all that its coordinates share."""
    n, dim = 400, 3
    signs = np.sign(np.arange(n) - n / 2 + 0.5)
    q = Normal(jnp.float32(50 * np.stack([signs] * dim, 1)), jnp.zeros(()))
    mi, tc = decomposed(q, q.mean + normal(0, n, dim), n)
    # The weight of its own cluster is 1/2 - 1/(2 (N - 1)), but for the last row of each.
    assert np.abs(mi - np.log(2)).max() < 2 / n
    assert np.abs(tc - (dim - 1) * np.log(2)).max() < (dim - 1) * 2 / n
    inner = np.arange(n) % (n // 2) < n // 2 - 1
    own = 0.5 - 0.5 / (n - 1)
    np.testing.assert_allclose(mi[inner], -np.log(own), atol=1e-4)
    np.testing.assert_allclose(tc[inner], -(dim - 1) * np.log(own), atol=1e-4)
    # The four corners of a square: two independent bits.
    corners = np.stack([signs, np.tile(signs[::2], 2)], 1)
    q = Normal(jnp.float32(50 * corners), jnp.zeros(()))
    mi, tc = decomposed(q, q.mean + normal(1, n, 2), n)
    assert np.abs(mi - np.log(4)).max() < 6 / n
    assert np.abs(tc).max() < 6 / n


def test_correlation_of_overlapping_posteriors():
    """The product of two sets of means factorises at every z; the diagonal does not."""
    side, deviation = np.linspace(-2, 2, 20), 0.6
    grid = np.array(list(itertools.product(side, side)))
    line = np.repeat(np.linspace(-2, 2, 400)[:, None], 2, 1)
    noise = deviation * normal(0, 400, 2)
    for means, factorised in ((grid, True), (line, False)):
        q = Normal(jnp.float32(means), jnp.full((400, 2), 2 * np.log(deviation)))
        z = q.mean + noise
        joint, marginals = mixture(q, z)
        exact = joint - marginals.sum(-1)
        _, tc = decomposed(q, z, 400)
        np.testing.assert_allclose(tc.mean(), exact.mean(), atol=0.02)
        if factorised:
            np.testing.assert_allclose(exact, 0, atol=1e-6)
        else:
            assert exact.mean() > 0.3


def test_log_aggregate_gradients():
    q, z = posteriors(12, 4, 2)
    both = functools.partial(log_aggregate, examples=9)
    check_grads(both, (q, z), order=1, modes=["rev"], rtol=2e-2)
    far = Normal(1e4 * q.mean, q.log_var - 10)
    gradient = jax.jit(jax.grad(lambda q: sum(v.sum() for v in both(q, 1e4 * z))))(far)
    chex.assert_tree_all_finite(gradient)


@pytest.mark.parametrize("batch, examples", [(1, 5), (4, 3)])
def test_batches_that_cannot_be(batch, examples):
    q, z = posteriors(0, batch, 2)
    with pytest.raises(ValueError, match=rf"batch of {batch} from {examples} examples: expected"):
        aggregate.log_aggregate(q, z, examples)


# --- objectives -----------------------------------------------------------------------------------


def small_model(family):
    likelihood = likelihoods.bernoulli(1)
    network = networks.mlp((3, 3, 1), family.heads, likelihood.values, ())
    return assemble.model(network, family, likelihood)


MODEL = small_model(latents.gaussian(2))
X = jax.random.uniform(jax.random.key(0), (4, 3, 3, 1))
KEY, STEP, N = jax.random.key(3), jnp.int32(7), 50


@pytest.fixture(scope="module")
def variables():
    """Random weights, moved so that every term of the KL is felt."""
    found = jax.jit(MODEL.init)(jax.random.key(1), X)
    return jax.tree.map(
        lambda p: p + 0.5 * jax.random.normal(jax.random.key(p.size), p.shape), found
    )


def evaluate(loss, variables, batch, key=KEY):
    value, (metrics, updates) = jax.jit(loss)(variables, key, batch, STEP)
    chex.assert_shape([value, *metrics.values()], ())
    chex.assert_tree_all_finite((value, metrics))
    assert updates == {}
    assert value == metrics["loss"]
    return float(value), {name: float(metric) for name, metric in metrics.items()}


def terms(variables, key=KEY):
    return jax.jit(lambda v: elbo(MODEL, v, key, Batch(X), train=True))(variables)


tc_objective = functools.partial(aggregate.tc_objective, MODEL, examples=N)
mmd_objective = functools.partial(aggregate.mmd_objective, MODEL)


def test_weights_of_one_are_the_negative_elbo(variables):
    found, metrics = evaluate(tc_objective(beta=1.0), variables, Batch(X))
    draw = terms(variables)
    np.testing.assert_allclose(found, -np.float64(draw.log_w).mean(), rtol=1e-6)
    np.testing.assert_allclose(metrics["elbo"], np.float64(draw.elbo).mean(), rtol=1e-6)
    np.testing.assert_allclose(metrics["kl"], np.float64(draw.kl).sum(-1).mean(), rtol=1e-6)
    np.testing.assert_allclose(metrics["reconstruction"], -draw.log_px.mean(), rtol=1e-6)
    loss = lambda v: tc_objective(beta=1.0)(v, KEY, Batch(X), STEP)[0]  # noqa: E731
    bound = lambda v: -elbo(MODEL, v, KEY, Batch(X), train=True).log_w.mean()  # noqa: E731
    gradient, expected = jax.jit(lambda v: (jax.grad(loss)(v), jax.grad(bound)(v)))(variables)
    chex.assert_trees_all_close(gradient, expected, rtol=1e-5, atol=1e-6)


def test_tc_objective_weighs_three_terms(variables):
    _, metrics = evaluate(tc_objective(), variables, Batch(X))
    draw = terms(variables)
    features = jax.jit(MODEL.encode)(variables, X)
    q, z = Normal(features["mean"], features["log_var"]), draw.latent.z
    mi, tc = decomposed(q, z, N)
    marginals = np.float64(log_aggregate(q, z, N)[1]).sum(-1)
    dimension = marginals - stats.norm.logpdf(np.float64(z)).sum(-1)
    expected = {"mutual_information": mi, "total_correlation": tc, "dimension_kl": dimension}
    for name, values in expected.items():
        np.testing.assert_allclose(metrics[name], values.mean(), rtol=1e-4, atol=1e-5)
        assert abs(metrics[name]) > 1e-2

    def loss(alpha, beta, gamma):
        chosen = tc_objective(alpha=alpha, beta=beta, gamma=gamma)
        return chosen(variables, KEY, Batch(X), STEP)[0]

    def total(*factors):
        divergences = (f * values.mean() for f, values in zip(factors, expected.values()))
        return metrics["reconstruction"] + sum(divergences)

    np.testing.assert_allclose(metrics["loss"], total(1, 6, 1), rtol=1e-5)
    for factors in ((0.5, 6.0, 2.0), (0.0, 0.0, 0.0), (0.0, 3.0, 1.0)):
        np.testing.assert_allclose(jax.jit(loss)(*factors), total(*factors), rtol=1e-5)


def test_tc_objective_needs_gaussian_posteriors(variables):
    for family in (latents.point(2), latents.gaussian(2, context=3)):
        model = small_model(family)
        weights = jax.eval_shape(model.init, KEY, X)
        with pytest.raises(ValueError, match="expected 'mean' and 'log_var' alone"):
            jax.eval_shape(aggregate.tc_objective(model, examples=N), weights, KEY, Batch(X), STEP)
    with pytest.raises(ValueError, match="a batch of 4 from 3 examples"):
        jax.eval_shape(tc_objective(examples=3), variables, KEY, Batch(X), STEP)


@pytest.mark.parametrize("make", [tc_objective, mmd_objective], ids=["tc", "mmd"])
def test_masked_rows_count_in_no_average(variables, make):
    loss = make()

    def value(mask, x=X):
        return evaluate(loss, variables, Batch(x, mask=jnp.array(mask)))

    whole, metrics = value([1.0, 1.0, 1.0, 1.0])
    plain, others = evaluate(loss, variables, Batch(X))
    np.testing.assert_allclose(whole, plain, rtol=1e-5)
    chex.assert_trees_all_close(metrics, others, rtol=1e-5, atol=1e-6)
    assert value([0.0, 0.0, 0.0, 0.0])[1]["kl"] == 0
    if make is mmd_objective:  # here padding is not seen at all
        padded = value([1.0, 1.0, 0.0, 0.0], X.at[2:].set(1.0))
        chex.assert_trees_all_close(padded, value([1.0, 1.0, 0.0, 0.0]), rtol=1e-5)
    else:
        both, metrics = value([1.0, 1.0, 0.0, 0.0])
        apart = [value(mask)[0] for mask in ([1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0])]
        np.testing.assert_allclose(both, np.mean(apart), rtol=1e-5)
        changed = value([1.0, 1.0, 0.0, 0.0], X.at[2:].set(1.0))[1]
        for name in ("elbo", "reconstruction", "kl"):
            np.testing.assert_allclose(changed[name], metrics[name], rtol=1e-5)


def test_mmd_objective_is_the_papers(variables):
    first = evaluate(mmd_objective(kernel="gaussian"), variables, Batch(X))[1]
    draw = terms(variables, jax.random.split(KEY)[0])
    prior = MODEL.prior_sample(variables, jax.random.split(KEY)[1], 4)
    expected = naive_mmd(draw.latent.z, prior, "gaussian")
    np.testing.assert_allclose(first["mmd"], expected, rtol=1e-4)
    np.testing.assert_allclose(first["elbo"], np.float64(draw.elbo).mean(), rtol=1e-6)
    np.testing.assert_allclose(first["kl"], np.float64(draw.kl).sum(-1).mean(), rtol=1e-6)

    def loss(alpha, weight):
        chosen = mmd_objective(alpha=alpha, mmd_weight=weight, kernel="gaussian")
        return chosen(variables, KEY, Batch(X), STEP)[0]

    def total(alpha, weight):
        kl, discrepancy = (1 - alpha) * first["kl"], (alpha + weight - 1) * first["mmd"]
        return first["reconstruction"] + kl + discrepancy

    np.testing.assert_allclose(first["loss"], total(0, 100), rtol=1e-5)
    loss = jax.jit(loss)
    for factors in ((1.0, 10.0), (0.5, 3.0)):
        np.testing.assert_allclose(loss(*factors), total(*factors), rtol=1e-5)
    np.testing.assert_allclose(loss(0.0, 1.0), -first["elbo"], rtol=1e-6)


def test_a_posterior_that_is_the_prior_has_no_mmd(variables, assert_mean):
    """Draws of both are independent: one key for the two would show here."""
    collapsed = jax.tree.map(jnp.zeros_like, variables)
    keys = jax.random.split(KEY, 5000)
    loss = mmd_objective()
    metrics = jax.jit(jax.vmap(lambda key: loss(collapsed, key, Batch(X), STEP)[1][0]))(keys)
    np.testing.assert_allclose(metrics["kl"], 0, atol=1e-6)
    assert_mean(metrics["mmd"])


@pytest.mark.parametrize("make", [tc_objective, mmd_objective], ids=["tc", "mmd"])
def test_gradients_reach_every_parameter(variables, make):
    gradient = jax.jit(jax.grad(lambda v: make()(v, KEY, Batch(X), STEP)[0]))(variables)
    chex.assert_tree_all_finite(gradient)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))


# --- MMD ------------------------------------------------------------------------------------------


def naive_kernel(a, b, kernel):
    squared, dim = ((a - b) ** 2).sum(), len(a)
    if kernel == "gaussian":
        return np.exp(-squared / (2 * dim))
    return sum(2 * dim * s / (2 * dim * s + squared) for s in (0.1, 0.2, 0.5, 1, 2, 5, 10))


def naive_mmd(x, y, kernel):
    x, y = np.float64(x), np.float64(y)

    def pairs(a, b, skip):
        values = [
            naive_kernel(p, r, kernel)
            for (i, p), (j, r) in itertools.product(enumerate(a), enumerate(b))
            if not (skip and i == j)
        ]
        return np.mean(values)

    return pairs(x, x, True) + pairs(y, y, True) - 2 * pairs(x, y, False)


both_kernels = pytest.mark.parametrize("kernel", ["imq", "gaussian"])


@both_kernels
def test_mmd_is_a_double_loop(kernel):
    x, y = 0.5 * normal(0, 6, 3) + 1, normal(1, 4, 3)
    expected = naive_mmd(x, y, kernel)
    np.testing.assert_allclose(mmd(x, y, kernel), expected, rtol=1e-5)
    np.testing.assert_allclose(mmd(y, x, kernel), expected, rtol=1e-5)
    np.testing.assert_allclose(mmd(x + 100, y + 100, kernel), expected, rtol=1e-3)
    mask = jnp.array([1.0, 0.0, 1.0, 1.0, 0.0, 1.0])
    kept = x[np.asarray(mask) == 1]
    np.testing.assert_allclose(mmd(x, y, kernel, mask), naive_mmd(kept, y, kernel), rtol=1e-5)


@functools.partial(jax.jit, static_argnums=0)
def sampled_mmd(kernel, scale, shift):
    """MMD of 5 points of N(shift, scale^2) to 4 of N(0, I), 20,000 times."""

    def one(key):
        x, y = (jax.random.normal(k, (5, 3)) for k in jax.random.split(key))
        return aggregate.mmd(scale[None] * x + shift[None], y[:4], kernel)

    return jax.vmap(one)(jax.random.split(jax.random.key(0), 20_000))


@both_kernels
def test_mmd_of_equal_distributions_is_zero(kernel, assert_mean):
    values = sampled_mmd(kernel, jnp.ones(3), jnp.zeros(3))
    assert_mean(values)
    assert (np.asarray(values) < 0).mean() > 0.3


def test_mmd_of_two_gaussians(assert_mean):
    """E exp(-|u|^2 / (2 D)) for u ~ N(m, diag v) is prod_d (1 + v/D)^-1/2 exp(-m^2/(2 (D + v)))."""
    dim, scale, shift = 3, np.array([0.5, 1.0, 2.0]), np.array([1.0, 0.0, -0.5])

    def expected(mean, variance):
        factors = np.exp(-(mean**2) / (2 * (dim + variance))) / np.sqrt(1 + variance / dim)
        return factors.prod()

    exact = expected(0 * shift, 2 * scale**2) + expected(0 * shift, np.full(3, 2.0))
    exact -= 2 * expected(shift, 1 + scale**2)
    values = sampled_mmd("gaussian", jnp.float32(scale), jnp.float32(shift))
    assert_mean(values, exact)
    assert exact > 20 * np.std(values) / np.sqrt(len(values))


def test_how_large_an_mmd_is():
    """The figures by which ``mmd_objective`` explains lambda: imq in 20 dimensions."""
    dim, points = 20, np.linspace(0, 200, 20_001)
    density = stats.chi2.pdf(points, dim)

    def kernel(variance):
        """E k(x, y) where x - y ~ N(0, variance I)."""
        values = np.float64(aggregate.KERNELS["imq"](jnp.float32(variance * points), dim))
        return integrate.simpson(values * density, x=points)

    def expected(scale):
        return kernel(2 * scale**2) + kernel(2.0) - 2 * kernel(1 + scale**2)

    found = [expected(scale) for scale in (1.0, 0.5, 2.0, 0.0)]
    np.testing.assert_allclose(found, [0, 0.44, 0.53, 1.90], atol=0.005)

    def batch(key):
        x, y = (jax.random.normal(k, (128, dim)) for k in jax.random.split(key))
        return aggregate.mmd(x, y)

    noise = jax.lax.map(batch, jax.random.split(jax.random.key(0), 500))
    assert np.std(noise) == pytest.approx(0.006, abs=0.001)


@both_kernels
def test_mmd_gradients(kernel):
    gradient = jax.jit(jax.grad(functools.partial(aggregate.mmd, kernel=kernel), (0, 1)))
    x, y = normal(0, 4, 2), normal(1, 4, 2)
    # Coincident points, within a sample and across, neither attract nor repel each other.
    coincident = jnp.concatenate([x[:1], x[:1], y[:2]])
    step = 1e-5
    for first in (x, coincident):
        slopes = np.zeros((4, 2))
        for index in np.ndindex(4, 2):
            moved = np.zeros((4, 2))
            moved[index] = step
            ahead = naive_mmd(np.float64(first) + moved, y, kernel)
            slopes[index] = (ahead - naive_mmd(np.float64(first) - moved, y, kernel)) / (2 * step)
        np.testing.assert_allclose(gradient(first, y)[0], slopes, atol=1e-4)
        np.testing.assert_allclose(gradient(y, first)[1], slopes, atol=1e-4)
        assert np.abs(slopes).max() > 1e-2
    for side in gradient(jnp.ones((4, 2)), jnp.ones((4, 2))):
        np.testing.assert_allclose(side, 0, atol=1e-6)


def test_mmd_of_samples_that_cannot_be():
    with pytest.raises(ValueError, match="'rbf': expected one of imq, gaussian"):
        aggregate.mmd(normal(0, 3, 2), normal(1, 3, 2), "rbf")
    with pytest.raises(ValueError, match="samples of 1 and 3: expected at least two points"):
        aggregate.mmd(normal(0, 1, 2), normal(1, 3, 2))
