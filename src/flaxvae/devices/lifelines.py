"""Connections between processes that train together, which show when a process dies.

However a process ends, the system closes its connection. So process 0 learns at once of a death
that would leave it waiting in a collective; it ends as well, and so the others learn of it. A
process that leaves in good order says so first.

JAX aborts a process, with a long message, when its connection to process 0 breaks. So it connects
through a relay within the process, which stays open, and only the lifeline reports what happened.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable

BYE, FAILED = b".", b"!"


class Lifelines:
    """The open connections of one process: process 0's to all others, theirs to process 0."""

    def __init__(self, lines: dict[int, socket.socket]):
        self._lines = lines

    def watch(self, ended: Callable[[int, bool], None]) -> None:
        """Call ``ended(process, failed)``, in a thread, when a process ends without BYE.

        ``failed`` means that it reported FAILED before its end; else it was killed.
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
        """Send BYE or FAILED to the others."""
        for line in self._lines.values():
            with contextlib.suppress(OSError):
                line.sendall(word)


# --- the relay -----------------------------------------------------------------------------------


def relay(address: str) -> str:
    """HOST:PORT, on this machine, of a relay to the HOST:PORT ``address``."""
    server = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_serve, args=(server, address), daemon=True).start()
    return f"127.0.0.1:{server.getsockname()[1]}"


def _serve(server: socket.socket, address: str) -> None:
    while True:
        try:
            near, _ = server.accept()
        except OSError:  # the caller has left, or too many files are open
            time.sleep(0.1)
            continue
        threading.Thread(target=_connect, args=(near, address), daemon=True).start()


def _connect(near: socket.socket, address: str) -> None:
    host, port = address.rsplit(":", 1)
    try:
        far = socket.create_connection((host.strip("[]"), int(port)), timeout=5.0)
    except OSError:
        near.close()  # JAX tries again
        return
    far.settimeout(None)
    _open.append((near, far))
    for ends in ((near, far), (far, near)):
        threading.Thread(target=_copy, args=ends, daemon=True).start()


_open: list[tuple[socket.socket, socket.socket]] = []  # closed when the process ends


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(2**16):
            sink.sendall(data)
