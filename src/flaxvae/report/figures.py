"""The figures of a run, in one table: when each applies, what it computes, how it is drawn.

``flaxvae train`` draws those that apply when it finishes; ``flaxvae figures`` draws them again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from flaxvae.data.pipeline import Split
from flaxvae.errors import UsageError, did_you_mean
from flaxvae.report import disentanglement, levels, plots, shown
from flaxvae.report.shown import Subject
from flaxvae.report.words import heading


class Figure(NamedTuple):
    """One figure: a row of the table."""

    applies: Callable[[Subject], bool]
    compute: Callable[[Subject], Any]  # -> a record of ``shown``
    draw: Callable[..., Path]  # (path, **fields of the record)


def _ends(of: Subject) -> Split:
    return shown.pairs(of.test, same_class=of.run.recipe.classes is not None)


def _pictured(of: Subject) -> bool:
    """Whether examples can be drawn: a table's rows are no images."""
    return of.run.spec.kind != "table"


def _has_walks(of: Subject) -> bool:
    return _pictured(of) and of.run.recipe.has_bound and of.run.recipe.codes is None


def _has_manifold(of: Subject) -> bool:
    recipe = of.run.recipe
    normal = recipe.has_bound and recipe.standard_prior and not recipe.classes
    return _pictured(of) and normal and of.run.latent_size > 1


FIGURES: dict[str, Figure] = {
    "reconstructions": Figure(
        _pictured,
        lambda of: shown.reconstructions(
            of.run, shown.first(of.test, 20), draw_pixels=of.draw_pixels
        ),
        plots.reconstructions,
    ),
    "latent_scatter": Figure(lambda of: True, shown.latent_scatter, plots.latent_scatter),
    "samples": Figure(
        lambda of: _pictured(of) and of.run.generates,
        lambda of: shown.samples(of.run, draw_pixels=of.draw_pixels, prior="own"),
        plots.samples,
    ),
    "interpolations": Figure(
        lambda of: _pictured(of) and len(_ends(of).x) > 0,
        lambda of: shown.interpolations(of.run, _ends(of)),
        plots.interpolations,
    ),
    "denoising": Figure(
        lambda of: _pictured(of) and of.run.recipe.corrupt is not None,
        lambda of: shown.denoising(of.run, shown.first(of.test, 10)),
        plots.image_grid,
    ),
    "traversals": Figure(_has_walks, shown.traversals, plots.image_grid),
    "manifold": Figure(_has_manifold, shown.manifold, plots.manifold),
    "redrawn": Figure(
        lambda of: _pictured(of) and of.run.recipe.model.redraw is not None,
        lambda of: levels.redrawn(of.run, shown.first(of.test, 8)),
        plots.image_grid,
    ),
    "levels": Figure(
        lambda of: of.run.recipe.hierarchy is not None, levels.levels, levels.draw_levels
    ),
    "mutual_information": Figure(
        lambda of: bool(of.run.spec.factors) and of.run.recipe.codes is None,
        disentanglement.of_test_images,
        disentanglement.draw_matrix,
    ),
    "curves": Figure(
        lambda of: bool(of.run.folder.history()),
        lambda of: shown.Curves(of.run.folder.history(), f"Training\n{heading(of.run)}"),
        plots.curves,
    ),
}


def check(names: Sequence[str]) -> None:
    """Raises UsageError for a name that is not a figure's."""
    for name in names:
        if name not in FIGURES:
            raise UsageError(
                f"--only {name}: expected some of {', '.join(FIGURES)}{did_you_mean(name, FIGURES)}"
            )


def suited(of: Subject, only: Sequence[str] = ()) -> list[str]:
    """The names of the figures that apply, or those in ``only``.

    Raises UsageError for a figure in ``only`` that does not apply.
    """
    check(only)
    for name in only:
        if not FIGURES[name].applies(of):
            raise UsageError(
                f"--only {name}: does not apply to model {of.run.plan.model}; expected some of "
                f"{', '.join(suited(of))}"
            )
    return [name for name in FIGURES if (name in only if only else FIGURES[name].applies(of))]


def computed(of: Subject, name: str) -> Any:
    """The record of a figure, computed once for a subject."""
    if name not in of.found:
        of.found[name] = FIGURES[name].compute(of)
    return of.found[name]


def draw(name: str, path: Path, found: Any) -> Path:
    """Draw a computed figure into a PNG file; returns its path."""
    return FIGURES[name].draw(path, **found._asdict())


def write(
    of: Subject,
    folder: Path,
    only: Sequence[str] = (),
    watch: Callable[[int, int], None] = lambda done, total: None,
) -> list[Path]:
    """Draw the figures of a run.

    Args:
        of: the run, its test images and its numbers on them.
        folder: where the PNG files go.
        only: the names of some of them; by default all that apply.
        watch: called with the number drawn so far and the total.

    Returns:
        The files written.

    Raises:
        UsageError: a figure that does not apply; nothing is written.
    """
    names, written = suited(of, only), list[Path]()
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        watch(len(written), len(names))
        written.append(draw(name, folder / _file(name, of), FIGURES[name].compute(of)))
    return written


def _file(name: str, of: Subject) -> str:
    """A figure's file: one of chosen dimensions leaves the training's where it is."""
    chosen = name == "manifold" and of.dims is not None
    return f"{name}-dims-{'x'.join(map(str, of.dims or ()))}.png" if chosen else f"{name}.png"
