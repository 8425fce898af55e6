"""How a page stores the weights: in the fewest bytes that keep it close to JAX.

Tried in this order, by what a page would then compute: matrices rounded to whole steps and the rest
in float16 (``rounding``), all in float16, float32. Rounding is fitted to some images, half of them
shifted, and to codes, half of them drawn wider than those of images; it is measured on others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from flaxvae.export import interpreter
from flaxvae.report.explorer import packing, rounding
from flaxvae.report.explorer.functions import Functions
from flaxvae.report.explorer.packing import Form, Forms

if TYPE_CHECKING:
    from flaxvae.export.graph import Graph

Array = np.ndarray
CLOSE = 1e-2  # how far a page may be from JAX, in pixels and in codes
HELD = 12  # images and codes by which the rounding is measured, at most
FITTED = 128  # and those to which it is fitted; fewer of a model that takes long:
WORK = 1e9  # multiplications for those fitted, and a tenth for those held
WIDE = 1.5  # the spread of codes that are drawn, in that of images' codes

Call = Sequence[Array]


class _Coder(NamedTuple):
    """A graph, calls of it, and the scale of its first output, which may move by CLOSE of that."""

    graph: Graph
    held: Sequence[Call]
    fitted: Sequence[Call]
    scale: Array


def choose(
    found: Functions, arrays: Mapping[str, Array], labels: Array | None
) -> tuple[Forms, str]:
    """The forms of the weights, and in a word what they are: rounded, float16 or float32.

    Args:
        found: the functions.
        arrays: of ``facts``: images with their codes, and probes.
        labels: of the images, where the model takes them.
    """
    halves = packing.halves(found.graphs)
    whole = _rounded(found, arrays, labels)
    for name, forms in (("rounded", {**halves, **whole}), ("float16", halves)):
        if (whole or name != "rounded") and is_close(found, arrays, forms):
            return forms, name
    return {}, "float32"


def is_close(found: Functions, arrays: Mapping[str, Array], forms: Forms) -> bool:
    """Whether weights in these forms keep the probes within CLOSE of what JAX has found."""
    graphs = {
        name: packing.shown(found.graphs[name], forms)
        for name in ("decode", "look")
        if name in found.graphs
    }
    codes, labels = arrays["probe_codes"], arrays.get("probe_labels")
    for i in range(len(codes)):
        (image,) = interpreter.run(graphs["decode"], *_row(codes, labels, i))
        if not np.abs(image - arrays["probe_images"][i]).max() <= CLOSE:
            return False
        if "look" in graphs and codes.dtype.kind == "f":
            code, _ = interpreter.run(graphs["look"], *_row(arrays["probe_pixels"], labels, i))
            if not (np.abs(code[0] - codes[i]) <= CLOSE * _scale(arrays)).all():
                return False
    return True


def _scale(arrays: Mapping[str, Array]) -> Array:
    """Of each latent: the standard deviation of its codes, where that is more than 1."""
    return np.maximum(arrays["sd"], 1)


def _row(given: Array, labels: Array | None, i: int) -> Call:
    """One image or code, and its label."""
    return [given[i : i + 1], *([] if labels is None else [labels[i : i + 1]])]


def _rounded(
    found: Functions, arrays: Mapping[str, Array], labels: Array | None
) -> dict[bytes, Form]:
    forms: dict[bytes, Form] = {}
    for coder in _coders(found, arrays, labels):
        matrices = rounding.inputs(coder.graph, coder.fitted)
        matrices = {key: one for key, one in matrices.items() if key not in forms}
        if not matrices:
            continue
        fitting = rounding.rounded(matrices, _error(coder), CLOSE)
        forms |= fitting or {}
    return forms


def _error(coder: _Coder) -> Callable[[Forms], float]:
    """The most by which the first output moves on what is held out, in its scale."""
    exact = [interpreter.run(coder.graph, *call)[0] for call in coder.held]

    def error(forms: Forms) -> float:
        graph = packing.shown(coder.graph, forms)
        runs = (interpreter.run(graph, *call)[0] for call in coder.held)
        moved = [np.abs((a - b) / coder.scale).max() for a, b in zip(runs, exact, strict=True)]
        return float(np.max(moved))

    return error


def _coders(found: Functions, arrays: Mapping[str, Array], labels: Array | None) -> list[_Coder]:
    """The decoder, and the encoder of codes that are no whole numbers."""
    rng, one = np.random.default_rng(0), np.ones(1, np.float32)
    codes = arrays["codes"]

    def calls(name: str, given: Array, moved: Array) -> tuple[list[Call], list[Call]]:
        own, other = ([_row(x, labels, i) for i in range(len(x))] for x in (given, moved))
        work = _work(found.graphs[name])
        held, most = (int(np.clip(WORK / work / n, 4, m)) for n, m in ((10, HELD), (1, FITTED)))
        fitted = [own[i] if i % 2 else other[i] for i in range(HELD, min(len(own), HELD + most))]
        return own[:held] + (other[:held] if name == "decode" else []), fitted

    if len(codes) <= HELD:
        return []
    if codes.dtype.kind != "f":
        drawn = rng.permuted(codes, axis=0)
        return [_Coder(found.graphs["decode"], *calls("decode", codes, drawn), one)]
    normal = rng.normal(size=codes.shape)
    drawn = (arrays["mean"] + WIDE * arrays["sd"] * normal).astype(np.float32)
    coders = [_Coder(found.graphs["decode"], *calls("decode", codes, drawn), one)]
    if "look" in found.graphs:
        images = (arrays["pictures"] / 255).astype(np.float32)
        shifted = np.stack([_shifted(image, rng) for image in images])
        both = calls("look", images, shifted)
        coders.append(_Coder(found.graphs["look"], *both, _scale(arrays)))
    return coders


def _shifted(image: Array, rng: np.random.Generator) -> Array:
    """By up to a quarter of its sides; a vector stays as it is."""
    if image.ndim != 3:
        return image
    down, across = (int(rng.integers(-(side // 4), side // 4 + 1)) for side in image.shape[:2])
    return np.roll(image, (down, across), (0, 1))


def _work(graph: Graph) -> float:
    """Multiplications in the products and convolutions of a graph."""
    total = 1.0
    for op in graph.ops:
        if op.name in ("dot_general", "conv_general_dilated"):
            out, other = (graph.shapes[i][1] for i in (op.output, op.inputs[1]))
            total += math.prod(map(float, (*out, *other[:-1])))
    return total
