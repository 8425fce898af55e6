"""The ladder from the ELBO to log p(x): how good a model is, and what its encoder costs.

| rung                     | bound on log p(x), on average over images                             |
|--------------------------|-----------------------------------------------------------------------|
| elbo                     | E_q[log p(x, z) - log q(z|x)]                                         |
| refined                  | the same with q optimised for each image                              |
| full_covariance          | the same with a Gaussian q of any covariance                          |
| importance_weighted      | log 1/k sum_i p(x, z_i) / q(z_i|x), for several k                     |
| annealed                 | annealed importance sampling, with Hamiltonian Monte Carlo            |
| exact                    | log p(x), where latents are few enough codes to sum over              |

All but the last are lower bounds. On images that the model makes itself annealing gives an upper
bound as well, so that its own error is known there: bidirectional Monte Carlo.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from flaxvae.analysis import annealed, enumeration, importance, refinement
from flaxvae.analysis.annealed import Annealing, Start
from flaxvae.analysis.evaluation import CHUNK
from flaxvae.core import Batch, Model, Variables
from flaxvae.data.dataset import taken
from flaxvae.data.pipeline import Split
from flaxvae.declared import Chains, Count, Draws, Seed, Simulated, Temperatures, typed
from flaxvae.devices import batches
from flaxvae.devices import mesh as meshes
from flaxvae.errors import DataError, UsageError
from flaxvae.recipe import Recipe

Method = Literal["elbo", "refined", "full_covariance", "importance_weighted", "annealed", "exact"]
Stages = Callable[[str], batches.Watch]  # of what is going on, such as "annealing"

KS = (10, 100, 1000, 5000)
LARGEST = 256  # latent dimensions of which a full covariance is fitted
TOGETHER = 16, 64  # most images in a batch that is annealed, or refined: progress comes in batches
WORK = 2**17  # most temperatures times chains of a batch of several images, for the same reason
MEASURED = 1000  # draws to measure a bound of an optimised q with


@dataclasses.dataclass(frozen=True)
class Mean:
    """An average over images, in nats, and its standard error; that has all noise in it."""

    nats: float
    standard_error: float | None  # None of one image, which has none

    @classmethod
    def of(cls, values: np.ndarray) -> Mean:
        values, count = np.asarray(values, np.float64), len(values)
        error = float(values.std(ddof=1) / math.sqrt(count)) if count > 1 else None
        return cls(float(values.mean()), error)


@dataclasses.dataclass(frozen=True)
class Rung:
    """One bound on log p(x)."""

    method: Method
    bound: Mean
    above_elbo: Mean  # image by image, so far more exact than the bounds themselves
    draws: int | None = None  # k, or chains
    effective: float | None = None  # effective sample size of them, averaged over images
    bits_per_dim: float | None = None  # if p(x|z) is a probability


@dataclasses.dataclass(frozen=True)
class Bracketed:
    """Images that the model made: log p(x) is between the bounds."""

    images: int
    lower: Mean
    upper: Mean
    apart: Mean  # upper - lower, image by image


@dataclasses.dataclass(frozen=True)
class Ladder:
    """The bounds on log p(x) of the same images, in nats."""

    images: int
    log_px: Literal["probability", "density", "cross_entropy"]  # as of an Evaluation
    rungs: tuple[Rung, ...]
    # The best bound - ELBO, in two parts: at least what the encoder's q loses, and its family
    amortization_gap: Mean | None = None
    approximation_gap: Mean | None = None
    acceptance: float | None = None  # of Hamiltonian Monte Carlo in annealing
    model_images: Bracketed | None = None
    left_out: tuple[str, ...] = ()  # what this model has not, and why

    def as_json(self) -> dict[str, Any]:
        """Its fields that are not None, for JSON."""

        def known(value):
            if isinstance(value, dict):
                return {k: known(v) for k, v in value.items() if v is not None}
            return [known(v) for v in value] if isinstance(value, list | tuple) else value

        return known(dataclasses.asdict(self))


def check(recipe: Recipe, model: str = "this model") -> None:
    """Raises UsageError for a model without a density q(z|x) or p(z)."""
    if not recipe.has_bound:
        raise UsageError(
            f"{model} has no prior, and so no likelihood: expected a VAE; `flaxvae eval` has the "
            "reconstruction error"
        )
    if recipe.model.prior_log_prob is None:
        raise UsageError(f"{model} has no prior_log_prob, the density p(z): expected one")
    if recipe.codes is not None and recipe.codes.latents is None:
        raise UsageError(
            f"{model} gives an image one code, and no density q(z|x): expected continuous or "
            "categorical latents; `flaxvae eval` has its bound"
        )


@typed
def ladder(
    recipe: Recipe,
    variables: Variables,
    split: Split,
    *,
    k: Draws = KS,
    temperatures: Temperatures = 100,
    chains: Chains = 16,
    start: Start = "encoder",
    fit_steps: Count = 500,
    simulated: Simulated = 20,
    seed: Seed = 0,
    mesh: Mesh | None = None,
    stages: Stages | None = None,
) -> Ladder:
    """Measure bounds on log p(x) of all images of a split.

    Draws depend on positions in the split, as in ``evaluate``. Memory does not grow with k or
    chains, of which only some are computed at once; but for 4 bytes of each chain of a batch.

    Args:
        recipe, variables: the model.
        split: the images.
        k: draws of importance-weighted bounds; those of the ELBO are as many as the largest.
        temperatures: of annealing; 0 leaves it out. Discrete latents have none.
        chains: for each image.
        start: of annealing.
        fit_steps: of optimising q for each image; 0 leaves it out. Discrete latents have none.
        simulated: images that the model makes, to bracket their log p(x); 0 leaves it out.
        seed: decides the draws.
        mesh: devices among which a batch is split; by default all of this process.
        stages: are told what is going on, and give what is told of progress.

    Raises:
        UsageError: a number out of range, or a model without densities.
        DataError: an ELBO that is not finite.
    """
    check(recipe)
    mesh, model = mesh or meshes.local(), recipe.model
    keys = jax.random.split(jax.random.key(seed), 5)
    continuous, left_out = recipe.codes is None, list[str]()
    rows = min(CHUNK, batches.at_once(split.shape))
    backward = max(rows // 2, 1)  # a gradient needs what the way forward gave
    nats: list[np.ndarray] = []  # [N] of each rung
    rungs: list[Rung] = []

    def over(function, images: int, key, what: str, some: Split = split):
        watch = None if stages is None else stages(what)
        return batches.over_split(function, mesh, max(images, mesh.size))(
            some, variables, key, watch
        )

    def add(method: Method, found: np.ndarray, draws=None, effective=None):
        nats.append(np.asarray(found, np.float64))
        bits = -float(nats[-1].mean()) / (math.prod(split.shape) * math.log(2))
        rungs.append(
            Rung(
                method,
                Mean.of(nats[-1]),
                Mean.of(nats[-1] - nats[0]),
                draws,
                None if effective is None else float(np.mean(effective)),
                bits if recipe.log_px == "probability" else None,
            )
        )

    ks, images = tuple(sorted({1, *k})), max(mesh.size, 10)
    bounds = importance.bounds(model, ks, max(rows // images, 1))
    weighted = over(bounds, images, keys[0], "importance samples")
    add("elbo", weighted.nats[:, 0])
    if not np.isfinite(nats[0]).all():
        bad = int((~np.isfinite(nats[0])).sum())
        raise DataError(
            f"the ELBO of {bad} of {len(split.x)} images is not finite, and no bound is: expected "
            "a model whose training did not diverge; `flaxvae diagnose` says what it shows"
        )
    own = None
    if fit_steps and continuous:
        size = _latents(recipe, variables, split)
        full = size <= LARGEST
        if not full:
            left_out.append(f"full covariance: {size:,} latent dimensions, above {LARGEST}")
        refine = refinement.refine(model, fit_steps, MEASURED, full)
        images = min(max(backward // refinement.DRAWS, 1), TOGETHER[1])
        refined = over(refine, images, keys[1], "q of each image")
        own = np.asarray(refined.own, np.float64)
        add("refined", own)
        if full:
            add("full_covariance", refined.full)
    for i, draws in enumerate(ks[1:], 1):
        add("importance_weighted", weighted.nats[:, i], draws, weighted.effective[:, i])
    acceptance = made = None
    if temperatures and continuous:
        together = min(chains, backward)
        how = Annealing(temperatures, chains, start, together=together)
        images = min(backward // together, TOGETHER[0], WORK // (together * temperatures))
        walks = over(_annealed(model, how), max(images, 1), keys[2], "annealing")
        acceptance = float(np.mean(walks["acceptance"]))
        add("annealed", walks["nats"], chains, walks["effective"])
        if simulated:
            labels = taken(split, np.arange(simulated) % len(split.x))
            sides = _bracket(model, how)
            lower, upper = over(sides, max(images, 1), keys[3], "the model's own images", labels)
            apart = np.float64(upper) - lower
            made = Bracketed(simulated, Mean.of(lower), Mean.of(upper), Mean.of(apart))
    if not continuous and (temperatures or fit_steps):
        left_out.append("annealing and an optimised q: they need continuous latents")
    if enumeration.codes(recipe) is not None:
        exact = enumeration.log_likelihood(recipe, rows)
        add("exact", over(exact, TOGETHER[1], keys[4], "all codes"))
    best = max(nats, key=np.mean) if rungs[-1].method != "exact" else nats[-1]
    return Ladder(
        len(split.x),
        recipe.log_px,
        tuple(rungs),
        None if own is None else Mean.of(own - nats[0]),
        None if own is None else Mean.of(best - own),
        acceptance,
        made,
        tuple(left_out),
    )


def _annealed(model: Model, how: Annealing):
    """Of the chains of each image only the mean weight: a function of a batch."""
    walks = annealed.annealed(model, how)

    def function(variables: Variables, key: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        found = walks(variables, key, batch)
        return {
            "nats": importance.log_mean(found.log_w),
            "effective": importance.effective(found.log_w),
            "acceptance": found.acceptance,
        }

    return function


def _bracket(model: Model, how: Annealing):
    """Lower and upper bound of images that the model makes: a function of a batch."""
    sides = annealed.bracket(model, how)

    def function(variables: Variables, key: jax.Array, batch: Batch):
        found = sides(variables, key, batch)
        return importance.log_mean(found.lower), -importance.log_mean(found.upper)

    return function


def _latents(recipe: Recipe, variables: Variables, split: Split) -> int:
    """D, the numbers in z."""
    label = None if recipe.classes is None else jnp.zeros(1, jnp.int32)
    batch, model = Batch(jnp.zeros((1, *split.shape)), label), recipe.model

    def code(variables):
        features = model.encode(variables, batch.x, batch.y)
        return model.reparameterize(variables, None, features, False).code

    return jax.eval_shape(code, variables).shape[1]
