"""From words on a command line to the arguments of a function, whose signature says its flags.

What is wrong with them costs one line: a flag that there is not, one given twice, a word that is no
value of it. tyro, which writes the help, does the rest.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import io
import itertools
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import tyro

from flaxvae import declared, lookup, outside, zoo
from flaxvae.errors import UsageError
from flaxvae.settings import DataSettings, Place, TrainSettings
from flaxvae.synonyms import hint

LATEST = "runs/latest"
NO_RECIPES = lookup.NO_RECIPES

# ---- what parameters of commands are annotated with

RunArgument = tyro.conf.Positional[str]
RunsArgument = tyro.conf.Positional[tuple[str, ...]]
# Of a command that only looks at files:
FoldersArgument = tyro.conf.Positional[Annotated[tuple[str, ...], "nothing is compiled"]]
NumberArgument = tyro.conf.Positional[float]  # of a command that only calculates
_WORDS = (RunArgument, RunsArgument, FoldersArgument, NumberArgument)  # they have no flag
ImagesArgument = Annotated[str | None, "a flag, or the word after the run"]
ModelName = Annotated[
    str,
    tyro.conf.arg(
        help=f"{', '.join(zoo.RECIPES)}, or one of --recipes; each has flags of its own, shown "
        "with --model NAME --help."
    ),
]
Recipes = Annotated[
    Mapping[str, lookup.Variant],
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="FILE",
        instance_from_str=lambda words: outside.read(words[0]),
        is_instance=lambda value: isinstance(value, Mapping),
        str_from_instance=lambda value: list(value),
    ),
    tyro.conf.arg(
        help="A Python file of yours, which is executed: its recipes are models like any other.",
        help_behavior_hint="",
    ),
]
# Of a parameter **choices, which stands for all settings of data, training and model:
One = Annotated[Any, "a value of each"]
Several = Annotated[Any, "a value of each, or a list of several"]


@dataclasses.dataclass(frozen=True)
class Process:
    """What every command takes, and no result depends on."""

    cache: bool = True
    """Keep compiled programs for the next time: in the FLAXVAE_CACHE_DIR folder, else in the
    user's cache folder."""


def call(command: Callable[..., Any], argv: list[str], name: str) -> Any:
    """``command`` of the arguments in ``argv``; misuse raises UsageError, --help exits."""
    argv = _named(command, argv)
    form = _form(command, argv)
    lists = {flag for flag, kind in form.kinds.items() if get_origin(declared.plain(kind)) is tuple}
    first, others = several(argv, lists) if form.grid else (argv, [])
    arguments, choices = _read(form, first, name)
    varied: dict[str, list[Any]] = {}
    for setting, line in others:
        if setting not in choices:
            raise UsageError(f"{declared.flag(setting)} with several values: expected one")
        values = varied.setdefault(setting, [choices[setting]])
        values.append(_read(form, line, name)[1][setting])
    kinds = [*get_type_hints(command, include_extras=True).values()]
    compiles = NumberArgument not in kinds and FoldersArgument not in kinds
    if arguments.pop("process").cache and compiles:
        from flaxvae import compilation

        compilation.enable()
    # Varied settings first, in the order in which they were typed: that of the grid.
    return command(**arguments, **(varied | {**choices, **varied}))


def _named(command: Callable[..., Any], argv: list[str]) -> list[str]:
    """The words, with its flag before the second where that is an ``ImagesArgument``."""
    kinds = get_type_hints(command, include_extras=True)
    flag = next((declared.flag(k) for k, kind in kinds.items() if kind is ImagesArgument), None)
    plain = len(argv) > 1 and not any(word.startswith("-") for word in argv[:2])
    return [argv[0], flag, *argv[1:]] if plain and flag else argv


class _Form(NamedTuple):
    """What a command can be asked, as a function for tyro."""

    function: Callable[..., dict[str, Any]]  # gives its arguments
    kinds: dict[str, Any]  # what is declared of each flag
    records: list[str]  # parameters whose fields are ``choices``
    grid: bool  # a setting may have several values


def _form(command: Callable[..., Any], argv: list[str]) -> _Form:
    """The form of a command; its ``choices`` depend on the model, which the words name."""
    hints = get_type_hints(command, include_extras=True)
    defaults = {k: p.default for k, p in inspect.signature(command).parameters.items()}
    records: dict[str, Any] = {}
    grid, resume = hints.get("choices") == Several, value_of("--resume", argv)
    if "choices" in defaults:
        del defaults["choices"]
        if grid and resume is not None:
            defaults = {name: defaults[name] for name in ("resume", "recipes")}
            records = {"place": Place()}
        else:
            defaults["model"], records = _choices(defaults["model"], resume, argv)
    records = {name + "_" * (name in defaults): record for name, record in records.items()}
    hints |= {name: type(record) for name, record in records.items()} | {"process": Process}
    single = {name: x for name, x in defaults.items() if not dataclasses.is_dataclass(x)}
    defaults = single | records | defaults | {"process": Process()}  # in the order of the help

    def function(**arguments: Any) -> dict[str, Any]:
        return arguments

    function.__doc__ = command.__doc__
    function.__annotations__ = {name: hints[name] for name in defaults}
    made = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
        for name, default in defaults.items()
    ]
    function.__signature__ = inspect.Signature(made)  # type: ignore[attr-defined]
    kinds = taken(function.__annotations__)
    if grid and resume is not None:
        words = {word.partition("=")[0].replace("_", "-") for word in argv if word[:1] == "-"}
        if words - {*kinds, "-h", "--help"}:
            raise UsageError(
                f"--resume {resume} with other flags: expected none, or where the data are; a "
                "sweep keeps its settings"
            )
    return _Form(function, kinds, list(records), grid)


