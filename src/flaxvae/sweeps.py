"""A grid of settings and seeds, trained side by side and compared.

sweep = flaxvae.sweep("mnist", "beta_vae", seeds=8, beta=[1, 2, 4], learning_rate=[1e-3, 3e-4])

runs/sweep-<dataset>-<model>-<time>/
    sweep.json            what was asked for, the members, the table
    sweep.md              the table
    <settings, seed>/     a run folder for each member, written when its training has finished
    state/                while a sweep is running or interrupted
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxvae import lookup, outside, signals, writing
from flaxvae.analysis.evaluation import UNITS, Evaluation, evaluation_keys, measurement, numbers
from flaxvae.api import Progress, watching, with_data
from flaxvae.choosing import Choice
from flaxvae.data import pipeline, sources
from flaxvae.declared import Positive
from flaxvae.devices import mesh as meshes
from flaxvae.errors import DataError, DivergedError, Stopped, UsageError, command, counted
from flaxvae.grid import SEEDS, Grid, make_grid
from flaxvae.machine import versions
from flaxvae.plan import Plan
from flaxvae.report import sweeps as report
from flaxvae.report import words
from flaxvae.runs import lock, places
from flaxvae.runs.checkpoints import Checkpoints
from flaxvae.runs.closing import run_facts, run_summary
from flaxvae.runs.folder import RunFolder, write_json
from flaxvae.runs.fresh import check_new, make_new
from flaxvae.runs.keeper import GroupKeeper
from flaxvae.runs.run import Run, load, same_data
from flaxvae.settings import Place, asdict
from flaxvae.training import members, observers
from flaxvae.training import step as steps

FORMAT = 1
_RESUME = "flaxvae sweep --resume"


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A finished sweep."""

    path: Path
    table: list[
        dict[str, Any]
    ]  # one row per setting: settings, seeds, diverged; mean and std of ...
    names: list[str]  # of the members that did not diverge, in the order of the grid
    recipes: Mapping[str, lookup.Variant]  # theirs, by name
    data: pipeline.Data

    @functools.cached_property
    def runs(self) -> list[Run]:
        """The loaded runs of these members."""
        runs = (load(self.path / name, self.recipes) for name in self.names)
        return [dataclasses.replace(run, loaded=self.data) for run in runs]


def sweep(
    data: Any = None,
    model: str | lookup.Variant = "vae",
    *,
    seeds: Positive = SEEDS,
    run: str | None = None,
    progress: bool | Progress = True,
    **choices: Any,
) -> Sweep:
    """Train every combination of settings and seeds; those that share a program, side by side.

    Args:
        data: as for ``train``.
        model: a recipe's name, or a recipe from outside.
        seeds: how many, starting at ``seed`` (0).
        run: the folder; by default a new one under ``runs/``.
        progress: as for ``train``; a row has the means over the members.
        choices: as for ``train``; a list gives several values of a setting to combine.

    Returns:
        The Sweep: its folder, the table of its settings, and its members' runs.

    Raises:
        UsageError, DataError: before anything is compiled or written.
        DivergedError: all members diverged.
        Stopped: a signal arrived; the state is saved.
    """
    chosen, arrays = with_data(choices, data)
    grid = make_grid(model, seeds, **chosen)
    with watching(progress) as watch:
        return execute(grid, run=run, arrays=arrays, terminal=watch)


def execute(
    grid: Grid, *, run: str | None = None, arrays: Any = None, terminal: Any = None
) -> Sweep:
    """``sweep`` for a grid."""
    watch = (terminal or observers.Quiet()).watch("decoding pictures")
    data = pipeline.prepare(next(iter(grid.plans().values())).data, arrays, watch)
    chosen, grid = grid.chosen(data.spec), grid.settled(data.spec)
    plans = _plans(grid, data)
    plan = next(iter(plans.values()))
    stem = (
        f"sweep-{sources.called(plan.data.dataset)}-{plan.model}-{time.strftime('%Y%m%d-%H%M%S')}"
    )
    if run is not None:
        check_new(Path(run), _RESUME)
    groups = _groups(plans, data)
    # All user errors have been checked: from here on, files are written.
    settings = asdict(plan.data) | asdict(plan.training) | dict(plan.arguments)
    record = {
        "format": FORMAT,
        "model": plan.model,
        "settings": {k: v for k, v in settings.items() if k not in grid.varied and k != "seed"},
        "varied": grid.varied,
        "seeds": grid.seeds,
        "data_sha256": data.sha256,
        "labels_sha256": data.labels_sha256,
        "data_paths": places.recorded(plan.data),
        "units": UNITS,
        "versions": versions(),
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "members": [],
    }
    path = make_new(stem) if run is None else Path(run)
    path.mkdir(parents=True, exist_ok=True)
    with lock.hold(path) as held:
        check_new(path, _RESUME)  # again, now that it is locked
        return _train(grid, groups, data, held, record, terminal, chosen)


