"""From data to report in one call: plan, load, train, measure, draw.

run = flaxvae.train(images, latent_dim=2)        # or "mnist", "images.npz", (images, labels)
run = flaxvae.load("runs/latest")
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from flaxvae import lookup, outside, signals, zoo
from flaxvae.analysis import diagnosis
from flaxvae.analysis.evaluation import Evaluation
from flaxvae.analysis.judgement import judge
from flaxvae.choices import Choices
from flaxvae.choosing import Choice
from flaxvae.core import Variables
from flaxvae.data import pipeline, sources
from flaxvae.data.pipeline import Data, Split
from flaxvae.declared import typed
from flaxvae.devices import hosts
from flaxvae.devices import mesh as meshes
from flaxvae.errors import UsageError, command, counted
from flaxvae.export import tutorials
from flaxvae.plan import Plan, fitting, make_plan, settle
from flaxvae.recipe import DataSpec, Recipe
from flaxvae.report import figures, words
from flaxvae.report.html import run as html
from flaxvae.report.terminal import Terminal
from flaxvae.runs import keeper, lock, places
from flaxvae.runs.closing import finish, run_facts, run_summary, stages
from flaxvae.runs.folder import RunFolder
from flaxvae.runs.fresh import check_new, make_new, point_latest
from flaxvae.runs.resume import check_changes, check_resume, listed
from flaxvae.runs.run import Run, check_same_data, is_closed, load
from flaxvae.settings import DataSettings, asdict
from flaxvae.training import observers
from flaxvae.training import step as steps


def train(
    data: Any = None,
    model: str | lookup.Variant = "vae",
    *,
    run: str | None = None,
    progress: bool | Progress = True,
    **choices: Unpack[Choices],
) -> Run:
    """Train a new model, evaluate it and draw its figures, in a new run folder.

    Args:
        data: what to train on: images [N, *shape] as ``data.sources`` takes them, a pair (images,
            labels), a mapping with the keys of an .npz file (x_train, y_train, x_test, y_test), the
            path of such a file, or a dataset's name; by default the built-in digits.
        model: a recipe's name, or a recipe from outside.
        run: the folder; by default a new one under ``runs/``.
        progress: whether to show it, or a function that is called with each epoch's row of metrics.
        choices: fields of DataSettings and TrainSettings, and the recipe's arguments.

    Returns:
        The trained Run.

    Raises:
        UsageError, DataError: before anything is written.
        DivergedError, Stopped: see ``training.loop.fit``.
    """
    chosen, arrays = with_data(choices, data)
    plan = make_plan(model, **chosen)
    with watching(progress) as watch:
        return execute(plan, run=run, arrays=arrays, terminal=watch)


def with_data(choices: Mapping[str, Any], data: Any) -> tuple[dict[str, Any], Any]:
    """``choices`` with the dataset that ``data`` names, and its arrays if it consists of arrays."""
    if data is None:
        return dict(choices), None
    named = isinstance(data, str | os.PathLike)
    dataset = os.fspath(data) if named else sources.ARRAYS
    if "dataset" in choices:
        raise UsageError(f"data and --dataset {choices['dataset']}: expected one of them")
    if dataset in zoo.RECIPES:
        raise UsageError(f"data {dataset!r}, which is a model: expected model={dataset!r}")
    return {**choices, "dataset": dataset}, None if named else data


Progress = Callable[[Mapping[str, Any]], None]  # of an epoch's row of metrics.jsonl


class _Heard(observers.Quiet):
    """A watcher that calls a function with each epoch's row."""

    def __init__(self, hear: Progress):
        self._hear = hear

    def epoch(self, record):
        self._hear(record)


@contextlib.contextmanager
def watching(progress: bool | Progress) -> Iterator[Any]:
    """The watcher of a training that was started from Python."""
    if callable(progress):
        yield _Heard(progress)
    elif progress and sys.stdout is not None:
        with Terminal() as terminal:
            yield terminal
    else:
        yield observers.Quiet()


