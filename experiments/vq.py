"""VQ-VAE: a grid of codes, and a prior that learns to generate them.

The tutorials' convolutional encoder and decoder around a 7x7 grid of 128 codes (van den Oord et
al. 2017), then an autoregressive prior over the grids, fitted by `flaxvae fit-prior`. With it the
model generates images, and its -ELBO is its reconstruction plus the code length. All settings but
the epochs, which are limited by time, are the library's defaults.
"""

from __future__ import annotations

from experiments import runs
from experiments.table import Beside, Row
from flaxvae.code_prior import fit_prior
from flaxvae.report.terminal import Terminal
from flaxvae.settings import TrainSettings

EPOCHS, PRIOR_EPOCHS = 15, 8

BESIDE = [
    Beside(
        "codes used, of 128", 100, 128, "few may be unused: dead ones are revived", "at most 128"
    ),
    Beside(
        "perplexity of the codes",
        20,
        128,
        "many in use; no more than there are",
        "at most 128",
    ),
    Beside(
        "code length under uniform codes, nats",
        237.74,
        237.76,
        "arithmetic",
        "49 log 128 = 237.75",
    ),
    Beside(
        "code length under the fitted prior, nats",
        22.6,
        "code length under uniform codes, nats",
        "no less than the KL of the tutorials' VAE, which keeps less of an image; no more than "
        "without a prior",
    ),
]


def study() -> list[Row]:
    run = runs.train("vq", "vq_vae", dataset="mnist", epochs=EPOCHS)
    before = run.evaluate(run.data().test)
    settings = TrainSettings(epochs=PRIOR_EPOCHS, schedule="cosine")
    with Terminal() as terminal:
        run = fit_prior(run.path, settings, terminal=terminal)
    after = run.evaluate(run.data().test)
    where = run.spec.name, f"{EPOCHS} epochs"
    for figure in ("reconstructions", "samples"):
        runs.keep_figure(run, f"{figure}.png", f"vq_{figure}")
    fitted = run.spec.name, f"{PRIOR_EPOCHS} epochs of the prior"
    return [
        Row("MSE per pixel", *where, f"{before['mse']:.5f}"),
        Row("codes used, of 128", *where, f"{before['codes_used']}"),
        Row("perplexity of the codes", *where, f"{before['perplexity']:.1f}"),
        Row("code length under uniform codes, nats", *where, f"{before['kl']:.2f}"),
        Row("code length under the fitted prior, nats", *fitted, f"{after['kl']:.2f}"),
    ]
