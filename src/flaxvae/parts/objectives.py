"""Objectives: what training minimizes, a scalar in nats per image.

An objective turns a model into a loss, using only the model's functions. The loss takes
``(variables, key, batch, step)`` and returns ``(scalar, (metrics, updates))``. Metrics are averages
over the batch's rows, without padding; ``updates`` are new values of the collections that have no
gradient. A negative ELBO is -E[log p(x|z)] + price(KL), where a *price* says what the KL costs:

    weighted    beta KL                           VAE (beta = 1), beta-VAE, KL annealing
    free_bits   beta sum_d max(KL_d, lambda)      Kingma et al. 2016
    balanced    beta(step) sum_d gamma_d KL_d     Vahdat & Kautz 2020, while beta rises
    capacity    gamma |KL - C(step)|              Burgess et al. 2018

With beta = 1 the loss is exactly the negative ELBO.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import jax
import jax.numpy as jnp

from flaxvae.core import Batch, Model, Terms, Variables, elbo, elbo_samples

if TYPE_CHECKING:
    from flaxvae.parts.corruption import Corruption
    from flaxvae.parts.levels import Levels

Array = jax.Array
Metrics = dict[str, Array]
Schedule = Callable[[Array | int], Array | float]  # of the step
Price = Callable[[Array, Array], Array]  # (KL averaged over the batch [L], step) -> scalar


class Loss(Protocol):
    def __call__(
        self, variables: Variables, key: Array, batch: Batch, step: Array
    ) -> tuple[Array, tuple[Metrics, Any]]: ...


Objective = Callable[[Model], Loss]  # of a model, so that training can transform it first


def average(values: Array, mask: Array | None) -> Array:
    """Mean over axis 0 of the rows whose mask is 1: [B, ...] -> [...]."""
    if mask is None:
        return values.mean(0)
    return jnp.tensordot(mask, values, 1) / jnp.maximum(mask.sum(), 1)


# --- schedules and prices -----------------------------------------------------------------------


def constant(value: float) -> Schedule:
    """The same value at every step."""
    return lambda step: value


def linear(value: float, steps: int) -> Schedule:
    """value min(1, step / steps): KL annealing, also called warm-up (Bowman et al. 2016)."""
    return lambda step: value * jnp.minimum(1.0, step / steps)


def cyclical(value: float, steps: int, cycles: int) -> Schedule:
    """``cycles`` of ``steps``: a linear rise, then a constant second half (Fu et al. 2019)."""

    def schedule(step):
        rise = jnp.minimum(1.0, 2 * (step % steps) / steps)
        return value * jnp.where(step < steps * cycles, rise, 1.0)

    return schedule


def weighted(beta: Schedule) -> Price:
    """beta(step) sum_d KL_d."""
    return lambda kl, step: beta(step) * kl.sum()


def free_bits(
    beta: Schedule, nats: float, per: str = "dimension", levels: Levels | None = None
) -> Price:
    """beta(step) sum_d max(KL_d, nats), or beta(step) max(sum_d KL_d, nats) with per "total".

    The maximum is taken of the batch's mean (Kingma et al. 2016, equation 15), so single images may
    leave units unused. Below ``nats`` nothing makes a unit collapse. Units are the columns of
    ``Latent.kl``: dimensions, blocks of a hierarchy, or discrete variables; with per "level" they
    are the sums over the blocks of each of the ``levels``. A KL without closed form is one column,
    for which there is only the total.
    """

    def price(kl, step):
        units = kl
        if per == "total":
            units = kl.sum()[None]
        elif per == "level":
            assert levels is not None
            units = levels.sums(kl)
        return beta(step) * jnp.maximum(units, nats).sum()

    return price


def balanced(beta: Schedule, top: float, levels: Levels) -> Price:
    """beta(step) sum_l gamma_l KL_l while beta(step) < ``top``, then top sum_l KL_l.

    Of N blocks with s_l numbers each, with r_l = (KL_l + 0.01) / s_l, gamma_l = N r_l / sum_j r_j,
    of which no gradient is taken (after Vahdat & Kautz 2020, appendix A; Vahdat et al. 2018,
    appendix H). Their mean is 1. A block that says little for its size pays little, and comes into
    use. The 0.01 nats let blocks that are all unused pay alike. KL_l must be in closed form.
    """
    sizes = jnp.asarray(levels.each(levels.sizes), jnp.float32)

    def price(kl, step):
        assert kl.shape == sizes.shape
        used = jax.lax.stop_gradient(kl + 0.01) / sizes
        weight = jnp.where(beta(step) < top, used / used.mean(), 1.0)
        return beta(step) * (weight * kl).sum()

    return price


def capacity(gamma: float, nats: float, steps: int) -> Price:
    """gamma |KL - C|; C rises linearly from 0 to ``nats`` over ``steps`` (Burgess et al. 2018)."""
    target = linear(nats, steps)
    return lambda kl, step: gamma * jnp.abs(kl.sum() - target(step))


# --- losses -------------------------------------------------------------------------------------


def _draw(
    model: Model, variables: Variables, key: Array, batch: Batch, samples: int, corrupt
) -> tuple[Terms, Any]:
    """Terms for each of L draws, [L, B, ...], and the updates from the first."""
    inputs = None
    if corrupt is not None:
        key, noise = jax.random.split(key)
        inputs = corrupt(noise, batch.x)
    terms = elbo_samples(model, variables, key, batch, samples, inputs=inputs, train=True)
    return terms, jax.tree.map(lambda leaf: leaf[0], terms.latent.updates)


def negative_elbo(
    model: Model,
    *,
    price: Price | None = None,
    closed_form: bool = True,
    samples: int = 1,
    corrupt: Corruption | None = None,
    columns: Sequence[str] = (),
) -> Loss:
    """-E[log p(x|z)] + price(KL) (+ penalty), by default the negative ELBO.

    Args:
        model: the model whose bound it is.
        price: what the KL costs; ``weighted(constant(1.0))`` if None.
        closed_form: use the KL in closed form where there is one, which usually has the lower
            variance; or log q(z|x) - log p(z) of the draws (estimators B and A of Kingma & Welling
            2013). The latter has the KL's gradient only if z is a differentiable function of its
            noise: for discrete z its gradient is zero on average.
        samples: L, draws of z per image.
        corrupt: encode a corrupted image; the likelihood is that of the clean one (denoising VAE,
            Im et al. 2017). None: the image itself.
        columns: names under which the columns of the KL are metrics, too.
    """
    price = price or weighted(constant(1.0))

    def loss(variables, key, batch, step):
        terms, updates = _draw(model, variables, key, batch, samples, corrupt)
        log_px, units, log_w, penalty = (leaf.mean(0) for leaf in terms[:4])
        known = average(units, batch.mask)
        if not closed_form:
            units = (log_px - log_w)[:, None]
        units = average(units, batch.mask)
        reconstruction = average(-log_px, batch.mask)
        objective = reconstruction + price(units, step) + average(penalty, batch.mask)
        metrics = {
            "loss": objective,
            "elbo": -reconstruction - units.sum(),
            "reconstruction": reconstruction,
            "kl": units.sum(),
        }
        metrics |= {name: known[i] for i, name in enumerate(columns)}
        return objective, (metrics, updates)

    return loss


def importance_weighted(
    model: Model,
    k: int,
    *,
    doubly_reparameterized: bool = False,
    temper: Schedule | None = None,
) -> Loss:
    """-E[log 1/k sum_i w_i], w_i = p(x, z_i) / q(z_i|x) (Burda et al. 2015).

    Args:
        model: the model whose bound it is; for the doubly reparameterized gradient its latents need
            ``path_gradient``.
        k: draws of z per image; 1 is the VAE with its KL by Monte Carlo.
        doubly_reparameterized: the encoder's gradient is sum_i v_i^2 d log w_i / dz_i dz_i/dphi
            with v_i = w_i / sum_j w_j, whose signal-to-noise ratio does not fall with k (Tucker
            et al. 2018); if tempered, with v_i (1 - beta + beta v_i) instead of v_i^2. The
            decoder's gradient is unchanged. k = 1 is the VAE's path gradient (Roeder et al. 2017).
        temper: beta(step) in w_i = p(x|z_i) (p(z_i) / q(z_i|x))^beta, this bound's KL annealing;
            None is 1, the bound itself.
    """

    def loss(variables, key, batch, step):
        terms, updates = _draw(model, variables, key, batch, k, None)
        beta = 1.0 if temper is None else temper(step)
        log_w = _tempered(terms, beta)
        bound = jax.nn.logsumexp(log_w, axis=0) - math.log(k)
        if doubly_reparameterized:
            weight = jax.lax.stop_gradient(jax.nn.softmax(log_w, axis=0))
            scale = 1 - beta * (1 - weight)
            surrogate = (weight * _rescaled(model, variables, key, batch, scale, beta)).sum(0)
            # The value of the bound, with the gradient of the surrogate.
            bound = surrogate + jax.lax.stop_gradient(bound - surrogate)
        penalty = average(terms.penalty.mean(0), batch.mask)
        objective = penalty - average(bound, batch.mask)
        reconstruction = average(-terms.log_px.mean(0), batch.mask)
        elbo = average(terms.log_w.mean(0), batch.mask)
        metrics = {
            "loss": objective,
            "elbo": elbo,
            "reconstruction": reconstruction,
            "kl": -elbo - reconstruction,
        }
        return objective, (metrics, updates)

    return loss


@jax.custom_vjp
def _scale_gradient(values: Array, scale: Array) -> Array:
    """Returns the values [B, ...], and multiplies their gradient by ``scale`` [B]."""
    return values


_scale_gradient.defvjp(
    lambda values, scale: (values, scale),
    lambda scale, grad: (grad * scale.reshape(-1, *[1] * (grad.ndim - 1)), jnp.zeros_like(scale)),
)


def _tempered(terms: Terms, beta) -> Array:
    return terms.log_px + beta * (terms.log_w - terms.log_px)


def _rescaled(model, variables, key, batch, scale, beta) -> Array:
    """The log-weights [k, B] again, their gradients by the features times ``scale`` [k, B].

    XLA reuses their values, so this costs only the gradient.
    """
    k = len(scale)
    features = model.encode(variables, batch.x, batch.y)
    # One copy per draw: for a shared one, vmap would sum the gradients before they are scaled.
    features = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (k, *leaf.shape)), features)

    def draw(model_key, features, scale):
        scaled = jax.tree.map(lambda leaf: _scale_gradient(leaf, scale), features)
        given = model._replace(encode=lambda *_: scaled)
        return _tempered(elbo(given, variables, model_key, batch, train=True), beta)

    return jax.vmap(draw)(jax.random.split(key, k), features, scale)


def reconstruction(model: Model, *, corrupt: Corruption | None = None) -> Loss:
    """-log p(x|z) at z = f(x) (+ penalty): a plain autoencoder.

    With ``corrupt``, z = f(corrupt(x)): a denoising autoencoder (Vincent et al. 2008).
    """

    def loss(variables, key, batch, step):
        terms, updates = _draw(model, variables, key, batch, 1, corrupt)
        error = average(-terms.log_px[0], batch.mask)
        objective = error + average(terms.penalty[0], batch.mask)
        return objective, ({"loss": objective, "reconstruction": error}, updates)

    return loss
