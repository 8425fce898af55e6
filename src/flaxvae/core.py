"""A VAE as pure functions, and the bound they define. Read this file first.

A variational autoencoder is a joint density p(x, z) = p(z) p(x|z), whose decoder p(x|z) is a
network, and an encoder q(z|x) that approximates its posterior. For every q

    log p(x) >= ELBO = E_q[log p(x|z)] - KL(q(z|x) || p(z))      (Kingma & Welling 2013)

and, with k samples z_1..z_k from q(z|x) and weights w_i = p(x, z_i) / q(z_i|x),

    log p(x) >= E[log 1/k sum_i w_i],   tighter as k grows.      (Burda et al. 2015)

All numbers are in nats, summed over pixels and latent dimensions, one per example. Nothing here
averages over a batch or weights a term.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from flaxvae.distributions import Distribution

Array = jax.Array
Variables = dict[str, Any]  # {"params": ...} get gradients; other collections do not


class Batch(NamedTuple):
    """Examples, as a model takes them."""

    x: Array  # [B, *data] float32, in [0, 1] for images
    y: Array | None = None  # [B] integer labels
    mask: Array | None = None  # [B] 0 for rows that only pad the batch
    factors: Array | None = None  # [B, F] what x was rendered from, if it was


class Latent(NamedTuple):
    """One draw z ~ q(z|x). L counts dimensions, levels, or discrete variables."""

    z: Array  # [B, D], what decode takes; flat: a hierarchy's levels, or a code grid, in a row
    code: Array  # [B, D] the z that represents x, without noise: a posterior mean, a mode, or
    # the image of the base's mean under a flow
    kl: Array  # [B, L] nats, in closed form; else [B, 1], log q(z|x) - log p(z) of this draw
    log_p: Array  # [B] log p(z) at this z; 0 if there is no prior
    log_q: Array  # [B] log q(z|x) at this z; 0 if q is a point; no gradient if z is discrete
    penalty: Array  # [B] added to the loss beside the bound, else zeros
    updates: Variables  # new values of collections without gradient, else {}
    px: Any = (
        None  # p(x|z) at this z, as of decode, where drawing z has computed it; no updates then
    )

    @property
    def log_ratio(self) -> Array:
        """log p(z) - log q(z|x), shape [B]."""
        return self.log_p - self.log_q


class Init(Protocol):
    def __call__(self, key: Array, x: Array, y: Array | None = None) -> Variables: ...


class Encode(Protocol):
    def __call__(self, variables: Variables, x: Array, y: Array | None = None) -> Any: ...


class Reparameterize(Protocol):
    def __call__(
        self, variables: Variables, key: Array | None, features: Any, train: bool
    ) -> Latent: ...


class Decode(Protocol):
    def __call__(self, variables: Variables, z: Array, y: Array | None = None) -> Distribution: ...


class PriorSample(Protocol):
    def __call__(
        self,
        variables: Variables,
        key: Array,
        n: int,
        y: Array | None = None,
        temperature: Array | float = 1.0,
    ) -> Array: ...


class PriorLogProb(Protocol):
    def __call__(self, variables: Variables, z: Array, y: Array | None = None) -> Array: ...


class Redraw(Protocol):
    def __call__(
        self,
        variables: Variables,
        key: Array,
        z: Array,
        below: Array | int,
        temperature: Array | float = 1.0,
    ) -> Array: ...


class Model(NamedTuple):
    """A VAE. Each field is a pure function; ``variables`` comes first, then the key."""

    init: Init  # (key, x, y) -> variables
    encode: Encode  # (variables, x, y) -> features of q(z|x), any pytree
    reparameterize: (
        Reparameterize  # (variables, key, features, train) -> Latent; key None: z = code
    )
    decode: Decode  # (variables, z, y) -> distribution over x
    prior_sample: PriorSample  # (variables, key, n, y, temperature) -> z
    prior_log_prob: PriorLogProb | None = None  # (variables, z, y) -> log p(z) [B], a density, or a
    # probability if z is discrete; None if there is no prior, as in a plain autoencoder
    # Of a hierarchy, (variables, key, z, below, temperature) -> z: the latents of the first
    # ``below`` columns of the KL are drawn anew from the prior, given the others.
    redraw: Redraw | None = None


class Terms(NamedTuple):
    """The terms of the bound for one draw of z, per example, in nats."""

    log_px: Array  # [B] log p(x|z)
    kl: Array  # [B, L]
    log_w: Array  # [B] log p(x, z) - log q(z|x)
    penalty: Array  # [B]
    latent: Latent

    @property
    def elbo(self) -> Array:
        """log p(x|z) - KL, with the KL in closed form where there is one, shape [B]."""
        return self.log_px - self.kl.sum(-1)


def elbo(
    model: Model,
    variables: Variables,
    key: Array,
    batch: Batch,
    *,
    inputs: Array | None = None,
    train: bool = False,
) -> Terms:
    """The evidence lower bound of each example, from one draw of z (Kingma & Welling 2013).

    Args:
        model: its functions.
        variables: what ``model.init`` returned, or its trained successor.
        key: a typed key, used only for the noise of z.
        batch: examples [B, *data], whose likelihood is computed.
        inputs: encoded instead of ``batch.x`` (a corrupted copy, for denoising).
        train: use relaxations made for training, such as a soft categorical.

    Returns:
        Terms. ``elbo`` and ``log_w`` [B] are two estimators of the bound, with the KL in closed
        form and entirely by Monte Carlo; they are equal in expectation.
    """
    features = model.encode(variables, batch.x if inputs is None else inputs, batch.y)
    latent = model.reparameterize(variables, key, features, train)
    px = model.decode(variables, latent.z, batch.y) if latent.px is None else latent.px
    log_px = px.log_prob(batch.x)
    return Terms(log_px, latent.kl, log_px + latent.log_ratio, latent.penalty, latent)


def elbo_samples(
    model: Model,
    variables: Variables,
    key: Array,
    batch: Batch,
    samples: int,
    *,
    inputs: Array | None = None,
    train: bool = False,
) -> Terms:
    """``elbo`` for L = ``samples`` independent draws of z; x is encoded once.

    Returns:
        Terms in which every array has a leading axis L: log_px [L, B], kl [L, B, D], log_w [L, B].
    """
    features = model.encode(variables, batch.x if inputs is None else inputs, batch.y)

    # All draws as one batch, those of an example next to each other: every layer is one product,
    # and a batch that is split over devices stays where it is.
    def each(leaf: Array) -> Array:
        return jnp.repeat(leaf, samples, 0)

    def draw(key: Array, features: Any = features) -> Latent:
        return model.reparameterize(variables, key, features, train)

    x, y = jax.tree.map(each, (batch.x, batch.y))
    if jax.eval_shape(draw, key).px is not None:  # to draw is to decode
        latent = draw(key, jax.tree.map(each, features))
        log_px = latent.px.log_prob(x)
        terms = Terms(log_px, latent.kl, log_px + latent.log_ratio, latent.penalty, latent)
        terms = terms._replace(latent=latent._replace(px=None))
        return jax.tree.map(
            lambda leaf: leaf.reshape(-1, samples, *leaf.shape[1:]).swapaxes(0, 1), terms
        )

    latent = jax.vmap(draw)(jax.random.split(key, samples))
    z = latent.z.swapaxes(0, 1).reshape(len(x), -1)
    log_px = model.decode(variables, z, y).log_prob(x).reshape(-1, samples).T
    return Terms(log_px, latent.kl, log_px + latent.log_ratio, latent.penalty, latent)


def log_weights(model: Model, variables: Variables, key: Array, batch: Batch, k: int) -> Array:
    """Importance weights log w_i = log p(x, z_i) - log q(z_i|x), z_i ~ q(z|x), i = 1..k.

    logsumexp over axis 0 minus log k is the importance-weighted bound (Burda et al. 2015) and,
    for large k, the usual estimate of log p(x); its mean over axis 0 estimates the ELBO.

    Returns:
        [k, B] nats. Relaxations are not used.
    """
    return elbo_samples(model, variables, key, batch, k).log_w
