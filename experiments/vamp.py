"""A learned prior, at one budget.

The network and data of the IWAE table with 40 latents, by Adam, and the KL annealed over half of
the training: a VampPrior needs that long. It must be below the standard prior (Tomczak & Welling
2018, 40 latents, fixed binarization: 88.56 for the standard prior, 85.57 for theirs).
"""

from __future__ import annotations

from experiments.richer import beside
from experiments.table import Row

EPOCHS = 40
SETTING = {
    "latent_dim": 40,
    "optimizer": "adam",
    "learning_rate": 2e-3,
    "batch_size": 100,
    "anneal_steps": EPOCHS * 600 // 2,
}
MEMBERS = {
    "standard prior": ("vae", SETTING),
    "VampPrior, 200 pseudo-inputs": ("vamp_vae", {"pseudo_inputs": 200, **SETTING}),
}


def study() -> list[Row]:
    return beside("vamp", MEMBERS, EPOCHS)
