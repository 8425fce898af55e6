"""flaxvae compare runs/a runs/b"""

from __future__ import annotations

from flaxvae.declared import Count, Seed, typed
from flaxvae.flags import NO_RECIPES, Recipes, RunsArgument
from flaxvae.settings import Place


@typed
def compare(
    runs: RunsArgument = (),
    *,
    images: Count = 2000,
    seed: Seed = 0,
    page: bool = True,
    out: str | None = None,
    recipes: Recipes = NO_RECIPES,
    place: Place = Place(),
) -> None:
    """Show runs, or the members of a sweep, beside one another: a table, and a page to look at.

    The table has the settings in which they differ, and their numbers with errors. Of runs on the
    same data, it has the mean difference from the first on the same test images, which is far more
    certain than two errors side by side. The page adds curves, rate against distortion, the same
    images reconstructed, samples, and the same walks through latent space.

    Args:
        runs: Run folders, or a sweep's.
        images: How many test images to compare on, the first ones; or all, if there are fewer. 0:
            only what the folders say, which needs no data.
        seed: Determines the draws.
        page: Write the page.
        out: The page's file; by default comparison.html beside the first run, or in the sweep.
    """
    from flaxvae.report import beside
    from flaxvae.report.terminal import Terminal

    with Terminal() as terminal:
        beside.compare(
            *runs,
            images=images,
            seed=seed,
            page=page,
            out=out,
            recipes=recipes,
            place=place,
            terminal=terminal,
        )
