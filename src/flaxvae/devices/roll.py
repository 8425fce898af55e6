"""The roll call: process 0 gathers the others before JAX starts.

It listens at the coordinator's address until all others have connected, and then answers each of
them; the connections stay open as lifelines. Anyone may connect, so all are served at once, and a
caller that is not a process of this training is disconnected. A process identifies itself with

    [process, processes, HMAC-SHA256(token, challenge, process, processes)]

for the challenge that it was sent. The token, FLAXVAE_TOKEN, is the same for all processes and is
never sent. Without a token, anyone who speaks this protocol is accepted.
"""

from __future__ import annotations

import contextlib
import errno
import hmac
import ipaddress
import json
import os
import secrets
import selectors
import socket
import sys
import time
from typing import Any, NamedTuple

from flaxvae.devices.lifelines import Lifelines
from flaxvae.errors import HostsError, UsageError

WELCOME = b"+"
PATIENCE = 5.0  # seconds within which a caller must identify itself
LONGEST = 256  # bytes of an identification, and of a refusal
CALLERS = 256  # served at once, besides the expected processes


class Met(NamedTuple):
    """All processes have connected."""

    lines: Lifelines
    at: str | None  # HOST:PORT at which process 0 listened; None elsewhere


class Caller(NamedTuple):
    """A connection whose other end has not identified itself yet."""

    challenge: str
    until: float
    said: bytearray


def meet(address: str, processes: int, process: int, seconds: float, token: str = "") -> Met:
    """Wait until all processes have connected.

    Args:
        address: HOST:PORT of process 0.
        processes: number of processes, including this one.
        process: number of this process, from 0.
        seconds: how long to wait.
        token: the shared secret.

    Raises:
        HostsError: some did not connect in time, or process 0 cannot listen there.
        UsageError: another process has this number, or a different number of processes or token.
    """
    host, port = address.rsplit(":", 1)
    host, until = host.strip("[]"), time.monotonic() + seconds
    if process > 0:
        return Met(_answer(host, int(port), processes, process, seconds, until, token), None)
    with _listen(host, int(port)) as server:
        name = server.getsockname()
        at = f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"
        if _only_here(name[0]) and not _only_here(host):
            print(
                f"flaxvae: {host} is {name[0]} on this machine, where no other machine can reach "
                "process 0; --coordinator takes an address, too",
                file=sys.stderr,
            )
        return Met(Lifelines(Roll(server, at, processes, seconds, until, token).call()), at)


class Roll:
    """What process 0 knows while it waits for the others."""

    def __init__(
        self, server: socket.socket, at: str, processes: int, seconds: float, until: float, token
    ):
        self._server, self._at, self._token = server, at, token
        self._processes, self._seconds, self._until = processes, seconds, until
        self._callers: dict[socket.socket, Caller] = {}
        self._lines: dict[int, socket.socket] = {}
        self._ready = selectors.DefaultSelector()

    def call(self) -> dict[int, socket.socket]:
        """Wait for all others and welcome them; returns the connection to each."""
        self._server.setblocking(False)
        self._ready.register(self._server, selectors.EVENT_READ)
        try:
            while len(self._lines) < self._processes - 1:
                self._wait()
        finally:
            self._ready.close()
            for line in self._callers:
                line.close()
        for line in self._lines.values():
            line.settimeout(None)
            with contextlib.suppress(OSError):  # its lifeline will report its end
                line.sendall(WELCOME)
        return self._lines

    def _wait(self) -> None:
        left = self._until - time.monotonic()
        if left <= 0:
            missing = [str(i) for i in range(1, self._processes) if i not in self._lines]
            raise HostsError(
                f"process {', '.join(missing)} did not come to {self._at} within "
                f"{self._seconds:g} seconds: expected {self._processes} processes; start each with "
                "the same --coordinator and its own --process-id"
            )
        for key, _ in self._ready.select(min(left, 0.2)):
            line: Any = key.fileobj
            if line is self._server:
                self._accept()
            elif line in self._callers:
                self._hear(line)
            else:  # it had connected and has left: its number is free
                self._lines = {i: other for i, other in self._lines.items() if other is not line}
                self._hang_up(line)
        now, oldest = time.monotonic(), list(self._callers)[: -CALLERS - self._processes]
        for line in [x for x, it in self._callers.items() if it.until < now or x in oldest]:
            self._hang_up(line)

    def _accept(self) -> None:
        try:
            line, _ = self._server.accept()
        except OSError:  # the caller has left, or too many files are open
            time.sleep(0.01)
            return
        line.setblocking(False)
        challenge = secrets.token_hex(16)
        self._callers[line] = Caller(challenge, time.monotonic() + PATIENCE, bytearray())
        self._ready.register(line, selectors.EVENT_READ)
        self._say(line, f"{challenge}\n")

    def _hear(self, line: socket.socket) -> None:
        caller = self._callers[line]
        try:
            more = line.recv(LONGEST)
        except BlockingIOError:
            return
        except OSError:
            more = b""
        caller.said.extend(more)
        if caller.said.endswith(b"\n") and len(caller.said) <= LONGEST:
            self._judge(line, caller)
        elif not more or len(caller.said) > LONGEST:
            self._hang_up(line)

    def _judge(self, line: socket.socket, caller: Caller) -> None:
        """Accept a caller as the process that it claims to be, or hang up."""
        try:
            process, told, proof = json.loads(caller.said)
            found = proof.encode()
        except (ValueError, TypeError, AttributeError, RecursionError):
            return self._hang_up(line)
        if type(process) is not int or type(told) is not int:
            return self._hang_up(line)
        known = _proof(self._token, caller.challenge, process, told).encode()
        if not hmac.compare_digest(found, known):
            why = "another FLAXVAE_TOKEN than its own, expected the same for all"
        elif told != self._processes:
            why = f"--num-processes {told}, expected its own {self._processes}"
        elif not 0 < process < told:
            why = f"expected 1 to {told - 1}"
        elif process in self._lines:
            why = "another process has this number, expected one for each"
        else:
            del self._callers[line]
            self._lines[process] = line
            return None
        self._say(line, why)
        return self._hang_up(line)

    def _say(self, line: socket.socket, words: str) -> None:
        with contextlib.suppress(OSError):  # a caller that does not read is disconnected later
            line.send(words.encode())

    def _hang_up(self, line: socket.socket) -> None:
        self._callers.pop(line, None)
        self._ready.unregister(line)
        line.close()


