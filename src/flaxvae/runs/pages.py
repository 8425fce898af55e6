"""Pages, such as report.html, and the digest at the end that tells whether one is whole."""

from __future__ import annotations

import hashlib
from pathlib import Path

from flaxvae import writing
from flaxvae.errors import DataError

NAME = "report.html"
_MARK = b"<!-- sha256 "
_OF = b"<!-- variables_sha256 "


def write(path: Path, page: str, variables: str | None = None) -> Path:
    """Write a page, the sha256 of the model's variables if it shows one, and as the last line the
    sha256 of all bytes before."""
    text = page.encode("utf-8", "replace")
    if variables is not None:
        text += _OF + variables.encode() + b" -->\n"
    with writing.whole(path) as file:
        file.write(text + _MARK + hashlib.sha256(text).hexdigest().encode() + b" -->\n")
    return path


def check(path: Path) -> tuple[str | None, str]:
    """The sha256 of the variables that a page shows, if it does, and its size.

    Raises DataError if it is not as it was written.
    """
    raw = path.read_bytes()
    text, mark, end = raw.rpartition(_MARK)
    if not mark or not end.endswith(b" -->\n"):
        raise DataError("cut off, or not written by flaxvae: write it again with `flaxvae report`")
    digest = hashlib.sha256(text).hexdigest()
    if end.removesuffix(b" -->\n") != digest.encode():
        raise DataError("changed since it was written; write it again with `flaxvae report`")
    *_, last = text.rstrip(b"\n").split(b"\n")
    variables = last.removeprefix(_OF).removesuffix(b" -->").decode("ascii", "replace")
    shown = variables if last.startswith(_OF) else None
    return shown, f"{len(raw):,} bytes, sha256 as written"
