"""Annealed importance sampling: log Z by a walk from a density to another (Neal 2001).

Between a normalized density p_0, from which one can draw, and f_1 with the unknown constant
Z = int f_1 lie, for 0 = b_0 < b_1 < .. < b_T = 1,

    log f_b(z) = log p_0(z) + b ratio(z),    ratio = log f_1 - log p_0.

A chain starts at z ~ p_0, and for t = 1 .. T adds (b_t - b_{t-1}) ratio(z) to its log-weight, then
makes a transition that leaves f_{b_t} as it is. The weights have mean Z whatever the transitions,
so the logarithm of their average is in expectation a lower bound on log Z, and tight as T grows.

A chain that starts at an exact draw of f_1 / Z and goes the other way has weights with mean 1 / Z,
so minus the logarithm of their average is an upper bound: bidirectional Monte Carlo (Grosse et al.
2015). The exact draw is at hand for data that a model has made itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from flaxvae.analysis import hmc

Array = jax.Array

SHARPNESS = 4.0  # of the schedule
GAIN = 0.3  # of log step, for an acceptance that is off by one
# z [R, D] -> log p_0(z), ratio(z), [R] each
Densities = Callable[[Array], tuple[Array, Array]]
# beta -> [R, D] about the standard deviations of f_beta
Scale = Callable[[Array], Array]
# t -> [R] step sizes of HMC at b_t
Step = Callable[[Array], Array]


class Transition(Protocol):
    def __call__(self, key: Array, z: Array, t: Array, beta: Array) -> hmc.Moved:
        """Leaves f_beta, beta = b_t, as it is, and is reversible; ``extra`` is ratio [R] at z."""
        ...


class Walk(NamedTuple):
    """R chains at their end."""

    log_w: Array  # [R] nats
    z: Array  # [R, D]
    acceptance: Array  # [R] mean over transitions


def schedule(temperatures: int) -> np.ndarray:
    """b_0 = 0 .. b_T = 1, [T + 1], dense at both ends (Wu et al. 2017).

    b_t = (s(2 t / T - 1) - s(-1)) / (s(1) - s(-1)),    s(u) = 1 / (1 + exp(-4 u))
    """
    ends = np.linspace(-SHARPNESS, SHARPNESS, temperatures + 1)
    values = 1 / (1 + np.exp(-ends))
    return ((values - values[0]) / (values[-1] - values[0])).astype(np.float32)


def forward(
    densities: Densities, transition: Transition, betas: np.ndarray, key: Array, z: Array
) -> Walk:
    """From draws z [R, D] of p_0 to f_1: weights with mean Z."""
    return _walk(densities, transition, betas, key, z, backward=False)


def backward(
    densities: Densities, transition: Transition, betas: np.ndarray, key: Array, z: Array
) -> Walk:
    """From exact draws z [R, D] of f_1 / Z to p_0: weights with mean 1 / Z."""
    return _walk(densities, transition, betas, key, z, backward=True)


def _walk(densities, transition, betas, key, z, backward: bool) -> Walk:
    steps, count = jnp.diff(betas), len(betas) - 1
    order = jnp.arange(count, 0, -1) if backward else jnp.arange(1, count + 1)

    def one(state, t):
        walk, ratio = state
        gain = steps[t - 1]
        log_w = walk.log_w if backward else walk.log_w + gain * ratio
        moved = transition(jax.random.fold_in(key, t), walk.z, t, jnp.asarray(betas)[t])
        if backward:
            log_w = log_w - gain * moved.extra
        return (Walk(log_w, moved.z, walk.acceptance + moved.acceptance), moved.extra), None

    nothing = jnp.zeros(len(z))
    (walk, _), _ = jax.lax.scan(one, (Walk(nothing, z, nothing), densities(z)[1]), order)
    return walk._replace(acceptance=walk.acceptance / count)


def tempered(densities: Densities, beta: Array) -> hmc.Target:
    """log f_beta, with the ratio as its extra."""

    def target(z):
        log_start, ratio = densities(z)
        return log_start + beta * ratio, ratio

    return target


def hamiltonian(densities: Densities, scale: Scale, step: Step, leapfrogs: int) -> Transition:
    """HMC with a step size for each temperature and chain."""

    def transition(key, z, t, beta):
        target = tempered(densities, beta)
        return hmc.transition(target, key, z, step(t), scale(beta), leapfrogs)

    return transition


def adapted(
    densities: Densities,
    scale: Scale,
    betas: np.ndarray,
    key: Array,
    z: Array,
    groups: int,
    leapfrogs: int,
) -> Array:
    """Step sizes at which HMC accepts 65 % on the way from p_0 to f_1, one for each temperature.

    A preliminary walk, whose chains are thrown away: the step size of each group of chains rises
    while more is accepted, and falls while less is. A walk that adapted its own steps would have
    weights of another mean.

    Args:
        densities, scale, betas, leapfrogs: as of the walk.
        key: another than the walk's.
        z: [R, D] draws of p_0.
        groups: G; the R / G chains of a group are next to each other, and share their steps.

    Returns:
        [T, G].
    """
    first = jnp.full(groups, -0.25 * np.log(z.shape[1]), jnp.float32)  # e ~ D^(-1/4)

    def one(state, inputs):
        z, log_step = state
        t, beta = inputs
        steps = jnp.repeat(jnp.exp(log_step), len(z) // groups)
        target, own = tempered(densities, beta), jax.random.fold_in(key, t)
        moved = hmc.transition(target, own, z, steps, scale(beta), leapfrogs)
        accepted = moved.acceptance.reshape(groups, -1).mean(-1)
        log_step = log_step + GAIN * (accepted - hmc.ACCEPTANCE)
        return (moved.z, log_step), log_step

    count = len(betas) - 1
    _, found = jax.lax.scan(one, (z, first), (jnp.arange(1, count + 1), jnp.asarray(betas)[1:]))
    return jnp.exp(found)


def at(steps: Array, part: Array) -> Array:
    """Step sizes [G] after a ``part`` of the way, above 0 and at most 1, of those of a walk [T, G].

    Between temperatures they are interpolated, so that a walk may have others than the one in which
    they were found.
    """
    position = jnp.maximum(part * len(steps) - 1, 0)
    before = position.astype(int)
    after, rest = jnp.minimum(before + 1, len(steps) - 1), position - before
    return (1 - rest) * steps[before] + rest * steps[after]
