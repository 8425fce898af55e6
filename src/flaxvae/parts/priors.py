"""Learned priors p(z), instead of N(0, I).

The best prior for an encoder is its aggregate posterior over the data, 1/N sum_n q(z | x_n)
(Hoffman & Johnson 2016). Three families can approximate it better than N(0, I):

| prior    | p(z)                                        | paper                      |
|----------|---------------------------------------------|----------------------------|
| mixture  | sum_k w_k N(z; mean_k, diag exp log_var_k)  | Jiang et al. 2017          |
| vamp     | 1/K sum_k q(z | u_k), u_k learned           | Tomczak & Welling 2018     |
| flow     | N(f^-1(z); 0, I) |det df^-1/dz|, f learned | Chen et al. 2017           |

``learned`` gives a model one of them. None has a KL in closed form: log q(z|x) - log p(z) of the
draw takes its place.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from flaxvae.core import Model
from flaxvae.distributions import LOG_2PI, Normal, bounded, standard_normal
from flaxvae.parts.flows import Flow

Array = jax.Array
Posterior = Callable[[Array], Normal]  # inputs [K, *shape] -> q(z|inputs), a Normal over [K, D]


class Prior(NamedTuple):
    """A density of z with its own parameters; it may use the encoder, q."""

    init: Callable[[Array], Any]  # key -> params
    log_prob: Callable[[Any, Posterior, Array], Array]  # (params, q, z [B, D]) -> [B] nats
    sample: Callable[[Any, Posterior, Array, int, float], Array]  # (.., key, n, temperature)


def component_log_prob(components: Normal, z: Array) -> Array:
    """log N(z_b; mean_k, exp(log_var_k)) for every point and every component.

    Args:
        components: K Gaussians, mean and log_var [K, D].
        z: points [B, D].

    Returns:
        [B, K] nats.
    """

    # Expanding the square into two matrix products cancels digits: for log_var = -8 and D = 40 the
    # error in float32 is tenths of a nat. Summing a [B, K, D] array is accurate, but reverse mode
    # stores three of them. One dimension at a time is as accurate, stores [B, K], and is four times
    # faster.
    @jax.checkpoint
    def add_dimension(total, dimension):
        z, mean, log_var = dimension  # [B], [K], [K]
        squared = jnp.square(z[:, None] - mean[None]) * jnp.exp(-log_var)[None]
        return total - 0.5 * squared, None

    constant = -0.5 * (LOG_2PI + components.log_var).sum(-1)
    start = jnp.broadcast_to(constant, (z.shape[0], constant.shape[0]))
    dimensions = (z.T, components.mean.T, components.log_var.T)
    return jax.lax.scan(add_dimension, start, dimensions)[0]


def _mixture_log_prob(log_weights: Array, components: Normal, z: Array) -> Array:
    joint = log_weights[None] + component_log_prob(components, z)
    return jax.nn.logsumexp(joint, axis=-1)


def _mixture_sample(
    log_weights: Array, components: Normal, key: Array, n: int, temperature: float
) -> Array:
    """Temperature scales the components' standard deviations, not their weights or means."""
    component_key, noise_key = jax.random.split(key)
    k = jax.random.categorical(component_key, log_weights, shape=(n,))
    mean, log_var = components.mean[k], components.log_var[k]
    return mean + temperature * jnp.exp(0.5 * log_var) * jax.random.normal(noise_key, mean.shape)


def mixture(dim: int, components: int = 10) -> Prior:
    """p(z) = sum_k w_k N(z; mean_k, diag exp(log_var_k)), all learned.

    The prior of VaDE (Jiang et al. 2017), similar to that of GMVAE (Dilokthanakul et al. 2016), and
    the baseline "MoG" of Tomczak & Welling 2018. Means start as draws from N(0, I), because
    components that start equal stay equal; variances start at 1, weights at 1/K.

    Args:
        dim: latent dimensions D.
        components: number of Gaussians K.

    Returns:
        A Prior with params ``logits`` [K] (w = softmax), ``mean`` and ``log_var`` [K, D]. At
        temperature 0, samples are the means of components, drawn by their weights.
    """

    def init(key):
        return {
            "logits": jnp.zeros(components),
            "mean": jax.random.normal(key, (components, dim)),
            "log_var": jnp.zeros((components, dim)),
        }

    def parts(params):
        return jax.nn.log_softmax(params["logits"]), Normal(params["mean"], params["log_var"])

    def log_prob(params, q, z):
        log_weights, gaussians = parts(params)
        return _mixture_log_prob(log_weights, gaussians, z)

    def sample(params, q, key, n, temperature):
        log_weights, gaussians = parts(params)
        return _mixture_sample(log_weights, gaussians, key, n, temperature)

    return Prior(init, log_prob, sample)


