"""Programs that differ in nothing but numbers, made one program that takes the numbers.

A setting such as beta or the learning rate ends up as a constant in the program that JAX writes
down of a function, its jaxpr. Two settings share a compilation if their jaxprs are the same but
for such constants: this compares them, equation by equation, and lifts the constants that differ
out as inputs. No list of settings says which those are, and a recipe need not know of it.

Constants inside an inner program (the body of a scan, say) are part of the structure: where they
differ, so do the programs. Of JAX's inside this takes what ``jax.extend.core`` documents. JAX may
change even that; a program that cannot be read or written anew is one of its own, and right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, Var, jaxpr_as_fun

Numbers = list[Any]  # what one program has where others have other constants


class Outline(NamedTuple):
    """A function of arguments of known shapes, and its jaxpr in words."""

    function: Callable[..., Any]
    shapes: tuple[Any, ...]
    jaxpr: Jaxpr | None  # its first inputs are the constants
    constants: list[Any]
    structure: str  # equal for programs that differ in ``constants`` alone


def outline(function: Callable[..., Any], *shapes: Any) -> Outline:
    """``function`` of arguments of these shapes. Nothing is compiled."""
    closed = jax.make_jaxpr(function)(*shapes)
    try:
        jaxpr, constants = _lift(closed)
        return Outline(function, shapes, jaxpr, constants, "\n".join(_lines(jaxpr)))
    except Exception:  # this JAX writes programs down in another way
        return Outline(function, shapes, None, [], f"unread {id(closed)} {closed}")


def alike(outlines: Sequence[Outline]) -> bool:
    """Whether ``shared`` can make one function of these."""
    if any(other.structure != outlines[0].structure for other in outlines):
        return False
    try:
        apply, numbers = shared(outlines)
        jax.eval_shape(apply, numbers[0], *outlines[0].shapes)
    except Exception:  # this JAX does not take a program that was written anew
        return False
    return True


def shared(outlines: Sequence[Outline]) -> tuple[Callable[..., Any], list[Numbers]]:
    """One function for programs of one structure.

    Returns:
        ``apply(numbers, *arguments)`` and, for each of the outlines, the numbers with which it is
        that program. Constants that all have in common remain constants.

    Raises:
        ValueError: programs of several structures.
    """
    first = outlines[0]
    if any(other.structure != first.structure for other in outlines):
        raise ValueError("programs of several structures: expected one, but for numbers")
    different = {id(other): other for other in outlines}.values()
    if len(different) == 1:
        return lambda numbers, *arguments: first.function(*arguments), [[] for _ in outlines]
    differ = [
        i
        for i, value in enumerate(first.constants)
        if any(_bytes(other.constants[i]) != _bytes(value) for other in different)
    ]
    inputs: Any = first.jaxpr
    out_tree = jax.tree.structure(jax.eval_shape(first.function, *first.shapes))

    def apply(numbers: Numbers, *arguments: Any) -> Any:
        constants = list(first.constants)
        for i, number in zip(differ, numbers, strict=True):
            constants[i] = number
        function = jaxpr_as_fun(ClosedJaxpr(inputs, []))
        return jax.tree.unflatten(out_tree, function(*constants, *jax.tree.leaves(arguments)))

    def number(outline: Outline, i: int) -> jax.Array:
        value, aval = outline.constants[i], inputs.invars[i].aval
        return value if isinstance(value, jax.Array) else jnp.asarray(value, aval.dtype)

    return apply, [[number(outline, i) for i in differ] for outline in outlines]


def _lift(closed: ClosedJaxpr) -> tuple[Jaxpr, list[Any]]:
    """A program whose first inputs are its constants, and those of its outermost equations."""
    inputs, constants = list(closed.jaxpr.constvars), list(closed.consts)

    def lift(atom: Any) -> Any:
        if not isinstance(atom, Literal):
            return atom
        inputs.append(Var(atom.aval))
        constants.append(atom.val)
        return inputs[-1]

    equations = [
        equation.replace(invars=[lift(atom) for atom in equation.invars])
        for equation in closed.jaxpr.eqns
    ]
    outputs = [lift(atom) for atom in closed.jaxpr.outvars]
    inputs += closed.jaxpr.invars
    return (
        closed.jaxpr.replace(constvars=[], invars=inputs, eqns=equations, outvars=outputs),
        constants,
    )


def _lines(jaxpr: ClosedJaxpr | Jaxpr) -> Iterator[str]:
    """A jaxpr in words that do not depend on what its variables are called."""
    names: dict[Any, int] = {}

    def atom(value: Any) -> str:
        if isinstance(value, Literal):
            return f"{_bytes(value.val).hex()}:{value.aval}"
        return f"{names.setdefault(value, len(names))}:{value.aval}"

    yield " ".join(map(atom, [*jaxpr.constvars, *jaxpr.invars]))
    for equation in jaxpr.eqns:
        inputs = " ".join(map(atom, equation.invars))
        outputs = " ".join(map(atom, equation.outvars))
        yield f"{outputs} = {equation.primitive} {_parameters(equation.params)} {inputs}"
    yield " ".join(map(atom, jaxpr.outvars))


def _parameters(given: dict[str, Any]) -> dict[str, str]:
    """Where there is an inner program, a function beside it is its source or its derivative, which
    nobody takes of a program. Of any other function the words are where it lies in memory: what
    it does cannot be read.
    """
    inner = any(isinstance(value, ClosedJaxpr | Jaxpr) for value in given.values())
    return {name: _words(x) for name, x in given.items() if not (inner and callable(x))}


def _words(parameter: Any) -> str:
    """A parameter of an equation: of an inner program, its constants too."""
    if isinstance(parameter, ClosedJaxpr | Jaxpr):
        constants = [_bytes(value).hex() for value in getattr(parameter, "consts", ())]
        return "\n".join([f"{constants}", *_lines(parameter)])
    if isinstance(parameter, tuple | list):
        return f"({', '.join(map(_words, parameter))})"
    if isinstance(parameter, np.ndarray | jax.Array):
        return f"{_bytes(parameter).hex()}:{parameter.dtype}{parameter.shape}"
    return repr(parameter)


def _bytes(value: Any) -> bytes:
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    return np.asarray(value).tobytes()
