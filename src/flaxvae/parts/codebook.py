"""Vector quantisation: latents that are entries of a learned codebook.

Each of P vectors z_e that the encoder gives is replaced by the nearest of K codes,

    z = e_c,   c = arg min_k |z_e - e_k|^2,   dz/dz_e taken to be the identity,

and the encoder is kept near its codes by a penalty, sum |z_e - sg(e_c)|^2 times a weight, where sg
stops the gradient (van den Oord et al. 2017). The codes themselves follow the encoder in one of
two ways: by the gradient of sum |sg(z_e) - e_c|^2, or, as k-means on a stream, as moving averages
of what falls to each code (the paper's appendix), where a code to which nothing falls would stay
dead and is therefore moved to a random encoder output (Dhariwal et al. 2020).

q(c|x) is a point mass, so that log p(c) - log q(c|x) = log p(c): P log K nats below zero under
the uniform prior of the training, more with a prior fitted to the codes afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from flaxvae.core import Latent, Variables
from flaxvae.errors import UsageError
from flaxvae.parts.latents import Latents

Array = jax.Array

SPREAD = 0.1  # standard deviation of the first codes
SMOOTHING = 1e-5  # of the counts, after Laplace
# In the three digits of TF32 or bfloat16, distances would tell apart only codes that are far from
# each other compared with their distance from the origin.
PRECISION = jax.lax.Precision.HIGHEST


class CodePrior(NamedTuple):
    """p(c) over the codes of an image, as functions of its own parameters."""

    log_prob: Callable[[Any, Array], Array]  # (params, indices [B, P]) -> [B] nats
    sample: Callable[[Any, Array, int, float], Array]  # (params, key, n, temperature) -> [n, P]


def _embedding(variables: Variables) -> Array:
    """The codes [K, dim]: state where they are moving averages, else parameters."""
    return variables["codebook" if "codebook" in variables else "params"]["embedding"]


def indices(variables: Variables, z_e: Array) -> Array:
    """The nearest code of each vector, the first of several: [B, P * dim] -> [B, P] int32.

    Written as arg min_k |e_k|^2 - 2 z_e . e_k: one matrix product, no array of differences.

    Args:
        variables: the latents' own, as ``Latents.init`` gave them.
        z_e: the encoder's output.
    """
    codes = jax.lax.stop_gradient(_embedding(variables))
    vectors = jax.lax.stop_gradient(z_e).reshape(-1, codes.shape[1])
    # A shift of both changes no distance, and keeps the digits of codes far from the origin.
    centre = codes.mean(0)
    codes, vectors = codes - centre[None], vectors - centre[None]
    products = jnp.matmul(vectors, codes.T, precision=PRECISION)
    nearest = jnp.argmin(jnp.square(codes).sum(-1)[None] - 2 * products, axis=-1)
    return nearest.reshape(z_e.shape[0], -1).astype(jnp.int32)


def embed(variables: Variables, indices: Array) -> Array:
    """The codes of these indices, in a row: [B, P] -> [B, P * dim]."""
    return _embedding(variables)[indices].reshape(indices.shape[0], -1)


def _follow(
    state: dict[str, Array], key: Array, z_e: Array, chosen: Array, decay: float, revive: float
) -> dict[str, Array]:
    """The codebook after one batch of vectors z_e [M, dim] with their codes [M].

    count = decay count + (1 - decay) n     n_k the vectors that fell to code k
    sum   = decay sum   + (1 - decay) s     s_k the sum of them
    embedding = sum / smoothed count, but for codes of count < revive: a random z_e each
    """
    codes = state["count"].shape[0]
    # A product with one-hot rows: unlike a scatter, it adds in the same order every time.
    assigned = jax.nn.one_hot(chosen, codes)
    total = jnp.matmul(assigned.T, z_e, precision=PRECISION)
    count = decay * state["count"] + (1 - decay) * assigned.sum(0)
    sums = decay * state["sum"] + (1 - decay) * total
    dead = count < revive
    # Without replacement while there are vectors enough: of two equal codes, one would die again.
    order = jax.random.permutation(key, z_e.shape[0])
    fresh = max(1.0, revive)
    reseated = z_e[order[jnp.arange(codes) % z_e.shape[0]]]
    count = jnp.where(dead, fresh, count)
    sums = jnp.where(dead[:, None], fresh * reseated, sums)
    n = count.sum()
    smoothed = (count + SMOOTHING) * (n / (n + codes * SMOOTHING))
    embedding = jnp.where(dead[:, None], reseated, sums / smoothed[:, None])
    return {"embedding": embedding, "count": count, "sum": sums}


def vector_quantized(
    positions: int,
    codes: int,
    dim: int,
    *,
    commitment: float = 0.25,
    decay: float | None = 0.99,
    revive: float = 0.1,
    prior: CodePrior | None = None,
) -> Latents:
    """P = ``positions`` vectors, each one of K = ``codes`` codes of ``dim`` numbers.

    penalty = commitment sum |z_e - sg(e)|^2, plus sum |sg(z_e) - e|^2 where codes learn by
    gradient: sums over positions and dimensions, as the bound's terms are. log q(c|x) is 0 and
    kl [B, 1] is -log p(c), which is P log K under the uniform prior.

    Args:
        positions: P.
        codes: K.
        dim: numbers in a code.
        commitment: weight of the penalty on the encoder.
        decay: of the moving averages, in the state variables["codebook"] = {"embedding" [K, dim],
            "count" [K], "sum" [K, dim]}; None: the codes are params["embedding"] instead.
        revive: a code is dead, and moved, when fewer vectors than this fall to it in a step, by
            the moving average; 0 for never. Counts start at this value, so that every code that
            nothing falls to at the first step moves then.
        prior: a prior to be fitted to the codes, in use if and only if ``variables`` have its
            parameters, as the collection "prior" (without gradient). None: uniform.

    Returns:
        Latents with the head "z" of P * dim. z is the code, with the key or without; the key
        decides where dead codes go, which is why the state is updated in training with a key only.
        ``prior_sample`` raises UsageError where the prior is not fitted; the temperature has no
        effect on a uniform one. ``prior_log_prob`` of a z that is not made of codes, to the last
        bit, is -inf: it has no probability.
    """

    def init(key):
        embedding = SPREAD * jax.random.normal(key, (codes, dim))
        if decay is None:
            return {"params": {"embedding": embedding}}
        count = jnp.full(codes, revive or 1.0)
        state = {"embedding": embedding, "count": count, "sum": count[:, None] * embedding}
        return {"params": {}, "codebook": state}

    def log_prior(variables, chosen):
        if prior is None or "prior" not in variables:
            return jnp.full(chosen.shape[0], -positions * math.log(codes))
        return prior.log_prob(jax.lax.stop_gradient(variables["prior"]), chosen)

    def draw(variables, key, heads, train):
        z_e, sg = heads["z"], jax.lax.stop_gradient
        chosen = indices(variables, z_e)
        code = embed(variables, chosen)
        penalty = commitment * jnp.square(z_e - sg(code)).sum(-1)
        if decay is None:
            penalty = penalty + jnp.square(sg(z_e) - code).sum(-1)
        updates = {}
        if decay is not None and train and key is not None:
            vectors, state = sg(z_e).reshape(-1, dim), sg(variables["codebook"])
            updates["codebook"] = _follow(state, key, vectors, chosen.ravel(), decay, revive)
        log_p = log_prior(variables, chosen)
        return Latent(
            z=sg(code) + (z_e - sg(z_e)),  # the code, without rounding
            code=sg(code),
            kl=-log_p[:, None],
            log_p=log_p,
            log_q=jnp.zeros_like(log_p),
            penalty=penalty,
            updates=updates,
        )

    def prior_sample(variables, key, n, temperature):
        if prior is None:
            return embed(variables, jax.random.randint(key, (n, positions), 0, codes))
        if "prior" not in variables:
            raise UsageError(
                'the prior over codes is not fitted: expected variables["prior"], its parameters; '
                "run `flaxvae fit-prior RUN` first"
            )
        return embed(variables, prior.sample(variables["prior"], key, n, temperature))

    def prior_log_prob(variables, z):
        # Not by distances, whose rounding may confuse two codes that are close to each other.
        vectors = z.reshape(-1, positions, 1, dim)
        equal = (vectors == _embedding(variables)[None, None]).all(-1)  # [B, P, K]
        log_p = log_prior(variables, jnp.argmax(equal, -1).astype(jnp.int32))
        return jnp.where(equal.any(-1).all(-1), log_p, -jnp.inf)

    return Latents({"z": positions * dim}, init, draw, prior_sample, prior_log_prob)
