"""From a function in JAX to its graph.

    graph = trace(lambda x: recipe.model.encode(variables, x), example, names=["image"])

is ``jax.make_jaxpr`` made plain: calls are inlined, what depends on constants alone (weights, keys
and the draws from them) is computed, what no output needs is left out. ``walk`` goes through the
equations, ``rewrites`` and ``draws`` say what becomes of each primitive, and a ``builder`` gathers
the operations. Only public names of JAX are used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import export

from flaxvae.export.graph import BATCH, Graph
from flaxvae.export.tracing import walk
from flaxvae.export.tracing.builder import Builder
from flaxvae.export.tracing.parameters import dtype_of, shape_of


def any_number() -> Any:
    """An axis of any length, the batch's, for the shapes of examples.

    ``trace(f, jax.ShapeDtypeStruct((any_number(), 28, 28, 1), np.float32))`` holds for any batch.
    Examples of one function share one: call this once.
    """
    return export.symbolic_shape(BATCH)[0]


def trace(
    function: Callable[..., Any],
    *examples: Any,
    names: Sequence[str] = (),
    outputs: Sequence[str] = (),
    draws: str | None = None,
) -> Graph:
    """The graph of a pure function, with all that it closes over as constants.

    Args:
        function: of arrays (or pytrees of them); returns arrays, in any pytree.
        examples: its arguments, or ``jax.ShapeDtypeStruct`` of their shapes, whose first axis may
            be ``any_number()``.
        names: of the inputs, in order; by default input0, input1 …
        outputs: names of the outputs; by default output0, output1 …
        draws: the name of a further input [batch, K], uniform in [0, 1), of which all that the
            function draws is made, with each row's K numbers in the order of the draws, and as
            precise as ``jax.random.uniform``, 2^-23. None: draws from known keys are constants.

    Raises:
        Unsupported: an operation that graphs do not have.
    """
    closed = jax.make_jaxpr(function)(*examples)
    build = Builder()
    given = [build.input(shape_of(v.aval), dtype_of(v.aval)) for v in closed.jaxpr.invars]
    if draws is not None:
        batch = shape_of(closed.jaxpr.invars[0].aval)[0]
        build.uniform = build.input((batch, 0), "float32")
    found = [build.number(v) for v in walk.walk(build, closed.jaxpr, closed.consts, given)]
    named = dict(zip(_named(names, "input", len(given)), given, strict=True))
    if draws is not None and build.uniform is not None and build.columns:
        build.shapes[build.uniform] = ("float32", (batch, build.columns))
        named[draws] = build.uniform
    outs = dict(zip(_named(outputs, "output", len(found)), found, strict=True))
    return Graph(named, outs, build.constants, tuple(build.ops), build.shapes).needed()


def _named(names: Sequence[str], what: str, count: int) -> Sequence[str]:
    return names or [f"{what}{i}" for i in range(count)]
