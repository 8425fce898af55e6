"""How studies choose their settings: ``python -m experiments choose [NAME …]``.

No setting is chosen on the reported numbers. Where several values were tried, models are trained on
50,000 of MNIST's 60,000 training images, for fewer epochs than in the study, and compared on the
other 10,000. The test images are not used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from unittest import mock

from experiments import table
from experiments.runs import ROOT
from flaxvae import plan as planning
from flaxvae.data import pipeline
from flaxvae.devices import mesh as meshes
from flaxvae.parts import networks
from flaxvae.report.terminal import Terminal
from flaxvae.runs.folder import RunFolder
from flaxvae.runs.run import Run
from flaxvae.training import loop
from flaxvae.training import step as steps

HELD_OUT = 1 / 6

Settings = Mapping[str, Any]


def lowest(outcomes: Mapping[str, float]) -> str:
    return min(outcomes, key=lambda name: outcomes[name])


class Choice(NamedTuple):
    """The settings that a study tried."""

    model: str
    setting: Settings  # what the candidates share, with the epochs of this comparison
    candidates: Mapping[str, Settings]  # what differs in each, by its name; None: left out
    chosen: str  # what the study uses
    quantity: str
    measure: Callable[[Run, pipeline.Data], float]  # on the held-out images
    rule: Callable[[Mapping[str, float]], str] = lowest  # picks the best candidate by the outcomes
    why_another: str = ""  # why the study uses another one, if it does


BOUND_100 = "upper bound on -log p(x) from 100 importance samples, nats"


def negative_elbo(run: Run, data: pipeline.Data) -> float:
    return -run.evaluate(data.validation, samples=10).elbo


def bound_100(run: Run, data: pipeline.Data) -> float:
    return -run.evaluate(data.validation, k=100).importance_weighted_elbo.nats


def train(
    model: str, *, initial_scales: Mapping[str, float] | None = None, **others: Any
) -> tuple[Run, pipeline.Data]:
    """A model in memory, and its data.

    ``initial_scales`` replaces the library's scales of initial weights.
    """
    plan = planning.make_plan(model, **{"dataset": "mnist", "validation": HELD_OUT} | others)
    data, mesh = pipeline.prepare(plan.data), meshes.make(plan.training.devices)
    plan = plan.settled(data.spec)
    recipe = plan.recipe(data.spec)
    with mock.patch.dict(networks.INITIAL_SCALES, initial_scales or {}), Terminal() as terminal:
        trainer = steps.trainer(recipe, data, plan.training, mesh, plan.training.epochs or 0)
        variables, _ = loop.fit(recipe, trainer, data, plan.training, mesh, watch=terminal)
    folder = RunFolder(ROOT / "choices")
    return Run(recipe, variables, mesh=mesh, peak=data.peak, folder=folder, plan=plan), data


def settings(choice: Choice, own: Settings) -> dict[str, Any]:
    """All settings of a candidate."""
    return {key: x for key, x in {**choice.setting, **own}.items() if x is not None}


def choose(name: str, choices: Mapping[str, Choice]) -> None:
    """Train and measure every candidate of a study; save the results after each."""
    kept = table.load_choices(name)
    for what, choice in choices.items():
        outcomes = kept[what] = {}
        for candidate, own in choice.candidates.items():
            found = choice.measure(*train(choice.model, **settings(choice, own)))
            outcomes[candidate] = round(found, 4)
            print(f"{what}: {candidate}: {choice.quantity}: {found:.4f}", flush=True)
            table.save_choices(name, kept)
