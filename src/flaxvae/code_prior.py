"""A prior over the codes of a trained model with a codebook, fitted after training."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flaxvae import lookup, outside, signals
from flaxvae.data import pipeline
from flaxvae.devices import batches
from flaxvae.devices import mesh as meshes
from flaxvae.errors import UsageError, command, counted
from flaxvae.recipe import DataSpec
from flaxvae.report import figures, shown, words
from flaxvae.runs import contents, keeper, lock
from flaxvae.runs.closing import closing, finish, stages
from flaxvae.runs.folder import RunFolder
from flaxvae.runs.resume import check_resume
from flaxvae.runs.run import Run, load, opened, prior_folder
from flaxvae.settings import Place, TrainSettings
from flaxvae.training import observers
from flaxvae.training import step as steps


def fit_prior(
    path: str | Path,
    settings: TrainSettings | None = None,
    *,
    place: Place = Place(),
    recipes: Mapping[str, lookup.Variant] = lookup.NO_RECIPES,
    terminal: Any = None,
) -> Run:
    """Fit the autoregressive prior over the codes of a trained run, in its subfolder ``prior``.

    The images' codes are computed once; the prior learns their joint distribution by maximum
    likelihood, -log p(codes) in nats. An interrupted fit is resumed.

    Args:
        path: run folder of a model with a codebook.
        settings: for training; by default 50 epochs, batch 128, Adam 1e-3 with cosine decay.
        place: where the run's data are now, if they have moved.
        recipes: recipes from outside, by name, if the run uses one.
        terminal: shows progress.

    Returns:
        The Run, which can now sample and whose bound includes the fitted prior.

    Raises:
        UsageError: a model without such a prior, or settings that differ from an interrupted fit's.
    """
    settings = settings or TrainSettings(schedule="cosine")
    if settings.epochs is None:
        settings = dataclasses.replace(settings, epochs=50)
    with lock.hold(RunFolder.open(path).path) as held:
        return _fit_prior(held, settings, place, recipes, terminal)


def _fit_prior(
    held: lock.Held,
    settings: TrainSettings,
    place: Place,
    recipes: Mapping[str, lookup.Variant],
    terminal: Any,
) -> Run:
    path = held.folder
    run = opened(path, prior=False, recipes=recipes)
    codes = run.recipe.codes
    if codes is None or codes.prior is None:
        raise UsageError(f"model {run.plan.model} has no prior to fit: expected a codebook, vq_vae")
    variables = run.variables
    plan = dataclasses.replace(run.plan, training=settings)
    folder = prior_folder(run.folder, variables)
    if folder is not None:
        advice = f"give the same settings, or remove {folder.path} to fit it again"
        check_resume(folder.plan(), plan, "fit-prior", advice)
    data, mesh = _codes(run, variables, place), meshes.make(settings.devices)
    trainer = steps.trainer(codes.prior, data, settings, mesh, settings.epochs or 0)
    if folder is None:
        shutil.rmtree(run.path / "prior", ignore_errors=True)  # it was fitted to other parameters
        shapes = jax.eval_shape(trainer.init)
        facts = {
            "model_sha256": contents.digest(jax.device_get(variables["params"])),
            "parameters": sum(x.size for x in jax.tree.leaves(shapes.variables["params"])),
            "units": "nats, summed over codes, averaged over images",
        }
        folder = RunFolder.create(run.path / "prior", plan, facts)
    else:
        folder.extend(plan)
    folder.resuming = command("flaxvae", "fit-prior", run.path, *outside.flag(recipes))
    folder.hold(held)
    watch = terminal or observers.Quiet()
    watch.header(words.prior_header(run, data, folder, plan))
    with signals.caught() as heard:
        fitted, history = keeper.fit(codes.prior, trainer, data, settings, mesh, folder, watch)
        stage = stages(folder, watch, heard)
        stage(f"evaluating the codes of {counted(len(data.test.x), 'test image')}")
        test = batches.over_split(batches.bound_terms(codes.prior.model), mesh)
        nats = -test(data.test, fitted, jax.random.key(0))["elbo"].mean(dtype="float64")
        finish(folder, closing(folder, fitted, history, {"code_nats": float(nats)}))
        stage("drawing samples")
        done = load(path, recipes)
        figures.draw("samples", done.folder.figures / "samples.png", shown.samples(done))
        folder.check_complete()
    following = [*words.next_commands(done), *words.page_again(done)]
    watch.summary(words.prior_numbers(done, float(nats)), following)
    return done


def _codes(run: Run, variables: Any, place: Place) -> pipeline.Data:
    """The run's data as grids of codes."""
    found, original = run.recipe.codes, run.data(place)
    assert found is not None
    indices = batches.over_split(lambda v, key, batch: found.indices(v, batch.x, batch.y), run.mesh)
    kind = np.uint8 if found.size <= 256 else np.uint16 if found.size <= 65536 else np.int32

    def grids(split: pipeline.Split) -> pipeline.Split:
        codes = indices(split, variables, jax.random.key(0)).astype(kind)
        return pipeline.Split(codes.reshape(-1, *found.grid), None, 1.0)

    train = pipeline.binarized(original.train, original.binarization, fold=0)
    held = original.validation
    return pipeline.Data(
        DataSpec(f"codes of {run.spec.name}", found.grid, examples=len(train.x)),
        grids(train),
        None if held is None else grids(held),
        grids(original.test),
        1.0,
        "none",
        str(run.path),
        original.sha256,
    )
