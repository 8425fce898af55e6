"""The ladder: merging, KLs, densities and priors, against numpy in float64 and Monte Carlo."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from flaxvae.core import Batch, elbo
from flaxvae.distributions import Normal
from flaxvae.errors import UsageError
from flaxvae.parts import assemble, hierarchy, latents, likelihoods, networks

DIMS, WIDTHS, FEATURES = (3, 2, 1), (5, 4, 3), 6
DRAWS = 20_000


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def family(levels, activation="tanh"):
    return hierarchy.ladder(DIMS[:levels], WIDTHS[:levels], FEATURES, activation)


@functools.cache
def drawer(levels):
    return jax.jit(family(levels).draw, static_argnums=3)


@functools.cache
def mild(levels):
    """Random parameters, with proposals wider than the prior: p / q then has a variance."""
    variables = jax.jit(family(levels).init)(jax.random.key(levels))
    leaves, tree = jax.tree.flatten(variables["params"])
    leaves = [leaf + 0.2 * normal(i, *leaf.shape) for i, leaf in enumerate(leaves)]
    params = jax.tree.unflatten(tree, leaves)
    for name, step in params.items():
        step["heads"]["log_var"]["bias"] += 1.0 if name.startswith("up") else -0.5
    return {"params": params}


def split(z, dims):
    return np.split(np.float64(z), np.cumsum(dims)[:-1], axis=-1)


def naive_step(params, x):
    """Two tanh layers, then the mean and the bounded log-variance: (hidden, mean, log_var)."""

    def dense(own, x):
        return x @ np.float64(own["kernel"]) + np.float64(own["bias"])

    for layer in ("Dense_0", "Dense_1"):
        x = np.tanh(dense(params["body"][layer], x))
    mean, raw = (dense(params["heads"][head], x) for head in ("mean", "log_var"))
    return x, mean, 10 * np.tanh(raw / 10)


def naive_levels(params, features, z):
    """Per level, (mean_q, var_q, mean_p, var_p) at the given z, [..., D_l] each."""
    levels, d = [], np.tanh(np.float64(features))
    for l, own in enumerate(z):
        d, mean, log_var = naive_step(params[f"up_{l + 1}"], d)
        mean, var = np.broadcast_to(mean, own.shape), np.broadcast_to(np.exp(log_var), own.shape)
        if l + 1 == len(z):
            levels.append((mean, var, np.zeros(own.shape), np.ones(own.shape)))
        else:
            _, mean_p, log_var_p = naive_step(params[f"down_{l + 1}"], z[l + 1])
            var_p = np.exp(log_var_p)
            var_q = 1 / (1 / var + 1 / var_p)
            levels.append((var_q * (mean / var + mean_p / var_p), var_q, mean_p, var_p))
    return levels


def naive_log_ratios(params, features, z):
    """log p - log q of every level, [..., L]."""
    ratios = [
        stats.norm.logpdf(own, mean_p, np.sqrt(var_p)).sum(-1)
        - stats.norm.logpdf(own, mean_q, np.sqrt(var_q)).sum(-1)
        for own, (mean_q, var_q, mean_p, var_p) in zip(z, naive_levels(params, features, z))
    ]
    return np.stack(ratios, -1)


@pytest.mark.parametrize("spread", [1.0, 10.0])
def test_merge_adds_precisions(spread):
    grid = np.linspace(-spread, spread, 21)
    log_var_a, log_var_b = (axis.reshape(1, -1) for axis in np.meshgrid(grid, grid))
    mean_a, mean_b = np.float64(normal(0, 1, 441)), np.float64(normal(1, 1, 441))
    arrays = [jnp.float32(a) for a in (mean_a, log_var_a, mean_b, log_var_b)]
    merged = hierarchy.merge(Normal(*arrays[:2]), Normal(*arrays[2:]))
    precision_a, precision_b = np.exp(-log_var_a), np.exp(-log_var_b)
    var = 1 / (precision_a + precision_b)
    mean = var * (mean_a * precision_a + mean_b * precision_b)
    np.testing.assert_allclose(merged.log_var, np.log(var), rtol=1e-6, atol=2e-6)
    np.testing.assert_allclose(merged.mean, mean, rtol=0, atol=1e-5)


def test_merge_has_no_range():
    """One side certain, the other ignorant: the product is the certain one."""
    certain = Normal(jnp.full((1, 1), 2.0), jnp.full((1, 1), -200.0))
    ignorant = Normal(jnp.full((1, 1), -7.0), jnp.full((1, 1), 200.0))
    for pair in ((certain, ignorant), (ignorant, certain)):
        merged = hierarchy.merge(*pair)
        np.testing.assert_array_equal((merged.mean, merged.log_var), (certain.mean, [[-200.0]]))


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_draws_against_numpy_and_monte_carlo(levels, assert_mean):
    """log_ratio is that of the formulas at this z; each KL is the mean of its level's log q/p."""
    dims, variables, heads = DIMS[:levels], mild(levels), {"features": normal(9, 2, FEATURES)}
    keys = jax.random.split(jax.random.key(1), DRAWS)
    draw = jax.jit(jax.vmap(lambda key: family(levels).draw(variables, key, heads, False)))
    latent = draw(keys)
    z = split(latent.z, dims)
    ratios = naive_log_ratios(variables["params"], heads["features"], z)
    np.testing.assert_allclose(latent.log_ratio, ratios.sum(-1), rtol=1e-5, atol=1e-4)
    assert latent.kl.shape == (DRAWS, 2, levels)
    assert (np.asarray(latent.kl) > 0).all()
    assert_mean(np.asarray(latent.kl) + ratios, rounding=1e-6)
    log_p = jax.jit(jax.vmap(lambda z: family(levels).prior_log_prob(variables, z)))(latent.z)
    own = naive_levels(variables["params"], heads["features"], z)
    expected = sum(
        stats.norm.logpdf(at, mean, np.sqrt(var)).sum(-1) for at, (_, _, mean, var) in zip(z, own)
    )
    np.testing.assert_allclose(log_p, expected, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(latent.log_p, expected, rtol=1e-5, atol=1e-4)
    # Each level is drawn from the q whose density is reported: its residuals are N(0, I) ...
    residuals = np.concatenate(
        [
            (own - mean) / np.sqrt(var)
            for own, (mean, var, _, _) in zip(
                z, naive_levels(variables["params"], heads["features"], z)
            )
        ],
        -1,
    )
    assert_mean(residuals)
    moments = residuals[..., :, None] * residuals[..., None, :]
    assert_mean(moments, np.eye(sum(dims)))
    # ... and p, q are normalised, all levels together: E_q[p(z) / q(z)] = 1.
    assert_mean(np.exp(np.float64(latent.log_ratio)), 1.0, rounding=1e-5)


@pytest.mark.parametrize("levels", [2, 3])
def test_kl_columns_in_closed_form(levels):
    variables, heads = mild(levels), {"features": normal(9, 4, FEATURES)}
    latent = drawer(levels)(variables, jax.random.key(0), heads, False)
    z = split(latent.z, DIMS[:levels])
    expected = [
        (np.log(var_p / var_q) + (var_q + (mean_q - mean_p) ** 2) / var_p - 1).sum(-1) / 2
        for mean_q, var_q, mean_p, var_p in naive_levels(variables["params"], heads["features"], z)
    ]
    np.testing.assert_allclose(latent.kl, np.stack(expected, -1), rtol=1e-4, atol=1e-5)


def test_without_a_key_every_level_is_at_its_mean():
    variables, heads = mild(3), {"features": normal(9, 4, FEATURES)}
    at_mean = drawer(3)(variables, None, heads, False)
    z = split(at_mean.z, DIMS)
    levels = naive_levels(variables["params"], heads["features"], z)
    for own, (mean_q, _, _, _) in zip(z, levels):
        np.testing.assert_allclose(own, mean_q, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(at_mean.z, at_mean.code)
    drawn = drawer(3)(variables, jax.random.key(0), heads, False)
    np.testing.assert_allclose(drawn.code, at_mean.code, rtol=1e-6)
    assert (drawn.z != drawn.code).all()
    again = drawer(3)(variables, jax.random.key(0), heads, False)
    np.testing.assert_array_equal(again.z, drawn.z)
    np.testing.assert_array_equal(at_mean.penalty, 0.0)
    assert at_mean.updates == {}


def test_one_level_is_the_gaussian_vae():
    variables, heads = mild(1), {"features": normal(9, 4, FEATURES)}
    _, mean, log_var = naive_step(
        variables["params"]["up_1"], np.tanh(np.float64(heads["features"]))
    )
    plain_heads = {"mean": jnp.float32(mean), "log_var": jnp.float32(log_var)}
    (key,) = jax.random.split(jax.random.key(0), 1)
    plain = latents.gaussian(DIMS[0]).draw({}, key, plain_heads, False)
    one = drawer(1)(variables, jax.random.key(0), heads, False)
    assert set(variables["params"]) == {"up_1"}
    np.testing.assert_allclose(one.kl[:, 0], plain.kl.sum(-1), rtol=1e-5, atol=1e-6)
    for name in ("z", "code", "log_ratio"):
        np.testing.assert_allclose(getattr(one, name), getattr(plain, name), rtol=1e-5, atol=1e-5)


def test_prior_sample_against_ancestral_numpy(assert_mean):
    variables, temperature = mild(3), 0.7
    sample = jax.jit(family(3).prior_sample, static_argnums=2)
    ours = np.float64(sample(variables, jax.random.key(0), DRAWS, temperature))
    rng, z = np.random.default_rng(0), {}
    z[3] = temperature * rng.standard_normal((DRAWS, DIMS[2]))
    for l in (2, 1):
        _, mean, log_var = naive_step(variables["params"][f"down_{l}"], z[l + 1])
        noise = rng.standard_normal(mean.shape)
        z[l] = mean + temperature * np.exp(log_var / 2) * noise
    theirs = np.concatenate([z[1], z[2], z[3]], -1)
    assert_mean(ours - theirs)
    outer = [x[:, :, None] * x[:, None, :] for x in (ours, theirs)]
    assert_mean(outer[0] - outer[1])
    # Without noise only the means are left: the top is 0, and nothing depends on the key.
    cold = [np.asarray(sample(variables, jax.random.key(k), 4, 0.0)) for k in (0, 1)]
    np.testing.assert_array_equal(cold[0], cold[1])
    np.testing.assert_array_equal(cold[0][:, -1], 0.0)
    assert (cold[0][:, :-1] != 0).all()


def test_linear_maps_make_a_gaussian_prior(assert_mean):
    """mean_p = W z_2 + b, so z_1 ~ N(b, W W' + diag var_p) and cov(z_1, z_2) = W."""
    ladder = hierarchy.ladder((3, 2), (2, 2), FEATURES)
    params = ladder.init(jax.random.key(0))["params"]
    weight, mean, log_var = normal(1, 3, 2), normal(2, 3), normal(3, 3)
    eye, shift = jnp.eye(2), 100.0  # far enough for relu to be linear
    params["down_1"] = {
        "body": {
            "Dense_0": {"kernel": eye, "bias": jnp.full(2, shift)},
            "Dense_1": {"kernel": eye, "bias": jnp.zeros(2)},
        },
        "heads": {
            "mean": {"kernel": weight.T, "bias": mean - shift * weight.sum(1)},
            "log_var": {"kernel": jnp.zeros((2, 3)), "bias": 10 * jnp.arctanh(log_var / 10)},
        },
    }
    z = np.float64(ladder.prior_sample({"params": params}, jax.random.key(4), DRAWS, 1.0))
    weight, mean, var = np.float64(weight), np.float64(mean), np.exp(np.float64(log_var))
    covariance = np.block([[weight @ weight.T + np.diag(var), weight], [weight.T, np.eye(2)]])
    centred = z - np.concatenate([mean, np.zeros(2)])
    assert_mean(centred, rounding=1e-4)
    assert_mean(centred[:, :, None] * centred[:, None, :], covariance, rounding=1e-4)
    white = np.linalg.solve(np.linalg.cholesky(covariance), centred.T).T
    assert_mean(white**4, 3.0, rounding=1e-3)


@pytest.mark.slow
def test_every_parameter_gets_a_gradient_in_a_model():
    ladder = hierarchy.ladder(DIMS, WIDTHS, FEATURES, "tanh")
    likelihood = likelihoods.bernoulli(1)
    network = networks.mlp((4, 4, 1), ladder.heads, likelihood.values, (7,))
    model = assemble.model(network, ladder, likelihood)
    batch = Batch(jnp.round(jax.random.uniform(jax.random.key(0), (8, 4, 4, 1))))
    variables = jax.jit(model.init)(jax.random.key(1), batch.x)
    assert set(variables["params"]["latents"]) == {"up_1", "up_2", "up_3", "down_1", "down_2"}

    def bound(params):
        return elbo(model, {"params": params}, jax.random.key(2), batch).elbo.sum()

    for path, leaf in jax.tree.leaves_with_path(jax.jit(jax.grad(bound))(variables["params"])):
        assert np.isfinite(leaf).all() and (leaf != 0).any(), path

    # p(x|z) = p(x|z_1): only the first level's part of z matters.
    def value(z):
        return model.decode(variables, z).log_prob(batch.x).sum()

    slope = jax.jit(jax.grad(value))(normal(3, 8, sum(DIMS)))
    assert (slope[:, : DIMS[0]] != 0).all()
    np.testing.assert_array_equal(slope[:, DIMS[0] :], 0.0)


def test_extremes_are_finite():
    """Means in the thousands, log-variances at each of their bounds: all stay numbers."""
    ladder, heads = family(3, "relu"), {"features": 1e4 * normal(9, 4, FEATURES)}

    @jax.jit
    def drawn(params, key):
        def kl(params):
            latent = ladder.draw({"params": params}, key, heads, True)
            return latent.kl.mean(), latent

        return jax.grad(kl, has_aux=True)(params)

    for signs in itertools.product((-1, 1), repeat=2):
        params = jax.jit(ladder.init)(jax.random.key(0))["params"]
        for name, step in params.items():
            step["heads"]["log_var"]["bias"] += 1e6 * signs[name.startswith("up")]
        gradient, latent = drawn(params, jax.random.key(1))
        assert all(np.isfinite(array).all() for array in jax.tree.leaves((gradient, latent)))
        # The top level, whose prior is N(0, I), tells that the bound was reached.
        mean = split(latent.code, DIMS)[2][:, 0]
        top = (mean**2 + np.exp(10.0 * signs[1]) - 1 - 10 * signs[1]) / 2
        np.testing.assert_allclose(latent.kl[:, 2], top, rtol=1e-4)


@pytest.mark.parametrize(
    "arguments, named",
    [(((), ()), "each level"), (((2, 1), (8,)), "each level"), (((2,), (8,), 4, "step"), "step")],
)
def test_misuse_is_said(arguments, named):
    with pytest.raises(UsageError, match=named):
        hierarchy.ladder(*arguments)
