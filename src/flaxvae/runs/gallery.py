"""Figures of a run as a notebook shows them."""

from __future__ import annotations

import base64
import html
from pathlib import Path

from flaxvae.errors import DataError, command


class Gallery(tuple[Path, ...]):
    """Paths of PNG files; the last value of a notebook's cell, it shows the pictures."""

    def _repr_html_(self) -> str:
        shown = []
        for path in self:
            data, name = base64.b64encode(path.read_bytes()).decode(), html.escape(path.stem)
            picture = (
                f'<img alt="{name}" style="max-width: 100%" src="data:image/png;base64,{data}">'
            )
            shown.append(f"<figure><figcaption>{name}</figcaption>{picture}</figure>")
        return "\n".join(shown)


def gallery(folder: Path) -> Gallery:
    """The PNG files of a folder. Raises DataError if there is none."""
    found = sorted(folder.glob("*.png"))
    if not found:
        draw = command("flaxvae", "figures", folder.parent)
        raise DataError(f"no figures in {folder}: expected some; `{draw}` draws them")
    return Gallery(found)
