"""``python -m experiments [NAME …] [--epochs N]``: run studies (by default all), rewrite README.md.

``python -m experiments choose [NAME …]`` compares the settings that the studies tried, on held-out
images; ``python -m experiments table`` runs nothing, and writes README.md from the saved results.
``--epochs`` is for a study of models that are all trained for as many. Rows are saved as they are
found, and runs are resumed: a study that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import sys
import time
from types import ModuleType

from experiments import choices, runs, table

STUDIES = (
    "flax_example",
    "tutorial_conv",
    "ae_vs_vae",
    "iwae",
    "richer",
    "vamp",
    "ladder",
    "deep",
    "depth",
    "deep_frey",
    "colour",
    "gumbel",
    "vq",
    "conditional",
    "collapse",
    "anomaly",
    "disentanglement",
    "likelihoods",
    "linear_gaussian",
    "attributes",
    "restoration",
    "kill_and_resume",
    "choosing",
)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(STUDIES))
    parser.add_argument("--epochs", type=int, help="instead of the study's own")
    asked = parser.parse_args(arguments)
    budget = {} if asked.epochs is None else {"epochs": asked.epochs}
    what = asked.names[0] if asked.names[:1] in (["choose"], ["table"]) else ""
    names = asked.names[1:] if what else asked.names
    modules = {name: importlib.import_module(f"experiments.{name}") for name in STUDIES}
    for name in names:
        if name not in STUDIES:
            parser.error(f"unknown study {name!r}: expected one of {', '.join(STUDIES)}")
        if budget.keys() - inspect.signature(modules[name].study).parameters:
            parser.error(f"--epochs with {name}: expected a study of one number of epochs")
    if budget and (what or len(names) != 1):
        parser.error("--epochs: expected the name of one study to run")
    missed = []
    for name in () if what == "table" else names or STUDIES:
        print(f"=== {name}", flush=True)
        if what == "choose":
            choices.choose(name, getattr(modules[name], "CHOICES", {}))
        else:
            missed += run(name, modules[name], **budget)
    (table.HERE / "README.md").write_text(table.readme(modules))
    if missed:
        sys.exit("\n".join(["outside the expected range:", *missed]))


def run(name: str, module: ModuleType, **budget: int) -> list[str]:
    """Run a study and save its rows; returns those outside the expected range."""
    start, rows = time.monotonic(), []
    for row in module.study(**budget):
        print(" | ".join(row), flush=True)
        table.put(name, row, rows)
        rows.append(row)
    table.save(name, rows, (time.monotonic() - start) / 60, runs.machine())
    return table.misses(rows, module.BESIDE)


if __name__ == "__main__":
    main(sys.argv[1:])
