"""One command from data to report: plan, train, evaluate, draw.

run = flaxvae.train(dataset="mnist", model="vae", epochs=20, latent_dim=2)
run = flaxvae.load("runs/latest")
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from flaxvae import declared, outside, signals, zoo
from flaxvae.analysis import bounds
from flaxvae.core import Variables
from flaxvae.data import pipeline, sources
from flaxvae.declared import hints, typed
from flaxvae.devices import batches, hosts
from flaxvae.devices import mesh as meshes
from flaxvae.errors import Stopped, UsageError, command, counted
from flaxvae.plan import Plan
from flaxvae.recipe import DataSpec
from flaxvae.report import figures, shown, words
from flaxvae.report.terminal import Terminal
from flaxvae.runs import contents, keeper, lock, places, restored
from flaxvae.runs.checkpoints import Checkpoints
from flaxvae.runs.folder import RunFolder, check_new, make_new, point_latest, write_json
from flaxvae.runs.run import (
    Run,
    check_same_data,
    example,
    is_closed,
    load,
    opened,
    prior_folder,
)
from flaxvae.settings import DataSettings, Place, TrainSettings, asdict
from flaxvae.synonyms import hint
from flaxvae.training import loop
from flaxvae.training import step as steps


def kinds(model: str | zoo.Variant) -> dict[str, Any]:
    """What is declared of each setting that ``make_plan`` takes, {name: type}."""
    return hints(DataSettings) | hints(TrainSettings) | zoo.hints(model)


def make_plan(model: str | zoo.Variant = "vae", **choices: Any) -> Plan:
    """A plan from keyword arguments: fields of DataSettings, TrainSettings, and the recipe's own.

    ``model`` is a name of the zoo's, or a recipe from outside.

    Raises:
        UsageError: an unknown model or argument (with the nearest name), a value that does not
            fit what is declared of it, or one that has no effect beside the others.
    """
    plan = plan_of(model, **choices)
    check_effects([plan])
    return plan


def plan_of(model: str | zoo.Variant, **choices: Any) -> Plan:
    """``make_plan``, whether or not all that was chosen has an effect."""
    known, fields = kinds(model), (hints(DataSettings), hints(TrainSettings))
    for name in choices:
        if name not in known:
            meant, called = hint(name, known), zoo.recipe(model).__name__
            raise UsageError(f"unknown argument {name!r} for model {called!r}{meant}")
    data = DataSettings(**{k: v for k, v in choices.items() if k in fields[0]})
    training = TrainSettings(**{k: v for k, v in choices.items() if k in fields[1]})
    if training.epochs is None:
        source = sources.SOURCES.get(data.dataset)
        training = dataclasses.replace(training, epochs=source.epochs if source else 20)
    own = {k: v for k, v in choices.items() if k not in {*fields[0], *fields[1]}}
    function = zoo.recipe(model)  # the ranges of arguments are its own
    return Plan(function.__name__, zoo.arguments(model, own), data, training, function)


def flat(plan: Plan) -> dict[str, Any]:
    """All settings of a plan by name."""
    return {"model": plan.model, **asdict(plan.data), **asdict(plan.training), **plan.arguments}


def check_effects(plans: Sequence[Plan], before: Plan | None = None) -> None:
    """Raises UsageError for a setting that was chosen and has no effect in any of the plans.

    All are of one model; ``before`` is what they go on from, whose settings nobody chose now.
    """
    model = plans[0].function
    usual = [
        flat(
            dataclasses.replace(
                plans[0],
                arguments=zoo.arguments(model),
                data=DataSettings(),
                training=TrainSettings(),
            )
        )
    ]
    usual += [flat(before)] if before is not None else []
    found = declared.idle(kinds(model), [flat(plan) for plan in plans], usual)
    if found is not None:
        raise UsageError(found)


def changed(old: Plan, new: Plan) -> dict[str, tuple[Any, Any]]:
    """The settings in which two plans differ: {name: (old, new)}."""
    before, after = flat(old), flat(new)
    names = [*before, *(name for name in after if name not in before)]
    return {
        name: (before.get(name), after.get(name))
        for name in names
        if before.get(name) != after.get(name)
    }


# What may differ in a resume: where the data are, on what it runs, how long it goes on, and what
# keeps it safe.
_FREE_ON_RESUME = {
    "data_dir",
    "devices",
    "shard_params",
    "epochs",
    "on_nan",
    "checkpoint_every",
}


def _listed(changes: Mapping[str, tuple[Any, Any]]) -> str:
    return ", ".join(f"{name} {seen[0]} -> {seen[1]}" for name, seen in changes.items())


def another_run(old: Plan, new: Plan) -> dict[str, tuple[Any, Any]]:
    """The settings by which ``new`` would make another run of ``old``: {name: (old, new)}."""
    differences = changed(old, new)
    refused = {k: v for k, v in differences.items() if k not in _FREE_ON_RESUME}
    if all(map(sources.in_file, refused.get("dataset", [""]))):
        del refused["dataset"]  # it may have been moved: its contents are compared
    was, now = old.training.epochs or 0, new.training.epochs or 0
    # More epochs only, and not where the learning rate of the past ones depends on their number.
    if now < was or (now > was and not old.training.open_ended):
        refused["epochs"] = (was, now)
    return refused


def check_resume(
    old: Plan,
    new: Plan,
    what: str = "--resume",
    advice: str = "leave them out, give --allow-changes, or train a new run",
) -> None:
    """Raises UsageError, naming the differences, if ``new`` would make another run of ``old``."""
    refused = another_run(old, new)
    if refused:
        raise UsageError(
            f"{what} with other settings ({_listed(refused)}): expected those of the run; {advice}"
        )


def check_changes(old: Plan, new: Plan, spec: DataSpec) -> dict[str, tuple[Any, Any]]:
    """The changes that --allow-changes makes to a run.

    Raises UsageError, naming them, for those that no run can take: another model, other data, or
    other shapes of its parameters.
    """

    def shapes(plan: Plan) -> Any:
        made = jax.eval_shape(plan.recipe(spec).model.init, jax.random.key(0), *example(spec))
        return contents.structure(made)

    def reshapes(name: str) -> bool:
        try:
            arguments = {**old.arguments, name: new.arguments[name]}
            return shapes(dataclasses.replace(old, arguments=arguments)) != shapes(old)
        except UsageError:  # it goes with other changes
            return False

    changes = another_run(old, new)
    own = [name for name in changes if name in new.arguments]
    fixed = {"model", *(f.name for f in dataclasses.fields(DataSettings))} & changes.keys()
    if not fixed:
        fixed = {name for name in own if reshapes(name)}
    if not fixed and shapes(new) != shapes(old):
        fixed = set(own)
    if fixed:
        refused = _listed({name: seen for name, seen in changes.items() if name in fixed})
        raise UsageError(
            f"--allow-changes with {refused}: expected changes that leave the model, the data and "
            "the shapes of the parameters as they are; train a new run"
        )
    return changes


@typed
def train(model: str | zoo.Variant = "vae", *, run: str | None = None, **choices: Any) -> Run:
    """Train a new model, evaluate it and draw its figures, in a new run folder.

    Args:
        model: a recipe's name, or a recipe from outside.
        run: the folder; by default a fresh one under ``runs/``.
        choices: fields of DataSettings and TrainSettings, and the recipe's arguments.

    Returns:
        The trained Run.

    Raises:
        UsageError, DataError: before anything is written.
        DivergedError, Stopped: see ``training.loop.fit``.
    """
    return execute(make_plan(model, **choices), run=run)


@typed
def execute(
    plan: Plan,
    *,
    run: str | None = None,
    resume: str | None = None,
    allow_changes: bool = False,
    terminal: Terminal | None = None,
) -> Run:
    """``train`` for a plan; with ``resume``, go on with that run folder instead of a new one.

    A resume takes the settings of the run, or with ``allow_changes`` others, which run.json then
    lists: any but the model, the data, and what shapes the parameters.
    """
    started = time.monotonic()
    folder, changes, unlinked = None, {}, ""
    if resume is not None:
        if run is not None:
            raise UsageError(f"--run {run} with --resume {resume}: expected one of them")
        folder = RunFolder.open(resume, {plan.model: zoo.recipe(plan.function)})
        if allow_changes:
            changes = check_changes(folder.plan(), plan, folder.spec())
            if changes and hosts.share(hosts.first() and is_closed(folder)):
                raise UsageError(
                    f"--allow-changes with {_listed(changes)}: the training of {folder.path} is "
                    "over, and of it the model alone is kept; train a new run"
                )
        else:
            check_resume(folder.plan(), plan)
    elif allow_changes:
        raise UsageError("--allow-changes without --resume: expected a run to change")
    elif run is not None and hosts.first():
        check_new(Path(run), _GOES_ON)
    found = plan.data
    if folder is None:
        data = pipeline.prepare(plan.data)
    else:
        check = functools.partial(check_same_data, folder)
        data, found = places.find(plan.data, folder.record(), check)
    anywhere = dataclasses.replace(plan.data, data_dir=None)
    asked = [plan.model, dict(plan.arguments), asdict(anywhere), asdict(plan.training)]
    hosts.check_same([asked, data.sha256, data.labels_sha256], "settings, images or labels")
    recipe, mesh = plan.recipe(data.spec), meshes.make(plan.training.devices)
    trainer = steps.trainer(recipe, data, plan.training, mesh, plan.training.epochs or 0)
    shapes = jax.eval_shape(trainer.init)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(shapes.variables["params"]))
    # All that a user can get wrong has been checked: from here on files are written.
    first = hosts.first()  # the others compute, and write nothing
    path = folder.path if folder else _new_folder(plan, run)
    holding = lock.hold(path) if first else contextlib.nullcontext()
    with holding as held, signals.caught() as heard:
        if not first:
            folder, terminal = None, None
        elif folder is None:
            check_new(path, _GOES_ON)  # nobody was quicker
            folder = RunFolder.create(path, plan, run_facts(data, parameters, mesh))
            unlinked = point_latest(path)
        else:
            folder.extend(plan, changes, found)
        if folder is not None:
            folder.hold(held)
        if terminal:
            terminal.header(words.header(plan, data, parameters, mesh, path))
            if unlinked:
                terminal.note(f"no {path.parent / 'latest'} ({unlinked}): name the run's folder")
        variables, history = keeper.fit(
            recipe, trainer, data, plan.training, mesh, folder, terminal
        )
        mesh, variables = _own(mesh, variables)
        step = history[-1]["step"] if history else 0
        at = RunFolder(path, {plan.model: zoo.recipe(plan.function)})
        trained = Run(at, plan, data.spec, recipe, variables, data.peak, mesh, step)
        if folder is None:  # the first process does the rest, on its own devices
            return trained
        stage = _stages(folder, terminal, heard)
        stage(f"evaluating {counted(len(data.test.x), 'test image')}")
        watch = functools.partial(stage, "evaluating test images")
        evaluation = bounds.evaluate(trained, data.test, watch=watch)
        finish(folder, run_summary(folder, data, variables, history, evaluation))
        drawing = functools.partial(stage, "drawing figures")
        of = figures.Subject(trained, data.test, evaluation)
        written = figures.write(of, folder.figures, (), drawing)
        folder.check_complete()
    if terminal:
        facts = words.numbers(trained, evaluation)
        facts["figures"] = f"{len(written)} in {words.relative(folder.figures)}"
        facts["time"] = f"{(time.monotonic() - started) / 60:.1f} minutes"
        terminal.summary(facts, words.next_commands(trained))
    return trained


def _stages(
    folder: RunFolder, terminal: Terminal | None, heard: Sequence[int]
) -> Callable[..., None]:
    """The terminal's ``stage`` for what follows a training; where a signal came, it ends there."""
    watch = terminal or loop.Quiet()

    def stage(what: str, done: int = 0, total: int = 0) -> None:
        if heard:
            after = f"stopped after training, which is saved, before {what}"
            raise Stopped(f"{after}; `{folder.goes_on}` goes on", heard[0])
        watch.stage(what, done, total)

    return stage


