"""What a contender is asked to do, and the images it does it on."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from benchmarks.nets import DEEP, NETS, SIZE, Net

IMAGES = 60_000  # as many as MNIST has to train on


@dataclasses.dataclass(frozen=True)
class Case:
    """One network, one batch size, one size of image."""

    net: str
    batch: int = 128
    size: int = SIZE
    channels: int = 1  # of an image
    devices: int = 1
    k: int = 5000  # importance samples, for likelihoods
    images: int = IMAGES
    pictures: str = ""  # the path of a folder or a zip, where it is about those
    exported: str = ""  # the path of a folder of a run and its exports

    @property
    def shape(self) -> Net:
        return (NETS | DEEP)[self.net]

    def data(self) -> np.ndarray:
        """uint8 images [N, size, size], or [N, size, size, 3] of colour.

        The time of a step does not depend on what they show.
        """
        generator, shape = np.random.default_rng(0), (self.images, self.size, self.size)
        colour = (self.channels,) if self.channels > 1 else ()
        return generator.integers(0, 256, (*shape, *colour), np.uint8)

    def write(self, path: Path) -> None:
        """Such images as an .npy file, a few at a time."""
        shape, generator = (self.images, self.size, self.size, 1), np.random.default_rng(0)
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        with path.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for start in range(0, self.images, 10_000):
                some = min(10_000, self.images - start), *shape[1:]
                file.write(generator.integers(0, 256, some, np.uint8).tobytes())
