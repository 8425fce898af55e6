"""What becomes of a primitive of JAX that graphs do not have as it is.

Each rewrite is a function of the builder, the values that it is given, the equation's parameters
and the abstract values of its outputs. It returns the outputs, or None if the operation stays.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np

from flaxvae.export.graph import Unsupported
from flaxvae.export.tracing.builder import Known, Value
from flaxvae.export.tracing.parameters import dtype_of, shape_of, size_of

Rewrite = Callable[..., list[Value] | None]


def _same(build, given, params, avals):
    return list(given)


def _broadcast(build, given, params, avals):
    """A constant is kept as small as it is."""
    value, axes, shape = given[0], params["broadcast_dimensions"], shape_of(avals[0])
    if not isinstance(value, Known):
        new = [n for i, n in enumerate(shape) if i not in axes]
        if {*new} <= {1} and build.shape(value) == tuple(shape[axis] for axis in axes):
            return [build.reshape(value, shape)]
        return None
    if not np.ndim(value.small):
        return [Known(value.small, shape)]
    small = [1] * len(shape)
    for axis, size in zip(axes, value.small.shape, strict=True):
        small[axis] = size
    return [Known(value.small.reshape(small), shape)]


def _reshape(build, given, params, avals):
    if "new_sizes" in params and params["dimensions"] is not None:
        raise Unsupported("a reshape that reorders axes")
    return [build.reshape(given[0], shape_of(avals[0]))]


def _split(build, given, params, avals):
    found, start = [], 0
    for size in params["sizes"]:
        found.append(build.slice(given[0], params["axis"], start, start + int(size)))
        start += int(size)
    return found


def _stack(build, given, params, avals):
    axis, shape = params["axis"], list(shape_of(avals[0]))
    shape[axis] = 1
    parts = [build.reshape(one, tuple(shape)) for one in given]
    return [build.concatenate(parts, axis)]


def _square(build, given, params, avals):
    return build.elementwise("mul", [given[0]] * 2, dtype_of(avals[0]), shape_of(avals[0]), {})


def _add_any(build, given, params, avals):
    return build.elementwise("add", given, dtype_of(avals[0]), shape_of(avals[0]), {})


def _slice(build, given, params, avals):
    shape = build.shape(given[0])
    strides = params["strides"] or [1] * len(shape)
    value = given[0]
    for axis, size in enumerate(shape):
        part = size_of(params["start_indices"][axis]), size_of(params["limit_indices"][axis])
        if part != (0, size) or strides[axis] != 1:
            value = build.slice(value, axis, *part, int(strides[axis]))
    return [value]


def _convert(build, given, params, avals):
    value = given[0]
    if isinstance(value, int) and build.shapes[value][0] == dtype_of(avals[0]):
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


def _index(value: Value) -> np.ndarray | None:
    """Known indices [..., 1], without their last axis."""
    if not isinstance(value, Known) or value.shape[-1:] != (1,):
        return None
    return np.broadcast_to(value.small, value.shape)[..., 0]  # type: ignore[arg-type]


def _gather(build, given, params, avals):
    """Of one axis: a part of it that starts at a known place, or single indices."""
    numbers, sizes = params["dimension_numbers"], list(map(size_of, params["slice_sizes"]))
    value, indices = given
    shape, out = build.shape(value), shape_of(avals[0])
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
    places = Known.of(at) if at is not None else build.reshape(indices, last)
    # Where the axes of the indices end up, and where numpy.take has them.
    ours = tuple(i for i in range(len(out)) if i not in numbers.offset_dims)
    taken = (*shape[:axis], *last, *shape[axis + 1 :])
    found = build.take(value, places, axis, taken)
    if ours == tuple(range(axis, axis + len(last))):
        return [found]
    rest = iter(i for i in range(len(out)) if not axis <= i < axis + len(last))
    own = iter(range(axis, axis + len(last)))
    order = [next(own) if i in ours else next(rest) for i in range(len(out))]
    return [build.emit("transpose", [found], dtype_of(avals[0]), out, {"permutation": order})]


def _scatter(build, given, params, avals):
    """Values set at known indices of one axis."""
    numbers, (value, indices, new) = params["dimension_numbers"], given
    at = _index(indices)
    if params.get("update_jaxpr") is not None or at is None:
        raise Unsupported("values set at computed indices")
    if len(numbers.scatter_dims_to_operand_dims) != 1:
        raise Unsupported("values set at indices of several axes")
    (axis,) = numbers.scatter_dims_to_operand_dims
    if at.ndim == 0 and len(build.shape(new)) < len(build.shape(value)):  # of one index
        shape = build.shape(value)
        new = build.reshape(new, (*shape[:axis], 1, *shape[axis + 1 :]))
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
    return [build.take(both, Known.of(order), axis, shape_of(avals[0]))]


REWRITES: dict[str, Rewrite] = {
    "add_any": _add_any,
    "broadcast_in_dim": _broadcast,
    "conv_general_dilated": _convolution,
    "convert_element_type": _convert,
    "copy": _same,
    "copy_p": _same,
    "expand_dims": _reshape,
    "gather": _gather,
    "optimization_barrier": _same,
    "reshape": _reshape,
    "round": _round,
    "scatter": _scatter,
    "slice": _slice,
    "split": _split,
    "square": _square,
    "squeeze": _reshape,
    "stack": _stack,
    "stop_gradient": _same,
}
