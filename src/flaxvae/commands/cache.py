"""flaxvae cache --clear photos"""

from __future__ import annotations


def cache(*, clear: tuple[str, ...] | None = None) -> list[str]:
    """List the decoded pictures and classifiers that are kept for the next time, or remove them.

    Args:
        clear: Remove these, by their names in the list, or by those of data; without a name, all.
    """
    import time

    from flaxvae import compilation
    from flaxvae.errors import counted
    from flaxvae.report import tables
    from flaxvae.runs import kept

    home = compilation.root()
    if home is None:
        return ["nothing is kept: FLAXVAE_CACHE_DIR is empty"]
    if clear is not None:
        gone = kept.clear(clear)
        size = sum(entry.size for entry in gone)
        return [f"removed {counted(len(gone), 'cache')}, {size / 1e6:,.1f} MB, from {home}"]
    rows = [("name", "images", "size", "MB", "last used", "source")]
    for entry in kept.entries():
        images = f"{entry.shape[0]:,}" if entry.shape else ""
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used))
        shape = "x".join(map(str, entry.shape[1:]))
        mb, source = f"{entry.size / 1e6:,.1f}", entry.source or "damaged"
        rows.append((entry.name, images, shape, mb, used, source))
    if len(rows) == 1:
        return [f"nothing is kept in {home}"]
    heading, *rest = rows
    return tables.columns(heading, rest, left=(0, 2, 4, 5))
