"""A richer posterior, at one budget.

The network and data of the IWAE table, 30 epochs. A posterior by inverse autoregressive flows must
be below the plain VAE (Kingma et al. 2016; with 64 latents and fixed binarization: 82.14 for the
plain VAE, 80.79 with the most flow).
"""

from __future__ import annotations

from typing import Any

from experiments import runs
from experiments.table import Row

EPOCHS = 30
MEMBERS = {
    "VAE": ("vae", {}),
    "IAF posterior, 4 steps": ("flow_vae", {"flow": "iaf", "flow_steps": 4, "flow_width": 128}),
}


def beside(prefix: str, members: dict[str, tuple[str, dict[str, Any]]], epochs: int) -> list[Row]:
    """-log p(x) of models in the setting of the IWAE table, each against the first."""
    rows, first = [], 0.0
    for name, (model, own) in members.items():
        run = runs.train(f"{prefix}_{model}", model, **runs.iwae_setting(epochs) | own)
        nats, told = runs.nll(run, 1000)
        first = first or nats
        against = f"{nats - first:+.2f} to the first; asked: below 0" if rows else ""
        quantity = f"{name}: -log p(x), nats, k = 1,000"
        rows.append(Row(quantity, run.spec.name, f"{epochs} epochs", told, against))
    return rows


def study() -> list[Row]:
    return beside("richer", MEMBERS, EPOCHS)
