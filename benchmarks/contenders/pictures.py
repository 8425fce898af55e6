"""Pictures of a folder or a zip to rows: into flaxvae's cache, and by a bare loop over Pillow."""

from __future__ import annotations

import io
import os
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from benchmarks.case import Case
from flaxvae import machine
from flaxvae.data import cache as caches
from flaxvae.data import containers
from flaxvae.data.decode import CHUNK, Asked
from flaxvae.data.pictures import SIZE

MIXED = 20_000  # pictures of a folder that is made


def cache(case: Case):
    """All that a first start does: what the pictures are like, decoding, writing, hashing."""
    opened = containers.opened(Path(case.pictures))
    container = opened.__enter__()
    names = [member.name for member in container.members][: case.images]

    def run(steps: int, opened: object = opened) -> None:
        for _ in range(steps):
            with tempfile.TemporaryDirectory() as home:
                os.environ["FLAXVAE_CACHE_DIR"] = home
                asked = Asked(None, "crop", "white")
                found = caches.decoded(container, [names], asked, "pictures")
                assert len(found.x) == len(names)

    return run


def pillow(case: Case):
    """Open, convert, resize where sizes differ, as an array: with as many threads."""
    with containers.opened(Path(case.pictures)) as container:
        names = [member.name for member in container.members][: case.images]
    archive = zipfile.ZipFile(case.pictures) if case.pictures.endswith(".zip") else None

    def read(name: str) -> bytes:
        return archive.read(name) if archive else Path(case.pictures, name).read_bytes()

    def rows(some: list[str]) -> np.ndarray:
        found = []
        for name in some:
            with Image.open(io.BytesIO(read(name))) as image:
                rgb = image.convert("RGB")
                if case.size != rgb.width or case.size != rgb.height:
                    rgb = ImageOps.fit(rgb, (case.size, case.size), Image.Resampling.BICUBIC)
                found.append(np.asarray(rgb))
        return np.stack(found)

    def run(steps: int) -> None:
        chunks = [names[i : i + CHUNK] for i in range(0, len(names), CHUNK)]
        for _ in range(steps):
            with ThreadPoolExecutor(machine.cores()) as pool:
                assert sum(map(len, pool.map(rows, chunks))) == len(names)

    return run


def make(folder: Path, count: int = MIXED) -> None:
    """Colour JPEGs of many sizes, smooth as photographs are."""

    def one(number: int) -> None:
        generator = np.random.default_rng(number)
        small = Image.fromarray(generator.integers(0, 256, (12, 12, 3), np.uint8))
        width, height = map(int, generator.integers(SIZE[0], 5 * SIZE[0], 2))
        image = small.resize((width, height), Image.Resampling.BICUBIC)
        image.save(folder / f"{number:05}.jpg", quality=85)

    with ThreadPoolExecutor(machine.cores()) as pool:
        list(pool.map(one, range(count)))


CONTENDERS = {"pictures cache": cache, "pictures pillow": pillow}
