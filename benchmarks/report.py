"""docs/benchmarks.md and its plot, from the kept results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent.parent / "docs"


def _machine(record: dict[str, Any]) -> str:
    m = record["machine"]
    versions = ", ".join(f"{name} {m[name]}" for name in ("python", "jax", "flax"))
    return f"{m['processor']}, {m['cores']} cores, {m['device']}; {versions}; {m['date']}"


def _training(record: dict[str, Any]) -> list[str]:
    lines = []
    for row in record["rows"]:
        lines += [f"**{row['label']}**, batch {row['batch']}", ""]
        lines += [
            "| | images/s | flaxvae is | of the GEMM peak | peak memory |",
            "|---|---|---|---|---|",
        ]
        for name, found in row["found"].items():
            if name == "gemm":
                continue
            times = "" if name == "flaxvae" else f"{found['ratio']:.2f}x"
            spread = f"{found['rate']:,.0f} ({found['low']:,.0f} to {found['high']:,.0f})"
            lines.append(
                f"| {name} | {spread} | {times} | {100 * found['of_peak']:.0f} % | "
                f"{found['peak_mib']:,.0f} MiB |"
            )
        lines.append("")
    return lines


def _growth(record: dict[str, Any]) -> list[str]:
    lines = ["| conv net | flaxvae, images/s | PyTorch on tensors, images/s |", "|---|---|---|"]
    for row in record["rows"]:
        found = row["found"]
        theirs = found.get("torch tensors")
        told = f"{theirs['rate']:,.0f}" if theirs else ""
        lines.append(f"| {row['what']} {row['value']} | {found['flaxvae']['rate']:,.0f} | {told} |")
    return [*lines, ""]


def _likelihood(record: dict[str, Any]) -> list[str]:
    lines = ["| k = 5,000, mlp 784-200-200-50 | images/s | of the GEMM peak |", "|---|---|---|"]
    row = record["rows"][0]
    for name, found in row["found"].items():
        if name != "gemm":
            told = f"{found['rate']:,.1f} | {100 * found['of_peak']:.0f} %"
            lines.append(f"| {name.removesuffix(' likelihood')} | {told} |")
    return [*lines, "", f"Temporary memory: {row['temporary_mib']:.1f} MiB.", ""]


def _start(record: dict[str, Any]) -> list[str]:
    seconds = record["rows"][0]["seconds"]
    names = {
        "cold": "`flaxvae train` to its first step, nothing compiled before",
        "warm": "the same with a warm compilation cache",
        "help": "`flaxvae train --help`",
    }
    lines = ["| | seconds |", "|---|---|"]
    return [*lines, *(f"| {told} | {seconds[name]:.2f} |" for name, told in names.items()), ""]


SECTIONS = {
    "training": ("Training", _training),
    "growth": ("Growth", _growth),
    "likelihood": ("Likelihood", _likelihood),
    "start": ("Start", _start),
}


def _plot(record: dict[str, Any], path: Path) -> None:
    """Bars: training images/s of all contenders, by network."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = record["rows"]
    figure, axes = plt.subplots(1, len(rows), figsize=(10, 2.8), layout="constrained")
    for axis, row in zip(axes, rows):
        found = {n: f for n, f in row["found"].items() if n != "gemm"}
        names = list(found)[::-1]
        rates = [found[name]["rate"] for name in names]
        spread = [
            [found[n]["rate"] - found[n]["low"] for n in names],
            [found[n]["high"] - found[n]["rate"] for n in names],
        ]
        colours = ["#1f6feb" if name == "flaxvae" else "#b8c0cc" for name in names]
        axis.barh(names, rates, xerr=spread, color=colours, error_kw={"lw": 0.8, "capsize": 2})
        axis.set_title(row["label"], fontsize=9)
        axis.set_xlabel("training images/s", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
        axis.xaxis.set_major_locator(plt.MaxNLocator(4))
        if axis is not axes[0]:
            axis.set_yticklabels([])
    figure.savefig(path, dpi=160)
    plt.close(figure)


def write(results: Path) -> None:
    """Rewrite docs/benchmarks.md from results/*.json."""
    lines = [
        "# Benchmarks",
        "",
        "Made by `make bench` (`python -m benchmarks`). Contenders run in turns, a moment each,",
        "never two at once; rates are medians over the turns with their quartiles, ratios medians",
        "of neighbours. Absolute numbers are those of the machine named; ratios travel better.",
    ]
    DOCS.mkdir(exist_ok=True)
    for path in sorted(results.glob("*.json")):
        group, _, label = path.stem.partition("-")
        record = json.loads(path.read_text())
        title, table = SECTIONS[group]
        lines += ["", f"## {title}{', ' + label if label else ''}", "", _machine(record), ""]
        lines += table(record)
        if group == "training":
            name = f"benchmarks{'-' + label if label else ''}.png"
            _plot(record, DOCS / name)
            lines += [f"![training images/s]({name})"]
    (DOCS / "benchmarks.md").write_text("\n".join(lines).rstrip() + "\n")
