"""Pages, such as report.html, and the digest at the end that tells whether one is whole."""

from __future__ import annotations

import hashlib
from pathlib import Path

from flaxvae import writing
from flaxvae.errors import DataError

NAME = "report.html"
_MARK = b"<!-- sha256 "


def write(path: Path, page: str) -> Path:
    """Write a page, and the sha256 of its bytes as the last line."""
    text = page.encode("utf-8", "replace")
    with writing.whole(path) as file:
        file.write(text + _MARK + hashlib.sha256(text).hexdigest().encode() + b" -->\n")
    return path


def check(path: Path) -> str:
    """The size of a page that is as it was written. Raises DataError if it is not."""
    raw = path.read_bytes()
    text, mark, end = raw.rpartition(_MARK)
    if not mark or not end.endswith(b" -->\n"):
        raise DataError("cut off, or not written by flaxvae: write it again with `flaxvae report`")
    digest = hashlib.sha256(text).hexdigest()
    if end.removesuffix(b" -->\n") != digest.encode():
        raise DataError("changed since it was written; write it again with `flaxvae report`")
    return f"{len(raw):,} bytes, sha256 as written"
