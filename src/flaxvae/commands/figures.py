"""flaxvae figures runs/latest"""

from __future__ import annotations

from flaxvae.declared import typed
from flaxvae.errors import UsageError
from flaxvae.flags import LATEST, NO_RECIPES, Recipes, RunArgument
from flaxvae.settings import Place


@typed
def figures(
    run: RunArgument = LATEST,
    *,
    only: tuple[str, ...] = ("all",),
    draw_pixels: bool = False,
    recipes: Recipes = NO_RECIPES,
    place: Place = Place(),
) -> list[str]:
    """Draw the figures of a run again.

    Args:
        run: Run folder.
        only: Some of reconstructions, latent_scatter, samples, interpolations, denoising,
            traversals, manifold, redrawn, levels, mutual_information, curves, as in --only
            samples,manifold; by default all that apply to the model.
        draw_pixels: In reconstructions and samples, show draws from p(x|z), not its means.
    """
    from flaxvae.commands import shared
    from flaxvae.report import figures as drawing
    from flaxvae.report.words import relative
    from flaxvae.runs.run import load

    names = [name for word in only for name in word.split(",")]
    names = [] if names == ["all"] else names or [""]
    drawing.check(names)
    if draw_pixels and names and not {*names} & {"reconstructions", "samples"}:
        raise UsageError(
            f"--draw-pixels has no effect on {', '.join(names)}: expected reconstructions or "
            "samples; leave it out"
        )
    loaded = load(run, recipes)
    if draw_pixels:
        shared.check_pictured(loaded)
    shared.check_writable(loaded, loaded.folder.figures)
    # Load the data now if all figures are drawn or their new place was given.
    now = not names or any(vars(place).values())
    of = drawing.Subject(loaded, loaded.data(place).test if now else None, draw_pixels=draw_pixels)
    return [relative(path) for path in drawing.write(of, loaded.folder.figures, names)]
