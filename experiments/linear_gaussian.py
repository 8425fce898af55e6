"""Bounds against the truth: a linear VAE, whose log p(x) is known.

With a linear decoder and Gaussian noise, p(x) = N(b, W W^T + sigma^2 I) exactly (probabilistic
PCA). A linear VAE with 8 latents is trained on the 8x8 digits. The ELBO, the importance-weighted
bounds and the exact log-likelihood of the test digits must come in this order, and the last gap
must vanish. The settings only need to train it to convergence; none was chosen by its outcome.
"""

from __future__ import annotations

import numpy as np
from scipy import stats

from experiments import runs
from experiments.table import Beside, Row
from flaxvae.report import shown

BOUND = "importance-weighted bound, k = {:,}"
ORDER = "ELBO, 1,000 draws, nats", *(BOUND.format(k) for k in (1, 10, 100, 1000, 5000))
BESIDE = [
    Beside(name, ORDER[0], "exact log p(x)", "a bound, and no looser than the ELBO")
    for name in ORDER[2:]
] + [Beside("gap at k = 5,000", -0.002, 0.01, "sampling noise of the bound; the target", "0")]


def study() -> list[Row]:
    sigma = 0.2
    run = runs.train(
        "linear_gaussian",
        "vae",
        dataset="digits",
        net="mlp",
        widths=(),
        latent_dim=8,
        likelihood="gaussian",
        sigma=sigma,
        epochs=1000,
        learning_rate=3e-3,
        schedule="cosine",
    )
    test = run.data().test
    out = run.variables["params"]["decoder"]["out"]
    w, b = np.asarray(out["kernel"], np.float64), np.asarray(out["bias"], np.float64)
    x = shown.pixels(test, slice(None)).reshape(len(test.x), -1)
    exact = stats.multivariate_normal(b, w.T @ w + sigma**2 * np.eye(len(b))).logpdf(x).mean()

    def row(quantity: str, nats: float) -> Row:
        return Row(quantity, run.spec.name, "1,000 epochs, 8 latents", f"{nats:.4f}")

    rows = [row(ORDER[0], run.evaluate(test, samples=1000).elbo)]
    for k in (1, 10, 100, 1000, 5000):
        found = run.evaluate(test, k=k).importance_weighted_elbo.nats
        rows.append(row(BOUND.format(k), found))
    rows.append(row("exact log p(x)", exact))
    rows.append(row("gap at k = 5,000", exact - found))
    return rows
