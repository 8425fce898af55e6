"""Declared types: what a setting may be, what it depends on, and values made to fit.

    batch_size: Annotated[int, Within(lambda n: n >= 1, "1 or more")] = 128
    sigma: Annotated[float, Only("likelihood", "gaussian")] = 1.0

What enters, from the command line or from Python, is made a plain Python value of its declared
type here and nowhere else: a NumPy scalar or a 0-d array becomes a number, 2.0 an int, a path a
string, a list a tuple. What does not fit is refused, so that a plan is the same, and can be
written down, whoever made it. A setting that would have no effect beside the others is refused,
too. Nothing here imports JAX or NumPy.

A number may also be an input of a program that JAX is tracing, and stand for those of many members
of a sweep. Their own values have been checked before: a traced one passes every check.
"""

from __future__ import annotations

import functools
import inspect
import math
import operator
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from flaxvae.errors import UsageError
from flaxvae.synonyms import hint

Settings = Mapping[str, Any]  # by name
Function = TypeVar("Function", bound=Callable[..., Any])


class Within(NamedTuple):
    """A range: a part of an ``Annotated`` type."""

    ok: Callable[[Any], object]  # true of what is in it
    words: str  # what is expected, for people


class Only:
    """A setting has an effect only where another has one of some values: a part of a type.

    The values are listed, or those in a range; without either, all but None, 0 and "none". Where
    the other is "auto", it may have one of the listed values once the data are known.
    """

    def __init__(self, name: str, *values: str, within: Within | None = None):
        self.name, self.values, self.within = name, values, within

    def holds(self, settings: Settings) -> bool:
        found = settings[self.name]
        if self.within is not None:
            return bool(self.within.ok(found))
        return found in ("auto", *self.values) if self.values else found not in (None, 0, "none")

    @property
    def words(self) -> str:
        """The values, for people."""
        return " or ".join(self.values) if self.within is None else self.within.words


class Never(NamedTuple):
    """A setting has no effect, in one recipe of those that share it: a part of a type."""

    why: str


class Without:
    """A recipe does nothing with some settings of a shared record: a part of the record's type."""

    def __init__(self, *names: str, why: str):
        self.names, self.note = names, Never(why)


class Alias(NamedTuple):
    """Other ways to give a value: a part of an ``Annotated`` type."""

    usual: Callable[[Any], Any]  # the usual way of such a value, or the value
    kinds: Any  # the types of such values


MOST = 2**31 - 1  # steps are counted in int32
_COUNTABLE = Within(lambda n: n <= MOST, f"at most {MOST}")
Count = Annotated[int, Within(lambda n: n >= 0, "0 or more"), _COUNTABLE]
Positive = Annotated[int, Within(lambda n: n >= 1, "1 or more"), _COUNTABLE]
Seed = Annotated[int, Within(lambda n: 0 <= n < 2**32, "0 to 4294967295")]
NotNegative = Annotated[float, Within(lambda x: x >= 0, "0 or more")]
# Of bounds on log p(x). Indices of draws are int32; the weight of every chain is kept.
Draws = Annotated[
    tuple[Annotated[int, Within(lambda n: 1 <= n <= 10**9, "1 to 1000000000")], ...],
    Within(bool, "one or more numbers"),
]
Chains = Annotated[int, Within(lambda n: 1 <= n <= 10**7, "1 to 10000000")]
Temperatures = Annotated[int, Within(lambda n: 0 <= n <= 10**6, "0 to 1000000")]
Simulated = Annotated[int, Within(lambda n: 0 <= n <= 10**4, "0 to 10000")]
Steps = Annotated[int, Within(lambda n: n >= 2, "2 or more, both ends"), _COUNTABLE]
AboveZero = Annotated[float, Within(lambda x: x > 0, "a number above 0")]
Part = Annotated[float, Within(lambda x: 0 <= x < 1, "at least 0 and below 1")]
Rate = Annotated[float, Within(lambda x: 0 < x < 1, "a number between 0 and 1")]


