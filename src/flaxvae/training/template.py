"""Programs that differ in nothing but numbers, made one program that takes the numbers.

A setting such as beta or the learning rate ends up as a constant in the program that JAX writes
down of a function, its jaxpr. Two settings share a compilation if their jaxprs are the same but
for such constants: this compares them, equation by equation, and lifts the constants that differ
out as inputs. No list of settings says which those are, and a recipe need not know of it.

Constants inside an inner program (the body of a scan, say) are part of the structure: where they
differ, so do the programs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, Var, jaxpr_as_fun

Numbers = list[Any]  # what one program has where others have other constants


class Outline(NamedTuple):
    """A function written down, with the constants of its outermost equations as variables."""

    jaxpr: Jaxpr  # its constvars are the constants
    constants: list[Any]
    structure: str  # equal for programs that differ in ``constants`` alone
    out_tree: Any


def outline(function: Callable[..., Any], *shapes: Any) -> Outline:
    """``function`` of arguments of these shapes. Nothing is compiled."""
    closed, out = jax.make_jaxpr(function, return_shape=True)(*shapes)
    variables, constants = [*closed.jaxpr.constvars], [*closed.consts]

    def lift(atom: Any) -> Any:
        if not isinstance(atom, Literal):
            return atom
        variables.append(Var(atom.aval))
        constants.append(atom.val)
        return variables[-1]

    equations = [
        equation.replace(invars=[lift(atom) for atom in equation.invars])
        for equation in closed.jaxpr.eqns
    ]
    outputs = [lift(atom) for atom in closed.jaxpr.outvars]
    jaxpr = closed.jaxpr.replace(constvars=variables, eqns=equations, outvars=outputs)
    return Outline(jaxpr, constants, "\n".join(_lines(jaxpr)), jax.tree.structure(out))


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
    differ = [
        i
        for i, value in enumerate(first.constants)
        if any(_bytes(other.constants[i]) != _bytes(value) for other in different)
    ]

    def apply(numbers: Numbers, *arguments: Any) -> Any:
        constants = list(first.constants)
        for i, number in zip(differ, numbers, strict=True):
            constants[i] = number
        function = jaxpr_as_fun(ClosedJaxpr(first.jaxpr, constants))
        return jax.tree.unflatten(first.out_tree, function(*jax.tree.leaves(arguments)))

    def number(outline: Outline, i: int) -> jax.Array:
        value = outline.constants[i]
        aval: Any = outline.jaxpr.constvars[i].aval
        return value if isinstance(value, jax.Array) else jnp.asarray(value, aval.dtype)

    return apply, [[number(outline, i) for i in differ] for outline in outlines]


def _lines(jaxpr: Jaxpr) -> Iterator[str]:
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
        parameters = {name: _words(value) for name, value in equation.params.items()}
        yield f"{outputs} = {equation.primitive} {parameters} {inputs}"
    yield " ".join(map(atom, jaxpr.outvars))


def _words(parameter: Any) -> str:
    """A parameter of an equation; of an inner program, its constants too."""
    if isinstance(parameter, ClosedJaxpr):
        inner = [_bytes(value).hex() for value in parameter.consts]
        return f"{inner} {_words(parameter.jaxpr)}"
    if isinstance(parameter, Jaxpr):
        return "\n".join(_lines(parameter))
    if isinstance(parameter, tuple | list):
        return f"({', '.join(map(_words, parameter))})"
    return re.sub(r"0x[0-9a-f]+", "", repr(parameter))  # where a function lies in memory


def _bytes(value: Any) -> bytes:
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    return np.asarray(value).tobytes()
