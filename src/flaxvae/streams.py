"""Standard output and error, whose failures do not stop the work.

With a log on a full disk, a closed pipe or a closed terminal, what cannot be written is dropped,
and the program continues as if it had been. Characters that hide or move others are written as
escapes (``errors.visible``).
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from flaxvae.errors import visible

_LAYOUT, _COLOURS = "\n\r\t", "\x1b"  # of lines; and on a terminal
_FAULTS = (OSError, ValueError)  # ValueError: the stream is closed


class Steady:
    """A text stream that drops what it cannot write; calls ``failed`` on the first failure."""

    def __init__(self, stream: TextIO, failed: Callable[[Exception], None] = lambda error: None):
        self._stream, self._failed, self._whole = stream, failed, True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            keep = _LAYOUT + _COLOURS * self.isatty()
            self._stream.write(visible(text, keep=keep))
        except UnicodeEncodeError:
            known = self._stream.encoding
            self.write(text.encode(known, "replace").decode(known))
        except _FAULTS as error:
            self._fail(error)
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except _FAULTS as error:
            self._fail(error)

    def isatty(self) -> bool:
        try:
            return self._stream.isatty()
        except _FAULTS:
            return False

    def drain(self) -> None:
        """Leave nothing for Python to flush at exit, where it would fail again."""
        with suppress(*_FAULTS):
            self._stream.flush()
            return
        with suppress(*_FAULTS):  # it is closed, or has no file descriptor
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
            self._stream.flush()

    def _fail(self, error: Exception) -> None:
        first, self._whole = self._whole, False
        if first:
            self._failed(error)


def _say(error: Exception) -> None:
    if getattr(error, "errno", None) != errno.EPIPE:  # the reader has seen enough
        reason = getattr(error, "strerror", None) or error
        print(f"flaxvae: standard output cannot be written ({reason})", file=sys.stderr)


def _occupy() -> None:
    """Occupy closed standard streams, so that no file opened later gets their descriptors."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)


@contextmanager
def steady() -> Iterator[None]:
    """Make standard output and error ``Steady`` inside, even if they are closed."""
    _occupy()
    before = sys.stdout, sys.stderr
    with Path(os.devnull).open("w") as nowhere:
        error, output = Steady(before[1] or nowhere), Steady(before[0] or nowhere, _say)
        sys.stdout, sys.stderr = output, error
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before
            output.drain()
            error.drain()