# One number, or one for each level of a hierarchy of latents:
Temperature = Annotated[
    tuple[NotNegative, ...],
    Alias(lambda x: (x,) if isinstance(x, int | float) or _scalar(x) else x, float),
    Within(bool, "a number, 0 or more"),
]


class _Unfit(Exception):
    """A value that its type cannot hold; the text is what was expected."""


def flag(name: str) -> str:
    """A setting's name as it is typed."""
    return "--" + name.replace("_", "-")


def conform(name: str, kind: Any, value: Any) -> Any:
    """``value`` as a plain Python value of type ``kind``; a traced number as it is.

    ``kind`` is built from int, float, bool, str, Literal, tuple[..., ...], None and Annotated;
    values of other types pass as they are.

    Raises:
        UsageError: no value of that type, or out of its range: ``name``, what was seen, what was
            expected.
    """
    try:
        return value if traced(value) else _fit(kind, value)
    except _Unfit as unfit:
        raise UsageError(f"{flag(name)} {seen(value)}: expected {unfit}") from None


def traced(value: Any) -> bool:
    """Whether a number is an input of a program that is being traced, and has no value yet."""
    jax = sys.modules.get("jax")
    return jax is not None and isinstance(value, jax.core.Tracer)


def passes(ok: Any) -> bool:
    """Whether a check holds, or is of a traced number."""
    return traced(ok) or bool(ok)


_NOT_ZERO: ContextVar[tuple[Any, ...]] = ContextVar("not_zero", default=())


@contextmanager
def not_zero(numbers: Iterable[Any]) -> Iterator[None]:
    """Inside, these traced numbers stand for none that is 0."""
    token = _NOT_ZERO.set(tuple(numbers))
    try:
        yield
    finally:
        _NOT_ZERO.reset(token)


def is_on(number: Any) -> bool:
    """Whether a number is not 0: whether what it is the size of is there at all.

    Of a traced number, JAX's error unless it is known to be ``not_zero``.
    """
    return any(number is known for known in _NOT_ZERO.get()) or bool(number)


def seen(value: Any) -> str:
    """A value in a message of one line: a tuple as it is typed, anything long shortened."""
    many = isinstance(value, tuple | list)
    text = " ".join((" ".join(map(str, value)) if many else str(value)).split())
    return text if len(text) <= 60 else text[:57] + "..."


def short(value: Any) -> str:
    """A setting's value as text, short but exact: 0.001, 512x256."""
    if isinstance(value, float) and float(f"{value:g}") == value:
        return f"{value:g}"
    if isinstance(value, tuple | list):
        words = any(isinstance(one, str) for one in value)
        return (" " if words else "x").join(map(short, value))
    return str(value)


def hints(declared: Any) -> dict[str, Any]:
    """The types of a record's fields, or of a function's parameters, with their notes."""
    return _hints(declared)


_hints = functools.cache(functools.partial(get_type_hints, include_extras=True))


def plain(kind: Any) -> Any:
    """A declared type without its notes."""
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def notes(kind: Any) -> tuple[Any, ...]:
    """The notes of a declared type."""
    return get_args(kind)[1:] if get_origin(kind) is Annotated else ()


def has_effect(kind: Any, settings: Settings) -> bool:
    """Whether a setting of this declared type has an effect beside the others, as far as known."""
    found = notes(kind)
    known = (note for note in found if isinstance(note, Only) and note.name in settings)
    return not any(isinstance(note, Never) for note in found) and all(
        note.holds(settings) for note in known
    )


def idle(kinds: Settings, settings: Sequence[Settings], usual: Sequence[Settings]) -> str | None:
    """What to say of a setting that has no effect beside the others, if there is one.

    Args:
        kinds: the declared type of each setting.
        settings: one or several choices of them: an effect in one of those is enough.
        usual: choices to take from without a word: defaults.
    """
    for name, kind in kinds.items():
        for note in notes(kind):
            chosen = [s for s in settings if all(s[name] != other.get(name) for other in usual)]
            if isinstance(note, Only) and chosen and not any(map(note.holds, chosen)):
                found, other = chosen[0][note.name], flag(note.name)
                beside = f"without {other}" if found is None else f"with {other} {seen(found)}"
                wanted = f"{other} {note.words}" if note.words else f"another {other}"
                return (
                    f"{flag(name)} {seen(chosen[0][name])} has no effect {beside}: expected "
                    f"{wanted}, or leave it out"
                )
    return None