@typed
def execute(
    plan: Plan,
    *,
    run: str | None = None,
    resume: str | None = None,
    allow_changes: bool = False,
    arrays: Any = None,
    terminal: Any = None,
    origin: Origin | None = None,
) -> Run:
    """``train`` for a plan; with ``resume``, continue that run instead of starting a new one.

    A resumed run keeps its settings. With ``allow_changes`` they may differ, except the model, the
    data and what determines the shapes of the parameters; run.json lists the changes. ``terminal``
    is a Terminal or any other watcher. With an ``origin``, training begins with its params.
    """
    watch = (terminal if hosts.first() else None) or observers.Quiet()  # the others are silent
    started = time.monotonic()
    task = _asked(plan, run, resume, allow_changes)
    data = task.load(arrays, watch.watch("decoding pictures"))
    plan = task.plan
    recipe, mesh = plan.recipe(data.spec), meshes.make(plan.training.devices)
    trainer = steps.trainer(recipe, data, plan.training, mesh, plan.training.epochs or 0)
    if origin is not None:
        trainer = _beginning(trainer, origin, data)
        task.facts = {"imported": dict(origin.facts)}
    # All user errors have been checked: from here on, files are written.
    with task.folder(data, trainer, mesh, watch) as (folder, heard):
        variables, history = keeper.fit(recipe, trainer, data, plan.training, mesh, folder, watch)
        trained = task.run(recipe, data, mesh, variables, history)
        if folder is None:  # the first process does the rest, on its own devices
            return trained
        stage = stages(folder, watch, heard)
        evaluation = _measure(trained, data.test, stage)
        finish(folder, run_summary(folder, data, trained.variables, history, evaluation))
        shown = drawn(figures.Subject(trained, data.test, evaluation), stage)
        folder.check_complete()
    facts = words.numbers(trained, evaluation) | shown
    facts["time"] = f"{(time.monotonic() - started) / 60:.1f} minutes"
    known = diagnosis.known(recipe, plan, history, evaluation, data.test)
    if wrong := [found for found in judge(known) if found.serious]:
        facts["diagnosis"] = wrong[0].text
    watch.summary(facts, words.next_commands(trained))
    return trained


def _measure(run: Run, test: Split, stage: Callable[..., None]) -> Evaluation:
    one = f"test {run.spec.example}"
    stage(f"evaluating {counted(len(test.x), one)}")
    return run.evaluate(test, watch=functools.partial(stage, f"evaluating {one}s"))


def drawn(of: figures.Subject, stage: Callable[..., None]) -> dict[str, str]:
    """Draw a run's figures, and write its page; returns where they are, for the summary."""
    folder = of.run.folder.figures
    written = figures.write(of, folder, (), functools.partial(stage, "drawing figures"))
    said = {"figures": f"{len(written)} in {words.relative(folder)}"}
    stage("writing the page")
    try:
        return said | {"page": words.relative(html.write(of))}
    except Exception as error:  # whatever it is, the run is on disk
        found = outside.flag(of.run.folder.recipes)
        again = command("flaxvae", "report", words.relative(of.run.path), *found)
        reason = str(error).partition("\n")[0] or type(error).__name__
        return said | {"page": f"not written ({reason}); write it with `{again}`"}


class Origin(NamedTuple):
    """Params from elsewhere, and what run.json says of them."""

    params: Callable[[DataSpec], Variables]  # raises UsageError if they do not fit the data
    facts: Mapping[str, Any]


def _beginning(trainer: steps.Trainer, origin: Origin, data: Data) -> steps.Trainer:
    """The trainer, beginning with these params."""
    params = origin.params(data.spec)
    tutorials.check(params, jax.eval_shape(trainer.init).variables["params"], data.spec)

    def init() -> steps.TrainState:
        state = trainer.init()
        own = {**state.variables, "params": jax.tree.map(jnp.asarray, params)}
        return dataclasses.replace(state, variables=own)

    return trainer._replace(init=jax.jit(init, out_shardings=trainer.sharding))


