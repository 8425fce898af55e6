"""FactorVAE: the total correlation of z by a discriminator (Kim & Mnih 2018).

A discriminator tells codes z ~ q(z) from codes whose dimensions are shuffled over the batch, each
for itself, which are draws of prod_d q(z_d). The best one has the logit

    T(z) = log q(z) / prod_d q(z_d),    so that the total correlation is E_q(z)[T(z)].

Both are trained in one step, on one loss: the model's part takes no gradient of the discriminator,
and the discriminator's part none of the model.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxvae.core import Model, elbo
from flaxvae.parts.objectives import Loss, average

Array = jax.Array
LEAK = 0.2  # slope of the discriminator's leaky ReLU below 0


class Discriminator(nn.Module):
    """z [B, D] -> T(z) [B], a fully connected network."""

    widths: Sequence[int]

    @nn.compact
    def __call__(self, z: Array) -> Array:
        for i, width in enumerate(self.widths):
            z = nn.leaky_relu(nn.Dense(width, name=f"dense_{i}")(z), LEAK)
        return nn.Dense(1, name="logit")(z)[:, 0]


def with_discriminator(model: Model, widths: Sequence[int], latent_dim: int) -> Model:
    """The same model, with a discriminator of its z among its parameters."""

    def init(key, x, y=None):
        model_key, own_key = jax.random.split(key)
        variables = model.init(model_key, x, y)
        own = Discriminator(widths).init(own_key, jnp.zeros((1, latent_dim)))["params"]
        return {**variables, "params": {**variables["params"], "discriminator": own}}

    return model._replace(init=init)


def shuffled(key: Array, z: Array) -> Array:
    """Each dimension of z [B, D] in an order of its own: draws of prod_d q(z_d).

    Raises ValueError for a batch of one, which has one order.
    """
    if len(z) < 2:
        raise ValueError(f"a batch of {len(z)}: expected at least 2 codes to shuffle")
    keys = jax.random.split(key, z.shape[1])
    return jax.vmap(jax.random.permutation, (0, 1), 1)(keys, z)


def factor_objective(model: Model, *, widths: Sequence[int], gamma: float = 10.0) -> Loss:
    """-ELBO + gamma E[T(z)], and the discriminator's cross-entropy: FactorVAE.

    With z of the batch and z' the same, shuffled, the discriminator minimizes

        1/2 E[softplus(-T(z))] + 1/2 E[softplus(T(z'))],    log 2 where it knows nothing.

    The paper shuffles a second batch. Here it is the same one: of B rows, few stay together.

    Args:
        model: ``with_discriminator``.
        widths: of the discriminator's hidden layers.
        gamma: weight of the total correlation; with 0 it is the negative ELBO.

    Returns:
        A loss with the metrics loss (the sum of all), elbo, reconstruction, kl, total_correlation
        (E[T(z)], without its weight) and discriminator (its cross-entropy), nats. Masked rows are
        left out of averages, but not of the shuffled ones; training batches have none.
    """
    network = Discriminator(widths)

    def loss(variables, key, batch, step):
        draw_key, shuffle_key = jax.random.split(key)
        terms = elbo(model, variables, draw_key, batch, train=True)
        own, z = variables["params"]["discriminator"], terms.latent.z

        def logits(params, codes):
            return network.apply({"params": params}, codes)

        correlation = average(logits(jax.lax.stop_gradient(own), z), batch.mask)
        z = jax.lax.stop_gradient(z)
        together = average(jax.nn.softplus(-logits(own, z)), batch.mask)
        apart = average(jax.nn.softplus(logits(own, shuffled(shuffle_key, z))), batch.mask)
        discriminator = 0.5 * (together + apart)
        bound = average(terms.elbo, batch.mask)
        penalty = average(terms.penalty, batch.mask)
        objective = penalty - bound + gamma * correlation + discriminator
        metrics = {
            "loss": objective,
            "elbo": bound,
            "reconstruction": average(-terms.log_px, batch.mask),
            "kl": average(terms.kl.sum(-1), batch.mask),
            "total_correlation": correlation,
            "discriminator": discriminator,
        }
        return objective, (metrics, terms.latent.updates)

    return loss
