"""A run as text: the terminal's header, the final numbers, and what to do next."""

from __future__ import annotations

import math
import os
import shutil
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from flaxvae import declared, lookup, outside
from flaxvae.analysis.evaluation import UNITS, USED, Evaluation
from flaxvae.choosing import Choice
from flaxvae.data.pipeline import Data, Split
from flaxvae.devices import mesh as meshes
from flaxvae.errors import command, counted
from flaxvae.parts.levels import Levels
from flaxvae.plan import Plan
from flaxvae.recipe import Recipe
from flaxvae.runs import pages
from flaxvae.runs.run import Run
from flaxvae.settings import Body, Bound, TrainSettings
from flaxvae.trained import Trained

value = declared.short
CROSS_ENTROPY = "grey pixels under a Bernoulli give cross-entropies, not log-densities"


def relative(path: Path) -> str:
    """A path as one would type it here."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def units(recipes: Iterable[Recipe]) -> str:
    """What the numbers of these models mean."""
    grey = any(recipe.log_px == "cross_entropy" for recipe in recipes)
    return f"{UNITS}; {CROSS_ENTROPY}" if grey else UNITS


def numbers(run: Trained, found: Evaluation, split: str = "test") -> dict[str, str]:
    """An evaluation as text, with units."""
    recipe = run.recipe
    density, given = recipe.log_px != "cross_entropy", "|y" * (recipe.classes is not None)
    one = run.spec.example
    facts = {f"{split} data": f"{counted(found.images, one)}, {run.spec.name}"}
    if found.elbo is not None:
        of = f", of log p(x{given})" if given and density else ""
        facts["-ELBO"] = f"{-found.elbo:.2f} ± {found.elbo_standard_error:.2f} nats per {one}{of}"
    said = f"-log p(x|z{given.replace('|', ', ')})" if density else "cross-entropy"
    facts["reconstruction"] = f"{found.reconstruction:.2f} nats, {said}"
    if found.kl is not None:
        facts["KL"] = f"{found.kl:.2f} nats"
        if recipe.hierarchy is not None and found.kl_per_unit is not None:
            facts |= of_levels(recipe.hierarchy, found.kl_per_unit)
    if found.active_units is not None:
        facts["active units"] = f"{found.active_units} of {len(found.code_variance or ())}"
    if found.codes_used is not None and recipe.codes is not None:
        facts["codes used"] = (
            f"{found.codes_used} of {recipe.codes.size}, perplexity {found.perplexity:.1f}"
        )
    if found.bits_per_dim is not None:
        facts["bits per dim"] = f"{found.bits_per_dim:.4f}"
    if (bound := found.importance_weighted_elbo) is not None:
        nats = f"{-bound.nats:.2f} ± {bound.standard_error:.2f} nats"
        samples = counted(bound.k, "importance sample")
        if density:
            facts[f"-log p(x{given})"] = f"{nats}, upper bound from {samples}"
        else:
            facts["-IW-ELBO"] = f"{nats}, of cross-entropies, from {samples}"
    facts["MSE"] = f"{found.mse:.5f} {per_value(run)}, from the {recipe.code}"
    if found.elbo is not None:
        facts["±"] = f"standard error over {one}s"
    return facts


def of_levels(levels: Levels, kl: Sequence[float]) -> dict[str, str]:
    """The KL of each level and its blocks, and which of them say next to nothing."""
    if len(kl) < 2:
        return {}
    rest, said = iter(kl), []
    for name, count in zip(levels.names, levels.blocks, strict=True):
        own = [next(rest) for _ in range(count)]
        parts = " + ".join(f"{nats:.2f}" for nats in own)
        said.append(f"{name} {sum(own):.2f}" + f" ({parts})" * (count > 1))
    idle = [name for name, nats in zip(levels.columns, kl, strict=True) if not nats >= USED]
    active = f"{len(kl) - len(idle)} of {len(kl)}"
    if idle:
        active += (
            f"; a KL below {USED:g} nats: {'all' if len(idle) == len(kl) else ', '.join(idle)}"
        )
    return {"KL by level": ", ".join(said), f"active {levels.unit}s": active}


def per_value(run: Trained) -> str:
    """What errors are averaged over: "per pixel" of images, else "per value"."""
    return "per pixel" if len(run.spec.shape) == 3 else "per value"


def shape(data: Data) -> str:
    """The shape of an example: "28 x 28 x 1 (h x w x c)"."""
    found = " x ".join(map(str, data.spec.shape))
    return f"{found} (h x w x c)" if len(data.spec.shape) == 3 else f"{found} values"


def data_line(data: Data) -> str:
    """A dataset: its name, shape, splits and origin, and any notes on it."""

    def count(split: Split | None) -> str:
        return f"{len(split.x) if split else 0:,}"

    splits = (
        f"{count(data.train)} train, {count(data.validation)} validation, {count(data.test)} test"
    )
    line = f"{data.spec.name}: {shape(data)}, {splits} ({data.origin})"
    return "; ".join([line, *data.notes])


def choices(plan: Plan) -> str:
    """A model's arguments: its own, and shared ones that differ from the default.

    Arguments that are None or empty, or have no effect given the others, are left out, and so is a
    switch that is off.
    """
    usual = {k: v for record in (Body(), Bound()) for k, v in vars(record).items()}
    always, kinds = (*lookup.own(plan.function), "net", "likelihood"), lookup.hints(plan.function)
    return ", ".join(
        name if chosen is True else f"{name} {value(chosen)}"
        for name, chosen in plan.arguments.items()
        if chosen not in (None, ())
        and chosen is not False
        and declared.has_effect(kinds[name], plan.arguments)
        and (name in always or chosen != usual[name])
    )


def heading(run: Run) -> str:
    """What identifies a run in its figures: "vae on mnist, pixels in [0, 1]; ..., seed 0"."""
    chosen = choices(run.plan).replace("_", " ")
    epochs = counted(len(run.folder.history()), "epoch")
    seed = f"seed {run.plan.training.seed}"
    at = "" if run.finished else f", not finished, step {run.step}"
    return f"{run.plan.model} on {run.spec.name}; {chosen}; {epochs}, {seed}{at}"


def training_line(training: TrainSettings, varied: Collection[str] = ()) -> str:
    """How a model is trained, in short; what a sweep varies is called "varied"."""
    said = {k: "varied" if k in varied else value(v) for k, v in vars(training).items()}
    said["optimizer"] = said["optimizer"].capitalize()
    said["epochs"] = counted(training.epochs or 0, "epoch")
    return "{epochs}, batch {batch_size}, {optimizer} {learning_rate} ({schedule})".format(**said)


def chosen_line(chosen: Mapping[str, Choice]) -> str:
    """What the data decided, why, and how to decide otherwise."""
    said = [f"{name} {value(choice.value)} for {choice.why}" for name, choice in chosen.items()]
    flags = ", ".join(map(declared.flag, chosen))
    return f"{', '.join(said)}; {flags} set{'s another' if len(chosen) == 1 else ' others'}"


def header(
    plan: Plan,
    data: Data,
    parameters: int,
    mesh: Mesh,
    path: Path,
    chosen: Mapping[str, Choice],
) -> dict[str, str]:
    """What is about to be trained, on which data and devices; ``chosen``: decided by the data."""
    training = plan.training
    return {
        "model": f"{plan.model}, {counted(parameters, 'parameter')} ({choices(plan)})",
        "data": data_line(data),
        **({"chosen": chosen_line(chosen)} if chosen else {}),
        "training": f"{training_line(training)}, seed {training.seed}",
        "devices": meshes.describe(mesh),
        "units": units([plan.recipe(data.spec)]),
        "run": relative(path),
    }


def prior_header(run: Run, data: Data, folder: Any, plan: Plan) -> dict[str, str]:
    """The header for fitting a prior over codes."""
    return {
        "prior": f"autoregressive over {data.spec.shape} codes, "
        + counted(folder.record()["parameters"], "parameter"),
        "data": f"{data.spec.name}: {len(data.train.x):,} train, {len(data.test.x):,} test",
        "training": f"{training_line(plan.training)}, seed {plan.training.seed}",
        "units": "nats, summed over the codes of an image, averaged over images",
        "run": relative(folder.path),
    }


def prior_numbers(run: Run, nats: float) -> dict[str, str]:
    """How good a fitted prior is."""
    codes = run.recipe.codes
    assert codes is not None
    count = math.prod(codes.grid)
    return {
        "-log p(codes)": f"{nats:.2f} nats per test image, {nats / count:.3f} per code",
        "uniform codes": f"{count * math.log(codes.size):.2f} nats",
        "samples": relative(run.folder.figures / "samples.png"),
    }


def program() -> str:
    """The ``flaxvae`` command as it can be called from here: it may not be on the PATH."""
    beside = Path(sys.executable).parent / "flaxvae"
    if shutil.which("flaxvae") or not beside.exists():
        return "flaxvae"
    return relative(beside)


def page_again(run: Run) -> list[tuple[str, str]]:
    """The command that writes the page of a run again, if it has one, which is older now."""
    if not (run.path / pages.NAME).exists():
        return []
    again = command(program(), "report", relative(run.path), *outside.flag(run.folder.recipes))
    return [(again, "show it in the run's page, report.html")]


def next_commands(run: Run) -> list[tuple[str, str]]:
    """Commands to run next, each with a short description."""

    def words(name: str, *flags: object) -> str:
        return command(
            program(), name, relative(run.path), *flags, *outside.flag(run.folder.recipes)
        )

    tighter = [(words("eval", "--k", 500), "tighter bound")] if run.recipe.has_bound else []
    tighter = [(words("diagnose"), "why it is not better"), *tighter]
    draw = (words("sample"), "draw new images")
    if run.spec.kind == "table":
        scores = (words("score"), "how unusual each row is, .csv")
        return [*tighter, scores, (words("encode"), "latents of the test rows, .npz")]
    return [
        *tighter,
        draw if run.generates else (words("fit-prior"), "learn to draw new images"),
        (words("interpolate"), "walk between images"),
        (words("score"), "how unusual each test image is, .csv"),
        (words("encode"), "latents of the test images, .npz"),
    ]
