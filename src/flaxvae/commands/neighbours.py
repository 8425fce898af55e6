"""flaxvae neighbours runs/latest mine.npz"""

from __future__ import annotations

from typing import Any

from flaxvae.declared import Positive, typed
from flaxvae.flags import LATEST, NO_RECIPES, ImagesArgument, Recipes, RunArgument
from flaxvae.settings import Place


@typed
def neighbours(
    run: RunArgument = LATEST,
    *,
    images: ImagesArgument = None,
    k: Positive = 8,
    n: Positive | None = None,
    recipes: Recipes = NO_RECIPES,
    out: str | None = None,
    place: Place = Place(),
) -> str:
    """Draw images beside the training images whose codes are nearest to theirs.

    Args:
        run: Run folder.
        images: A folder, zip or tar of pictures, a picture, or an .npz or .npy file; by default
            the test images. The flag may be left out: neighbours RUN IMAGES.
        k: Neighbours of each.
        n: Show the first n images; by default 8, or all if there are fewer.
        out: PNG to write; by default figures/neighbours.png in the run, with the options in its
            name.
    """
    import sys

    from flaxvae.commands import shared
    from flaxvae.report import plots, shown
    from flaxvae.report.terminal import Terminal
    from flaxvae.report.words import relative
    from flaxvae.runs.run import load

    loaded = load(run, recipes)
    shared.check_pictured(loaded)
    options: dict[str, Any] = {"images": images, "k": k, "n": n}
    path = shared.target(loaded, "figures/neighbours.png", out, neighbours, **options)
    train = loaded.data(place).train
    shared.upto("k", k, 8, len(train.x), "training images")
    with Terminal(sys.stderr) as terminal:
        split, _ = shared.images(loaded, images, place, terminal)
        split = shown.first(split, shared.upto("n", n, 8, len(split.x)))
        found = shown.neighbours(loaded, split, train, k, terminal.watch("codes"))
    return relative(plots.image_grid(path, **found._asdict()))
