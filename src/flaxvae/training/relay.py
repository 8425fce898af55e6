"""A way to the coordinator that looks open when the coordinator is gone.

JAX aborts a process, in many words, the moment its connection to process 0 breaks. Through a relay
within the process it hears nothing more instead, so that the lifeline alone says what has happened.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time


def to(address: str) -> str:
    """HOST:PORT, within this machine, of a relay to the HOST:PORT ``address``."""
    server = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_serve, args=(server, address), daemon=True).start()
    return f"127.0.0.1:{server.getsockname()[1]}"


def _serve(server: socket.socket, address: str) -> None:
    while True:
        try:
            near, _ = server.accept()
        except OSError:  # it has gone, or this process has as many files open as it may
            time.sleep(0.1)
            continue
        threading.Thread(target=_join, args=(near, address), daemon=True).start()


def _join(near: socket.socket, address: str) -> None:
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


_open: list[tuple[socket.socket, socket.socket]] = []  # the process's own end closes them


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(2**16):
            sink.sendall(data)
