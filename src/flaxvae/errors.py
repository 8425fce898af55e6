"""Errors that a user can cause: one line each, with an exit code.

| exit code | meaning                                                        |
|-----------|----------------------------------------------------------------|
| 0         | done                                                           |
| 1         | a bug in flaxvae (with a traceback: please report it)          |
| 2         | usage error: an invalid flag, name or value                    |
| 3         | data: missing, damaged, not as described, or unsaved;          |
|           | or processes that cannot connect, or have lost one             |
| 4         | training diverged: a loss, gradient or state is not finite     |
| 129, 130, | stopped by a closed terminal (SIGHUP), by Ctrl-C, by SIGTERM;  |
| 143       | a training has saved its state                                 |

A message has three parts: what was seen, what was expected, what to do.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import os
import re
import shlex
from collections.abc import Iterable, Iterator
from typing import NamedTuple


class FlaxvaeError(Exception):
    """Base of every error a user can cause; its text is one line.

    In Python it speaks of arguments, ``latent_dim=0``; on the command line of flags.
    """

    exit_code = 1

    def __str__(self) -> str:
        text = super().__str__()
        return text if _typed else in_python(text)


_typed: list[str] = []  # whose command line this process executes, if it does


@contextlib.contextmanager
def typed_by(program: str) -> Iterator[None]:
    """Inside, errors speak of flags."""
    _typed.append(program)
    try:
        yield
    finally:
        _typed.pop()


_NUMBERS = r"[-+.\d]+(?: [-+.\d]+)+(?![\w])"
_FLAG = re.compile(
    rf"(?<![\w-])--([a-z][a-z-]*[a-z]|[a-z])(?: (?![A-Z]{{2}})({_NUMBERS}|[\w.+/-]+))?"
)
_START = re.compile(r"--([a-z][a-z-]*) ([^`:]*)(?=: )")
# Words that follow a flag and are no value of it.
_WORDS = {"above", "alone", "and", "anew", "at", "below", "by", "for", "from", "has", "in", "is"}
_WORDS |= {"instead", "it", "needs", "nor", "of", "on", "or", "other", "that", "the", "to", "twice"}
_WORDS |= {"where", "with", "without"}


def in_python(text: str) -> str:
    """A message with arguments in the place of flags, but for what is a command, in backticks."""

    def argument(found: re.Match[str]) -> str:
        name, value = found[1].replace("-", "_"), found[2]
        if value is None or value in _WORDS:
            return name if value is None else f"{name} {value}"
        end = len(value) - len(value.rstrip("."))  # of a sentence
        value, rest = (value[:-end], value[-end:]) if end else (value, "")
        return f"{name}={_value(value)}{rest}"

    start = _START.match(text)
    others = start and any(x in _WORDS or x.startswith("--") for x in start[2].split())
    if start and (start[2][:1] in tuple("<[({") or not others):
        return f"{start[1].replace('-', '_')}={_value(start[2])}{in_python(text[start.end() :])}"
    parts = text.split("`")
    parts[::2] = [_FLAG.sub(argument, part) for part in parts[::2]]
    return "`".join(parts)


def _value(seen: str) -> str:
    """What was typed after a flag as Python would write it."""
    if re.fullmatch(_NUMBERS, seen):
        return f"({', '.join(seen.split())})"
    number = re.fullmatch(r"[-+.\de]*\d[-+.\de]*", seen)
    literal = number or seen in ("True", "False", "None") or seen[:1] in "<[({"
    return seen if literal else repr(seen)


class UsageError(FlaxvaeError):
    """An invalid flag, name or value."""

    exit_code = 2


class DataError(FlaxvaeError):
    """Data that are missing, damaged, not as described, or could not be written."""

    exit_code = 3


class HostsError(FlaxvaeError):
    """Processes that cannot train together."""

    exit_code = 3


class DivergedError(FlaxvaeError):
    """A loss, a gradient or a model's state is not finite."""

    exit_code = 4


class Stopped(FlaxvaeError):
    """A signal stopped the training, which has saved its state."""

    def __init__(self, message: str, signal: int):
        super().__init__(message)
        self.exit_code = 128 + signal


class Finding(NamedTuple):
    """The result of one check."""

    ok: bool | None  # None: neither right nor wrong, but worth knowing
    what: str
    said: str


def counted(number: int, what: str, many: str | None = None) -> str:
    """``"1 epoch"``, ``"2 epochs"``, ``"2,000 epochs"``; ``many`` is an irregular plural."""
    return f"{number:,} {what if number == 1 else many or what + 's'}"


def command(*words: object) -> str:
    """A command, quoted for a shell: ``sample 'my data (1)'``.

    What cannot be seen is quoted byte by byte, ``$'a\\xe2\\x80\\xae'`` in bash and zsh, so that a
    copy of the line names the same file, and no character of it hides or moves another.
    """
    return " ".join(map(_quoted, map(str, words)))


def _quoted(word: str) -> str:
    if word.isprintable():
        return shlex.quote(word)
    return "$'" + "".join(map(_in_bytes, word)) + "'"


def _in_bytes(character: str) -> str:
    if character.isprintable():
        return f"\\{character}" if character in "\\'" else character
    lone = "surrogateescape" if "\udc80" <= character <= "\udcff" else "surrogatepass"
    return "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", lone))


# Control characters, and what turns the direction of text, ends a line or takes no room. Joiners
# (U+200C, U+200D) stay: some languages are written with them.
_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u115f\u1160\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\u3164\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e007f]"
)


def visible(text: str, keep: str = "") -> str:
    """Text in which no character hides or moves others: each such one is ``\\u202e`` or the like.

    Names of files and classes come from strangers. ``keep`` are characters to leave as they are.
    """

    def escaped(found: re.Match[str]) -> str:
        one = found[0]
        return one if one in keep else one.encode("unicode_escape").decode()

    return _UNSEEN.sub(escaped, text)


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """``"; did you mean 'mnist'?"`` for the closest option, ignoring case, or ``""``."""
    folded = {option.casefold(): option for option in options}
    near = difflib.get_close_matches(word.casefold(), folded, n=1, cutoff=0.5)
    return f"; did you mean {folded[near[0]]!r}?" if near else ""


_REMEDIES = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room there",
    errno.EFBIG: "make room there, or allow larger files",
    errno.ENAMETOOLONG: "move it to where its path is shorter",
    errno.EACCES: "allow access to it",
    errno.EPERM: "allow access to it",
    errno.EROFS: "move it to where it can be written",
    errno.ENOENT: "put back what is missing",
    errno.ENOTDIR: "put the folder back",
    errno.EISDIR: "move the folder of that name away",
    errno.EIO: "look after the disk",
}


def remedy(reason: str | None, otherwise: str = "see to that") -> str:
    """What to do about an error of the operating system, given its text (``strerror``)."""
    advice = {os.strerror(number): advice for number, advice in _REMEDIES.items()}
    return advice.get(reason or "", otherwise)
