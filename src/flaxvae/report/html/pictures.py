"""Images in the page: many as one PNG in a data URI, each pixel a whole pixel, never resampled.

Images are ``[N, H, W, C]`` in [0, 1] as in ``report.page``; vectors ``[N, D]`` become small lines.
What is between the tiles is transparent, so that the paper shows in either theme.
"""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections.abc import Sequence

import numpy as np

from flaxvae.report.html.document import Html, tag
from flaxvae.report.page import colours

Array = np.ndarray
GREYS = 32  # of a grey picture: more cannot be told apart in a tile, and cost bytes
WIDE = 1040  # of the page, in CSS pixels
TILE = 84  # of an image, at most
VALUES = 320_000  # numbers of a picture, at most


def png(tiles: Array, clear: Array | None = None, greys: int = GREYS) -> bytes:
    """A PNG of 8-bit RGB ``[H, W, 3]``, as greys where it has no colours.

    Args:
        tiles: the pixels.
        clear: [H, W] those that are transparent.
        greys: different ones that are kept.
    """
    clear = np.zeros(tiles.shape[:2], bool) if clear is None else clear
    height, width = clear.shape
    if (tiles == tiles[..., :1]).all():
        levels = np.round(tiles[..., 0] / 255.0 * (greys - 1)).astype(np.uint8)
        rows = np.where(clear, greys, levels).astype(np.uint8)
        palette = np.round(np.arange(greys + 1).clip(max=greys - 1) * 255 / (greys - 1))
        bits = 8 if greys > 15 else 4
        if bits == 4:  # two pixels a byte
            even = np.pad(rows, ((0, 0), (0, width % 2)))
            rows = np.uint8(16) * even[:, ::2] + even[:, 1::2]
        kind = 3
        extra = _chunk(b"PLTE", np.repeat(palette.astype(np.uint8), 3).tobytes())
        extra += _chunk(b"tRNS", b"\xff" * greys + b"\0")
    else:
        mark = np.array([1, 0, 1], np.uint8)  # a colour that is transparent
        rows = np.where((tiles == mark).all(-1, keepdims=True), mark * 0, tiles)
        rows = np.where(clear[..., None], mark, rows).astype(np.uint8).reshape(height, -1)
        kind, bits = 2, 8
        extra = _chunk(b"tRNS", bytes([0, 1, 0, 0, 0, 1]))
    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    plain = np.pad(rows, ((0, 0), (1, 0)))  # a filter byte before each row
    step = 3 if kind == 2 else 1
    sub = rows.copy()
    sub[:, step:] -= rows[:, :-step]
    filtered = np.pad(sub, ((0, 0), (1, 0)))
    filtered[:, 0] = 1
    packed = min((zlib.compress(each.tobytes(), 6) for each in (plain, filtered)), key=len)
    chunks = _chunk(b"IHDR", header) + extra + _chunk(b"IDAT", packed) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def uri(raw: bytes) -> str:
    """The bytes of a PNG as an address."""
    return "data:image/png;base64," + base64.b64encode(raw).decode()


def tiles(
    images: Array,
    columns: int,
    alt: str,
    gap: int = 1,
    wide: int = WIDE,
    tile: int = TILE,
    breaks: Sequence[int] = (),
) -> Html:
    """Images row by row as one picture, of at most VALUES numbers: see ``averaged``.

    Args:
        images: [N, H, W, C], or vectors [N, D].
        columns: images in a row.
        alt: what is seen.
        gap: pixels of an image between tiles; 0: they touch.
        wide: the picture's width at most, in CSS pixels.
        tile: the width of a tile at most.
        breaks: columns before which there is more room.
    """
    if images.ndim == 2:
        return _drawn(images, columns, alt, wide)
    images = averaged(images, _step(images, VALUES))
    sheet, clear, (height, width) = _laid(colours(np.asarray(images, float)), columns, gap, breaks)
    most = min(wide / width, tile / images.shape[2])
    scale = math.floor(most) if most >= 1 else 1  # a smaller one is the style's
    return tag(
        "img",
        src=uri(png(sheet, clear)),
        alt=alt,
        width=width * scale,
        height=height * scale,
        class_="tiles",
    )


