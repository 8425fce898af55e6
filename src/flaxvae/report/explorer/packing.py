"""Graphs and their weights as a page holds them: JSON beside one compressed block of bytes.

Arrays that several graphs share are stored once. Large ones may be float16, or whole numbers of
steps (``rounding``), as two planes of bytes, the lower ones first: apart, they compress better.
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from flaxvae.export.graph import Graph

Array = np.ndarray
LARGE = 1024  # numbers from which an array is stored in float16; biases and constants stay exact
MIDDLE = 32_896  # as which 0 is stored, so that the upper bytes of -128 to 127 are the same


class Packed(NamedTuple):
    """What ``engine.js`` loads."""

    # {"arrays": [{dtype, shape, as, at}], "graphs": {name: graph}, "named": {name: array's number}}
    described: dict[str, Any]
    parts: list[tuple[bytes, bool]]  # the arrays, one after the other, and which are like noise

    @property
    def data(self) -> bytes:
        return b"".join(part for part, _ in self.parts)

    def compressed(self) -> bytes:
        """The bytes in the format "deflate-raw" of the browser's DecompressionStream."""
        found = [_deflated(*part, last=False) for part in self.parts]
        return b"".join([*found, _deflated(b"", False, last=True)])


class Form(NamedTuple):
    """How an array of float32 is stored: as what, which bytes, and what the page makes of them."""

    name: str  # "float16", or "steps": whole numbers, times the step of their row
    stored: bytes
    value: Array
    steps: Array | None = None  # [rows]


Forms = Mapping[bytes, Form]  # by the key of the array


def half(array: Array) -> Form:
    """In float16, as far as its range goes."""
    largest = float(np.finfo(np.float16).max)
    short = np.clip(array, -largest, largest).astype("<f2")
    return Form("float16", planes(short), short.astype(np.float32))


def stepped(whole: Array, steps: Array) -> Form:
    """Whole numbers [rows, columns], each times the step of its row.

    Raises ValueError for numbers that 16 bits do not hold.
    """
    moved = whole + MIDDLE
    if moved.min() < 0 or moved.max() > 65535:
        raise ValueError("whole numbers of more than 16 bits")
    steps = steps.astype(np.float32)
    value = whole.astype(np.float32) * steps[:, None]
    return Form("steps", planes(moved.astype("<u2")), value, steps)


def key(array: Array) -> bytes:
    """Equal of arrays that are the same."""
    said = f"{array.dtype} {array.shape} ".encode()
    return said + hashlib.sha256(np.ascontiguousarray(array).tobytes()).digest()


def halves(graphs: Mapping[str, Graph]) -> dict[bytes, Form]:
    """All large weights of graphs in float16."""
    large = [a for one in graphs.values() for a in one.constants.values() if _is_large(a)]
    return {key(array): half(array) for array in large}


def shown(graph: Graph, forms: Forms) -> Graph:
    """The graph with the constants that the page has."""
    constants = {
        number: forms[key(array)].value.reshape(array.shape)
        if _is_large(array) and key(array) in forms
        else array
        for number, array in graph.constants.items()
    }
    return graph._replace(constants=constants)


def pack(
    graphs: Mapping[str, Graph],
    named: Mapping[str, Array] | None = None,
    forms: Forms | None = None,
) -> Packed:
    """Pack graphs by name, and further arrays, which stay exact.

    Args:
        graphs: with whole numbers as shapes.
        named: arrays by name.
        forms: of constants of the graphs; the others stay exact.
    """
    arrays: list[dict[str, Any]] = []
    known: dict[bytes, int] = {}
    parts: list[tuple[bytes, bool]] = []
    size = 0

    def added(entry: dict[str, Any], stored: bytes, noise: bool) -> int:
        nonlocal size
        arrays.append({**entry, "at": size})
        parts.append((stored, noise))
        size += len(stored)
        return len(arrays) - 1

    def exact(array: Array) -> int:
        array = np.asarray(array, order="C")
        if (own := key(array)) not in known:
            entry = {"dtype": str(array.dtype), "shape": list(array.shape), "as": str(array.dtype)}
            known[own] = added(entry, _little(array).tobytes(), False)
        return known[own]

    def number(array: Array) -> int:
        array = np.asarray(array, order="C")
        form = forms.get(key(array)) if forms and _is_large(array) else None
        if form is None:
            return exact(array)
        if (own := form.name.encode() + key(array)) not in known:
            entry: dict[str, Any] = {"dtype": str(array.dtype), "shape": list(array.shape)}
            entry["as"] = form.name
            if form.steps is not None:
                entry["steps"] = exact(form.steps)
            known[own] = added(entry, form.stored, True)
        return known[own]

    found = {name: _described(graph, number) for name, graph in graphs.items()}
    others = {name: exact(array) for name, array in (named or {}).items()}
    return Packed({"arrays": arrays, "graphs": found, "named": others}, parts)


def weights(graph: Graph) -> int:
    """How many numbers its constants have."""
    return sum(array.size for array in graph.constants.values())


def planes(array: Array) -> bytes:
    """Numbers of two bytes, the lower one first: their lower bytes, then their upper ones."""
    return np.ascontiguousarray(array).view(np.uint8).reshape(-1, 2).T.tobytes()


def text(data: bytes) -> str:
    """Bytes as the page's scripts read them: base 85, with a full stop for the one character that
    could end a script element."""
    return base64.b85encode(data).decode("ascii").replace("<", ".")


def _deflated(data: bytes, noise: bool, last: bool) -> bytes:
    """A part of a stream. In noise there is nothing that occurs again but runs of zeros: looking
    for it takes time, and what is found by chance makes it longer."""
    strategy = zlib.Z_RLE if noise else zlib.Z_DEFAULT_STRATEGY
    one = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS, 9, strategy)
    return one.compress(data) + one.flush(zlib.Z_FINISH if last else zlib.Z_FULL_FLUSH)


def _is_large(array: Array) -> bool:
    return array.dtype == np.float32 and array.size >= LARGE


def _little(array: Array) -> Array:
    array = array.astype(np.float32) if array.dtype.name == "bfloat16" else array
    if array.dtype.itemsize == 8:  # pages count in 32 bits
        array = array.astype({"f": np.float64, "i": np.int32, "u": np.uint32}[array.dtype.kind])
    return array.astype(array.dtype.newbyteorder("<"), copy=False)


def _described(graph: Graph, number: Callable[[Array], int]) -> dict[str, Any]:
    return {
        "inputs": graph.inputs,
        "outputs": graph.outputs,
        "shapes": {i: [dtype, list(shape)] for i, (dtype, shape) in graph.shapes.items()},
        "constants": {i: number(array) for i, array in graph.constants.items()},
        "ops": [[op.name, list(op.inputs), op.output, op.params] for op in graph.ops],
    }
