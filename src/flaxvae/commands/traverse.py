"""flaxvae traverse runs/latest --image 7"""

from __future__ import annotations

from typing import Any

from flaxvae.declared import AboveZero, Count, Positive, Steps, typed
from flaxvae.errors import UsageError
from flaxvae.flags import LATEST, NO_RECIPES, Recipes, RunArgument
from flaxvae.settings import Place


@typed
def traverse(
    run: RunArgument = LATEST,
    *,
    image: Count | None = None,
    label: str | None = None,
    units: Positive | None = None,
    steps: Steps = 11,
    span: AboveZero = 3.0,
    recipes: Recipes = NO_RECIPES,
    out: str | None = None,
    place: Place = Place(),
) -> str:
    """Draw traversals: one latent dimension varies, and the others stay fixed.

    Args:
        run: Run folder.
        image: Number of the test image to start from; by default the prior's mean.
        label: Class, for a conditional model; by default the image's, or the middle one.
        units: Number of dimensions, most used first; by default those in use, 2 to 10.
        steps: Images per row.
        span: How far to go to either side, in standard deviations.
        out: PNG to write; by default figures/traversals.png in the run, or with options a file
            named after them.
    """
    from flaxvae.commands import shared
    from flaxvae.report import figures, shown
    from flaxvae.report.words import relative
    from flaxvae.runs.run import load

    loaded = load(run, recipes)
    shared.check_pictured(loaded)
    shared.check_label(loaded, label)
    if not loaded.recipe.has_bound or loaded.recipe.codes is not None:
        what = "discrete latents" if loaded.recipe.codes else "no prior"
        raise UsageError(f"model {loaded.plan.model} has {what}: expected continuous latents")
    if loaded.finished and image is None and loaded.recipe.standard_prior:
        shared.unused(place, "without --image")
        of = figures.Subject(loaded)
    else:
        of = figures.Subject(loaded, loaded.data(place).test)
    if image is not None and image >= len(of.test.x):
        raise UsageError(f"--image {image}: expected 0 to {len(of.test.x) - 1}, a test image")
    if units is not None:
        shared.upto("units", units, 0, loaded.latent_size, "latents")
    walk: dict[str, Any] = {"image": image, "label": label, "units": units}
    walk |= {"steps": steps, "span": span}
    path = shared.target(loaded, "figures/traversals.png", out, traverse, **walk)
    return relative(figures.draw("traversals", path, shown.traversals(of, **walk)))