def resume(
    folder: str,
    *,
    place: Place = Place(),
    recipes: Mapping[str, lookup.Variant] = lookup.NO_RECIPES,
    terminal: Any = None,
) -> Sweep:
    """Resume an interrupted sweep from its last checkpoint.

    Args:
        folder: the sweep's folder.
        place: where its data are now, if they have moved.
        recipes: recipes from outside, by name, if it uses one.
        terminal: shows progress.

    Raises:
        UsageError: not a sweep's folder, or its recipe is neither known nor given.
        DataError: it is damaged, or the data have changed.
    """
    path = Path(folder).resolve()
    if not (path / "sweep.json").is_file():
        raise UsageError(f"{path} is not a sweep: expected a folder that `flaxvae sweep` wrote")
    try:
        record = json.loads((path / "sweep.json").read_text())
        settings = {name: _value(x) for name, x in record["settings"].items()}
        varied = {name: [_value(x) for x in values] for name, values in record["varied"].items()}
        seeds, model, sha256 = record["seeds"], record["model"], record["data_sha256"]
        record["members"] = list(record["members"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path / 'sweep.json'} is damaged ({type(error).__name__}: {error}): expected what "
            "`flaxvae sweep` wrote"
        ) from None
    model = lookup.recorded(model, recipes, path)
    plan = next(iter(Grid(model, settings, varied, seeds).plans().values()))

    def check(data: pipeline.Data) -> pipeline.Data:
        uses_labels = plan.recipe(data.spec).classes is not None
        return same_data({**record, "data_sha256": sha256}, None, uses_labels, data, path)

    data, found = places.find(plan.data, record, check, place)
    settings |= {"dataset": found.dataset, "data_dir": found.data_dir}
    record["data_paths"] = places.recorded(found)
    grid = Grid(model, settings, varied, seeds)
    plans = _plans(grid, data)
    with lock.hold(path) as held:
        return _train(grid, _groups(plans, data), data, held, record, terminal)


def _value(stored: Any) -> Any:
    return tuple(stored) if isinstance(stored, list) else stored


def _plans(grid: Grid, data: pipeline.Data) -> dict[str, Plan]:
    """Every member's plan, with what these data decide chosen."""
    return {name: plan.settled(data.spec) for name, plan in grid.plans().items()}


def _groups(plans: Mapping[str, Plan], data: pipeline.Data) -> list[members.Group]:
    """The members, grouped by the compiled program they share."""
    if jax.process_count() > 1:
        raise UsageError(f"a sweep in {jax.process_count()} processes: expected one")
    each = [members.Member(name, plan, plan.recipe(data.spec)) for name, plan in plans.items()]
    for _, plan, recipe in each:
        meshes.make(plan.training.devices)
        steps.check(recipe, data, plan.training, meshes.make(1))
        members.check_resident(recipe, data, plan.training)
    return members.groups(each, data, measurement)


def _train(
    grid: Grid,
    groups: list[members.Group],
    data: pipeline.Data,
    held: lock.Held,
    record: dict[str, Any],
    terminal: Any,
    chosen: Mapping[str, Choice] = MappingProxyType({}),
) -> Sweep:
    """Train the groups that ``record`` lacks, one after another; then compare all members."""
    path = held.folder

    def note() -> None:
        write_json(path / "sweep.json", record)
        held.keep(path / "sweep.json")

    note()
    started, plan = time.monotonic(), groups[0].members[0].plan
    sizes = [members.mesh_of(len(group.members), plan.training.devices) for group in groups]
    devices = "; ".join(dict.fromkeys(meshes.describe(mesh) for mesh in sizes))
    facts = report.header(plan, grid.varied, grid.seeds, groups, data, devices, path)
    if chosen:
        facts["chosen"] = words.chosen_line(chosen)
    watch = terminal or observers.Quiet()
    watch.header(facts)
    with signals.caught() as heard:
        for number, (group, mesh) in enumerate(zip(groups, sizes, strict=True)):
            done = {member["name"] for member in record["members"]}
            if done >= {member.name for member in group.members}:
                continue
            if len(groups) > 1:
                which = f"compilation {number + 1} of {len(groups)}"
                watch.note(f"{which}: {counted(len(group.members), 'member')}")
            state = path / "state" / str(number)
            for member, epoch in _train_group(group, data, mesh, held, state, watch, heard):
                record["members"].append(_listed(member, grid, epoch))
            note()
            shutil.rmtree(state, ignore_errors=True)
    shutil.rmtree(path / "state", ignore_errors=True)
    found = _compare(grid, data, path, record, facts)
    watch.table(report.lines(found.table))
    for text in (f"{report.NOTE}; {facts['units']}", *report.remarks(found.table)):
        watch.note(text)
    runs, where = counted(len(found.names), "run"), words.relative(path)
    written = f"{runs}, sweep.json and sweep.md in {where}"
    minutes = f"{(time.monotonic() - started) / 60:.1f} minutes"
    one, program = words.relative(path / found.names[0]), words.program()
    file = outside.flag(found.recipes)
    following = [
        (command(program, "figures", one, *file), "draw a member's figures"),
        (command(program, "eval", one, *file, "--k", 500), "tighter bound"),
    ]
    watch.summary({"written": written, "time": minutes}, following)
    return found


