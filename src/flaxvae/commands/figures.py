"""flaxvae figures runs/latest"""

from __future__ import annotations

from flaxvae.declared import typed
from flaxvae.flags import LATEST, NO_RECIPES, Recipes, RunArgument
from flaxvae.settings import Place


@typed
def figures(
    run: RunArgument = LATEST,
    *,
    recipes: Recipes = NO_RECIPES,
    place: Place = Place(),
) -> list[str]:
    """Draw all figures of a run again.

    Args:
        run: Run folder.
    """
    from flaxvae.commands import shared
    from flaxvae.report import figures as drawing
    from flaxvae.report.words import relative
    from flaxvae.runs.run import load

    loaded = load(run, recipes)
    shared.check_writable(loaded, loaded.folder.figures)
    test = loaded.data(place).test
    evaluation = loaded.evaluate(test)
    written = drawing.write(loaded, evaluation, test, loaded.folder.figures)
    return [relative(path) for path in written]
