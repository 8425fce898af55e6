"""Ctrl-C (SIGINT), SIGTERM and SIGHUP (a terminal that is closed): how they end what runs.

At once, by an exception, so that nothing is left half-written; while a training runs, once it has
saved. One that is ignored from the start, as SIGHUP under nohup, stays so.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

POLITE = [signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]


class Interrupted(KeyboardInterrupt):
    """A signal other than Ctrl-C's ends the process."""

    def __init__(self, number: int):
        super().__init__()
        self.number = number


@contextmanager
def _handled(numbers: list[signal.Signals], handler: Callable[[int, Any], None]) -> Iterator[None]:
    previous: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():  # no other may ask for signals
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
    """SIGTERM and SIGHUP raise Interrupted, as Ctrl-C raises KeyboardInterrupt; the first does."""
    seen: list[int] = []

    def handler(number: int, frame: Any) -> None:
        seen.append(number)
        if len(seen) == 1:  # schedulers repeat them, and files are being cleaned up
            raise Interrupted(number)

    with _handled(POLITE, handler):
        yield


_heard: list[int] | None = None  # of the outermost ``caught``


@contextmanager
def caught() -> Iterator[list[int]]:
    """A list that signals are put into; a second Ctrl-C raises KeyboardInterrupt at once.

    Others may come again and again, for whoever waits until all is saved. Within another
    ``caught`` it is the same list.
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
