"""What each pixel of an image costs: the terms of -log p(x|z), which is a sum over pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from flaxvae.core import Batch, Model, Variables
from flaxvae.distributions import Distribution

Array = jax.Array


def costs(p: Distribution, x: Array) -> Array:
    """-log p(x_ij|z) in nats of each pixel, all its channels together: [B, H, W, C] -> [B, H, W].

    Pixels are independent given z, so that these add up to -log p(x|z). An array of ``p`` with
    fewer axes than its mean is shared between images.
    """
    shape, axes = x.shape[:3], p.mean.ndim

    def alone(leaf: Array) -> Array:
        if 0 < leaf.ndim < axes:
            leaf = jnp.broadcast_to(leaf, p.mean.shape)
        return leaf.reshape(-1, 1, 1, *leaf.shape[3:]) if leaf.ndim else leaf

    each: Any = jax.tree.map(alone, p)
    return -each.log_prob(alone(x)).reshape(shape)


def heat(model: Model) -> Callable[[Variables, Any, Batch], dict[str, Array]]:
    """The reconstruction at the code, and what its pixels cost, as a function of a batch.

    Returns:
        ``function(variables, key, batch)`` -> {"mean" [B, H, W, C], "costs" [B, H, W]}.
    """

    def function(variables: Variables, key: Any, batch: Batch) -> dict[str, Array]:
        features = model.encode(variables, batch.x, batch.y)
        latent = model.reparameterize(variables, None, features, False)
        px = latent.px or model.decode(variables, latent.z, batch.y)
        return {"mean": px.mean, "costs": costs(px, batch.x)}

    return function
