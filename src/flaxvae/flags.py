"""From words on a command line to the arguments of a function, whose signature says its flags.

What is wrong with them costs one line: a flag that there is not, one given twice, a word that is no
value of it. tyro, which writes the help, does the rest.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import io
import itertools
import re
from collections.abc import Callable
from typing import Annotated, Any, Literal, get_origin, get_type_hints

import tyro

from flaxvae import declared, zoo
from flaxvae.errors import UsageError
from flaxvae.synonyms import hint

RunArgument = tyro.conf.Positional[str]


@dataclasses.dataclass(frozen=True)
class Process:
    """What every command takes, and no result depends on."""

    cache: bool = True
    """Keep compiled programs for the next time: in the FLAXVAE_CACHE_DIR folder, else in the
    user's cache folder."""


LATEST = "runs/latest"


def value_of(flag: str, argv: list[str], default: Any = None) -> Any:
    """The value of a flag that decides which other flags there are."""
    for i, word in enumerate(argv):
        if word.startswith(flag + "="):
            return word.partition("=")[2]
        if word == flag and i + 1 < len(argv):
            return argv[i + 1]
    return default


def groups(model: str, chosen: dict[str, Any]) -> dict[str, Any]:
    """A recipe's arguments as records of defaults: what it shares with others, and its own.

    ``chosen`` are values to show in the place of its defaults.
    """
    records = {
        name: dataclasses.replace(record, **{k: chosen[k] for k in vars(record) if k in chosen})
        for name, record in zoo.shared(model).items()
    }
    own = _own_arguments(model)
    return records | {model: own(**{k: v for k, v in chosen.items() if k in zoo.own(model)})}


def _own_arguments(model: str) -> Any:
    """A dataclass of a recipe's own arguments, with help from the "Args:" of its docstring."""
    recipe = zoo.recipe(model)
    doc = inspect.cleandoc(recipe.__doc__ or "")
    entries = re.findall(r"^    (\w+): (.*(?:\n        .*)*)", doc.partition("\nArgs:")[2], re.M)
    helps = {name: " ".join(text.split()) for name, text in entries}
    hints = zoo.hints(model)
    fields = [
        (
            name,
            Annotated[hints[name], tyro.conf.arg(help=helps.get(name, ""))],
            dataclasses.field(default=default),
        )
        for name, default in zoo.own(model).items()
    ]
    made = dataclasses.make_dataclass(model.title().replace("_", ""), fields, frozen=True)
    made.__doc__ = doc.splitlines()[0]
    return made


def declare(command: Callable[..., Any], groups: dict[str, Any]) -> None:
    """Give ``command(..., **groups)`` one parameter for each group."""
    signature = inspect.signature(command)
    kept = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    made = [
        inspect.Parameter(
            name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=record,
            annotation=type(record),
        )
        for name, record in groups.items()
    ]
    command.__signature__ = signature.replace(parameters=kept + made)  # type: ignore[attr-defined]
    hints = {name: type(record) for name, record in groups.items()}
    command.__annotations__ = {k: v for k, v in command.__annotations__.items() if k != "groups"}
    command.__annotations__ |= hints


def taken(command: Callable[..., Any]) -> dict[str, Any]:
    """What a command takes after dashes, and what is declared of it."""
    found: dict[str, Any] = {}
    for name, kind in get_type_hints(command, localns=vars(), include_extras=True).items():
        if dataclasses.is_dataclass(kind):
            found |= {declared.flag(field): of for field, of in declared.hints(kind).items()}
        elif name != "return" and kind is not RunArgument:
            found[declared.flag(name)] = kind
    switches = [flag for flag, kind in found.items() if declared.plain(kind) is bool]
    return found | {f"--no-{flag[2:]}": bool for flag in switches}


def _check_flags(argv: list[str], kinds: dict[str, Any], name: str) -> None:
    """Raises UsageError for a flag that ``name`` has not or that comes twice, or no option."""
    known, seen = {*kinds, "--help", "-h"}, []
    for word, after in zip(argv, [*argv[1:], ""]):
        flag, equals, value = word.partition("=")
        flag = flag.replace("_", "-")
        if not re.match(r"--|-[A-Za-z]", word):
            continue
        if flag == "--run" and flag not in known:
            raise UsageError(f"{word}: expected the folder alone, as in flaxvae {name} {LATEST}")
        if flag not in known:
            raise UsageError(
                f"unknown option {flag}{hint(flag, known)} (flaxvae {name} --help lists all)"
            )
        positive = flag.replace("--no-", "--", 1)
        seen.append(positive if positive in known else flag)
        if seen.count(seen[-1]) > 1:
            raise UsageError(f"{seen[-1]} twice: expected once")
        value = value if equals else after
        if get_origin(declared.plain(kinds.get(flag))) is Literal and re.match(r"[^-]", value):
            declared.conform(flag.removeprefix("--"), kinds[flag], value)


def parse(command: Callable[..., Any], argv: list[str], name: str) -> Any:
    """Call ``command`` with the arguments in ``argv``; misuse exits with code 2."""

    @functools.wraps(command)
    def understood(*args: Any, process: Process, **kwargs: Any) -> Any:
        return process, args, kwargs

    declare(understood, {"process": Process()})
    _check_flags(argv, taken(understood), name)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            process, args, kwargs = tyro.cli(
                understood,
                args=argv,
                prog=f"flaxvae {name}",
                config=(tyro.conf.OmitArgPrefixes, tyro.conf.HelptextFromCommentsOff),
            )
    except SystemExit as stop:
        if not stop.code:  # --help
            raise
        raise UsageError(f"{_unboxed(said.getvalue())} (flaxvae {name} --help lists all)") from None
    if process.cache:
        from flaxvae import compilation

        compilation.enable()
    return command(*args, **kwargs)


def _unboxed(box: str) -> str:
    """The message of an error of tyro's, which comes in a frame, wrapped, with explanations."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", box)
    lines = [line.strip("│ ") for line in plain.splitlines()[1:]]
    texts = [line if line.strip("─-") else "" for line in lines]  # rules are gaps, too
    message = itertools.takewhile(bool, itertools.dropwhile(lambda text: not text, texts))
    return " ".join(message).rstrip(".")


def lists(command: Callable[..., Any]) -> set[str]:
    """Flags that take several words for one value."""
    return {
        f"--{name.replace('_', '-')}"
        for record in get_type_hints(command).values()
        if dataclasses.is_dataclass(record)
        for name, kind in get_type_hints(record).items()
        if get_origin(kind) is tuple
    }


def several(argv: list[str], lists: set[str]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """A line whose flags have several values as lines with one value each.

    Returns:
        The line with the first value of every flag, and for each other value the flag's name and
        that line with this value in the first one's place.
    """
    flags: list[list[str]] = []  # each with its words
    for word in argv:
        if word.startswith("--") or not flags:
            name, equals, value = word.partition("=")
            flags.append([name.replace("_", "-"), *([value] if equals else [])])
        else:
            flags[-1].append(word)
    names = [words[0] for words in flags]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"{name} twice: expected once, with all its values after it")

    def line(at: int = -1, value: int = 1) -> list[str]:
        chosen: list[str] = []
        for i, words in enumerate(flags):
            one = value if i == at else 1
            chosen += words if words[0] in lists else [*words[:1], *words[one : one + 1]]
        return chosen

    others = [
        (words[0].removeprefix("--").replace("-", "_"), line(i, value))
        for i, words in enumerate(flags)
        if words[0] not in lists
        for value in range(2, len(words))
    ]
    return line(), others
