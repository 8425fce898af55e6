"""One command from data to report: plan, train, evaluate, draw.

run = flaxvae.train(dataset="mnist", model="vae", epochs=20, latent_dim=2)
run = flaxvae.load("runs/latest")
"""

from __future__ import annotations

import dataclasses
import inspect
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import jax
import numpy as np
from jax.sharding import Mesh

from flaxvae import zoo
from flaxvae.analysis import bounds
from flaxvae.data import pipeline, sources
from flaxvae.data.pipeline import Data
from flaxvae.errors import UsageError, did_you_mean
from flaxvae.report import figures
from flaxvae.report.terminal import Terminal
from flaxvae.settings import DataSettings, TrainSettings, asdict
from flaxvae.training import checkpoints, loop
from flaxvae.training import mesh as meshes
from flaxvae.training import step as steps
from flaxvae.training.runs import Plan, RunFolder, new_path, write_json
from flaxvae.training.trained import Run, check_same_data, load

UNITS = "nats, summed over pixels and latent dimensions, averaged over images"


def make_plan(model: str = "vae", **choices: Any) -> Plan:
    """A plan from keyword arguments: fields of DataSettings, TrainSettings, and the recipe's own.

    Raises:
        UsageError: an unknown model or argument (with the nearest name), or a value out of range.
    """
    recipe = zoo.recipe(model)
    arguments = {
        name: parameter.default
        for name, parameter in inspect.signature(recipe).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    fields = [{f.name for f in dataclasses.fields(kind)} for kind in (DataSettings, TrainSettings)]
    known = {*arguments, *fields[0], *fields[1]}
    for name in choices:
        if name not in known:
            hint = did_you_mean(name, known)
            raise UsageError(f"unknown argument {name!r} for model {model!r}{hint}")
    for kind in (DataSettings, TrainSettings, recipe):
        for name, annotation in get_type_hints(kind).items():
            options = get_args(annotation) if get_origin(annotation) is Literal else ()
            if options and name in choices and choices[name] not in options:
                expected = ", ".join(options)
                raise UsageError(f"{name} {choices[name]!r}: expected one of {expected}")
    data = DataSettings(**{k: v for k, v in choices.items() if k in fields[0]})
    training = TrainSettings(**{k: v for k, v in choices.items() if k in fields[1]})
    if training.epochs is None:
        source = sources.SOURCES.get(data.dataset)
        training = dataclasses.replace(training, epochs=source.epochs if source else 20)
    own = {k: choices.get(k, default) for k, default in arguments.items()}
    return Plan(model, own, data, training)


def changed(old: Plan, new: Plan) -> dict[str, tuple[Any, Any]]:
    """The settings in which two plans differ: {name: (old, new)}."""

    def flat(plan: Plan) -> dict[str, Any]:
        settings = asdict(plan.data) | asdict(plan.training)
        return {"model": plan.model, **settings, **plan.arguments}

    before, after = flat(old), flat(new)
    names = [*before, *(name for name in after if name not in before)]
    return {
        name: (before.get(name), after.get(name))
        for name in names
        if before.get(name) != after.get(name)
    }


# What may differ in a resume: where the data are, on what it runs, and how long it goes on.
_FREE_ON_RESUME = {"data_dir", "devices", "epochs"}


def check_resume(old: Plan, new: Plan) -> None:
    """Raises UsageError, naming the differences, if ``new`` would make another run of ``old``."""
    differences = changed(old, new)
    refused = {k: v for k, v in differences.items() if k not in _FREE_ON_RESUME}
    was, now = old.training.epochs or 0, new.training.epochs or 0
    # More epochs only, and not where the learning rate of the past ones depends on their number.
    if now < was or (now > was and old.training.schedule != "constant"):
        refused["epochs"] = (was, now)
    if refused:
        listed = ", ".join(f"{name} {seen[0]} -> {seen[1]}" for name, seen in refused.items())
        raise UsageError(
            f"--resume with other settings ({listed}): expected those of the run; leave them "
            "out, or train a new run"
        )


def train(model: str = "vae", *, run: str | None = None, **choices: Any) -> Run:
    """Train a new model, evaluate it and draw its figures, in a new run folder.

    Args:
        model: a recipe's name.
        run: the folder; by default a fresh one under ``runs/``.
        choices: fields of DataSettings and TrainSettings, and the recipe's arguments.

    Returns:
        The trained Run.

    Raises:
        UsageError, DataError: before anything is written.
        DivergedError, Stopped: see ``training.loop.fit``.
    """
    return execute(make_plan(model, **choices), run=run)


def execute(
    plan: Plan,
    *,
    run: str | None = None,
    resume: str | None = None,
    terminal: Terminal | None = None,
) -> Run:
    """``train`` for a plan; with ``resume``, go on with that run folder instead of a new one."""
    started = time.monotonic()
    folder = None
    if resume is not None:
        if run is not None:
            raise UsageError(f"--run {run} with --resume {resume}: expected one of them")
        folder = RunFolder.open(resume)
        check_resume(folder.plan(), plan)
    data = pipeline.prepare(plan.data)
    if folder is not None:
        check_same_data(folder, data)
    path = folder.path if folder else new_path(plan, Path(plan.data.dataset).stem, run)
    recipe, mesh = plan.recipe(data.spec), meshes.make(plan.training.devices)
    trainer = steps.trainer(recipe, data, plan.training, mesh, plan.training.epochs or 0)
    shapes = jax.eval_shape(trainer.init)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(shapes.variables["params"]))
    # All that a user can get wrong has been checked: from here on files are written.
    if folder is None:
        facts = {
            "data_spec": data.spec._asdict(),
            "data_origin": data.origin,
            "data_sha256": data.sha256,
            "peak": data.peak,
            "parameters": parameters,
            "devices": meshes.describe(mesh),
            "units": UNITS,
        }
        folder = RunFolder.create(path, plan, facts)
    else:
        folder.extend(plan)
    if terminal:
        terminal.header(_header(plan, data, parameters, mesh, path))
    variables, history = loop.fit(recipe, trainer, data, plan.training, mesh, folder, terminal)
    trained = Run(folder, plan, data.spec, recipe, variables, data.peak, mesh)
    evaluation = bounds.evaluate(trained, data.test)
    summary = {
        "epochs": len(history),
        "test": evaluation,
        "parameters_sha256": checkpoints.digest(jax.device_get(variables["params"])),
        "data": data.spec.name,
        "units": UNITS,
    }
    write_json(folder.path / "summary.json", summary)
    written = figures.write(trained, evaluation, data.test, folder.figures)
    if terminal:
        facts = numbers(trained, evaluation)
        facts["figures"] = f"{len(written)} in {relative(folder.figures)}"
        facts["time"] = f"{(time.monotonic() - started) / 60:.1f} minutes"
        terminal.summary(facts, _next_commands(trained))
    return trained