def _proof(token: str, challenge: str, process: int, processes: int) -> str:
    words = f"{challenge} {process} {processes}"
    return hmac.new(token.encode(), words.encode(), "sha256").hexdigest()


def _only_here(host: str) -> bool:
    """Whether a host is a loopback address or localhost."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _listen(host: str, port: int) -> socket.socket:
    """A server at the first address of the host that belongs to this machine."""
    told = "in --coordinator HOST:PORT, whose HOST is that of process 0"
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        known = f"expected a name or address {told}"
        raise HostsError(f"the host {host} is not known here: {known}") from None
    reasons = []
    for family, _, _, _, address in found:
        try:
            return socket.create_server(address, family=family, backlog=1024)
        except OSError as error:
            reasons.append(error.errno or 0)
    reason = next((r for r in reasons if r != errno.EADDRNOTAVAIL), None)
    if reason is None:
        own = found[0][4][0]
        means = "" if own == host else f", {own},"
        raise HostsError(
            f"{host}{means} is no address of this machine: expected one of its own {told}; behind "
            f"a router, start process 0 with --coordinator 0.0.0.0:{port}, which is all of them"
        )
    why = os.strerror(reason)
    raise HostsError(f"port {port} cannot be opened at {host} ({why}): expected a free one {told}")


def _answer(
    host: str, port: int, processes: int, process: int, seconds: float, until: float, token: str
) -> Lifelines:
    gone = HostsError(
        f"the coordinator {host}:{port} did not answer within {seconds:g} seconds: expected "
        "process 0 there; start it with the same --coordinator, and look for a firewall between"
    )

    def receive(line: socket.socket, until_newline: bool) -> bytes:
        said = b""
        while len(said) < LONGEST and not (until_newline and said.endswith(b"\n")):
            line.settimeout(max(until - time.monotonic(), 0.01))
            more = line.recv(LONGEST)
            said += more
            if not more or said == WELCOME:
                break
        return said

    while True:
        left = until - time.monotonic()
        if left <= 0:
            raise gone
        try:
            line = socket.create_connection((host, port), timeout=min(left, 5.0))
            break
        except (OSError, UnicodeError):
            time.sleep(min(0.2, left))
    try:
        challenge = receive(line, True).decode("ascii", "replace").strip()
        proof = _proof(token, challenge, process, processes)
        line.sendall(json.dumps([process, processes, proof]).encode() + b"\n")
        said = receive(line, False)
    except OSError:
        raise gone from None
    if not said:
        raise gone
    if said != WELCOME:
        why = " ".join(said.decode("utf-8", "replace").split())
        raise UsageError(f"process 0 refused --process-id {process}: {why}")
    line.settimeout(None)
    return Lifelines({0: line})
