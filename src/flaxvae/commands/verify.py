"""flaxvae verify runs/latest"""

from __future__ import annotations

from flaxvae.flags import LATEST, NO_RECIPES, Recipes, RunArgument


def verify(run: RunArgument = LATEST, *, recipes: Recipes = NO_RECIPES) -> None:
    """Check every file of a run folder; change nothing.

    Args:
        run: Run folder; it may be training or interrupted.
    """
    from flaxvae.commands import shared
    from flaxvae.runs import verify as verification
    from flaxvae.runs.folder import RunFolder

    shared.tell(verification.verify(RunFolder.open(run, recipes)), run)
