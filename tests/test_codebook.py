"""Vector quantisation against brute force, k-means in numpy, and a sum over all codes."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from flaxvae.core import Batch, elbo
from flaxvae.errors import UsageError
from flaxvae.parts import assemble, codebook, likelihoods, networks

P, K, DIM = 3, 5, 2


def normal(seed, *shape, scale=1.0):
    return scale * jax.random.normal(jax.random.key(seed), shape)


def spread(family, seed=0, scale=1.0):
    """The family's variables with codes as far apart as the z_e of these tests."""
    variables = family.init(jax.random.key(seed))
    return jax.tree.map(
        lambda leaf: normal(7, *leaf.shape, scale=scale) if leaf.ndim == 2 else leaf, variables
    )


def nearest(embedding, z_e):
    """By brute force in float64."""
    vectors = np.float64(z_e).reshape(len(z_e), -1, embedding.shape[1])
    difference = vectors[:, :, None] - np.float64(embedding)[None, None]
    return (difference**2).sum(-1).argmin(-1)


# Constant tables of log p(c) in place of a network: positions are independent under it.
TABLE = codebook.CodePrior(
    log_prob=lambda params, c: jax.nn.log_softmax(params)[jnp.arange(c.shape[1])[None], c].sum(-1),
    sample=lambda params, key, n, temperature: jax.random.categorical(
        key, params[None] / temperature, shape=(n, params.shape[0])
    ),
)


# --- quantisation -----------------------------------------------------------------------------


@pytest.mark.parametrize("decay", [0.99, None], ids=["ema", "gradient"])
def test_z_is_the_nearest_code(decay):
    family = codebook.vector_quantized(P, K, DIM, decay=decay)
    assert dict(family.heads) == {"z": P * DIM}
    variables, z_e = spread(family), normal(0, 50, P * DIM)
    embedding = np.asarray(variables["params" if decay is None else "codebook"]["embedding"])
    expected = nearest(embedding, z_e)
    assert len(np.unique(expected)) == K
    np.testing.assert_array_equal(codebook.indices(variables, z_e), expected)
    for key in (jax.random.key(0), None):
        latent = family.draw(variables, key, {"z": z_e}, False)
        np.testing.assert_array_equal(latent.z, embedding[expected].reshape(50, -1))
        np.testing.assert_array_equal(latent.code, latent.z)
        assert latent.updates == {}
    np.testing.assert_array_equal(codebook.embed(variables, expected), latent.z)
    np.testing.assert_array_equal(codebook.indices(variables, latent.z), expected)


def test_nearest_code_far_from_the_origin():
    """The expanded square would lose these distances, of about 1, among squares of 10^8."""
    offset = 1e4
    variables = {"params": {"embedding": offset + normal(0, 8, DIM)}}
    z_e = offset + normal(1, 40, P * DIM)
    expected = nearest(np.asarray(variables["params"]["embedding"]), z_e)
    np.testing.assert_array_equal(codebook.indices(variables, z_e), expected)


def test_straight_through_gradient_is_the_identity():
    for decay in (0.99, None):
        family = codebook.vector_quantized(P, K, DIM, decay=decay)
        variables, z_e, weights = spread(family), normal(0, 4, P * DIM), normal(1, 4, P * DIM)

        def value(params, z_e, family=family, variables=variables, weights=weights):
            latent = family.draw({**variables, "params": params}, None, {"z": z_e}, False)
            return (weights * latent.z).sum()

        own, to_z_e = jax.jit(jax.grad(value, argnums=(0, 1)))(variables["params"], z_e)
        np.testing.assert_array_equal(to_z_e, weights)
        assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(own))


def test_penalty_and_its_gradients():
    """beta |z_e - sg(e)|^2 (+ |sg(z_e) - e|^2): 2 beta (z_e - e) to z_e, 2 (e - z_e) to e."""
    z_e, weights = normal(0, 6, P * DIM), np.arange(1.0, 7.0, dtype=np.float32)
    for decay in (0.99, None):
        family = codebook.vector_quantized(P, K, DIM, commitment=0.4, decay=decay)
        variables = spread(family)

        def total(variables, z_e, family=family):
            penalty = family.draw(variables, None, {"z": z_e}, False).penalty
            return (jnp.asarray(weights) * penalty).sum(), penalty

        gradient = jax.jit(jax.grad(total, argnums=(0, 1), has_aux=True))
        (to_codes, to_z_e), penalty = gradient(variables, z_e)
        source = "params" if decay is None else "codebook"
        embedding = np.float64(variables[source]["embedding"])
        chosen = nearest(embedding, z_e)
        apart = np.float64(z_e).reshape(-1, P, DIM) - embedding[chosen]
        squared = (apart**2).sum((1, 2))
        factor = 1.4 if decay is None else 0.4
        np.testing.assert_allclose(penalty, factor * squared, rtol=1e-5)
        apart = apart * weights[:, None, None]
        np.testing.assert_allclose(to_z_e, 0.8 * apart.reshape(6, -1), rtol=1e-4, atol=1e-6)
        expected = np.zeros((K, DIM))
        if decay is None:
            np.add.at(expected, chosen.ravel(), -2 * apart.reshape(-1, DIM))
        got = to_codes[source]["embedding"]
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


