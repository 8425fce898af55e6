"""How good is a VAE, and where is its gap: bounds on log p(x) of MNIST, from the ELBO upwards.

784-200-200-50, tanh, as in Burda et al. 2015, trained for ten epochs. Importance samples of all
test images, and annealed importance sampling of some (Wu et al. 2017), which also splits the gap
in two (Cremer et al. 2018).

Where the likelihood is narrow, importance samples fail. The second model sees grey pixels with a
Gaussian of sigma 0.1, so its posteriors are narrow, and few draws from q are near them. Wu et al.
have a difference of 165 nats between annealing and 200,000 samples on such a model (not checked
against their table).
"""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np

from experiments import runs
from experiments.table import Beside, Row
from flaxvae.analysis.likelihood import ladder
from flaxvae.data.dataset import taken
from flaxvae.report.terminal import Terminal
from flaxvae.runs.folder import write_json
from flaxvae.runs.run import Run

EPOCHS, ALL = 10, 10_000
BINARY, NARROW = "784-200-200-50", "784-200-200-50, sigma 0.1"
SIGMA = 0.1
IMPORTANCE, ANNEALED = "log p(x), k = 5,000, nats", "log p(x), annealed, nats"
AMORTIZATION, APPROXIMATION = "amortization gap, nats", "approximation gap, nats"
GAIN = "annealed - importance samples, nats"
BESIDE = [
    Beside(IMPORTANCE, -103, -86.76, "no better than the paper's VAE", "paper: -86.76", BINARY),
    Beside(ANNEALED, -103, -85, "no better than the paper's IWAE", "", BINARY),
    Beside(AMORTIZATION, 0.1, 10, "an encoder for all images costs something", "", BINARY),
    Beside(APPROXIMATION, 0.1, 10, "the posterior is no diagonal Gaussian", "", BINARY),
    Beside(GAIN, 5, 200, "many nats", "Wu et al. 2017, k = 200,000: 165, unchecked", NARROW),
]


def binary() -> Run:
    return runs.train("likelihood_vae", "vae", **runs.iwae_setting(EPOCHS))


def narrow() -> Run:
    """The same network, on grey pixels."""
    choices = runs.iwae_setting(EPOCHS) | {"binarization": "none", "sigma": SIGMA}
    return runs.train("likelihood_narrow", "vae", likelihood="gaussian", **choices)


def measured(run: Run, images: int, **options: Any) -> dict[str, Any]:
    """The bounds of the first test images, and the seconds of each stage; kept in the run."""
    words = [str(images), *(f"{name}-{value}" for name, value in options.items())]
    kept = run.path / f"bounds-{'-'.join(words)}.json"
    if not kept.exists():
        some, ended = run.split(taken(run.data().test, np.arange(images))), dict[str, float]()
        with Terminal() as terminal:

            def stages(what: str):
                watch = terminal.watch(what)

                def report(done: int, total: int) -> None:
                    ended[what] = time.monotonic()
                    watch(done, total)

                return report

            started = time.monotonic()
            how: dict[str, Any] = {"k": (5000,), "stages": stages} | options
            found = ladder(run.recipe, run.variables, some, mesh=run.mesh, **how).as_json()
        seconds = np.diff([started, *ended.values()]).round(1).tolist()
        write_json(kept, found | {"seconds": dict(zip(ended, seconds, strict=True))})
    return json.loads(kept.read_text())


def said(mean: dict[str, float]) -> str:
    return f"{mean['nats']:.2f} ± {mean['standard_error']:.2f}"


def study() -> list[Row]:
    run = binary()
    many = measured(run, ALL, temperatures=0, fit_steps=0)
    data, budget = run.spec.name, f"{BINARY}, {EPOCHS} epochs"
    rows = [
        Row(IMPORTANCE, data, f"{budget}, {ALL:,} images", said(many["rungs"][-1]["bound"])),
    ]
    some = measured(run, 500)
    where = data, f"{budget}, 500 images"
    speed = 500 / some["seconds"]["importance samples"]
    rows += [
        Row("images/s, k = 5,000", *where, f"{speed:.1f}"),
        Row(ANNEALED, *where, said(some["rungs"][-1]["bound"])),
        Row("seconds of annealing", *where, f"{some['seconds']['annealing']:.0f}"),
        Row(AMORTIZATION, *where, said(some["amortization_gap"])),
        Row(APPROXIMATION, *where, said(some["approximation_gap"])),
    ]
    run = narrow()
    few = measured(run, 50, temperatures=1000, fit_steps=0)
    rungs = {rung["method"]: rung for rung in few["rungs"]}
    gain = (
        rungs["annealed"]["above_elbo"]["nats"] - rungs["importance_weighted"]["above_elbo"]["nats"]
    )
    where = run.spec.name, f"{NARROW}, {EPOCHS} epochs, 50 images"
    return [
        *rows,
        Row(f"narrow: {IMPORTANCE}", *where, said(rungs["importance_weighted"]["bound"])),
        Row(f"narrow: {ANNEALED}", *where, said(rungs["annealed"]["bound"])),
        Row(GAIN, *where, f"{gain:.2f}"),
    ]
