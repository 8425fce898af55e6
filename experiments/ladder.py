"""Levels of latents: the ladder VAE.

1, 2 and 3 levels (Sonderby et al. 2016) over the same 512-256 networks with gelu, the KL's weight
raised linearly over the first half of the steps. Each level must be used (its KL above 0.5
nats), and more levels must give a better model than one at the same budget.
"""

from __future__ import annotations

from experiments import runs
from experiments.table import Row

EPOCHS = 20
LEVELS = {1: ((32,), (256,)), 2: ((32, 16), (256, 128)), 3: ((32, 16, 8), (256, 128, 64))}


def study() -> list[Row]:
    rows, one = [], 0.0
    for levels, (dims, widths) in LEVELS.items():
        run = runs.train(
            f"ladder_{levels}",
            "ladder_vae",
            dataset="mnist",
            binarization="dynamic",
            validation=0.0,
            net="mlp",
            latent_dims=dims,
            level_widths=widths,
            activation="gelu",
            batch_size=200,
            learning_rate=2e-3,
            schedule="cosine",
            epochs=EPOCHS,
            anneal="linear",
            anneal_steps=EPOCHS * 300 // 2,
        )
        nats, told = runs.nll(run, 1000)
        one = nats if levels == 1 else one
        where = run.spec.name, f"{EPOCHS} epochs"
        name = f"{levels} level{'s' if levels > 1 else ''}, {'-'.join(map(str, dims))} latents"
        against = "" if levels == 1 else f"{nats - one:+.2f} to one level; asked: below 0"
        rows.append(Row(f"{name}: -log p(x), nats, k = 1,000", *where, told, against))
        kl = ", ".join(f"{nats:.2f}" for nats in runs.evaluate(run)["kl_per_unit"])
        rows.append(Row(f"{name}: KL of each level, nats", *where, kl, "asked: above 0.5 each"))
        if levels == 3:
            runs.keep_figure(run, "samples.png", "ladder_samples")
    return rows
