"""The operations of a graph as they are gathered, and the values between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from flaxvae.export import interpreter
from flaxvae.export.graph import Op, Shape, Unsupported
from flaxvae.export.tracing.parameters import kept


class Known(NamedTuple):
    """A value that depends on constants alone: ``small`` broadcasts, as in NumPy, to ``shape``."""

    small: Any  # a NumPy array with as many axes as ``shape``, or none; or an array of keys
    shape: Shape

    @property
    def whole(self) -> bool:
        return np.shape(self.small) == self.shape

    @classmethod
    def of(cls, value: Any) -> Known:
        if isinstance(value, jax.Array) and jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
            return cls(value, value.shape)
        array = np.asarray(value)
        return cls(array, array.shape)


class Bits(NamedTuple):
    """Random bits made of a uniform number u, and what of it is computed so far."""

    uniform: int
    stage: str = "bits"  # "fraction": its first 23 bits; "float": the bits of 1 + u


Value = int | Known | Bits


class Builder:
    """Operations, as they are found."""

    def __init__(self) -> None:
        self.uniform: int | None = None  # the input that draws are made of; None: of known keys
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

    def number(self, value: Value) -> int:
        """The id of a value, as a whole."""
        if isinstance(value, Bits):
            if value.stage != "bits":
                raise Unsupported("random bits in another use than uniform or whole numbers")
            shape = self.shapes[value.uniform][1]
            scale = Known.of(np.float32(2.0**32))
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

    def loose(self, value: Value) -> int:
        """The id of an operand that may be broadcast."""
        return self.constant(value.small) if isinstance(value, Known) else self.number(value)

    def shape(self, value: Value) -> Shape:
        if isinstance(value, Known):
            return value.shape
        return self.shapes[value.uniform if isinstance(value, Bits) else value][1]

    def elementwise(
        self, name: str, given: Sequence[Value], dtype: str, shape: Shape, params: dict[str, Any]
    ) -> list[Value]:
        params = kept(name, params)
        known = [one.small for one in given if isinstance(one, Known)]
        if len(known) == len(given):
            return [Known(interpreter.apply(name, known, params), shape)]
        return [self.emit(name, [self.loose(one) for one in given], dtype, shape, params)]

    def reshape(self, value: Value, shape: Shape) -> Value:
        if self.shape(value) == shape:
            return value
        if isinstance(value, Known) and value.whole:
            return Known.of(np.reshape(value.small, shape))
        number = self.number(value)
        return self.emit(
            "reshape", [number], self.shapes[number][0], shape, {"new_sizes": list(shape)}
        )

    def slice(self, value: Value, axis: int, start: int, stop: int, step: int = 1) -> Value:
        """value[..., start:stop:step, ...] along one axis."""
        shape = self.shape(value)
        if isinstance(value, Known) and value.whole:
            index = (*[slice(None)] * axis, slice(start, stop, step))
            return Known.of(value.small[index])
        number = self.number(value)
        starts, limits, strides = [0] * len(shape), list(shape), [1] * len(shape)
        starts[axis], limits[axis], strides[axis] = start, stop, step
        new = (*shape[:axis], len(range(start, stop, step)), *shape[axis + 1 :])
        params = {"start_indices": starts, "limit_indices": limits, "strides": strides}
        return self.emit("slice", [number], self.shapes[number][0], new, params)

    def concatenate(self, values: Sequence[Value], axis: int) -> Value:
        if all(isinstance(one, Known) and one.whole for one in values):
            return Known.of(np.concatenate([one.small for one in values], axis))  # type: ignore
        numbers = [self.number(one) for one in values]
        shapes = [self.shapes[one][1] for one in numbers]
        shape = list(shapes[0])
        shape[axis] = sum(int(one[axis]) for one in shapes)
        dtype = self.shapes[numbers[0]][0]
        return self.emit("concatenate", numbers, dtype, tuple(shape), {"dimension": axis})

    def take(self, value: Value, indices: Value, axis: int, shape: Shape) -> Value:
        """``numpy.take``; known indices in steps are a slice."""
        if isinstance(indices, Known) and np.ndim(indices.small) == 1 and indices.whole:
            at = [int(i) for i in indices.small]
            step = at[1] - at[0] if len(at) > 1 else 1
            if step > 0 and at == list(range(at[0], at[-1] + 1, step)):
                return self.slice(value, axis, at[0], at[-1] + 1, step)
        numbers = self.number(value), self.number(indices)
        return self.emit("take", numbers, self.shapes[numbers[0]][0], shape, {"axis": axis})
