"""Objectives: what training minimises, a scalar in nats an image.

A loss takes ``(variables, key, batch, step)`` and returns ``(scalar, (metrics, updates))``.
Metrics are averages over the batch's real rows; ``updates`` are the collections that have no
gradient. beta = 1 makes the loss the negative ELBO, exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from flaxvae.core import Batch, Model, Terms, Variables, elbo_samples

Array = jax.Array
Metrics = dict[str, Array]


class Loss(Protocol):
    def __call__(
        self, variables: Variables, key: Array, batch: Batch, step: Array
    ) -> tuple[Array, tuple[Metrics, Any]]: ...


def average(values: Array, mask: Array | None) -> Array:
    """Mean of [B] over the rows whose mask is 1."""
    if mask is None:
        return values.mean()
    return (values * mask).sum() / jnp.maximum(mask.sum(), 1)


def _draw(model: Model, variables: Variables, key: Array, batch: Batch, samples: int):
    """Terms averaged over L draws, and the updates of the first draw."""
    terms = elbo_samples(model, variables, key, batch, samples, train=True)
    updates = jax.tree.map(lambda leaf: leaf[0], terms.latent.updates)
    log_px, kl, log_w, penalty = (leaf.mean(0) for leaf in terms[:4])
    return Terms(log_px, kl, log_w, penalty, terms.latent), updates


def negative_elbo(
    model: Model,
    *,
    beta: float | Callable[[Array], Array] = 1.0,
    closed_form: bool = True,
    samples: int = 1,
) -> Loss:
    """-E[log p(x|z)] + beta KL (+ penalty): a VAE (beta = 1) or a beta-VAE (Higgins et al. 2017).

    Args:
        model: whose bound.
        beta: weight of the KL, a number or a function of the step.
        closed_form: the KL in closed form (usually the lower variance), or by Monte Carlo as
            log q(z|x) - log p(z) of the draws (Kingma & Welling 2013, estimators B and A).
        samples: L, draws of z for each image.
    """

    def loss(variables, key, batch, step):
        terms, updates = _draw(model, variables, key, batch, samples)
        kl = terms.kl.sum(-1) if closed_form else terms.log_px - terms.log_w
        weight = beta(step) if callable(beta) else beta
        objective = average(weight * kl - terms.log_px + terms.penalty, batch.mask)
        metrics = {
            "loss": objective,
            "elbo": average(terms.log_px - kl, batch.mask),
            "reconstruction": average(-terms.log_px, batch.mask),
            "kl": average(kl, batch.mask),
        }
        return objective, (metrics, updates)

    return loss


def reconstruction(model: Model) -> Loss:
    """-log p(x|z) at z = f(x) (+ penalty): a plain autoencoder."""

    def loss(variables, key, batch, step):
        terms, updates = _draw(model, variables, key, batch, samples=1)
        objective = average(terms.penalty - terms.log_px, batch.mask)
        metrics = {"loss": objective, "reconstruction": average(-terms.log_px, batch.mask)}
        return objective, (metrics, updates)

    return loss
