"""How Ctrl-C (SIGINT), SIGTERM and SIGHUP (a closed terminal) end the program.

They raise an exception at once, so that nothing is left half-written; during a training they take
effect once it has saved. A signal that is ignored from the start, as SIGHUP under nohup, stays
ignored.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

POLITE = [signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]


class Interrupted(KeyboardInterrupt):
    """A signal other than Ctrl-C ends the process."""

    def __init__(self, number: int):
        super().__init__()
        self.number = number


@contextmanager
def _handled(numbers: list[signal.Signals], handler: Callable[[int, Any], None]) -> Iterator[None]:
    previous: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():  # others may not set handlers
        for number in numbers:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                previous[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in previous.items():
            signal.signal(number, old)


@contextmanager
def raised() -> Iterator[None]:
    """The first SIGTERM or SIGHUP raises Interrupted, as Ctrl-C raises KeyboardInterrupt."""
    seen: list[int] = []

    def handler(number: int, frame: Any) -> None:
        seen.append(number)
        if len(seen) == 1:  # schedulers repeat them while files are cleaned up
            raise Interrupted(number)

    with _handled(POLITE, handler):
        yield


_heard: list[int] | None = None  # of the outermost ``caught``


@contextmanager
def caught() -> Iterator[list[int]]:
    """Collect signals in a list; a second Ctrl-C raises KeyboardInterrupt at once.

    Other signals may repeat, so that a save can finish. A nested ``caught`` shares the outer list.
    """
    global _heard
    if _heard is not None:
        yield _heard
        return
    heard: list[int] = []

    def handler(number: int, frame: Any) -> None:
        again = number == signal.SIGINT and number in heard
        heard.append(number)
        if again:
            raise KeyboardInterrupt

    with _handled([signal.SIGINT, *POLITE], handler):
        _heard = heard
        try:
            yield heard
        finally:
            _heard = None
