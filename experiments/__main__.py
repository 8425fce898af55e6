"""``python -m experiments [choose] [NAME …]``: run studies (by default all) and rewrite README.md.

With ``choose``, compare the settings that the studies tried, on held-out images.
"""

from __future__ import annotations

import importlib
import sys
import time

from experiments import choices, table

STUDIES = (
    "flax_example",
    "tutorial_conv",
    "ae_vs_vae",
    "iwae",
    "richer",
    "vamp",
    "ladder",
    "deep",
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
# No results that hold; with them a study belongs above.
NOT_RUN = ("depth",)


def main(arguments: list[str]) -> None:
    choose = arguments[:1] == ["choose"]
    names = arguments[1:] if choose else arguments
    known = STUDIES + NOT_RUN
    for name in names:
        if name not in known:
            sys.exit(f"unknown study {name!r}: expected one of {', '.join(known)}")
    modules = {name: importlib.import_module(f"experiments.{name}") for name in known}
    missed = []
    for name in names or STUDIES:
        print(f"=== {name}", flush=True)
        if choose:
            choices.choose(name, getattr(modules[name], "CHOICES", {}))
        else:
            missed += run(name, modules[name])
    (table.HERE / "README.md").write_text(table.readme(modules))
    if missed:
        sys.exit("\n".join(["outside the expected range:", *missed]))


def run(name: str, module) -> list[str]:
    """Run a study and save its rows; returns those outside the expected range."""
    start = time.monotonic()
    rows = module.study()
    table.save(name, rows, (time.monotonic() - start) / 60)
    for row in rows:
        print(" | ".join(row), flush=True)
    return table.misses(rows, module.BESIDE)


if __name__ == "__main__":
    main(sys.argv[1:])
