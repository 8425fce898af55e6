"""A training in memory: no folder, and what is compiled serves all trainings of its kind.

Those of a search by cross-validation, say, differ in rows and seed, and in few other settings.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax

from flaxvae.core import Variables
from flaxvae.data import pipeline
from flaxvae.data.columns import Columns
from flaxvae.data.dataset import Dataset
from flaxvae.devices import mesh as meshes
from flaxvae.plan import Plan, fitting, settle
from flaxvae.recipe import DataSpec
from flaxvae.trained import Trained
from flaxvae.training import feed as feeds
from flaxvae.training import loop, shared
from flaxvae.training import step as steps
from flaxvae.training.observers import Row, Watcher


class Fitted(NamedTuple):
    """What a training gives."""

    plan: Plan  # with what the data decided
    trained: Trained
    history: Sequence[Row]  # a row of metrics for each epoch


class Packed(NamedTuple):
    """What a Trained has beside its plan, to be pickled."""

    variables: Variables  # NumPy arrays
    spec: DataSpec
    peak: float | None
    signed: bool
    columns: Columns | None


def fit(plan: Plan, dataset: Dataset, watch: Watcher | None = None) -> Fitted:
    """Train a plan on a dataset. Raises as ``training.loop.fit`` does, and for bad settings."""
    data = pipeline.divided(dataset, plan.data)
    plan, _ = fitting(settle([plan], data.spec)[0], data.spec)
    model = _model(plan, data.spec, plan.training.devices)
    trainer = _trainer(plan, model, data)
    variables, history = loop.fit(
        model.recipe, trainer, data, plan.training, model.mesh, watch=watch
    )
    about = Packed(variables, data.spec, data.peak, data.signed, data.columns)
    return Fitted(plan, _trained(model, about), history)


def packed(trained: Trained) -> Packed:
    """A Trained, to be pickled."""
    variables = jax.device_get(trained.variables)
    return Packed(variables, trained.spec, trained.peak, trained.signed, trained.columns)


def unpacked(plan: Plan, stored: Packed) -> Trained:
    """The inverse of ``packed``, on this machine's devices."""
    devices = plan.training.devices
    model = _model(plan, stored.spec, devices and min(devices, len(jax.devices())))
    variables = meshes.put(stored.variables, meshes.replicated(model.mesh))
    return _trained(model, stored._replace(variables=variables))


def _model(plan: Plan, spec: DataSpec, devices: int | None) -> Trained:
    """A model without variables, the same for all of one kind: it has what is compiled for them."""
    spec = spec._replace(grey=None)  # which a settled plan does not look at
    mesh, how = meshes.make(devices), plan.data.binarization
    key = plan.function, tuple(plan.arguments.items()), spec, mesh, how
    return shared.kept(key, lambda: Trained(plan.recipe(spec), {}, mesh=mesh, binarization=how))


def _trained(model: Trained, about: Packed) -> Trained:
    found = Trained(
        model.recipe._replace(data=about.spec),
        about.variables,
        mesh=model.mesh,
        peak=about.peak,
        binarization=model.binarization,
        signed=about.signed,
        columns=about.columns,
    )
    return found.compiled_like(model)


def _trainer(plan: Plan, model: Trained, data: pipeline.Data) -> steps.Trainer:
    recipe, settings, mesh = model.recipe, plan.training, model.mesh
    given = steps.images_and_labels(recipe, data)
    if settings.shard_params or not feeds.is_resident(*given, settings.data_placement, mesh):
        return steps.trainer(recipe, data, settings, mesh, settings.epochs or 0)
    shapes = tuple((a.shape, str(a.dtype)) for a in given if a is not None)
    alike = dataclasses.replace(settings, seed=0)
    key = model, alike, shapes, data.peak, data.binarization, data.flip, data.validation is None
    make = shared.kept(key, lambda: shared.trainers(recipe, data, settings, mesh))
    return make(data, settings.seed)
