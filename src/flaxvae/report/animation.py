"""A walk through latent space as an animated picture that loops, GIF or WebP."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from flaxvae import writing
from flaxvae.report.page import colours

Array = np.ndarray

SIDE = 480  # pixels that the longer side of a frame aims at
PAUSE, FRAME = 600, 100  # milliseconds at each end, and between


def loop(path: Path, walks: Array) -> Path:
    """Walks [N, steps, H, W, C] in [0, 1] side by side, to their end and back, for ever.

    Each pixel becomes a whole square of screen pixels, as in figures.
    """
    from PIL import Image

    count, steps = walks.shape[:2]
    columns = int(np.ceil(np.sqrt(count)))
    rows = -(-count // columns)
    frames = []
    for step in [*range(steps), *range(steps - 2, 0, -1)]:
        tiles = [*colours(walks[:, step])]
        blank = [np.full_like(tiles[0], 255)] * (rows * columns - count)
        table = np.reshape([*tiles, *blank], (rows, columns, *tiles[0].shape))
        frame = np.concatenate([np.concatenate(row, 1) for row in table])
        scale = max(1, SIDE // max(frame.shape[:2]))
        frames.append(Image.fromarray(frame.repeat(scale, 0).repeat(scale, 1)))
    durations = [PAUSE if step in (0, steps - 1) else FRAME for step in range(len(frames))]
    kind = path.suffix.lower().removeprefix(".")
    lossless = {"lossless": True} if kind == "webp" else {"disposal": 1, "optimize": False}
    with writing.whole(path) as file:
        frames[0].save(
            file,
            kind.upper(),
            save_all=True,
            append_images=frames[1:],
            duration=durations,
            loop=0,
            **lossless,
        )
    return path
