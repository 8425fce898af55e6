"""Levels of maps in a deep hierarchy: which resolutions have latents, and how many blocks of them.

Their sides are those of an image that is halved again and again: 28, 14, 7, 4, 2, 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from flaxvae.errors import UsageError
from flaxvae.parts.convolutions import Size, small_size
from flaxvae.parts.levels import Levels


def halvings(size: Size) -> list[Size]:
    """Height and width of an image and after each halving, down to one point."""
    sizes = [size]
    while sizes[-1] != (1, 1):
        sizes.append(small_size(sizes[-1], 2))
    return sizes


class Level(NamedTuple):
    """Blocks at one resolution."""

    size: Size  # height and width of its maps
    blocks: int
    width: int  # channels of the stream
    latents: int  # channels of a block's z


def by_default(size: Size) -> list[str]:
    """Levels that suit an image, as ``levels`` takes them: 14x2, 7x3, 4x2, 1x1 for 28 x 28."""
    sides = [max(one) for one in halvings(size)[1:] or [size]]
    kept = [side for side in sides if side != 2 or side == sides[0]]
    return [f"{side}x{1 if side == 1 else 3 if 4 < side < 8 else 2}" for side in kept]


def levels(
    size: Size, given: Sequence[str], width: int, latents: Sequence[int]
) -> tuple[Level, ...]:
    """Levels from words.

    Args:
        size: height and width of the image.
        given: SIDExBLOCKS of each level, largest first; SIDE is the longer side of its maps. By
            default as ``by_default`` says.
        width: channels of the largest maps; those of half the size have twice as many, up to
            four times this.
        latents: channels of z in each level; by default 16 divided by the side, at least 1.

    Raises:
        UsageError: no such word, a side that halving the image does not give, or sides that do
            not become smaller.
    """
    found, sides = list[Level](), [max(one) for one in halvings(size)]
    for word in given or by_default(size):
        side, _, blocks = word.partition("x")
        if not (_short(side) and _short(blocks) and int(blocks)):
            raise UsageError(f"--levels {word}: expected SIDExBLOCKS, such as 14x3")
        if int(side) not in sides:
            reached = ", ".join(map(str, dict.fromkeys(sides)))
            raise UsageError(
                f"--levels {word}: an image of {size[0]}x{size[1]} has no maps of side {side}: "
                f"expected one of {reached}"
            )
        if found and int(side) >= max(found[-1].size):
            raise UsageError(f"--levels {word}: expected the largest maps first, each side once")
        own = halvings(size)[sides.index(int(side))]
        channels = width * min(4, 2 ** len(found))
        found.append(Level(own, int(blocks), channels, max(1, round(16 / int(side)))))
    if latents and (len(latents) != len(found) or min(latents) < 1):
        raise UsageError(
            f"--latent-channels {' '.join(map(str, latents))}: expected {len(found)} numbers, 1 or "
            "more each, one for each level"
        )
    if latents:
        found = [one._replace(latents=c) for one, c in zip(found, latents, strict=True)]
    return tuple(found)


def _short(number: str) -> bool:
    """A number in up to four digits, more than any machine has memory for."""
    return number.isdecimal() and number.isascii() and len(number) <= 4


def described(levels: Sequence[Level]) -> Levels:
    """What levels are called, by the size of their maps."""
    return Levels(
        tuple(f"{one.size[0]}x{one.size[1]}" for one in levels),
        tuple(one.blocks for one in levels),
        tuple(math.prod(one.size) * one.latents for one in levels),
    )
