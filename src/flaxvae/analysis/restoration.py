"""Draws from p(z | what is seen of x): completions of images with hidden pixels, or with noise.

Of an image x only y is seen, at pixels with m_d = 1, and with noise of a known standard deviation:

    y_d = x_d + sigma eps_d,   p(z | y) is proportional to p(z) prod_d p(y_d | z)^m_d.

The encoder has never seen such images, so it is left out. Chains start at draws from the prior and
are annealed to p(z, y) by Hamiltonian Monte Carlo (``annealing``). Their weights correct for a walk
that is too short: chains of an image are drawn again in proportion to these, so that none is left
in a mode that explains y worse by far, and moved once more. Several modes are several completions.
The logarithm of the mean weight is in expectation a lower bound on log p(y).

What is seen of a pixel has the density

    without noise          p(x_d = y_d | z)
    Gaussian, with noise   N(y_d; mean_d, variance_d + sigma^2)
    binary x, with noise   E[N(y_d; x_d, sigma^2)],  x_d in {0, 1}
    others, with noise     N(y_d; E[x_d | z], sigma^2): x is taken to be its mean
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from flaxvae.analysis import annealing, hmc
from flaxvae.analysis.annealed import PRELIMINARY
from flaxvae.analysis.moments import moments
from flaxvae.distributions import Bernoulli, Distribution, Normal

Array = jax.Array

LEAPFROGS = 10
MOVES = 10  # transitions after the last temperature


class Seen(NamedTuple):
    """What is seen of B images."""

    y: Array  # [B, *data]; any number where a pixel is hidden
    mask: Array  # [B, *space] 1 where it is seen, 0 where it is hidden
    noise: float = 0.0  # sigma


class Latents(NamedTuple):
    """A prior and a decoder, for rows of which each has its label."""

    draw: Callable[[Array, int], Array]  # (key, R) -> z [R, D]
    log_prior: Callable[[Array, Array | None], Array]  # (z, labels) -> [R]
    decode: Callable[[Array, Array | None], Distribution]


class Completed(NamedTuple):
    """Draws from p(z | y) for B images."""

    z: Array  # [B, C, D], about equally probable; some begin at the same chain
    log_w: Array  # [B, C] nats, of the chains as they ended
    effective: Array  # [B] effective sample size of the C chains
    acceptance: Array  # [B] mean over chains and transitions


def _space(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The axes of an example over which pixels are independent given z: all but channels."""
    return shape[:-1] if len(shape) == 3 else shape


def pixelwise(p: Distribution, y: Array, noise: float = 0.0, binary: bool = False) -> Array:
    """log p(y_d | z) of each pixel, summed over its channels: [B, *data] -> [B, *space] nats.

    Args:
        p: of B examples, whose pixels are independent.
        y: what is seen.
        noise: its standard deviation.
        binary: x is 0 or 1 and ``p`` a Bernoulli.
    """
    space = _space(y.shape[1:])
    if noise:
        if isinstance(p, Normal):
            log_var = jnp.log(jnp.exp(p.log_var) + noise**2)
            log_p = Normal(p.mean, log_var).log_density(y)
        elif binary and isinstance(p, Bernoulli):
            scale = jnp.float32(2 * math.log(noise))
            one, zero = (Normal(jnp.full_like(y, x), scale).log_density(y) for x in (1.0, 0.0))
            weights = jax.nn.log_sigmoid(p.logits), jax.nn.log_sigmoid(-p.logits)
            log_p = jnp.logaddexp(weights[0] + one, weights[1] + zero)
        else:
            log_p = Normal(p.mean, jnp.float32(2 * math.log(noise))).log_density(y)
        return log_p.reshape(*y.shape[: 1 + len(space)], -1).sum(-1)
    # A pixel of an image as an image of one pixel: ``log_prob`` then gives one number for each.
    first = 1 + len(space)

    def alone(leaf: Array) -> Array:
        if leaf.ndim < first:
            return leaf  # shared by all pixels
        return leaf.reshape(-1, *[1] * len(space), *leaf.shape[first:])

    return jax.tree.map(alone, p).log_prob(alone(y)).reshape(y.shape[:first])


