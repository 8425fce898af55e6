"""Figures of a run: NumPy arrays in, one PNG file out; models and JAX stay outside.

Images are ``[N, H, W, C]`` means in ``[0, 1]``, never logits: grey for one channel, colour for
three, else channel 0; a pixel that is not finite is magenta. Vectors, ``[N, D]``, are drawn as
lines on one common scale. Each pixel of an image becomes a whole square of screen pixels: nothing
is resampled. Axes get exact boxes, and `_page` adds the margins that their labels turn out to
need, so no text is cut.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flaxvae import writing

if TYPE_CHECKING:  # Matplotlib is imported on first use: it is slow to import.
    from matplotlib.axes import Axes
    from matplotlib.text import Text

Array = np.ndarray
Box = tuple[int, int, int, int]
Gaps = Sequence[int]
CURVES = {"−ELBO": ("elbo", -1), "reconstruction": ("reconstruction", 1), "KL": ("kl", 1)}
INK, GREY, PAPER, TRAIN, VALIDATION = "#222222", "#6b7280", "#eef0f3", "#2f6db3", "#d9730d"
STYLE: dict[str, Any] = {"font.size": 9, "text.color": INK, "grid.color": PAPER}
STYLE |= {"axes.edgecolor": GREY, "axes.linewidth": 0.6, "axes.labelcolor": INK}
STYLE |= {"axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True}
STYLE |= {"axes.titlelocation": "left", "axes.titlesize": 10}
STYLE |= {"legend.frameon": False, "legend.handletextpad": 0.2}
STYLE |= {"xtick.color": GREY, "xtick.labelcolor": INK, "xtick.labelsize": 8}
STYLE |= {"ytick.color": GREY, "ytick.labelcolor": INK, "ytick.labelsize": 8}
CAPTION: dict[str, Any] = {"textcoords": "offset points", "va": "top", "size": 7, "color": GREY}
DPI, LONGEST, TILE = 200, 1600, 320  # a sheet aims at LONGEST pixels a side, a tile at most TILE
PAD, GAP, WIDE_GAP, CAPTION_GAP, NARROWEST, VECTOR_TILE = 32, 4, 20, 52, 720, (90, 140)
BUTTED = 16  # rows and columns from which images of a manifold touch


def image_grid(path: Path, rows: Sequence[Array], labels: Sequence[str], *, title: str) -> Path:
    """Labelled rows of images: ``rows`` is ``[R, N, ...]``, or ``R`` arrays of unequal length."""
    with _sheet(path, title, rows) as (ax, _, y):
        ax.set_yticks(y, [textwrap.fill(label, 26) for label in labels])
    return path


def samples(path: Path, images: Array, *, title: str) -> Path:
    """A mosaic as square as ``N`` allows, filled row by row."""
    with _sheet(path, title, _rows_of(images, math.ceil(math.sqrt(len(images))))):
        return path


def reconstructions(
    path: Path, originals: Array, reconstructions: Array, *, title: str, errors: Array | None = None
) -> Path:
    """Originals, each over its reconstruction and, if given, its squared error; ten in a row."""
    columns = math.ceil(len(originals) / math.ceil(len(originals) / 10))  # rows of equal length
    pairs = zip(_rows_of(originals, columns), _rows_of(reconstructions, columns), strict=True)
    rows = [row for pair in pairs for row in pair]
    gaps = [GAP if r % 2 else WIDE_GAP if errors is None else CAPTION_GAP for r in range(len(rows))]
    with _sheet(path, title, rows, gaps) as (ax, x, y):
        ax.set_yticks(y, ["original", "reconstruction"] * (len(rows) // 2))
        bottoms = y[1::2] + y[0]  # the first centre is half a tile down
        for i, error in enumerate([] if errors is None else errors):
            where = (x[i % columns], bottoms[i // columns])
            ax.annotate(_digits(error), where, (0, -2), ha="center", **CAPTION)
        for bottom in [] if errors is None else bottoms:
            ax.annotate("squared error", (0, bottom), (-3.5, -2), ha="right", **CAPTION)
    return path


def interpolations(path: Path, images: Array, *, title: str) -> Path:
    """One path a row, ``[rows, steps, ...]``; its two ends stand apart, marked from and to."""
    last = images.shape[1] - 1
    gaps = [WIDE_GAP if c in (1, last) else GAP for c in range(last + 1)]
    with _sheet(path, title, list(images), column_gap=gaps) as (ax, x, _):
        ax.xaxis.tick_top()
        ax.set_xticks(x[[0, last]], ["from", "to"])
    return path


def manifold(path: Path, images: Array, *, z: Array, title: str, xlabel: str, ylabel: str) -> Path:
    """Decoded means on an ``n x n`` grid of latent points, tiles butted together.

    Images of a few pixels, which have no margin of their own, stand apart.

    Image ``i * n + j`` is decoded from ``(z[j], z[i])``: as on any graph, ``z[0]`` is at the left
    and at the bottom. ``z`` are the normal quantiles, equally spaced in probability.
    """
    n = len(z)
    if len(images) != n * n:
        raise ValueError(f"a manifold of {n} latent values a side needs {n * n} images")
    shown = np.unique(np.linspace(0, n - 1, min(n, 7)).round().astype(int))
    names = [f"{value:.2f}".replace("-", "−") for value in np.asarray(z)[shown]]
    gaps = [GAP if min(images.shape[1:3]) < BUTTED else 0] * n
    with _sheet(path, title, _rows_of(images, n)[::-1], gaps, gaps) as (ax, x, y):
        ax.set_xticks(x[shown], names)
        ax.set_yticks(y[::-1][shown], names)
        ax.tick_params(length=3)
        ax.set(xlabel=xlabel, ylabel=ylabel)
    return path


def latent_scatter(
    path: Path, codes: Array, labels: Array | None, *, title: str, xlabel: str, ylabel: str
) -> Path:
    """Codes ``[N, 2]`` coloured by class, in a shuffled order so that no class hides another."""
    from matplotlib import colormaps

    classes = np.zeros(len(codes), int) if labels is None else np.asarray(labels)
    names, ranks = np.unique(classes, return_inverse=True)
    spread = np.linspace(0, 1, len(names))
    order = np.random.default_rng(0).permutation(len(codes))
    order = order[np.isfinite(codes[order]).all(axis=1)]
    x, y = codes[order].T
    lost = len(codes) - len(order)
    with _page(path, title, [(0, 0, 1300, 1300)]) as [ax]:
        # Then a class has one colour everywhere.
        few = names.dtype.kind in "iu" and names.min() >= 0 and names.max() < 10
        palette = colormaps["tab10" if few else "turbo"](names if few else spread)
        area = min(max(20_000 / (len(x) + 1), 3), 24)
        ax.scatter(x, y, area, palette[ranks[order]], alpha=0.6, linewidths=0)
        if len(x):
            half = max(np.ptp(x), np.ptp(y), 1e-6) * 0.53
            ax.set_xlim((x.max() + x.min()) / 2 + [-half, half])
            ax.set_ylim((y.max() + y.min()) / 2 + [-half, half])
        ax.set(xlabel=xlabel + f"\ncodes not finite: {lost}" * bool(lost))
        ax.set(ylabel=ylabel, aspect="equal")
        ax.grid(True)
        if labels is not None:
            for name, colour in zip(names, palette):
                ax.scatter([], [], 30, [colour], linewidths=0, label=str(name))
            ax.legend(loc="upper left", bbox_to_anchor=(1, 1), ncols=-(-len(names) // 20))
    return path


def curves(path: Path, history: Sequence[Mapping[str, Any]], *, title: str) -> Path:
    """−ELBO, reconstruction and KL against the epoch, for those that the history holds.

    The scale fits the bulk of the epochs; how many points it leaves out, and how far, is said.
    """
    panels: dict[str, dict[str, Array]] = {}
    for name, (key, sign) in CURVES.items():
        for part in "train", "validation":
            y = [row.get(f"{part}_{key}") for row in history]
            line = sign * np.array([np.nan if v is None else v for v in y], float)
            if np.nan_to_num(line, posinf=0, neginf=0).any():
                panels.setdefault(f"{name} (nats)", {})[part] = line
    if not panels:
        raise ValueError("no curve to draw: the history holds no reconstruction term")
    epochs = np.array([row["epoch"] for row in history])
    with _page(path, title, [(i * 790, 0, 520, 480) for i in range(len(panels))]) as axes:
        for ax, (name, lines) in zip(axes, panels.items()):
            _panel(ax, name, epochs, lines)
    return path


def _panel(ax: Axes, name: str, epochs: Array, lines: Mapping[str, Array]) -> None:
    """One quantity: a line for each part, named at its right end together with its last value."""
    from matplotlib.ticker import MaxNLocator

    values = np.concatenate(list(lines.values()))
    values = values[np.isfinite(values)]
    # Tukey's outer fences, but at least the middle nine tenths.
    q5, q25, q75, q95 = np.percentile(values, [5, 25, 75, 95])
    fences = min(4 * q25 - 3 * q75, q5), max(4 * q75 - 3 * q25, q95)
    inside = (values >= fences[0]) & (values <= fences[1])
    low, high = values[inside].min(), values[inside].max()
    room = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    low, high = low - room, high + room
    ends = []
    for part, y in lines.items():
        known, colour = np.isfinite(y), {"train": TRAIN}.get(part, VALIDATION)
        ax.plot(epochs[known], y[known], "o-" if known.sum() <= 30 else "-", c=colour, lw=1.4, ms=3)
        end = y[known][-1]
        ends.append((np.clip((end - low) / (high - low), 0.1, 0.85), end, part, colour))
    ends.sort()
    apart = max(0.0, 0.19 - (ends[-1][0] - ends[0][0])) / 2 * (len(ends) - 1)
    for (place, end, part, colour), shift in zip(ends, (-apart, apart)):
        text, where = f"{part}\n{_digits(end)}", (1.03, place + shift)
        ax.text(*where, text, transform=ax.transAxes, va="center", color=colour, size=8)
    note, hidden = "", values[(values < low) | (values > high)]
    if hidden.size:
        furthest = hidden[np.abs(hidden - (low + high) / 2).argmax()]
        note = f"\n{hidden.size} of {values.size} points off scale, as far as {_digits(furthest)}"
    room = 0.03 * np.ptp(epochs) or 0.5
    ax.set(title=name, xlabel="epoch" + note)
    ax.set(ylim=(low, high), xlim=(epochs.min() - room, epochs.max() + room))
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    ax.grid(True, axis="y")


def _digits(value: float) -> str:
    return (f"{value:.1f}" if abs(value) >= 10 else f"{value:#.3g}").replace("-", "−")


def _rows_of(images: Array, columns: int) -> list[Array]:
    return [images[i : i + columns] for i in range(0, len(images), columns)]


def _colours(images: Array) -> Array:
    """Images ``[N, H, W, C]`` as 8-bit colour ``[N, H, W, 3]``."""
    grey_or_colour = images if images.shape[-1] == 3 else images[..., :1]
    colour = np.broadcast_to(grey_or_colour, (*images.shape[:-1], 3))
    known = np.isfinite(colour).all(axis=-1, keepdims=True)
    return (np.where(known, colour.clip(0, 1), (1, 0, 1)) * 255).round().astype(np.uint8)


@contextmanager
def _sheet(
    path: Path, title: str, rows: Sequence[Array], row_gap: Gaps = (), column_gap: Gaps = ()
) -> Iterator[tuple[Axes, Array, Array]]:
    """Rows of tiles under axes in pixels: yields the axes and the tiles' centres, x and y.

    A gap is the space before its row or column; the first is ignored.
    """
    rows = [np.asarray(row, float) for row in rows]
    columns = max(map(len, rows), default=0)
    vectors = rows if columns and rows[0].ndim == 2 else []
    if vectors:
        rows = [np.full((len(row), *VECTOR_TILE, 1), 0.94) for row in rows]
    if not columns or rows[0].ndim != 4:
        raise ValueError("nothing to draw: expected images [N, H, W, C] or vectors [N, D]")
    h, w = rows[0].shape[1:3]
    scale = max(1, min(LONGEST // (h * len(rows)), LONGEST // (w * columns), TILE // max(h, w)))
    h, w = h * scale, w * scale
    zoom = max(1.0, h * len(rows) / LONGEST, w * columns / LONGEST)  # text and gaps grow along
    top, left = (
        np.cumsum([0, *(size + round(gap * zoom) for gap in gaps[1:])])
        for size, gaps in ((h, row_gap or [GAP] * len(rows)), (w, column_gap or [GAP] * columns))
    )
    canvas = np.full((top[-1] + h, left[-1] + w, 3), 255, np.uint8)
    for y, row in zip(top, rows):
        for x, tile in zip(left, _colours(row)):
            canvas[y : y + h, x : x + w] = tile.repeat(scale, 0).repeat(scale, 1)
    box = (0, 0, canvas.shape[1], canvas.shape[0])
    with _page(path, title, [box], canvas, zoom) as [ax]:
        known = np.concatenate([row[np.isfinite(row)] for row in vectors] or [np.zeros(1)])
        low, span = known.min(initial=0), np.ptp(known) or 1.0
        for y, row in zip(top, vectors):
            for x, vector in zip(left, row):
                across = x + w * np.linspace(0.08, 0.92, len(vector))
                down = y + h * (0.9 - 0.8 * (vector - low) / span)
                ax.plot(across, down, ".-" if len(vector) <= 16 else "-", c=TRAIN, lw=0.8, ms=3)
        ax.set(xlim=(0, box[2]), ylim=(box[3], 0), xticks=[], yticks=[], facecolor="none")
        ax.spines[:].set_visible(False)
        ax.tick_params(length=0)
        yield ax, left + w / 2, top + h / 2


@contextmanager
def _page(
    path: Path, title: str, boxes: Sequence[Box], canvas: Array | None = None, zoom: float = 1.0
) -> Iterator[list[Axes]]:
    """Axes in pixel boxes ``(x, y, width, height)``; on leaving: margins, title and the file."""
    from matplotlib import style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

    def lay_out(width: float, height: float, x0: float = 0, y0: float = 0) -> None:
        # The hundredth of a pixel keeps rounding from losing a whole one.
        fig.set_size_inches((width + 0.01) / fig.dpi, (height + 0.01) / fig.dpi)
        for ax, (x, y, w, h) in zip(axes, boxes):
            ax.set_position(((x0 + x) / width, (y0 + y) / height, w / width, h / height))

    with style.context(["default", STYLE]):
        fig, pad = Figure(dpi=DPI * zoom), round(PAD * zoom)
        FigureCanvasAgg(fig)
        axes = [fig.add_axes((0, 0, 1, 1)) for _ in boxes]
        lay_out(max(x + w for x, _, w, _ in boxes), max(y + h for _, y, _, h in boxes))
        yield axes
        needed = Bbox.union([box for ax in axes if (box := ax.get_tightbbox())])
        left, bottom = pad - math.floor(needed.x0), pad - math.floor(needed.y0)
        width = max(left + math.ceil(needed.x1) + pad, NARROWEST)
        heading = fig.text(0, 0, title, size=11, va="top", linespacing=1.3, parse_math=False)
        _wrap(heading, width - 2 * pad)
        above = heading.get_window_extent().height + 0.8 * pad if title else 0
        height = bottom + math.ceil(needed.y1 + above) + pad
        lay_out(width, height, left, bottom)
        heading.set_position((pad / width, 1 - pad / height))
        if canvas is not None:
            fig.figimage(canvas, left, bottom, zorder=-1)
        path.parent.mkdir(parents=True, exist_ok=True)
        with writing.whole(path) as file:
            fig.savefig(file, format="png", dpi=fig.dpi, metadata={"Software": None})


def _wrap(text: Text, width: float) -> None:
    """Break ``text`` into lines no wider than ``width`` pixels, by measuring them.

    An interval, [0, 1], stays in one line.
    """
    paragraphs = re.sub(r"(\[\S+,) (\S+\])", "\\1\u00a0\\2", text.get_text()).splitlines()
    characters = max(map(len, paragraphs), default=0)
    while text.get_window_extent().width > width and characters > 1:
        characters -= 1
        text.set_text("\n".join(textwrap.fill(line, characters) for line in paragraphs))
