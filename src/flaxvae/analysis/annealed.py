"""log p(x) of a model by annealed importance sampling, and from both sides on its own data.

The walk ends at p(x, z) as a function of z, whose constant is p(x) (Wu et al. 2017). It starts at

    prior      p(z), so that the ratio is log p(x|z), or at
    encoder    a Gaussian with independent dimensions, which has the mean and the standard deviation
               of draws from q(z|x): for a Gaussian encoder q itself, up to the noise of 100 draws.
               It is near its end already, so that a tenth of the temperatures do as well.

Any start gives a lower bound. Between temperatures chains move by Hamiltonian Monte Carlo, with
masses from the standard deviations of the start and of q, whose precisions are interpolated. The
step size of each image and temperature is found in a preliminary walk, so that it accepts 65 %,
and is fixed in the walk whose weights count.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from flaxvae.analysis import annealing
from flaxvae.analysis.moments import Moments, moments
from flaxvae.core import Batch, Model, Variables
from flaxvae.distributions import Normal

Array = jax.Array
Start = Literal["encoder", "prior"]

LEAPFROGS = 10  # of a transition (Wu et al. 2017)
PRELIMINARY = 50, 1000, 8  # walk: fewest and most temperatures, else a quarter; most chains


class Annealing(NamedTuple):
    """How to anneal."""

    temperatures: int = 100  # T
    chains: int = 16  # for each image
    start: Start = "encoder"
    leapfrogs: int = LEAPFROGS
    together: int = 16  # chains of an image that are computed at once: bounds memory


class Annealed(NamedTuple):
    """For each of B images."""

    log_w: Array  # [B, chains] nats: log 1/chains sum w is in expectation at most log p(x)
    acceptance: Array  # [B] mean over chains and transitions


class Bracket(NamedTuple):
    """For each of B images that the model made."""

    x: Array  # [B, *data] those images
    lower: Array  # [B, chains] log-weights on the way to the posterior, as of Annealed
    upper: Array  # [B, chains] on the way back: -log 1/chains sum w is at least log p(x)
    acceptance: Array  # [B] of the way to the posterior


class Path(NamedTuple):
    """From a start to p(x, z), for C chains of each of B images; an image's are in a row."""

    sample: Callable[[Array], Array]  # key -> z [B * C, D], draws of the start
    densities: annealing.Densities
    scale: annealing.Scale


class Spread(NamedTuple):
    """Where the latents of a batch are, from draws: [B, D] each."""

    q: Moments  # of q(z|x)
    prior: Moments  # of p(z)


def spread(model: Model, variables: Variables, key: Array, batch: Batch) -> Spread:
    """Mean and standard deviation of draws from q(z|x) and from p(z)."""
    q_key, prior_key = jax.random.split(key)
    features = model.encode(variables, batch.x, batch.y)

    def posterior(key):
        return model.reparameterize(variables, key, features, False).z

    def prior(key):
        return model.prior_sample(variables, key, len(batch.x), batch.y)

    return Spread(moments(posterior, q_key), moments(prior, prior_key))


def path(
    model: Model, variables: Variables, batch: Batch, at: Spread, start: Start, chains: int
) -> Path:
    """The path for ``chains`` chains of each image of a batch."""
    log_prior = model.prior_log_prob
    if log_prior is None:
        raise ValueError("a model without a prior: expected one with a density p(z)")

    def each(leaf):
        return jnp.repeat(leaf, chains, 0)

    (x, y), (q, prior) = jax.tree.map(each, ((batch.x, batch.y), at))

    def log_joint(z):
        return log_prior(variables, z, y), model.decode(variables, z, y).log_prob(x)

    if start == "prior":

        def sample(key):
            return model.prior_sample(variables, key, len(x), y)

        def scale(beta):
            return jax.lax.rsqrt((1 - beta) / jnp.square(prior.sd) + beta / jnp.square(q.sd))

        return Path(sample, log_joint, scale)

    gaussian = Normal(q.mean, 2 * jnp.log(q.sd))

    def densities(z):
        log_start, (log_pz, log_px) = gaussian.log_prob(z), log_joint(z)
        return log_start, log_pz + log_px - log_start

    return Path(gaussian.sample, densities, lambda beta: q.sd)


