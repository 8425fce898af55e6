"""A function of arrays as a list of operations, which other programs can read.

``export.tracing`` makes such graphs of functions in JAX, ``interpreter.run`` executes them with
NumPy. Each operation is named and defined as in ``jax.lax``, with one output, with these
simplifications:

- elementwise operations (``interpreter.ELEMENTWISE``) broadcast their operands as NumPy does;
- squeezed, split and stacked arrays are ``reshape``, ``slice`` and ``concatenate``;
- an index of one axis, ``gather``, is ``take`` (``numpy.take`` with ``axis``), and a set of one,
  ``scatter``, a ``concatenate`` and a ``take``;
- a loop of known length is repeated, a reduction by any function of two arguments done in halves.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from flaxvae.errors import UsageError

BATCH = "batch"
Size = int | str  # of an axis: a number, or "batch", or a multiple such as "16*batch"
Shape = tuple[Size, ...]


class Op(NamedTuple):
    """One operation. ``params`` are those of ``jax.lax`` that matter, fit for JSON."""

    name: str
    inputs: tuple[int, ...]
    output: int
    params: dict[str, Any]


class Graph(NamedTuple):
    """Operations in the order in which they can be executed; numbers stand for values."""

    inputs: dict[str, int]
    outputs: dict[str, int]
    constants: dict[int, np.ndarray]
    ops: tuple[Op, ...]
    shapes: dict[int, tuple[str, Shape]]  # of every value: its dtype and its shape

    def needed(self) -> Graph:
        """Without what no output needs, and without ids that nothing has."""
        needed, ops = set(self.outputs.values()), []
        for op in reversed(self.ops):
            if op.output in needed:
                needed.update(op.inputs)
                ops.append(op)
        constants = {id: value for id, value in self.constants.items() if id in needed}
        needed |= set(self.inputs.values())
        shapes = {id: shape for id, shape in self.shapes.items() if id in needed}
        return self._replace(constants=constants, ops=tuple(ops[::-1]), shapes=shapes)


class Unsupported(UsageError):
    """A function with an operation that graphs do not have."""
