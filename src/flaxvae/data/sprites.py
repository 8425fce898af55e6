"""`sprites` and `sprites_color`: shapes on a plain ground, drawn on the device from their factors.

A row of whole numbers says what is in an image, and ``draw`` makes the image of it: inside the
compiled step when a model trains. The factors and their order are those of dSprites (Matthey et
al. 2017): 3 shapes, 6 scales, 40 orientations, 32 x 32 positions, 737,280 images of 64 x 64. The
pixels are not:

- Edges are grey: a pixel's value is the part of it that the shape covers, rounded to 8 bits. From
  these ``--binarization threshold`` makes binary images, as dSprites' are; grey ones cannot be had
  from binary ones.
- Orientations are 9 degrees apart and all different; in dSprites the first is the last.
- All three shapes have the same area at the same scale.

As there, a square looks the same after a quarter turn and an ellipse after half a turn: of the
737,280 rows 430,080 differ in their pixels. ``sprites_color`` has two more factors, the hues of
the shape and of the ground, 8 each: 47,185,920 rows.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxvae.data.dataset import Dataset, Part
from flaxvae.errors import DataError

Array = jax.Array

SIZE = 64  # pixels, of both sides
SHAPES = ("square", "ellipse", "heart")
FACTORS = (("shape", 3), ("scale", 6), ("orientation", 40), ("x", 32), ("y", 32))
COLORS = (("hue", 8), ("ground", 8))
HELD_OUT = 10_000  # images to validate on, and as many to test on
PEAK = 255.0

# The centre of a shape is that of a pixel, 16 to 47 from the left and from the top: a step of x or
# y moves the image by a pixel, and no shape comes near the edge.
_FIRST = (SIZE - 32) // 2
_SCALES = np.linspace(0.5, 1, 6, dtype=np.float32)
_SIDE = 21.0  # pixels, of the square at scale 1
_AXIS = 15.0  # pixels, half the long axis of the ellipse; the short one by its area
_SHORT = _SIDE**2 / (np.pi * _AXIS)
# The heart: a square on its corner, sides sqrt(1/2), and half discs on its upper sides.
_RADIUS = np.sqrt(0.125)
_HEART_AREA = 0.5 + np.pi * _RADIUS**2
_MIDDLE = (
    0.25 + np.pi * _RADIUS**2 * (0.75 + 4 * _RADIUS / (3 * np.pi) / np.sqrt(2))
) / _HEART_AREA
_UNIT = _SIDE / np.sqrt(_HEART_AREA)


def _turns() -> tuple[np.ndarray, np.ndarray]:
    """Cosine and sine of each orientation.

    In steps of 2^-12, so that products with distances in pixels are exact: on every device a
    quarter turn of a square is the same picture.
    """
    first = np.round(4096 * np.exp(2j * np.pi * np.arange(10) / 40)) / 4096
    found = np.concatenate([first * turn for turn in (1, 1j, -1, -1j)])
    return found.real.astype(np.float32), found.imag.astype(np.float32)


_COS, _SIN = _turns()


def _palette(count: int, saturation: float, value: float) -> np.ndarray:
    """[count, 3] colours of evenly spaced hues, from red, in whole 255ths."""
    hue = 6 * np.arange(count)[:, None] / count
    wave = np.clip(np.abs((hue + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    return np.round(PEAK * value * (1 - saturation + saturation * wave)).astype(np.float32)


# The ground is darker than any shape, which so is seen in its own hue, too.
_SHAPE_COLORS, _GROUND_COLORS = _palette(8, 0.8, 1.0), _palette(8, 0.8, 0.4)


def _square(u: Array, v: Array, scale: Array) -> Array:
    half = _SIDE / 2 * scale + 0.5
    return jnp.clip(half - abs(u), 0, 1) * jnp.clip(half - abs(v), 0, 1)


def _ellipse(u: Array, v: Array, scale: Array) -> Array:
    across, along = 1 / (_AXIS * scale), 1 / (_SHORT * scale)
    a, b = across * u, along * v
    level = jnp.sqrt(a * a + b * b)  # 1 on the edge
    slope = jnp.sqrt((across * a) ** 2 + (along * b) ** 2)
    # To first order the distance to the edge, in pixels; deep inside, any that is negative.
    distance = jnp.where(level > 0.5, level * (level - 1) / jnp.maximum(slope, 1e-6), -1.0)
    return jnp.clip(0.5 - distance, 0, 1)


def _heart(u: Array, v: Array, scale: Array) -> Array:
    unit = _UNIT * scale
    per_pixel = 1 / unit
    x, y = per_pixel * abs(u), per_pixel * v + _MIDDLE
    along = jnp.maximum(x + y, 0) / 2
    to_side = jnp.minimum(x**2 + (y - 1) ** 2, (x - along) ** 2 + (y - along) ** 2)
    on_disc = x + y > 1
    squared = jnp.where(on_disc, (x - 0.25) ** 2 + (y - 0.75) ** 2, to_side)
    root = jnp.sqrt(squared)
    distance = unit * jnp.where(on_disc, root - _RADIUS, jnp.where(x > y, root, -root))
    return jnp.clip(0.5 - distance, 0, 1)


def _one(row: Array) -> Array:
    """[F] -> [64, 64, C]."""
    shape, scale, orientation, x, y = row[:5].astype(jnp.int32)
    right = jnp.arange(SIZE)[None, :] - (_FIRST + x)
    up = (_FIRST + y) - jnp.arange(SIZE)[:, None]
    cos, sin = jnp.asarray(_COS)[orientation], jnp.asarray(_SIN)[orientation]
    u, v = cos * right + sin * up, cos * up - sin * right
    size = jnp.asarray(_SCALES)[scale]
    square, ellipse, heart = (drawn(u, v, size) for drawn in (_square, _ellipse, _heart))
    covered = jnp.where(shape == 0, square, jnp.where(shape == 1, ellipse, heart))
    covered = covered[..., None]
    if len(row) == len(FACTORS):
        return jnp.round(PEAK * covered) / PEAK
    hue, ground = row[5:].astype(jnp.int32)
    color, behind = jnp.asarray(_SHAPE_COLORS)[hue], jnp.asarray(_GROUND_COLORS)[ground]
    color, behind = color[None, None], behind[None, None]
    return jnp.round(behind + covered * (color - behind)) / PEAK


def draw(rows: Array) -> Array:
    """Images of factors: pure, for jit and vmap.

    Args:
        rows: [B, 5] or, in colour, [B, 7] whole numbers: indices of the values of ``FACTORS``, and
            of ``COLORS``. They are not checked.

    Returns:
        [B, 64, 64, 1] or [B, 64, 64, 3] float32, j / 255.
    """
    return jax.vmap(_one)(rows)


_draw = jax.jit(draw)


def render(factors: Any) -> np.ndarray:
    """Images of factors, as a NumPy array.

        render([[2, 5, 0, 16, 16]])  # a large upright heart in the middle

    Args:
        factors: [B, 5] whole numbers: shape (0 square, 1 ellipse, 2 heart), scale 0 to 5 (0.5 to 1
            of full size), orientation 0 to 39 (9 degrees each, counter-clockwise), x 0 to 31
            (pixels to the right), y 0 to 31 (pixels downwards). In colour [B, 7]: also the hue of
            the shape and that of the ground, 0 to 7 (45 degrees each, from red).

    Returns:
        [B, 64, 64, 1] or [B, 64, 64, 3] float32 in [0, 1].

    Raises DataError for other shapes, types or values.
    """
    rows = np.asarray(factors)
    known = {len(names): names for names in (FACTORS, FACTORS + COLORS)}
    if rows.ndim != 2 or rows.shape[1] not in known or rows.dtype.kind not in "iu":
        seen = f"{rows.dtype} of shape {rows.shape}"
        raise DataError(f"factors: {seen}; expected whole numbers [B, 5], or in colour [B, 7]")
    for (name, count), values in zip(known[rows.shape[1]], rows.T, strict=True):
        wrong = (values < 0) | (values >= count)
        if wrong.any():
            i = int(wrong.argmax())
            raise DataError(f"factors: {name} {values[i]} in row {i}; expected 0 to {count - 1}")
    return np.asarray(_draw(rows))


def all_factors() -> np.ndarray:
    """[737280, 5] uint8, every row of ``FACTORS`` in dSprites' order: y changes fastest."""
    sizes = [count for _, count in FACTORS]
    return np.stack(np.unravel_index(np.arange(np.prod(sizes)), sizes), 1).astype(np.uint8)


def splits(color: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows to train on, to validate on and to test on, shuffled; always the same.

    In colour every row of ``FACTORS`` has one hue and one ground, drawn at random.
    """
    rows, generator = all_factors(), np.random.RandomState(0)  # NumPy has frozen its stream
    order = generator.permutation(len(rows))
    if color:
        drawn = [generator.randint(count, size=len(rows)) for _, count in COLORS]
        rows = np.column_stack([rows, *drawn]).astype(np.uint8)
    test, held, train = np.split(rows[order], [HELD_OUT, 2 * HELD_OUT])
    return train, held, test


def load(name: str) -> Dataset:
    """``sprites`` or ``sprites_color``, with the shape as the label."""
    color = name == "sprites_color"

    def part(rows: np.ndarray) -> Part:
        return Part(rows, np.array(SHAPES)[rows[:, 0]], factors=rows, render=draw)

    train, validation, test = map(part, splits(color))
    return Dataset(
        name,
        train,
        test,
        PEAK,
        len(SHAPES),
        "drawn from their factors",
        tuple(sorted(SHAPES)),
        validation=validation,
        factors=FACTORS + COLORS if color else FACTORS,
    )
