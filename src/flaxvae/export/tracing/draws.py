"""Draws as functions of an input of uniform numbers.

JAX makes a uniform number of random bits: their first 23 are the fraction of a float in [1, 2).
``Bits`` follows these steps, so that the end is the number of the input, cut to 23 bits; whole
numbers are made of all 32.
"""

from __future__ import annotations

import math

import numpy as np

from flaxvae.export.graph import Unsupported
from flaxvae.export.tracing.builder import Bits, Known, Value
from flaxvae.export.tracing.parameters import shape_of
from flaxvae.export.tracing.rewrites import Rewrite


def _random_bits(build, given, params, avals):
    """The next uniform numbers of each row, in the place of bits; None: bits of a known key."""
    shape = shape_of(avals[0])
    if build.uniform is None:
        if not isinstance(given[0], Known) or not all(isinstance(n, int) for n in shape):
            raise Unsupported("draws for a batch of any size")
        return None
    if shape[:1] != build.shapes[build.uniform][1][:1] or params["bit_width"] != 32:
        raise Unsupported("draws that are not one row for each of the batch")
    count = math.prod(int(n) for n in shape[1:])
    part = build.slice(build.uniform, 1, build.columns, build.columns + count)
    build.columns += count
    return [Bits(build.reshape(part, shape))]


def _shift_right(build, given, params, avals):
    if isinstance(given[0], Bits) and given[0].stage == "bits" and _is(given[1], 9):
        return [given[0]._replace(stage="fraction")]
    return None


def _or(build, given, params, avals):
    if isinstance(given[0], Bits) and given[0].stage == "fraction" and _is(given[1], 0x3F800000):
        return [given[0]._replace(stage="float")]
    return None


def _bitcast(build, given, params, avals):
    """The number in [1, 2) whose fraction is the bits: 1 + u, with u cut to 23 bits."""
    if not (isinstance(given[0], Bits) and given[0].stage == "float"):
        return None
    value = given[0].uniform
    for name, number in (("mul", 2.0**23), ("floor", None), ("mul", 2.0**-23), ("add", 1.0)):
        other = [] if number is None else [Known.of(np.float32(number))]
        (value,) = build.elementwise(name, [value, *other], "float32", shape_of(avals[0]), {})
    return [value]


def _is(value: Value, number: int) -> bool:
    return isinstance(value, Known) and np.unique(value.small).tolist() == [number]


REWRITES: dict[str, Rewrite] = {
    "bitcast_convert_type": _bitcast,
    "or": _or,
    "random_bits": _random_bits,
    "shift_right_logical": _shift_right,
}
