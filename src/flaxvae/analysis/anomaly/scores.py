"""Scores of how unusual an image is to a model, each high for what is unusual.

| name           | what it is, in nats                                                       |
|----------------|---------------------------------------------------------------------------|
| combined       | -log p(x|z) at the code z, and -log p̂(z) of a density of training codes,  |
|                | each in standard deviations over training images (no nats): ``combined``  |
| elbo           | -ELBO; of a plain autoencoder, -log p(x|z)                                |
| importance     | - log 1/k sum_i w_i, which is nearer to -log p(x) (Burda et al. 2015)     |
| reconstruction | -E[log p(x|z)]                                                            |
| kl             | KL(q(z|x) || p(z))                                                        |
| regret         | what the ELBO gains if q is optimised for the image (Xiao et al. 2020)    |
| complexity     | -ELBO less the bits of the image as a PNG (Serra et al. 2020)             |
| llr            | ELBO - ELBO^{>l}, whose lowest l levels of a hierarchy are drawn from the |
|                | prior, not from q (Havtorn et al. 2021)                                   |
| mahalanobis    | a distance from the training images (no nats) of three statistics of the  |
|                | encoder and the decoder: |x - E[x|z]|, |mean of q|, |sd of q| (after Huang|
|                | et al. 2024)                                                              |
| copod          | of the same statistics, how far out in their tails (Li et al. 2020)       |

The noise of an image depends on its pixels, its label and the seed alone, so that it has the same
scores in any batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from flaxvae.analysis import importance, refinement
from flaxvae.analysis.anomaly import combined, complexity, tails
from flaxvae.analysis.evaluation import CHUNK
from flaxvae.analysis.moments import moments
from flaxvae.core import Batch, Model, Variables, elbo_samples
from flaxvae.data import pipeline
from flaxvae.data.pipeline import Split
from flaxvae.devices import batches
from flaxvae.devices import mesh as meshes
from flaxvae.errors import UsageError
from flaxvae.recipe import Recipe
from flaxvae.settings import AnomalyScore as Name

Array = jax.Array
NAMES: tuple[Name, ...] = get_args(Name)
OF_TERMS = ("elbo", "reconstruction", "kl", "complexity")
OF_STATISTICS = ("mahalanobis", "copod")

SAMPLES = 16  # draws of z for the terms of the bound, and for llr
MEASURED = 64  # for the bounds of regret
SPREAD = 16  # for the standard deviation of a q that does not say it
TOGETHER = 64  # most images in a batch of what takes long: progress comes in batches
COMPRESSED = 512  # images at once
Stages = Callable[[str], batches.Watch]


class Settings(NamedTuple):
    """Numbers that scores depend on."""

    k: int = 100  # draws of importance
    fit_steps: int = 100  # of gradient descent for regret
    levels: int = 1  # of a hierarchy, the lowest, that llr leaves to the prior


USUAL = Settings()


def words(recipe: Recipe, name: Name, settings: Settings = USUAL) -> str:
    """What a score is, with its unit."""
    elbo = "-ELBO" if recipe.has_bound else "-log p(x|z)"
    return {
        "combined": "-log p(x|z) and -log p(code) in standard deviations, their sum",
        "elbo": f"{elbo} in nats",
        "importance": f"-importance-weighted ELBO, k = {settings.k:,}, in nats",
        "reconstruction": "-E[log p(x|z)] in nats",
        "kl": "KL in nats",
        "regret": f"likelihood regret, {settings.fit_steps:,} steps, in nats",
        "complexity": f"{elbo} less the bits of a PNG, in nats",
        "llr": f"ELBO - ELBO^{{>{settings.levels}}} in nats",
        "mahalanobis": "Mahalanobis distance of statistics",
        "copod": "COPOD of statistics, in nats",
    }[name]


def check(
    recipe: Recipe, names: Sequence[Name], settings: Settings = USUAL, model: str = "the model"
) -> None:
    """Raises UsageError for a score that a model has not."""
    codes, hierarchy = recipe.codes, recipe.hierarchy
    for name in names:
        why = "" if name in NAMES else f"expected some of {', '.join(NAMES)}"
        if name in ("importance", "kl", "regret") and not recipe.has_bound:
            why = f"{model} has no prior; expected a VAE"
        elif name in ("combined", "regret", *OF_STATISTICS) and codes is not None:
            why = f"{model} has discrete latents; expected continuous ones"
        elif name == "importance" and codes is not None and codes.latents is None:
            why = f"{model} gives an image one code, and no density q(z|x); expected one"
        elif name == "complexity" and recipe.data.kind != "images":
            why = f"examples are {recipe.data.kind}; expected images"
        elif name == "llr" and (hierarchy is None or recipe.model.redraw is None):
            why = f"{model} has no levels; expected a hierarchy, ladder_vae or deep_vae"
        elif name == "llr" and hierarchy is not None and settings.levels >= len(hierarchy.names):
            most = len(hierarchy.names) - 1
            raise UsageError(
                f"--levels {settings.levels}: expected at most {most}, so that a level is left of "
                f"the {most + 1} of {model}"
            )
        if why:
            raise UsageError(f"--scores {name}: {why}")


def default(recipe: Recipe, latent_size: int) -> Name:
    """``combined`` where codes have a density, else ``elbo``."""
    return "combined" if combined.possible(recipe, latent_size) else "elbo"


class Measured(NamedTuple):
    """Of N images: scores that need no others, and statistics that do."""

    scores: Mapping[str, np.ndarray]  # [N] each
    statistics: np.ndarray | None = None  # [N, D]; None: not asked for

    def completed(
        self, names: Sequence[Name], known: tails.Reference | None
    ) -> dict[Name, np.ndarray]:
        """All scores in ``names``, [N] float32 each; ``known``: of the training images."""
        found = dict(self.scores)
        if known is None and any(name in OF_STATISTICS for name in names):
            raise UsageError(
                f"{' and '.join(OF_STATISTICS)} compare statistics with those of training images: "
                "expected these, as analysis.anomaly.tails.reference gives them"
            )
        if self.statistics is not None and known is not None:
            found["mahalanobis"] = tails.mahalanobis(self.statistics, known)
            found["copod"] = tails.copod(self.statistics, known)
        return {name: np.asarray(found[name], np.float32) for name in names}


def measure(
    recipe: Recipe,
    variables: Variables,
    split: Split,
    names: Sequence[Name],
    settings: Settings = USUAL,
    *,
    terms: Callable[..., dict[str, np.ndarray]] | None = None,
    at_code: Callable[..., dict[str, np.ndarray]] | None = None,
    usual: combined.Usual | None = None,
    seed: int = 0,
    mesh: Mesh | None = None,
    stages: Stages | None = None,
) -> Measured:
    """Compute scores of all images of a split.

    Args:
        recipe, variables: the model.
        split: the images, with class numbers where the model needs them.
        names: of the scores.
        settings: numbers that they depend on.
        terms: ``over_split`` of ``own_terms``, if it is compiled already.
        at_code: that of ``combined.terms``.
        usual: what ``combined`` compares with.
        seed: decides the noise.
        mesh: devices among which a batch is split; by default all of this process.
        stages: are told what is going on, and give what is told of progress.

    Raises UsageError for a score that the model has not, or without what it is compared with.
    """
    check(recipe, names, settings)
    if "combined" in names and usual is None:
        raise UsageError(
            "combined compares with training images: expected what `usual` of these gives"
        )
    mesh, model = mesh or meshes.local(), recipe.model
    own, key = pipeline.fingerprints(split), jax.random.key(seed)
    found: dict[str, np.ndarray] = {}
    most = min(CHUNK, batches.at_once(split.shape))

    def watch(what: str) -> batches.Watch | None:
        return None if stages is None else stages(what)

    def over(number: int, function, draws: int, what: str) -> Any:
        images = max(min(most // draws, TOGETHER), mesh.size)
        alone = batches.over_split(batches.of_one(function), mesh, images, base=8)
        # Beside the keys of the terms of the bound, which images fold their numbers into.
        other = jax.random.fold_in(key, 2**32 - 2 - number)
        return alone(split, variables, other, watch(what), own)

    if any(name in OF_TERMS for name in names):
        terms = terms or batches.over_split(batches.own_terms(model), mesh, base=8)
        found |= terms(split, (variables, np.int32(SAMPLES)), key, watch("scores"), own)
        found["elbo"] = found["reconstruction"] + found["kl"]
    if "combined" in names:
        assert usual is not None
        at_code = at_code or batches.over_split(combined.terms(model), mesh, base=8)
        own_code = at_code(split, variables, key, watch("codes"))
        found["combined"] = combined.scores(usual, own_code["code"], own_code["cost"])
    if "complexity" in names:
        found["complexity"] = found["elbo"] - np.log(2) * _bits(recipe, split)
    if "importance" in names:
        chunk = min(settings.k, SAMPLES)
        bounds = importance.bounds(model, (settings.k,), chunk)
        found["importance"] = -over(0, bounds, chunk, "importance samples").nats[:, 0]
    if "regret" in names:
        regret = refinement.regret(model, settings.fit_steps, MEASURED)
        found["regret"] = over(1, regret, 2 * refinement.DRAWS, "q of each image")
    if "llr" in names:
        found["llr"] = over(2, llr(recipe, settings.levels), SAMPLES, "levels")
    statistics = None
    if any(name in OF_STATISTICS for name in names):
        statistics = over(3, paths(recipe), 1, "statistics")
    return Measured(found, statistics)


def llr(
    recipe: Recipe, levels: int, samples: int = SAMPLES
) -> Callable[[Variables, Array, Batch], Array]:
    """The ELBO less the bound that leaves the lowest ``levels`` to the prior, [B] nats.

        L^{>l} = E[log p(x|z)] - sum of the KLs of the levels above l,

    where z of the levels above l is drawn from q(z|x), and those below from the prior given these
    (Havtorn et al. 2021). Where the upper levels explain the image, little is lost. An anomaly
    that only the lower levels explain loses much.

    Args:
        recipe: of a hierarchy.
        levels: l, the lowest ones.
        samples: draws for either bound.
    """
    hierarchy, model, redraw = recipe.hierarchy, recipe.model, recipe.model.redraw
    assert hierarchy is not None and redraw is not None
    below = sum(hierarchy.blocks[:levels])

    def function(variables: Variables, key: Array, batch: Batch) -> Array:
        key, new_key = jax.random.split(key)
        terms = elbo_samples(model, variables, key, batch, samples)  # [L, B]
        z = terms.latent.z.reshape(-1, terms.latent.z.shape[-1])
        z = redraw(variables, new_key, z, below)

        def each(leaf):
            return jnp.broadcast_to(leaf, (samples, *leaf.shape)).reshape(-1, *leaf.shape[1:])

        x, y = jax.tree.map(each, (batch.x, batch.y))
        log_px = model.decode(variables, z, y).log_prob(x).reshape(samples, -1)
        above = log_px.mean(0) - terms.kl[..., below:].sum(-1).mean(0)
        return terms.elbo.mean(0) - above

    return function


def paths(recipe: Recipe) -> Callable[[Variables, Array, Batch], Array]:
    """Statistics of the path of an image through the model, [B, 3], or [B, 2] without a q(z|x).

    |x - E[x|z]| at the code z, |code|, and |sd|, the length of the standard deviations of q(z|x):
    the encoder's where its outputs are a mean and a log-variance, else those of 16 draws.
    """
    model = recipe.model

    def function(variables: Variables, key: Array, batch: Batch) -> Array:
        features = model.encode(variables, batch.x, batch.y)
        latent = model.reparameterize(variables, None, features, False)
        px = latent.px or model.decode(variables, latent.z, batch.y)
        found = [_length(batch.x - px.mean), _length(latent.code)]
        if recipe.has_bound:
            found.append(_length(_spread(model, variables, key, features)))
        return jnp.stack(found, -1)

    return function


def _spread(model: Model, variables: Variables, key: Array, features: Any) -> Array:
    if isinstance(features, Mapping) and {"mean", "log_var"} <= set(features):
        return jnp.exp(features["log_var"] / 2)

    def draw(key):
        return model.reparameterize(variables, key, features, False).z

    return moments(draw, key, SPREAD).sd


def _length(values: Array) -> Array:
    return jnp.sqrt(jnp.square(values).reshape(len(values), -1).sum(-1))


def _bits(recipe: Recipe, split: Split) -> np.ndarray:
    """The bits of each image as a PNG, with as many a value as the data have, or 8."""
    spec = recipe.data
    depth = 1 if spec.binary else 16 if (spec.levels or 0) > 256 else 8
    found = []
    for start in range(0, len(split.x), COMPRESSED):
        images = split.images(slice(start, start + COMPRESSED))
        found.append(complexity.bits(np.rint(images * (2**depth - 1)).astype(np.int32), depth))
    return np.concatenate(found)