def evaluate(
    run: str,
    *,
    k: int = 0,
    samples: int = 1,
    split: str = "test",
    images: int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure a run on held-out images, print the numbers, write them to evaluation.json.

    Raises UsageError for numbers out of range, or a validation split that the run has not.
    """
    loaded = load(run)
    data = loaded.data()
    chosen = data.test if split == "test" else data.validation
    if chosen is None:
        raise UsageError("--split validation: the run has no validation images; use test")
    if images is not None:
        if not 1 <= images <= len(chosen.x):
            raise UsageError(f"--images {images}: expected 1 to {len(chosen.x)}")
        y = None if chosen.y is None else chosen.y[:images]
        chosen = chosen._replace(x=chosen.x[:images], y=y)
    with Terminal() as terminal:
        found = bounds.evaluate(
            loaded, chosen, k=k, samples=samples, seed=seed, watch=terminal.watch("log p(x)")
        )
        write_json(
            loaded.path / "evaluation.json",
            {"split": split, "seed": seed, "samples": samples, "data": loaded.spec.name}
            | found
            | {"units": UNITS},
        )
        facts = numbers(loaded, found, split)
        facts["written"] = relative(loaded.path / "evaluation.json")
        terminal.summary(facts, [])
    return found


def sample(run: str, *, n: int, seed: int, temperature: float, out: str | None) -> str:
    """Draw a mosaic of samples; returns the file's path."""
    loaded = load(run)
    path = _target(out, loaded.folder.figures / "samples.png", ".png")
    return relative(figures.samples(path, loaded, n, seed=seed, temperature=temperature))


def reconstruct(run: str, *, images: str | None, n: int, out: str | None) -> str:
    """Draw images over their reconstructions; returns the file's path."""
    if n < 1:
        raise UsageError(f"--n {n}: expected 1 or more")
    loaded = load(run)
    path = _target(out, loaded.folder.figures / "reconstructions.png", ".png")
    if images is None:
        return relative(figures.reconstructions(path, loaded, test_images(loaded)[:n]))
    split = loaded.split(sources.read_images(Path(images))[:n])
    shown = figures.pixels(split, slice(None))
    return relative(figures.reconstructions(path, loaded, shown, Path(images).name))


def interpolate(run: str, *, rows: int, steps: int, out: str | None) -> str:
    """Draw walks between pairs of test images; returns the file's path."""
    loaded = load(run)
    test = loaded.data().test
    if not 1 <= rows <= len(test.x) // 2:
        raise UsageError(f"--rows {rows}: expected 1 to {len(test.x) // 2}")
    path = _target(out, loaded.folder.figures / "interpolations.png", ".png")
    return relative(figures.interpolations(path, loaded, figures.pairs(test, rows), steps))


def encode(run: str, *, images: str | None, out: str | None) -> str:
    """Write codes and scores of images to an .npz file; returns its path."""
    loaded = load(run)
    path = _target(out, loaded.path / "latents.npz", ".npz")
    labels: dict[str, Any] = {}
    if images is None:
        test = loaded.data().test
        x = figures.pixels(test, slice(None))
        labels = {} if test.y is None else {"labels": test.y}
    else:
        x = sources.read_images(Path(images))
    arrays = {"z": loaded.encode(x), "score": loaded.score(x), **labels}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.stem + ".partial.npz")
    np.savez(partial, **arrays)
    partial.replace(path)
    return relative(path)


