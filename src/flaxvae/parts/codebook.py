"""Vector quantization: latents that are entries of a learned codebook.

The encoder returns P vectors z_e. Each is replaced by the nearest of K codes,

    z = e_c,   c = arg min_k |z_e - e_k|^2,   dz/dz_e taken to be the identity,

and a penalty, a weight times sum |z_e - sg(e_c)|^2, keeps the encoder close to its codes; sg stops
the gradient (van den Oord et al. 2017). The codes follow the encoder in one of two ways: by the
gradient of sum |sg(z_e) - e_c|^2, or, like online k-means, as moving averages of the vectors
assigned to each code (the paper's appendix). With averages, a code to which no vectors are assigned
would stay dead, so it is moved to a random encoder output (Dhariwal et al. 2020).

q(c|x) is a point mass, so log p(c) - log q(c|x) = log p(c): -P log K nats under the uniform prior
used in training, and higher under a prior fitted to the codes afterwards.
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

SPREAD = 0.1  # standard deviation of the initial codes
SMOOTHING = 1e-5  # Laplace smoothing of the counts
# With the three digits of TF32 or bfloat16, distances could not separate codes that are closer to
# each other than to the origin.
PRECISION = jax.lax.Precision.HIGHEST


class CodePrior(NamedTuple):
    """p(c) over an image's codes, as functions of its own parameters."""

    log_prob: Callable[[Any, Array], Array]  # (params, indices [B, P]) -> [B] nats
    sample: Callable[[Any, Array, int, float], Array]  # (params, key, n, temperature) -> [n, P]


def _embedding(variables: Variables) -> Array:
    """The codes [K, dim]: state if they are moving averages, else parameters."""
    return variables["codebook" if "codebook" in variables else "params"]["embedding"]


def indices(variables: Variables, z_e: Array) -> Array:
    """The nearest code to each vector, the first in a tie: [B, P * dim] -> [B, P] int32.

    Computed as arg min_k |e_k|^2 - 2 z_e . e_k: one matrix product, no array of differences.

    Args:
        variables: the latents' own, as returned by ``Latents.init``.
        z_e: the encoder's output.
    """
    codes = jax.lax.stop_gradient(_embedding(variables))
    vectors = jax.lax.stop_gradient(z_e).reshape(-1, codes.shape[1])
    # Shifting both changes no distance, and keeps precision for codes far from the origin.
    centre = codes.mean(0)
    codes, vectors = codes - centre[None], vectors - centre[None]
    products = jnp.matmul(vectors, codes.T, precision=PRECISION)
    nearest = jnp.argmin(jnp.square(codes).sum(-1)[None] - 2 * products, axis=-1)
    return nearest.reshape(z_e.shape[0], -1).astype(jnp.int32)


def embed(variables: Variables, indices: Array) -> Array:
    """The codes with these indices, concatenated: [B, P] -> [B, P * dim]."""
    return _embedding(variables)[indices].reshape(indices.shape[0], -1)


def _follow(
    state: dict[str, Array], key: Array, z_e: Array, chosen: Array, decay: float, revive: float
) -> dict[str, Array]:
    """The codebook after one batch of vectors z_e [M, dim] and their codes [M].

    count = decay count + (1 - decay) n     n_k: number of vectors assigned to code k
    sum   = decay sum   + (1 - decay) s     s_k: their sum
    embedding = sum / smoothed count, or a random z_e for each code with count < revive
    """
    codes = state["count"].shape[0]
    # A product with one-hot rows: unlike a scatter, it always adds in the same order.
    assigned = jax.nn.one_hot(chosen, codes)
    total = jnp.matmul(assigned.T, z_e, precision=PRECISION)
    count = decay * state["count"] + (1 - decay) * assigned.sum(0)
    sums = decay * state["sum"] + (1 - decay) * total
    dead = count < revive
    # Without replacement if there are enough vectors: of two equal codes, one would die again.
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

    penalty = commitment sum |z_e - sg(e)|^2, plus sum |sg(z_e) - e|^2 if codes learn by gradient.
    Like the terms of the bound, these are sums over positions and dimensions. log q(c|x) is 0, and
    kl [B, 1] is -log p(c), which is P log K under the uniform prior.

    Args:
        positions: P.
        codes: K.
        dim: numbers in a code.
        commitment: weight of the penalty on the encoder.
        decay: of the moving averages, in the state variables["codebook"] = {"embedding" [K, dim],
            "count" [K], "sum" [K, dim]}; None: the codes are params["embedding"] instead.
        revive: a code is dead, and moved, if the moving average of the vectors assigned to it in a
            step is below this; 0: never. Counts start at this value, so a code to which no vectors
            are assigned in the first step moves at once.
        prior: a prior fitted to the codes afterwards. It is used if ``variables`` has its
            parameters, as the collection "prior" (without gradient); until then, and if None, the
            prior is uniform.

    Returns:
        Latents with the head "z" of size P * dim. z is the code, with or without a key. The key
        decides where dead codes move, so the state is updated only in training with a key.
        ``prior_sample`` raises UsageError if the prior is not fitted; temperature has no effect on
        a uniform prior. ``prior_log_prob`` is -inf for a z that does not consist of codes, exactly.
    """

    def init(key):
        embedding = SPREAD * jax.random.normal(key, (codes, dim))
        if decay is None:
            return {"params": {"embedding": embedding}}
        count = jnp.full(codes, revive or 1.0, jnp.float32)
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
        # Not by distances, whose rounding errors could confuse two codes that are close.
        vectors = z.reshape(-1, positions, 1, dim)
        equal = (vectors == _embedding(variables)[None, None]).all(-1)  # [B, P, K]
        log_p = log_prior(variables, jnp.argmax(equal, -1).astype(jnp.int32))
        return jnp.where(equal.any(-1).all(-1), log_p, -jnp.inf)

    return Latents({"z": positions * dim}, init, draw, prior_sample, prior_log_prob)
