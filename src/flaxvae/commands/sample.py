"""flaxvae sample runs/latest --n 64 --temperature 0.8"""

from __future__ import annotations

import sys
from typing import Any, Literal

from flaxvae.declared import Positive, Seed, Temperature, typed
from flaxvae.flags import LATEST, NO_RECIPES, Recipes, RunArgument


@typed
def sample(
    run: RunArgument = LATEST,
    *,
    n: Positive = 100,
    seed: Seed = 0,
    temperature: Temperature = (1.0,),
    label: str | None = None,
    draw_pixels: bool = False,
    prior: Literal["fitted", "own"] | None = None,
    recipes: Recipes = NO_RECIPES,
    out: str | None = None,
) -> str:
    """Draw new images from the prior; if `flaxvae fit-prior` has fitted one to the codes, from it.

    Args:
        run: Run folder.
        n: Number of images.
        seed: Determines the draws.
        temperature: Factor on the prior's standard deviation; below 1, samples vary less. A
            hierarchy takes one for each level, too, the one next to the data first.
        label: Class to draw, for a conditional model; by default all, in order.
        draw_pixels: Show draws from p(x|z), not its means.
        prior: Draw from the fitted prior, or from the model's own; by default from the fitted one,
            if there is one.
        out: PNG to write; by default figures/samples.png in the run, or with options a file named
            after them: samples-n-64-seed-1.png.
    """
    from flaxvae.commands import shared
    from flaxvae.report import figures, shown
    from flaxvae.report.terminal import Terminal
    from flaxvae.report.words import relative
    from flaxvae.runs.run import load

    loaded = load(run, recipes)
    shared.check_pictured(loaded)
    shared.check_label(loaded, label)
    options: dict[str, Any] = {"seed": seed, "temperature": temperature, "label": label}
    options["draw_pixels"] = draw_pixels
    if prior is None and (loaded.fitted is not None or loaded.unusable is not None):
        prior = "fitted"  # and the file's name says so
    options["prior"] = None if prior == "own" else prior
    path = shared.target(loaded, "figures/samples.png", out, sample, n=n, **options)
    options["prior"] = prior
    found = shown.samples(loaded, n, **options)
    if prior == "fitted":
        with Terminal(sys.stderr) as terminal:
            called = shown.prior_called(loaded)
            terminal.note(f"drawn from {called}; with --prior own from the model's own prior")
    return relative(figures.draw("samples", path, found))