def _steps(model, variables, key, batch, at: Spread, how: Annealing) -> Array:
    """Step sizes of each temperature of a preliminary walk, and each image, [T', B]."""
    least, most, chains = PRELIMINARY
    count = min(max(how.temperatures // 4, least), most)
    chains = min(how.together, how.chains, chains)
    start_key, walk_key = jax.random.split(key)
    way = path(model, variables, batch, at, how.start, chains)
    return annealing.adapted(
        way.densities,
        way.scale,
        annealing.schedule(count),
        walk_key,
        way.sample(start_key),
        len(batch.x),
        how.leapfrogs,
    )


def _walks(
    model, variables, key, batch, at: Spread, how: Annealing, steps: Array, ends: Any = None
) -> Annealed:
    """Walks from the start, or back to it from ``ends`` [B, D]; some chains after others."""
    together, size = min(how.together, how.chains), len(batch.x)
    way = path(model, variables, batch, at, how.start, together)
    betas = annealing.schedule(how.temperatures)

    def step(t):
        return jnp.repeat(annealing.at(steps, t / how.temperatures), together)

    transition = annealing.hamiltonian(way.densities, way.scale, step, how.leapfrogs)

    def some(i):
        start_key, walk_key = jax.random.split(jax.random.fold_in(key, i))
        if ends is None:
            z, go = way.sample(start_key), annealing.forward
        else:
            z, go = jnp.repeat(ends, together, 0), annealing.backward
        walk = go(way.densities, transition, betas, walk_key, z)
        return walk.log_w.reshape(size, -1), walk.acceptance.reshape(size, -1)

    found: Any = jax.lax.map(some, jnp.arange(math.ceil(how.chains / together)))
    log_w, acceptance = (a.swapaxes(0, 1).reshape(size, -1)[:, : how.chains] for a in found)
    return Annealed(log_w, acceptance.mean(-1))


def annealed(model: Model, how: Annealing) -> Callable[[Variables, Array, Batch], Annealed]:
    """Annealed importance sampling of log p(x), as a function of (variables, key, batch).

    Latents must be continuous, and the prior have a density.
    """

    def function(variables: Variables, key: Array, batch: Batch) -> Annealed:
        spread_key, step_key, walk_key = jax.random.split(key, 3)
        at = spread(model, variables, spread_key, batch)
        steps = _steps(model, variables, step_key, batch, at, how)
        return _walks(model, variables, walk_key, batch, at, how, steps)

    return function


def bracket(model: Model, how: Annealing) -> Callable[[Variables, Array, Batch], Bracket]:
    """Bidirectional Monte Carlo of log p(x), on x that the model makes (Grosse et al. 2015).

    z ~ p(z) and x ~ p(x|z) are drawn anew, one for each row of the batch, of which only the labels
    are used. Then z is an exact draw from p(z|x), where the walks back begin.

    Returns:
        ``function(variables, key, batch) -> Bracket``.
    """

    def function(variables: Variables, key: Array, batch: Batch) -> Bracket:
        z_key, x_key, spread_key, step_key, there_key, back_key = jax.random.split(key, 6)
        z = model.prior_sample(variables, z_key, len(batch.x), batch.y)
        made = Batch(model.decode(variables, z, batch.y).sample(x_key), batch.y)
        at = spread(model, variables, spread_key, made)
        steps = _steps(model, variables, step_key, made, at, how)
        there = _walks(model, variables, there_key, made, at, how, steps)
        back = _walks(model, variables, back_key, made, at, how, steps, z)
        return Bracket(made.x, there.log_w, back.log_w, there.acceptance)

    return function
