"""The JSON of a run, read strictly: damage is reported in one line, never as a traceback.

A record is a JSON object whose fields a TypedDict declares. ``sealed`` adds ``seal``, the sha256
of the rest, so that a reader notices an edit or a flipped bit. Records of an older flaxvae have no
seal; only their types are checked.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    NotRequired,
    TypedDict,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from flaxvae.declared import Count, Positive, Within, seen
from flaxvae.errors import DataError

Sha256 = Annotated[str, Within(re.compile("[0-9a-f]{64}").fullmatch, "a sha256")]
LARGEST, DEEPEST = 2**63, 32  # of whole numbers; of nested objects and lists
COPY = "put back an intact copy"


class Row(TypedDict):
    """A line of metrics.jsonl; all its other fields are numbers too."""

    epoch: Positive
    step: Count


class Record(dict[str, Any]):
    """A record that was read; looking up a missing field raises DataError."""

    def __init__(self, path: Path, fields: Mapping[str, Any]):
        super().__init__(fields)
        self._path = path

    def __missing__(self, name: str) -> Any:
        raise damaged(self._path, f"no {name} in it")


def seal(record: Mapping[str, Any]) -> str:
    """sha256 over a record without its seal, independent of the order of its names."""
    rest = {name: value for name, value in record.items() if name != "seal"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def sealed(value: Any) -> Any:
    """A record with its seal; values that are not objects are unchanged."""
    return {**value, "seal": seal(value)} if isinstance(value, Mapping) else value


def parse(raw: bytes) -> Any:
    """JSON in UTF-8, without duplicate names, huge numbers, or deep nesting.

    Raises ValueError with a short reason.
    """
    if not raw.strip():
        raise ValueError("empty")
    try:
        found = json.loads(raw.decode(), object_pairs_hook=_once, parse_int=_whole)
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from None
    except RecursionError:
        raise ValueError("nested too deep") from None
    level = [found]
    for _ in range(DEEPEST):
        level = [x for each in level if isinstance(each, dict | list) for x in _inside(each)]
    if level:
        raise ValueError("nested too deep")
    return found


def _inside(value: dict[str, Any] | list[Any]) -> list[Any]:
    return [*value.values()] if isinstance(value, dict) else value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name twice in one object")
    return found


def _whole(text: str) -> int:
    if len(text) > 20 or abs(int(text)) >= LARGEST:
        raise ValueError(f"the number {seen(text)}, beyond 2^63")
    return int(text)


def read(path: Path, kind: Any, advice: str = COPY) -> Any:
    """The contents of a JSON file of type ``kind``, checked against its seal; objects as Records.

    Raises DataError, saying what to do.
    """
    try:
        if not path.is_file():
            raise ValueError("not a file" if path.exists() else "missing")
        found = parse(path.read_bytes())
        if isinstance(found, dict) and "seal" in found and found["seal"] != seal(found):
            raise ValueError("changed since it was written: its sha256 is not the one in it")
    except (OSError, ValueError) as error:
        raise damaged(path, _said(error), advice) from None
    return fit(path, kind, found, advice)


def fit(path: Path, kind: Any, found: Any, advice: str = COPY) -> Any:
    """``found``, which was read from ``path``, if it has type ``kind``; else raises DataError."""
    try:
        check(kind, found)
    except ValueError as error:
        raise damaged(path, str(error), advice) from None
    return Record(path, found) if isinstance(found, dict) else found


def row(line: bytes) -> dict[str, Any]:
    """One line of metrics.jsonl. Raises ValueError with a short reason."""
    found = parse(line)
    check(dict[str, int | float], found)
    check(Row, found)
    return found


def _said(error: Exception) -> str:
    system = isinstance(error, OSError) and error.strerror
    return system or str(error) or type(error).__name__


def damaged(path: Path, why: str, advice: str = COPY) -> DataError:
    """The error for a damaged file."""
    return DataError(f"{path} is damaged ({why}): expected what flaxvae wrote; {advice}")


def check(kind: Any, value: Any, name: str = "") -> None:
    """Raises ValueError, naming the field, unless a JSON value has the type ``kind``.

    Types are built from int, float (any number), str, bool, None, Any, list, dict[str, ...],
    unions, Literal, Annotated with ``Within``, and TypedDicts, which may have more fields than they
    declare.
    """
    origin, parts = get_origin(kind), get_args(kind)
    if is_typeddict(kind):
        _require(isinstance(value, dict), name, value, "an object")
        for field, inner in get_type_hints(kind, include_extras=True).items():
            optional = get_origin(inner) is NotRequired
            if field in value:
                check(get_args(inner)[0] if optional else inner, value[field], f"{name} {field}")
            elif not optional:
                raise ValueError(f"no {f'{name} {field}'.strip()} in it")
    elif origin is Annotated:
        check(parts[0], value, name)
        for note in parts[1:]:
            _require(not isinstance(note, Within) or note.ok(value), name, value, note.words)
    elif origin is Literal:
        _require(value in parts, name, value, f"one of {', '.join(map(repr, parts))}")
    elif origin in (Union, UnionType):
        if not any(_is(part, value) for part in parts):
            check(parts[0], value, name)
    elif origin is list:
        _require(isinstance(value, list), name, value, "a list")
        for each in value:
            check(parts[0], each, name)
    elif origin is dict:
        _require(isinstance(value, dict), name, value, "an object")
        for key, each in value.items():
            check(parts[1], each, f"{name} {seen(key)}")
    elif origin is Literal:
        _require(value in parts, name, value, f"one of {', '.join(parts)}")
    elif kind is not Any:
        _require(_PLAIN[kind][0](value), name, value, _PLAIN[kind][1])


def _is(kind: Any, value: Any) -> bool:
    try:
        check(kind, value)
    except ValueError:
        return False
    return True


def _require(ok: object, name: str, value: Any, words: str) -> None:
    if not ok:
        many = {dict: "an object", list: "a list", str: repr(value), type(None): "null"}
        raise ValueError(
            f"{name.strip() or 'it'} is {seen(many.get(type(value), value))}: expected {words}"
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_PLAIN: dict[Any, tuple[Any, str]] = {
    int: (lambda x: isinstance(x, int) and not isinstance(x, bool), "a whole number"),
    float: (_is_number, "a number"),
    str: (lambda x: isinstance(x, str), "text"),
    bool: (lambda x: isinstance(x, bool), "true or false"),
    type(None): (lambda x: x is None, "null"),
}