# --- how codes learn --------------------------------------------------------------------------


def test_moving_averages_against_a_loop():
    family = codebook.vector_quantized(P, K, DIM, decay=0.8, revive=0.0)
    variables = spread(family)
    state = {name: np.float64(leaf) for name, leaf in variables["codebook"].items()}
    draw = jax.jit(lambda v, key, z_e: family.draw(v, key, {"z": z_e}, True).updates)
    for step in range(4):
        z_e = normal(step, 10, P * DIM)
        chosen = nearest(state["embedding"], z_e)
        n, s = np.zeros(K), np.zeros((K, DIM))
        for row, codes in zip(np.float64(z_e).reshape(10, P, DIM), chosen):
            for vector, code in zip(row, codes):
                n[code] += 1
                s[code] += vector
        count = 0.8 * state["count"] + 0.2 * n
        sums = 0.8 * state["sum"] + 0.2 * s
        total = count.sum()
        smoothed = (count + 1e-5) / (total + K * 1e-5) * total
        state = {"count": count, "sum": sums, "embedding": sums / smoothed[:, None]}
        variables = {**variables, **draw(variables, jax.random.key(step), z_e)}
        assert set(variables["codebook"]) == set(state)
        for name, expected in state.items():
            np.testing.assert_allclose(variables["codebook"][name], expected, rtol=2e-5, atol=1e-6)


def clusters(count, rows, seed=0):
    """Vectors [rows, DIM] around centres [count, DIM] on a circle of radius 10 about (20, -5)."""
    rng = np.random.default_rng(seed)
    angle = 2 * np.pi * np.arange(count) / count
    centres = np.stack([20 + 10 * np.cos(angle), -5 + 10 * np.sin(angle)], axis=-1)
    labels = rng.integers(count, size=rows)
    return centres, jnp.float32(centres[labels] + rng.normal(size=(rows, DIM), scale=0.1))


def train(family, variables, batches):
    step = jax.jit(lambda v, key, z_e: family.draw(v, key, {"z": z_e}, True).updates)
    for i, z_e in enumerate(batches):
        variables = {**variables, **step(variables, jax.random.key(i), z_e)}
    return variables


def test_codes_find_all_clusters_within_few_updates():
    family = codebook.vector_quantized(1, 64, DIM)
    variables = family.init(jax.random.key(0))
    assert np.abs(variables["codebook"]["embedding"]).max() < 0.5  # all far from the data
    centres = clusters(6, 1)[0]
    batches = [clusters(6, 256, seed)[1] for seed in range(5)]
    first = codebook.indices(variables, batches[0])
    assert len(np.unique(first)) < 6
    variables = train(family, variables, batches)
    z_e = clusters(6, 500, 99)[1]
    z = np.asarray(family.draw(variables, None, {"z": z_e}, False).z)
    assert np.linalg.norm(z - np.asarray(z_e), axis=-1).max() < 1.0  # centres are 10 apart
    embedding = np.asarray(variables["codebook"]["embedding"])
    apart = np.linalg.norm(embedding[:, None] - centres[None], axis=-1)
    assert (apart.min(0) < 0.5).all()
    # Only codes that the first batch fell to, before any had moved, can be between clusters.
    assert (apart.min(1) > 1.0).sum() <= len(np.unique(first))


