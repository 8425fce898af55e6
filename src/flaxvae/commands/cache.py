"""flaxvae cache --clear photos"""

from __future__ import annotations


def cache(*, clear: tuple[str, ...] | None = None) -> list[str]:
    """List the decoded pictures that are kept for the next time, or remove them.

    Args:
        clear: Remove these, by the names that are listed; without a name, all.
    """
    import time

    from flaxvae.data import cache as kept
    from flaxvae.errors import counted
    from flaxvae.report import tables

    home = kept.folder()
    if home is None:
        return ["nothing is kept: FLAXVAE_CACHE_DIR is empty"]
    if clear is not None:
        gone = kept.clear(clear)
        size = sum(entry.size for entry in gone)
        return [f"removed {counted(len(gone), 'cache')}, {size / 1e6:,.1f} MB, from {home}"]
    rows = [("name", "images", "size", "MB", "last used", "source")]
    for entry in kept.entries():
        count, *sides = entry.shape or (0,)
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used))
        shape = "x".join(map(str, sides))
        mb, source = f"{entry.size / 1e6:,.1f}", entry.source or "damaged"
        rows.append((entry.name, f"{count:,}", shape, mb, used, source))
    if len(rows) == 1:
        return [f"no decoded pictures in {home}"]
    heading, *rest = rows
    return tables.columns(heading, rest, left=(0, 2, 4, 5))
