"""flaxvae sweep --model beta_vae --beta 1 2 4 --seeds 8"""

from __future__ import annotations

from flaxvae import lookup
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
    """Train a grid of settings and seeds together, and compare them.

    Settings that differ only in numbers train in one compiled program. The flags are those of
    train; settings of the model and of the optimizer take several values, as in --beta 1 2 4. Each
    member is an ordinary run folder.

    Args:
        seeds: Number of seeds for each setting, starting at --seed.
        run: Folder to create; by default runs/sweep-<dataset>-<model>-<time>.
        resume: Interrupted sweep to continue; only the place of its data may be given with it.
    """
    from flaxvae import sweeps
    from flaxvae.report.terminal import Terminal

    with Terminal() as terminal:
        if resume is None:
            grid = sweeps.make_grid(lookup.recipe(model, recipes), seeds, **choices)
            sweeps.execute(grid, run=run, terminal=terminal)
        else:
            sweeps.resume(resume, place=Place(**choices), recipes=recipes, terminal=terminal)
