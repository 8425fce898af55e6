"""FactorVAE: the discriminator's total correlation against Gaussians', and who learns from what."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flaxvae import lookup
from flaxvae.core import Batch, elbo
from flaxvae.errors import UsageError
from flaxvae.parts import adversary
from flaxvae.recipe import DataSpec

KEY, WIDTHS, GAMMA = jax.random.key(0), (8, 8), 3.0
SPEC = DataSpec("noise", (6,), levels=2, binary=True, examples=64, kind="vectors")


def recipe(gamma=GAMMA):
    choices = {"net": "mlp", "widths": (8,), "latent_dim": 3, "discriminator": WIDTHS}
    return lookup.build("factor_vae", SPEC, gamma=gamma, **choices)


@pytest.fixture(scope="module")
def case():
    made = recipe()
    batch = Batch(jax.random.bernoulli(KEY, 0.4, (64, 6)).astype(jnp.float32))
    return made, jax.jit(made.model.init)(jax.random.key(1), batch.x), batch


def test_a_shuffled_code_has_the_same_values_in_each_dimension():
    z = jax.random.normal(KEY, (200, 3))
    found = np.asarray(adversary.shuffled(jax.random.key(1), z))
    np.testing.assert_array_equal(np.sort(found, 0), np.sort(z, 0))
    rank = [np.argsort(np.argsort(column)) for column in (*np.asarray(z).T, *found.T)]
    same = [np.mean(rank[i] == rank[i + 3]) for i in range(3)]  # a row stays with chance 1 / B
    assert max(same) < 0.05
    assert abs(np.corrcoef(found.T) - np.eye(3)).max() < 0.3


@pytest.mark.slow
@pytest.mark.parametrize("correlation", [0.0, 0.8])
def test_the_total_correlation_of_gaussians(correlation):
    """-1/2 log(1 - rho^2), once the discriminator has learned."""
    network, adam = adversary.Discriminator((64, 64)), optax.adam(3e-3)
    factor = jnp.linalg.cholesky(jnp.array([[1, correlation], [correlation, 1]]))

    def draws(key, n):
        return jax.random.normal(key, (n, 2)) @ factor.T

    def loss(params, key):
        draw, shuffle = jax.random.split(key)
        z = draws(draw, 512)
        there = network.apply(params, z)
        apart = network.apply(params, adversary.shuffled(shuffle, z))
        return jax.nn.softplus(-there).mean() + jax.nn.softplus(apart).mean()

    @jax.jit
    def learn(params):
        def step(state, key):
            params, moments = state
            updates, moments = adam.update(jax.grad(loss)(params, key), moments)
            return (optax.apply_updates(params, updates), moments), None

        keys = jax.random.split(jax.random.key(1), 400)
        (params, _), _ = jax.lax.scan(step, (params, adam.init(params)), keys)
        return network.apply(params, draws(jax.random.key(2), 20_000)).mean()

    found = learn(network.init(KEY, jnp.zeros((1, 2))))
    assert found == pytest.approx(-0.5 * math.log(1 - correlation**2), abs=0.06)


def test_each_part_learns_from_its_own(case):
    """The model from -ELBO + gamma TC, the discriminator from its cross-entropy alone."""
    made, variables, batch = case
    draw_key, shuffle_key = jax.random.split(KEY)
    network = adversary.Discriminator(WIDTHS)
    own = variables["params"]["discriminator"]

    def of_model(params):
        terms = elbo(made.model, {"params": params}, draw_key, batch, train=True)
        correlation = network.apply({"params": own}, terms.latent.z).mean()
        return -terms.elbo.mean() + GAMMA * correlation

    def of_discriminator(own):
        z = elbo(made.model, variables, draw_key, batch, train=True).latent.z
        real = jax.nn.sigmoid(network.apply({"params": own}, z))
        fake = jax.nn.sigmoid(network.apply({"params": own}, adversary.shuffled(shuffle_key, z)))
        return -0.5 * (jnp.log(real).mean() + jnp.log1p(-fake).mean())

    @jax.jit
    def found():
        grad = jax.grad(lambda v: made.loss(v, KEY, batch, jnp.int32(0))[0])(variables)["params"]
        expected = jax.grad(of_model)(variables["params"])
        return grad, expected | {"discriminator": jax.grad(of_discriminator)(own)}

    grad, expected = found()
    assert {*grad} == {"encoder", "decoder", "discriminator"}
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), grad, expected
    )
    assert min(abs(leaf).max() for leaf in jax.tree.leaves(grad)) > 0


def test_without_its_weight_it_is_the_bound(case):
    _, variables, batch = case
    loss, (metrics, _) = recipe(gamma=0.0).loss(variables, KEY, batch, jnp.int32(0))
    np.testing.assert_allclose(loss - metrics["discriminator"], -metrics["elbo"], rtol=1e-6)


@pytest.mark.parametrize("widths", [(), (8, 0)])
def test_a_discriminator_without_layers_is_refused(widths):
    with pytest.raises(UsageError, match=r"discriminator.*expected one or more widths"):
        lookup.build("factor_vae", SPEC, net="mlp", discriminator=widths)
