"""Runs as a table for a terminal. Nothing here imports JAX."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flaxvae.declared import short
from flaxvae.errors import counted
from flaxvae.report import tables
from flaxvae.runs import listing
from flaxvae.runs.listing import Entry

# What a table shows as far as there is room, the more important first, and in which order.
USUAL = ("run", "state", "elbo", "epochs", "model", "kl", "data", "created", "mse")
ORDER = ("run", "data", "model", "state", "epochs", "elbo", "kl", "mse", "created")
LEFT = ("run", "data", "model", "state", "created", "kind")
HEADINGS = {"elbo": "-ELBO", "kl": "KL", "mse": "MSE", "bits_per_dim": "bits/dim"}


def lines(entries: Sequence[Entry], chosen: Sequence[str] = (), width: int = 80) -> list[str]:
    """The table: of ``chosen`` columns, or of as many of the usual ones as have room."""
    known = [listing.facts(each) for each in entries]
    wanted = ["run", *(name for name in chosen if name != "run")] if chosen else USUAL
    columns = {
        name: [_cell(name, each, found) for each, found in zip(entries, known, strict=True)]
        for name in wanted
    }
    if not chosen:
        columns = _fitting({name: cells for name, cells in columns.items() if any(cells)}, width)
    headings = [_heading(name) for name in columns]
    left = [i for i, name in enumerate(columns) if name in LEFT]
    return tables.columns(headings, [*zip(*columns.values(), strict=True)], left)


def _fitting(columns: Mapping[str, list[str]], width: int) -> dict[str, list[str]]:
    """Of columns in the order of their importance those that have room, as they are shown."""
    room, kept = width + 2, list[str]()
    for name, cells in columns.items():
        takes = max(map(len, [_heading(name), *cells])) + 2
        if not kept or takes <= room:
            kept.append(name)
            room -= takes
    return {name: columns[name] for name in ORDER if name in kept}


def _heading(name: str) -> str:
    return HEADINGS.get(name, name.replace("_", "-"))


def _cell(name: str, entry: Entry, known: Mapping[str, Any]) -> str:
    if name == "epochs":
        return _epochs(entry, known)
    if name == "run":
        return _called(entry)
    if (value := known.get(name)) is None:
        return ""
    return _SHOWN.get(name, _plain)(value)


def _called(entry: Entry) -> str:
    """A run's name; of a member of a sweep, that of the sweep too; of a sweep, how many it has."""
    if entry.kind == "sweep":
        return f"{entry.path.name}/ ({len(entry.record.get('members', []))})"
    inside = (entry.path.parent / "sweep.json").exists()
    return f"{entry.path.parent.name}/{entry.path.name}" if inside else entry.path.name


def _epochs(entry: Entry, known: Mapping[str, Any]) -> str:
    done, asked = known.get("epochs"), entry.record.get("training", {}).get("epochs")
    if entry.kind == "sweep":
        asked = entry.record.get("settings", {}).get("epochs")
        return "" if asked is None else str(asked)
    if entry.state in ("finished", "damaged"):
        return "" if done is None else str(done)
    return f"{done or 0}/{asked or '?'}"


def _plain(value: Any) -> str:
    if isinstance(value, float) and not value.is_integer():
        return f"{value:.4g}"
    return short(value)


def _nats(value: Any) -> str:
    return f"{value:,.2f}"


_SHOWN: dict[str, Callable[[Any], str]] = {
    "elbo": lambda x: _nats(-x),
    "kl": _nats,
    "reconstruction": _nats,
    "mse": lambda x: f"{x:.5f}",
    "bits_per_dim": lambda x: f"{x:.4f}",
    "parameters": lambda x: f"{x:,}",
    "created": lambda x: str(x)[:16].replace("T", " "),
}


def remarks(entries: Sequence[Entry], others: Sequence[Any], most: int = 3) -> list[str]:
    """What to know of the folders: which are damaged, and which are no runs."""
    damaged = [each for each in entries if each.state == "damaged"]
    said = [each.why for each in damaged[:most]]
    if len(damaged) > most:
        said.append(
            f"{counted(len(damaged) - most, 'more run')} damaged; `flaxvae verify` says why"
        )
    if others:
        named = ", ".join(path.name for path in others[:most]) + ", …" * (len(others) > most)
        said.append(f"no runs: {named}")
    return said
