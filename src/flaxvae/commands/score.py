"""flaxvae score runs/latest new_pictures/"""

from __future__ import annotations

import csv
import io
import sys

from flaxvae.declared import typed
from flaxvae.flags import LATEST, NO_RECIPES, ImagesArgument, Recipes, RunArgument
from flaxvae.settings import Place

SHOWN = 5  # of the most unusual images


@typed
def score(
    run: RunArgument = LATEST,
    *,
    images: ImagesArgument = None,
    recipes: Recipes = NO_RECIPES,
    out: str | None = None,
    place: Place = Place(),
) -> list[str]:
    """Write how unusual each image is to a .csv file: -ELBO in nats, the most unusual first.

    Args:
        run: Run folder.
        images: A folder, zip or tar of pictures, a picture, or an .npz or .npy file; by default
            the test images. The flag may be left out: score RUN IMAGES.
        out: File to write, with the columns file (or index, where images have no names), score
            and, of images with labels, label; by default scores.csv in the run, or
            scores-images-NAME.csv.
    """
    import numpy as np

    from flaxvae import writing
    from flaxvae.commands import shared
    from flaxvae.errors import counted
    from flaxvae.report.terminal import Terminal
    from flaxvae.report.words import relative
    from flaxvae.runs.run import load

    loaded = load(run, recipes)
    path = shared.target(loaded, "scores.csv", out, score, images=images)
    with Terminal(sys.stderr) as terminal:
        split, others = shared.images(loaded, images, place, terminal)
        found = loaded.score(split, watch=terminal.watch("scores"))
    files = shared.named(split, others)
    names = range(len(found)) if files is None else files
    header = ["index" if files is None else "file", "score"]
    columns = [names, [str(number) for number in found]]
    if split.y is not None:
        header, columns = [*header, "label"], [*columns, split.y.tolist()]
    # What is not a number is stranger than any.
    order = np.argsort(np.where(np.isnan(found), -np.inf, -found), kind="stable").tolist()
    rows = [[column[i] for column in columns] for i in order]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing.whole(path) as file:
        file.write(text.getvalue().encode("utf-8", "surrogateescape"))
    what = "-ELBO" if loaded.recipe.has_bound else "-log p(x|z)"
    shown = [
        f"{found[i]:>12,.2f}  " + "  ".join(str(word) for word in [row[0], *row[2:]])
        for i, row in zip(order[:SHOWN], rows, strict=False)
    ]
    title = f"most unusual of {counted(len(rows), loaded.spec.example)}, {what} in nats:"
    return [title, *shown, relative(path)]
