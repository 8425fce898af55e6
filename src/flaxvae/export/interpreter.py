"""Graphs executed with NumPy: slow, and plain enough to be what other interpreters are held to."""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from flaxvae.export.graph import BATCH, Graph

Array = np.ndarray


def run(graph: Graph, *arrays: Any) -> list[Array]:
    """The outputs of a graph for these inputs, both in its order.

    Raises ValueError if an input has another shape than the graph's.
    """
    found = values(graph, *arrays)
    return [found[number] for number in graph.outputs.values()]


def values(graph: Graph, *arrays: Any) -> dict[int, Array]:
    """All that a graph computes for these inputs, by number."""
    values, batch = dict(graph.constants), 1
    for (name, number), array in zip(graph.inputs.items(), arrays, strict=True):
        dtype, shape = graph.shapes[number]
        values[number] = given = np.asarray(array, dtype)
        if given.ndim == len(shape) and BATCH in shape:
            batch = given.shape[shape.index(BATCH)]
        if given.shape != tuple(sizes(shape, batch)):
            raise ValueError(f"{name} of shape {given.shape}: expected {shape}")
    for op in graph.ops:
        params = {key: sizes(value, batch) for key, value in op.params.items()}
        values[op.output] = apply(op.name, [values[i] for i in op.inputs], params)
    return values


def sizes(value: Any, batch: int) -> Any:
    """A shape, or other parameters in a list, with the batch's size in its place."""
    if not isinstance(value, list | tuple):
        return value
    return [
        batch * int(one.split("*")[0])
        if isinstance(one, str) and "*" in one
        else batch
        if one == BATCH
        else one
        for one in value
    ]


def apply(name: str, operands: Sequence[Any], params: dict[str, Any]) -> Array:
    """One operation on NumPy arrays."""
    if name in ELEMENTWISE:
        found = ELEMENTWISE[name](*operands, **params)
    else:
        found = _OTHERS[name](*operands, **params)
    return np.asarray(found)


def _kept(function: Callable[[Any], Any]) -> Callable[[Any], Array]:
    """A function of numbers, in the type of its operand."""

    def of(x):
        with np.errstate(all="ignore"):
            return np.asarray(function(x), x.dtype)

    return of


def _logistic(x: Array) -> Array:
    return np.where(x < 0, np.exp(np.minimum(x, 0)), 1) / (1 + np.exp(-np.abs(x)))


def _special(name: str) -> Callable[[Array], Array]:
    def of(x):
        from scipy import special

        return getattr(special, name)(x)

    return of


def _quotient(a: Array, b: Array) -> Array:
    with np.errstate(all="ignore"):
        if np.issubdtype(a.dtype, np.integer):
            return np.trunc(np.float64(a) / np.float64(b)).astype(a.dtype)
        return np.divide(a, b)


def _convert(x: Array, new_dtype: str) -> Array:
    with np.errstate(invalid="ignore"):
        return x.astype(new_dtype)


