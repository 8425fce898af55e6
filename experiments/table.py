"""What a study returns, and the README that lists it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent


class Row(NamedTuple):
    """One number: what, on which data, at what budget, ours, and theirs or what was asked."""

    quantity: str
    data: str
    budget: str
    ours: str
    reference: str


def save(name: str, rows: list[Row], minutes: float) -> None:
    """Keep a study's rows in results/<name>.json."""
    record = {"minutes": round(minutes, 1), "rows": [row._asdict() for row in rows]}
    path = HERE / "results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def write_readme(studies: dict[str, str]) -> None:
    """Rewrite README.md from the kept results; ``studies`` maps names to docstrings."""
    lines = [
        "# Experiments",
        "",
        "Written by `make experiments`; one study alone: `make experiments ARGS=NAME`. MNIST comes",
        "from `FLAXVAE_DATA_DIR` or tensorflow-datasets. Nats are summed over pixels and latent",
        "dimensions and averaged over the 10,000 test images (digits: 360), from one draw of z an",
        "image unless stated; minutes are those of 2 shared CPU cores.",
    ]
    for name, doc in studies.items():
        path = HERE / "results" / f"{name}.json"
        if not path.exists():
            continue
        record = json.loads(path.read_text())
        title, _, text = doc.strip().partition("\n")
        lines += ["", f"## {title.rstrip('.')}", "", text.strip(), ""]
        lines += [f"`make experiments ARGS={name}` ({record['minutes']:g} minutes)", ""]
        lines += ["| quantity | data | budget | flaxvae | reference |", "|---|---|---|---|---|"]
        for row in record["rows"]:
            lines.append("| " + " | ".join(Row(**row)) + " |")
        for figure in sorted((HERE / "figures").glob(f"{name}*.png")):
            alt = figure.stem.replace("_", " ")
            lines += ["", f"![{alt}](figures/{figure.name})"]
    (HERE / "README.md").write_text("\n".join(lines) + "\n")
