"""A function of arrays as a list of operations, which other programs can read.

    graph = trace(lambda x: recipe.model.encode(variables, x), example, names=["image"])

is ``jax.make_jaxpr`` made plain: calls are inlined, what depends on constants alone (weights, keys
and the draws from them) is computed, what no output needs is left out. Each operation is named and
defined as in ``jax.lax``, with one output, with these simplifications:

- elementwise operations (``ELEMENTWISE``) broadcast their operands as NumPy does;
- squeezed, split and stacked arrays are ``reshape``, ``slice`` and ``concatenate``;
- an index of one axis, ``gather``, is ``take`` (``numpy.take`` with ``axis``), and a set of one,
  ``scatter``, a ``concatenate`` and a ``take``;
- a loop of known length is repeated, a reduction by any function of two arguments done in halves.

Only public names of JAX are used. ``interpreter.run`` executes a graph with NumPy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import export
from jax.extend import core

from flaxvae.errors import UsageError
from flaxvae.export import interpreter

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


class Unsupported(UsageError):
    """A function with an operation that graphs do not have."""


def any_number() -> Any:
    """An axis of any length, the batch's, for the shapes of examples.

    ``trace(f, jax.ShapeDtypeStruct((any_number(), 28, 28, 1), np.float32))`` holds for any batch.
    Examples of one function share one: call this once.
    """
    return export.symbolic_shape(interpreter.BATCH)[0]


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
    build = _Builder(draws)
    given = [build.input(_shape(v.aval), _dtype(v.aval)) for v in closed.jaxpr.invars]
    if draws is not None:
        batch = _shape(closed.jaxpr.invars[0].aval)[0]
        build.uniform = build.input((batch, 0), "float32")
    found = [build.number(v) for v in build.walk(closed.jaxpr, closed.consts, given)]
    names = _named(names, "input", len(given))
    named = dict(zip(names, given, strict=True))
    if draws is not None and build.columns:
        build.shapes[build.uniform] = ("float32", (batch, build.columns))
        named[draws] = build.uniform
    outs = dict(zip(_named(outputs, "output", len(found)), found, strict=True))
    return _alive(Graph(named, outs, build.constants, tuple(build.ops), build.shapes))


def _named(names: Sequence[str], what: str, count: int) -> Sequence[str]:
    return names or [f"{what}{i}" for i in range(count)]


def _alive(graph: Graph) -> Graph:
    """Without what no output needs, and without ids that nothing has."""
    needed, ops = set(graph.outputs.values()), []
    for op in reversed(graph.ops):
        if op.output in needed:
            needed.update(op.inputs)
            ops.append(op)
    constants = {id: value for id, value in graph.constants.items() if id in needed}
    needed |= set(graph.inputs.values())
    shapes = {id: shape for id, shape in graph.shapes.items() if id in needed}
    return graph._replace(constants=constants, ops=tuple(ops[::-1]), shapes=shapes)


# --- values ---------------------------------------------------------------------------------------


class _Known(NamedTuple):
    """A value that depends on constants alone: ``small`` broadcasts, as in NumPy, to ``shape``."""

    small: Any  # a NumPy array with as many axes as ``shape``, or none; or an array of keys
    shape: Shape

    @property
    def whole(self) -> bool:
        return np.shape(self.small) == self.shape


class _Bits(NamedTuple):
    """Random bits made of a uniform number u, and what of it is computed so far."""

    uniform: int
    stage: str = "bits"  # "fraction": its first 23 bits; "float": the bits of 1 + u


_Value = int | _Known | _Bits


def _size(size: Any) -> Size:
    return int(size) if isinstance(size, int | np.integer) else str(size)


def _shape(aval: Any) -> Shape:
    return tuple(map(_size, aval.shape))


def _dtype(aval: Any) -> str:
    return str(aval.dtype)


def _plain(value: Any) -> Any:
    """A parameter, fit for JSON."""
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    if value is None or isinstance(value, bool | str | float):
        return value
    if isinstance(value, np.dtype | type):
        return str(np.dtype(value))
    return _size(value)


class _Builder:
    """Operations, as they are found."""

    def __init__(self, draws: str | None):
        self.draws = draws
        self.uniform = -1
        self.columns = 0  # of uniform numbers, so far
        self.constants: dict[int, np.ndarray] = {}
        self.ops: list[Op] = []
        self.shapes: dict[int, tuple[str, Shape]] = {}
        self.seen: dict[int, tuple[Any, int]] = {}  # arrays that are constants already, by identity

    def input(self, shape: Shape, dtype: str) -> int:
        number = len(self.shapes)
        self.shapes[number] = (dtype, shape)
        return number

    def emit(
        self, name: str, inputs: Sequence[int], dtype: str, shape: Shape, params: dict[str, Any]
    ) -> int:
        number = self.input(shape, dtype)
        self.ops.append(Op(name, tuple(inputs), number, params))
        return number

    def constant(self, value: np.ndarray) -> int:
        if id(value) not in self.seen:
            number = self.input(value.shape, str(value.dtype))
            self.constants[number] = value
            self.seen[id(value)] = value, number
        return self.seen[id(value)][1]

    def number(self, value: _Value) -> int:
        """The id of a value, as a whole."""
        if isinstance(value, _Bits):
            if value.stage != "bits":
                raise Unsupported("random bits in another use than uniform or whole numbers")
            shape = self.shapes[value.uniform][1]
            scale = _known(np.float32(2.0**32))
            (scaled,) = self.elementwise("mul", [value.uniform, scale], "float32", shape, {})
            return self.emit(
                "convert_element_type",
                [self.number(scaled)],
                "uint32",
                shape,
                {"new_dtype": "uint32"},
            )
        if isinstance(value, int):
            return value
        small = self.constant(value.small)
        if value.whole:
            return small
        axes = list(range(np.ndim(value.small)))
        dtype = self.shapes[small][0]
        params = {"shape": list(value.shape), "broadcast_dimensions": axes}
        return self.emit("broadcast_in_dim", [small], dtype, value.shape, params)

    def loose(self, value: _Value) -> int:
        """The id of an operand that may be broadcast."""
        return self.constant(value.small) if isinstance(value, _Known) else self.number(value)

    def shape(self, value: _Value) -> Shape:
        if isinstance(value, _Known):
            return value.shape
        return self.shapes[value.uniform if isinstance(value, _Bits) else value][1]

    # --- equations

    def walk(self, jaxpr: Any, consts: Sequence[Any], given: Sequence[_Value]) -> list[_Value]:
        """The outputs of a jaxpr, whose operations are added."""
        known: dict[Any, _Value] = dict(zip(jaxpr.invars, given, strict=True))
        known |= {v: _known(c) for v, c in zip(jaxpr.constvars, consts, strict=True)}

        def value(atom: Any) -> _Value:
            return _literal(atom) if isinstance(atom, core.Literal) else known[atom]

        for equation in jaxpr.eqns:
            found = self.equation(equation, [value(atom) for atom in equation.invars])
            known.update(zip(equation.outvars, found, strict=True))
        return [value(atom) for atom in jaxpr.outvars]

    def equation(self, equation: Any, given: list[_Value]) -> list[_Value]:
        name, params = equation.primitive.name, equation.params
        rewrite = _REWRITES.get(name)
        known = [one for one in given if isinstance(one, _Known)]
        sizes = [n for one in known for n in one.shape]
        sizes += [n for out in equation.outvars for n in _shape(out.aval)]
        constant = len(known) == len(given) and all(isinstance(n, int) for n in sizes)
        if constant and name in _INDEXING:
            return _evaluated(equation, known)
        if rewrite is not None:
            found = rewrite(self, given, params, [out.aval for out in equation.outvars])
            if found is not None:
                return found
        elif (inner := _called(params)) is not None and name not in _CONTROL:
            return self.walk(*inner, given)
        aval = equation.outvars[0].aval
        if name in interpreter.ELEMENTWISE:
            return self.elementwise(name, given, _dtype(aval), _shape(aval), params)
        if constant:
            return _evaluated(equation, known)
        kept = _kept(name, params)
        inputs = [self.number(one) for one in given]
        return [self.emit(name, inputs, _dtype(aval), _shape(aval), kept)]

    def elementwise(
        self, name: str, given: Sequence[_Value], dtype: str, shape: Shape, params: dict[str, Any]
    ) -> list[_Value]:
        kept = _kept(name, params)
        known = [one.small for one in given if isinstance(one, _Known)]
        if len(known) == len(given):
            return [_Known(interpreter.apply(name, known, kept), shape)]
        return [self.emit(name, [self.loose(one) for one in given], dtype, shape, kept)]

    def reshape(self, value: _Value, shape: Shape) -> _Value:
        if self.shape(value) == shape:
            return value
        if isinstance(value, _Known) and value.whole:
            return _known(np.reshape(value.small, shape))
        number = self.number(value)
        return self.emit(
            "reshape", [number], self.shapes[number][0], shape, {"new_sizes": list(shape)}
        )

    def slice(self, value: _Value, axis: int, start: int, stop: int, step: int = 1) -> _Value:
        """value[..., start:stop:step, ...] along one axis."""
        shape = self.shape(value)
        if isinstance(value, _Known) and value.whole:
            index = (*[slice(None)] * axis, slice(start, stop, step))
            return _known(value.small[index])
        number = self.number(value)
        starts, limits, strides = [0] * len(shape), list(shape), [1] * len(shape)
        starts[axis], limits[axis], strides[axis] = start, stop, step
        new = (*shape[:axis], len(range(start, stop, step)), *shape[axis + 1 :])
        params = {"start_indices": starts, "limit_indices": limits, "strides": strides}
        return self.emit("slice", [number], self.shapes[number][0], new, params)

    def concatenate(self, values: Sequence[_Value], axis: int) -> _Value:
        if all(isinstance(one, _Known) and one.whole for one in values):
            return _known(np.concatenate([one.small for one in values], axis))  # type: ignore
        numbers = [self.number(one) for one in values]
        shapes = [self.shapes[one][1] for one in numbers]
        shape = list(shapes[0])
        shape[axis] = sum(int(one[axis]) for one in shapes)
        dtype = self.shapes[numbers[0]][0]
        return self.emit("concatenate", numbers, dtype, tuple(shape), {"dimension": axis})

    def take(self, value: _Value, indices: _Value, axis: int, shape: Shape) -> _Value:
        """``numpy.take``; known indices in steps are a slice."""
        if isinstance(indices, _Known) and np.ndim(indices.small) == 1 and indices.whole:
            at = [int(i) for i in indices.small]
            step = at[1] - at[0] if len(at) > 1 else 1
            if step > 0 and at == list(range(at[0], at[-1] + 1, step)):
                return self.slice(value, axis, at[0], at[-1] + 1, step)
        numbers = self.number(value), self.number(indices)
        return self.emit("take", numbers, self.shapes[numbers[0]][0], shape, {"axis": axis})


def _known(value: Any) -> _Known:
    if isinstance(value, jax.Array) and jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
        return _Known(value, value.shape)
    array = np.asarray(value)
    return _Known(array, array.shape)


def _literal(atom: Any) -> _Known:
    is_key = jax.dtypes.issubdtype(atom.aval.dtype, jax.dtypes.prng_key)
    return _known(atom.val if is_key else np.asarray(atom.val, atom.aval.dtype))


def _evaluated(equation: Any, given: list[_Known]) -> list[_Value]:
    """The results of an equation of constants."""
    name, params = equation.primitive.name, equation.params
    full = [one.small if one.whole else np.broadcast_to(one.small, one.shape) for one in given]  # type: ignore
    if name in interpreter.OPERATIONS:
        return [_known(interpreter.apply(name, full, _kept(name, params)))]
    found = equation.primitive.bind(*full, **params)
    return [_known(one) for one in (found if equation.primitive.multiple_results else [found])]


# --- what becomes of each primitive ---------------------------------------------------------------

_KEPT = {
    "argmax": ("axes", "index_dtype"),
    "argmin": ("axes", "index_dtype"),
    "broadcast_in_dim": ("shape", "broadcast_dimensions"),
    "concatenate": ("dimension",),
    "conv_general_dilated": (
        "window_strides",
        "padding",
        "lhs_dilation",
        "rhs_dilation",
        "feature_group_count",
    ),
    "convert_element_type": ("new_dtype",),
    "cumsum": ("axis", "reverse"),
    "dot_general": ("dimension_numbers",),
    "integer_pow": ("y",),
    "iota": ("dimension", "dtype", "shape"),
    "pad": ("padding_config",),
    "reshape": ("new_sizes",),
    "rev": ("dimensions",),
    "slice": ("start_indices", "limit_indices", "strides"),
    "transpose": ("permutation",),
} | {f"reduce_{kind}": ("axes",) for kind in ("sum", "max", "min", "prod", "and", "or")}
_INDEXING = ("gather", "scatter", "scan", "reduce")  # of constants, by JAX itself
_CONTROL = ("scan", "while", "cond", "reduce")


def _kept(name: str, params: dict[str, Any]) -> dict[str, Any]:
    if name not in interpreter.OPERATIONS:
        raise Unsupported(f"the operation {name!r}")
    return {key: _plain(params[key]) for key in _KEPT.get(name, ())}


def _called(params: dict[str, Any]) -> tuple[Any, Sequence[Any]] | None:
    """The jaxpr that an equation calls, with its constants; None if it calls none."""
    for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        inner = params.get(key)
        if isinstance(inner, core.ClosedJaxpr):
            return inner.jaxpr, inner.consts
        if isinstance(inner, core.Jaxpr):
            return inner, ()
    return None


def _same(build, given, params, avals):
    return list(given)


def _broadcast(build, given, params, avals):
    """A constant is kept as small as it is."""
    value, axes, shape = given[0], params["broadcast_dimensions"], _shape(avals[0])
    if not isinstance(value, _Known):
        new = [n for i, n in enumerate(shape) if i not in axes]
        if {*new} <= {1} and build.shape(value) == tuple(shape[axis] for axis in axes):
            return [build.reshape(value, shape)]
        return None
    if not np.ndim(value.small):
        return [_Known(value.small, shape)]
    small = [1] * len(shape)
    for axis, size in zip(axes, value.small.shape, strict=True):
        small[axis] = size
    return [_Known(value.small.reshape(small), shape)]


def _reshape(build, given, params, avals):
    if "new_sizes" in params and params["dimensions"] is not None:
        raise Unsupported("a reshape that reorders axes")
    return [build.reshape(given[0], _shape(avals[0]))]


def _split(build, given, params, avals):
    found, start = [], 0
    for size in params["sizes"]:
        found.append(build.slice(given[0], params["axis"], start, start + int(size)))
        start += int(size)
    return found


def _stack(build, given, params, avals):
    axis, shape = params["axis"], list(_shape(avals[0]))
    shape[axis] = 1
    parts = [build.reshape(one, tuple(shape)) for one in given]
    return [build.concatenate(parts, axis)]


def _square(build, given, params, avals):
    return build.elementwise("mul", [given[0]] * 2, _dtype(avals[0]), _shape(avals[0]), {})


def _add_any(build, given, params, avals):
    return build.elementwise("add", given, _dtype(avals[0]), _shape(avals[0]), {})


def _slice(build, given, params, avals):
    shape = build.shape(given[0])
    strides = params["strides"] or [1] * len(shape)
    value = given[0]
    for axis, size in enumerate(shape):
        part = _size(params["start_indices"][axis]), _size(params["limit_indices"][axis])
        if part != (0, size) or strides[axis] != 1:
            value = build.slice(value, axis, *part, int(strides[axis]))
    return [value]


def _convert(build, given, params, avals):
    value = given[0]
    if isinstance(value, int) and build.shapes[value][0] == _dtype(avals[0]):
        return [value]
    return None


def _round(build, given, params, avals):
    if params["rounding_method"] != jax.lax.RoundingMethod.TO_NEAREST_EVEN:
        raise Unsupported("rounding halves away from zero")
    return


def _convolution(build, given, params, avals):
    numbers = params["dimension_numbers"]
    usual = (0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2)
    if (numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec) != usual:
        raise Unsupported("a convolution other than of NHWC images with HWIO kernels")
    if params["batch_group_count"] != 1:
        raise Unsupported("a convolution of groups of the batch")
    return


def _index(value: _Value) -> np.ndarray | None:
    """Known indices [..., 1], without their last axis."""
    if not isinstance(value, _Known) or value.shape[-1:] != (1,):
        return None
    return np.broadcast_to(value.small, value.shape)[..., 0]  # type: ignore[arg-type]


def _gather(build, given, params, avals):
    """Of one axis: a part of it that starts at a known place, or single indices."""
    numbers, sizes = params["dimension_numbers"], list(map(_size, params["slice_sizes"]))
    value, indices = given
    shape, out = build.shape(value), _shape(avals[0])
    if len(numbers.start_index_map) != 1 or numbers.operand_batching_dims:
        raise Unsupported("an index of several axes")
    (axis,) = numbers.start_index_map
    if [n for i, n in enumerate(shape) if i != axis] != [
        n for i, n in enumerate(sizes) if i != axis
    ]:
        raise Unsupported("an index of several axes")
    at, collapsed = _index(indices), numbers.collapsed_slice_dims == (axis,)
    if at is not None and at.ndim == 0:
        part = build.slice(value, axis, int(at), int(at) + int(sizes[axis]))
        return [build.reshape(part, out)]
    if not collapsed:
        raise Unsupported("a slice that starts at a computed index")
    last = build.shape(indices)[:-1]
    places = _known(at) if at is not None else build.reshape(indices, last)
    # Where the axes of the indices end up, and where numpy.take has them.
    ours = tuple(i for i in range(len(out)) if i not in numbers.offset_dims)
    taken = (*shape[:axis], *last, *shape[axis + 1 :])
    found = build.take(value, places, axis, taken)
    if ours == tuple(range(axis, axis + len(last))):
        return [found]
    rest = iter(i for i in range(len(out)) if not axis <= i < axis + len(last))
    own = iter(range(axis, axis + len(last)))
    order = [next(own) if i in ours else next(rest) for i in range(len(out))]
    return [build.emit("transpose", [found], _dtype(avals[0]), out, {"permutation": order})]


def _scatter(build, given, params, avals):
    """Values set at known indices of one axis."""
    numbers, (value, indices, new) = params["dimension_numbers"], given
    at = _index(indices)
    if params.get("update_jaxpr") is not None or at is None:
        raise Unsupported("values set at computed indices")
    if len(numbers.scatter_dims_to_operand_dims) != 1:
        raise Unsupported("values set at indices of several axes")
    (axis,) = numbers.scatter_dims_to_operand_dims
    size, count = build.shape(value)[axis], build.shape(new)[axis]
    if at.ndim == 0:
        at = int(at) + np.arange(count)
    if (
        at.ndim != 1
        or len(at) != count
        or build.shape(new) != (*build.shape(value)[:axis], count, *build.shape(value)[axis + 1 :])
    ):
        raise Unsupported("values set at indices of several axes")
    order = np.arange(size, dtype=np.int32)
    order[at] = size + np.arange(count)
    both = build.concatenate([value, new], axis)
    return [build.take(both, _known(order), axis, _shape(avals[0]))]


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
        found = build.walk(closed.jaxpr, closed.consts, [*fixed, *state, *each])
        state = found[:carried]
        collected.append(found[carried:])
    collected = collected[::-1] if params["reverse"] else collected
    stacked = []
    for column, aval in zip(zip(*collected, strict=True), avals[carried:], strict=True):
        one = (1, *_shape(aval)[1:])
        stacked.append(build.concatenate([build.reshape(part, one) for part in column], 0))
    return [*state, *stacked]


LONGEST = 1024


def _reduce(build, given, params, avals):
    """By any associative function: neighbours on the axis are combined until one is left."""
    closed, (axis,) = params["jaxpr"], params["dimensions"]
    count = len(given) // 2
    values, starts = list(given[:count]), given[count:]
    last: list[list[_Value]] = []  # those without a neighbour
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
    shape = _shape(avals[0])
    values = [build.reshape(one, shape) for one in values]
    whole = [_Known(one.small, shape) if isinstance(one, _Known) else one for one in starts]
    return _combine(build, closed, whole, values)


def _combine(build, closed, left, right):
    """A function of numbers, of arrays of one shape."""
    shape = next(build.shape(one) for one in [*left, *right] if build.shape(one))

    def walk(jaxpr, consts, given):
        known = dict(zip(jaxpr.invars, given, strict=True))
        known |= {v: _known(c) for v, c in zip(jaxpr.constvars, consts, strict=True)}

        def value(atom):
            return _literal(atom) if isinstance(atom, core.Literal) else known[atom]

        for equation in jaxpr.eqns:
            inputs, inner = [value(atom) for atom in equation.invars], _called(equation.params)
            if inner is not None:
                found = walk(*inner, inputs)
            else:
                name, aval = equation.primitive.name, equation.outvars[0].aval
                if name not in interpreter.ELEMENTWISE:
                    raise Unsupported(f"a reduction by {name!r}")
                found = build.elementwise(name, inputs, _dtype(aval), shape, equation.params)
            known.update(zip(equation.outvars, found, strict=True))
        return [value(atom) for atom in jaxpr.outvars]

    return walk(closed.jaxpr, closed.consts, [*left, *right])


# --- draws ----------------------------------------------------------------------------------------


def _random_bits(build, given, params, avals):
    """The next uniform numbers of each row, in the place of bits; None: bits of a known key."""
    shape = _shape(avals[0])
    if build.draws is None:
        if not isinstance(given[0], _Known) or not all(isinstance(n, int) for n in shape):
            raise Unsupported("draws for a batch of any size")
        return None
    if shape[:1] != build.shapes[build.uniform][1][:1] or params["bit_width"] != 32:
        raise Unsupported("draws that are not one row for each of the batch")
    count = math.prod(int(n) for n in shape[1:])
    part = build.slice(build.uniform, 1, build.columns, build.columns + count)
    build.columns += count
    return [_Bits(build.reshape(part, shape))]


def _shift_right(build, given, params, avals):
    if isinstance(given[0], _Bits) and given[0].stage == "bits" and _is(given[1], 9):
        return [given[0]._replace(stage="fraction")]
    return None


def _or(build, given, params, avals):
    if isinstance(given[0], _Bits) and given[0].stage == "fraction" and _is(given[1], 0x3F800000):
        return [given[0]._replace(stage="float")]
    return None


def _bitcast(build, given, params, avals):
    """The number in [1, 2) whose fraction is the bits: 1 + u, with u cut to 23 bits."""
    if not (isinstance(given[0], _Bits) and given[0].stage == "float"):
        return None
    value = given[0].uniform
    for name, number in (("mul", 2.0**23), ("floor", None), ("mul", 2.0**-23), ("add", 1.0)):
        other = [] if number is None else [_known(np.float32(number))]
        (value,) = build.elementwise(name, [value, *other], "float32", _shape(avals[0]), {})
    return [value]


def _is(value: _Value, number: int) -> bool:
    return isinstance(value, _Known) and np.unique(value.small).tolist() == [number]


_REWRITES: dict[str, Callable[..., list[_Value] | None]] = {
    "bitcast_convert_type": _bitcast,
    "broadcast_in_dim": _broadcast,
    "conv_general_dilated": _convolution,
    "convert_element_type": _convert,
    "copy": _same,
    "copy_p": _same,
    "expand_dims": _reshape,
    "gather": _gather,
    "optimization_barrier": _same,
    "or": _or,
    "random_bits": _random_bits,
    "reduce": _reduce,
    "reshape": _reshape,
    "round": _round,
    "scan": _scan,
    "scatter": _scatter,
    "shift_right_logical": _shift_right,
    "slice": _slice,
    "split": _split,
    "square": _square,
    "squeeze": _reshape,
    "stack": _stack,
    "stop_gradient": _same,
    "add_any": _add_any,
}
run = interpreter.run
