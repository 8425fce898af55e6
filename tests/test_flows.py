"""Flows: volumes against Jacobians, inverses, densities that integrate to one, and posteriors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from flaxvae.core import Batch, Model, elbo
from flaxvae.parts import assemble, flows, latents, likelihoods, made, networks

DIM, CONTEXT = 4, 3
FLOWS = {
    "planar": flows.planar(DIM, 3),
    "iaf": flows.inverse_autoregressive(DIM, 3, hidden=(9, 7), context=CONTEXT),
    "iaf_alone": flows.inverse_autoregressive(DIM, 2, hidden=(8,)),
    "iaf_1d": flows.inverse_autoregressive(1, 2, hidden=(5,), context=CONTEXT),
    "coupling": flows.coupling(DIM, 3, hidden=(8, 8), context=CONTEXT),
    "coupling_odd": flows.coupling(DIM + 1, 2, hidden=(8,)),
}
DIMS = {"iaf_1d": 1, "coupling_odd": DIM + 1}
every_flow = pytest.mark.parametrize("name", FLOWS)
invertible = pytest.mark.parametrize("name", [n for n, flow in FLOWS.items() if flow.inverse])


def normal(seed, *shape, scale=1.0):
    return jnp.asarray(scale * np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def away_from_init(flow, seed, scale=0.6):
    """Parameters of the right shapes, all of them generic."""
    leaves, tree = jax.tree.flatten(jax.eval_shape(flow.init, jax.random.key(0)))
    draws = [normal((seed, i), *leaf.shape, scale=scale) for i, leaf in enumerate(leaves)]
    return jax.tree.unflatten(tree, draws)


def given(flow, seed, batch):
    return normal(seed, batch, flow.context) if flow.context else None


def jacobian(function):
    """Of a function of z and more: d out_bi / d z_bj, [B, outputs, D]; rows must not mix."""
    derivative = jax.jit(jax.jacfwd(function))
    return lambda z, *more: diagonal(np.float64(derivative(z, *more)))


def diagonal(whole):
    rows = np.arange(len(whole))  # whole: [B, outputs, B, D]
    own = whole[rows, :, rows, :].copy()
    whole[rows, :, rows, :] = 0.0
    np.testing.assert_array_equal(whole, 0.0)
    return own


@every_flow
def test_log_det_is_that_of_the_jacobian(name):
    flow, dim = FLOWS[name], DIMS.get(name, DIM)
    z, context = normal(1, 6, dim, scale=1.5), given(flow, 2, 6)

    forward = jax.jit(flow.forward)
    derivative = jacobian(lambda z, params: flow.forward(params, z, context)[0])
    for seed in range(3):
        params = away_from_init(flow, seed)
        sign, expected = np.linalg.slogdet(derivative(z, params))
        np.testing.assert_array_equal(sign, 1.0)
        log_det = forward(params, z, context)[1]
        np.testing.assert_allclose(log_det, expected, rtol=0, atol=1e-3)
        assert np.abs(expected).max() > 0.1


@invertible
def test_inverse(name):
    flow, dim = FLOWS[name], DIMS.get(name, DIM)
    z, context = normal(3, 50, dim, scale=1.5), given(flow, 4, 50)

    @jax.jit
    def round_trip(params):
        there, log_det = flow.forward(params, z, context)
        return there, log_det, *flow.inverse(params, there, context)

    there, log_det, back, log_det_back = round_trip(away_from_init(flow, 0))
    assert np.abs(there - z).max() > 0.1
    np.testing.assert_allclose(back, z, rtol=0, atol=1e-3)
    np.testing.assert_allclose(log_det_back, -log_det, rtol=1e-3, atol=1e-3)


def test_planar_step_against_the_paper():
    """One step in float64; its u_hat moves along w, to w . u_hat = m(w . u) > -1."""
    flow = flows.planar(DIM, 2)
    z, context = np.float64(normal(0, 40, DIM)), np.float64(normal(1, 40, flow.context))
    actual, log_det = jax.jit(flow.forward)({}, jnp.float32(z), jnp.float32(context))
    expected = 0.0
    for raw in np.split(context, 2, axis=1):
        u, w, b = raw[:, :DIM], raw[:, DIM:-1], raw[:, -1]
        s, a = (u * w).sum(1), np.exp(-0.99)
        m = np.log(a + (1 - a) * np.exp(s))
        u = u + ((m - s) / (w**2).sum(1))[:, None] * w
        t = (w * z).sum(1) + b
        expected += np.log(np.abs(1 + (1 - np.tanh(t) ** 2) * (u * w).sum(1)))
        z = z + u * np.tanh(t)[:, None]
    np.testing.assert_allclose(actual, z, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(log_det, expected, rtol=1e-4, atol=1e-5)


def test_planar_stays_invertible():
    """Raw u against w, where the slope of tanh is greatest: without u_hat, a determinant < 0."""
    flow = flows.planar(DIM, 1)
    n, w = 60, normal(0, 60, DIM)
    unit = w / jnp.linalg.norm(w, axis=1, keepdims=True)
    z = normal(1, n, DIM, scale=0.3)
    length = np.logspace(-2, 3, n, dtype=np.float32)[:, None]
    forward = jax.jit(flow.forward)
    derivative = jacobian(lambda z, context: flow.forward({}, z, context)[0])
    gradient = jax.jit(jax.grad(lambda c: sum(out.sum() for out in flow.forward({}, z, c))))
    contexts = [
        jnp.concatenate([-length / size * unit, size * unit, b], axis=1)
        for size in (0.01, 1.0, 30.0)
        for b in [-size * (unit * z).sum(1, keepdims=True)]
    ]
    for context in contexts:
        sign, expected = np.linalg.slogdet(derivative(z, context))
        log_det = np.asarray(forward({}, z, context)[1])
        assert (log_det >= np.log(0.01) - 1e-3).all()
        exact = length[:, 0] < 100  # beyond, u_hat is a small difference of large numbers
        np.testing.assert_array_equal(sign[exact], 1.0)
        np.testing.assert_allclose(log_det[exact], expected[exact], rtol=0, atol=0.02)
    huge = jnp.float32(np.random.default_rng(2).choice([-1e4, 0, 1e4], (n, flow.context)))
    for context in (*contexts, huge, jnp.zeros((n, flow.context))):
        for out in (*forward({}, z, context), gradient(context)):
            assert np.isfinite(out).all()


@pytest.mark.parametrize(
    ("reverse", "hidden", "context"),
    [(False, (), CONTEXT), (True, (6,), 0), (False, (11, 6, 8), 0), (True, (7, 13), CONTEXT)],
)
def test_made_depends_on_all_dimensions_before_and_on_no_other(reverse, hidden, context):
    dim = 6
    order = np.arange(1, dim + 1)[:: -1 if reverse else 1]
    net = made.made(dim, hidden, context, order)
    z, given = normal(0, 3, dim), normal(1, 3, context) if context else None
    params = away_from_init(net, 5)
    own = jacobian(lambda z: net.apply(params, z, given))(z)
    before = order[None, :] < order[:, None]  # [output, input]
    for values in np.split(own, 2, axis=1):
        np.testing.assert_array_equal(values != 0, np.broadcast_to(before, values.shape))
    if context:
        assert (jacobian(lambda given: net.apply(params, z, given))(given) != 0).all()


def test_iaf_steps_are_triangular_in_opposite_orders():
    z, context = normal(0, 3, DIM), normal(1, 3, CONTEXT)
    for steps, zeros in ((1, np.triu(np.ones((DIM, DIM)), 1)), (2, np.zeros((DIM, DIM)))):
        flow = flows.inverse_autoregressive(DIM, steps, hidden=(7, 7), context=CONTEXT)
        params = away_from_init(flow, 0)
        own = jacobian(lambda z: flow.forward(params, z, context)[0])(z)  # noqa: B023
        np.testing.assert_array_equal(own == 0, np.broadcast_to(zeros == 1, own.shape))


@pytest.mark.parametrize("dim", [2, 5])
def test_coupling_moves_each_half_once_in_two_steps(dim):
    z = normal(0, 3, dim)
    for steps, still in ((1, np.arange(dim) < (dim + 1) // 2), (2, np.zeros(dim, bool))):
        flow = flows.coupling(dim, steps, hidden=(4,))
        moved = jax.jit(flow.forward)(away_from_init(flow, 0), z)[0]
        np.testing.assert_array_equal(moved == z, np.broadcast_to(still, z.shape))


def test_coupling_log_scales_are_bounded():
    flow = flows.coupling(DIM, 2, hidden=(8,))
    moved, log_det = jax.jit(flow.forward)(away_from_init(flow, 0, 100.0), normal(0, 50, DIM))
    assert np.isfinite(moved).all()
    np.testing.assert_array_less(np.abs(log_det), 2 * DIM + 1e-3)  # 2 steps, D / 2 each, +-2
    assert np.abs(log_det).max() > 2


@every_flow
def test_flows_begin_near_the_identity(name):
    """An IAF near its gates, sigmoid(2) a step; a planar flow as near as its context is to 0."""
    flow, dim = FLOWS[name], DIMS.get(name, DIM)
    z, context = normal(0, 100, dim), given(flow, 1, 100)
    params, forward = jax.jit(flow.init)(jax.random.key(0)), jax.jit(flow.forward)
    gates = {"iaf": 3, "iaf_alone": 2, "iaf_1d": 2}.get(name, 0)
    gate = (1 / (1 + np.exp(-2.0))) ** gates
    if name == "planar":
        context = 1e-3 * context
    moved, log_det = forward(params, z, context)
    np.testing.assert_allclose(moved, gate * z, rtol=0, atol=0.1)
    np.testing.assert_allclose(log_det, dim * np.log(gate), rtol=0, atol=0.1)
    assert (moved != z).any()
    if name == "planar":
        moved, log_det = forward(params, z, jnp.zeros_like(context))
        np.testing.assert_array_equal(moved, z)
        np.testing.assert_array_equal(log_det, 0.0)


@pytest.mark.parametrize("make", [flows.inverse_autoregressive, flows.coupling])
def test_density_integrates_to_one(make):
    """q(z') = N(z; 0, I) |det dz/dz'| over a grid of the plane."""
    flow = make(2, 3, hidden=(8,), context=1)
    axis = np.linspace(-16.0, 16.0, 601)
    grid = jnp.float32(np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2))
    params = away_from_init(flow, 3, 0.25)
    z, log_det = jax.jit(flow.inverse)(params, grid, jnp.ones((len(grid), 1)))
    density = np.exp(stats.norm.logpdf(np.float64(z)).sum(-1) + np.float64(log_det))
    # Far out, an inverse may overflow: the density there is zero.
    density = np.nan_to_num(density, nan=0.0).reshape(len(axis), len(axis))
    assert max(density[[0, -1]].max(), density[:, [0, -1]].max()) < 1e-6
    total = integrate.simpson(integrate.simpson(density, x=axis), x=axis)
    assert total == pytest.approx(1.0, abs=2e-3)


def test_planar_density_integrates_to_one(assert_mean):
    """E_q[r(z') / q(z')] = 1 for any density r, if no region is covered twice or left out."""
    flow, n = flows.planar(2, 4), 50_000
    context = jnp.broadcast_to(normal(0, 1, flow.context, scale=1.5), (n, flow.context))
    z = normal(1, n, 2, scale=2.0)
    moved, log_det = jax.jit(flow.forward)({}, z, context)
    log_q = stats.norm.logpdf(np.float64(z), scale=2).sum(-1) - np.float64(log_det)
    for centre in ((0.0, 0.0), (1.0, -1.0)):
        log_r = stats.norm.logpdf(np.float64(moved), centre, 0.7).sum(-1)
        assert_mean(np.exp(log_r - log_q), 1.0)


# ---- posterior


def latent_model(dim, context):
    """A model whose data are the features of its posterior; decode is never reached."""
    family = latents.gaussian(dim, context=context)
    return Model(
        init=lambda key, x, y=None: {"params": {"encoder": {}}},
        encode=lambda variables, x, y=None: x,
        reparameterize=family.draw,
        decode=lambda variables, z, y=None: pytest.fail("decode"),
        prior_sample=family.prior_sample,
        prior_log_prob=family.prior_log_prob,
    )


def test_a_posterior_needs_a_prior():
    bare = latent_model(2, 0)._replace(prior_log_prob=None)
    with pytest.raises(ValueError, match="without a prior: expected one with Gaussian latents"):
        flows.posterior(bare, flows.coupling(2, 1))


def features(dim, context, batch=3):
    heads = {"mean": 0.5 * normal(7, batch, dim), "log_var": 1.0 + 0.3 * normal(8, batch, dim)}
    return heads | ({"context": normal(9, batch, context)} if context else {})


MAKERS = {
    "planar": functools.partial(flows.planar, steps=2),
    "iaf": functools.partial(flows.inverse_autoregressive, steps=2, hidden=(6,), context=2),
    "coupling": functools.partial(flows.coupling, steps=2, hidden=(6,)),
}
every_maker = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


@every_maker
def test_posterior_density(make, assert_mean):
    """E_q[p(z) / q(z)] = 1, and the base's draw explains each number."""
    flow = make(2)
    base = latent_model(2, flow.context)
    model = flows.posterior(base, flow)
    params = away_from_init(flow, 2, 0.2)
    variables = {"params": {"posterior_flow": params}}
    heads = features(2, flow.context)
    keys = jax.random.split(jax.random.key(0), 20_000)
    draw = jax.jit(lambda key: model.reparameterize(variables, key, heads, False))
    assert_mean(np.exp(np.float64(jax.jit(jax.vmap(draw))(keys).log_ratio)), 1.0)

    one, start = draw(keys[0]), base.reparameterize(variables, keys[0], heads, False)
    forward = jax.jit(flow.forward)
    z, log_det = forward(params, start.z, heads.get("context"))
    scale = np.exp(np.float64(heads["log_var"]) / 2)
    log_q0 = stats.norm.logpdf(np.float64(start.z), np.float64(heads["mean"]), scale).sum(-1)
    expected = stats.norm.logpdf(np.float64(z)).sum(-1) - (log_q0 - np.float64(log_det))
    np.testing.assert_allclose(one.z, z, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(one.log_ratio, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(one.kl, -one.log_ratio[:, None])
    code = forward(params, heads["mean"], heads.get("context"))[0]
    fixed = jax.jit(lambda: model.reparameterize(variables, None, heads, False))()
    for same in (one.code, fixed.code, fixed.z):
        np.testing.assert_allclose(same, code, rtol=1e-5, atol=1e-6)


@every_maker
def test_gradients_reach_context_and_params(make):
    flow = make(2)
    model = flows.posterior(latent_model(2, flow.context), flow)
    heads = features(2, flow.context)
    variables = jax.jit(model.init)(jax.random.key(1), heads)

    def loss(variables, heads):
        return -model.reparameterize(variables, jax.random.key(0), heads, True).log_ratio.sum()

    gradients = jax.jit(jax.grad(loss, argnums=(0, 1)))(variables, heads)
    for leaf in jax.tree.leaves(gradients):
        assert np.isfinite(leaf).all() and (leaf != 0).any()
    assert ("posterior_flow" in variables["params"]) == (flow.inverse is not None)


def test_a_flow_without_effect_changes_nothing():
    heads = features(3, flows.planar(3, 2).context)
    heads["context"] = jnp.zeros_like(heads["context"])
    couple = flows.coupling(3, 2, hidden=(4,))
    zeros = away_from_init(couple, 0, scale=0.0)
    base = latent_model(3, 1)
    expected = base.reparameterize({}, jax.random.key(0), heads, False)
    for flow, params in ((flows.planar(3, 2), {}), (couple, zeros)):
        variables = {"params": {"posterior_flow": params}}
        draw = flows.posterior(base, flow).reparameterize(
            variables, jax.random.key(0), heads, False
        )
        for name in ("z", "code", "log_ratio", "penalty"):
            np.testing.assert_array_equal(getattr(draw, name), getattr(expected, name))
        assert draw.updates == expected.updates


def test_posterior_of_a_whole_model():
    """In jit and over keys; only a flow with parameters adds any, and the prior stays N(0, I)."""
    batch = Batch(jnp.full((4, 3, 3, 1), 0.25))
    for name, own in (("planar", set()), ("iaf", {"posterior_flow"})):
        flow = MAKERS[name](2)
        family = latents.gaussian(2, context=flow.context)
        network = networks.mlp((3, 3, 1), family.heads, 1, (8,))
        model = flows.posterior(assemble.model(network, family, likelihoods.bernoulli(1)), flow)
        shapes = jax.eval_shape(model.init, jax.random.key(1), batch.x)
        assert set(shapes["params"]) == {"encoder", "decoder"} | own
    variables = jax.jit(model.init)(jax.random.key(1), batch.x)
    keys = jax.random.split(jax.random.key(2), 5)
    terms = jax.jit(jax.vmap(lambda key: elbo(model, variables, key, batch)))(keys)
    assert terms.kl.shape == (5, 4, 1)
    np.testing.assert_allclose(terms.elbo, terms.log_w, rtol=1e-6)
    prior = model.prior_sample(variables, jax.random.key(3), 6)
    np.testing.assert_array_equal(prior, family.prior_sample(variables, jax.random.key(3), 6, 1.0))


def test_what_cannot_be():
    with pytest.raises(ValueError, match="two dimensions"):
        flows.coupling(1, 2)
    with pytest.raises(ValueError, match="expected at least dim = 9"):
        flows.inverse_autoregressive(9, 2, hidden=(16, 8))
