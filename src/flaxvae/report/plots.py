"""Figures of a run: NumPy arrays in, one PNG file out; no models, no JAX.

Images are ``[N, H, W, C]`` means in ``[0, 1]``, never logits: grey for one channel, RGB for three,
RGBA over white for four, else the first channel, as the title then says; a pixel that is not finite
is magenta. Vectors, ``[N, D]``, are drawn as lines on a common scale. A title's first line says
what is shown; the others name the run.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flaxvae.report.page import (
    CAPTION_GAP,
    GAP,
    GREY,
    TRAIN,
    VALIDATION,
    WIDE_GAP,
    page,
    sheet,
)
from flaxvae.report.scales import bulk, digits

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = np.ndarray
CURVES = {"−ELBO": ("elbo", -1), "reconstruction": ("reconstruction", 1), "KL": ("kl", 1)}
CAPTION: dict[str, Any] = {"textcoords": "offset points", "va": "top", "size": 7, "color": GREY}
STRETCH = 3  # how much longer one side of a scatter may be than the other


def image_grid(
    path: Path,
    rows: Sequence[Array],
    labels: Sequence[str],
    *,
    title: str,
    columns: Sequence[str] = (),
    xlabel: str = "",
) -> Path:
    """Labelled rows of images: ``rows`` is ``[R, N, ...]``, or ``R`` arrays of unequal length.

    Names of ``columns`` stand above the first row, under ``xlabel``.
    """
    with sheet(path, title, rows) as (ax, x, y):
        ax.set_yticks(y, [textwrap.fill(label, 26) for label in labels])
        if columns:
            _above(ax, x, columns)
            ax.set_xlabel(xlabel)
    return path


def samples(path: Path, images: Array, *, title: str) -> Path:
    """A mosaic as square as ``N`` allows, filled row by row."""
    with sheet(path, title, _rows_of(images, math.ceil(math.sqrt(len(images))))):
        return path


def side_by_side(
    path: Path, left: Array, right: Array, *, names: tuple[str, str], title: str
) -> Path:
    """Two mosaics of as many images, side by side, with a name above each."""
    columns = math.ceil(math.sqrt(len(left)))
    full = len(left) // columns * columns
    pairs = zip(_rows_of(left[:full], columns), _rows_of(right[:full], columns), strict=True)
    rows = [np.concatenate(pair) for pair in pairs]
    gaps = [WIDE_GAP if c == columns else GAP for c in range(2 * columns)]
    with sheet(path, title, rows, column_gap=gaps) as (ax, x, _):
        _above(ax, np.array([x[:columns].mean(), x[columns:].mean()]), names)
    return path


def reconstructions(
    path: Path, originals: Array, reconstructions: Array, *, title: str, errors: Array | None = None
) -> Path:
    """Originals, each above its reconstruction and, if given, its squared error; ten per row."""
    columns = math.ceil(len(originals) / math.ceil(len(originals) / 10))  # rows of equal length
    pairs = zip(_rows_of(originals, columns), _rows_of(reconstructions, columns), strict=True)
    rows = [row for pair in pairs for row in pair]
    gaps = [GAP if r % 2 else WIDE_GAP if errors is None else CAPTION_GAP for r in range(len(rows))]
    with sheet(path, title, rows, gaps) as (ax, x, y):
        ax.set_yticks(y, ["original", "reconstruction"] * (len(rows) // 2))
        bottoms = y[1::2] + y[0]  # the first centre is half a tile down
        for i, error in enumerate([] if errors is None else errors):
            where = (x[i % columns], bottoms[i // columns])
            ax.annotate(digits(error), where, (0, -2), ha="center", **CAPTION)
        for bottom in [] if errors is None else bottoms:
            ax.annotate("squared error", (0, bottom), (-3.5, -2), ha="right", **CAPTION)
    return path


def interpolations(
    path: Path, images: Array, *, ends: Array, title: str, labels: Sequence[str] = ()
) -> Path:
    """One path per row, ``[rows, steps, ...]``, between the two images that it connects.

    These, ``ends`` ``[rows, 2, ...]``, are set off at the left and the right. ``labels`` name the
    rows.
    """
    rows = np.concatenate([ends[:, :1], images, ends[:, 1:]], axis=1)
    last = rows.shape[1] - 1
    gaps = [WIDE_GAP if c in (1, last) else GAP for c in range(last + 1)]
    with sheet(path, title, list(rows), column_gap=gaps) as (ax, x, y):
        if labels:
            ax.set_yticks(y, [textwrap.fill(label, 26) for label in labels])
        middle = (x[1] + x[last - 1]) / 2
        _above(ax, np.array([x[0], middle, x[last]]), ["original", "decoded", "original"])
    return path


def manifold(path: Path, images: Array, *, z: Array, title: str, xlabel: str, ylabel: str) -> Path:
    """Decoded means on an ``n x n`` grid of latent points.

    Tiles touch if the images have plain margins of their own; others are spaced apart.

    Image ``i * n + j`` is decoded from ``(z[j], z[i])``: as on any graph, ``z[0]`` is at the left
    and at the bottom. ``z`` are the normal quantiles, equally spaced in probability; ticks mark
    whole numbers, which fall between tiles.
    """
    n, z = len(z), np.asarray(z)
    if len(images) != n * n:
        raise ValueError(f"a manifold of {n} latent values a side needs {n * n} images")
    marks = np.arange(math.ceil(z[0]), math.floor(z[-1]) + 1)
    names = [str(mark).replace("-", "−") for mark in marks]
    gaps = [0 if _margins(images) else GAP] * n
    with sheet(path, title, _rows_of(images, n)[::-1], gaps, gaps) as (ax, x, y):
        ax.set_xticks(np.interp(marks, z, x), names)
        ax.set_yticks(np.interp(marks, z, y[::-1]), names)
        ax.tick_params(length=3)
        ax.set(xlabel=xlabel, ylabel=ylabel)
    return path


def latent_scatter(
    path: Path, codes: Array, labels: Array | None, *, title: str, xlabel: str, ylabel: str
) -> Path:
    """Codes ``[N, 2]`` coloured by class, in a shuffled order so that no class hides another.

    Class names stand at the medians of their codes. The page has the shape of the codes' range; if
    that is too long, one axis is stretched, and its label says so.
    """
    from matplotlib import colormaps, patheffects

    classes = np.zeros(len(codes), int) if labels is None else np.asarray(labels)
    names, ranks = np.unique(classes, return_inverse=True)
    spread = np.linspace(0, 1, len(names))
    order = np.random.default_rng(0).permutation(len(codes))
    order = order[np.isfinite(codes[order]).all(axis=1)]
    points = codes[order]
    lost = len(codes) - len(order)
    middle, size, box, stretched = _frame(points)
    notes = ["", ""]
    if stretched is not None:
        axis, times = stretched
        notes[axis] = f", scale stretched {times:,.0f} times"
    with page(path, title, [(0, 0, *box)]) as [ax]:
        # With few classes, each has the same colour in every figure.
        few = names.dtype.kind in "iu" and names.min() >= 0 and names.max() < 10
        palette = colormaps["tab10" if few else "turbo"](names if few else spread)
        area = min(max(20_000 / (len(points) + 1), 3), 24)
        ax.scatter(points[:, 0], points[:, 1], area, palette[ranks[order]], alpha=0.6, linewidths=0)
        ax.set_xlim(middle[0] + [-size[0], size[0]])
        ax.set_ylim(middle[1] + [-size[1], size[1]])
        ax.set(xlabel=xlabel + notes[0] + f"\ncodes not finite: {lost}" * bool(lost))
        ax.set(ylabel=ylabel + notes[1])
        ax.grid(True)
        if labels is not None:
            for rank, (name, colour) in enumerate(zip(names, palette)):
                ax.scatter([], [], 30, [colour], linewidths=0, label=str(name))
                own = points[ranks[order] == rank]
                if len(own) and len(names) <= 30:
                    halo = patheffects.withStroke(linewidth=2.5, foreground="white")
                    at, up = np.median(own, axis=0)
                    text = ax.text(at, up, str(name), ha="center", va="center")
                    text.set(color=colour * [0.7, 0.7, 0.7, 1], weight="bold", path_effects=[halo])
            ax.legend(loc="upper left", bbox_to_anchor=(1, 1), ncols=-(-len(names) // 20))
    return path


def _frame(points: Array) -> tuple[Array, Array, tuple[int, int], tuple[int, float] | None]:
    """Centre and half lengths of a scatter's axes, its box in pixels, and what is stretched.

    Both axes have the same scale, unless one side of the page would be more than STRETCH times as
    long as the other: then the short one is stretched to that ratio, (axis, times).
    """
    if not len(points):
        return np.zeros(2), np.ones(2), (1300, 1300), None
    span = np.ptp(points, axis=0)
    longest = max(span.max(), 1e-6)
    sides = np.maximum(span / longest, 1 / STRETCH)
    axis = int(np.argmin(span))
    # Codes that are all alike have no range to stretch: they lie on a line or a point.
    filled = span[axis] > 1e-6 * longest
    half = np.maximum(span if filled else sides * longest, 1e-6) * 0.53
    times = sides[axis] * longest / span[axis] if filled else 1.0
    box = (round(1300 * sides[0]), round(1300 * sides[1]))
    middle = (points.max(0) + points.min(0)) / 2
    return middle, half, box, (axis, times) if times > 1.5 else None


def curves(path: Path, history: Sequence[Mapping[str, Any]], *, title: str) -> Path:
    """−ELBO, reconstruction and KL by epoch, for those that the history has.

    If the KL's weight changes, it gets its own panel; the KL's target is a line in the KL's panel.
    If outliers would more than double the range, the scale fits the bulk of the epochs, and the
    label says how many points are off scale and how far.
    """
    panels: dict[str, dict[str, Array]] = {}

    def line(key: str, sign: int = 1) -> Array:
        return sign * np.array([np.nan if (v := row.get(key)) is None else v for row in history])

    for name, (key, sign) in CURVES.items():
        for part in "train", "validation":
            found = line(f"{part}_{key}", sign)
            if np.nan_to_num(found, posinf=0, neginf=0).any():
                panels.setdefault(f"{name} (nats)", {})[part] = found
    if not panels:
        raise ValueError("no curve to draw: the history has no reconstruction term")
    target, weight = line("kl_target"), line("kl_weight")
    if "KL (nats)" in panels and np.isfinite(target).any():
        panels["KL (nats)"]["target"] = target
    if len(set(weight[np.isfinite(weight)])) > 1:
        panels["weight of the KL"] = {"": weight}
    epochs = np.array([row["epoch"] for row in history])
    columns = 2 if len(panels) == 4 else len(panels)
    last = (len(panels) - 1) // columns
    boxes = [(i % columns * 910, (last - i // columns) * 680, 560, 480) for i in range(len(panels))]
    with page(path, title, boxes) as axes:
        for ax, (name, lines) in zip(axes, panels.items()):
            _panel(ax, name, epochs, lines)
    return path


def _panel(ax: Axes, name: str, epochs: Array, lines: Mapping[str, Array]) -> None:
    """One quantity: a line for each part, labelled at its right end with its last value."""
    from matplotlib.ticker import MaxNLocator

    values = np.concatenate(list(lines.values()))
    values = values[np.isfinite(values)]
    low, high = bulk(values)
    room = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    low, high = low - room, high + room
    ends = []
    for part, y in lines.items():
        known = np.isfinite(y)
        colour = {"train": TRAIN, "validation": VALIDATION}.get(part, GREY)
        marker = "o-" if known.sum() <= 30 and colour != GREY else "-"
        ax.plot(epochs[known], y[known], marker, c=colour, lw=1.4, ms=3)
        if known.any():
            ends.append((y[known][-1], epochs[known][-1], f"{part} {digits(y[known][-1])}", colour))
    ends.sort(key=lambda end: end[0])
    # In units of the axes' height: each label at its line; labels that would touch move apart.
    ideal = np.clip([(end[0] - low) / (high - low) for end in ends], 0, 1)
    places = ideal.copy()
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + 0.075)
    places += ideal.mean() - places.mean()
    for (y, x, text, colour), place in zip(ends, places):
        ax.annotate(
            text.strip(),
            (x, np.clip(y, low, high)),
            (1.05, place),
            textcoords="axes fraction",
            va="center",
            color=colour,
            size=8,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "lw": 0.6, "color": colour, "relpos": (0, 0.5)},
        )
    note, hidden = "", values[(values < low) | (values > high)]
    if hidden.size:
        furthest = hidden[np.abs(hidden - (low + high) / 2).argmax()]
        note = f"\n{hidden.size} of {values.size} points off scale, as far as {digits(furthest)}"
    room = 0.03 * np.ptp(epochs) or 0.5
    ax.set(title=name, xlabel="epoch" + note)
    ax.set(ylim=(low, high), xlim=(epochs.min() - room, epochs.max() + room))
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    ax.grid(True, axis="y")


def bars(
    path: Path, panels: Mapping[str, Mapping[str, Sequence[float]]], *, title: str, xlabel: str
) -> Path:
    """A panel for each group: {group: {bar: (low, middle, high)}}; the first bar is highlighted.

    Groups may lack some of the bars.
    """
    from matplotlib.ticker import MaxNLocator

    names = list(dict.fromkeys(name for found in panels.values() for name in found))[::-1]
    height = 60 * len(names)
    boxes = [(i * 660, 0, 560, height) for i in range(len(panels))]
    with page(path, title, boxes) as axes:
        for ax, (group, found) in zip(axes, panels.items()):
            for name, (low, middle, high) in found.items():
                ours, place = name == names[-1], names.index(name)
                ax.barh(place, middle, 0.7, color=TRAIN if ours else "#b8c0cc")
                ax.plot([low, high], [place, place], c=GREY, lw=1)
            ax.set_yticks(range(len(names)), names if ax is axes[0] else [""] * len(names))
            ax.set(title=group, xlabel=xlabel, ylim=(-0.6, len(names) - 0.4))
            ax.xaxis.set_major_locator(MaxNLocator(4))
            ax.xaxis.set_major_formatter("{x:,.0f}")
            ax.tick_params(axis="y", length=0)
            ax.grid(True, axis="x")
    return path


def _above(ax: Axes, x: Array, names: Sequence[str]) -> None:
    """Put the names of columns above them."""
    ax.xaxis.tick_top()
    ax.xaxis.set_label_position("top")
    ax.set_xticks(x, names)


def _margins(images: Array) -> bool:
    """Whether images have a plain margin, so that they can touch."""
    if images.ndim != 4 or images.shape[-1] != 1:
        return False
    edges = [images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]]
    border = np.concatenate([edge.ravel() for edge in edges])
    return bool(np.ptp(np.nanpercentile(border, [5, 95])) < 0.1)


def _rows_of(images: Array, columns: int) -> list[Array]:
    return [images[i : i + columns] for i in range(0, len(images), columns)]
