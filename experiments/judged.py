"""The VAE of MNIST that several studies look into."""

from __future__ import annotations

from experiments import runs
from flaxvae.runs.run import Run

EPOCHS, LATENTS = 10, 20


def vae() -> Run:
    return runs.train(
        "judged_mnist",
        "vae",
        dataset="mnist",
        net="mlp",
        widths=(512, 256),
        latent_dim=LATENTS,
        epochs=EPOCHS,
    )
