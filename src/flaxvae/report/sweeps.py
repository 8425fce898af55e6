"""A sweep as text: its header, and the table of its settings for a terminal and in Markdown."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flaxvae.data.pipeline import Data
from flaxvae.errors import counted
from flaxvae.plan import Plan
from flaxvae.report import tables, words
from flaxvae.training.members import Group

Row = Mapping[
    str, Any
]  # of the table: settings, seeds, diverged, and {"mean", "std"} of each measure
MEASURES = {  # of an evaluation: column heading, sign, decimals
    "elbo": ("-ELBO", -1, 2),
    "reconstruction": ("reconstruction", 1, 2),
    "kl": ("KL", 1, 2),
    "active_units": ("active", 1, 1),
    "active_blocks": ("blocks used", 1, 1),
    "codes_used": ("codes used", 1, 1),
    "mse": ("MSE", 1, 5),
    "bits_per_dim": ("bits/dim", 1, 3),  # where likelihoods differ: -ELBOs cannot be compared
}
NOTE = "mean ± standard deviation over seeds, of test images"


def label(settings: Mapping[str, Any]) -> str:
    """Settings as text: "beta 1, learning-rate 0.001"."""
    return ", ".join(f"{name.replace('_', '-')} {words.value(x)}" for name, x in settings.items())


def header(
    plan: Plan,
    varied: Mapping[str, Sequence[Any]],
    seeds: Sequence[int],
    groups: Sequence[Group],
    data: Data,
    devices: str,
    path: Path,
) -> dict[str, str]:
    """What is about to be trained; ``plan`` is any member's."""
    sizes = [len(group.members) for group in groups]
    settings = counted(sum(sizes) // len(seeds), "setting")
    together = "one compilation for all"
    if len(groups) > 1:
        each = ", ".join(map(str, sizes))
        together = f"{len(groups)} compilations, one after another, for {each} members"
    fixed = {k: v for k, v in plan.arguments.items() if k not in varied}
    return {
        "sweep": f"{counted(sum(sizes), 'member')}: {settings} x {counted(len(seeds), 'seed')}, "
        f"from {seeds[0]}",
        "varied": "; ".join(
            f"{name.replace('_', '-')} {', '.join(map(words.value, values))}"
            for name, values in varied.items()
        )
        or "the seed",
        "programs": together,
        "model": f"{plan.model} ({words.choices(dataclasses.replace(plan, arguments=fixed))})",
        "data": words.data_line(data),
        "training": words.training_line(plan.training, varied),
        "devices": devices,
        "units": words.units(member.recipe for group in groups for member in group.members),
        "folder": words.relative(path),
    }


def _cell(row: Row, name: str) -> str:
    if name not in row:
        return "" if row["seeds"] else "diverged"
    _, sign, places = MEASURES[name]
    mean, std = sign * row[name]["mean"], row[name]["std"]
    places = places if abs(mean) < 1000 else 0
    return f"{mean:,.{places}f}" + ("" if std is None else f" ± {std:,.{places}f}")


def cells(table: Sequence[Row]) -> tuple[list[str], list[list[str]], list[str]]:
    """A table's headings, its cells, and the names of its rows."""
    measures = [name for name in MEASURES if any(name in row for row in table)]
    if {"active_blocks", "active_units"} <= {*measures}:  # of an older flaxvae's hierarchies
        measures.remove("active_units")
    if not any("likelihood" in row["settings"] for row in table):
        measures = [name for name in measures if name != "bits_per_dim"]
    headings = [MEASURES[name][0] for name in measures]
    labels = []
    for row in table:
        lost = len(row["diverged"])
        part = f" ({row['seeds']} of {counted(row['seeds'] + lost, 'seed')})" if lost else ""
        labels.append((label(row["settings"]) or "all") + part)
    return headings, [[_cell(row, name) for name in measures] for row in table], labels


def table(
    settings: Sequence[Mapping[str, Any]],
    members: Sequence[Mapping[str, Any]],
    tests: Mapping[str, Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """Mean and standard deviation over seeds of each setting's evaluations.

    Args:
        settings: those of the rows.
        members: as sweep.json lists them.
        tests: the numbers on test images of members by name; of those that diverged, none.
    """
    rows = []
    for chosen in settings:
        called = label(chosen)
        alike = [member for member in members if label(member["settings"]) == called]
        finite = [tests[member["name"]] for member in alike if member["name"] in tests]
        row: dict[str, Any] = {
            "settings": chosen,
            "seeds": len(finite),
            "diverged": [member["seed"] for member in alike if member["diverged"] is not None],
        }
        for name in MEASURES:
            values = [test[name] for test in finite if name in test]
            if values:
                std = float(np.std(values, ddof=1)) if len(values) > 1 else None
                row[name] = {"mean": float(np.mean(values)), "std": std}
        rows.append(row)
    return rows


def lines(table: Sequence[Row], width: int = 80) -> list[str]:
    """A table for a terminal; if it is too wide, each row's settings stand above its numbers."""
    return tables.labelled(*cells(table), width)


def markdown(title: str, facts: Mapping[str, str], table: Sequence[Row]) -> str:
    """The contents of sweep.md."""
    headings, rows, labels = cells(table)
    listed = "\n".join(f"- {name}: {text}" for name, text in facts.items())
    drawn = tables.markdown(headings, rows, labels, "setting")
    return "\n\n".join([f"# {title}", f"{listed}", f"{drawn}", f"{NOTE}.", *remarks(table)]) + "\n"


def remarks(table: Sequence[Row]) -> list[str]:
    """Lines on the members that are left out."""
    return [
        f"diverged, left out: {label(row['settings'])}"
        f"{', ' * bool(row['settings'])}seed{'s' * (len(row['diverged']) > 1)} "
        + ", ".join(map(str, row["diverged"]))
        for row in table
        if row["diverged"]
    ]
