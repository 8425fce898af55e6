"""How good a model is: ELBO and its terms, tighter bounds, bits a dimension, squared error."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxvae.core import Batch, Model, Variables, log_weights
from flaxvae.data.pipeline import Split
from flaxvae.devices import batches
from flaxvae.errors import UsageError
from flaxvae.recipe import Recipe
from flaxvae.runs.run import Run

Array = jax.Array

ACTIVE = 0.01  # variance over images of a unit's code, above which it counts as used
CHUNK = 1000  # images decoded at once at most, over draws and examples: any k in bounded memory


def importance_weighted_elbo(model: Model, k: int, chunk: int):
    """log 1/k sum_i p(x, z_i) / q(z_i|x), z_i ~ q(z|x), as a function of a batch.

    A lower bound on log p(x) in expectation, tight as k grows (Burda et al. 2015), where p(x|z) is
    a probability or a density of x (``Recipe.log_px``). The sum runs over chunks of ``chunk`` draws
    with a streaming logsumexp, so memory does not grow with k.

    Returns:
        ``function(variables, key, batch) -> [B]`` nats.
    """
    chunk = min(chunk, k)

    def function(variables: Variables, key: Array, batch: Batch) -> Array:
        def add(total, i):
            log_w = log_weights(model, variables, jax.random.fold_in(key, i), batch, chunk)
            counts = (i * chunk + jnp.arange(chunk) < k)[:, None]
            log_w = jnp.where(counts, log_w, -jnp.inf)
            return jnp.logaddexp(total, jax.nn.logsumexp(log_w, axis=0)), None

        start = jnp.full(batch.x.shape[0], -jnp.inf)
        total, _ = jax.lax.scan(add, start, jnp.arange(-(-k // chunk)))
        return total - math.log(k)

    return function


def _mean(values: np.ndarray) -> float:
    return float(values.mean(dtype=np.float64))


def measurement(
    recipe: Recipe, samples: int = 1
) -> Callable[[Variables, Array, Batch], dict[str, Array]]:
    """What ``numbers`` needs of every image, as a function of (variables, key, batch): arrays [B].

    elbo, reconstruction and kl [B, L], averaged over ``samples`` draws of z; mse; and code [B, D],
    or of discrete codes their indices.
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
    """The keys of an evaluation: of the bound, and of the importance weights."""
    return jax.random.split(jax.random.key(seed))


def evaluate(
    run: Run,
    split: Split,
    *,
    k: int = 0,
    samples: int = 1,
    seed: int = 0,
    watch: batches.Watch | None = None,
) -> dict[str, Any]:
    """The numbers of a model on a split: nats summed over dimensions, averaged over images.

    Draws belong to places in the split: the same images in another order, or on a number of devices
    that cuts them into other batches, get other draws. ``Run.score`` gives an image its own.

    Args:
        run: the model.
        split: the images.
        k: draws of the importance-weighted ELBO, a tighter bound; 0 leaves it out.
        samples: draws of z for the ELBO.
        seed: decides the draws.
        watch: hears how far it is, or with k how far the importance-weighted ELBO is.

    Returns:
        images; log_px, of what log p(x|z) is the logarithm: probability or density, of which elbo
        bounds log p(x), or cross_entropy of grey pixels under a Bernoulli, which is neither;
        reconstruction = -log p(x|z); mse, squared error of the reconstruction from the code
        (``Recipe.code``), averaged over pixels too; code_variance over images (a list), or, of
        discrete codes, codes_used and perplexity = exp(entropy of their frequencies). With a bound
        also: elbo, elbo_standard_error (over images), kl, kl_per_unit (a list), active_units
        (code_variance above 0.01, Burda et al. 2015); with probabilities, bits_per_dim = -elbo /
        (D log 2); with k, importance_weighted_elbo = {k, nats, standard_error}.

    Raises:
        UsageError: k or samples out of range, or a bound asked of a plain autoencoder.
    """
    if k < 0 or samples < 1:
        raise UsageError(f"k = {k}, samples = {samples}: expected k >= 0 and samples >= 1")
    if k and not run.recipe.has_bound:
        raise UsageError(
            f"model {run.plan.model} has no bound: expected --k 0, or a model with a prior"
        )
    bound_key, weight_key = evaluation_keys(seed)
    measure = batches.over_split(measurement(run.recipe, samples), run.mesh)
    found = measure(split, run.variables, bound_key, None if k else watch)
    result = numbers(run.recipe, split, found)
    if k:
        images = max(run.mesh.size, 10)
        chunk = min(CHUNK, batches.at_once(split.x.shape[1:])) // images
        function = importance_weighted_elbo(run.recipe.model, k, max(chunk, 1))
        estimate = batches.over_split(function, run.mesh, images)
        nats = estimate(split, run.variables, weight_key, watch)
        error = float(nats.std() / math.sqrt(len(split.x)))
        found = {"k": k, "nats": _mean(nats), "standard_error": error}
        result["importance_weighted_elbo"] = found
    return result


@np.errstate(invalid="ignore", over="ignore")  # what has diverged shows as inf or nan
def numbers(recipe: Recipe, split: Split, found: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The numbers of ``evaluate`` from what ``measurement`` gave of all images of a split."""
    count, size, codes = len(split.x), math.prod(split.x.shape[1:]), recipe.codes
    result: dict[str, Any] = {
        "images": count,
        "log_px": recipe.log_px,
        "mse": _mean(found["mse"]),
        "reconstruction": _mean(found["reconstruction"]),
    }
    if codes is None:
        result["code_variance"] = found["code"].var(0, dtype=np.float64).tolist()
    else:
        counts = np.unique(found["indices"], return_counts=True)[1]
        used = counts / counts.sum()
        result["codes_used"] = len(used)
        result["perplexity"] = float(np.exp(-(used * np.log(used)).sum()))
    if not recipe.has_bound:
        return result
    if codes is None:
        result["active_units"] = int((np.array(result["code_variance"]) > ACTIVE).sum())
    result |= {
        "elbo": _mean(found["elbo"]),
        "elbo_standard_error": float(found["elbo"].std() / math.sqrt(count)),
        "kl": _mean(found["kl"].sum(-1)),
        "kl_per_unit": found["kl"].mean(0, dtype=np.float64).tolist(),
    }
    if recipe.log_px == "probability":
        result["bits_per_dim"] = -result["elbo"] / (size * math.log(2))
    return result
