"""What there is to know of a trained model to say why it is not better: numbers, no judgement.

``known`` has what every training has computed: its settings, its history, its evaluation.
``measure`` adds what takes more passes over images. ``judgement`` turns both into sentences.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from flaxvae.analysis import aggregate_posterior, calibration, coverage, evaluation
from flaxvae.analysis.aggregate_posterior import Aggregate
from flaxvae.analysis.calibration import Calibration
from flaxvae.analysis.coverage import Coverage
from flaxvae.analysis.evaluation import Evaluation
from flaxvae.analysis.story import Story, story
from flaxvae.core import Batch, Latent, Variables
from flaxvae.data.dataset import taken
from flaxvae.data.pipeline import Split
from flaxvae.declared import Seed, typed
from flaxvae.devices import batches
from flaxvae.devices import mesh as meshes
from flaxvae.distributions import Normal
from flaxvae.errors import UsageError
from flaxvae.plan import Plan
from flaxvae.recipe import Recipe

Array = jax.Array

IN_DIMENSIONS = 512  # of z at most, of which the aggregate posterior is measured
DRAWS, SIMULATIONS = 19, 256  # of q, and of x: where each takes a pass through a hierarchy


@dataclasses.dataclass(frozen=True)
class Measured:
    """Numbers of a model; None where they are not known. Nats, as in ``Evaluation``."""

    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # of the recipe
    learning_rate: float | None = None
    optimizer: str | None = None
    patience: int | None = None
    trained: bool = True  # False: of imported weights, or without an epoch
    values: int | None = None  # D, numbers in an image
    any_values: bool = False  # those of a table, not from 0 to 1
    has_bound: bool = True
    codes: int | None = None  # size of a codebook
    grid: int = 1  # codes of an image
    test: Evaluation | None = None
    story: Story | None = None
    # what `measure` adds
    train: Evaluation | None = None  # of as many training images
    lowest: float | None = None  # of all values of the test images
    highest: float | None = None  # after a training, 0.5 is high enough
    variance: float | None = None  # of a value over test images, averaged over values
    own: float | None = None  # -log p(x|z) of an image with z ~ q(z|x)
    other: float | None = None  # the same with the z of another image
    calibration: Calibration | None = None
    aggregate: Aggregate | None = None
    coverage: Coverage | None = None
    left_out: Mapping[str, str] = dataclasses.field(default_factory=dict)  # of these, and why

    @property
    def explained(self) -> float | None:
        """The part of the images' variance that reconstructions explain; 0 is the mean image."""
        if self.test is None or not self.variance:
            return None
        return 1 - self.test.mse / self.variance

    def as_json(self) -> dict[str, Any]:
        """What is known, for JSON."""
        return _json({f.name: getattr(self, f.name) for f in dataclasses.fields(self)})


def _json(value: Any) -> Any:
    if isinstance(value, Evaluation):
        return value.as_json()
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {k: _json(v) for k, v in value.items() if v is not None}
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON has no nan
    return [_json(v) for v in value] if isinstance(value, tuple | list) else value


def known(
    recipe: Recipe,
    plan: Plan,
    rows: Sequence[Mapping[str, Any]],
    test: Evaluation | None,
    images: Split | None = None,
) -> Measured:
    """What a training has computed: its settings, its history and its evaluation.

    Of ``images`` the highest value is looked for, up to the first that is bright enough.
    """
    codes, shape, said = recipe.codes, recipe.data.shape, story(rows)
    if said is not None and plan.training.patience is not None:
        said = said._replace(lost=None)  # the best variables were kept
        if said.epochs < (plan.training.epochs or 0):
            said = said._replace(late=None)  # it ended because validation no longer improved
    return Measured(
        arguments=dict(plan.arguments),
        learning_rate=plan.training.learning_rate,
        optimizer=plan.training.optimizer,
        patience=plan.training.patience,
        trained=plan.training.epochs != 0,
        values=int(np.prod(shape)),
        any_values=recipe.data.kind == "table",
        has_bound=recipe.has_bound,
        codes=None if codes is None else codes.size,
        grid=1 if codes is None else int(np.prod(codes.grid)),
        test=test,
        story=said,
        highest=None if images is None else _bright(images),
    )


def _gaussian(features: Any, latent: Latent) -> Normal | None:
    """q(z|x), if the features are those of a Gaussian in z."""
    if not (isinstance(features, Mapping) and set(features) == {"mean", "log_var"}):
        return None
    fits = features["mean"].shape == latent.z.shape and latent.z.shape[1] <= IN_DIMENSIONS
    return Normal(features["mean"], features["log_var"]) if fits else None


def no_aggregate(recipe: Recipe, found: Mapping[str, np.ndarray]) -> str:
    """Why q(z) cannot be measured; "" if it can."""
    if not recipe.has_bound:
        return "an autoencoder has no q(z|x)"
    if recipe.codes is not None:
        return "the latents are discrete"
    if recipe.hierarchy is not None:
        return "q(z|x) of a hierarchy is not Gaussian"
    if (size := found["code"].shape[1]) > IN_DIMENSIONS:
        return f"z has {size:,} dimensions, more than {IN_DIMENSIONS}"
    if not np.isfinite(found["elbo"]).all():
        return "the bound is not finite"
    # A flow has a Gaussian's features, too, but another density at its draws.
    if "z" in found and np.allclose(found["log_q"], found["gaussian"], rtol=1e-3, atol=1e-2):
        return ""
    return "q(z|x) is not Gaussian"


