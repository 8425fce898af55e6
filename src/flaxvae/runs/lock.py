"""One training per run folder: a lock file names the process that holds it.

The file is created exclusively, which is atomic. The lock of a dead process on this host is taken
over; processes on other hosts cannot be checked from here, so their locks are respected.

A folder may be moved or removed during training. The holder can recreate it: its lock, and the
files that make it a run.
"""

from __future__ import annotations

import json
import os
import platform
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from flaxvae import writing
from flaxvae.errors import DataError, UsageError

NAME = "lock"


class Held:
    """A folder that this process has locked."""

    def __init__(self, folder: Path):
        self.folder, self._lock = folder, json.dumps(_identity(os.getpid()))
        self._kept: dict[Path, bytes] = {}

    def keep(self, path: Path) -> None:
        """Remember the current contents of a file in the folder, for ``mend``."""
        self._kept[path] = path.read_bytes()

    def mend(self) -> list[str]:
        """Rewrite the lock and the remembered files if they have gone; returns their names.

        Raises:
            DataError: another folder, with a run or a lock of its own, has taken its place.
            OSError: they cannot be written.
        """
        gone = []
        if not self._mine():
            for path, content in self._kept.items():
                if path.exists() and path.read_bytes() != content:
                    raise DataError(
                        f"{path} belongs to another run: expected this training's, which was "
                        "moved or removed; what it saved is where it was moved to"
                    )
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                self.take()
            except UsageError as error:
                raise DataError(f"the folder of this training has been replaced: {error}") from None
            gone.append(NAME)
        for path, content in self._kept.items():
            if not path.is_file() or path.read_bytes() != content:
                path.parent.mkdir(parents=True, exist_ok=True)
                with writing.whole(path) as file:
                    file.write(content)
                gone.append(str(path.relative_to(self.folder)))
        return gone

    def take(self) -> None:
        path = self.folder / NAME
        while not _make(path, self._lock):
            _take_over(path)

    def release(self) -> None:
        with suppress(OSError):  # the file or its disk has gone
            if self._mine():
                (self.folder / NAME).unlink()

    def _mine(self) -> bool:
        return _read(self.folder / NAME) == self._lock


@contextmanager
def hold(folder: Path) -> Iterator[Held]:
    """Lock ``folder`` for this process until the block ends.

    Raises:
        UsageError: another process holds it, or may hold it.
        DataError: a symbolic link is in it.
        OSError: the folder cannot be written.
    """
    writing.check_own(folder)
    held = Held(folder)
    held.take()
    try:
        writing.clear(folder)
        yield held
    finally:
        held.release()


def holder(folder: Path) -> str | None:
    """Who holds a folder, in words; None if nobody does. Nothing is changed."""
    try:
        text = _read(folder / NAME)
    except OSError:
        return "an unknown process"
    return _holder(text) if text else None


def _identity(pid: int) -> dict[str, Any]:
    return {"pid": pid, "host": platform.node(), "began": _began(pid)}


def _status(pid: int) -> list[str]:
    """The fields of a process in Linux's /proc, from its state on; [] if unavailable."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _began(pid: int) -> str | None:
    """When a process began, which tells it from a later one with its pid; None if unknown."""
    return next(iter(_status(pid)[19:20]), None)


def _make(path: Path, text: str) -> bool:
    try:
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return False
    try:
        with os.fdopen(file, "w") as opened:
            opened.write(text)
    except BaseException:  # a full disk
        path.unlink()
        raise
    return True


def _take_over(path: Path) -> None:
    """Remove the lock of a dead process; raises UsageError if the process may be alive."""
    text = _read(path)
    if text is None:
        return
    if not text:  # it is just being written, or its writer was killed while writing
        time.sleep(1)
        if _read(path):
            return
    elif (holder := _holder(text)) is not None:
        raise UsageError(
            f"{path.parent} is in use by {holder}: expected one training per folder; wait for it, "
            f"or, if that process is gone, remove {path}"
        )
    aside = writing.temporary(path)
    with suppress(FileNotFoundError):
        path.rename(aside)
        if _read(aside) != text:  # another process was faster, and this is its lock
            aside.rename(path)
        else:
            aside.unlink()


def _read(path: Path) -> str | None:
    """The text of a lock; None if there is none. Never blocks, whatever is in its place."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        file = os.open(path, flags)
    except FileNotFoundError:
        return None
    with os.fdopen(file, "rb") as opened:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            return "no file"
        return opened.read(4096).decode(errors="replace")


def _holder(text: str) -> str | None:
    """Who holds a lock, as text; None if it is a dead process on this host."""
    try:
        seen = json.loads(text)
        pid, host, began = int(seen["pid"]), str(seen["host"]), seen["began"]
    except (ValueError, LookupError, TypeError):
        return "an unknown process"
    if host != platform.node():
        return f"process {pid} on {host}"
    return f"process {pid} on this machine" if _runs(pid, began) else None


def _runs(pid: int, began: str | None) -> bool:
    """Whether a process on this host is alive; assumed so if it cannot be checked."""
    if os.name != "posix":  # there, signal 0 would not be a mere check
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    ended = _status(pid)[:1] == ["Z"]  # a zombie
    return not ended and (began is None or _began(pid) in (None, began))