def test_a_dead_code_is_revived_at_an_encoder_output():
    """One code takes everything; the four too far away for that move to vectors of the batch."""
    z_e, far = normal(0, 64, DIM), 1e3
    embedding = jnp.concatenate([jnp.zeros((1, DIM)), far + normal(1, 4, DIM)])
    dead = {"embedding": embedding, "count": jnp.ones(5), "sum": embedding}
    collapsed = {"params": {}, "codebook": dead}
    keys = [jax.random.key(i) for i in range(50)]

    def after(revive, steps):
        family = codebook.vector_quantized(1, 5, DIM, decay=0.9, revive=revive)
        return train(family, collapsed, [z_e] * steps)["codebook"]

    before = after(0.1, 21)  # 0.9^21 = 0.109
    np.testing.assert_allclose(before["embedding"][1:], embedding[1:], rtol=1e-3)
    revived = after(0.1, 22)  # 0.9^22 = 0.098
    moved = np.asarray(revived["embedding"])[1:]
    rows = [np.flatnonzero((np.asarray(z_e) == code[None]).all(-1)) for code in moved]
    assert [len(row) for row in rows] == [1] * 4
    assert len(np.unique(np.concatenate(rows))) == 4
    np.testing.assert_array_equal(revived["count"][1:], 1.0)
    np.testing.assert_array_equal(revived["sum"][1:], moved)
    # Used from now on, and the error falls.
    used = {"params": {}, "codebook": revived}
    assert len(np.unique(codebook.indices(used, z_e))) == 5
    never = after(0.0, 22)
    np.testing.assert_allclose(never["embedding"][1:], embedding[1:], rtol=1e-3)
    # The key decides where to, and is the only thing that does.
    family = codebook.vector_quantized(1, 5, DIM, decay=0.9, revive=2.0)
    move = jax.jit(jax.vmap(lambda key: family.draw(collapsed, key, {"z": z_e}, True).updates))
    moves = np.asarray(move(jnp.stack(keys))["codebook"]["embedding"])
    assert len(np.unique(moves[:, 1], axis=0)) > 20
    np.testing.assert_array_equal(moves[:, 0], moves[:1, 0].repeat(50, axis=0))
    np.testing.assert_array_equal(move(jnp.stack(keys))["codebook"]["embedding"], moves)


def test_more_codes_than_vectors():
    family = codebook.vector_quantized(1, 8, DIM)
    z_e = normal(0, 3, DIM)
    variables = train(family, family.init(jax.random.key(0)), [z_e])
    moved = np.asarray(variables["codebook"]["embedding"])
    at = (moved[:, None] == np.asarray(z_e)[None]).all(-1)
    assert at.sum() >= 5  # of 8 codes, those that none of the 3 vectors fell to
    assert at.any(0).all()


def test_state_changes_in_training_only():
    z_e = normal(0, 6, P * DIM)
    family = codebook.vector_quantized(P, K, DIM)
    variables = spread(family)

    def updated(family, variables, key, train):
        return set(
            jax.eval_shape(lambda v: family.draw(v, key, {"z": z_e}, train), variables).updates
        )

    key = jax.random.key(0)
    assert updated(family, variables, key, True) == {"codebook"}
    assert updated(family, variables, key, False) == set()
    assert updated(family, variables, None, True) == set()
    by_gradient = codebook.vector_quantized(P, K, DIM, decay=None)
    assert updated(by_gradient, spread(by_gradient), key, True) == set()


def test_update_has_no_gradient():
    family, z_e = codebook.vector_quantized(P, K, DIM), normal(0, 6, P * DIM)
    variables = spread(family)

    def total(z_e):
        updates = family.draw(variables, jax.random.key(0), {"z": z_e}, True).updates
        return sum(leaf.sum() for leaf in jax.tree.leaves(updates))

    np.testing.assert_array_equal(jax.jit(jax.grad(total))(z_e), 0.0)


def test_gradient_variant_moves_codes_to_the_cluster_centres():
    family = codebook.vector_quantized(1, 4, DIM, decay=None)
    centres, z_e = clusters(4, 400)
    start = {"embedding": jnp.float32(centres + np.random.default_rng(1).normal(size=(4, DIM)))}

    def loss(params):
        return family.draw({"params": params}, None, {"z": z_e}, True).penalty.mean()

    @jax.jit
    def step(params):
        return jax.tree.map(lambda p, g: p - 0.5 * g, params, jax.grad(loss)(params))

    params = start
    for _ in range(60):
        params = step(params)
    chosen = nearest(np.asarray(params["embedding"]), z_e)[:, 0]
    means = np.stack([np.asarray(z_e)[chosen == k].mean(0) for k in range(4)])
    np.testing.assert_allclose(params["embedding"], means, atol=1e-3)
    assert np.linalg.norm(params["embedding"] - centres, axis=-1).max() < 0.05


# --- the bound and the prior ------------------------------------------------------------------


