"""The page that every figure is drawn on: one style, boxes of exact pixels, one PNG file.

Axes get exact boxes, and ``page`` adds the margins that their labels need, so no text is cut off.
Each pixel of an image becomes a whole square of screen pixels: nothing is resampled.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterator, Sequence
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
INK, GREY, PAPER, TRAIN, VALIDATION = "#222222", "#6b7280", "#eef0f3", "#2f6db3", "#d9730d"
STYLE: dict[str, Any] = {"font.size": 9, "text.color": INK, "grid.color": PAPER}
STYLE |= {"axes.edgecolor": GREY, "axes.linewidth": 0.6, "axes.labelcolor": INK}
STYLE |= {"axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True}
STYLE |= {"axes.titlelocation": "left", "axes.titlesize": 10}
STYLE |= {"legend.frameon": False, "legend.handletextpad": 0.2}
STYLE |= {"xtick.color": GREY, "xtick.labelcolor": INK, "xtick.labelsize": 8}
STYLE |= {"ytick.color": GREY, "ytick.labelcolor": INK, "ytick.labelsize": 8}
DPI, LONGEST, TILE = 200, 1600, 320  # a sheet aims at LONGEST pixels per side, a tile at most TILE
PAD, GAP, WIDE_GAP, CAPTION_GAP, NARROWEST, VECTOR_TILE = 32, 4, 20, 52, 720, (90, 140)


@contextmanager
def sheet(
    path: Path, title: str, rows: Sequence[Array], row_gap: Gaps = (), column_gap: Gaps = ()
) -> Iterator[tuple[Axes, Array, Array]]:
    """Rows of tiles under axes in pixels: yields the axes and the tiles' centres, x and y.

    A gap is the space before its row or column; the first is ignored. For images that are neither
    grey nor RGB, the title says what is shown.
    """
    rows = [np.asarray(row, float) for row in rows]
    columns = max(map(len, rows), default=0)
    vectors = rows if columns and rows[0].ndim == 2 else []
    if vectors:
        rows = [np.full((len(row), *VECTOR_TILE, 1), 0.94) for row in rows]
    if not columns or rows[0].ndim != 4:
        raise ValueError("nothing to draw: expected images [N, H, W, C] or vectors [N, D]")
    h, w, channels = rows[0].shape[1:]
    if channels not in (1, 3):
        head, line, rest = title.partition("\n")
        seen = "RGBA over white" if channels == 4 else f"the first of {channels} channels"
        title = f"{head} ({seen}){line}{rest}"
    scale = max(1, min(LONGEST // (h * len(rows)), LONGEST // (w * columns), TILE // max(h, w)))
    h, w = h * scale, w * scale
    zoom = max(1.0, h * len(rows) / LONGEST, w * columns / LONGEST)  # text and gaps grow with it
    top, left = (
        np.cumsum([0, *(size + round(gap * zoom) for gap in gaps[1:])])
        for size, gaps in ((h, row_gap or [GAP] * len(rows)), (w, column_gap or [GAP] * columns))
    )
    canvas = np.full((top[-1] + h, left[-1] + w, 3), 255, np.uint8)
    for y, row in zip(top, rows):
        for x, tile in zip(left, colours(row)):
            canvas[y : y + h, x : x + w] = tile.repeat(scale, 0).repeat(scale, 1)
    box = (0, 0, canvas.shape[1], canvas.shape[0])
    with page(path, title, [box], canvas, zoom) as [ax]:
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


def colours(images: Array) -> Array:
    """Images ``[N, H, W, C]`` as 8-bit RGB ``[N, H, W, 3]``; non-finite pixels are magenta.

    Four channels are RGBA, shown over white; of two, or more than four, the first is shown.
    """
    channels = images.shape[-1]
    if channels == 4:
        alpha = images[..., 3:].clip(0, 1)
        images = images[..., :3].clip(0, 1) * alpha + (1 - alpha)
    shown = images if channels in (3, 4) else images[..., :1]
    colour = np.broadcast_to(shown, (*images.shape[:-1], 3))
    known = np.isfinite(colour).all(axis=-1, keepdims=True)
    return (np.where(known, colour.clip(0, 1), (1, 0, 1)) * 255).round().astype(np.uint8)


@contextmanager
def page(
    path: Path, title: str, boxes: Sequence[Box], canvas: Array | None = None, zoom: float = 1.0
) -> Iterator[list[Axes]]:
    """Axes in pixel boxes ``(x, y, width, height)``; on exit, adds margins and title and saves.

    The first line of the title says what is shown; the others, smaller, name the run.
    """
    from matplotlib import style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

    def lay_out(width: float, height: float, x0: float = 0, y0: float = 0) -> None:
        # The hundredth of a pixel keeps rounding from dropping a whole one.
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
        head, _, rest = title.partition("\n")
        quiet: dict[str, Any] = {"va": "top", "linespacing": 1.3, "parse_math": False}
        lines = [fig.text(0, 0, head, size=11, **quiet)] if head else []
        lines += [fig.text(0, 0, rest, size=8, color=GREY, **quiet)] if rest else []
        above = 0.0
        for text in lines:
            wrap(text, width - 2 * pad)
            above += text.get_window_extent().height + (0.4 if text is not lines[-1] else 0.8) * pad
        height = bottom + math.ceil(needed.y1 + above) + pad
        lay_out(width, height, left, bottom)
        down = float(pad)
        for text in lines:
            text.set_position((pad / width, 1 - down / height))
            down += text.get_window_extent().height + 0.4 * pad
        if canvas is not None:
            fig.figimage(canvas, left, bottom, zorder=-1)
        path.parent.mkdir(parents=True, exist_ok=True)
        with writing.whole(path) as file:
            fig.savefig(file, format="png", dpi=fig.dpi, metadata={"Software": None})


def wrap(text: Text, width: float) -> None:
    """Break ``text`` into lines no wider than ``width`` pixels, by measuring them.

    An interval, [0, 1], is kept on one line.
    """
    paragraphs = re.sub(r"(\[\S+,) (\S+\])", "\\1\u00a0\\2", text.get_text()).splitlines()
    characters = max(map(len, paragraphs), default=0)
    while text.get_window_extent().width > width and characters > 1:
        characters -= 1
        text.set_text("\n".join(textwrap.fill(line, characters) for line in paragraphs))
