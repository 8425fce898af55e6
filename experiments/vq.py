"""VQ-VAE: a grid of codes, and a prior that learns to write them.

The tutorials' convolutional encoder and decoder around a 7x7 grid of 128 codes (van den Oord et
al. 2017), then an autoregressive prior over the grids, fitted by `flaxvae fit-prior`; with it the
model generates, and its bound on log p(x) is its reconstruction and the code's length.
"""

from __future__ import annotations

from experiments import runs
from experiments.table import Row
from flaxvae import api
from flaxvae.analysis import bounds
from flaxvae.report.terminal import Terminal
from flaxvae.settings import TrainSettings

EPOCHS, PRIOR_EPOCHS = 15, 8


def study() -> list[Row]:
    run = runs.train("vq", "vq_vae", dataset="mnist", epochs=EPOCHS)
    before = bounds.evaluate(run, run.data().test)
    settings = TrainSettings(epochs=PRIOR_EPOCHS, schedule="cosine")
    with Terminal() as terminal:
        run = api.fit_prior(run.path, settings, terminal=terminal)
    after = bounds.evaluate(run, run.data().test)
    where = run.spec.name, f"{EPOCHS} epochs"
    for figure in ("reconstructions", "samples"):
        runs.keep_figure(run, f"{figure}.png", f"vq_{figure}")
    fitted = run.spec.name, f"{PRIOR_EPOCHS} epochs of the prior"
    return [
        Row("MSE a pixel", *where, f"{before['mse']:.5f}", ""),
        Row("codes used, of 128", *where, f"{before['codes_used']}", ""),
        Row("perplexity of the codes", *where, f"{before['perplexity']:.1f}", "at most 128"),
        Row("code length under uniform codes, nats", *where, f"{before['kl']:.2f}", "49 log 128"),
        Row("code length under the fitted prior, nats", *fitted, f"{after['kl']:.2f}", ""),
    ]
