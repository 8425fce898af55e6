"""How good a model is: ELBO and its terms, tighter bounds, bits per dimension, squared error."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from flaxvae.analysis import importance
from flaxvae.core import Batch, Model, Variables
from flaxvae.data.pipeline import Split
from flaxvae.declared import Count, Positive, Seed, typed
from flaxvae.devices import batches
from flaxvae.devices import mesh as meshes
from flaxvae.errors import UsageError
from flaxvae.recipe import Recipe

Array = jax.Array

UNITS = "nats, summed over pixels and latent dimensions, averaged over images"
ACTIVE = 0.01  # a unit counts as used if its code's variance over images is above this
USED = 0.1  # nats: a level or block of a hierarchy with less of a KL says next to nothing
CHUNK = 1000  # most images decoded at once, draws times examples: bounds memory for any k


@dataclasses.dataclass(frozen=True)
class Estimate:
    """The importance-weighted ELBO of ``k`` draws, and its standard error over images, in nats."""

    k: int
    nats: float
    standard_error: float


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A model's numbers on images: nats summed over dimensions, averaged over images.

    Numbers that a model does not have are None.
    """

    images: int  # how many
    # What log p(x|z) is the logarithm of: elbo bounds the log of a probability or a density of x;
    # the cross-entropy of grey pixels under a Bernoulli is neither
    log_px: Literal["probability", "density", "cross_entropy"]
    mse: float  # squared error of the reconstruction from the code, averaged over pixels too
    reconstruction: float  # -log p(x|z)
    code_variance: tuple[float, ...] | None = None  # [D] over images, for continuous codes
    codes_used: int | None = None  # for discrete codes
    perplexity: float | None = None  # exp(entropy of their frequencies)
    # Of code_variance above 0.01 (Burda et al. 2015). None of a hierarchy: the mean of a lower z
    # follows the z above it, and so varies even where it adds nothing
    active_units: int | None = None
    elbo: float | None = None
    elbo_standard_error: float | None = None  # over images
    kl: float | None = None
    kl_per_unit: tuple[float, ...] | None = None  # by dimension, block of a hierarchy, or variable
    kl_units: tuple[str, ...] | None = None  # of a hierarchy: what these blocks are called
    active_blocks: int | None = None  # of them, with a KL of 0.1 nats or more
    bits_per_dim: float | None = None  # -elbo / (D log 2), if log_px is "probability"
    importance_weighted_elbo: Estimate | None = None

    def as_json(self) -> dict[str, Any]:
        """Its fields that are not None, for JSON."""
        return {k: v for k, v in dataclasses.asdict(self).items() if v is not None}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Evaluation:
        """The inverse of ``as_json``; unknown fields are ignored."""
        known = {f.name: stored[f.name] for f in dataclasses.fields(cls) if f.name in stored}
        for name in ("code_variance", "kl_per_unit", "kl_units"):
            if name in known:
                known[name] = tuple(known[name])
        if estimate := known.pop("importance_weighted_elbo", None):
            known["importance_weighted_elbo"] = Estimate(**estimate)
        return cls(**known)


def importance_weighted_elbo(model: Model, k: int, chunk: int):
    """log 1/k sum_i p(x, z_i) / q(z_i|x), z_i ~ q(z|x), as a function of a batch.

    In expectation a lower bound on log p(x), tight as k grows (Burda et al. 2015), if p(x|z) is a
    probability or a density of x (``Recipe.log_px``). Draws come in chunks of ``chunk``, so memory
    does not grow with k.

    Returns:
        ``function(variables, key, batch) -> [B]`` nats.
    """
    bounds = importance.bounds(model, (k,), chunk)
    return lambda variables, key, batch: bounds(variables, key, batch).nats[:, 0]


def _mean(values: np.ndarray) -> float:
    return float(values.mean(dtype=np.float64))


