"""Files that are written whole or not at all, and never through a symbolic link.

A run folder may come from somebody else. What is written into it stays in it: a link inside would
lead to files that are none of the run's.
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from flaxvae.errors import DataError

_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_BINARY = getattr(os, "O_BINARY", 0)
ABANDONED = "*.partial"
_ABANDONED_SECONDS = 3600  # nobody takes as long to write a file


def temporary(path: Path) -> Path:
    """A name beside ``path`` that no other process takes, nor this one again."""
    return path.with_name(f".{path.name[:100]}.{os.getpid()}-{secrets.token_hex(4)}.partial")


@contextmanager
def _unfinished(path: Path) -> Iterator[Path]:
    partial = temporary(path)
    try:
        yield partial
    finally:
        with suppress(OSError):
            partial.unlink()


def _made(path: Path) -> IO[bytes]:
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | _NO_LINK | _BINARY
    return os.fdopen(os.open(path, flags, 0o666), "w+b")


@contextmanager
def whole(path: Path) -> Iterator[IO[bytes]]:
    """A new file to write in, which takes the place of ``path`` once the block is left.

    If that is by an error, ``path`` is as it was, and nothing else is left.
    """
    with _unfinished(path) as partial:
        with _made(partial) as file:
            yield file
        partial.replace(path)


@contextmanager
def scratch(path: Path) -> Iterator[IO[bytes]]:
    """A new file beside ``path`` to write in, which is removed when the block is left."""
    with _unfinished(path) as partial, _made(partial) as file:
        yield file


def text(path: Path, content: str) -> None:
    """Write a file of text."""
    with whole(path) as file:
        file.write(content.encode())


def append(path: Path, content: str) -> None:
    """Add to a file of text, which need not be there."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | _NO_LINK | _BINARY
    with os.fdopen(os.open(path, flags, 0o666), "ab") as file:
        file.write(content.encode())


def link(path: Path, target: str) -> None:
    """Make ``path`` a symbolic link to ``target``, in the place of an older one."""
    partial = temporary(path)
    try:
        partial.symlink_to(target)
        partial.replace(path)
    finally:
        with suppress(OSError):
            partial.unlink()


def is_empty(folder: Path) -> bool:
    """Whether there is nothing in a folder but what a start that was cut off leaves."""
    return all(entry.name == "lock" or entry.match(ABANDONED) for entry in folder.iterdir())


def clear(folder: Path) -> None:
    """Remove what a process that was killed had begun to write."""
    for partial in folder.glob(ABANDONED):
        with suppress(OSError):
            if abs(time.time() - partial.lstat().st_mtime) > _ABANDONED_SECONDS:
                shutil.rmtree(partial) if partial.is_dir() else partial.unlink()


def check_own(folder: Path) -> None:
    """Raises DataError if there is a symbolic link in a folder that is about to be written."""
    waiting = [folder]
    while waiting:
        with suppress(FileNotFoundError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_symlink():
                    raise DataError(
                        f"{entry.path} is a symbolic link, and what is written there would be "
                        "elsewhere: expected none in a run folder; put what it points to in its "
                        "place, or remove it"
                    )
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(Path(entry.path))
