"""A run in words: the terminal's header, its closing numbers, and what to do next."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from flaxvae.data.pipeline import Data, Split
from flaxvae.training import mesh as meshes
from flaxvae.training.runs import Plan
from flaxvae.training.trained import Run

UNITS = "nats, summed over pixels and latent dimensions, averaged over images"


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


def header(plan: Plan, data: Data, parameters: int, mesh: Mesh, path: Path) -> dict[str, str]:
    """What is about to be trained, on what, with what."""

    def count(split: Split | None) -> str:
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


def program() -> str:
    """How the ``flaxvae`` command is called from here: it need not be on the PATH."""
    beside = Path(sys.executable).parent / "flaxvae"
    if shutil.which("flaxvae") or not beside.exists():
        return "flaxvae"
    return relative(beside)


def next_commands(run: Run) -> list[tuple[str, str]]:
    """Commands worth running now, each with a few words."""
    flaxvae, path = program(), relative(run.path)
    commands = [
        (f"{flaxvae} sample {path}", "draw new images"),
        (f"{flaxvae} interpolate {path}", "walk between images"),
        (f"{flaxvae} encode {path}", "latents of the test images, .npz"),
    ]
    if run.recipe.has_bound:
        commands.insert(0, (f"{flaxvae} eval {path} --k 500", "tighter estimate of log p(x)"))
    return commands
