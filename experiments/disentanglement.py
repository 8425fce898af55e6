"""Disentanglement against reconstruction, on sprites.

A VAE, beta-VAE, TC-VAE and FactorVAE on 100,000 of the training images of `sprites`, with squares
of 2 x 2 pixels averaged, so that a training lasts minutes on one core. 32 x 32 pixels have a
quarter of the nats of 64 x 64, so that a weight is about four times as strong. 1024-256-128-10,
relu, Bernoulli, batch 128, Adam 2e-3 with cosine decay.

"±" is the standard deviation over three seeds. All five factors are counted, the shape too, and an
orientation that no model learns in so short a training: knowing scale, x and y alone, and nothing
else, gives a MIG of 0.6 and a FactorVAE score of about 0.6. The codes are the means of q(z|x) of
10,000 test images. Size, epochs and weights were chosen with another seed, and with 5,000 of the
test images. On 16 x 16 pixels, which were tried first, a plain VAE scored as high as two others
(MIG 0.47 beside 0.45 and 0.48): there a weight of 1 is a strong one already.

MIG rises with the weight, and reconstruction pays for it. The FactorVAE score was expected to rise
as well and does not: it is about that of the VAE for most, and lower for FactorVAE.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.runs import FIGURES, ROOT, minutes, train
from experiments.table import Beside, Row
from flaxvae import writing
from flaxvae.analysis.disentanglement import codes, scores
from flaxvae.data import sprites
from flaxvae.report import plots
from flaxvae.report.page import page
from flaxvae.runs.folder import write_json
from flaxvae.runs.run import Run

SIZE, IMAGES, TESTED = 32, 100_000, 10_000
EPOCHS, SEEDS = 16, (1, 2, 3)
MODELS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "VAE": ("vae", {}),
    "beta-VAE, beta = 2": ("beta_vae", {"beta": 2.0}),
    "beta-VAE, beta = 4": ("beta_vae", {"beta": 4.0}),
    "TC-VAE, beta = 4": ("tc_vae", {"beta": 4.0}),
    "FactorVAE, gamma = 10": ("factor_vae", {"gamma": 10.0, "discriminator": (128, 128)}),
}
FACTORS = [name for name, _ in sprites.FACTORS]
DATA = f"sprites, averaged to {SIZE}x{SIZE}, {IMAGES:,} images"
COLORS = ("#444444", "#6baed6", "#084594", "#d95f02", "#1b9e77")  # of MODELS
KNOWN = 0.1  # of a factor's entropy: what a unit must know of it to have a row
STEPS = 11
SCORES = ("MIG", "FactorVAE score")
BESIDE = [
    Beside("VAE: MIG", 0.02, 0.4, "knows something; not one unit for each of two factors"),
    Beside("VAE: FactorVAE score", 0.3, 0.9, "above chance, 0.2; orientation is not learned"),
    *(
        Beside(
            f"{model}: MIG",
            "VAE: MIG",
            0.8,
            "above the VAE; 0.8 is four factors known exactly, and orientation not at all",
        )
        for model in list(MODELS)[1:]
    ),
    *(
        Beside(f"{model}: FactorVAE score", 0.3, 0.9, "as of the VAE; above its was expected")
        for model in list(MODELS)[1:]
    ),
]


def reduced(rows: np.ndarray) -> np.ndarray:
    """Images of rows of factors, [N, 32, 32] uint8: the means of squares of pixels."""
    side = sprites.SIZE // SIZE
    found = []
    for part in np.array_split(rows, max(len(rows) // 2000, 1)):
        x = sprites.render(part).reshape(len(part), SIZE, side, SIZE, side)
        found.append(np.round(sprites.PEAK * x.mean((2, 4))).astype(np.uint8))
    return np.concatenate(found)


def factors() -> np.ndarray:
    """[N, 5] of the test images."""
    return sprites.splits(color=False)[2][:TESTED]


def dataset() -> Path:
    """The file of the images, written if it is not there."""
    path = ROOT / f"sprites_{SIZE}_{IMAGES}.npz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        x_train = reduced(sprites.splits(color=False)[0][:IMAGES])
        with writing.whole(path) as file:
            np.savez(file, x_train=x_train, x_test=reduced(factors()))
    return path


def setting(own: Mapping[str, Any], seed: int) -> dict[str, Any]:
    return {
        "validation": 0.0,
        "net": "mlp",
        "widths": (256, 128),
        "latent_dim": 10,
        "learning_rate": 2e-3,
        "schedule": "cosine",
        "epochs": EPOCHS,
        "seed": seed,
        **own,
    }


def trained(model: str, seed: int) -> Run:
    recipe, own = MODELS[model]
    called = "_".join([recipe, *(f"{value:g}" for value in list(own.values())[:1]), str(seed)])
    return train(f"disentanglement_{called}", recipe, dataset=str(dataset()), **setting(own, seed))


def measured(run: Run) -> dict[str, Any]:
    """Every measure of the codes of the test images, and the terms of the bound; kept."""
    kept = run.path / "measured.json"
    if not kept.exists():
        z, summary = run.encode(run.data().test), run.summary
        assert summary is not None
        used = codes.used(run.recipe, z)
        found = scores.measure(z, factors(), FACTORS, used=used, unordered=("shape",))
        bound = {"reconstruction": summary.reconstruction, "kl": summary.kl}
        write_json(kept, found.as_json() | bound)
    return json.loads(kept.read_text())


def study() -> list[Row]:
    made = {(seed, model): trained(model, seed) for seed in SEEDS for model in MODELS}
    runs = {model: [made[seed, model] for seed in SEEDS] for model in MODELS}
    found = {model: [measured(run) for run in members] for model, members in runs.items()}
    draw_scatter(FIGURES / "disentanglement.png", found)
    every = [(run, each) for m in MODELS for run, each in zip(runs[m], found[m], strict=True)]
    draw_traversals(FIGURES / "disentanglement_traversals.png", *max(every, key=_mig))
    rows = []
    for model, each in found.items():
        budget = f"{EPOCHS} epochs, {len(SEEDS)} seeds"
        rows += [Row(f"{model}: {name}", DATA, budget, told) for name, told in _told(each).items()]
        spent = np.mean([minutes(run) for run in runs[model]])
        rows.append(Row(f"{model}: minutes of each", DATA, budget, f"{spent:.1f}"))
    return rows


def _mig(one: tuple[Run, Mapping[str, Any]]) -> float:
    return one[1]["mig"]


def _told(found: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The rows of one model: mean ± standard deviation over seeds."""

    def over_seeds(name: str, digits: int = 3) -> str:
        values = [each[name] for each in found]
        return f"{np.mean(values):.{digits}f} ± {np.std(values, ddof=1):.{digits}f}"

    shares = ("dci_disentanglement", "dci_completeness", "dci_informativeness")
    return {
        "MIG": over_seeds("mig"),
        "FactorVAE score": over_seeds("factor_vae"),
        "DCI: disentanglement, completeness, informativeness": ", ".join(map(over_seeds, shares)),
        "SAP": over_seeds("sap"),
        "BetaVAE score": over_seeds("beta_vae"),
        "modularity, explicitness": ", ".join(map(over_seeds, ("modularity", "explicitness"))),
        "IRS": over_seeds("irs"),
        "reconstruction, KL, nats": ", ".join(over_seeds(x, 1) for x in ("reconstruction", "kl")),
    }


