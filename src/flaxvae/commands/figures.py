"""flaxvae figures runs/latest"""

from __future__ import annotations

from flaxvae.declared import Positive, seen, typed
from flaxvae.errors import UsageError
from flaxvae.flags import LATEST, NO_RECIPES, Recipes, RunArgument
from flaxvae.settings import Place


@typed
def figures(
    run: RunArgument = LATEST,
    *,
    only: tuple[str, ...] = ("all",),
    draw_pixels: bool = False,
    dims: tuple[Positive, ...] = (),
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
        dims: Two latent dimensions of the manifold, from 1, as in --dims 3 7, to the right and
            upwards; by default those with the largest KL. The others are at the prior's mean.
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
    plane = _plane(dims, names)
    loaded = load(run, recipes)
    if plane is not None and max(plane) > loaded.latent_size:
        raise UsageError(
            f"--dims {seen(dims)}: expected two of 1 to {loaded.latent_size}, the latent "
            "dimensions of the run"
        )
    if draw_pixels:
        shared.check_pictured(loaded)
    shared.check_writable(loaded, loaded.folder.figures)
    # Load the data now if all figures are drawn or their new place was given.
    now = not names or any(vars(place).values())
    test = loaded.data(place).test if now else None
    of = drawing.Subject(loaded, test, draw_pixels=draw_pixels, dims=plane)
    return [relative(path) for path in drawing.write(of, loaded.folder.figures, names)]


def _plane(dims: tuple[int, ...], names: list[str]) -> tuple[int, int] | None:
    """The dimensions of the manifold; None: none were chosen."""
    if not dims:
        return None
    if "manifold" not in names:
        raise UsageError(
            f"--dims {seen(dims)} has no effect without --only manifold: expected both, or neither"
        )
    if len(set(dims)) != 2 or len(dims) != 2:
        raise UsageError(f"--dims {seen(dims)}: expected two different dimensions, from 1")
    return dims[0], dims[1]
