"""flaxvae train --dataset mnist --model vae --latent-dim 2"""

from __future__ import annotations

from flaxvae import zoo
from flaxvae.flags import NO_RECIPES, ModelName, One, Recipes
from flaxvae.settings import Hosts


def train(
    model: ModelName = "vae",
    *,
    run: str | None = None,
    resume: str | None = None,
    allow_changes: bool = False,
    recipes: Recipes = NO_RECIPES,
    hosts: Hosts = Hosts(),
    **choices: One,
) -> None:
    """Train a model, evaluate it on held-out images, draw its figures.

    Args:
        run: Folder to write; by default runs/<dataset>-<model>-s<seed>-<time>.
        resume: Go on with this run folder, from its last checkpoint.
        allow_changes: Resume with other settings than the run's: any but the model, the data and
            what shapes the parameters.
    """
    from flaxvae import api
    from flaxvae.devices.hosts import joined
    from flaxvae.plan import check_effects, plan_of
    from flaxvae.report.terminal import Terminal
    from flaxvae.runs.folder import RunFolder

    before = None if resume is None else RunFolder.open(resume, recipes).plan()
    plan = plan_of(zoo.recipe(model, recipes), **choices)
    check_effects([plan], before)
    with joined(hosts), Terminal() as terminal:
        api.execute(plan, run=run, resume=resume, allow_changes=allow_changes, terminal=terminal)