def completed(
    latents: Latents,
    key: Array,
    seen: Seen,
    labels: Array | None = None,
    *,
    binary: bool = False,
    temperatures: int = 100,
    chains: int = 16,
) -> Completed:
    """Draws from p(z | y) for each of B images.

    Args:
        latents: the model.
        key: decides all draws.
        seen: of B images.
        labels: [B] of a conditional model.
        binary: the data are 0 and 1, and p(x|z) a Bernoulli.
        temperatures: of annealing; the more, the closer to exact draws.
        chains: C, for each image.
    """
    count = len(seen.y)
    spread_key, start_key, step_key, walk_key, again_key, move_key = jax.random.split(key, 6)

    def rows(each: int) -> annealing.Densities:
        """The densities of so many chains for each image."""
        y, mask, given = (
            None if a is None else jnp.repeat(a, each, 0) for a in (seen.y, seen.mask, labels)
        )
        assert y is not None and mask is not None

        def densities(z: Array) -> tuple[Array, Array]:
            found = pixelwise(latents.decode(z, given), y, seen.noise, binary)
            kept = jnp.where(mask > 0, found, 0.0)
            return latents.log_prior(z, given), kept.reshape(len(z), -1).sum(-1)

        return densities

    prior = moments(lambda key: latents.draw(key, count), spread_key)

    def scale(each: int) -> annealing.Scale:
        return lambda beta: jnp.repeat(prior.sd, each, 0)

    least, part, most = PRELIMINARY
    few, betas = min(chains, most), annealing.schedule(temperatures)
    densities = rows(few)
    short = annealing.schedule(max(temperatures // part, min(least, temperatures)))
    start = latents.draw(jax.random.fold_in(start_key, 0), count * few)
    steps = annealing.adapted(densities, scale(few), short, step_key, start, count, LEAPFROGS)

    def step(t: Array) -> Array:
        return jnp.repeat(annealing.at(steps, t / temperatures), chains)

    densities = rows(chains)
    transition = annealing.hamiltonian(densities, scale(chains), step, LEAPFROGS)
    start = latents.draw(jax.random.fold_in(start_key, 1), count * chains)
    walk = annealing.forward(densities, transition, betas, walk_key, start)

    log_w = walk.log_w.reshape(count, chains)
    weights = jax.nn.softmax(log_w, -1)
    chosen = _again(again_key, weights)
    z = jnp.take_along_axis(walk.z.reshape(count, chains, -1), chosen[..., None], 1)
    target, last = annealing.tempered(densities, jnp.float32(1)), step(jnp.array(temperatures))

    def move(z, i):
        own = jax.random.fold_in(move_key, i)
        sd = jnp.repeat(prior.sd, chains, 0)
        return hmc.transition(target, own, z, last, sd, LEAPFROGS).z, None

    z, _ = jax.lax.scan(move, z.reshape(count * chains, -1), jnp.arange(MOVES))
    effective = 1 / jnp.square(weights).sum(-1)
    acceptance = walk.acceptance.reshape(count, chains).mean(-1)
    return Completed(z.reshape(count, chains, -1), log_w, effective, acceptance)


def _again(key: Array, weights: Array) -> Array:
    """Chains [B, C] drawn in proportion to weights [B, C], shuffled: systematic resampling.

    Of a chain with weight w there are w C copies, rounded up or down (Kitagawa 1996). Those of each
    image are in random order, so that the first is as good a draw as any.
    """
    count, chains = weights.shape
    start_key, order_key = jax.random.split(key)
    start = jax.random.uniform(start_key, (count, 1))
    places = (jnp.arange(chains)[None] + start) / chains
    edges = jnp.cumsum(weights, -1)
    found = jax.vmap(lambda edge, place: jnp.searchsorted(edge, place, side="right"))(edges, places)
    found = jnp.minimum(found, chains - 1)
    return jax.random.permutation(order_key, found, axis=1, independent=True)
