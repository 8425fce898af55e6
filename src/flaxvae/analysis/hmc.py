"""Hamiltonian Monte Carlo, for many chains at once (Duane et al. 1987; Neal 2011).

A transition that leaves a density f(z), known up to its constant, as it is. With a momentum
r ~ N(0, I) and a scale s for each dimension, the energy H(z, r) = |r|^2 / 2 - log f(z) is nearly
conserved along

    dz/dt = s r,    dr/dt = s grad log f(z),

of which L leapfrog steps of size e lead to (z', r'). That is accepted with probability
min(1, exp(H(z, r) - H(z', r'))), else z stays. Steps and scales must not depend on the chain that
they move: then the transition is also its own reverse, in distribution.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array
# z [R, D] -> log f(z) [R], and what else is known at z: a pytree of arrays [R]. Rows are separate.
Target = Callable[[Array], tuple[Array, Any]]

ACCEPTANCE = 0.65  # near the optimum in many dimensions (Beskos et al. 2013; Neal 2011)


class Moved(NamedTuple):
    """R chains after a transition."""

    z: Array  # [R, D]
    extra: Any  # of the target at z
    acceptance: Array  # [R] the probability with which the proposal was accepted


def transition(
    target: Target, key: Array, z: Array, step: Array, scale: Array, leapfrogs: int
) -> Moved:
    """One transition of each of R chains.

    Args:
        target: log f and its extras.
        key: decides momenta and acceptances.
        z: [R, D] where the chains are.
        step: [R] the size e of a leapfrog step.
        scale: [R, D] s, about the standard deviations of f.
        leapfrogs: L.

    Returns:
        Moved. A proposal whose energy is not a number is not accepted.
    """

    def evaluate(z):
        def total(z):
            log_f, extra = target(z)
            return log_f.sum(), (log_f, extra)

        (_, (log_f, extra)), gradient = jax.value_and_grad(total, has_aux=True)(z)
        return log_f, extra, gradient

    pace = step[:, None] * scale

    def leap(state, _):
        z, momentum, (_, _, gradient) = state
        momentum = momentum + 0.5 * pace * gradient
        z = z + pace * momentum
        found = evaluate(z)
        return (z, momentum + 0.5 * pace * found[2], found), None

    momentum_key, accept_key = jax.random.split(key)
    start = evaluate(z)
    momentum = jax.random.normal(momentum_key, z.shape, z.dtype)
    (new, last, end), _ = jax.lax.scan(leap, (z, momentum, start), None, leapfrogs)
    kinetic = 0.5 * (jnp.square(momentum) - jnp.square(last)).sum(-1)
    gain = end[0] - start[0] + kinetic  # H before less H after
    acceptance = jnp.where(jnp.isfinite(gain), jnp.exp(jnp.minimum(gain, 0.0)), 0.0)
    accepted = jax.random.uniform(accept_key, acceptance.shape) < acceptance

    def choose(new, old):
        return jnp.where(accepted.reshape(-1, *[1] * (old.ndim - 1)), new, old)

    z, extra = jax.tree.map(choose, (new, end[1]), (z, start[1]))
    return Moved(z, extra, acceptance)
