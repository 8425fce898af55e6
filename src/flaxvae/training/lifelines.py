"""Connections between processes that train together: who is there, and who has died.

Before JAX starts, process 0 calls the roll on the coordinator's port: it waits until all others
have connected, and answers each. The connections then stay open. The system closes those of a
process however it ends, so that the others learn at once of a death that would leave them waiting
in a collective; the others learn it from process 0, which ends, too. A process that leaves in
order says so first.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable

from flaxvae.errors import HostsError, UsageError

WELCOME, BYE, FAILED = b"+", b".", b"!"


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


def meet(address: str, processes: int, process: int, seconds: float) -> Lifelines:
    """Wait until all processes are there.

    Args:
        address: HOST:PORT of process 0.
        processes: how many there are, this one included.
        process: which one this is, from 0.
        seconds: how long to wait.

    Raises:
        HostsError: some did not come in time.
        UsageError: another has this number already, or was told of more or fewer processes.
    """
    host, port = address.rsplit(":", 1)
    until = time.monotonic() + seconds
    if process == 0:
        return _call_roll(int(port), processes, seconds, until)
    return _answer(host.strip("[]"), int(port), processes, process, seconds, until)


def _call_roll(port: int, processes: int, seconds: float, until: float) -> Lifelines:
    lines: dict[int, socket.socket] = {}
    with _listen(port) as server:
        while len(lines) < processes - 1:
            server.settimeout(max(until - time.monotonic(), 0.01))
            try:
                line, _ = server.accept()
            except TimeoutError:
                missing = ", ".join(str(i) for i in range(1, processes) if i not in lines)
                raise HostsError(
                    f"process {missing} did not come within {seconds:g} seconds: expected "
                    f"{processes} processes; start each with the same --coordinator and its own "
                    "--process-id"
                ) from None
            try:
                line.settimeout(5.0)
                process, told = json.loads(line.recv(100))
            except (OSError, ValueError, TypeError):  # someone else knocked at this port
                line.close()
                continue
            if told != processes:
                _refuse(line, f"--num-processes {told}, expected its own {processes}")
            elif process in lines:
                _refuse(line, "another process has this number, expected one for each")
            else:
                lines[process] = line
    for line in lines.values():
        line.settimeout(None)
    found = Lifelines(lines)
    found.tell(WELCOME)
    return found


def _listen(port: int) -> socket.socket:
    try:
        if not socket.has_dualstack_ipv6():
            return socket.create_server(("", port), backlog=1024)
        family = socket.AF_INET6
        return socket.create_server(("", port), backlog=1024, family=family, dualstack_ipv6=True)
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise HostsError(
            f"port {port} cannot be opened here ({reason}): expected a free one in --coordinator "
            "HOST:PORT, whose HOST is that of process 0"
        ) from None


def _refuse(line: socket.socket, why: str) -> None:
    with contextlib.suppress(OSError):
        line.sendall(why.encode())
        line.close()


def _answer(
    host: str, port: int, processes: int, process: int, seconds: float, until: float
) -> Lifelines:
    gone = HostsError(
        f"the coordinator {host}:{port} did not answer within {seconds:g} seconds: expected "
        "process 0 there; start it with the same --coordinator, and look for a firewall between"
    )
    while True:
        left = until - time.monotonic()
        if left <= 0:
            raise gone
        try:
            line = socket.create_connection((host, port), timeout=min(left, 5.0))
            break
        except OSError:
            time.sleep(min(0.2, left))
    try:
        line.sendall(json.dumps([process, processes]).encode())
        line.settimeout(max(until - time.monotonic(), 0.01))
        said = line.recv(200)
    except OSError:
        raise gone from None
    if not said:
        raise gone
    if said != WELCOME:
        raise UsageError(f"process 0 refused --process-id {process}: {said.decode()}")
    line.settimeout(None)
    return Lifelines({0: line})
