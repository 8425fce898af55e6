"""Files in a folder, a zip or a tar, read in place: nothing is ever extracted.

An archive may come from anybody. What its directory declares is checked before it is read, and a
member never gives more bytes than are declared.
"""

from __future__ import annotations

import contextlib
import os
import tarfile
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from flaxvae.data import tar_index
from flaxvae.errors import DataError, counted, remedy

ZIPS, TARS = (".zip",), (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
MOST_FILE = 2**29  # bytes of one file
RATIO, FREE = 200, 2**30  # an archive may expand so many times, and anyway to so many bytes


class Member(NamedTuple):
    """A file: its name, relative and with slashes, and what changes when its content does."""

    name: str
    size: int
    stamp: tuple[int, ...]


class Container(NamedTuple):
    """The files of a folder or an archive; ``read`` gives the content of one, in any thread.

    ``read`` raises OSError, or another exception where an archive is damaged; DataError where no
    file of it can be read.
    """

    path: Path
    members: Sequence[Member]
    read: Callable[[str], bytes]
    notes: Sequence[str] = ()  # what was left out
    called: str = ""  # its name, if not that of the path

    @property
    def name(self) -> str:
        return self.called or stem(str(self.path))


def is_archive(path: str) -> bool:
    """Whether a path is named like a zip or a tar."""
    return path.lower().endswith(ZIPS + TARS)


def stem(path: str) -> str:
    """The name of a folder or an archive without the ending."""
    name = Path(path).expanduser().absolute().resolve().name
    ending = next((e for e in (*ZIPS, *TARS) if name.lower().endswith(e)), "")
    return name[: len(name) - len(ending)] or "pictures"


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Container]:
    """The files of a folder, a zip or a tar, sorted by name; hidden ones do not count.

    Raises DataError if it cannot be read, is encrypted, or expands to far more than it is.
    """
    with contextlib.ExitStack() as stack:
        with _telling(path):
            if path.is_dir():
                container = _folder(path)
            elif zipfile.is_zipfile(path):
                file = stack.enter_context(path.open("rb"))
                container = _zip(path, file, stack.enter_context(zipfile.ZipFile(file)))
            else:
                container = _tar(path, stack)
        yield container


