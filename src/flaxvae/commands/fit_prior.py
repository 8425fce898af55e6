"""flaxvae fit-prior runs/latest"""

from __future__ import annotations

from flaxvae.flags import LATEST, NO_RECIPES, Recipes, RunArgument
from flaxvae.settings import Place, TrainSettings


def fit_prior(
    run: RunArgument = LATEST,
    *,
    epochs: int = 50,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    seed: int = 0,
    devices: int | None = None,
    recipes: Recipes = NO_RECIPES,
    place: Place = Place(),
) -> None:
    """Fit the prior over a VQ-VAE's codes, so that it can sample new images.

    Args:
        run: Run folder.
        epochs: Passes over the training images' codes.
        batch_size: Images per step.
        learning_rate: Initial learning rate of Adam, which decays to zero by a cosine.
        seed: Determines the initial weights and the order of images.
        devices: Number of devices to use; by default all.
    """
    settings = TrainSettings(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        schedule="cosine",
        seed=seed,
        devices=devices,
    )
    from flaxvae import code_prior
    from flaxvae.report.terminal import Terminal

    with Terminal() as terminal:
        code_prior.fit_prior(run, settings, place=place, recipes=recipes, terminal=terminal)
