"""Several processes that train one model: all compute the same, and only the first one writes.

Whatever may differ between processes (a clock, a signal, a file) is exchanged before anything
depends on it, so that all call the same collectives in the same order.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from flaxvae import signals
from flaxvae.devices import lifelines, roll
from flaxvae.errors import DivergedError, FlaxvaeError, HostsError, Stopped, UsageError
from flaxvae.settings import Hosts

MEETING_SECONDS = 300.0  # within which all processes must connect
MOMENT = 0.5  # within which a message reaches the other processes
CLOSING_SECONDS = 7 * 24 * 3600  # for which the others wait while the first evaluates and draws


def first() -> bool:
    """Whether this process is the one that writes files and prints."""
    return jax.process_index() == 0


def several() -> bool:
    return jax.process_count() > 1


def gather(*numbers: int) -> np.ndarray:
    """The int32 numbers of all processes, [processes, numbers], on every process."""
    own = np.array([numbers], np.int32)
    return multihost_utils.process_allgather(own, tiled=True) if several() else own


def share(value: Any) -> Any:
    """The first process's value, which must fit into JSON, on every process."""
    return json.loads(_share_bytes(json.dumps(value).encode() if first() else b""))


def share_arrays(tree: Any, like: Any) -> Any:
    """The first process's pytree of NumPy arrays, on every process; the others pass None.

    ``like`` has the same structure, shapes and dtypes.
    """
    if not several():
        return tree

    def one(shape: Any, leaf: Any) -> np.ndarray:
        raw = _share_bytes(b"" if leaf is None else np.ascontiguousarray(leaf).tobytes())
        return np.frombuffer(raw, shape.dtype).reshape(shape.shape)

    own = tree if first() else jax.tree.map(lambda shape: None, like)
    return jax.tree.map(one, like, own, is_leaf=lambda leaf: leaf is None)


def _share_bytes(raw: bytes) -> bytes:
    if not several():
        return raw
    size = int(gather(len(raw))[0, 0])
    own = np.frombuffer(raw, np.uint8) if first() else np.zeros(size, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(own)).tobytes()


def check_same(value: Any, what: str) -> None:
    """Raises UsageError, on every process, unless all have the same ``value`` (JSON)."""
    digest = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).digest()
    found = gather(*np.frombuffer(digest, np.int32))
    others = np.flatnonzero((found != found[0]).any(1))
    if len(others):
        raise UsageError(
            f"process {others[0]} has other {what} than process 0: expected the same everywhere"
        )


@contextmanager
def joined(hosts: Hosts) -> Iterator[None]:
    """Connects the processes inside the block. If one fails or is killed, the others end, too.

    Raises:
        HostsError, UsageError: the processes cannot connect.
    """
    if hosts.coordinator is None:
        yield
        return
    lines = _join(hosts)
    speaks = first()
    try:
        yield
    except (Stopped, DivergedError):  # on all processes, at the same step
        _part(lines)
        raise
    except BaseException as error:
        _fail(lines, error)
        raise
    heard = _part(lines)
    if heard and not speaks:
        raise Stopped("stopped after training; process 0 says what is saved", heard[0])


def _join(hosts: Hosts) -> lifelines.Lifelines:
    # The loop handles signals itself; Gloo is the collective library for CPUs.
    jax.config.update("jax_enable_preemption_service", False)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    where, count, this = hosts.coordinator, hosts.num_processes, hosts.process_id
    meet = functools.partial(
        jax.distributed.initialize,
        num_processes=count,
        process_id=this,
        shutdown_timeout_seconds=CLOSING_SECONDS,
    )
    if where == "auto":
        try:
            meet()
        except ValueError as error:
            raise HostsError(
                f"--coordinator auto: nothing here tells of other processes ({error}); expected "
                "Slurm, Open MPI, Kubernetes or a TPU pod, or --coordinator HOST:PORT"
            ) from None
        return lifelines.Lifelines({})
    assert where is not None and count is not None and this is not None
    token = os.environ.get("FLAXVAE_TOKEN", "")
    lines, at = roll.meet(where, count, this, MEETING_SECONDS, token)
    lines.watch(lambda process, failed: _mourn(lines, process, failed))
    with _named():
        meet(
            lifelines.relay(where) if this else where,
            coordinator_bind_address=at,
            cluster_detection_method="deactivate",
        )
        with _silence():  # Gloo prints its connections to standard output
            gather(0)
    return lines


@contextmanager
def _named() -> Iterator[None]:
    """Explain Gloo's failure if the machine's own name, to which it connects, has no address."""
    try:
        yield
    except RuntimeError:
        name = socket.gethostname()
        try:
            socket.getaddrinfo(name, None)
        except OSError:
            raise HostsError(
                f"this machine's own name, {name}, has no address: expected one, by which the "
                f"processes connect; add a line `127.0.1.1 {name}` to /etc/hosts"
            ) from None
        raise


@contextmanager
def _silence() -> Iterator[None]:
    """Discard what any library writes to standard output."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def _part(lines: lifelines.Lifelines) -> list[int]:
    """Wait for the others and disconnect; returns the signals that came meanwhile.

    Signals do not end the wait, because a process that died now would end the others.
    """
    with signals.caught() as heard:
        lines.tell(lifelines.BYE)
        jax.distributed.shutdown()
    return heard


_last_words = threading.Lock()  # its holder reports why this process ends


def _fail(lines: lifelines.Lifelines, error: BaseException) -> None:
    """Let this process, which has failed, end without JAX's wait for the others."""
    known = isinstance(error, FlaxvaeError | OSError | KeyboardInterrupt)
    if not known:  # most likely a collective failed because another process died
        time.sleep(3 * MOMENT)
    _last_words.acquire()
    lines.tell(lifelines.FAILED)
    code = 3 if isinstance(error, OSError) else 1
    if isinstance(error, KeyboardInterrupt):
        code = 128 + getattr(error, "number", 2)
    atexit.register(_vanish, getattr(error, "exit_code", code))


def _mourn(lines: lifelines.Lifelines, process: int, failed: bool) -> None:
    """In a thread: end at once, because the main thread may wait forever in a collective."""
    if failed:  # this process may be about to fail the same way
        time.sleep(MOMENT)
    _last_words.acquire()
    with suppress(OSError, ValueError):
        print(
            f"flaxvae: process {process} has ended: expected all processes until the end; start "
            "all again, with --resume",
            file=sys.stderr,
            flush=True,
        )
    lines.tell(lifelines.FAILED)
    os._exit(HostsError.exit_code)


def _vanish(code: int) -> None:
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)