def _choices(model: str, resume: str | None, argv: list[str]) -> tuple[str, dict[str, Any]]:
    """The model that the words name, and the settings that there are to choose, as records.

    Those of a run to resume are the defaults, so that any other is seen to differ.
    """
    file = value_of("--recipes", argv)
    recipes = {} if file is None else outside.read(file)
    data, training, chosen = DataSettings(), TrainSettings(), dict[str, Any]()
    if resume is None:
        model = value_of("--model", argv, model)
    else:
        from flaxvae.runs.folder import RunFolder

        before = RunFolder.open(resume, recipes).plan()
        model = value_of("--model", argv, before.model)
        data, training = before.data, before.training
        chosen = dict(before.arguments) if model == before.model else {}
    own = groups(lookup.recipe(model, recipes), chosen)
    if recipes and model not in recipes:
        raise UsageError(
            f"--recipes {file} has no effect with --model {model}: expected "
            f"--model {' or '.join(recipes)}, or leave it out"
        )
    return model, {"data": data, "training": training, **own}


def value_of(flag: str, argv: list[str], default: Any = None) -> Any:
    """The value of a flag that decides which other flags there are."""
    for i, word in enumerate(argv):
        if word.startswith(flag + "="):
            return word.partition("=")[2]
        if word == flag and i + 1 < len(argv):
            return argv[i + 1]
    return default


def groups(recipe: lookup.Variant, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's arguments as records of defaults: what it shares with others, and its own.

    ``chosen`` are values to show in the place of its defaults.
    """
    records = lookup.shared(recipe) | {recipe.__name__: _own_arguments(recipe)()}
    return {
        name: dataclasses.replace(record, **{k: chosen[k] for k in vars(record) if k in chosen})
        for name, record in records.items()
    }


def _own_arguments(recipe: lookup.Variant) -> Any:
    """A dataclass of a recipe's own arguments, with help from the "Args:" of its docstring."""
    doc = inspect.cleandoc(recipe.__doc__ or "")
    entries = re.findall(r"^    (\w+): (.*(?:\n        .*)*)", doc.partition("\nArgs:")[2], re.M)
    helps = {name: " ".join(text.split()) for name, text in entries}
    hints = lookup.hints(recipe)
    fields = [
        (k, Annotated[hints[k], tyro.conf.arg(help=helps.get(k, ""))], dataclasses.field(default=x))
        for k, x in lookup.own(recipe).items()
    ]
    name = recipe.__name__.title().replace("_", "")
    made = dataclasses.make_dataclass(name, fields, frozen=True)
    made.__doc__ = doc.partition("\n")[0]
    return made


def taken(kinds: Mapping[str, Any]) -> dict[str, Any]:
    """The flags of parameters that are declared so, and what is declared of each."""
    found: dict[str, Any] = {}
    for name, kind in kinds.items():
        record = dataclasses.is_dataclass(kind)
        if name == "return" or kind in _WORDS:
            continue
        own = declared.hints(kind).items() if record else [(name, kind)]
        for setting, of in own:
            flag = declared.flag(setting)
            if flag in found:
                raise UsageError(f"{flag} of {name} is a flag already: expected another name")
            found[flag] = of
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


def _read(form: _Form, argv: list[str], name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arguments that the words are, and of them the ``choices``."""
    _check_flags(argv, form.kinds, name)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            arguments = tyro.cli(
                form.function,
                args=argv,
                prog=f"flaxvae {name}",
                config=(tyro.conf.OmitArgPrefixes, tyro.conf.HelptextFromCommentsOff),
            )
    except SystemExit as stop:
        if not stop.code:  # --help
            raise
        message = _expected(_unboxed(said.getvalue()), form.kinds)
        raise UsageError(f"{message} (flaxvae {name} --help lists all)") from None
    except tyro.constructors.UnsupportedTypeAnnotationError as error:
        raise UsageError(" ".join(str(error).split())) from None
    records = [arguments.pop(record) for record in form.records]
    return arguments, {k: v for record in records for k, v in vars(record).items()}


def _unboxed(box: str) -> str:
    """The message of an error of tyro's, which comes in a frame, wrapped, with explanations."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", box)
    lines = [line.strip("│ ") for line in plain.splitlines()[1:]]
    texts = [line if line.strip("─-") else "" for line in lines]  # rules are gaps, too
    message = itertools.takewhile(bool, itertools.dropwhile(lambda text: not text, texts))
    return " ".join(message).rstrip(".")


def _expected(message: str, kinds: dict[str, Any]) -> str:
    """tyro's message, or one in plain words if it is of words that are no numbers."""
    found = re.match(r"Error parsing (--[\w-]+): .*?('.*')", message)
    kind = declared.plain(kinds.get(found[1])) if found else None
    several = get_origin(kind) is tuple
    inner = declared.plain(get_args(kind)[0]) if several else kind
    kind = next((k for k in map(declared.plain, (inner, *get_args(inner))) if k in (int, float)), 0)
    if not found or not kind:
        return message
    one = "whole number" if kind is int else "number"
    wanted = f"one or more {one}s" if several else f"a {one}"
    seen = " ".join(re.findall("'([^']*)'", found[2]))
    return f"{found[1]} {seen}: expected {wanted}"


def several(argv: list[str], lists: set[str]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """A line whose flags have several values as lines with one value each.

    Several words after one of the flags ``lists`` are one value.

    Returns:
        The line with the first value of every flag, and for each other value the flag's name and
        that line with this value in the first one's place.
    """
    flags: list[list[str]] = []  # each with its words
    for word in argv:
        if re.match(r"--|-[A-Za-z]", word) or not flags:
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
