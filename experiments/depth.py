"""Depth: models of 4 to 32 blocks of latents, and what they gain and cost.

`deep_vae` on MNIST with dynamic binarization, with the settings of the study of hierarchies over
feature maps.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from experiments import runs
from experiments.deep import ELBO, LEVELS, negative_elbo, setting
from experiments.table import Beside, Row
from flaxvae.report.page import TRAIN, page

EPOCHS = 2
GROWTH = {  # levels by their number of blocks
    4: ("14x1", "7x1", "4x1", "1x1"),
    8: LEVELS,
    16: ("14x4", "7x6", "4x4", "1x2"),
    32: ("14x8", "7x12", "4x8", "1x4"),
}
BESIDE = [
    Beside(
        f"{ELBO}, {blocks} blocks", 84, 101.73, "below the MLP of flax's example after 10 epochs"
    )
    for blocks in GROWTH
]


def study(epochs: int = EPOCHS) -> Iterator[Row]:
    nats, speeds = {}, {}
    for blocks, levels in GROWTH.items():
        run = runs.train(f"deep_{blocks}_blocks_{epochs}", "deep_vae", **setting(epochs, levels))
        nats[blocks], speeds[blocks] = negative_elbo(run), runs.images_per_second(run)
        name, budget = run.spec.name, f"{epochs} epochs, {runs.parameters(run):,} parameters"
        yield Row(f"{ELBO}, {blocks} blocks", name, budget, f"{nats[blocks]:.2f}")
        budget, speed = runs.timed(budget), f"{speeds[blocks]:.0f}"
        yield Row(f"images/s of training, {blocks} blocks", name, budget, speed)
        draw_growth(runs.FIGURES / "depth.png", nats, speeds, epochs)


def draw_growth(path: Path, nats: dict[int, float], speeds: dict[int, float], epochs: int) -> None:
    """-ELBO and speed against the number of blocks."""
    title = f"More blocks of latents: deep_vae on MNIST, {epochs} epochs each"
    panels = [("test −ELBO, nats", nats), ("images/s of training", speeds)]
    with page(path, title, [(0, 0, 560, 400), (700, 0, 560, 400)]) as axes:
        for ax, (name, found) in zip(axes, panels, strict=True):
            ax.plot(list(found), list(found.values()), "o-", color=TRAIN)
            ax.set_xscale("log", base=2)
            ax.set_xticks(list(found), [str(blocks) for blocks in found])
            ax.minorticks_off()
            ax.set(xlabel="blocks", title=name)
            ax.grid(True)
            for blocks, value in found.items():
                text = f"{value:.4g}"
                ax.annotate(text, (blocks, value), (0, 7), textcoords="offset points", size=8)
            ax.margins(0.12, 0.18)
        axes[1].set_ylim(bottom=0)
