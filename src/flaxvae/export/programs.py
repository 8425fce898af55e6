"""A model as a few functions of arrays alone, with its weights inside: what leaves as a program.

    encode(x[, y]) -> code [B, D]              decode(z[, y]) -> mean of p(x|z) [B, *shape]
    sample(seeds[, y]) -> [B, *shape]          score(x, seeds[, y]) -> [B]

``seeds`` [B] uint32 decide the draws, each those of its own row. ``y`` [B] int32 are class
numbers, where the model is conditional. ``sample`` decodes draws from the fitted prior, if there
is one, else from the model's own. ``score`` is -ELBO in nats, averaged over ``SAMPLES`` draws of z;
of a plain autoencoder -log p(x|z). With ``data.pipeline.fingerprints`` of the images as seeds, it
is the score of ``Trained.score``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from flaxvae import lookup
from flaxvae.analysis import fitted_prior
from flaxvae.analysis.anomaly import scores as scoring
from flaxvae.analysis.anomaly.scores import SAMPLES
from flaxvae.core import Batch
from flaxvae.devices import batches
from flaxvae.recipe import Recipe
from flaxvae.runs.run import Run

Array = jax.Array
Inputs = dict[str, tuple[Any, tuple[int, ...]]]  # name: dtype, and shape without the batch


class Program(NamedTuple):
    """A function of arrays, what they are, and what it gives."""

    function: Callable[..., Array]
    inputs: Inputs
    what: str


def native(run: Run, **others: Any) -> Recipe:
    """The run's recipe with XLA's own convolutions, whatever suits this machine.

    The lowering of a training is that of the machine it ran on; the variables fit both. ``others``
    are arguments to change likewise, if the recipe has them.
    """
    given, known = run.plan.arguments, lookup.arguments(run.plan.function)
    changed = {k: v for k, v in {"convolutions": "native", **others}.items() if k in known}
    if not changed:
        return run.recipe
    return lookup.build(run.plan.function, run.spec, **{**given, **changed})


def score_words(run: Run) -> str:
    """What ``score`` is."""
    draws = f", the mean of {SAMPLES} draws" if run.recipe.has_bound else ""
    return f"{scoring.words(run.recipe, 'elbo')}{draws}"


def coders(model: Any, variables: Any) -> tuple[Callable[..., Array], Callable[..., Array]]:
    """(x[, y]) -> code [B, D], without noise; and (z[, y]) -> the mean of p(x|z)."""

    def encode(x, y=None):
        features = model.encode(variables, x, y)
        return model.reparameterize(variables, None, features, False).code

    def decode(z, y=None):
        return model.decode(variables, z, y).mean

    return encode, decode


def programs(run: Run) -> dict[str, Program]:
    """The functions of a run's model, by name; without a prior there is no ``sample``."""
    # Arrays of JAX, which can be indexed by what is computed.
    recipe, variables = native(run), jax.tree.map(jnp.asarray, jax.device_get(run.variables))
    model, shape = recipe.model, run.spec.shape
    labels: Inputs = {} if recipe.classes is None else {"y": (jnp.int32, ())}
    seeds: Inputs = {"seeds": (jnp.uint32, ())}
    images: Inputs = {"x": (jnp.float32, shape)}
    codes: Inputs = {"z": (jnp.float32, (run.latent_size,))}

    encode, decode = coders(model, variables)

    def draw(seed):
        key = jax.random.key(seed)
        if run.fitted is not None:
            return fitted_prior.sample(run.fitted, key, 1)[0]
        return model.prior_sample(variables, key, 1)[0]

    def sample(seeds, y=None):
        return decode(jax.vmap(draw)(seeds), y)

    def score(x, seeds, y=None):
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), seeds)
        terms = batches.own_terms(model)((variables, SAMPLES), keys, Batch(x, y))
        return terms["reconstruction"] + terms["kl"]

    found = {
        "encode": Program(encode, images | labels, f"the {recipe.code} of each image"),
        "decode": Program(decode, codes | labels, "the mean of p(x|z)"),
        "sample": Program(sample, seeds | labels, "images from the prior, one for each seed"),
        "score": Program(score, images | seeds | labels, score_words(run)),
    }
    if not run.generates:
        del found["sample"]
    return found