def _step(images: Array, most: int) -> int:
    """The side of the squares of pixels whose averages are at most so many numbers."""
    count, height, width, channels = images.shape
    step = 1
    while count * (height // step) * (width // step) * channels > most and step < min(
        height, width
    ):
        step += 1
    return step


def averaged(images: Array, step: int) -> Array:
    """Images [N, H, W, C], averaged over squares; what is left over at the edges is cut off."""
    if step == 1:
        return images
    count, height, width, channels = images.shape
    h, w = height // step, width // step
    squares = images[:, : h * step, : w * step].reshape(count, h, step, w, step, channels)
    return squares.mean((2, 4))


def _laid(
    images: Array, columns: int, gap: int, breaks: Sequence[int] = ()
) -> tuple[Array, Array, tuple[int, int]]:
    """RGB images on a sheet, which of its pixels are between them, and its size."""
    count, h, w, _ = images.shape
    columns = min(columns, count)
    lines = -(-count // columns)
    left = [c * (w + gap) + 4 * gap * sum(b <= c for b in breaks) for c in range(columns)]
    size = (lines * (h + gap) - gap, left[-1] + w)
    sheet, clear = np.zeros((*size, 3), np.uint8), np.ones(size, bool)
    for i, image in enumerate(images):
        y, x = i // columns * (h + gap), left[i % columns]
        sheet[y : y + h, x : x + w], clear[y : y + h, x : x + w] = image, False
    return sheet, clear, size


def thumbnails(images: Array) -> Html:
    """Small images for the tips of a chart, in the order in which its points number them."""
    step = max(1, round(max(images.shape[1:3]) / 32))
    small = colours(np.asarray(images, float))[:, ::step, ::step]
    columns = max(1, round(math.sqrt(len(small))))
    sheet, _, _ = _laid(small, columns, 0)
    return tag(
        "img",
        src=uri(png(sheet, greys=15)),
        alt="",
        class_="sheet",
        data_width=small.shape[2],
        data_height=small.shape[1],
    )


def _drawn(vectors: Array, columns: int, alt: str, wide: int) -> Html:
    """Vectors as lines on a common scale."""
    known = vectors[np.isfinite(vectors)]
    low, span = (known.min(), np.ptp(known) or 1.0) if known.size else (0.0, 1.0)
    columns = min(columns, len(vectors))
    lines = -(-len(vectors) // columns)
    parts = []
    for i, vector in enumerate(np.nan_to_num(vectors, nan=low, posinf=low, neginf=low)):
        x = i % columns * 60 + 4 + 48 * np.linspace(0, 1, len(vector))
        y = i // columns * 40 + 34 - 28 * (vector - low) / span
        path = "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(x, y))
        parts.append(tag("path", d=path, class_="line k0"))
    box, most = f"0 0 {60 * columns} {40 * lines}", min(wide, 90 * columns)
    style = f"max-width:{most}px"
    drawing = tag("svg", parts, viewBox=box, role="img", aria_label=alt, style=style)
    return tag("div", drawing, class_="chart")


def strips(rows: Sequence[tuple[object, Array]], alt: str, gap: int = 1) -> Html:
    """Rows of images, each with its name at the left; above it on a phone."""
    longest = max(len(images) for _, images in rows)
    drawn = [(name, np.asarray(images)) for name, images in rows]
    if all(images.ndim == 4 for _, images in drawn):
        step = max(_step(images, VALUES // len(drawn)) for _, images in drawn)
        drawn = [(name, averaged(images, step)) for name, images in drawn]
    parts = [
        (tag("span", name), tiles(images, longest, f"{alt}: {name}", gap, wide=880, tile=72))
        for name, images in drawn
    ]
    return tag("div", parts, class_="strip")