def no_coverage(recipe: Recipe, generates: bool) -> str:
    """Why there can be no simulation-based calibration; "" if there can."""
    if not recipe.has_bound:
        return "an autoencoder has no p(z)"
    if recipe.codes is not None:
        return "the latents are discrete, and have no order"
    if recipe.log_px == "cross_entropy":
        return "a Bernoulli's draws are black and white, but the images are grey"
    return "" if generates else "no prior has been fitted"


def _look(recipe: Recipe):
    """All that is measured of images, as a function of (variables, key, batch): arrays [B, ...]."""
    model, evaluated = recipe.model, evaluation.measurement(recipe)

    def look(variables: Variables, key: Array, batch: Batch) -> dict[str, Array]:
        bound_key, draw_key, data_key = jax.random.split(key, 3)
        found = evaluated(variables, bound_key, batch)
        features = model.encode(variables, batch.x, batch.y)
        latent = model.reparameterize(variables, draw_key, features, False)
        p = latent.px or model.decode(variables, latent.z, batch.y)
        found["own"] = -p.log_prob(batch.x)
        if len(latent.z) > 1:  # of the next row, since the last batch is filled up with the first
            others = model.decode(variables, jnp.roll(latent.z, -1, axis=0), batch.y)
            found["other"] = -others.log_prob(batch.x)
        found |= calibration.sums(p, batch.x, data_key)
        if recipe.has_bound and (q := _gaussian(features, latent)) is not None:
            found |= {"mean": q.mean, "log_var": q.log_var, "z": latent.z, "log_p": latent.log_p}
            found["log_q"], found["gaussian"] = latent.log_q, q.log_prob(latent.z)
        return found

    return look


def _simulation(recipe: Recipe, ranks: bool):
    """Draws from the model and their ranks, or only draws of z."""
    model = recipe.model
    if ranks:
        return coverage.simulation(model, DRAWS if recipe.hierarchy else coverage.DRAWS)

    def prior(variables: Variables, key: Array, batch: Batch) -> dict[str, Array]:
        return {"prior": model.prior_sample(variables, key, len(batch.x), batch.y)}

    return prior


@typed
def measure(
    before: Measured,
    recipe: Recipe,
    variables: Variables,
    test: Split,
    train: Split | None = None,
    *,
    generates: bool = True,
    seed: Seed = 0,
    mesh: Mesh | None = None,
    watch: batches.Watch | None = None,
) -> Measured:
    """``before``, with what images show.

    Args:
        before: what is ``known``; its evaluation is replaced.
        recipe, variables: the model.
        test: images that it was not trained on, at least two.
        train: as many that it was.
        generates: whether there is a prior to draw from.
        seed: decides the draws.
        mesh: devices among which a batch is split; by default all of this process.
        watch: is told of progress.

    Raises:
        UsageError: fewer than two images.
    """
    if len(test.x) < 2:
        raise UsageError(f"{len(test.x)} image: expected at least two")
    mesh = mesh or meshes.local()
    look_key, train_key, prior_key = jax.random.split(jax.random.key(seed), 3)
    look = batches.over_split(_look(recipe), mesh)
    found = look(test, variables, look_key, watch)
    added: dict[str, Any] = {
        "test": evaluation.numbers(recipe, test, found),
        "own": float(found["own"].mean(dtype=np.float64)),
        "calibration": calibration.calibration(found["errors"], found["bins"]),
        **_values(test),
    }
    if "other" in found:
        added["other"] = float(found["other"].mean(dtype=np.float64))
    if train is not None:
        added["train"] = evaluation.numbers(recipe, train, look(train, variables, train_key, watch))
    why = {"aggregate": no_aggregate(recipe, found), "coverage": no_coverage(recipe, generates)}
    prior = None
    if generates and not all(why.values()):
        some = taken(test, np.arange(min(SIMULATIONS, len(test.x)))) if recipe.hierarchy else test
        simulation = _simulation(recipe, not why["coverage"])
        draw = batches.over_split(simulation, mesh)(some, variables, prior_key)
        prior = draw["prior"]
        if "ranks" in draw:
            draws = DRAWS if recipe.hierarchy else coverage.DRAWS
            added["coverage"] = coverage.coverage(draw["ranks"], draws)
    if not why["aggregate"]:
        mean, log_var, z, log_p = (found[name] for name in ("mean", "log_var", "z", "log_p"))
        added["aggregate"] = aggregate_posterior.measure(mean, log_var, z, log_p, prior)
    left_out = {name: reason for name, reason in why.items() if reason}
    return dataclasses.replace(before, **added, left_out=left_out)


def _bright(split: Split, enough: float = 0.5, step: int = 512) -> float:
    """The highest value, or that of the first images where it is ``enough``."""
    highest = -np.inf
    for start in range(0, len(split.x), step):
        highest = max(highest, split.images(slice(start, start + step)).max())
        if highest >= enough:
            break
    return float(highest)


def _values(split: Split, step: int = 512) -> dict[str, float]:
    """The range of the values of images, and their variance."""
    count, lowest, highest = len(split.x), np.inf, -np.inf
    total, squares = np.zeros(split.shape), np.zeros(split.shape)
    for start in range(0, count, step):
        x = split.images(slice(start, start + step)).astype(np.float64)
        lowest, highest = min(lowest, x.min()), max(highest, x.max())
        total, squares = total + x.sum(0), squares + np.square(x).sum(0)
    variance = squares / count - np.square(total / count)
    return {"lowest": float(lowest), "highest": float(highest), "variance": float(variance.mean())}