_Functions = dict[str, Callable[..., Any]]
_ROUND: _Functions = {
    "floor": np.floor,
    "ceil": np.ceil,
    "round": np.rint,
    "sign": np.sign,
    "abs": np.abs,
}
_SMOOTH: _Functions = {
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "tanh": np.tanh,
}
_SMOOTH |= {"sqrt": np.sqrt, "rsqrt": lambda x: 1 / np.sqrt(x), "sin": np.sin, "cos": np.cos}
_SMOOTH |= {"logistic": _logistic, "erf": _special("erf"), "erf_inv": _special("erfinv")}
_COMPARE: _Functions = {"eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal}
_COMPARE |= {"gt": np.greater, "ge": np.greater_equal, "is_finite": np.isfinite}
ELEMENTWISE: _Functions = {
    **{name: _kept(function) for name, function in (_ROUND | _SMOOTH).items()},
    **_COMPARE,
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": _quotient,
    "rem": np.fmod,
    "pow": np.power,
    "max": np.maximum,
    "min": np.minimum,
    "neg": np.negative,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "not": np.invert,
    "select_n": lambda which, *cases: np.select(
        [which == i for i in range(len(cases) - 1)], cases[:-1], cases[-1]
    ),
    "clamp": lambda low, x, high: np.minimum(np.maximum(x, low), high),
    "integer_pow": lambda x, y: np.asarray(np.power(x, y), x.dtype),
    "convert_element_type": _convert,
}


def _dot_general(a: Array, b: Array, dimension_numbers: Any) -> Array:
    (a_axes, b_axes), (a_batch, b_batch) = dimension_numbers
    letters = iter(string.ascii_letters)
    of_a = [next(letters) for _ in range(a.ndim)]
    of_b = [next(letters) for _ in range(b.ndim)]
    for i, j in zip([*a_axes, *a_batch], [*b_axes, *b_batch], strict=True):
        of_b[j] = of_a[i]
    out = [of_a[i] for i in a_batch]
    out += [x for i, x in enumerate(of_a) if i not in [*a_axes, *a_batch]]
    out += [x for i, x in enumerate(of_b) if i not in [*b_axes, *b_batch]]
    return np.einsum(f"{''.join(of_a)},{''.join(of_b)}->{''.join(out)}", a, b, optimize=True)


def _pad(x: Array, value: Array, padding_config: Any) -> Array:
    for axis, (low, high, between) in enumerate(padding_config):
        shape = list(x.shape)
        shape[axis] = max((shape[axis] - 1) * (between + 1) + 1, 0)
        wide = np.full(shape, value, x.dtype)
        at: list[Any] = [slice(None)] * x.ndim
        at[axis] = slice(None, None, between + 1)
        wide[tuple(at)] = x
        at[axis] = slice(max(-low, 0), shape[axis] - max(-high, 0))
        added = [(0, 0)] * x.ndim
        added[axis] = (max(low, 0), max(high, 0))
        x = np.pad(wide[tuple(at)], added, constant_values=value)
    return x


def _conv_general_dilated(
    x: Array,
    kernel: Array,
    window_strides: Any,
    padding: Any,
    lhs_dilation: Any,
    rhs_dilation: Any,
    feature_group_count: int,
) -> Array:
    """[B, H, W, C], [kh, kw, C / groups, O] -> [B, h, w, O], as a sum over the kernel's taps."""
    edges = [(*pads, wide - 1) for pads, wide in zip(padding, lhs_dilation, strict=True)]
    x = _pad(x, np.zeros((), x.dtype), [(0, 0, 0), *edges, (0, 0, 0)])
    reach = [rate * (k - 1) + 1 for rate, k in zip(rhs_dilation, kernel.shape, strict=False)]
    ends = [
        range(0, n - r + 1, s) for n, r, s in zip(x.shape[1:3], reach, window_strides, strict=True)
    ]
    groups = feature_group_count
    inputs, outputs = np.split(x, groups, -1), np.split(kernel, groups, -1)
    total: Any = 0
    for i, j in np.ndindex(*kernel.shape[:2]):
        rows, columns = (np.array(at) + r * t for at, r, t in zip(ends, rhs_dilation, (i, j)))
        total = total + np.concatenate(
            [
                part[:, rows][:, :, columns] @ taps[i, j]
                for part, taps in zip(inputs, outputs, strict=True)
            ],
            -1,
        )
    return total


def _slice(x: Array, start_indices: Any, limit_indices: Any, strides: Any) -> Array:
    every = zip(start_indices, limit_indices, strides, strict=True)
    return x[tuple(slice(*each) for each in every)]


def _broadcast(x: Array, shape: Any, broadcast_dimensions: Any) -> Array:
    own = [1] * len(shape)
    for axis, size in zip(broadcast_dimensions, x.shape, strict=True):
        own[axis] = size
    return np.broadcast_to(x.reshape(own), shape)


def _iota(dimension: int, dtype: str, shape: Any) -> Array:
    own = [1] * len(shape)
    own[dimension] = shape[dimension]
    return np.broadcast_to(np.arange(shape[dimension], dtype=dtype).reshape(own), shape)


def _arg(function: Callable[..., Array]) -> Callable[..., Array]:
    return lambda x, axes, index_dtype: function(x, axis=axes[0]).astype(index_dtype)


def _reduce(function: Callable[..., Array]) -> Callable[..., Array]:
    return lambda x, axes: np.asarray(function(x, axis=tuple(axes)), x.dtype)


def _cumsum(x: Array, axis: int, reverse: bool) -> Array:
    x = np.flip(x, axis) if reverse else x
    found = np.cumsum(x, axis, dtype=x.dtype)
    return np.flip(found, axis) if reverse else found


_OTHERS: _Functions = {
    "argmax": _arg(np.argmax),
    "argmin": _arg(np.argmin),
    "broadcast_in_dim": _broadcast,
    "concatenate": lambda *parts, dimension: np.concatenate(parts, dimension),
    "conv_general_dilated": _conv_general_dilated,
    "cumsum": _cumsum,
    "dot_general": _dot_general,
    "iota": _iota,
    "pad": _pad,
    "reduce_and": _reduce(np.all),
    "reduce_max": _reduce(np.max),
    "reduce_min": _reduce(np.min),
    "reduce_or": _reduce(np.any),
    "reduce_prod": _reduce(np.prod),
    "reduce_sum": _reduce(np.sum),
    "reshape": lambda x, new_sizes: x.reshape(new_sizes),
    "rev": lambda x, dimensions: np.flip(x, tuple(dimensions)),
    "slice": _slice,
    "take": lambda x, indices, axis: np.take(x, indices, axis),
    "transpose": lambda x, permutation: x.transpose(permutation),
}
OPERATIONS = frozenset(ELEMENTWISE) | frozenset(_OTHERS)