def conform_fields(record: Any) -> None:
    """Conform all fields of a frozen dataclass: the first line of its ``__post_init__``."""
    for name, kind in hints(type(record)).items():
        object.__setattr__(record, name, conform(name, kind, getattr(record, name)))


def typed(function: Function) -> Function:
    """The function, called with arguments that conform to what it declares."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def conforming(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        for name, kind in hints(function).items():
            if name in bound.arguments:
                bound.arguments[name] = conform(name, kind, bound.arguments[name])
        return function(*bound.args, **bound.kwargs)

    return conforming  # type: ignore[return-value]


# --- one function a type ------------------------------------------------------------------------


def _fit(kind: Any, value: Any) -> Any:
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        for note in parts[1:]:
            value = note.usual(value) if isinstance(note, Alias) else value
        found = _fit(parts[0], value)
        for note in parts[1:]:
            if isinstance(note, Within) and not note.ok(found):
                raise _Unfit(note.words)
        return found
    if origin in (Union, UnionType):
        if callable(value) and any(get_origin(part) is Callable for part in parts):
            return value
        some = [part for part in parts if part is not type(None)]
        return None if value is None and len(some) < len(parts) else _fit(some[0], value)
    if origin is Literal:
        return _option(parts, value)
    if origin is tuple:
        return _several(parts[0], value)
    return _PLAIN[kind](value) if kind in _PLAIN else value


def _dtype(value: Any) -> str:
    """The kind of an array's or a NumPy scalar's type: "i", "u", "f", "b"...; "" of others."""
    return getattr(getattr(value, "dtype", None), "kind", "")


def _axes(value: Any) -> int:
    """How many axes an array has; 0 of anything else."""
    return getattr(value, "ndim", 0)


def _scalar(value: Any) -> bool:
    """Whether this is a NumPy or JAX number."""
    return bool(_dtype(value)) and not _axes(value)


def _real(value: Any, words: str = "a number") -> float:
    text = isinstance(value, str | bytes | bytearray) or _dtype(value) in tuple("SUOMm")
    if text or isinstance(value, bool) or _dtype(value) == "b" or _axes(value):
        raise _Unfit(f"{words}, not {type(value).__name__}")
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise _Unfit(words) from None
    if not math.isfinite(number):
        raise _Unfit(f"{words}, finite")
    return number


def _whole(value: Any) -> int:
    words = "a whole number"
    number = _real(value, words)
    try:
        return operator.index(value)
    except TypeError:
        if not number.is_integer():
            raise _Unfit(words) from None
    return int(number)


def _bool(value: Any) -> bool:
    scalar = _dtype(value) == "b" and not _axes(value)
    if not (isinstance(value, bool) or scalar):
        raise _Unfit("True or False")
    return bool(value)


def _text(value: Any) -> str:
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if not isinstance(text, str) or "\0" in text:
        raise _Unfit("text, or a path")
    if not text:
        raise _Unfit("a name, not nothing")
    return str(text)


def _option(options: Sequence[str], value: Any) -> str:
    for option in options:
        if isinstance(value, str) and value == option:
            return option
    raise _Unfit(f"one of {', '.join(options)}{hint(str(value), options)}")


def _several(kind: Any, values: Any) -> tuple[Any, ...]:
    try:
        found = None if isinstance(values, str | bytes) else list(values)
    except TypeError:
        found = None
    if found is None:
        names = kind is str
        raise _Unfit(f"several {'names, such as (a, b)' if names else 'numbers, such as (64, 32)'}")
    try:
        return tuple(_fit(kind, value) for value in found)
    except _Unfit as unfit:
        raise _Unfit(f"{unfit} each") from None


_PLAIN: dict[Any, Callable[[Any], Any]] = {int: _whole, float: _real, bool: _bool, str: _text}