@contextlib.contextmanager
def _telling(path: Path) -> Iterator[None]:
    """What goes wrong with a folder or an archive as a whole is a DataError."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # zipfile, zlib and lzma raise almost anything on damage
        reason = error.strerror if isinstance(error, OSError) else None
        seen = reason or " ".join(str(error).split())[:100] or "it ends too early"
        path = Path(getattr(error, "filename", None) or path)
        advice = remedy(reason, "expected a folder, a zip or a tar; write it again")
        raise DataError(f"{path}: cannot be read ({seen}); {advice}") from None


@contextlib.contextmanager
def single(path: Path) -> Iterator[Container]:
    """One file, as if it were alone in its folder."""
    about = path.stat()
    stamp = about.st_size, about.st_mtime_ns, about.st_ctime_ns
    yield Container(path, [Member(path.name, about.st_size, stamp)], lambda name: path.read_bytes())


def _hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX/")) or "/." in name or "/__MACOSX/" in name


def _folder(path: Path) -> Container:
    """All files below a folder; a folder that links lead to again and again counts once."""
    found, waiting, known = list[Member](), [(path, "")], set[tuple[int, int]]()
    while waiting:
        folder, prefix = waiting.pop()
        about = folder.stat()
        if (about.st_dev, about.st_ino) in known:
            continue
        known.add((about.st_dev, about.st_ino))
        below = []
        with os.scandir(folder) as entries:
            for entry in entries:
                name = prefix + entry.name
                if _hidden(entry.name):
                    continue
                try:
                    if entry.is_dir():
                        below.append((Path(entry.path), name + "/"))
                        continue
                    seen = entry.stat()
                except OSError:  # a link to nothing: whoever reads it is told
                    found.append(Member(name, 0, ()))
                    continue
                stamp = seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns
                found.append(Member(name, seen.st_size, stamp))
        waiting += sorted(below, reverse=True)

    def read(name: str) -> bytes:
        with (path / name).open("rb") as file:
            size = os.fstat(file.fileno()).st_size  # more would be allocated before it is read
            return file.read(min(size, MOST_FILE))

    return Container(path, sorted(found), read)


def _safe(name: str) -> bool:
    """Whether a name in an archive is of a file inside it."""
    if name.startswith("/") or "\\" in name or ":" in name.partition("/")[0]:
        return False
    return ".." not in name or ".." not in name.split("/")


def _check_bomb(path: Path, declared: int) -> None:
    size = path.stat().st_size
    if declared > max(RATIO * size, FREE):
        raise DataError(
            f"{path}: {size:,} bytes that would expand to {declared:,}, as a zip bomb does; "
            f"expected at most {RATIO} times its size"
        )


def _outside(names: Sequence[str]) -> list[str]:
    """What to say of members whose names lead out of an archive."""
    if not names:
        return []
    what = counted(len(names), "member")
    return [f"{what} left out whose names lead out of the archive: {listed(names)}"]


def listed(names: Sequence[str], most: int = 3) -> str:
    """The first few names."""
    return ", ".join(map(shown, names[:most])) + ", …" * (len(names) > most)


def shown(name: str) -> str:
    """A name on one line, shortened."""
    text = name if len(name) <= 60 else f"…{name[-59:]}"
    return text if text.isprintable() else repr(text)


def _reader(file: BinaryIO) -> Callable[[int, int], bytes]:
    """Reads (offset, size) of an open file, from any thread."""
    if hasattr(os, "pread"):
        number = file.fileno()
        return lambda offset, size: os.pread(number, size, offset)
    lock = threading.Lock()

    def read(offset: int, size: int) -> bytes:
        with lock:
            file.seek(offset)
            return file.read(size)

    return read


_HEAD, _EXTRA = 30, 64  # bytes before a member's name in a zip; usually enough for what follows it


def _zip(path: Path, file: BinaryIO, archive: zipfile.ZipFile) -> Container:
    infos = [info for info in archive.infolist() if not info.is_dir()]
    if any(info.flag_bits & 1 for info in infos):
        raise DataError(f"{path}: encrypted; expected a zip without a password: write it again")
    if sum(info.compress_size for info in infos) > path.stat().st_size:
        raise DataError(f"{path}: members that overlap, as in a zip bomb; write it again")
    _check_bomb(path, sum(info.file_size for info in infos))
    inside = {info.filename: info for info in infos if _safe(info.filename)}
    outside = [info.filename for info in infos if info.filename not in inside]
    inside = {name: info for name, info in inside.items() if not _hidden(name)}
    members = [Member(n, i.file_size, (i.file_size, i.CRC)) for n, i in inside.items()]

    read_at = _reader(file)

    def read(name: str) -> bytes:
        info = inside[name]
        if info.file_size > MOST_FILE:
            raise OSError(None, f"over {MOST_FILE:,} bytes")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            return archive.read(info)
        # As zipfile does, but without its thirty calls a member.
        size = _HEAD + len(info.orig_filename.encode()) + _EXTRA + info.compress_size
        found = read_at(info.header_offset, size)
        if found[:4] != b"PK\x03\x04":
            raise zipfile.BadZipFile("no member where the directory says")
        start = _HEAD + int.from_bytes(found[26:28], "little")
        start += int.from_bytes(found[28:30], "little")
        content = found[start : start + info.compress_size]
        if len(content) < info.compress_size:
            content = read_at(info.header_offset + start, info.compress_size)
        if info.compress_type == zipfile.ZIP_DEFLATED:
            content = zlib.decompressobj(-15).decompress(content, max(info.file_size, 1))
        if len(content) != info.file_size or zlib.crc32(content) != info.CRC:
            raise zipfile.BadZipFile("its checksum is another")
        return content

    return Container(path, sorted(members), read, _outside(outside))


def _tar(path: Path, stack: contextlib.ExitStack) -> Container:
    """A tar; a compressed one is read from a scratch file, which has no name on the disk.

    If it is known which files that one holds, it is decompressed only when one of them is read.
    """
    with path.open("rb") as file:
        module = _decompressor(file.read(6))
    plain, stamp = _Plain(path, module, stack), tar_index.stamp(path)
    files = None if module is None else tar_index.kept(path, stamp)
    if files is None:
        archive = stack.enter_context(tarfile.TarFile(fileobj=plain.file()))
        infos = [info for info in archive if info.isfile()]
        files = [tar_index.File(info.name, info.size, info.offset_data) for info in infos]
        if module is not None and tar_index.stamp(path) == stamp:
            tar_index.keep(path, stamp, files)
    outside = [one.name for one in files if not _safe(one.name)]
    inside = {
        one.name.removeprefix("./"): one
        for one in files
        if _safe(one.name) and not _hidden(one.name.removeprefix("./"))
    }

    def read(name: str) -> bytes:
        return plain.read(inside[name].offset, min(inside[name].size, MOST_FILE))

    members = [Member(n, one.size, (one.size, one.offset, *stamp)) for n, one in inside.items()]
    return Container(path, sorted(members), read, _outside(outside))


class _Plain:
    """A tar's bytes, decompressed at the first use if they are not plain."""

    def __init__(self, path: Path, module: Any, stack: contextlib.ExitStack):
        self._path, self._module, self._stack = path, module, stack
        self._lock = threading.Lock()
        self._file: BinaryIO | None = None
        self._read: Callable[[int, int], bytes] | None = None

    def file(self) -> BinaryIO:
        if self._file is None:
            opened = self._path.open("rb") if self._module is None else self._decompressed()
            self._file = self._stack.enter_context(opened)
        return self._file

    def read(self, offset: int, size: int) -> bytes:
        """Some bytes, in any thread."""
        with self._lock:
            if self._read is None:
                with _telling(self._path):
                    self._read = _reader(self.file())
        return self._read(offset, size)

    def _decompressed(self) -> Any:
        most, done = max(RATIO * self._path.stat().st_size, FREE), 0
        with contextlib.ExitStack() as stack:
            scratch = stack.enter_context(tempfile.TemporaryFile())
            with self._module(self._path) as packed:
                while block := packed.read(2**20):
                    done += len(block)
                    if done > most:
                        _check_bomb(self._path, done)
                    scratch.write(block)
            scratch.seek(0)
            stack.pop_all()
            return scratch


def _decompressor(start: bytes) -> Any:
    import bz2
    import gzip
    import lzma

    known = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
    return next((module for magic, module in known.items() if start.startswith(magic)), None)
