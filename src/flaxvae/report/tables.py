"""Tables of text, for a terminal and in Markdown. Nothing here imports JAX."""

from __future__ import annotations

from collections.abc import Sequence

from flaxvae.errors import visible

Rows = Sequence[Sequence[str]]


def columns(headings: Sequence[str], rows: Rows, left: Sequence[int] = (0,)) -> list[str]:
    """Rows under their headings; the columns ``left`` begin at the left, all others end aligned."""
    headings, *rows = [[visible(cell) for cell in row] for row in (headings, *rows)]
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [headings, *rows]
    ]


def labelled(headings: Sequence[str], cells: Rows, labels: Sequence[str], width: int) -> list[str]:
    """Rows of numbers beside their labels; if that is too wide, each label stands above its own."""
    wide = columns(["", *headings], [[x, *row] for x, row in zip(labels, cells, strict=True)])
    if max(map(len, wide)) <= width:
        return wide
    heading, *rows = columns(headings, cells, left=())
    return [heading, *(line for pair in zip(labels, rows, strict=True) for line in pair)]


def markdown(headings: Sequence[str], cells: Rows, labels: Sequence[str], first: str) -> str:
    """The same table in Markdown; ``first`` heads the labels."""
    rows = [[first, *headings], ["---"] + ["---:"] * len(headings)]
    rows += [[name, *row] for name, row in zip(labels, cells, strict=True)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