@dataclasses.dataclass
class _Task:
    """The requested training: a new one, or one that continues in ``resumed``."""

    plan: Plan
    path: str | None  # of the new folder, if it was named
    resumed: RunFolder | None
    changes: Mapping[str, tuple[Any, Any]]
    found: DataSettings  # with which the data were found
    chosen: Mapping[str, Choice] = dataclasses.field(default_factory=dict)  # by the data, loaded
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # for run.json

    def load(self, arrays: Any, watch: Callable[[int, int], None]) -> Data:
        """The data, the same in every process."""
        plan, old = self.plan, self.resumed
        if old is None:
            data = pipeline.prepare(plan.data, arrays, watch)
        else:
            check = functools.partial(check_same_data, old)
            data, self.found = places.find(plan.data, old.record(), check, watch=watch)
        anywhere = dataclasses.replace(plan.data, data_dir=None)
        asked = [plan.model, dict(plan.arguments), asdict(anywhere), asdict(plan.training)]
        hosts.check_same([asked, data.sha256, data.labels_sha256], "settings, images or labels")
        self.chosen = plan.chosen(data.spec)
        self.plan = settle([plan], data.spec)[0]
        if old is None:
            self.plan, smaller = fitting(self.plan, data.spec)
            self.chosen = {**self.chosen, **smaller}
        return data

    @contextlib.contextmanager
    def folder(
        self, data: Data, trainer: steps.Trainer, mesh: Mesh, watch: Any
    ) -> Iterator[tuple[RunFolder | None, list[int]]]:
        """The locked run folder, which only the first process has, and the signals received."""
        shapes = jax.eval_shape(trainer.init)
        parameters = sum(leaf.size for leaf in jax.tree.leaves(shapes.variables["params"]))
        first, unlinked, folder = hosts.first(), "", self.resumed
        path = folder.path if folder else _new_folder(self.plan, self.path)
        self.path = str(path)
        holding = lock.hold(path) if first else contextlib.nullcontext()
        with holding as held, signals.caught() as heard:
            if not first:
                yield None, heard
                return
            if folder is None:
                check_new(path, _RESUME)  # again, now that it is locked
                facts = run_facts(data, parameters, mesh)
                folder = RunFolder.create(path, self.plan, facts | {**self.facts})
                unlinked = point_latest(path)
            else:
                folder.extend(self.plan, self.changes, self.found)
            folder.hold(held)
            watch.header(words.header(self.plan, data, parameters, mesh, path, self.chosen))
            if unlinked:
                watch.note(f"no {path.parent / 'latest'} ({unlinked}): use its folder")
            yield folder, heard

    def run(
        self, recipe: Recipe, data: Data, mesh: Mesh, variables: Variables, history: Sequence[Any]
    ) -> Run:
        """The trained Run."""
        assert self.path is not None
        mesh, variables = _own(mesh, variables)
        return Run(
            recipe,
            variables,
            mesh=mesh,
            peak=data.peak,
            folder=RunFolder(Path(self.path), {self.plan.model: lookup.recipe(self.plan.function)}),
            plan=self.plan,
            step=history[-1]["step"] if history else 0,
            loaded=data,
        )


def _asked(plan: Plan, run: str | None, resume: str | None, allow_changes: bool) -> _Task:
    """The task, with settings checked against its folder. Raises UsageError if they conflict."""
    if resume is None:
        if allow_changes:
            raise UsageError("--allow-changes without --resume: expected a run to change")
        if run is not None and hosts.first():
            check_new(Path(run), _RESUME)
        return _Task(plan, run, None, {}, plan.data)
    if run is not None:
        raise UsageError(f"--run {run} with --resume {resume}: expected one of them")
    folder = RunFolder.open(resume, {plan.model: lookup.recipe(plan.function)})
    plan = plan.like(folder.plan())
    if not allow_changes:
        check_resume(folder.plan(), plan)
        return _Task(plan, None, folder, {}, plan.data)
    changes = check_changes(folder.plan(), plan, folder.spec())
    if changes and hosts.share(hosts.first() and is_closed(folder)):
        raise UsageError(
            f"--allow-changes with {listed(changes)}: the training of {folder.path} is "
            "finished, and only the model was kept; train a new run"
        )
    return _Task(plan, None, folder, changes, plan.data)


_RESUME = "flaxvae train --resume"


def _new_folder(plan: Plan, run: str | None) -> Path:
    """A new run's folder, created by the first process."""
    path = Path(run or "")
    if hosts.first():
        if run is None:
            seed, now = plan.training.seed, time.strftime("%Y%m%d-%H%M%S")
            path = make_new(f"{sources.called(plan.data.dataset)}-{plan.model}-s{seed}-{now}")
        path.mkdir(parents=True, exist_ok=True)
    return Path(hosts.share(str(path)))


def _own(mesh: Mesh, variables: Variables) -> tuple[Mesh, Variables]:
    """Variables on this process's own devices, if the mesh includes those of others."""
    own = meshes.local(mesh)
    if own.size == mesh.size:
        return mesh, variables
    return own, meshes.put(meshes.fetch(variables), meshes.replicated(own))


__all__ = ["Run", "execute", "load", "train"]
