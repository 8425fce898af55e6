"""Whether one file of a run folder is whole: each check says what it has, or raises DataError."""

from __future__ import annotations

import csv
import math
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from flaxvae.declared import Positive
from flaxvae.errors import DataError, counted
from flaxvae.runs import anomaly, events, records


def finite(value: Any, where: str = "") -> None:
    """Raises DataError, naming the first number in a JSON value that is not finite."""
    if isinstance(value, dict):
        for name, each in value.items():
            finite(each, f"{where}{name} ")
    elif isinstance(value, list):
        for each in value:
            finite(each, where)
    elif isinstance(value, float) and not math.isfinite(value):
        raise DataError(f"{where}is {value}: expected a finite number")


def png(path: Path) -> str:
    """Check that every chunk of a PNG is there with its checksum, and has all rows of pixels."""
    raw = path.read_bytes()
    if not raw.startswith(b"\x89PNG\r\n\x1a\n"):
        raise DataError(f"begins with {raw[:8]!r}: expected a PNG")
    at, kind, chunks = 8, b"", dict[bytes, bytes]()
    try:
        while kind != b"IEND":
            size, kind = struct.unpack_from(">I4s", raw, at)
            (checksum,) = struct.unpack_from(">I", raw, at + 8 + size)
            if zlib.crc32(raw[at + 4 : at + 8 + size]) != checksum:
                raise DataError(f"damaged in the {size:,} bytes after {at:,}; draw it again")
            chunks[kind] = chunks.get(kind, b"") + raw[at + 8 : at + 8 + size]
            at += 12 + size
        width, height, bits, colour, *_, woven = struct.unpack(">IIBBBBB", chunks.get(b"IHDR", b""))
    except struct.error:
        raise DataError(f"cut off after {len(raw):,} bytes; draw it again") from None
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(colour, 0)
    expected = height * (1 + -(-width * bits * channels // 8))  # a row's bytes, and its filter
    try:
        pixels = zlib.decompressobj()
        seen = len(pixels.decompress(chunks.get(b"IDAT", b""), expected + 1))
    except zlib.error as error:
        raise DataError(f"its pixels are damaged ({error}); draw it again") from None
    if not woven and seen != expected:
        raise DataError(f"{seen:,} bytes of pixels: expected {expected:,}; draw it again")
    return "whole"


class _Evaluation(TypedDict):
    images: Positive
    split: NotRequired[str]


def evaluation(path: Path) -> str:
    found = records.read(path, _Evaluation, "write it again")
    finite(found)
    return f"{counted(found['images'], 'image')}, {found.get('split', 'test')}"


class _Disentanglement(TypedDict):
    images: Positive
    factors: list[str]


def disentanglement(path: Path) -> str:
    found = records.read(path, _Disentanglement, "write it again")
    finite(found)
    return f"{counted(found['images'], 'image')}, {counted(len(found['factors']), 'factor')}"


def scores(path: Path) -> str:
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        header, *rows = list(csv.reader(file)) or [[]]
    if header[:1] not in (["file"], ["index"]) or header[1:2] != ["score"]:
        raise DataError("other columns than file or index, score: write it again")
    for number, row in enumerate(rows, 2):
        try:
            whole = len(row) == len(header) and isinstance(float(row[1]), float)
        except ValueError:
            whole = False
        if not whole:
            raise DataError(f"line {number} is incomplete: write it again")
    return counted(len(rows), "score")


def own_scores(path: Path) -> str:
    found = anomaly.read(path)
    finite(found)
    images = counted(found["held_out_images"], "held-out image")
    return f"{counted(len(found['scores']), 'score')} of the run's own images, {images}"


def tensorboard(path: Path) -> str:
    try:
        count, whole = events.count(path)
    except ValueError as error:
        raise DataError(f"{error}; metrics.jsonl has the same numbers") from None
    return counted(count, "event") + ("" if whole else ", the last one incomplete")


def arrays(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as file:
            damaged = file.testzip()
            names = file.namelist()
    except OSError:
        raise
    except Exception as error:  # zipfile and zlib raise almost anything on damage
        raise DataError(f"cannot be read ({error})") from None
    if damaged:
        raise DataError(f"its {damaged} is damaged")
    return ", ".join(name.removesuffix(".npy") for name in names)
