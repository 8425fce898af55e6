"""log p(x) exactly, where latents are so few codes that all can be decoded.

    log p(x) = log sum_z p(z) p(x|z)

Against it every bound can be checked.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from flaxvae.core import Batch, Variables
from flaxvae.recipe import Recipe

Array = jax.Array

MOST = 2**16  # codes in all that are decoded for each batch


def codes(recipe: Recipe) -> int | None:
    """How many different z there are, if they are at most MOST and can be listed, else None."""
    if recipe.codes is None or recipe.codes.latents is None or recipe.classes is not None:
        return None
    count = recipe.codes.size ** math.prod(recipe.codes.grid)
    return count if count <= MOST else None


def log_likelihood(recipe: Recipe, chunk: int) -> Callable[[Variables, Array, Batch], Array]:
    """log p(x) [B] in nats, as a function of (variables, key, batch); the key has no effect.

    Args:
        recipe: one with ``codes(recipe)`` not None.
        chunk: codes that are decoded at once.
    """
    total, model, known = codes(recipe), recipe.model, recipe.codes
    assert total is not None and known is not None and known.latents is not None
    assert model.prior_log_prob is not None
    log_prior, latents, chunk = model.prior_log_prob, known.latents, min(chunk, total)
    # The digits of a number to base K are the codes of its z.
    places = known.size ** np.arange(math.prod(known.grid))[None]

    def function(variables: Variables, key: Array, batch: Batch) -> Array:
        def add(sofar, start):
            number = start + jnp.arange(chunk)
            z = latents(number[:, None] // places % known.size)
            log_p, px = log_prior(variables, z), model.decode(variables, z)

            def joint(x):
                return log_p + px.log_prob(jnp.broadcast_to(x[None], (chunk, *x.shape)))

            found = jax.lax.map(joint, batch.x)
            found = jnp.where((number < total)[None], found, -jnp.inf)
            return jnp.logaddexp(sofar, jax.nn.logsumexp(found, axis=1)), None

        nothing = jnp.full(len(batch.x), -jnp.inf)
        return jax.lax.scan(add, nothing, jnp.arange(0, total, chunk))[0]

    return function
