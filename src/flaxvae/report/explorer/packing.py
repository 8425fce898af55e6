"""Graphs and their weights as a page holds them: JSON beside one compressed block of bytes.

Arrays that several graphs share are stored once. Large ones may be float16, as two planes of bytes,
the lower ones first: apart, they compress better.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from flaxvae.export.graph import Graph

Array = np.ndarray
LARGE = 1024  # numbers from which an array is stored in float16; biases and constants stay exact


class Packed(NamedTuple):
    """What ``engine.js`` loads."""

    # {"arrays": [{dtype, shape, as, at}], "graphs": {name: graph}, "named": {name: array's number}}
    described: dict[str, Any]
    data: bytes  # the arrays, one after the other

    def compressed(self) -> bytes:
        """The bytes in the format "deflate" of the browser's DecompressionStream."""
        return zlib.compress(self.data, 6)


def halved(graph: Graph) -> Graph:
    """The graph with the constants that ``pack`` stores in float16 rounded so."""
    constants = {
        number: np.asarray(_half(array), np.float32) if _is_large(array) else array
        for number, array in graph.constants.items()
    }
    return graph._replace(constants=constants)


def pack(
    graphs: Mapping[str, Graph], named: Mapping[str, Array] | None = None, half: bool = False
) -> Packed:
    """Pack graphs by name, and further arrays, which stay exact.

    Args:
        graphs: with whole numbers as shapes.
        named: arrays by name.
        half: store large constants of the graphs in float16.
    """
    arrays: list[dict[str, Any]] = []
    known: dict[bytes, int] = {}
    data = bytearray()

    def number(array: Array, exact: bool = False) -> int:
        array = np.asarray(array, order="C")
        short = half and not exact and _is_large(array)
        said = f"{array.dtype} {array.shape} {short} ".encode()
        key = said + hashlib.sha256(array.tobytes()).digest()
        if key not in known:
            known[key] = len(arrays)
            entry = {"dtype": str(array.dtype), "shape": list(array.shape), "at": len(data)}
            arrays.append({**entry, "as": "float16" if short else str(array.dtype)})
            data.extend(planes(array) if short else _little(array).tobytes())
        return known[key]

    found = {name: _described(graph, number) for name, graph in graphs.items()}
    others = {name: number(array, exact=True) for name, array in (named or {}).items()}
    return Packed({"arrays": arrays, "graphs": found, "named": others}, bytes(data))


def weights(graph: Graph) -> int:
    """How many numbers its constants have."""
    return sum(array.size for array in graph.constants.values())


def planes(array: Array) -> bytes:
    """Numbers in float16: their lower bytes, then their upper ones."""
    return _little(_half(array)).view(np.uint8).reshape(-1, 2).T.tobytes()


def _half(array: Array) -> Array:
    largest = float(np.finfo(np.float16).max)
    return np.clip(array, -largest, largest).astype(np.float16)


def _is_large(array: Array) -> bool:
    return array.dtype == np.float32 and array.size >= LARGE


def _little(array: Array) -> Array:
    array = array.astype(np.float32) if array.dtype.name == "bfloat16" else array
    if array.dtype.itemsize == 8:  # pages count in 32 bits
        array = array.astype({"f": np.float64, "i": np.int32, "u": np.uint32}[array.dtype.kind])
    return array.astype(array.dtype.newbyteorder("<"), copy=False)


def _described(graph: Graph, number: Any) -> dict[str, Any]:
    return {
        "inputs": graph.inputs,
        "outputs": graph.outputs,
        "shapes": {i: [dtype, list(shape)] for i, (dtype, shape) in graph.shapes.items()},
        "constants": {i: number(array) for i, array in graph.constants.items()},
        "ops": [[op.name, list(op.inputs), op.output, op.params] for op in graph.ops],
    }
