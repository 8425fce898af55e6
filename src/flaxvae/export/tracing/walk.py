"""The equations of a jaxpr, and of those inside of it: calls, loops and reductions."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core

from flaxvae.export import interpreter
from flaxvae.export.graph import Unsupported
from flaxvae.export.tracing import draws, rewrites
from flaxvae.export.tracing.builder import Builder, Known, Value
from flaxvae.export.tracing.parameters import dtype_of, kept, shape_of
from flaxvae.export.tracing.rewrites import Rewrite

LONGEST = 1024  # of loops
_INDEXING = ("gather", "scatter", "scan", "reduce")  # of constants, by JAX itself
_CONTROL = ("scan", "while", "cond", "reduce")


def walk(build: Builder, jaxpr: Any, consts: Sequence[Any], given: Sequence[Value]) -> list[Value]:
    """The outputs of a jaxpr, whose operations are added."""
    return _outputs(jaxpr, consts, given, functools.partial(_equation, build))


def _outputs(
    jaxpr: Any,
    consts: Sequence[Any],
    given: Sequence[Value],
    each: Callable[[Any, list[Value]], list[Value]],
) -> list[Value]:
    """The outputs of a jaxpr, by what ``each`` equation makes of its inputs."""
    values: dict[Any, Value] = dict(zip(jaxpr.invars, given, strict=True))
    values |= {v: Known.of(c) for v, c in zip(jaxpr.constvars, consts, strict=True)}

    def value(atom: Any) -> Value:
        return _literal(atom) if isinstance(atom, core.Literal) else values[atom]

    for equation in jaxpr.eqns:
        found = each(equation, [value(atom) for atom in equation.invars])
        values.update(zip(equation.outvars, found, strict=True))
    return [value(atom) for atom in jaxpr.outvars]


def _literal(atom: Any) -> Known:
    is_key = jax.dtypes.issubdtype(atom.aval.dtype, jax.dtypes.prng_key)
    return Known.of(atom.val if is_key else np.asarray(atom.val, atom.aval.dtype))


def _equation(build: Builder, equation: Any, given: list[Value]) -> list[Value]:
    name, params = equation.primitive.name, equation.params
    rewrite = _REWRITES.get(name)
    known = [one for one in given if isinstance(one, Known)]
    sizes = [n for one in known for n in one.shape]
    sizes += [n for out in equation.outvars for n in shape_of(out.aval)]
    constant = len(known) == len(given) and all(isinstance(n, int) for n in sizes)
    if constant and name in _INDEXING:
        return _evaluated(equation, known)
    if rewrite is not None:
        found = rewrite(build, given, params, [out.aval for out in equation.outvars])
        if found is not None:
            return found
    elif (inner := _called(params)) is not None and name not in _CONTROL:
        return walk(build, *inner, given)
    aval = equation.outvars[0].aval
    if name in interpreter.ELEMENTWISE:
        return build.elementwise(name, given, dtype_of(aval), shape_of(aval), params)
    if constant:
        return _evaluated(equation, known)
    inputs = [build.number(one) for one in given]
    return [build.emit(name, inputs, dtype_of(aval), shape_of(aval), kept(name, params))]


def _evaluated(equation: Any, given: list[Known]) -> list[Value]:
    """The results of an equation of constants."""
    name, params = equation.primitive.name, equation.params
    full = [one.small if one.whole else np.broadcast_to(one.small, one.shape) for one in given]  # type: ignore
    if name in interpreter.OPERATIONS:
        return [Known.of(interpreter.apply(name, full, kept(name, params)))]
    found = equation.primitive.bind(*full, **params)
    return [Known.of(one) for one in (found if equation.primitive.multiple_results else [found])]


def _called(params: dict[str, Any]) -> tuple[Any, Sequence[Any]] | None:
    """The jaxpr that an equation calls, with its constants; None if it calls none."""
    for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        inner = params.get(key)
        if isinstance(inner, core.ClosedJaxpr):
            return inner.jaxpr, inner.consts
        if isinstance(inner, core.Jaxpr):
            return inner, ()
    return None


def _scan(build, given, params, avals):
    """A loop of known length, step by step."""
    if "num_consts" in params:
        constants, carried = params["num_consts"], params["num_carry"]
    elif "ft_in" in params:  # JAX 0.12: trees of constants, carried values and rows
        constants, carried = (len(group) for group in params["ft_in"].unpack()[:2])
    else:
        raise Unsupported("a loop, which this version of JAX writes in another way")
    closed, length = params["jaxpr"], int(params["length"])
    if length > LONGEST:
        raise Unsupported(f"a loop of {length:,} steps, more than {LONGEST}")
    fixed, state = given[:constants], list(given[constants : constants + carried])
    rows, collected = given[constants + carried :], []

    def row(value, i):
        return build.reshape(build.slice(value, 0, i, i + 1), build.shape(value)[1:])

    for i in reversed(range(length)) if params["reverse"] else range(length):
        each = [row(value, i) for value in rows]
        found = walk(build, closed.jaxpr, closed.consts, [*fixed, *state, *each])
        state = found[:carried]
        collected.append(found[carried:])
    collected = collected[::-1] if params["reverse"] else collected
    stacked = []
    for column, aval in zip(zip(*collected, strict=True), avals[carried:], strict=True):
        one = (1, *shape_of(aval)[1:])
        stacked.append(build.concatenate([build.reshape(part, one) for part in column], 0))
    return [*state, *stacked]


def _reduce(build, given, params, avals):
    """By any associative function: neighbours on the axis are combined until one is left."""
    closed, (axis,) = params["jaxpr"], params["dimensions"]
    count = len(given) // 2
    values, starts = list(given[:count]), given[count:]
    last: list[list[Value]] = []  # those without a neighbour
    size = int(build.shape(values[0])[axis])
    while size > 1:
        if size % 2:
            last.append([build.slice(one, axis, size - 1, size) for one in values])
        even = size - size % 2
        pairs = [[build.slice(one, axis, i, even, 2) for one in values] for i in (0, 1)]
        values = _combine(build, closed, *pairs)
        size = even // 2
    for extra in reversed(last):
        values = _combine(build, closed, values, extra)
    shape = shape_of(avals[0])
    values = [build.reshape(one, shape) for one in values]
    whole = [Known(one.small, shape) if isinstance(one, Known) else one for one in starts]
    return _combine(build, closed, whole, values)


def _combine(build, closed, left, right):
    """A function of numbers, of arrays of one shape."""
    shape = next(build.shape(one) for one in [*left, *right] if build.shape(one))

    def each(equation, given):
        inner = _called(equation.params)
        if inner is not None:
            return _outputs(*inner, given, each)
        name, aval = equation.primitive.name, equation.outvars[0].aval
        if name not in interpreter.ELEMENTWISE:
            raise Unsupported(f"a reduction by {name!r}")
        return build.elementwise(name, given, dtype_of(aval), shape, equation.params)

    return _outputs(closed.jaxpr, closed.consts, [*left, *right], each)


_REWRITES: dict[str, Rewrite] = {
    **rewrites.REWRITES,
    **draws.REWRITES,
    "reduce": _reduce,
    "scan": _scan,
}
