"""Collapsed units, and what revives them.

A VAE with 50 latents on binarized MNIST leaves 37 of them unused: the KL pushes them onto the
prior before the decoder has learned to use them (posterior collapse). More of them stay active if
the KL's weight rises from zero over the first half of the training (Bowman et al. 2016) or in
cycles (Fu et al. 2019), or if each unit has some free nats (Kingma et al. 2016). A unit is active
if its posterior mean varies over images with a variance above 0.01 (Burda et al. 2015). The
networks are 512-256 MLPs with relu; -ELBO uses 10 draws of z per image. The annealing steps and
free bits are those of the first version of the study; none was chosen by its outcome.
"""

from __future__ import annotations

from experiments import runs
from experiments.table import Beside, Row

EPOCHS = 20
STEPS = EPOCHS * 600
SETTING = {
    "dataset": "mnist",
    "binarization": "dynamic",
    "validation": 0.0,
    "net": "mlp",
    "latent_dim": 50,
    "batch_size": 100,
    "epochs": EPOCHS,
}
WAYS: dict[str, dict] = {
    "VAE": {},
    "KL annealed linearly": {"anneal": "linear", "anneal_steps": STEPS // 2},
    "KL annealed in 4 cycles": {"anneal": "cyclical", "anneal_steps": STEPS // 5, "cycles": 4},
    "0.2 free nats per unit": {"free_bits": 0.2},
}

UNITS = "units revived, at most all 50"
BESIDE = [
    Beside(
        "VAE: active units",
        5,
        25,
        "some, but no more than the paper's best model with one layer",
        "Burda et al. 2015: 19 of 50 (VAE), 25 (IWAE, k = 50), 784-200-200-50",
    ),
    *(
        Beside(f"{name}: active units", "VAE: active units", 50, UNITS)
        for name in WAYS
        if name != "VAE"
    ),
]


def study() -> list[Row]:
    rows = []
    for i, (name, own) in enumerate(WAYS.items()):
        run = runs.train(f"collapse_{i}", "vae", **SETTING | own)
        found = runs.evaluate(run, samples=10)
        where = run.spec.name, f"{EPOCHS} epochs"
        told = f"{found['active_units']} of 50"
        rows.append(Row(f"{name}: active units", *where, told))
        elbo = f"{-found['elbo']:.2f} ± {found['elbo_standard_error']:.2f}"
        rows.append(Row(f"{name}: test -ELBO, nats", *where, elbo))
    return rows
