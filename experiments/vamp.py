"""A learned prior, at one budget.

The network and data of the IWAE table. The VampPrior must be below the standard prior (Tomczak &
Welling 2018, 40 latents, fixed binarization: 88.56 for the standard prior, 85.57 for theirs).
"""

from __future__ import annotations

from experiments.richer import beside
from experiments.table import Row

EPOCHS = 200
MEMBERS = {
    "standard prior": ("vae", {}),
    "VampPrior, 200 pseudo-inputs": ("vamp_vae", {"pseudo_inputs": 200}),
}


def study() -> list[Row]:
    return beside("vamp", MEMBERS, EPOCHS)
