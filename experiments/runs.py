"""Training for a study: a fresh folder under runs/experiments/, with the usual terminal output."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from flaxvae import api
from flaxvae.report.terminal import Terminal
from flaxvae.training.trained import Run

ROOT = Path("runs/experiments")
FIGURES = Path(__file__).parent / "figures"


def train(name: str, model: str, **choices: Any) -> Run:
    """Train in runs/experiments/<name>, replacing an earlier run of the study."""
    path = ROOT / name
    shutil.rmtree(path, ignore_errors=True)
    with Terminal() as terminal:
        return api.execute(api.make_plan(model, **choices), run=str(path), terminal=terminal)


def extend(run: Run, **choices: Any) -> Run:
    """Go on with a run of a study, to more epochs."""
    with Terminal() as terminal:
        plan = api.make_plan(run.plan.model, **choices)
        return api.execute(plan, resume=str(run.path), terminal=terminal)


def keep_figure(run: Run, figure: str, name: str) -> None:
    """Copy a figure of the run to figures/<name>.png, which is committed."""
    FIGURES.mkdir(exist_ok=True)
    shutil.copy(run.folder.figures / figure, FIGURES / f"{name}.png")
