"""flaxvae interpolate runs/latest --rows 4"""

from __future__ import annotations

from flaxvae.declared import Positive, Steps, typed
from flaxvae.flags import LATEST, NO_RECIPES, Recipes, RunArgument
from flaxvae.settings import Place


@typed
def interpolate(
    run: RunArgument = LATEST,
    *,
    rows: Positive | None = None,
    steps: Steps = 10,
    recipes: Recipes = NO_RECIPES,
    out: str | None = None,
    place: Place = Place(),
) -> str:
    """Draw interpolations: straight lines between the codes of pairs of test images, decoded.

    Args:
        run: Run folder.
        rows: Number of pairs; by default 8, or all if there are fewer.
        steps: Images per row, including both ends.
        out: PNG to write; by default figures/interpolations.png in the run, or with options a
            file named after them.
    """
    from flaxvae.commands import shared
    from flaxvae.report import figures, shown
    from flaxvae.report.words import relative
    from flaxvae.runs.run import load

    loaded = load(run, recipes)
    shared.check_pictured(loaded)
    test = loaded.data(place).test
    same_class = loaded.recipe.classes is not None
    ends = shown.pairs(test, len(test.x) // 2, same_class)
    what = "pairs of test images" + " of one class" * same_class
    count = shared.upto("rows", rows, 8, len(ends.x) // 2, what)
    usual = "figures/interpolations.png"
    path = shared.target(loaded, usual, out, interpolate, rows=rows, steps=steps)
    found = shown.interpolations(loaded, shown.first(ends, 2 * count), steps)
    return relative(figures.draw("interpolations", path, found))
