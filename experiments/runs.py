"""Training for a study, under runs/experiments/, with the usual terminal output.

Existing runs are kept: a finished run with the same settings is used again, and an interrupted one
is resumed. Remove runs/experiments to start afresh.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import table
from flaxvae import api
from flaxvae import plan as planning
from flaxvae.analysis.evaluation import Evaluation
from flaxvae.report import figures
from flaxvae.report.terminal import Terminal
from flaxvae.runs.folder import RunFolder, write_json
from flaxvae.runs.run import Run

ROOT = Path("runs/experiments")
FIGURES = Path(__file__).parent / "figures"

BATCH, STEPS_PER_EPOCH = 200, 300  # of all training images of MNIST


def first_steps(epochs: int) -> int:
    """Steps of the first tenth of the training, at most ten epochs: for annealing and warm-up."""
    return STEPS_PER_EPOCH * min(max(epochs // 10, 1), 10)


def iwae_setting(epochs: int) -> dict[str, Any]:
    """Network and data of Burda et al. 2015; Muon with a warm-up and a cosine decay to zero.

    The KL's weight also rises in the first steps. ``iwae.CHOICES`` compares these settings.
    """
    return {
        "dataset": "mnist",
        "binarization": "dynamic",
        "validation": 0.0,
        "net": "mlp",
        "widths": (200, 200),
        "activation": "tanh",
        "latent_dim": 50,
        "batch_size": BATCH,
        "optimizer": "muon",
        "learning_rate": 3e-3,
        "schedule": "cosine",
        "epochs": epochs,
        "warmup_steps": first_steps(epochs),
        "anneal": "linear",
        "anneal_steps": first_steps(epochs),
    }


def train(name: str, model: str, **choices: Any) -> Run:
    """The run runs/experiments/<name>, trained or resumed if necessary."""
    path, plan = ROOT / name, planning.make_plan(model, **choices)
    resume = None
    if (path / "run.json").exists():
        before = RunFolder.open(path).plan()
        if plan.like(before) == before:
            if RunFolder.open(path).finished():
                print(f"{path}: already trained", flush=True)
                return api.load(path)
            resume = str(path)
        else:
            shutil.rmtree(path)
    with Terminal() as terminal:
        run = None if resume else str(path)
        return api.execute(plan, run=run, resume=resume, terminal=terminal)


def extend(run: Run, **choices: Any) -> Run:
    """Resume a run of a study for more epochs."""
    with Terminal() as terminal:
        plan = planning.make_plan(run.plan.model, **choices)
        return api.execute(plan, resume=str(run.path), terminal=terminal)


def parameters(run: Run) -> int:
    """Number of parameters of a model."""
    return sum(leaf.size for leaf in jax.tree.leaves(run.variables["params"]))


def machine() -> str:
    """The GPU that this process computes on; on a CPU ``table.CORES``."""
    device = jax.devices()[0]
    return table.CORES if device.platform == "cpu" else device.device_kind


def timed(budget: str) -> str:
    """The budget of a row that tells a time, with the GPU if there is one."""
    return budget if machine() == table.CORES else f"{budget}, {machine()}"


def minutes(run: Run) -> float:
    """Minutes in which a run's training steps were computed, compilation included."""
    steps = np.diff(run.history["step"], prepend=0)
    images = steps * run.plan.training.batch_size
    return float((images / run.history["images_per_second"]).sum()) / 60


def images_per_second(run: Run) -> float:
    """Images per second of the last epoch, which compiles nothing."""
    return float(run.history["images_per_second"][-1])


def evaluate(run: Run, k: int = 0, samples: int = 1) -> Evaluation:
    """``Run.evaluate`` on all test images; the result is kept in the run's folder."""
    kept = run.path / f"evaluation-k{k}-samples{samples}.json"
    if not kept.exists():
        with Terminal() as terminal:
            watch = terminal.watch(f"{run.path.name}, k = {k}")
            found = run.evaluate(run.data().test, k=k, samples=samples, watch=watch)
        write_json(kept, found.as_json())
    return Evaluation.from_json(json.loads(kept.read_text()))


def nll(run: Run, k: int) -> tuple[float, str]:
    """-log p(x) of all test images from k importance samples, as a number and with its error."""
    found = evaluate(run, k).importance_weighted_elbo
    assert found is not None
    return -found.nats, f"{-found.nats:.2f} ± {found.standard_error:.2f}"


def keep_figure(run: Run, figure: str, name: str) -> None:
    """Copy a figure of the run to figures/<name>.png, which is committed."""
    FIGURES.mkdir(exist_ok=True)
    source = run.folder.figures / figure
    if not source.exists():
        figures.write(figures.Subject(run, evaluation=evaluate(run)), run.folder.figures)
    shutil.copy(source, FIGURES / f"{name}.png")