@pytest.mark.parametrize("positions", [1, 2])
def test_bound_against_a_sum_over_all_codes(positions):
    """log p(x) = log sum_c p(c) p(x|c), of which the bound keeps the one term of x's own codes."""
    pixels, codes = 4, 3
    family = codebook.vector_quantized(positions, codes, DIM, prior=TABLE)
    network = networks.mlp((pixels, 1), family.heads, 1, widths=())
    model = assemble.model(network, family, likelihoods.bernoulli(1))
    x = np.array(list(itertools.product([0.0, 1.0], repeat=pixels)), np.float32)[..., None]
    variables = jax.jit(model.init)(jax.random.key(0), x)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jnp.float32(rng.normal(size=leaf.shape)), variables["params"]
    )
    state = {**variables["codebook"], "embedding": normal(3, codes, DIM)}
    variables = {"params": params, "codebook": state}
    table = normal(4, positions, codes)
    all_codes = np.array(list(itertools.product(range(codes), repeat=positions)))
    z = np.float64(state["embedding"])[all_codes].reshape(len(all_codes), -1)
    out = params["decoder"]["out"]
    logits = (z @ np.float64(out["kernel"]) + np.float64(out["bias"]))[:, None]
    log_px = stats.bernoulli.logpmf(x[None, ..., 0], special.expit(logits)).sum(-1)
    log_table = special.log_softmax(np.float64(table), axis=-1)
    fitted = log_table[np.arange(positions)[None], all_codes].sum(-1)
    uniform = np.full(len(all_codes), -positions * np.log(codes))
    own = codebook.indices(assemble.of_latents(variables), model.encode(variables, x)["z"])
    row = np.ravel_multi_index(np.asarray(own).T, (codes,) * positions)
    assert len(np.unique(row)) > 1
    bound = jax.jit(lambda v: elbo(model, v, jax.random.key(0), Batch(jnp.asarray(x))))
    for log_prior, v in ((uniform, variables), (fitted, {**variables, "prior": table})):
        terms = bound(v)
        joint = log_px + log_prior[:, None]
        exact = special.logsumexp(joint, axis=0)
        np.testing.assert_allclose(special.logsumexp(exact), 0, atol=1e-6)
        np.testing.assert_allclose(terms.log_w, joint[row, np.arange(16)], atol=2e-5)
        np.testing.assert_allclose(terms.elbo, terms.log_w, atol=1e-6)
        assert (np.asarray(terms.log_w) < exact).all()
        assert terms.kl.shape == (16, 1)


def test_fitted_prior_gets_no_gradient():
    family, z_e = codebook.vector_quantized(P, K, DIM, prior=TABLE), normal(0, 6, P * DIM)
    variables = {**spread(family), "prior": normal(1, P, K)}

    def log_ratio(table):
        return family.draw({**variables, "prior": table}, None, {"z": z_e}, False).log_ratio.sum()

    np.testing.assert_array_equal(jax.jit(jax.grad(log_ratio))(variables["prior"]), 0.0)


def test_prior_samples(assert_mean):
    uniform = codebook.vector_quantized(P, K, DIM)
    variables, n = spread(uniform), 20_000
    sampled = {1.0: uniform, 0.5: codebook.vector_quantized(P, K, DIM, prior=TABLE)}
    table = normal(1, P, K)
    for temperature, family in sampled.items():
        fitted = {**variables, "prior": table}
        sample = jax.jit(family.prior_sample, static_argnums=(2, 3))
        z = sample(fitted, jax.random.key(0), n, temperature)
        drawn = np.asarray(codebook.indices(variables, z))
        np.testing.assert_array_equal(codebook.embed(variables, drawn), z)
        expected = np.full((P, K), 1 / K)
        if family is not uniform:
            expected = special.softmax(np.float64(table) / temperature, axis=-1)
        assert_mean(np.eye(K)[drawn], expected)


def test_a_code_is_found_beside_one_that_is_almost_equal():
    """Far from the origin, where squared distances do not tell the two apart."""
    family = codebook.vector_quantized(P, 2, DIM, decay=None, prior=TABLE)
    codes = np.full((2, DIM), 1e3, np.float32)
    codes[1, 0] = np.nextafter(codes[0, 0], np.float32(2e3))
    table = normal(1, P, 2)
    variables = {"params": {"embedding": jnp.asarray(codes)}, "prior": table}
    indices = np.array([*itertools.product(range(2), repeat=P)])
    z = codebook.embed(variables, indices)
    log_table = special.log_softmax(np.float64(table), axis=-1)
    expected = log_table[np.arange(P)[None], indices].sum(-1)
    np.testing.assert_allclose(family.prior_log_prob(variables, z), expected, rtol=1e-5)
    between = z.at[:, 0].add(1.0)
    np.testing.assert_array_equal(family.prior_log_prob(variables, between), -np.inf)


def test_prior_that_is_not_fitted():
    family = codebook.vector_quantized(P, K, DIM, prior=TABLE)
    variables = spread(family)
    with pytest.raises(UsageError, match=r"not fitted: expected .*; run `flaxvae fit-prior RUN`"):
        family.prior_sample(variables, jax.random.key(0), 3, 1.0)
    # Training and reconstruction need none: the prior is uniform until then.
    latent = family.draw(variables, None, {"z": normal(0, 2, P * DIM)}, False)
    np.testing.assert_allclose(latent.log_ratio, -P * np.log(K), rtol=1e-6)