def _compare(
    grid: Grid, data: pipeline.Data, path: Path, record: dict[str, Any], facts: Mapping[str, str]
) -> Sweep:
    """Write the table of a sweep whose members have all finished."""
    table = _table(grid, record["members"], path)
    order = {name: i for i, name in enumerate(grid.plans())}
    record["members"].sort(key=lambda member: order[member["name"]])
    write_json(path / "sweep.json", record | {"table": table})
    writing.text(path / "sweep.md", report.markdown(path.name, facts, table))
    names = [member["name"] for member in record["members"] if member["diverged"] is None]
    if not names:
        raise DivergedError(
            f"every member diverged: expected a finite loss in at least one of {len(order)}; try a "
            "lower --learning-rate, --clip-norm 1, or --warmup-steps 500"
        )
    function = lookup.recipe(grid.model)
    return Sweep(path, table, names, {function.__name__: function}, data)


def _train_group(
    group: members.Group,
    data: pipeline.Data,
    mesh: Any,
    held: lock.Held,
    state_folder: Path,
    watch: Any,
    heard: list[int],
) -> Iterator[tuple[members.Member, int | None]]:
    """Train members and write their run folders; yields each with the epoch where it diverged."""
    count = len(group.members)
    file = outside.flag({"": lookup.recipe(group.members[0].plan.function)})
    resuming = command(*_RESUME.split(), held.folder, *file)
    trainer = members.trainer(group, data, mesh)
    with GroupKeeper(state_folder, count, held, resuming, watch.note) as keeper:
        state, histories = members.fit(group, trainer, data, mesh, keeper, watch)
    watch.stage(f"evaluating {counted(count, 'member')}")
    keys = jnp.stack([evaluation_keys(0)[0]] * count)
    measure = members.over_split(group, measurement, data, mesh)
    found = measure(data.test, state.final(), meshes.put(keys, meshes.split(mesh)))
    state = jax.device_get(state)
    for i, member in enumerate(group.members):
        if heard:
            written = f"{i} of {count} runs written"
            raise Stopped(f"stopped after training, {written}; resume with `{resuming}`", heard[0])
        one = {key: np.ascontiguousarray(values[:, i]) for key, values in found.items()}
        evaluation = numbers(member.recipe, data.test, one)
        watch.stage("writing runs", i, count)
        epoch = None
        if state.guard.fault[i]:
            epoch = len(histories[i]) + 1
        elif not math.isfinite(evaluation.reconstruction):
            epoch = len(histories[i])
        if epoch is None:
            alone = members.alone(state, i)
            _write(
                held.folder / member.name, member.plan, data, mesh, alone, histories[i], evaluation
            )
        yield member, epoch


def _write(
    path: Path,
    plan: Plan,
    data: pipeline.Data,
    mesh: Any,
    state: steps.TrainState,
    history: list[observers.Row],
    evaluation: Evaluation,
) -> None:
    """Write a member's run folder, completely or not at all."""
    partial = writing.temporary(path)
    shutil.rmtree(path, ignore_errors=True)
    try:
        variables = state.final()
        parameters = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
        facts = run_facts(data, parameters, mesh)
        folder = RunFolder.create(partial, plan, facts)
        for row in history:
            folder.append(row)
        folder.close()
        about = {"machine": meshes.machine(meshes.make(1))}
        owners = folder.digests()
        with Checkpoints(folder.checkpoints, facts=about, owners=owners) as checkpoints:
            checkpoints.save(state if plan.training.open_ended else state.closed())
        summary = run_summary(folder, data, variables, history, evaluation)
        write_json(partial / "summary.json", summary)
        partial.replace(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _listed(member: members.Member, grid: Grid, epoch: int | None) -> dict[str, Any]:
    """A member as sweep.json lists it."""
    training = member.plan.training
    settings = vars(training) | dict(member.plan.arguments)
    varied = {name: settings[name] for name in grid.varied}
    return {"name": member.name, "settings": varied, "seed": training.seed, "diverged": epoch}


def _table(grid: Grid, listed: list[dict[str, Any]], path: Path) -> list[dict[str, Any]]:
    """Mean and standard deviation over seeds of each setting's evaluations."""
    finite = [member["name"] for member in listed if member["diverged"] is None]
    tests = {
        name: json.loads((path / name / "summary.json").read_text())["test"] for name in finite
    }
    return report.table(grid.settings(), listed, tests)
