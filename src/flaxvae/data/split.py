"""The examples of one part of the data, as stored, and as a model takes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from flaxvae.data import images, labels
from flaxvae.data.images import Render
from flaxvae.data.rows import Rows


class Split(NamedTuple):
    """Images as stored, with labels where there are any."""

    x: np.ndarray | Rows  # [N, *shape] uint8 or uint16 in 0..peak, or float32 in [0, 1]; of a
    # table, float32 of any size
    y: np.ndarray | None  # [N] labels as in the data: whole numbers, or text
    peak: float  # the stored value that means 1.0
    names: labels.Names | None = None  # the labels that occur, in order; None: 0, 1, 2 …
    files: Sequence[str] | None = None  # [N] what each image was read from
    factors: np.ndarray | None = None  # [N, F] ground-truth factors, as indices of their values
    render: Render | None = None  # makes images of rows of x; None: they are images
    bounded: bool = True  # False: x are any numbers, those of a table

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an image."""
        if self.render is None:
            return self.x.shape[1:]
        row = jax.ShapeDtypeStruct((1, *self.x.shape[1:]), self.x.dtype)
        return jax.eval_shape(self.render, row).shape[1:]

    def images(self, rows: slice | np.ndarray = slice(None)) -> np.ndarray:
        """Some rows as a model takes them: images [B, *shape] float32 in [0, 1], or a table's."""
        raw = self.x[rows]
        if self.render is None:
            return np.asarray(images.scale(raw, self.peak))
        parts = [np.zeros((0, *self.shape), np.float32)]
        for start in range(0, len(raw), AT_ONCE):
            part = raw[start : start + AT_ONCE]
            size = 1 << (len(part) - 1).bit_length()  # few sizes are compiled
            padded = part[np.arange(size) % len(part)]
            parts.append(np.asarray(_rendered(padded, self.render))[: len(part)])
        return np.concatenate(parts)

    @property
    def classes(self) -> np.ndarray | None:
        """[N] int32 in 0..classes-1: the labels as a model takes them."""
        if self.y is None or self.names is None:
            return self.y
        return labels.numbers(self.y, self.names)


AT_ONCE = 512  # images rendered at once, outside of a step
_rendered = jax.jit(lambda rows, render: render(rows), static_argnames="render")
