"""The safetensors format: arrays by name, and a few words, in a file that cannot hold code.

Eight bytes say how long the header is; the header is JSON, which gives each array its type, shape
and place; the arrays' bytes follow. It is simple enough to need no package.
https://huggingface.co/docs/safetensors
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from flaxvae import writing
from flaxvae.errors import DataError
from flaxvae.runs import records

TYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "u1",
    "BOOL": "?",
}
_NAMES = {np.dtype(kind): name for name, kind in TYPES.items()}
_LARGEST = 100_000_000  # bytes of a header, as the format allows
_ALIGNED = 8


def write(path: Path, arrays: Mapping[str, np.ndarray], words: Mapping[str, str]) -> None:
    """Write arrays by name, with ``words`` as the file's metadata."""
    kept = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    header: dict[str, object] = {"__metadata__": dict(words)}
    at = 0
    for name, array in kept.items():
        header[name] = {
            "dtype": _NAMES[array.dtype.newbyteorder("<")],
            "shape": list(array.shape),
            "data_offsets": [at, at + array.nbytes],
        }
        at += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % _ALIGNED)
    with writing.whole(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in kept.values():
            file.write(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays of a file by name, bfloat16 as float32, and its metadata.

    Raises DataError if it is damaged.
    """
    try:
        return _read(path.read_bytes())
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise DataError(
            f"{path} is damaged ({str(error) or type(error).__name__}): expected a safetensors "
            "file; write it again"
        ) from None


def _read(raw: bytes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    size = int.from_bytes(raw[:8], "little")
    if len(raw) < 8 or size > min(_LARGEST, len(raw) - 8):
        raise ValueError(f"{len(raw):,} bytes, shorter than its header says")
    header, body = records.parse(raw[8 : 8 + size]), memoryview(raw)[8 + size :]
    words = header.pop("__metadata__", {})
    found: dict[str, np.ndarray] = {}
    for name, about in header.items():
        start, end = about["data_offsets"]
        shape = tuple(map(int, about["shape"]))
        half = about["dtype"] == "BF16"
        if not half and about["dtype"] not in TYPES:
            raise ValueError(f"{name} of type {about['dtype']}")
        kind = np.dtype("<u2" if half else TYPES[about["dtype"]])
        if not 0 <= start <= end <= len(body) or min(shape, default=0) < 0:
            raise ValueError(f"{name} lies beyond its end")
        array = np.frombuffer(body[start:end], kind).reshape(shape)
        found[name] = widened(array) if half else array
    return found, words


def widened(bits: np.ndarray) -> np.ndarray:
    """bfloat16, given as its bits, as float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)
