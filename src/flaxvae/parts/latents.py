"""Latents: what the encoder's outputs mean, how z is drawn, and its prior."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from flaxvae.core import Latent, Variables
from flaxvae.distributions import Normal, kl_normal, standard_normal

Array = jax.Array


class Draw(Protocol):
    def __call__(
        self, variables: Variables, key: Array | None, heads: Mapping[str, Array], train: bool
    ) -> Latent: ...


class Latents(NamedTuple):
    """A posterior and its prior, as pure functions of the encoder's outputs, its heads.

    ``variables`` are those that ``init`` returned: "params", which have gradients, and any other
    collections of state, which ``Latent.updates`` replaces.
    """

    heads: Mapping[str, int]  # sizes of the encoder's outputs, by name
    init: Callable[[Array], Variables]  # key -> {"params": ..., other collections}
    draw: Draw  # one draw, or the mean or mode if the key is None
    # (.., key, n, temperature)
    prior_sample: Callable[[Variables, Array, int, Array | float], Array]
    prior_log_prob: Callable[[Variables, Array], Array] | None  # (.., z) -> [B]; None: no prior
    decoded: slice = slice(None)  # the part of z on which p(x|z) depends
    # (.., key, z, below, temperature), as ``Model.redraw``
    redraw: Callable[[Variables, Array, Array, Array | int, Array | float], Array] | None = None


def nothing(key: Array) -> Variables:
    """The ``init`` of latents without parameters or state."""
    return {"params": {}}


def _standard_normal_sample(dim: int) -> Callable[[Variables, Array, int, Array | float], Array]:
    return lambda variables, key, n, temperature: temperature * jax.random.normal(key, (n, dim))


def _standard_normal_log_prob(variables: Variables, z: Array) -> Array:
    return standard_normal(z.shape).log_prob(z)


def gaussian(dim: int, *, context: int = 0, path_gradient: bool = False) -> Latents:
    """q(z|x) = N(mean, exp(log_var)), p(z) = N(0, I) (Kingma & Welling 2013).

    z = mean + exp(log_var / 2) eps with eps ~ N(0, I). The KL is in closed form,
    1/2 (mean_d^2 + exp(log_var_d) - 1 - log_var_d) for each dimension.

    Args:
        dim: latent dimensions D.
        context: size of a further head, for flows.
        path_gradient: stop the gradient of log q(z|x) at its parameters, so that it flows only
            through z (Roeder et al. 2017); values do not change.
    """

    def draw(variables, key, heads, train):
        q = Normal(heads["mean"], heads["log_var"])
        p = standard_normal(q.mean.shape)
        z = q.mean if key is None else q.sample(key)
        density = jax.lax.stop_gradient(q) if path_gradient else q
        return Latent(
            z=z,
            code=q.mean,
            kl=kl_normal(q, p),
            log_p=p.log_prob(z),
            log_q=density.log_prob(z),
            penalty=jnp.zeros(z.shape[0]),
            updates={},
        )

    heads = {"mean": dim, "log_var": dim} | ({"context": context} if context else {})
    sample, log_prob = _standard_normal_sample(dim), _standard_normal_log_prob
    return Latents(heads, nothing, draw, sample, log_prob)


def point(dim: int) -> Latents:
    """z = f(x), as in a plain autoencoder: no posterior, no prior, no KL.

    ``prior_sample`` still draws from N(0, I), for which an autoencoder was never trained: decoding
    it shows what the prior of a VAE is good for.
    """

    def draw(variables, key, heads, train):
        z = heads["code"]
        none = jnp.zeros(z.shape[0])
        return Latent(z, z, jnp.zeros_like(z), log_p=none, log_q=none, penalty=none, updates={})

    return Latents({"code": dim}, nothing, draw, _standard_normal_sample(dim), None)
