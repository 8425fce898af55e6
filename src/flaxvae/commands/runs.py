"""flaxvae runs --where model=beta_vae --sort elbo"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from flaxvae.declared import Count, typed
from flaxvae.flags import FoldersArgument

if TYPE_CHECKING:
    from flaxvae.report.terminal import Terminal
    from flaxvae.runs.listing import Entry


@typed
def runs(
    folders: FoldersArgument = ("runs",),
    *,
    where: tuple[str, ...] = (),
    sort: str = "created",
    reverse: bool = False,
    columns: tuple[str, ...] = (),
    members: bool = False,
    keep: Count | None = None,
    yes: bool = False,
) -> None:
    """List the runs in a folder, sorted and filtered; `flaxvae runs prune` removes some.

    Names are those of settings, of numbers in summary.json, and run, state (finished, training,
    stopped, damaged), model, data, epochs, created, parameters. elbo is of test images, in nats,
    and mostly negative: the table has -ELBO, and 'elbo>-100' chooses those below 100 in it. Only
    small files are read.

    Args:
        folders: Folders of runs, sweeps or runs. With the word prune before them, the runs that
            --where and --keep choose are shown, and with --yes removed: never one in training, a
            sweep or its members, nor what is no run or holds other files.
        where: Only runs of which all of these hold, such as 'beta>=4' 'model=*vae'; none stands for
            what is not known, and a value in further quotes for just that text.
        sort: In the order of this name, the newest, the largest ELBO, or the smallest first.
        reverse: In the opposite order.
        columns: Show these names rather than the usual ones.
        members: List the members of sweeps, too.
        keep: Of prune: spare the first this many in the order of --sort, of those that may be
            removed; what --sort names must be known of a run to be removed.
        yes: Of prune: remove, rather than show what would be removed.
    """
    from pathlib import Path

    from flaxvae.errors import UsageError
    from flaxvae.report import listed
    from flaxvae.report.terminal import Terminal
    from flaxvae.runs import listing, selection

    prunes = folders[:1] == ("prune",)
    if prunes:
        folders = folders[1:] or ("runs",)
    if prunes and not where and keep is None:
        raise UsageError(
            "prune without --where or --keep: expected which runs to remove, such as --where "
            "state=stopped, or --sort elbo --keep 5"
        )
    if not prunes and (yes or keep is not None):
        flag = "--yes" if yes else f"--keep {keep}"
        raise UsageError(f"{flag} has no effect without prune: expected `flaxvae runs prune`")
    found = listing.listing(folders, members)
    for name in columns:
        selection.check("columns", name, found.entries)
    selection.check("sort", sort, found.entries)
    chosen = selection.order(selection.where(found.entries, where), sort, reverse)
    columns = tuple(name.replace("-", "_") for name in columns)
    with Terminal() as terminal:
        if prunes:
            from flaxvae.runs import pruning  # it imports JAX

            _prune(chosen, keep, sort.replace("-", "_"), columns, yes, terminal)
            for folder in folders if yes else ():
                pruning.clear(Path(folder))
            return
        if chosen:
            terminal.table(listed.lines(chosen, columns, terminal.width))
        else:
            which = f" of {len(found.entries)}" if found.entries else ""
            terminal.note(f"no runs{which} in {', '.join(folders)}")
        for text in listed.remarks(chosen, [] if where else found.others):
            terminal.note(text)


def _prune(
    chosen: Sequence[Entry],
    keep: int | None,
    sort: str,
    columns: Sequence[str],
    yes: bool,
    terminal: Terminal,
) -> None:
    """Show which of ``chosen`` may be removed, but the first ``keep``; or remove them."""
    from flaxvae.errors import DataError, FlaxvaeError, counted
    from flaxvae.report import listed
    from flaxvae.runs import listing, pruning

    reasons = {each.path: pruning.spared(each) for each in chosen}
    if keep is not None:
        for each in chosen:
            if not reasons[each.path] and sort not in listing.facts(each):
                reasons[each.path] = f"no {sort} is known of it, so it has no place in the order"
    doomed = [each for each in chosen if not reasons[each.path]][keep or 0 :]
    sizes = {each.path: pruning.size(each.path) for each in doomed}
    if doomed:
        terminal.table(listed.lines(doomed, columns, terminal.width))
    failed = {}
    for each in doomed if yes else []:
        try:
            pruning.remove(each)
        except (FlaxvaeError, OSError) as error:
            failed[each.path] = str(error)
    for path, reason in {**reasons, **failed}.items():
        if reason:
            terminal.note(f"left alone: {path.name}: {reason}")
    gone = [size for path, size in sizes.items() if path not in failed]
    what = f"{counted(len(gone), 'run')}, {sum(gone) / 1e6:,.1f} MB"
    if failed:
        raise DataError(f"removed {what}; not removed: {', '.join(map(str, failed))}")
    terminal.note(f"removed {what}" if yes else f"nothing is removed; with --yes, {what} would be")
