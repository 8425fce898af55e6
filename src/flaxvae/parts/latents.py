"""Latents: what the encoder's heads mean, how z is drawn, and what its prior is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from flaxvae.core import Latent
from flaxvae.distributions import Normal, kl_normal, standard_normal

Array = jax.Array


class Latents(NamedTuple):
    """A posterior with its prior, as pure functions of the encoder's heads."""

    heads: Mapping[str, int]  # sizes of what the encoder must give
    draw: Callable[[Array | None, Mapping[str, Array]], Latent]  # (key, heads) -> one draw
    prior_sample: Callable[[Array, int, float], Array]  # (key, n, temperature) -> z [n, D]


def _standard_normal_sample(dim: int) -> Callable[[Array, int, float], Array]:
    return lambda key, n, temperature: temperature * jax.random.normal(key, (n, dim))


def gaussian(dim: int) -> Latents:
    """q(z|x) = N(mean, exp(log_var)), p(z) = N(0, I) (Kingma & Welling 2013).

    z = mean + exp(log_var / 2) eps with eps ~ N(0, I); the KL is in closed form,
    1/2 sum_d (mean_d^2 + exp(log_var_d) - 1 - log_var_d), kept dimension by dimension.
    """

    def draw(key: Array | None, heads: Mapping[str, Array]) -> Latent:
        q = Normal(heads["mean"], heads["log_var"])
        p = standard_normal(q.mean.shape)
        z = q.mean if key is None else q.sample(key)
        return Latent(
            z=z,
            code=q.mean,
            kl=kl_normal(q, p),
            log_ratio=p.log_prob(z) - q.log_prob(z),
            penalty=jnp.zeros(z.shape[0]),
            updates={},
        )

    return Latents({"mean": dim, "log_var": dim}, draw, _standard_normal_sample(dim))


def point(dim: int) -> Latents:
    """z = f(x), as in a plain autoencoder: no posterior, no prior, no KL.

    ``prior_sample`` draws N(0, I), for which an autoencoder was never trained: what it decodes to
    shows what the prior of a VAE is good for.
    """

    def draw(key: Array | None, heads: Mapping[str, Array]) -> Latent:
        z = heads["code"]
        none = jnp.zeros(z.shape[0])
        return Latent(z=z, code=z, kl=jnp.zeros_like(z), log_ratio=none, penalty=none, updates={})

    return Latents({"code": dim}, draw, _standard_normal_sample(dim))
