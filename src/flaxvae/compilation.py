"""JAX's persistent compilation cache, for the ``flaxvae`` command.

The command turns it on; a program that imports the library decides for itself. The folder is

    FLAXVAE_CACHE_DIR           if it is set; if it is empty, nothing is kept
    ~/Library/Caches/flaxvae    else on macOS
    $XDG_CACHE_HOME/flaxvae     else; by default ~/.cache/flaxvae

with a sub-folder for each kind of processor, because machines may share a home. If
JAX_COMPILATION_CACHE_DIR is set, JAX's own settings apply and this module does nothing.

The cache returns the very bytes that were compiled, so results do not depend on it. They are
executed: whoever can write them can run code as the user. So a folder that others may write to is
not used.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
import shlex
import stat
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

from flaxvae import machine

LIMIT = 2**30  # bytes; JAX's own limit needs another package, and locks at every read
_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_TROUBLE = re.compile(r"Error (?:reading|writing) persistent compilation cache entry for '(.*?)'")


def folder() -> Path | None:
    """The folder for compiled programs, or None if none are to be kept."""
    found = root()
    return None if found is None else (found / machine.processor()).resolve()


def root() -> Path | None:
    """The folder for all that flaxvae keeps for the next time, or None if nothing is kept."""
    chosen = os.environ.get("FLAXVAE_CACHE_DIR")
    if chosen == "":
        return None
    try:
        return Path(chosen).expanduser() if chosen else _user_caches() / "flaxvae"
    except RuntimeError:  # a user without a home
        return None


def _user_caches() -> Path:
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    chosen = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return chosen if chosen.is_absolute() else Path.home() / ".cache"


def entries(path: Path) -> list[Path]:
    """The compiled programs in a folder, without other files."""
    return list(path.glob("*-cache"))


def size(path: Path) -> int:
    """Bytes of compiled programs in a folder."""
    return sum(_stat(entry)[1] for entry in entries(path))


def writable(path: Path) -> bool:
    """Whether files can be created in a folder, which is created first if necessary."""
    try:
        for folder in reversed([path, *path.parents]):
            folder.mkdir(mode=0o700, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return True
    except OSError:
        return False


def exposed(path: Path) -> str | None:
    """How others could change the contents of a folder, and what to do; None if they cannot.

    The user must own it, the user or root its parents, and nobody else may write to any of them,
    except to parents with the sticky bit (such as /tmp), where nobody can remove others' files.
    """
    if not hasattr(os, "geteuid"):
        return None
    for folder in (path, *path.parents):
        found = folder.stat()
        owners = {os.geteuid()} if folder == path else {os.geteuid(), 0}
        sticky = folder != path and found.st_mode & stat.S_ISVTX
        if found.st_uid not in owners:
            seen, cure = "belongs to another user", ""
        elif found.st_mode & _BY_OTHERS and not sticky:
            seen = f"may be written by others (mode {stat.S_IMODE(found.st_mode):o})"
            cure = f"chmod go-w {shlex.quote(str(folder))}, or "
        else:
            continue
        return f"{folder} {seen}: expected a folder of your own; {cure}set FLAXVAE_CACHE_DIR to one"
    return None


def jaxs_own() -> str | None:
    """The folder in JAX's own settings."""
    import jax

    config: Any = jax.config  # only some versions declare the settings
    return config.jax_compilation_cache_dir


def quiet() -> None:
    """Silence needless log messages of XLA; has an effect only before JAX is imported."""
    if not machine.nvidia():
        # On processors where it avoids certain instructions, XLA logs a false error whenever it
        # loads a program.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def enable() -> Path | None:
    """Keep what this process compiles; returns the folder, or None if nothing is kept.

    Never raises. Without a writable folder there is silently no cache; for a folder that others can
    write to, it prints one line to standard error.
    """
    quiet()
    import jax

    path = folder()
    if jaxs_own() or path is None or not writable(path):
        return None
    why = exposed(path)
    if why is not None:
        print(f"flaxvae: compiled programs are not kept: {why}", file=sys.stderr)
        return None
    _distrust(path)
    _bound(path)
    _mend(path)
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)  # the small ones add up
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return path


def _distrust(path: Path) -> None:
    """Remove links, and entries that others wrote or could have written while the folder was open.

    If others cannot enter the folder, the mode of an entry does not matter.
    """
    if not hasattr(os, "geteuid"):
        return
    entered = path.stat().st_mode & (stat.S_IXGRP | stat.S_IXOTH)
    for entry in entries(path):
        found = entry.lstat()
        written = entered and found.st_mode & _BY_OTHERS
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or written:
            _remove(entry)


def _bound(path: Path) -> None:
    """Remove the least recently used entries until the rest fits LIMIT."""
    found = sorted((*_stat(entry), entry) for entry in entries(path))
    excess = sum(size for _, size, _ in found) - LIMIT
    for _, freed, entry in found:
        if excess <= 0:
            break
        _remove(entry)
        excess -= freed


def _mend(path: Path) -> None:
    """When JAX warns of a damaged entry (its writer was killed), remove it instead."""
    show = warnings.showwarning

    def showwarning(message, *rest, **more):
        trouble = _TROUBLE.match(str(message))
        if trouble is None:
            show(message, *rest, **more)
        else:  # JAX compiles and writes it again
            for entry in path.glob(f"{glob.escape(trouble[1])}-*-cache"):
                _remove(entry)

    warnings.showwarning = showwarning


def _stat(entry: Path) -> tuple[float, int]:
    """Time of last use and size in bytes of a file; zeros if another process has removed it."""
    try:
        found = entry.stat()
    except OSError:
        return 0.0, 0
    return max(found.st_atime, found.st_mtime), found.st_size


def _remove(entry: Path) -> None:
    with contextlib.suppress(OSError):
        entry.unlink()
