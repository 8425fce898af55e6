"""Depth: models of 4, 8 and 16 blocks of latents.

`deep_vae` on MNIST with dynamic binarization, with the settings of the study of hierarchies over
feature maps. Each block brings layers of its own, so parameters grow with the blocks.
"""

from __future__ import annotations

from collections.abc import Iterator

from experiments import runs
from experiments.deep import ELBO, LEVELS, negative_elbo, setting
from experiments.table import Beside, Row

EPOCHS = 5
GROWTH = {  # levels by their number of blocks
    4: ("14x1", "7x1", "4x1", "1x1"),
    8: LEVELS,
    16: ("14x4", "7x6", "4x4", "1x2"),
}
NATS = ELBO + ", {} blocks"
BEST = 83.14  # of 8 blocks, after 40 epochs
BESIDE = [
    Beside(
        NATS.format(4),
        BEST,
        92.10,
        "no better than 8 blocks after 40 epochs; below the bound of a VAE of dense layers, k = "
        "1,000, after 30 (Richer posteriors)",
    ),
    Beside(NATS.format(8), BEST, NATS.format(4), "as above; below half as many blocks"),
    Beside(NATS.format(16), BEST, NATS.format(8), "as above; below half as many blocks"),
]


def study(epochs: int = EPOCHS) -> Iterator[Row]:
    for blocks, levels in GROWTH.items():
        run = runs.train(f"deep_{blocks}_blocks_{epochs}", "deep_vae", **setting(epochs, levels))
        budget = f"{epochs} epochs, {runs.parameters(run):,} parameters"
        yield Row(NATS.format(blocks), run.spec.name, budget, f"{negative_elbo(run):.2f}")
