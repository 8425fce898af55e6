"""Images, rows and labels as they are given, made what the model was trained on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from flaxvae.data import labels, pipeline, pixels, rows
from flaxvae.data.columns import Columns
from flaxvae.data.pipeline import Split
from flaxvae.errors import UsageError, did_you_mean
from flaxvae.recipe import DataSpec
from flaxvae.settings import Binarization


class Inputs(NamedTuple):
    """What decides how examples are prepared; ``Trained`` documents what they may be."""

    spec: DataSpec
    conditional: bool  # the model takes labels
    called: str  # its name in messages
    peak: float | None
    signed: bool
    columns: Columns | None
    binarization: Binarization
    binarize: Callable[..., np.ndarray]  # a split's images, with a key for each

    def split(self, x: Any, y: Any, what: str) -> Split:
        """As ``Trained.split``."""
        if isinstance(x, Split):
            self.check_shape((len(x.x), *x.shape), what)
            return x._replace(y=self.labels(x.y if y is None else y, len(x.x)), names=None)
        large, x, shape = rows.is_mapped(x), np.asarray(x), self.spec.shape
        if x.shape[1:] != shape and (*x.shape[1:], 1) == shape:
            x = x[..., None]
        elif x.shape[1:] != shape and x.ndim == 4 and (*x.shape[2:], x.shape[1]) == shape:
            x = np.moveaxis(x, 1, -1)
        self.check_shape(x.shape, what)
        x = pixels.array(x, what)
        if self.spec.kind == "table":
            pixels.values(x, what)  # finite ones
            stored = x.astype(np.float32) if self.columns is None else self.columns.standardized(x)
            return Split(stored, self.labels(y, len(x)), 1.0, bounded=False)
        form = pixels.known_form(x.dtype, pixels.values(x, what), self._peak(x), self.signed, what)
        stored = rows.Rows(x, convert=form.of) if large else form.of(x)
        return self.prepared(Split(stored, self.labels(y, len(x)), form.peak), what)

    def prepared(self, split: Split, what: str) -> Split:
        """As ``Trained.prepared``."""
        if self.binarization == "none":
            binary = (np.isin(part, (0, split.peak)).all() for part in rows.chunks(split.x))
            if self.spec.binary and not all(binary):
                raise UsageError(
                    f"{what} are grey, but {self.called} was built for binary ones: expected 0 "
                    "and 1; binarize them, or give Trained the binarization used in training"
                )
            return split
        key, own = pipeline.binarization_key(fold=3), pipeline.fingerprints(split)
        return split._replace(x=self.binarize(split, {}, key, None, own), peak=1.0)

    def labels(self, y: Any, n: int) -> np.ndarray | None:
        """As ``Trained.labels``."""
        if not self.conditional:
            return None
        known = labels.listed(self.spec.names)
        if y is None:
            raise UsageError(f"{self.called} is conditional: expected labels, {known}")
        shape = np.shape(y)
        if len(shape) > 1 or (shape and shape != (n,)):
            raise UsageError(f"labels of shape {shape}: expected one label or {n}")
        found, strange = labels.find(y, self.spec.names)
        if strange is not None:
            hint = did_you_mean(str(strange), map(str, self.spec.labels or ()))
            raise UsageError(
                f"label {strange}: expected {known}, the classes of {self.spec.name}{hint}"
            )
        return np.broadcast_to(found, (n,))

    def check_shape(self, seen: tuple[int, ...], what: str) -> None:
        """Raises UsageError for examples of another shape than the model's, or none at all."""
        if seen[1:] != self.spec.shape or not seen[0]:
            wanted = ", ".join(map(str, self.spec.shape))
            raise UsageError(f"{what} of shape {seen}: expected [N, {wanted}] with N >= 1")

    def _peak(self, x: np.ndarray) -> float:
        if self.peak is not None:
            return self.peak
        levels = self.spec.levels
        if levels is not None:
            return float(levels - 1)
        return float(np.iinfo(x.dtype).max) if x.dtype.kind == "u" else 255.0
