"""A learned prior, at one budget.

The network and data of the IWAE table. The VampPrior must be below the standard prior (Tomczak &
Welling 2018, 40 latents, fixed binarization: 88.56 for the standard prior, 85.57 for theirs).
"""

from __future__ import annotations

from experiments import runs
from experiments.table import Row

EPOCHS = 200
MEMBERS = {
    "standard prior": ("vae", {}),
    "VampPrior, 200 pseudo-inputs": ("vamp_vae", {"pseudo_inputs": 200}),
}


def study() -> list[Row]:
    rows, plain = [], None
    for name, (model, own) in MEMBERS.items():
        choices = runs.iwae_setting(EPOCHS) | own
        run = runs.train(f"vamp_{model}", model, **choices)
        nats, told = runs.nll(run, 1000)
        plain = nats if plain is None else plain
        against = "" if model == "vae" else f"{nats - plain:+.2f} to N(0, I); asked: below 0"
        quantity = f"{name}: -log p(x), nats, k = 1,000"
        rows.append(Row(quantity, run.spec.name, f"{EPOCHS} epochs", told, against))
    runs.keep_figure(run, "samples.png", "vamp_samples")
    return rows