def draw(run: str) -> list[str]:
    """Draw all figures of a run again; returns their paths."""
    loaded = load(run)
    test = loaded.data().test
    evaluation = bounds.evaluate(loaded, test)
    return [relative(p) for p in figures.write(loaded, evaluation, test, loaded.folder.figures)]


def test_images(run: Run) -> np.ndarray:
    """The test images of a run in [0, 1], as its model saw them."""
    return figures.pixels(run.data().test, slice(None))


def _target(out: str | None, default: Path, suffix: str) -> Path:
    """Where a command writes."""
    path = Path(out) if out else default
    if path.suffix.lower() != suffix:
        raise UsageError(f"--out {path}: expected a name that ends in {suffix}")
    return path


def relative(path: Path) -> str:
    """A path as a person would type it here."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def numbers(run: Run, evaluation: Mapping[str, Any], split: str = "test") -> dict[str, str]:
    """An evaluation in words, units included."""
    facts = {f"{split} data": f"{evaluation['images']:,} images, {run.spec.name}"}
    if "elbo" in evaluation:
        error = evaluation["elbo_standard_error"]
        facts["-ELBO"] = f"{-evaluation['elbo']:.2f} ± {error:.2f} nats an image"
    facts["reconstruction"] = f"{evaluation['reconstruction']:.2f} nats, -log p(x|z)"
    if "kl" in evaluation:
        facts["KL"] = f"{evaluation['kl']:.2f} nats"
    if "bits_per_dim" in evaluation:
        facts["bits per dim"] = f"{evaluation['bits_per_dim']:.4f}"
    if "log_likelihood" in evaluation:
        found = evaluation["log_likelihood"]
        facts["-log p(x)"] = (
            f"{-found['nats']:.2f} ± {found['standard_error']:.2f} nats, at most: "
            f"{found['k']} importance samples"
        )
    facts["MSE"] = f"{evaluation['mse']:.5f} a pixel, from the posterior mean"
    return facts


def _header(plan: Plan, data: Data, parameters: int, mesh: Mesh, path: Path) -> dict[str, str]:
    def count(split: pipeline.Split | None) -> str:
        return f"{len(split.x) if split else 0:,}"

    splits = (
        f"{count(data.train)} train, {count(data.validation)} validation, {count(data.test)} test"
    )
    choices = ", ".join(f"{k} {v}" for k, v in plan.arguments.items())
    training = plan.training
    return {
        "model": f"{plan.model}, {parameters:,} parameters ({choices})",
        "data": f"{data.spec.name}: {splits} ({data.origin})",
        "training": f"{training.epochs} epochs, batch {training.batch_size}, Adam "
        f"{training.learning_rate:g} ({training.schedule}), seed {training.seed}",
        "devices": meshes.describe(mesh),
        "units": UNITS,
        "run": relative(path),
    }


def _next_commands(run: Run) -> list[tuple[str, str]]:
    path = relative(run.path)
    commands = [
        (f"flaxvae sample {path}", "draw new images"),
        (f"flaxvae interpolate {path}", "walk between images"),
        (f"flaxvae encode {path}", "latents of the test images, .npz"),
    ]
    if run.recipe.has_bound:
        commands.insert(0, (f"flaxvae eval {path} --k 500", "tighter estimate of log p(x)"))
    return commands


__all__ = ["Run", "execute", "load", "make_plan", "train"]
