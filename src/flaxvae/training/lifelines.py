"""Connections between processes that train together, by which each learns who has died.

The system closes those of a process however it ends, so that process 0 learns at once of a death
that would leave it waiting in a collective; the others learn it from process 0, which ends, too. A
process that leaves in order says so first.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable

BYE, FAILED = b".", b"!"


class Lifelines:
    """The open connections of one process: process 0's to all others, theirs to process 0."""

    def __init__(self, lines: dict[int, socket.socket]):
        self._lines = lines

    def watch(self, ended: Callable[[int, bool], None]) -> None:
        """Call ``ended(process, failed)``, in a thread, when a process ends without a goodbye.

        ``failed`` says that it told so and still lives for a moment; else it was killed.
        """

        def listen(process: int, line: socket.socket) -> None:
            try:
                said = line.recv(1)
            except OSError:
                said = b""
            if said != BYE:
                ended(process, said == FAILED)

        for item in self._lines.items():
            threading.Thread(target=listen, args=item, daemon=True).start()

    def tell(self, word: bytes) -> None:
        """Say one of these words to the others."""
        for line in self._lines.values():
            with contextlib.suppress(OSError):
                line.sendall(word)
