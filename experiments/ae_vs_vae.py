"""What the KL and the noise are for: AE and VAE side by side.

The same convolutional networks, data and budget. The autoencoder reconstructs better, but its codes
lie anywhere, several units from the origin. Draws from N(0, I) decode to smudges; only a Gaussian
fitted to the codes afterwards gives strokes. The codes of a VAE fill its prior, which is all one
needs to sample.
"""

from __future__ import annotations

import numpy as np

from experiments import runs
from experiments.table import Beside, Row
from flaxvae.report import plots, shown

COUNT = 16
BESIDE = [
    Beside(
        "ae: standard deviation of a code",
        2.0,
        20.0,
        "several times the prior's, but of its order of magnitude",
        "prior: 1",
    ),
    Beside(
        "vae: standard deviation of a code",
        0.7,
        1.0,
        "of posterior means: below the prior's 1, because the posterior's noise adds to it",
        "prior: 1",
    ),
    Beside(
        "vae: MSE per pixel",
        "ae: MSE per pixel",
        0.012,
        "no better than without noise and KL; the target for the tutorials' VAE",
    ),
]


def study() -> list[Row]:
    rows, pictures = [], {}
    for model in ("ae", "vae"):
        run = runs.train(f"ae_vs_vae_{model}", model, dataset="mnist", latent_dim=20)
        test = run.data().test
        found = run.evaluate(test)
        x = shown.pixels(test, slice(None))
        codes = run.encode(x)
        where = run.spec.name, "20 epochs, 20 latents"
        rows += [
            Row(f"{model}: MSE per pixel", *where, f"{found['mse']:.5f}"),
            Row(f"{model}: standard deviation of a code", *where, f"{codes.std():.2f}"),
        ]
        name = model.upper()
        pictures["original"] = x[:COUNT]
        pictures[f"{name} reconstruction"] = run.reconstruct(x[:COUNT])
        pictures[f"{name}, z ~ N(0, I)"] = run.sample(COUNT, seed=1)
        if model == "ae":
            draw = np.random.default_rng(1).multivariate_normal(
                codes.mean(0), np.cov(codes.T), COUNT
            )
            pictures["AE, z ~ Gaussian fitted to its codes"] = run.decode(draw)
    order = [
        "original",
        "AE reconstruction",
        "VAE reconstruction",
        "AE, z ~ N(0, I)",
        "AE, z ~ Gaussian fitted to its codes",
        "VAE, z ~ N(0, I)",
    ]
    plots.image_grid(
        runs.FIGURES / "ae_vs_vae.png",
        [pictures[name] for name in order],
        order,
        title="The same networks as autoencoder and as VAE: reconstructions and random draws, "
        "MNIST, 20 latents, 20 epochs",
    )
    return rows