_GOES_ON = "flaxvae train --resume"


def _new_folder(plan: Plan, run: str | None) -> Path:
    """A new run's folder, made and named by the first process."""
    path = Path(run or "")
    if hosts.first():
        if run is None:
            seed, now = plan.training.seed, time.strftime("%Y%m%d-%H%M%S")
            path = make_new(f"{Path(plan.data.dataset).stem}-{plan.model}-s{seed}-{now}")
        path.mkdir(parents=True, exist_ok=True)
    return Path(hosts.share(str(path)))


def _own(mesh: Mesh, variables: Variables) -> tuple[Mesh, Variables]:
    """Variables on this process's own devices, where a mesh has those of others in it."""
    own = meshes.local(mesh)
    if own.size == mesh.size:
        return mesh, variables
    return own, meshes.put(meshes.fetch(variables), meshes.replicated(own))


def run_facts(data: pipeline.Data, parameters: int, mesh: Mesh) -> dict[str, Any]:
    """What run.json says besides the plan."""
    return {
        "data_spec": data.spec._asdict(),
        "data_origin": data.origin,
        "data_sha256": data.sha256,
        "labels_sha256": data.labels_sha256,
        "data_notes": list(data.notes),
        "peak": data.peak,
        "parameters": parameters,
        "devices": meshes.describe(mesh),
        "units": words.UNITS,
    }


