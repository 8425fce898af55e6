"""New folders for runs, and the link to the newest."""

from __future__ import annotations

import itertools
from contextlib import suppress
from pathlib import Path

from flaxvae import writing
from flaxvae.errors import UsageError, command


def check_new(path: Path, resuming: str) -> None:
    """Raises UsageError unless ``path`` can be a new folder: it is missing or empty.

    ``resuming`` is the command that would resume what is in it.
    """
    if path.exists() and not (path.is_dir() and writing.is_empty(path)):
        raise UsageError(
            f"--run {path} exists and is not empty: expected a new folder; to resume it, "
            f"`{command(*resuming.split(), path)}`"
        )


def make_new(stem: str, root: Path = Path("runs")) -> Path:
    """Create a new folder, even if another process asks for the same name at the same time."""
    for number in itertools.count(1):
        path = root / (stem if number == 1 else f"{stem}-{number}")
        with suppress(FileExistsError):
            path.mkdir(parents=True)
            return path
    raise AssertionError


def point_latest(path: Path) -> str:
    """Point ``latest``, beside a run folder, to it; returns why that failed, or ""."""
    link = path.parent / "latest"
    if link.is_symlink() or not link.exists():
        try:
            writing.link(link, path.name)
        except (OSError, NotImplementedError) as error:
            return getattr(error, "strerror", None) or str(error)
    return ""
