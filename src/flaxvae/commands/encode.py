"""flaxvae encode runs/latest --images mine.npz"""

from __future__ import annotations

import sys

from flaxvae.declared import typed
from flaxvae.flags import LATEST, NO_RECIPES, ImagesArgument, Recipes, RunArgument
from flaxvae.settings import Place


@typed
def encode(
    run: RunArgument = LATEST,
    *,
    images: ImagesArgument = None,
    scores: bool = True,
    recipes: Recipes = NO_RECIPES,
    out: str | None = None,
    place: Place = Place(),
) -> str:
    """Write latents (the code of each image) and scores (-ELBO in nats) to a file.

    Args:
        run: Run folder.
        images: A folder, zip or tar of pictures, a picture, or an .npz or .npy file; by default
            the test images, with their labels. The flag may be left out: encode RUN IMAGES.
        scores: Also compute scores, which take many times as long as the latents.
        out: File to write, with z [N, D], score [N], labels [N] and the other per-image arrays of
            the images' .npz, such as names; of images in files also files [N]; by default
            latents.npz in the run, or latents-images-NAME.npz. A .csv or a .parquet is a table with
            columns z1, z2 …; a .tsv has vectors for the TensorFlow Embedding Projector, and
            NAME-metadata.tsv beside it the rest.
    """
    from pathlib import Path

    import numpy as np

    from flaxvae.commands import shared
    from flaxvae.data.labels import listed
    from flaxvae.report.terminal import Terminal
    from flaxvae.report.words import relative
    from flaxvae.runs import exported
    from flaxvae.runs.run import load

    loaded = load(run, recipes)
    if out is not None:
        exported.check(Path(out))
    usual = "latents" + (".npz" if out is None else Path(out).suffix)
    path = shared.target(loaded, usual, out, encode, images=images, scores=scores)
    with Terminal(sys.stderr) as terminal:
        split, others = shared.images(loaded, images, place, terminal)
        arrays = {"z": loaded.encode(split, watch=terminal.watch("latents"))}
        if scores:
            arrays["score"] = loaded.score(split, watch=terminal.watch("scores"))
        if split.y is not None:
            arrays["labels"] = split.y
        if split.files is not None:
            arrays["files"] = np.array(split.files)
        if loaded.remarks:
            arrays |= {name: np.array(value) for name, value in shared.step(loaded).items()}
        taken = [name for name in others if name in arrays]
        if taken:
            terminal.note(f"{images}: {listed(taken)} left out: the name is taken by the output")
        kept = [name for name in others if name not in arrays]
        if kept:
            terminal.note(f"{images}: {listed(kept)} kept")
        path.parent.mkdir(parents=True, exist_ok=True)
        if left := exported.write(path, others | arrays):
            terminal.note(f"{listed(left)} left out: no column of a table")
    return relative(path)
