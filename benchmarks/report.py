"""docs/benchmarks.md and its plot, from the kept results: ``python -m benchmarks.report``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks import claims
from benchmarks.groups import GEMM, GROUPS, OURS, STREAMED
from benchmarks.start import HELP
from benchmarks.workers import Spread
from flaxvae.errors import counted
from flaxvae.report import plots

RESULTS = Path(__file__).parent / "results"
DOCS = Path(__file__).parent.parent / "docs"
Rows = list[dict[str, Any]]
LEGEND = """\
| contender | what it is |
|---|---|
| flaxvae | the training of `flaxvae train`: many steps in one compiled program |
| torch DataLoader | PyTorch as in the tutorials, one item at a time through a DataLoader |
| torch tensors | PyTorch with all images in one tensor, on the device |
| torch tuned | the same, in a process whose malloc keeps its memory |
| torch channels_last | the same, with channels last |
| torch compiled | PyTorch with `torch.compile` |
| torch graph | PyTorch with a whole step, its batch included, recorded once as a CUDA graph |
| flax loop | plain flax: images on the device, a jitted step called from a Python loop |
| flax example | plain flax as in its own example: batches from NumPy |

"flaxvae is 2x" means that it does twice as much in the same time. The GEMM peak is the rate of a
product of two matrices of 4,096 x 4,096. All compute in float32; on a GPU, JAX and PyTorch alike
round the factors of products to 10 bits (TF32).""".splitlines()


def _machine(record: dict[str, Any]) -> str:
    m = record["machine"]
    versions = ", ".join(f"{name} {m[name]}" for name in ("python", "jax", "flax"))
    cores = counted(m["cores"], "core")
    return f"{m['processor']}, {cores}, {m['device']}; {versions}; {m['date']}"


def _told(values: Spread, form: str = ",.0f", scale: float = 1.0) -> str:
    low, middle, high = (scale * values[name] for name in ("low", "middle", "high"))
    return f"{middle:{form}} ({low:{form}} to {high:{form}})"


def _times(row: dict[str, Any]) -> str:
    return f"{row['ratio']['middle']:.2f}x"


def _training(rows: Rows) -> list[str]:
    lines = []
    for row in rows:
        lines += [
            f"**{row['label']}**, batch {row['batch']}",
            "",
            "| | images/s | flaxvae is | share of GEMM peak | peak memory |",
            "|---|---|---|---|---|",
        ]
        for name, found in row["found"].items():
            if name != GEMM:
                lines.append(
                    f"| {name} | {_told(found['rate'])} | {'' if name == OURS else _times(found)} "
                    f"| {100 * found['of_peak']['middle']:.2g} % | {found['peak_mib']:,.0f} MiB |"
                )
        peak = row["found"][GEMM]["rate"]
        lines += ["", f"GEMM peak in the same run: {_told(peak, scale=1e-9)} GFLOP/s.", ""]
    return lines


def _growth(rows: Rows) -> list[str]:
    lines = [
        "| conv net | flaxvae, images/s | peak memory | torch tensors, images/s | peak memory |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        each = [row["found"].get(name) for name in (OURS, "torch tensors")]
        told = [f"{_told(f['rate'])} | {f['peak_mib']:,.0f} MiB" if f else "|" for f in each]
        lines.append(f"| {row['what']} {row['value']} | {' | '.join(told)} |")
    return lines


def _photographs(rows: Rows) -> list[str]:
    lines = list[str]()
    for row in rows:
        if "batch" in row:
            lines += [f"**{row['what']}**, batch {row['batch']}", ""]
            scales = [1.0] * len(row["found"])
        else:
            lines += [f"**resnet by {row['what']}**, {row['who']}", ""]
            scales = [1 / side**2 for side in row["sides"]]  # rates are pixels/s
        lines += [
            f"| | images/s | {next(iter(row['found']))} is | peak memory |",
            "|---|---|---|---|",
        ]
        for (name, found), scale in zip(row["found"].items(), scales, strict=True):
            lines.append(
                f"| {name} | {_told(found['rate'], scale=scale)} | {_times(found)} "
                f"| {found['peak_mib']:,.0f} MiB |"
            )
        lines.append("")
    return lines[:-1]


def _evaluation(rows: Rows) -> list[str]:
    lines = ["| ELBO of 10,000 images | flaxvae, images/s | PyTorch, images/s | flaxvae is |"]
    lines += ["|---|---|---|---|"]
    for row in rows:
        ours, theirs = (row["found"].get(f"{who} evaluation") for who in (OURS, "torch"))
        told = f"{_told(theirs['rate'])} | {_times(theirs)}" if theirs else "|"
        lines.append(f"| {row['label']} | {_told(ours['rate'])} | {told} |")
    return lines


def _likelihood(rows: Rows) -> list[str]:
    (row,) = rows
    lines = [f"| k = {row['k']:,}, {row['label']} | images/s | flaxvae is | share of GEMM peak |"]
    lines += ["|---|---|---|---|"]
    for name, found in row["found"].items():
        who = name.removesuffix(" likelihood")
        if name != GEMM:
            lines.append(
                f"| {who} | {_told(found['rate'], ',.1f')} | "
                f"{'' if who == OURS else _times(found)} | "
                f"{100 * found['of_peak']['middle']:.2g} % |"
            )
    chunks = "Draws are decoded in chunks, by PyTorch 500 at a time on any device."
    return [*lines, "", f"{chunks} flaxvae's temporary memory: {row['mib']:.1f} MiB."]


def _sprites(rows: Rows) -> list[str]:
    lines = [
        "| conv net, 64 x 64, batch 128 | drawn alone, images/s | drawn and trained on | times |",
        "|---|---|---|---|",
    ]
    for row in rows:
        drawn, trained = (row["found"][f"{who} {row['name']}"] for who in ("draw", OURS))
        rates = f"{_told(drawn['rate'])} | {_told(trained['rate'])}"
        lines.append(f"| {row['name']} | {rates} | {_times(trained)} |")
    return lines


def _streaming(rows: Rows) -> list[str]:
    (row,) = rows
    lines = [f"| {row['label']}, images | images/s |", "|---|---|"]
    for name, where in ((OURS, "on the device"), (STREAMED, "streamed from a file")):
        lines.append(f"| {where} | {_told(row['found'][name]['rate'])} |")
    lines += ["", f"Streamed is {_told(row['found'][OURS]['ratio'], '.2f')} times resident."]
    told = [f"{mib:,.0f} MiB with {int(count):,}" for count, mib in row["mib"].items()]
    return [*lines, f"Peak memory of a streamed training: {', '.join(told)} images."]


def _start(rows: Rows) -> list[str]:
    names = {
        "cold": "`flaxvae train` to its first step, empty compilation cache",
        "warm": "the same with a warm compilation cache",
        **{name: f"`flaxvae {' '.join(asked)}`" for name, asked in HELP.items()},
    }
    found = rows[0]["seconds"]
    lines = ["| | seconds |", "|---|---|"]
    return [*lines, *(f"| {told} | {_told(found[name], '.2f')} |" for name, told in names.items())]


def _overhead(rows: Rows) -> list[str]:
    names = {
        "guard": "guard against NaN and infinity, and metrics",
        "checkpoints": "a checkpoint each epoch of 60,000 images",
    }
    lines = ["| time added by | network | % |", "|---|---|---|"]
    for row in rows:
        told = _told(row["cost"], ".1f", 100)
        lines.append(f"| {names[row['what']]} | {row['label']} | {told} |")
    return lines


def _data(rows: Rows) -> list[str]:
    lines = ["| pictures/s | flaxvae's cache | bare Pillow | flaxvae is | second start, s |"]
    lines += ["|---|---|---|---|---|"]
    for row in rows:
        ours, theirs = (row["found"][f"pictures {who}"] for who in ("cache", "pillow"))
        told = f"{_told(ours['rate'])} | {_told(theirs['rate'])} | {_times(theirs)}"
        lines.append(f"| {row['label']} | {told} | {_told(row['second_start'], '.1f')} |")
    return lines


def _ways_out(rows: Rows) -> list[str]:
    names = {
        "flaxvae score": "`fv.load(run).score(x)`",
        "onnx score": "`scorer.onnx` in onnxruntime",
        "torch score": "`model.py` in PyTorch",
    }
    (row,) = rows
    lines = [f"| {row['label']} | ms to score one image | times flaxvae's |", "|---|---|---|"]
    for name, found in row["found"].items():
        rate = found["rate"]
        seconds = {"low": 1 / rate["high"], "middle": 1 / rate["middle"], "high": 1 / rate["low"]}
        lines.append(f"| {names[name]} | {_told(seconds, '.2f', 1e3)} | {_times(found)} |")
    return lines


TABLES = {
    "training": _training,
    "growth": _growth,
    "photographs": _photographs,
    "evaluation": _evaluation,
    "likelihood": _likelihood,
    "sprites": _sprites,
    "streaming": _streaming,
    "start": _start,
    "overhead": _overhead,
    "data": _data,
    "ways_out": _ways_out,
}


def _plot(record: dict[str, Any], path: Path) -> None:
    """Bars: training images/s of all contenders, by network."""
    panels = {
        row["label"]: {
            name: tuple(row["found"][name]["rate"][key] for key in ("low", "middle", "high"))
            for name in sorted(row["found"], key=lambda name: name != OURS)
            if name != GEMM
        }
        for row in record["rows"]
    }
    title = "Training speed of all contenders: median and quartiles"
    plots.bars(path, panels, title=title, xlabel="training images/s")


def write(results: Path = RESULTS, docs: Path = DOCS) -> None:
    """Rewrite docs/benchmarks.md from results/*.json."""
    records = {path.stem: json.loads(path.read_text()) for path in results.glob("*.json")}
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench` (`python -m benchmarks`). Contenders take short turns, one at a",
        "time. Numbers are medians over the turns, with quartiles; ratios compare neighbouring",
        "turns. Absolute numbers depend on the machine; ratios carry over better to others.",
        "",
        *LEGEND,
    ]
    here = {name: record["rows"] for name, record in records.items() if name in GROUPS}
    if table := claims.table(here):
        lines += ["", "## Targets, on two cores", "", *table]
    docs.mkdir(exist_ok=True)
    order = list(GROUPS)
    for name in sorted(records, key=lambda n: (n.partition("-")[2], order.index(n.split("-")[0]))):
        group, _, label = name.partition("-")
        title = f"{group.capitalize().replace('_', ' ')}{', ' + label if label else ''}"
        record = records[name]
        lines += ["", f"## {title}", "", _machine(record), "", *TABLES[group](record["rows"])]
        if group == "training":
            plot = f"benchmarks{'-' + label if label else ''}.png"
            _plot(record, docs / plot)
            lines += [f"![training images/s]({plot})"]
    (docs / "benchmarks.md").write_text("\n".join(lines).rstrip() + "\n")


if __name__ == "__main__":
    write()
