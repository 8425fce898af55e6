"""The figures of a run, as shown in a notebook."""

from __future__ import annotations

import base64
import html
from pathlib import Path

from flaxvae.errors import DataError, command


class Gallery(tuple[Path, ...]):
    """Paths of PNG files; a notebook shows them as pictures."""

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
