"""flaxvae sweep --model beta_vae --beta 1 2 4 --seeds 8"""

from __future__ import annotations

from flaxvae import zoo
from flaxvae.flags import NO_RECIPES, ModelName, Recipes, Several
from flaxvae.settings import Place


def sweep(
    model: ModelName = "vae",
    *,
    seeds: int = 5,
    run: str | None = None,
    resume: str | None = None,
    recipes: Recipes = NO_RECIPES,
    **choices: Several,
) -> None:
    """Train a grid of settings and seeds side by side, and compare them.

    Those that differ in numbers alone train in one compiled program. Flags are those of train;
    settings of the model and of the optimizer take several values, as in --beta 1 2 4. A member is
    a run folder like any other.

    Args:
        seeds: How many seeds for each setting, from --seed on.
        run: Folder to write; by default runs/sweep-<dataset>-<model>-<time>.
        resume: Go on with this interrupted sweep; beside it only where its data are is taken.
    """
    from flaxvae import sweeps
    from flaxvae.report.terminal import Terminal

    with Terminal() as terminal:
        if resume is None:
            grid = sweeps.make_grid(zoo.recipe(model, recipes), seeds, **choices)
            sweeps.execute(grid, run=run, terminal=terminal)
        else:
            sweeps.resume(resume, place=Place(**choices), recipes=recipes, terminal=terminal)