def draw_scatter(path: Path, found: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """MIG and FactorVAE score against reconstruction: a dot for each training."""
    title = f"Disentanglement against reconstruction: {len(SEEDS)} seeds each\n{DATA}"
    panels = {"mig": "MIG", "factor_vae": "FactorVAE score"}
    with page(path, title, [(0, 0, 520, 420), (640, 0, 520, 420)]) as axes:
        for ax, (name, label) in zip(axes, panels.items(), strict=True):
            for (model, each), color in zip(found.items(), COLORS, strict=True):
                x, y = ([one[key] for one in each] for key in ("reconstruction", name))
                ax.plot(x, y, "o", color=color, label=model, alpha=0.9)
            ax.set(xlabel="reconstruction, nats: the lower, the better", title=label)
            ax.grid(True)
        axes[1].legend(loc="center left", bbox_to_anchor=(1.02, 0.5))


def draw_traversals(path: Path, run: Run, found: Mapping[str, Any]) -> None:
    """Walks of the units that know most of a factor, one a row, through a test image."""
    parts = np.array(found["information"]) / found["entropy"]
    units = [d for d in np.argsort(parts.argmax(1), kind="stable") if parts[d].max() > KNOWN]
    start = run.encode(run.data().test.x[:1])[0]
    spots = np.linspace(-2, 2, STEPS)
    z = np.tile(start, (len(units), STEPS, 1))
    for row, d in zip(z, units, strict=True):
        row[:, d] = spots
    images = run.decode(z.reshape(-1, len(start)))
    labels = []
    for d in units:
        order = np.argsort(-parts[d])[:2]
        labels.append(f"z{d + 1}: " + ", ".join(f"{FACTORS[f]} {parts[d, f]:.0%}" for f in order))
    title = (
        "Traversals: each row moves one unit, and knows this much of the entropy of two factors\n"
        f"{run.plan.model}, seed {run.plan.training.seed}, MIG {found['mig']:.2f}; {DATA}"
    )
    columns = [f"{at:.1f}".replace("-", "−") for at in spots]
    rows = images.reshape(len(units), STEPS, *images.shape[1:])
    plots.image_grid(path, list(rows), labels, title=title, columns=columns)
