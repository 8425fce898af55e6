"""Categorical latents by Gumbel-softmax.

20 variables of 10 values, a 512-256 MLP, KL in closed form, 50,000 images binarized once; the
temperature falls from 1 to 0.3. The reported numbers are for hard samples, without relaxation. Jang
et al. 2016, table 1, have 101.5 for the relaxation and 107.8 for its straight-through form, also
with a fixed binarization (another draw than ours, and networks with one layer). They evaluate a
bound with 1,000 samples, like the rows with k = 1,000.
"""

from __future__ import annotations

from typing import Any

from experiments import runs
from experiments.choices import Choice, negative_elbo
from experiments.table import Beside, Row

EPOCHS = 30
SETTING: dict[str, Any] = {
    "dataset": "mnist",
    "binarization": "fixed",
    "validation": 1 / 6,
    "net": "mlp",
    "min_temperature": 0.3,
    "temperature_rate": 2e-4,
    "learning_rate": 2e-3,
    "schedule": "cosine",
}
NATS, BOUND = "{}: -ELBO, nats", "{}: -log p(x), nats, k = 1,000"
SOFT, HARD = "Gumbel-softmax", "straight-through"
SHORT = 10
CHOSEN = "Adam 0.002"
CHOICES = {
    f"{name}, {SHORT} epochs": Choice(
        "gumbel_vae",
        # The temperature falls as far as in the whole training.
        SETTING
        | {
            "epochs": SHORT,
            "learning_rate": 1e-3,
            "temperature_rate": SETTING["temperature_rate"] * EPOCHS / SHORT,
            "straight_through": straight,
        },
        {
            "temperature to 0.3, Adam 0.001": {},
            "temperature to 0.5": {"min_temperature": 0.5},
            CHOSEN: {"learning_rate": 2e-3},
        }
        | ({} if straight else {"Adam 0.004": {"learning_rate": 4e-3}}),
        CHOSEN,
        "-ELBO of hard samples, nats",
        negative_elbo,
    )
    for name, straight in ((SOFT, False), (HARD, True))
}
BESIDE = [
    Beside(
        NATS.format(SOFT),
        BOUND.format(SOFT),
        115.0,
        "a looser bound than the next, by no more than a poor posterior costs",
    ),
    Beside(
        BOUND.format(SOFT),
        86.39,
        101.5,
        "no better than 50 Gaussian latents after 600 epochs; no worse than the paper",
        "paper, k = 1,000: 101.5",
    ),
    Beside(
        NATS.format(HARD),
        BOUND.format(HARD),
        115.0,
        "a looser bound than the next, by no more than a poor posterior costs",
    ),
    Beside(
        BOUND.format(HARD),
        BOUND.format(SOFT),
        107.8,
        "biased gradient: no better than the relaxation; no worse than the paper",
        "paper, k = 1,000: 107.8",
    ),
]


def study() -> list[Row]:
    rows = []
    for straight in (False, True):
        name = HARD if straight else SOFT
        run = runs.train(
            f"gumbel_{'hard' if straight else 'soft'}",
            "gumbel_vae",
            epochs=EPOCHS,
            straight_through=straight,
            **SETTING,
        )
        found = runs.evaluate(run)
        told = f"{-found['elbo']:.2f} ± {found['elbo_standard_error']:.2f}"
        where = f"{run.spec.name}, {run.spec.examples:,} images", f"{EPOCHS} epochs"
        rows.append(Row(NATS.format(name), *where, told))
        _, told = runs.nll(run, 1000)
        rows.append(Row(BOUND.format(name), *where, told))
        if not straight:
            runs.keep_figure(run, "samples.png", "gumbel_samples")
    return rows
