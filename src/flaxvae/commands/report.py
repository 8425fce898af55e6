"""flaxvae report runs/latest"""

from __future__ import annotations

from flaxvae.declared import typed
from flaxvae.errors import FlaxvaeError, visible
from flaxvae.flags import LATEST, NO_RECIPES, Recipes, RunsArgument
from flaxvae.settings import Place


@typed
def report(
    runs: RunsArgument = (LATEST,),
    *,
    recipes: Recipes = NO_RECIPES,
    place: Place = Place(),
) -> None:
    """Write the page of a run again, report.html in its folder.

    The page is one file that needs no network: numbers, curves, images, and the command that trains
    the run again. What is missing, such as the images of a run whose data have moved, it says.

    Args:
        runs: Run folders.
    """
    from flaxvae.commands import shared
    from flaxvae.report.html import run as page
    from flaxvae.report.shown import Subject
    from flaxvae.report.words import relative
    from flaxvae.runs.folder import RunFolder
    from flaxvae.runs.run import load

    for path in runs:
        folder = RunFolder.open(path, recipes)
        folder.plan()  # without which there is nothing to show
        shared.check_writable(folder, folder.path)
        try:
            loaded = load(path, recipes)
        except FlaxvaeError as error:
            print(visible(relative(page.write_without_model(folder, str(error)))), flush=True)
            continue
        if any(vars(place).values()):
            loaded.data(place)  # wrong data are an error here
            test = loaded.data(place).test
        else:
            test = None
        # At once: the next run may fail.
        print(visible(relative(page.write(Subject(loaded, test)))), flush=True)
