"""TensorBoard events, if tensorboardX is installed.

They are written in the calling thread: the thread of tensorboardX's own writer ends at the first
error, such as a full disk, and adding an event then blocks forever.
"""

from __future__ import annotations

import functools
import struct
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

GROUPS = ("train", "validation")


def tag(column: str) -> str:
    """TensorBoard's name for a column of metrics.jsonl: its group, then the rest of its name."""
    group, _, rest = column.partition("_")
    return f"{group}/{rest}" if group in GROUPS else column


class Events:
    """The file of one process; ``writer`` is tensorboardX's, or None, and nothing is written."""

    def __init__(self, writer: Any = None):
        self._writer = writer

    def add(self, row: Mapping[str, Any]) -> None:
        """A scalar for each number of a row of metrics.jsonl."""
        if self._writer is None:
            return
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        for name, value in row.items():
            if name not in ("epoch", "step"):
                summary = scalar(tag(name), value)
                event = Event(wall_time=time.time(), step=row["step"], summary=summary)
                self._writer.write_event(event)

    def flush(self) -> None:
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            with suppress(OSError):
                self._writer.close()


def writer(folder: Path) -> Events:
    """Events in a new file in ``folder``."""
    try:
        from tensorboardX.event_file_writer import EventsWriter
    except ImportError:
        return Events()
    folder.mkdir(exist_ok=True)
    return Events(EventsWriter(str(folder / "events")))


# ---- reading them back


def count(path: Path) -> tuple[int, bool]:
    """The number of events in a file, and whether the last is complete: it may have been cut off.

    Each event is a length and a content, both with a checksum (TensorFlow's record format).

    Raises ValueError if a checksum does not match.
    """
    raw, at, found = path.read_bytes(), 0, 0
    while len(raw) - at >= 12:
        (length,) = struct.unpack_from("<Q", raw, at)
        for start, size in ((at, 8), (at + 12, length)):
            if start + size + 4 > len(raw):
                return found, False
            if struct.unpack_from("<I", raw, start + size)[0] != _masked(raw[start : start + size]):
                raise ValueError(f"damaged in the {size:,} bytes after {start:,}")
        at, found = at + length + 16, found + 1
    return found, at == len(raw)


def _masked(data: bytes) -> int:
    """CRC-32C, masked as TensorFlow does."""
    crc, table = 0xFFFFFFFF, _table()
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@functools.cache
def _table() -> list[int]:
    found = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        found.append(byte)
    return found
