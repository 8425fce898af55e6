"""flaxvae reconstruct runs/latest --images mine.npz"""

from __future__ import annotations

import sys

from flaxvae.declared import Positive, typed
from flaxvae.flags import LATEST, NO_RECIPES, ImagesArgument, Recipes, RunArgument
from flaxvae.settings import Place


@typed
def reconstruct(
    run: RunArgument = LATEST,
    *,
    images: ImagesArgument = None,
    n: Positive | None = None,
    draw_pixels: bool = False,
    recipes: Recipes = NO_RECIPES,
    out: str | None = None,
    place: Place = Place(),
) -> str:
    """Draw images above their reconstructions.

    Args:
        run: Run folder.
        images: A folder, zip or tar of pictures, a picture, or an .npz or .npy file; by default
            the test images. The flag may be left out: reconstruct RUN IMAGES.
        n: Show the first n images; by default 20, or all if there are fewer.
        draw_pixels: Show draws from p(x|z), not its means.
        out: PNG to write; by default figures/reconstructions.png in the run, or with options a
            file named after them.
    """
    from pathlib import Path

    from flaxvae.commands import shared
    from flaxvae.report import figures, shown
    from flaxvae.report.terminal import Terminal
    from flaxvae.report.words import relative
    from flaxvae.runs.run import load

    loaded = load(run, recipes)
    shared.check_pictured(loaded)
    usual = "figures/reconstructions.png"
    options = {"images": images, "n": n, "draw_pixels": draw_pixels}
    path = shared.target(loaded, usual, out, reconstruct, **options)
    with Terminal(sys.stderr) as terminal:
        split, _ = shared.images(loaded, images, place, terminal)
    split = shown.first(split, shared.upto("n", n, 20, len(split.x)))
    which = "test images" if images is None else Path(images).resolve().name
    found = shown.reconstructions(loaded, split, which, draw_pixels)
    return relative(figures.draw("reconstructions", path, found))
