"""flaxvae train --dataset mnist --model vae --latent-dim 2"""

from __future__ import annotations

from flaxvae import lookup
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
    """Train a model, evaluate it on held-out images, and draw its figures.

    Args:
        run: Folder to create; by default runs/<dataset>-<model>-s<seed>-<time>.
        resume: Run folder to continue from its last checkpoint.
        allow_changes: Resume with other settings, except the model, the data and settings that
            change the shapes of the parameters.
    """
    from flaxvae import api
    from flaxvae.devices.hosts import joined
    from flaxvae.plan import check_effects, plan_of
    from flaxvae.report.terminal import Terminal
    from flaxvae.runs.folder import RunFolder

    before = None if resume is None else RunFolder.open(resume, recipes).plan()
    plan = plan_of(lookup.recipe(model, recipes), **choices)
    check_effects([plan], before)
    with joined(hosts), Terminal() as terminal:
        api.execute(plan, run=run, resume=resume, allow_changes=allow_changes, terminal=terminal)