def measurement(
    recipe: Recipe, samples: int = 1
) -> Callable[[Variables, Array, Batch], dict[str, Array]]:
    """What ``numbers`` needs for every image, as a function of (variables, key, batch): arrays [B].

    elbo, reconstruction and kl [B, L], averaged over ``samples`` draws of z; mse; and code [B, D],
    or the indices of discrete codes.
    """
    model, codes = recipe.model, recipe.codes
    terms = batches.bound_terms(model)

    def measure(variables, key, batch):
        draws = jax.vmap(lambda key: terms(variables, key, batch))
        found = jax.tree.map(lambda x: x.mean(0), draws(jax.random.split(key, samples)))
        features = model.encode(variables, batch.x, batch.y)
        latent = model.reparameterize(variables, None, features, False)
        error = jnp.square(model.decode(variables, latent.z, batch.y).mean - batch.x)
        found |= {"mse": error.reshape(len(error), -1).mean(-1)}
        if codes is not None:
            return found | {"indices": codes.indices(variables, batch.x, batch.y)}
        return found | {"code": latent.code}

    return measure


def evaluation_keys(seed: int) -> Array:
    """The keys of an evaluation: for the bound, and for the importance weights."""
    return jax.random.split(jax.random.key(seed))


@typed
def evaluate(
    recipe: Recipe,
    variables: Variables,
    split: Split,
    *,
    k: Count = 0,
    samples: Positive = 1,
    seed: Seed = 0,
    mesh: Mesh | None = None,
    watch: batches.Watch | None = None,
) -> Evaluation:
    """Measure a model on a split.

    Draws depend on positions in the split: the same images in another order, or in other batches
    on another number of devices, get other draws. ``Trained.score`` does not depend on these.

    Args:
        recipe, variables: the model.
        split: the images.
        k: draws for the importance-weighted ELBO, a tighter bound; 0 leaves it out.
        samples: draws of z for the ELBO.
        seed: decides the draws.
        mesh: devices among which a batch is split; by default all of this process.
        watch: is told of progress; with k, that of the importance-weighted ELBO.

    Raises:
        UsageError: k or samples out of range, or a bound for a plain autoencoder.
    """
    if k and not recipe.has_bound:
        raise UsageError(f"--k {k}: expected 0; a plain autoencoder has no bound")
    mesh = mesh or meshes.local()
    bound_key, weight_key = evaluation_keys(seed)
    measure = batches.over_split(measurement(recipe, samples), mesh)
    result = numbers(recipe, split, measure(split, variables, bound_key, None if k else watch))
    if not k:
        return result
    images = max(mesh.size, 10)
    chunk = min(CHUNK, batches.at_once(split.shape)) // images
    function = importance_weighted_elbo(recipe.model, k, max(chunk, 1))
    nats = batches.over_split(function, mesh, images)(split, variables, weight_key, watch)
    error = float(nats.std() / math.sqrt(len(split.x)))
    estimate = Estimate(k, _mean(nats), error)
    return dataclasses.replace(result, importance_weighted_elbo=estimate)


@np.errstate(invalid="ignore", over="ignore")  # a model that diverged gives inf or nan
def numbers(recipe: Recipe, split: Split, found: Mapping[str, np.ndarray]) -> Evaluation:
    """The numbers of ``evaluate``, from what ``measurement`` found for all images of a split."""
    count, size = len(split.x), math.prod(split.shape)
    result: dict[str, Any] = {}
    if recipe.codes is None:
        variance = found["code"].var(0, dtype=np.float64)
        result["code_variance"] = tuple(variance.tolist())
        if recipe.has_bound and recipe.hierarchy is None:
            result["active_units"] = int((variance > ACTIVE).sum())
    else:
        counts = np.unique(found["indices"], return_counts=True)[1]
        used = counts / counts.sum()
        result["codes_used"] = len(used)
        result["perplexity"] = float(np.exp(-(used * np.log(used)).sum()))
    if recipe.has_bound:
        elbo = _mean(found["elbo"])
        result |= {
            "elbo": elbo,
            "elbo_standard_error": float(found["elbo"].std() / math.sqrt(count)),
            "kl": _mean(found["kl"].sum(-1)),
            "kl_per_unit": tuple(found["kl"].mean(0, dtype=np.float64).tolist()),
        }
        if recipe.hierarchy is not None:
            result["kl_units"] = recipe.hierarchy.columns
            result["active_blocks"] = sum(nats >= USED for nats in result["kl_per_unit"])
        if recipe.log_px == "probability":
            result["bits_per_dim"] = -elbo / (size * math.log(2))
    mse, reconstruction = _mean(found["mse"]), _mean(found["reconstruction"])
    return Evaluation(count, recipe.log_px, mse, reconstruction, **result)
