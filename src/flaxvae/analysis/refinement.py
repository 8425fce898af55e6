"""The ELBO with q optimised for each image: what the encoder costs, and what its family does.

The gap between log p(x) and the ELBO is KL(q(z|x) || p(z|x)). With q* the best of its family for
this one image it has two parts (Cremer et al. 2018):

    log p(x) - L[q] = (log p(x) - L[q*]) + (L[q*] - L[q])
                      approximation gap     amortization gap

q* is found by gradient descent from the encoder's answer. What is optimised is what the encoder
gives for an image: mean and log-variance of a Gaussian, the input of a flow, the features that a
hierarchy sees. A Gaussian with full covariance shows how much of the approximation gap is due to
independent dimensions. The bounds are measured with draws of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from flaxvae.analysis.moments import Moments, moments
from flaxvae.core import Batch, Model, Terms, Variables, elbo_samples
from flaxvae.distributions import LOG_2PI

Array = jax.Array

DRAWS = 8  # of z for a gradient, and at once for a bound
RATE = 0.03  # of Adam; it falls to 0


class Refined(NamedTuple):
    """For each of B images, in nats: ELBOs by Monte Carlo, log p(x, z) - log q(z|x)."""

    own: Array  # [B] q of the family of the encoder, optimised for the image
    full: Array | None  # [B] a Gaussian with full covariance; None: not asked for


def refine(
    model: Model, steps: int, draws: int, full: bool
) -> Callable[[Variables, Array, Batch], Refined]:
    """The ELBO of each image with q optimised for it alone.

    Every image has its own Adam, so that images do not depend on each other. Latents must be
    continuous.

    Args:
        model: its functions.
        steps: of gradient descent, with 8 draws of z each.
        draws: of z, to measure a bound with; rounded up to a multiple of 8.
        full: optimise a Gaussian with full covariance, D (D + 3) / 2 numbers for each image, too.

    Returns:
        ``function(variables, key, batch) -> Refined``.
    """

    def function(variables: Variables, key: Array, batch: Batch) -> Refined:
        fit_key, own_key, moment_key, full_fit_key, full_key = jax.random.split(key, 5)

        features = model.encode(variables, batch.x, batch.y)
        features = optimised(model, variables, fit_key, batch, features, steps)
        own = _mean(
            lambda key: _terms(model, variables, key, batch, features).log_w, own_key, draws
        )
        if not full:
            return Refined(own, None)

        def draw(key):
            return model.reparameterize(variables, key, features, False).z

        start = moments(draw, moment_key)
        log_w = _full_covariance(model, variables, batch, start)
        dim = start.mean.shape[1]
        zeros = {"mean": jnp.zeros_like(start.mean), "factor": jnp.zeros((len(own), dim, dim))}
        best = _ascend(log_w, zeros, full_fit_key, steps)
        return Refined(own, _mean(lambda key: log_w(best, key), full_key, draws))

    return function


def optimised(
    model: Model, variables: Variables, key: Array, batch: Batch, features: Any, steps: int
) -> Any:
    """The features of the best q of its family for each image, found from ``features``."""

    def bound(features, key):
        # Closed form of the KL where there is one: its gradient has the lower variance at first.
        return _terms(model, variables, key, batch, features).elbo

    return _ascend(bound, features, key, steps)


def regret(model: Model, steps: int, draws: int) -> Callable[[Variables, Array, Batch], Array]:
    """Likelihood regret: how much the ELBO of an image gains if q is optimised for it alone.

    L[q*] - L[q] in nats, [B], from the same draws of noise for both (Xiao et al. 2020). It is high
    where the encoder, which has learnt from the training images, does badly on this one. Below 0
    it is noise.

    Args:
        model: its functions; latents must be continuous.
        steps: of gradient descent, with 8 draws of z each.
        draws: of z, to measure both bounds with; rounded up to a multiple of 8.
    """

    def function(variables: Variables, key: Array, batch: Batch) -> Array:
        fit_key, key = jax.random.split(key)
        own = model.encode(variables, batch.x, batch.y)
        best = optimised(model, variables, fit_key, batch, own, steps)

        def gain(key):
            after, before = (_terms(model, variables, key, batch, f).elbo for f in (best, own))
            return after - before

        return _mean(gain, key, draws)

    return function


def _terms(model: Model, variables: Variables, key: Array, batch: Batch, features: Any) -> Terms:
    """The terms of the bound with q of these features, DRAWS of them."""
    given = model._replace(encode=lambda *_: features)
    return elbo_samples(given, variables, key, batch, DRAWS)


def _ascend(bound: Callable[[Any, Array], Array], start: Any, key: Array, steps: int) -> Any:
    """Maximise E bound(parameters, key), [DRAWS, B], of which each image has its own parameters."""
    optimizer = optax.adam(optax.cosine_decay_schedule(RATE, max(steps, 1)))

    def loss(parameters, key):
        return -bound(parameters, key).mean(0).sum()

    def step(state, i):
        parameters, moments = state
        gradient = jax.grad(loss)(parameters, jax.random.fold_in(key, i))
        # An image whose gradient is not finite keeps what it has.
        gradient = jax.tree.map(lambda g: jnp.where(jnp.isfinite(g), g, 0.0), gradient)
        change, moments = optimizer.update(gradient, moments)
        return (optax.apply_updates(parameters, change), moments), None

    (found, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), jnp.arange(steps))
    return found


def _mean(log_w: Callable[[Array], Array], key: Array, draws: int) -> Array:
    """The mean over draws of log w, [DRAWS, B] for each key: [B]."""
    rounds = -(-draws // DRAWS)

    def add(i, total):
        return total + log_w(jax.random.fold_in(key, i)).mean(0)

    shape = jax.eval_shape(log_w, key).shape[1:]
    return jax.lax.fori_loop(0, rounds, add, jnp.zeros(shape)) / rounds


def _full_covariance(
    model: Model, variables: Variables, batch: Batch, start: Moments
) -> Callable[[dict[str, Array], Array], Array]:
    """log p(x, z) - log q(z), [DRAWS, B], of q = N(m, s F F^T s).

    m = start + s mean, with s the standard deviations of the start. F is lower triangular:
    ``factor`` below the diagonal, and its exponential on it. The gradient of log q flows through z
    alone, so that it has no noise where q is the posterior (Roeder et al. 2017).
    """
    log_prior = model.prior_log_prob
    assert log_prior is not None
    size, dim = start.mean.shape
    below = jnp.asarray(np.tril(np.ones((1, dim, dim), np.float32), -1))
    diagonal = jnp.eye(dim)[None]

    def factor(parameters):
        raw = parameters["factor"]
        return below * raw + diagonal * jnp.exp(diagonal * raw)

    def log_w(parameters, key):
        noise = jax.random.normal(key, (size, dim, DRAWS))
        own = parameters["mean"][..., None] + factor(parameters) @ noise  # in units of s
        fixed = jax.lax.stop_gradient(parameters)
        back = jax.scipy.linalg.solve_triangular(
            factor(fixed), own - fixed["mean"][..., None], lower=True
        )
        log_det = (jnp.log(start.sd) + jnp.diagonal(fixed["factor"], axis1=1, axis2=2)).sum(-1)
        log_q = -0.5 * (dim * LOG_2PI + jnp.square(back).sum(1)) - log_det[:, None]  # [B, DRAWS]
        z = (start.mean[..., None] + start.sd[..., None] * own).swapaxes(1, 2).reshape(-1, dim)
        x, y = jax.tree.map(lambda leaf: jnp.repeat(leaf, DRAWS, 0), (batch.x, batch.y))
        log_p = log_prior(variables, z, y) + model.decode(variables, z, y).log_prob(x)
        return (log_p.reshape(size, DRAWS) - log_q).T

    return log_w
