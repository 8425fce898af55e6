"""Files that are written completely or not at all, and never through a symbolic link.

A run folder may come from somebody else, and a link in it could lead to files outside the run.
"""

from __future__ import annotations

import glob
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
_ABANDONED_SECONDS = 3600  # no file takes this long to write


def temporary(path: Path) -> Path:
    """A new name beside ``path``, unique to this call and process."""
    return path.with_name(f".{_start(path.name)}.{os.getpid()}-{secrets.token_hex(4)}.partial")


def _start(name: str) -> str:
    """The first 100 bytes of a name: file systems limit bytes, not characters."""
    return name.encode("utf-8", "surrogateescape")[:100].decode("utf-8", "ignore")


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
    """A new file that replaces ``path`` at the end of the block.

    On an error, ``path`` is unchanged and nothing else is left.
    """
    with _unfinished(path) as partial:
        with _made(partial) as file:
            yield file
        partial.replace(path)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A new folder that replaces ``path``, or what is there, at the end of the block.

    On an error, ``path`` is unchanged and nothing else is left. What a killed process left of
    ``path`` is removed.
    """
    clear(path.parent, path.name)
    partial, aside = temporary(path), temporary(path)
    missing = [parent for parent in path.parents if not parent.exists()]
    try:
        partial.mkdir(parents=True)
        yield partial
        try:
            if path.exists():
                path.rename(aside)
            partial.rename(path)
        except BaseException:
            if aside.exists() and not path.exists():
                aside.rename(path)
            raise
    finally:
        for left in (partial, aside):
            shutil.rmtree(left, ignore_errors=True)
        for parent in missing:
            with suppress(OSError):  # there is something in it now
                parent.rmdir()


@contextmanager
def scratch(path: Path) -> Iterator[IO[bytes]]:
    """A new file beside ``path`` that is removed at the end of the block."""
    with _unfinished(path) as partial, _made(partial) as file:
        yield file


def text(path: Path, content: str) -> None:
    """Write a text file."""
    with whole(path) as file:
        file.write(content.encode())


def append(path: Path, content: str) -> None:
    """Append to a text file, which need not exist."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | _NO_LINK | _BINARY
    with os.fdopen(os.open(path, flags, 0o666), "ab") as file:
        file.write(content.encode())


def link(path: Path, target: str) -> None:
    """Make ``path`` a symbolic link to ``target``, replacing an older link."""
    partial = temporary(path)
    try:
        partial.symlink_to(target)
        partial.replace(path)
    finally:
        with suppress(OSError):
            partial.unlink()


def is_empty(folder: Path) -> bool:
    """Whether a folder holds nothing but what an interrupted start leaves."""
    return all(entry.name == "lock" or entry.match(ABANDONED) for entry in folder.iterdir())


def clear(folder: Path, name: str | None = None) -> None:
    """Remove unfinished files of processes that were killed, in a folder of flaxvae's own.

    In any other folder, only those that were to be ``name``.
    """
    own = ABANDONED if name is None else f".{glob.escape(_start(name))}.*-????????.partial"
    for partial in folder.glob(own):
        with suppress(OSError):
            if abs(time.time() - partial.lstat().st_mtime) > _ABANDONED_SECONDS:
                shutil.rmtree(partial) if partial.is_dir() else partial.unlink()


def check_own(folder: Path) -> None:
    """Raises DataError if a folder that is about to be written contains a symbolic link."""
    waiting = [folder]
    while waiting:
        with suppress(FileNotFoundError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_symlink():
                    raise DataError(
                        f"{entry.path} is a symbolic link, so files written there would end up "
                        "elsewhere: expected none in a run folder; replace it by what it points "
                        "to, or remove it"
                    )
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(Path(entry.path))
