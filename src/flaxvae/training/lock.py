"""One training a run folder: a lock file that names the process which has it.

The file is made by an exclusive create, which is atomic. One left by a process of this host that
is gone is taken over; another host's process cannot be seen from here, so its lock is respected.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from flaxvae.errors import UsageError

NAME = "lock"


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Have ``folder`` for this process, until the block is left in whatever way.

    Raises:
        UsageError: another process has it, or may have it.
        OSError: the folder cannot be written.
    """
    path = folder / NAME
    mine = json.dumps(_identity(os.getpid()))
    while not _make(path, mine):
        _take_over(path)
    try:
        yield
    finally:
        with suppress(OSError):  # gone, or on a disk that is
            if path.read_text() == mine:
                path.unlink()


def _identity(pid: int) -> dict[str, Any]:
    return {"pid": pid, "host": platform.node(), "began": _began(pid)}


def _status(pid: int) -> list[str]:
    """What Linux tells of a process, from its state on; [] where there is nothing to read."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _began(pid: int) -> str | None:
    """When a process began, which tells it from a later one of its number; None if unknown."""
    return next(iter(_status(pid)[19:20]), None)


def _make(path: Path, text: str) -> bool:
    try:
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return False
    try:
        with os.fdopen(file, "w") as opened:
            opened.write(text)
    except OSError:  # a full disk
        path.unlink()
        raise
    return True


def _take_over(path: Path) -> None:
    """Remove a lock whose process is gone; raises UsageError if it may not be gone."""
    text = _read(path)
    if text is None:
        return
    if not text:  # being written this moment, or its writer was killed at that
        time.sleep(1)
        if _read(path):
            return
    elif (holder := _holder(text)) is not None:
        raise UsageError(
            f"{path.parent} is in use by {holder}: expected one training a folder; wait for it, "
            f"or, if that process is gone, remove {path}"
        )
    aside = path.with_name(f"{NAME}.{os.getpid()}")
    with suppress(FileNotFoundError):
        path.rename(aside)
        if _read(aside) != text:  # another process was quicker, and this is its lock
            aside.rename(path)
        else:
            aside.unlink()


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None


def _holder(text: str) -> str | None:
    """Who has a lock, in words; None if a process of this host that is gone."""
    try:
        seen = json.loads(text)
        pid, host, began = int(seen["pid"]), str(seen["host"]), seen["began"]
    except (ValueError, LookupError, TypeError):
        return "an unknown process"
    if host != platform.node():
        return f"process {pid} on {host}"
    return f"process {pid} on this machine" if _runs(pid, began) else None


def _runs(pid: int, began: str | None) -> bool:
    """Whether a process of this host is there; where that cannot be asked, it is."""
    if os.name != "posix":  # where signal 0 is none
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    ended = _status(pid)[:1] == ["Z"]  # but nobody has asked how
    return not ended and (began is None or _began(pid) in (None, began))
