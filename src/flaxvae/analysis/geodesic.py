"""Shortest paths between codes, by the metric that the decoder gives latent space.

The length of a curve z(t) is that of the curve f(z(t)) that it decodes to, whose squared speed is
dz^T J^T J dz with J the Jacobian of f. A geodesic is a curve of constant speed that is as short as
its neighbours: a minimum, with its ends fixed, of the energy of its points z_0 .. z_T,

    E(z_1, .., z_{T-1}) = T / 2 sum_t |f(z_{t+1}) - f(z_t)|^2     (Shao et al. 2018).

At an even pace 2 E is the squared length. f is the mean of p(x|z) and, if that is a Gaussian whose
variance depends on z, its standard deviation as well: then this is the expected metric of draws of
x (Arvanitidis et al. 2018).

The points are a straight line plus sine waves that are 0 at both ends,

    z_t = (1 - t/T) z_0 + t/T z_T + sum_k a_k w_kt,      k = 1 .. T - 1,
    w_kt = sin(pi k t / T) / (2^(1/2) T sin(pi k / 2T)),

scaled so that for f(z) = z the energy is that of the line plus |a|^2 / 2: coarse
bends and fine ones are found in as many steps. The a_k are found by L-BFGS from the straight line,
for each pair by itself. Another start could end in another geodesic, longer or shorter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from flaxvae.distributions import Distribution, Normal

Array = jax.Array
Curve = Callable[[Array, Array | None], Array]  # z [S, D], labels [S] -> what they decode to [S, P]

SEGMENTS = 18  # at least, of which the energy is the sum
ITERATIONS = 100  # of L-BFGS, at most
SETTLED = 1e-6  # part of the energy that a step must take off, or it is the last


class Geodesics(NamedTuple):
    """Curves between B pairs of codes."""

    z: Any  # [B, steps, D], both ends included
    length: Any  # [B] of the decoded curve
    straight: Any  # [B] of what the straight line decodes to


def points(p: Distribution) -> Array:
    """What a curve's length is measured in: [B, P] the mean of p(x|z), and the deviation that a
    Gaussian of its own variances has, flat."""
    parts = [p.mean.reshape(len(p.mean), -1)]
    if isinstance(p, Normal) and p.log_var.ndim:
        spread = jnp.broadcast_to(jnp.exp(0.5 * p.log_var), p.mean.shape)
        parts.append(spread.reshape(len(p.mean), -1))
    return jnp.concatenate(parts, 1)


def waves(segments: int) -> np.ndarray:
    """[T + 1, T - 1] the values at t = 0 .. T of the sine waves k = 1 .. T - 1, scaled."""
    t, k = np.arange(segments + 1)[:, None], np.arange(1, segments)[None]
    found = np.sin(np.pi * k * t / segments) / np.sin(np.pi * k / segments / 2)
    found /= np.sqrt(2) * segments
    found[[0, -1]] = 0
    return found.astype(np.float32)


def energy(curve: Array) -> Array:
    """T / 2 times the sum of squared steps of decoded points [T + 1, P]."""
    return 0.5 * (len(curve) - 1) * jnp.square(jnp.diff(curve, axis=0)).sum()


def length(curve: Array) -> Array:
    """The sum of the steps of decoded points [T + 1, P]."""
    return jnp.sqrt(jnp.square(jnp.diff(curve, axis=0)).sum(1)).sum()


def geodesics(
    curve: Curve,
    start: Array,
    end: Array,
    labels: Array | None = None,
    *,
    steps: int = 10,
    iterations: int = ITERATIONS,
) -> Geodesics:
    """Geodesics from ``start`` [B, D] to ``end`` [B, D]: pure, for jit.

    No curve has more energy than the straight line.

    Args:
        curve: what points of latent space decode to, such as ``points`` of p(x|z).
        start, end: codes.
        labels: [B] for a conditional model.
        steps: points that are wanted, both ends included. The curve is found through more, if these
            are few.
        iterations: at most.
    """
    each = -(-SEGMENTS // (steps - 1))
    segments = each * (steps - 1)
    basis, weight = jnp.asarray(waves(segments)), jnp.linspace(0.0, 1.0, segments + 1)[:, None]
    optimizer = optax.lbfgs()

    def one(pair):
        first, last, label = pair
        line = (1 - weight) * first[None] + weight * last[None]
        same = None if label is None else jnp.broadcast_to(label, (segments + 1,))

        def decoded(a):
            return curve(line + basis @ a, same)

        none = jnp.zeros((segments - 1, len(first)))
        at_first = energy(decoded(none))
        scale = 1 / jnp.maximum(at_first, jnp.finfo(jnp.float32).tiny)

        def loss(a):
            return scale * energy(decoded(a))

        value_and_grad = optax.value_and_grad_from_state(loss)

        def go_on(carry):
            _, _, value, before, i = carry
            return (i < iterations) & (before - value > SETTLED * value)

        def step(carry):
            a, state, before, _, i = carry
            value, gradient = value_and_grad(a, state=state)
            change, state = optimizer.update(
                gradient, state, a, value=value, grad=gradient, value_fn=loss
            )
            value = optax.tree.get(state, "value")  # after the step
            return optax.apply_updates(a, change), state, value, before, i + 1

        begin = none, optimizer.init(none), jnp.float32(1), jnp.float32(jnp.inf), 0
        a = jax.lax.while_loop(go_on, step, begin)[0]
        better = energy(decoded(a)) < at_first  # False of what is not finite
        a = jnp.where(better, a, none)
        return (
            (line + basis @ a)[::each],
            length(decoded(a)),
            length(decoded(none)),
        )

    return Geodesics(*jax.lax.map(one, (start, end, labels)))