def run_summary(
    folder: RunFolder,
    data: pipeline.Data,
    variables: Variables,
    history: Sequence[Any],
    evaluation: dict[str, Any],
) -> dict[str, Any]:
    """What summary.json says of a finished run."""
    about = {"data": data.spec.name, "units": words.UNITS}
    return closing(folder, variables, history, evaluation) | about


def closing(
    folder: RunFolder, variables: Variables, history: Sequence[Any], test: dict[str, Any]
) -> dict[str, Any]:
    """How far a training came, what it left, and the numbers of that on test images."""
    last = history[-1] if history else {"epoch": 0, "step": 0}
    return {
        "epochs": last["epoch"],
        "step": last["step"],
        "test": test,
        **restored.digests(variables),
        "run": folder.digests()[0],
    }


def finish(folder: RunFolder, summary: dict[str, Any]) -> None:
    """Write summary.json; the older checkpoints have had their time."""
    write_json(folder.path / "summary.json", summary)
    with Checkpoints(folder.checkpoints) as checkpoints:
        checkpoints.keep_newest()


def fit_prior(
    path: str | Path,
    settings: TrainSettings | None = None,
    *,
    place: Place = Place(),
    recipes: Mapping[str, zoo.Variant] = MappingProxyType({}),
    terminal: Terminal | None = None,
) -> Run:
    """Fit the autoregressive prior over the codes of a trained run, in its sub-folder ``prior``.

    The images' codes are read once; the prior learns their joint distribution by maximum
    likelihood, -log p(codes) in nats. A fit that was interrupted goes on.

    Args:
        path: run folder of a model with a codebook.
        settings: of the training; 50 epochs, batch 128, Adam 1e-3 with a cosine by default.
        place: where the run's data are now, if not where they were.
        recipes: those from outside, by name, where the run is of one.
        terminal: shows progress.

    Returns:
        The Run, able to sample, whose bound now has the fitted prior in it.

    Raises:
        UsageError: a model without such a prior, or other settings than those of the fit to go on.
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
    recipes: Mapping[str, zoo.Variant],
    terminal: Terminal | None,
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
        advice = f"give the same, or remove {folder.path} to fit it anew"
        check_resume(folder.plan(), plan, "fit-prior", advice)
    data, mesh = _codes(run, variables, place), meshes.make(settings.devices)
    trainer = steps.trainer(codes.prior, data, settings, mesh, settings.epochs or 0)
    if folder is None:
        shutil.rmtree(run.path / "prior", ignore_errors=True)  # one of other parameters
        shapes = jax.eval_shape(trainer.init)
        facts = {
            "model_sha256": contents.digest(jax.device_get(variables["params"])),
            "parameters": sum(x.size for x in jax.tree.leaves(shapes.variables["params"])),
            "units": "nats, summed over codes, averaged over images",
        }
        folder = RunFolder.create(run.path / "prior", plan, facts)
    else:
        folder.extend(plan)
    folder.goes_on = command("flaxvae", "fit-prior", run.path, *outside.flag(recipes))
    folder.hold(held)
    if terminal:
        terminal.header(words.prior_header(run, data, folder, plan))
    with signals.caught() as heard:
        fitted, history = keeper.fit(codes.prior, trainer, data, settings, mesh, folder, terminal)
        stage = _stages(folder, terminal, heard)
        stage(f"evaluating the codes of {counted(len(data.test.x), 'test image')}")
        test = batches.over_split(batches.bound_terms(codes.prior.model), mesh)
        nats = -test(data.test, fitted, jax.random.key(0))["elbo"].mean(dtype="float64")
        finish(folder, closing(folder, fitted, history, {"code_nats": float(nats)}))
        stage("drawing samples")
        done = load(path, recipes)
        figures.draw("samples", done.folder.figures / "samples.png", shown.samples(done))
        folder.check_complete()
    if terminal:
        terminal.summary(words.prior_numbers(done, float(nats)), words.next_commands(done))
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


__all__ = ["Run", "execute", "fit_prior", "load", "make_plan", "train"]
