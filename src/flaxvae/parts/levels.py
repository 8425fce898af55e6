"""What the levels of a hierarchy of latents are called, and which columns of the KL are whose.

A level may have several blocks, each with latents of its own given all above; the KL has a column
for each. Everywhere the level next to the data comes first, and of its blocks the lowest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class Levels(NamedTuple):
    """The levels of a hierarchy, the one next to the data first."""

    names: tuple[str, ...]  # "14x14", the size of its maps, or "level 1"
    blocks: tuple[int, ...]  # how many each has
    sizes: tuple[int, ...]  # numbers in z of one of its blocks

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the KL's columns: "14x14 block 2", "14x14 block 1", "1x1"."""
        return tuple(
            f"{name} block {block}" if count > 1 else name
            for name, count in zip(self.names, self.blocks, strict=True)
            for block in range(count, 0, -1)
        )

    @property
    def keys(self) -> tuple[str, ...]:
        """What metrics call the KL's columns: "kl_14x14_block_2"."""
        return tuple("kl_" + name.replace(" ", "_") for name in self.columns)

    @property
    def unit(self) -> str:
        """What a column is."""
        return "block" if max(self.blocks) > 1 else "level"

    def each(self, values: Sequence[Any]) -> tuple[Any, ...]:
        """A value of each level as one of each column."""
        return tuple(np.repeat(np.asarray(values), self.blocks).tolist())

    def sums(self, columns: Any) -> Any:
        """Sums over the blocks of each level: [..., columns] -> [..., levels]."""
        mine = np.repeat(np.eye(len(self.blocks), dtype=np.float32), self.blocks, axis=0)
        return columns @ mine
