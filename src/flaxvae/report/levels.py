"""Figures of a hierarchy: the KL of its blocks, and images of which lower levels are drawn anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from flaxvae.analysis.evaluation import USED
from flaxvae.data.pipeline import Split
from flaxvae.report import shown
from flaxvae.report.page import GREY, page
from flaxvae.report.shown import Grid, Subject
from flaxvae.report.words import heading
from flaxvae.runs.run import Run

Array = np.ndarray
ROW, WIDTH, LEAST = 46, 620, 300  # pixels of a bar, of a panel, and its least height


def redrawn(run: Run, some: Split) -> Grid:
    """Each image's code above a level, and what is below it drawn from the prior."""
    hierarchy = run.recipe.hierarchy
    assert hierarchy is not None
    count = len(hierarchy.names)
    drawn = [run.redraw(some, levels=level) for level in range(count, -1, -1)]
    columns = ["all", *(f"below {name}" for name in hierarchy.names[:0:-1]), "none", "original"]
    rows = np.stack([*drawn, shown.pixels(some, slice(None))], 1)
    title = f"Test images whose lower levels are drawn from the prior\n{heading(run)}"
    return Grid(list(rows), [""] * len(rows), title, columns, "drawn from the prior")


class KlOfLevels(NamedTuple):
    """The KL of a hierarchy's blocks, and of its levels by epoch."""

    columns: Sequence[str]
    nats: Array  # of the columns
    level: Array  # of the columns: a number
    epochs: Sequence[int]
    curves: Mapping[str, Array]  # of each level
    title: str


def levels(of: Subject) -> KlOfLevels:
    """The KL of each block on the test images, and of each level on validation images by epoch."""
    run, evaluation = of.run, of.evaluation
    hierarchy = run.recipe.hierarchy
    assert hierarchy is not None
    history = run.folder.history()
    parts = ("validation", "train")
    part = next((p for p in parts if all(f"{p}_kl" in row for row in history)), "train")
    names = [f"{part}_{key}" for key in hierarchy.keys]
    rows = [row for row in history if all(name in row for name in names)]
    blocks = np.array([[row[name] for name in names] for row in rows])
    curves = dict(zip(hierarchy.names, hierarchy.sums(blocks).T)) if rows else {}
    what = f"KL of the {hierarchy.unit}s on test images, and of the levels on {part} images"
    return KlOfLevels(
        hierarchy.columns,
        np.array(evaluation.kl_per_unit),
        np.repeat(np.arange(len(hierarchy.names)), hierarchy.blocks),
        [row["epoch"] for row in rows],
        curves,
        f"{what}\n{heading(run)}",
    )


def draw_levels(
    path: Path,
    columns: Sequence[str],
    nats: Array,
    level: Array,
    epochs: Sequence[int],
    curves: Mapping[str, Array],
    *,
    title: str,
) -> Path:
    """A bar for each block, the top of the hierarchy above; a line for each level by epoch."""
    from matplotlib import colormaps
    from matplotlib.ticker import MaxNLocator

    palette = colormaps["viridis"](np.linspace(0, 0.85, int(level.max()) + 1))
    height = max(ROW * len(columns), LEAST)
    boxes = [(0, 0, WIDTH, height)] + [(WIDTH + 260, 0, WIDTH, height)] * bool(curves)
    with page(path, title, boxes) as axes:
        bars, places = axes[0], np.arange(len(columns))
        bars.barh(places, nats, 0.7, color=palette[level])
        for place, value in zip(places, nats):
            idle = not value >= USED
            said = f"{value:.2f}" + f", below {USED:g}: unused" * idle
            bars.annotate(
                said, (max(value, 0), place), (3, 0), textcoords="offset points", va="center"
            ).set(size=7, color="#b3261e" if idle else GREY)
        bars.set_yticks(places, columns)
        bars.set(title="KL (nats)", ylim=(-0.6, len(columns) - 0.4))
        bars.set_xlim(0, 1.15 * max(np.nanmax(nats), USED))
        bars.tick_params(axis="y", length=0)
        bars.xaxis.set_major_locator(MaxNLocator(5))
        bars.grid(True, axis="x")
        for ax in axes[1:]:
            for colour, (name, line) in zip(palette, curves.items()):
                ax.plot(epochs, line, "o-" if len(line) <= 30 else "-", c=colour, lw=1.4, ms=3)
                ax.lines[-1].set_label(name)
            handles, names = ax.get_legend_handles_labels()
            ax.legend(handles[::-1], names[::-1], loc="upper left", bbox_to_anchor=(1, 1))
            ax.set(title="KL by level (nats)", xlabel="epoch")
            ax.set_ylim(bottom=0)
            ax.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
            ax.grid(True, axis="y")
    return path