def vamp(shape: tuple[int, ...], components: int = 500) -> Prior:
    """p(z) = 1/K sum_k q(z | u_k) with learned pseudo-inputs u_k (Tomczak & Welling 2018).

    The variational mixture of posteriors: in the aggregate posterior, K pseudo-inputs replace the
    data. u_k = sigmoid(10 raw_k) lies in [0, 1], and starts almost black with some noise.

    Args:
        shape: shape of one example.
        components: number of pseudo-inputs K.

    Returns:
        A Prior with params ``raw`` [K, *shape]. Each call encodes the pseudo-inputs once. At
        temperature 0, samples are means of q(z | u_k) for uniform k.
    """

    def init(key):
        # u is around 0.05; if it were much darker, the sigmoid's gradient would vanish.
        return {"raw": -0.3 + 0.05 * jax.random.normal(key, (components, *shape))}

    def parts(params, q):
        uniform = jnp.full(components, -math.log(components))
        # Adam moves raw by the learning rate per step: without the 10 it would take many epochs.
        return uniform, q(jax.nn.sigmoid(10 * params["raw"]))

    def log_prob(params, q, z):
        log_weights, gaussians = parts(params, q)
        return _mixture_log_prob(log_weights, gaussians, z)

    def sample(params, q, key, n, temperature):
        log_weights, gaussians = parts(params, q)
        return _mixture_sample(log_weights, gaussians, key, n, temperature)

    return Prior(init, log_prob, sample)


def flow(dim: int, flow: Flow) -> Prior:
    """p(z) = N(f^-1(z); 0, I) |det df^-1/dz| for an invertible f (Chen et al. 2017).

    Args:
        dim: latent dimensions D.
        flow: f, from noise to z. Its inverse gives log p(z), its forward map gives samples.

    Returns:
        A Prior whose params are the flow's. Samples are f(temperature * eps), eps ~ N(0, I).

    Raises:
        ValueError: the flow has no inverse, or takes a context.
    """
    inverse = flow.inverse
    if inverse is None:
        raise ValueError(
            "this flow has no inverse: a prior needs log p(z) of any z, so choose a flow with one"
        )
    if flow.context > 0:
        raise ValueError(
            f"this flow reads a context of {flow.context}: a prior has none, so build it with 0"
        )

    def log_prob(params, q, z):
        noise, log_det = inverse(params, z, None)
        return standard_normal(noise.shape).log_prob(noise) + log_det

    def sample(params, q, key, n, temperature):
        noise = temperature * jax.random.normal(key, (n, dim))
        return flow.forward(params, noise, None)[0]

    return Prior(flow.init, log_prob, sample)


def with_bounded_posterior(model: Model, low: float, high: float) -> Model:
    """``model`` with its encoder's log-variances in (low, high).

    Under a VampPrior nothing else fixes the scale of z: the prior shrinks and grows with the
    posterior, and there is no N(0, I) to hold both in place.
    """

    def encode(variables, x, y=None):
        features = model.encode(variables, x, y)
        return {**features, "log_var": bounded(features["log_var"], low, high)}

    return model._replace(encode=encode)


def learned(model: Model, prior: Prior) -> Model:
    """``model`` with its prior replaced by ``prior``, which is trained with it.

    Args:
        model: any model with a density q(z|x), such as a Gaussian or a flow. For ``vamp`` its
            features must include "mean" and "log_var" of q(z|u), and it must not need labels.
        prior: the new prior.

    Returns:
        A Model with ``variables["params"]["prior"]``, and ``kl`` [B, 1] of the draw. With a
        VampPrior the encoder gets gradients from both q(z|x) and p(z).
    """

    def posterior(variables) -> Posterior:
        def q(inputs):
            features = model.encode(variables, inputs)
            return Normal(features["mean"], features["log_var"])

        return q

    def init(key, x, y=None):
        model_key, prior_key = jax.random.split(key)
        variables = model.init(model_key, x, y)
        params = {**variables["params"], "prior": prior.init(prior_key)}
        return {**variables, "params": params}

    def reparameterize(variables, key, features, train):
        latent = model.reparameterize(variables, key, features, train)
        log_p = prior_log_prob(variables, latent.z)
        return latent._replace(kl=(latent.log_q - log_p)[:, None], log_p=log_p)

    def prior_sample(variables, key, n, y=None, temperature=1.0):
        params = variables["params"]["prior"]
        return prior.sample(params, posterior(variables), key, n, temperature)

    def prior_log_prob(variables, z, y=None):
        return prior.log_prob(variables["params"]["prior"], posterior(variables), z)

    return model._replace(
        init=init,
        reparameterize=reparameterize,
        prior_sample=prior_sample,
        prior_log_prob=prior_log_prob,
    )
