"""flaxvae interpolate runs/latest --rows 4"""

from __future__ import annotations

from typing import Any, Literal

from flaxvae.declared import Positive, Steps, typed
from flaxvae.flags import LATEST, NO_RECIPES, Recipes, RunArgument
from flaxvae.settings import Place


@typed
def interpolate(
    run: RunArgument = LATEST,
    *,
    rows: Positive | None = None,
    steps: Steps = 10,
    path: Literal["linear", "spherical", "geodesic"] = "linear",
    animate: Literal["gif", "webp"] | None = None,
    recipes: Recipes = NO_RECIPES,
    out: str | None = None,
    place: Place = Place(),
) -> str:
    """Draw interpolations: lines between the codes of pairs of test images, decoded.

    Args:
        run: Run folder.
        rows: Number of pairs; by default 8, or all if there are fewer.
        steps: Images per row, including both ends.
        path: A straight line; one that turns at the length of the codes, spherical; or the one on
            which the decoded images change least, geodesic.
        animate: Write a moving picture, to the other ends and back, instead of a PNG.
        out: File to write; by default figures/interpolations.png in the run, or with options a
            file named after them.
    """
    from flaxvae.commands import shared
    from flaxvae.report import animation, figures, shown
    from flaxvae.report.words import relative
    from flaxvae.runs.run import load

    loaded = load(run, recipes)
    shared.check_pictured(loaded)
    test = loaded.data(place).test
    same_class = loaded.recipe.classes is not None
    ends = shown.pairs(test, len(test.x) // 2, same_class)
    what = "pairs of test images" + " of one class" * same_class
    count = shared.upto("rows", rows, 8, len(ends.x) // 2, what)
    usual = f"figures/interpolations.{animate or 'png'}"
    options: dict[str, Any] = {"rows": rows, "steps": steps, "path": path}
    file = shared.target(loaded, usual, out, interpolate, **options)
    found = shown.interpolations(loaded, shown.first(ends, 2 * count), steps, path)
    if animate is not None:
        return relative(animation.loop(file, found.images))
    return relative(figures.draw("interpolations", file, found))
