"""``python -m experiments [NAME …]``: run studies (all by default) and rewrite README.md."""

from __future__ import annotations

import importlib
import sys
import time

from experiments import table

STUDIES = (
    "flax_example",
    "tutorial_conv",
    "ae_vs_vae",
    "iwae",
    "richer",
    "vamp",
    "ladder",
    "gumbel",
    "vq",
    "conditional",
    "collapse",
    "linear_gaussian",
    "kill_and_resume",
)


def main(names: list[str]) -> None:
    modules = {name: importlib.import_module(f"experiments.{name}") for name in STUDIES}
    for name in names or STUDIES:
        if name not in modules:
            sys.exit(f"unknown study {name!r}: expected one of {', '.join(STUDIES)}")
        print(f"=== {name}", flush=True)
        start = time.monotonic()
        rows = modules[name].study()
        table.save(name, rows, (time.monotonic() - start) / 60)
        for row in rows:
            print(" | ".join(row), flush=True)
    table.write_readme({name: module.__doc__ for name, module in modules.items()})


if __name__ == "__main__":
    main(sys.argv[1:])
