"""A graph as the operators of ONNX, opset 18; needs the ``onnx`` package.

ONNX has no expm1, log1p or inverse of erf. These are composed of what it has, in forms that keep
their digits near 0. Convolutions are NHWC here and NCHW there: onnxruntime moves the transposes out
of the way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from flaxvae.export.graph import BATCH, Graph, Op, Shape, Unsupported

OPSET, IR = 18, 10
_LAST = 2**63 - 1  # the end of an axis of any length
# ONNX's integers: unsigned ones are not of all operators.
_TYPES = {"uint32": "int64"}


class Builder:
    """Nodes and constants of one ONNX graph."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.initializers: dict[str, np.ndarray] = {}
        self.batch = ""  # the name of [N], an int64 array with the size of the batch
        self._count = 0
        self._known: dict[tuple[Any, ...], str] = {}

    def node(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        """The name of the output of a new node."""
        from onnx import helper

        self._count += 1
        name = f"v{self._count}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def constant(self, value: Any, dtype: str | None = None) -> str:
        """The name of an array; equal ones are kept once."""
        array = np.ascontiguousarray(np.asarray(value, dtype)).reshape(np.shape(value))
        array = array.astype(_TYPES.get(str(array.dtype), array.dtype))
        key = (str(array.dtype), array.shape, hashlib.sha256(array.tobytes()).digest())
        if key not in self._known:
            self._count += 1
            self._known[key] = f"c{self._count}"
            self.initializers[self._known[key]] = array
        return self._known[key]

    def integers(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def shape(self, shape: Shape) -> str:
        """The name of a shape as an array."""
        if all(isinstance(n, int) for n in shape):
            return self.integers(*(int(n) for n in shape))
        parts = [self.integers(n) if isinstance(n, int) else self._of_batch(n) for n in shape]
        return self.node("Concat", parts, axis=0)

    def _of_batch(self, size: str) -> str:
        if size == BATCH:
            return self.batch
        if not size.endswith(f"*{BATCH}"):
            raise Unsupported(f"an axis of {size} elements")
        return self.node("Mul", [self.batch, self.integers(int(size.split("*")[0]))])

    def reshaped(self, x: str, shape: Shape) -> str:
        """Of any batch: at most one axis depends on it."""
        sizes = [n if isinstance(n, int) else -1 for n in shape]
        if sizes.count(-1) > 1:
            raise Unsupported("two axes that depend on the size of the batch")
        return self.node("Reshape", [x, self.integers(*sizes)])

    def cast(self, x: str, dtype: str) -> str:
        from onnx import helper

        found = np.dtype(_TYPES.get(dtype, dtype))
        return self.node("Cast", [x], to=helper.np_dtype_to_tensor_dtype(found))

    def like(self, x: str, kind: str, value: float) -> str:
        """``kind`` of x and a float32 number."""
        return self.node(kind, [x, self.constant(np.float32(value))])


def add(build: Builder, graph: Graph, inputs: Sequence[str]) -> list[str]:
    """The nodes of a graph, whose inputs have these names; returns the names of its outputs.

    Raises Unsupported: an operation that ONNX has not, or not in this way.
    """
    names = dict(zip(graph.inputs.values(), inputs, strict=True))
    arrays = graph.constants

    def name(number: int) -> str:
        if number not in names:
            names[number] = build.constant(arrays[number])
        return names[number]

    for op in graph.ops:
        if op.name in _OWN:
            found = _OWN[op.name](build, graph, op, name)
        elif op.name in _NODES:
            found = build.node(_NODES[op.name], [name(i) for i in op.inputs])
        elif op.name in _COMPOSED:
            found = _COMPOSED[op.name](build, *(name(i) for i in op.inputs), **op.params)
        else:
            raise Unsupported(f"the operation {op.name!r}")
        names[op.output] = found
    return [name(number) for number in graph.outputs.values()]


_NODES = {
    "abs": "Abs",
    "add": "Add",
    "ceil": "Ceil",
    "cos": "Cos",
    "div": "Div",
    "eq": "Equal",
    "erf": "Erf",
    "exp": "Exp",
    "floor": "Floor",
    "ge": "GreaterOrEqual",
    "gt": "Greater",
    "le": "LessOrEqual",
    "log": "Log",
    "logistic": "Sigmoid",
    "lt": "Less",
    "max": "Max",
    "min": "Min",
    "mul": "Mul",
    "neg": "Neg",
    "pow": "Pow",
    "round": "Round",
    "sign": "Sign",
    "sin": "Sin",
    "sqrt": "Sqrt",
    "sub": "Sub",
    "tanh": "Tanh",
}


# --- functions that ONNX has not ------------------------------------------------------------------


def _expm1(build: Builder, x: str) -> str:
    """exp(x) - 1 = tanh(x / 2) (exp(x) + 1), without cancellation."""
    half = build.node("Tanh", [build.like(x, "Mul", 0.5)])
    return build.node("Mul", [half, build.like(build.node("Exp", [x]), "Add", 1.0)])


def _log1p(build: Builder, x: str) -> str:
    """log(u) x / (u - 1) with u = 1 + x as rounded; x where u is 1 (Kahan)."""
    u = build.like(x, "Add", 1.0)
    none = build.node("Equal", [u, build.constant(np.float32(1))])
    part = build.node("Where", [none, build.constant(np.float32(1)), build.like(u, "Sub", 1.0)])
    log = build.node("Div", [build.node("Mul", [build.node("Log", [u]), x]), part])
    return build.node("Where", [none, x, log])


# Giles 2012, "Approximating the erfinv function": polynomials in w = -log(1 - x^2), to 4e-7.
_NEAR: tuple[float, ...] = (
    2.81022636e-08,
    3.43273939e-07,
    -3.5233877e-06,
    -4.39150654e-06,
    0.00021858087,
)
_NEAR += (-0.00125372503, -0.00417768164, 0.246640727, 1.50140941)
_FAR: tuple[float, ...] = (
    -0.000200214257,
    0.000100950558,
    0.00134934322,
    -0.00367342844,
    0.00573950773,
)
_FAR += (-0.0076224613, 0.00943887047, 1.00167406, 2.83297682)


def _erf_inv(build: Builder, x: str) -> str:
    square = build.node("Neg", [build.node("Mul", [x, x])])
    w = build.node("Neg", [_log1p(build, square)])
    far = build.node("GreaterOrEqual", [w, build.constant(np.float32(5))])

    def polynomial(at: str, coefficients: Sequence[float]) -> str:
        total = build.constant(np.float32(coefficients[0]))
        for coefficient in coefficients[1:]:
            total = build.like(build.node("Mul", [total, at]), "Add", coefficient)
        return total

    near = polynomial(build.like(w, "Sub", 2.5), _NEAR)
    distant = polynomial(build.like(build.node("Sqrt", [w]), "Sub", 3.0), _FAR)
    return build.node("Mul", [build.node("Where", [far, distant, near]), x])


def _integer_pow(build: Builder, x: str, y: int) -> str:
    if y == 2:
        return build.node("Mul", [x, x])
    if y == -1:
        return build.node("Reciprocal", [x])
    return build.like(x, "Pow", float(y))


def _is_finite(build: Builder, x: str) -> str:
    bad = build.node("Or", [build.node("IsInf", [x]), build.node("IsNaN", [x])])
    return build.node("Not", [bad])


def _select(build: Builder, which: str, *cases: str) -> str:
    if len(cases) != 2:
        raise Unsupported("a choice between more than two values")
    return build.node("Where", [which, cases[1], cases[0]])


def _clamp(build: Builder, low: str, x: str, high: str) -> str:
    return build.node("Min", [build.node("Max", [x, low]), high])


def _rsqrt(build: Builder, x: str) -> str:
    return build.node("Reciprocal", [build.node("Sqrt", [x])])


def _not_equal(build: Builder, a: str, b: str) -> str:
    return build.node("Not", [build.node("Equal", [a, b])])


def _remainder(build: Builder, a: str, b: str) -> str:
    return build.node("Mod", [a, b], fmod=1)


_COMPOSED: dict[str, Callable[..., str]] = {
    "clamp": _clamp,
    "convert_element_type": lambda build, x, new_dtype: build.cast(x, new_dtype),
    "erf_inv": _erf_inv,
    "expm1": _expm1,
    "integer_pow": _integer_pow,
    "is_finite": _is_finite,
    "log1p": _log1p,
    "ne": _not_equal,
    "rem": _remainder,
    "rsqrt": _rsqrt,
    "select_n": _select,
    "concatenate": lambda build, *xs, dimension: build.node("Concat", xs, axis=dimension),
    "transpose": lambda build, x, permutation: build.node("Transpose", [x], perm=permutation),
}

# --- operations that need shapes, or constants ----------------------------------------------------

_Names = Callable[[int], str]


def _logical(build: Builder, graph: Graph, op: Op, name: _Names) -> str:
    whole = graph.shapes[op.inputs[0]][0] != "bool"
    kind = {"and": "And", "or": "Or", "not": "Not"}[op.name]
    return build.node(f"Bitwise{kind}" if whole else kind, [name(i) for i in op.inputs])


def _reshape(build: Builder, graph: Graph, op: Op, name: _Names) -> str:
    return build.reshaped(name(op.inputs[0]), graph.shapes[op.output][1])


def _broadcast(build: Builder, graph: Graph, op: Op, name: _Names) -> str:
    x, own = name(op.inputs[0]), graph.shapes[op.inputs[0]][1]
    shape, axes = graph.shapes[op.output][1], op.params["broadcast_dimensions"]
    if axes != list(range(len(shape) - len(axes), len(shape))):
        small: list[Any] = [1] * len(shape)
        for axis, size in zip(axes, own, strict=True):
            small[axis] = size
        x = build.reshaped(x, tuple(small))
    return build.node("Expand", [x, build.shape(shape)])


def _iota(build: Builder, graph: Graph, op: Op, name: _Names) -> str:
    dtype, shape = graph.shapes[op.output]
    axis, small = op.params["dimension"], [1] * len(shape)
    if not isinstance(shape[axis], int):
        raise Unsupported("numbers of the rows of a batch")
    small[axis] = int(shape[axis])
    numbers = build.constant(np.arange(small[axis]).astype(dtype).reshape(small))
    return numbers if tuple(small) == shape else build.node("Expand", [numbers, build.shape(shape)])


def _slice(build: Builder, graph: Graph, op: Op, name: _Names) -> str:
    starts, limits, steps = (
        op.params[key] for key in ("start_indices", "limit_indices", "strides")
    )
    shape = graph.shapes[op.inputs[0]][1]
    axes = [i for i, n in enumerate(shape) if (starts[i], limits[i], steps[i]) != (0, n, 1)]
    ends = [limits[i] if isinstance(limits[i], int) else _LAST for i in axes]
    parts = [[starts[i] for i in axes], ends, axes, [steps[i] for i in axes]]
    return build.node("Slice", [name(op.inputs[0]), *(build.integers(*part) for part in parts)])


def _reverse(build: Builder, graph: Graph, op: Op, name: _Names) -> str:
    axes = op.params["dimensions"]
    parts = [[-1] * len(axes), [-_LAST] * len(axes), axes, [-1] * len(axes)]
    return build.node("Slice", [name(op.inputs[0]), *(build.integers(*part) for part in parts)])


def _pad(build: Builder, graph: Graph, op: Op, name: _Names) -> str:
    low, high, between = zip(*op.params["padding_config"], strict=True)
    if any(between):
        raise Unsupported("zeros between the elements of an array")
    return build.node("Pad", [name(op.inputs[0]), build.integers(*low, *high), name(op.inputs[1])])


def _take(build: Builder, graph: Graph, op: Op, name: _Names) -> str:
    indices = build.cast(name(op.inputs[1]), "int64")
    return build.node("Gather", [name(op.inputs[0]), indices], axis=op.params["axis"])


def _cumsum(build: Builder, graph: Graph, op: Op, name: _Names) -> str:
    axis = build.constant(np.int64(op.params["axis"]))
    return build.node("CumSum", [name(op.inputs[0]), axis], reverse=int(op.params["reverse"]))


def _arg(build: Builder, graph: Graph, op: Op, name: _Names) -> str:
    (axis,), kind = op.params["axes"], {"argmax": "ArgMax", "argmin": "ArgMin"}[op.name]
    found = build.node(kind, [name(op.inputs[0])], axis=axis, keepdims=0)
    return build.cast(found, op.params["index_dtype"])


_REDUCTIONS = {"reduce_sum": "ReduceSum", "reduce_max": "ReduceMax", "reduce_min": "ReduceMin"}
_REDUCTIONS |= {"reduce_prod": "ReduceProd", "reduce_and": "ReduceMin", "reduce_or": "ReduceMax"}


def _reduce(build: Builder, graph: Graph, op: Op, name: _Names) -> str:
    x, logical = name(op.inputs[0]), graph.shapes[op.output][0] == "bool"
    x = build.cast(x, "int32") if logical else x
    found = build.node(_REDUCTIONS[op.name], [x, build.integers(*op.params["axes"])], keepdims=0)
    return build.cast(found, "bool") if logical else found


def _dot(build: Builder, graph: Graph, op: Op, name: _Names) -> str:
    a, b = (graph.shapes[i][1] for i in op.inputs)
    names = [name(i) for i in op.inputs]
    (a_axes, b_axes), (a_batch, b_batch) = op.params["dimension_numbers"]
    if not a_batch and len(b) == 2 and (a_axes, b_axes) == ([len(a) - 1], [0]):
        return build.node("MatMul", names)
    of_a = [chr(ord("a") + i) for i in range(len(a))]
    of_b = [chr(ord("a") + len(a) + i) for i in range(len(b))]
    for i, j in zip([*a_axes, *a_batch], [*b_axes, *b_batch], strict=True):
        of_b[j] = of_a[i]
    out = [of_a[i] for i in a_batch]
    out += [x for i, x in enumerate(of_a) if i not in [*a_axes, *a_batch]]
    out += [x for i, x in enumerate(of_b) if i not in [*b_axes, *b_batch]]
    return build.node("Einsum", names, equation=f"{''.join(of_a)},{''.join(of_b)}->{''.join(out)}")


def _convolution(build: Builder, graph: Graph, op: Op, name: _Names) -> str:
    kernel, params = graph.constants.get(op.inputs[1]), op.params
    if kernel is None:
        raise Unsupported("a convolution with a computed kernel")
    x = build.node("Transpose", [name(op.inputs[0])], perm=[0, 3, 1, 2])
    dilated, pads = params["lhs_dilation"], params["padding"]
    groups = params["feature_group_count"]
    if any(n > 1 for n in dilated):
        ones = [*params["window_strides"], *params["rhs_dilation"], groups]
        begin = [k - 1 - low for k, (low, _) in zip(kernel.shape, pads, strict=False)]
        end = [k - 1 - high for k, (_, high) in zip(kernel.shape, pads, strict=False)]
        more = [max(-n, 0) for n in end]
        if any(n != 1 for n in ones) or min(begin) < 0 or more >= dilated:
            raise Unsupported("a transposed convolution with such padding")
        # ONNX turns the kernel round, and names its axes the other way.
        weights = kernel[::-1, ::-1].transpose(2, 3, 0, 1)
        y = build.node(
            "ConvTranspose",
            [x, build.constant(weights)],
            strides=dilated,
            pads=[*begin, *(max(n, 0) for n in end)],
            output_padding=more,
        )
    else:
        flat = [*(low for low, _ in pads), *(high for _, high in pads)]
        if min(flat) < 0:
            raise Unsupported("a convolution with negative padding")
        y = build.node(
            "Conv",
            [x, build.constant(kernel.transpose(3, 2, 0, 1))],
            strides=params["window_strides"],
            pads=flat,
            dilations=params["rhs_dilation"],
            group=groups,
        )
    return build.node("Transpose", [y], perm=[0, 2, 3, 1])


_OWN: dict[str, Callable[[Builder, Graph, Op, _Names], str]] = {
    "and": _logical,
    "argmax": _arg,
    "argmin": _arg,
    "broadcast_in_dim": _broadcast,
    "conv_general_dilated": _convolution,
    "cumsum": _cumsum,
    "dot_general": _dot,
    "iota": _iota,
    "not": _logical,
    "or": _logical,
    "pad": _pad,
    "reshape": _reshape,
    "rev": _reverse,
    "slice": _slice,
    "take": _take,
    **dict.fromkeys(_REDUCTIONS, _reduce),
}
