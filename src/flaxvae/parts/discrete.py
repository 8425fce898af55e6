"""Categorical latents, trained on their Gumbel-softmax relaxation.

For independent standard Gumbel variables g_k (Jang et al. 2016; Maddison et al. 2016),

    arg max_k (logits_k + g_k)         is an exact draw from Categorical(softmax(logits)), and
    z = softmax((logits + g) / T)      is a point on the simplex, differentiable in the logits.

The arg max of z is that draw at any temperature T, and z tends to its one-hot vector as T -> 0.
Relaxed z are used only in training; T falls by a constant factor each step, down to a minimum. All
terms of the bound are those of the categorical itself, not of a density on the simplex.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from flaxvae.core import Latent
from flaxvae.declared import traced
from flaxvae.parts.latents import Latents

Array = jax.Array


def indices(z: Array, categories: int) -> Array:
    """Categories, as arg max of hard or relaxed z: [B, N * categories] -> [B, N] int32."""
    return jnp.argmax(z.reshape(z.shape[0], -1, categories), axis=-1).astype(jnp.int32)


def one_hot(indices: Array, categories: int) -> Array:
    """The inverse: categories as hard z, [B, N] -> [B, N * categories] float32."""
    return jax.nn.one_hot(indices, categories).reshape(indices.shape[0], -1)


def categorical(
    variables: int,
    categories: int,
    *,
    temperature: float = 1.0,
    minimum: float = 0.5,
    rate: float = 3e-5,
    straight_through: bool = False,
) -> Latents:
    """N independent categoricals of K values: q(z|x) = prod_n softmax(logits_n), p(z) uniform.

    z [B, N * K] holds one-hot vectors, row-major [N, K], or in training their relaxation. For each
    variable KL(q || p) = log K + sum_k q_k log q_k, at most log K. log p = -N log K and log q are
    those of the hard sample, even if z is relaxed.

    The temperature is state: variables["relaxation"]["temperature"], which a draw with ``train``
    replaces by max(minimum, T exp(-rate)). Without ``train`` z is hard and T has no effect.

    Args:
        variables: N.
        categories: K.
        temperature: T at the first step, above 0.
        minimum: lowest T, above 0.
        rate: of the annealing, per step.
        straight_through: in training, use hard z with the gradient of relaxed z.

    Returns:
        Latents with the head "logits" of size N * K. Without a key z is the mode, one-hot. The
        temperature of ``prior_sample`` has no effect on the uniform prior. ``prior_log_prob`` is
        -inf for a z that is not one-hot.
    """
    shape, log_mass = (variables, categories), -variables * math.log(categories)

    def hot(chosen):
        return jax.nn.one_hot(chosen, categories)

    def flat(z):
        return z.reshape(z.shape[0], variables * categories)

    def init(key):
        return {"params": {}, "relaxation": {"temperature": jnp.float32(temperature)}}

    def relax(perturbed, hard, t):
        soft = jax.nn.softmax(perturbed / t)
        # soft - stop_gradient(soft) is exactly zero, so the value is exactly one-hot.
        return hard + (soft - jax.lax.stop_gradient(soft)) if straight_through else soft

    def draw(state, key, heads, train):
        logits = heads["logits"].reshape(-1, *shape)
        log_q = jax.nn.log_softmax(logits)
        mode = hot(jnp.argmax(logits, axis=-1))
        t = state["relaxation"]["temperature"]
        hard = z = mode
        if key is not None:
            perturbed = logits + jax.random.gumbel(key, logits.shape)
            hard = hot(jnp.argmax(perturbed, axis=-1))
            z = relax(perturbed, hard, t) if train else hard
        fall = (jnp if traced(rate) else math).exp(-rate)
        annealed = jnp.maximum(jnp.float32(minimum), t * fall)
        return Latent(
            z=flat(z),
            code=flat(mode),
            kl=math.log(categories) + (jnp.exp(log_q) * log_q).sum(-1),
            log_p=jnp.full(z.shape[0], log_mass),
            log_q=(hard * log_q).sum((1, 2)),
            penalty=jnp.zeros(z.shape[0]),
            updates={"relaxation": {"temperature": annealed}} if train else {},
        )

    def prior_sample(state, key, n, temperature):
        return one_hot(jax.random.randint(key, (n, variables), 0, categories), categories)

    def prior_log_prob(state, z):
        z = z.reshape(-1, *shape)
        hard = (z == hot(jnp.argmax(z, axis=-1))).all((1, 2))
        return jnp.where(hard, log_mass, -jnp.inf)

    return Latents({"logits": variables * categories}, init, draw, prior_sample, prior_log_prob)
