"""What a graph keeps of an equation of JAX: shapes, types and parameters, fit for JSON."""

from __future__ import annotations

from typing import Any

import numpy as np

from flaxvae.export import interpreter
from flaxvae.export.graph import Shape, Size, Unsupported

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


def kept(name: str, params: dict[str, Any]) -> dict[str, Any]:
    """Those of an operation that graphs have."""
    if name not in interpreter.OPERATIONS:
        raise Unsupported(f"the operation {name!r}")
    return {key: _plain(params[key]) for key in _KEPT.get(name, ())}


def size_of(size: Any) -> Size:
    return int(size) if isinstance(size, int | np.integer) else str(size)


def shape_of(aval: Any) -> Shape:
    return tuple(map(size_of, aval.shape))


def dtype_of(aval: Any) -> str:
    return str(aval.dtype)


def _plain(value: Any) -> Any:
    """A parameter, fit for JSON."""
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    if value is None or isinstance(value, bool | str | float):
        return value
    if isinstance(value, np.dtype | type):
        return str(np.dtype(value))
    return size_of(value)
