"""Recipes from outside: those of a Python file that the user names, as in --recipes my_models.py.

The file is executed because its name was typed. Nothing that a run folder says has code executed.
"""

from __future__ import annotations

import functools
import inspect
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from flaxvae import declared, lookup, zoo
from flaxvae.errors import UsageError
from flaxvae.lookup import Variant
from flaxvae.recipe import Recipe

EXAMPLE = "def my_vae(data: DataSpec, body: Body = Body(), *, latent_dim: int = 20) -> Recipe"


def read(file: str) -> dict[str, Variant]:
    """The recipes of a file by name: what its mapping RECIPES holds, if it has one, else its public
    functions of the data, and of settings with defaults, that are declared to return a Recipe.

    Raises UsageError: there is no such file, it cannot be executed, or no recipe is in it.
    """
    path = Path(declared.conform("recipes", str, file)).expanduser()
    if not path.is_file():
        seen = "a folder" if path.is_dir() else "no such file"
        raise UsageError(f"--recipes {file}: {seen}: expected a Python file with recipes in it")
    return _read(path.resolve(), file)


def flag(recipes: Mapping[str, Variant]) -> list[str]:
    """The words with which a command finds these again: --recipes FILE where they are of one."""
    files = [_FILES[function] for function in recipes.values() if function in _FILES]
    return ["--recipes", *files[:1]] if files else []


_FILES: dict[Variant, str] = {}


@functools.cache  # a recipe is one and the same function, however often a line is parsed
def _read(path: Path, file: str) -> dict[str, Variant]:
    names = vars(_executed(path, file))
    listed = names.get("RECIPES")
    if isinstance(listed, Mapping):
        candidates = {key: f for key, f in listed.items() if f not in zoo.RECIPES.values()}
    else:
        own = {name: f for name, f in names.items() if not name.startswith("_") and callable(f)}
        candidates = {name: f for name, f in own.items() if _declared(f, names["__name__"])}
    if not candidates:
        raise UsageError(f"--recipes {file}: no recipe in it: expected one such as `{EXAMPLE}`")
    for name, function in candidates.items():
        if not callable(function) or getattr(function, "__name__", name) != name:
            seen = getattr(function, "__name__", repr(function))
            raise UsageError(
                f"--recipes {file}: {name!r} is {seen}: expected a function's own name"
            )
        if name in zoo.RECIPES:
            raise UsageError(f"--recipes {file}: {name} is flaxvae's: expected another name")
        try:
            lookup.hints(function)
        except UsageError as error:
            raise UsageError(f"--recipes {file}: {error}") from None
        except Exception as error:  # an annotation is any expression
            raise UsageError(f"--recipes {file}: {name}: {_words(error, path)}") from None
        _FILES[function] = file
    return candidates


def _executed(path: Path, file: str) -> ModuleType:
    from flaxvae import compilation

    compilation.quiet()  # the file may import JAX
    module = ModuleType(f"recipes of {path.name}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # where types are looked up by name
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # what lies beside the file can be imported
    try:
        exec(compile(path.read_bytes(), path, "exec"), vars(module))
    except (Exception, SystemExit) as error:
        raise UsageError(f"--recipes {file}: {_words(error, path)}") from None
    return module


def _words(error: BaseException, path: Path) -> str:
    """What went wrong in a file, and in which of its lines."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    if isinstance(error, SyntaxError):
        lines, error = [error.lineno], type(error)(error.msg)
    where = f"line {lines[-1]}, " if lines and lines[-1] else ""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return f"{where}{text[:300]}; mend the file"


def _declared(function: Any, module: str) -> bool:
    """Whether a function was defined in this module, as one of the data that gives a Recipe."""
    if not inspect.isfunction(function) or function.__module__ != module:
        return False
    given = function.__annotations__.get("return")
    returns = given is Recipe or str(given).strip("'\"").rpartition(".")[2] == "Recipe"
    defaults = [p.default is not p.empty for p in inspect.signature(function).parameters.values()]
    return returns and defaults[:1] == [False] and all(defaults[1:])
