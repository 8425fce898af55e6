"""Frey faces: a hierarchy over feature maps, and ten seeds of it.

The same 1,565 images and the same 200 for tests as in the study of likelihoods, where one level has
4.832 bits per dimension. `deep_vae` with the settings of the study of hierarchies on MNIST: after
as many epochs it is as good as one level, and not better. Shorter trainings of ten seeds: each
level must be used (its KL above 0.1 nats) in every one, and none may diverge.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from experiments import choosing
from experiments.deep import LEVELS, optimization
from experiments.runs import ROOT
from experiments.table import Beside, Row
from flaxvae.analysis.evaluation import USED
from flaxvae.runs.folder import write_json

EPOCHS, SHORT, SEEDS = 200, 20, range(10)
STEPS_PER_EPOCH = 1565 // 128
FREY, BITS = "Frey faces, 1,565 images", "test bits/dim"
LEAST = f"KL of each level, least of {len(SEEDS)} seeds, nats"
BESIDE = [
    Beside(f"{BITS} of each of {len(SEEDS)} seeds", 3.5, 8, "below a uniform distribution's 8"),
    Beside(LEAST, USED, 200, "each level in use, in each seed"),
    Beside(
        BITS,
        4.73,
        4.932,
        "within a tenth of a bit of one level's 4.832",
        "van den Berg et al. 2018: 4.5 for a VAE, unchecked",
    ),
]


def trained(epochs: int, seed: int = 0) -> dict[str, Any]:
    """What ``choosing.measured`` found, or an earlier call of the same."""
    path = ROOT / f"deep_frey-{epochs}-{seed}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        settings = {"levels": LEVELS, "epochs": epochs, "seed": seed}
        settings |= optimization(epochs * STEPS_PER_EPOCH)
        write_json(path, choosing.measured(choosing.frey(), model="deep_vae", **settings))
    return json.loads(path.read_text())


def frey() -> list[Row]:
    found = trained(EPOCHS)
    where = FREY, f"deep_vae, discretized_logistic, {EPOCHS} epochs"
    return [
        Row(BITS, *where, f"{found['test_bits']:.3f} ± {found['test_bits_error']:.3f}"),
        Row("minutes of one core", *where, f"{found['cpu_minutes']:.1f}"),
    ]


def seeds() -> list[Row]:
    """A training that diverges raises an error."""
    found = [trained(SHORT, seed) for seed in SEEDS]
    where = FREY, f"deep_vae, {SHORT} epochs"
    least = np.min([each["kl_per_level"] for each in found], 0)
    return [
        Row(
            f"{BITS} of each of {len(SEEDS)} seeds",
            *where,
            ", ".join(f"{each['test_bits']:.2f}" for each in found),
        ),
        Row(LEAST, *where, ", ".join(f"{nats:.2f}" for nats in least)),
    ]


def study() -> list[Row]:
    return frey() + seeds()
