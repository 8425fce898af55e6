"""Normalizing flows: a posterior richer than a Gaussian, by an invertible map of Gaussian draws.

For z' = f(z) with f invertible, and z ~ q0(z|x),

    log q(z'|x) = log q0(z|x) - log |det dz'/dz|      (Rezende & Mohamed 2015)

| flow                   | one step                                      | inverse            |
|------------------------|-----------------------------------------------|--------------------|
| planar                 | z + u tanh(w . z + b)                         | no closed form     |
| inverse_autoregressive | gate z + (1 - gate) m, both from z before d   | one pass each dim  |
| coupling               | one half scaled and shifted, given the other  | one pass           |

Rezende & Mohamed 2015; Kingma et al. 2016 with the MADE of Germain et al. 2015; Dinh et al. 2017.
A flow may take a context from the encoder, so that the map depends on x.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flaxvae.core import Model
from flaxvae.parts.made import made, masked_mlp

Array = jax.Array

LOWEST = -0.99  # lower bound on w . u in a planar step, which is not invertible below -1
FORGET_BIAS = 2.0  # gates start at sigmoid(2) = 0.88, as recommended by Kingma et al. 2016
LOG_SCALE = 2.0  # bound on |log-scale| in one coupling step


class Flow(NamedTuple):
    """An invertible map of z, for each example, with the log-determinant of its Jacobian."""

    context: int  # size of the context from the encoder for each example; 0: none
    init: Callable[[Array], Any]  # key -> params, {} if the context holds all of them
    # (params, z [B, D], context [B, C] or None) -> z' [B, D], log |det dz'/dz| [B]
    forward: Callable[[Any, Array, Array | None], tuple[Array, Array]]
    # (params, z', context) -> z, log |det dz/dz'|; None where there is no closed form
    inverse: Callable[[Any, Array, Array | None], tuple[Array, Array]] | None


def _chain(flows: Sequence[Flow]) -> Flow:
    """One flow after another, all with the same context and a closed-form inverse."""
    names = [f"step_{i}" for i in range(len(flows))]

    def init(key):
        keys = jax.random.split(key, len(flows))
        return {name: flow.init(k) for name, flow, k in zip(names, flows, keys)}

    def run(maps, params, z, context):
        total = jnp.zeros(z.shape[0])
        for name, move in maps:
            z, log_det = move(params[name], z, context)
            total = total + log_det
        return z, total

    def forward(params, z, context=None):
        return run([(n, flow.forward) for n, flow in zip(names, flows)], params, z, context)

    def inverse(params, z, context=None):
        maps = [(n, flow.inverse) for n, flow in zip(names, flows)]
        return run(maps[::-1], params, z, context)

    return Flow(flows[0].context, init, forward, inverse)


def planar(dim: int, steps: int) -> Flow:
    """z' = z + u_hat tanh(w . z + b), ``steps`` times (Rezende & Mohamed 2015, section 4.1).

    log det = log(1 + tanh'(w . z + b) w . u_hat). The context holds u, w and b of every step, so
    there are no other parameters. A step is invertible if w . u_hat > -1, so u is moved along w to
    u_hat with w . u_hat = m(w . u), m(s) = log(a + (1 - a) exp(s)), log a = -0.99. The paper uses
    m(s) = softplus(s) - 1. Here m(0) = 0, so that small u are small steps, and m stays away from
    -1, so that log det and its gradient stay finite.

    Args:
        dim: latent dimensions D.
        steps: K.

    Returns:
        A Flow with a context of size K (2 D + 1) and no inverse.
    """
    a = math.exp(LOWEST)

    def step(z, u, w, b):
        s = (u * w).sum(-1)
        low, high = jnp.minimum(s, 0.0), jnp.maximum(s, 0.0)
        bend = jnp.log1p((1 - a) * jnp.expm1(low)) + jnp.log1p(a * jnp.expm1(-high))
        m, shift = bend + high, bend - low  # m(s) and m(s) - s, both to full precision
        u = u + (shift / jnp.maximum(jnp.square(w).sum(-1), 1e-12))[:, None] * w
        t = (z * w).sum(-1) + b
        slope = 4 * jax.nn.sigmoid(2 * t) * jax.nn.sigmoid(-2 * t)
        return z + u * jnp.tanh(t)[:, None], jnp.log1p(slope * m)

    def forward(params, z, context):
        total = jnp.zeros(z.shape[0])
        for raw in jnp.split(context, steps, axis=-1):
            z, log_det = step(z, raw[:, :dim], raw[:, dim:-1], raw[:, -1])
            total = total + log_det
        return z, total

    return Flow(steps * (2 * dim + 1), lambda key: {}, forward, None)


def inverse_autoregressive(
    dim: int, steps: int, hidden: tuple[int, ...] = (320, 320), context: int = 0
) -> Flow:
    """z'_d = g_d z_d + (1 - g_d) m_d, with g = sigmoid(s) (Kingma et al. 2016, algorithm 1).

    m_d and s_d come from a MADE that sees the dimensions before d, and the context; so
    log det = sum_d log g_d. The order of dimensions is reversed between steps. Forward, all
    dimensions are computed at once; the inverse takes D passes, one per dimension.

    Args:
        dim: latent dimensions D.
        steps: number of such maps, each with its own network.
        hidden: hidden layer sizes of a network, each at least ``dim``.
        context: size of the context.

    Raises:
        ValueError: a hidden layer is narrower than ``dim``.
    """

    def one(ranks):
        net = made(dim, hidden, context, ranks)

        def gate(params, z, features):
            m, s = jnp.split(net.apply(params, z, features), 2, axis=-1)
            return m, s + FORGET_BIAS

        def forward(params, z, features=None):
            m, s = gate(params, z, features)
            return z + jax.nn.sigmoid(-s) * (m - z), -jax.nn.softplus(-s).sum(-1)

        def inverse(params, z, features=None):
            def fill(rank, found):
                m, s = gate(params, found, features)
                return jnp.where((ranks == rank)[None], z + jnp.exp(-s) * (z - m), found)

            found = jax.lax.fori_loop(1, dim + 1, fill, jnp.zeros_like(z))
            return found, jax.nn.softplus(-gate(params, found, features)[1]).sum(-1)

        return Flow(context, net.init, forward, inverse)

    ranks = np.arange(1, dim + 1)
    return _chain([one(ranks[::-1] if i % 2 else ranks) for i in range(steps)])


def coupling(dim: int, steps: int, hidden: tuple[int, ...] = (256, 256), context: int = 0) -> Flow:
    """b' = exp(s(a)) b + t(a), a' = a, for halves a and b of z (Dinh et al. 2017, RealNVP).

    log det = sum_d s_d. The halves swap roles between steps; |s| is at most 2.

    Args:
        dim: latent dimensions D, two or more.
        steps: number of such maps, each with its own network.
        hidden: hidden layer sizes of a network.
        context: size of the context.

    Raises:
        ValueError: ``dim`` is 1.
    """
    if dim < 2:
        raise ValueError(f"dim = {dim}: a coupling flow needs two dimensions, one for each half")

    halves = slice((dim + 1) // 2), slice((dim + 1) // 2, dim)

    def one(given, moved):
        sizes = (len(range(dim)[given]), *hidden, 2 * len(range(dim)[moved]))
        net = masked_mlp(
            [np.ones(shape, np.float32) for shape in itertools.pairwise(sizes)], context
        )

        def affine(params, z, features):
            s, t = jnp.split(net.apply(params, z[:, given], features), 2, axis=-1)
            return LOG_SCALE * jnp.tanh(s / LOG_SCALE), t

        def forward(params, z, features=None):
            s, t = affine(params, z, features)
            return z.at[:, moved].set(jnp.exp(s) * z[:, moved] + t), s.sum(-1)

        def inverse(params, z, features=None):
            s, t = affine(params, z, features)
            return z.at[:, moved].set(jnp.exp(-s) * (z[:, moved] - t)), -s.sum(-1)

        return Flow(context, net.init, forward, inverse)

    return _chain([one(*halves[:: -1 if i % 2 else 1]) for i in range(steps)])


def posterior(model: Model, flow: Flow) -> Model:
    """``model`` with the draws of its posterior passed through ``flow``.

    log q(z|x) = log q0(z0|x) - log |det dz/dz0|; p(z) is that of ``model``. The KL has no closed
    form: ``kl`` [B, 1] is log q(z|x) - log p(z) of the draw.

    Args:
        model: a model with Gaussian latents, whose features include the flow's ``context``:
            ``latents.gaussian(dim, context=flow.context)``.
        flow: of the same ``dim``; its parameters become ``params["posterior_flow"]``.

    Raises:
        ValueError: the model has no prior.
    """
    log_prior = model.prior_log_prob
    if log_prior is None:
        raise ValueError("a model without a prior: expected one with Gaussian latents")

    def init(key, x, y=None):
        model_key, flow_key = jax.random.split(key)
        variables, own = model.init(model_key, x, y), flow.init(flow_key)
        return variables | {
            "params": variables["params"] | ({"posterior_flow": own} if own else {})
        }

    def reparameterize(variables, key, features, train):
        base = model.reparameterize(variables, key, features, train)
        own = variables["params"].get("posterior_flow", {})
        context = features["context"] if flow.context else None
        z, log_det = flow.forward(own, base.z, context)
        log_p, log_q = log_prior(variables, z), base.log_q - log_det
        code = z if key is None else flow.forward(own, base.code, context)[0]
        kl = (log_q - log_p)[:, None]
        return base._replace(z=z, code=code, kl=kl, log_p=log_p, log_q=log_q, px=None)

    return model._replace(init=init, reparameterize=reparameterize)
