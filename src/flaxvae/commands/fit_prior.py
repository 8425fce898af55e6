"""flaxvae fit-prior runs/latest --prior mixture"""

from __future__ import annotations

from typing import Any, Literal

from flaxvae.declared import Positive, Seed, typed
from flaxvae.flags import LATEST, NO_RECIPES, Recipes, RunArgument
from flaxvae.settings import Place, TrainSettings


@typed
def fit_prior(
    run: RunArgument = LATEST,
    *,
    prior: Literal["gaussian", "mixture", "flow"] | None = None,
    components: Positive = 10,
    epochs: int = 50,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    seed: Seed = 0,
    devices: int | None = None,
    recipes: Recipes = NO_RECIPES,
    place: Place = Place(),
) -> None:
    """Fit a prior to the codes of the training images, so that samples look more like these.

    Of a VQ-VAE, which cannot sample without one, it is autoregressive over grids of codes.
    `flaxvae sample` draws from it; all else keeps the model's own prior.

    Args:
        run: Run folder.
        prior: What to fit to continuous latents, a draw from q(z|x) for each image: a Gaussian, a
            mixture of Gaussians with full covariances, or a normalizing flow; by default a mixture.
        components: Gaussians of the mixture.
        epochs: Passes over the training images' codes, of a flow or a VQ-VAE's prior.
        batch_size: Images per step.
        learning_rate: Initial learning rate of Adam, which decays to zero by a cosine.
        seed: Determines the draws, the initial weights and the order of images.
        devices: Number of devices to use for a VQ-VAE's prior; by default all.
    """
    settings = TrainSettings(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        schedule="cosine",
        seed=seed,
        devices=devices,
    )
    from flaxvae import code_prior, latent_prior
    from flaxvae.commands import shared
    from flaxvae.report.terminal import Terminal
    from flaxvae.runs.folder import RunFolder

    codes = RunFolder.open(run, recipes).recipe().codes
    of: dict[str, Any] = {"place": place, "recipes": recipes}
    if codes is not None:
        why = "the latents are discrete"
        shared.unchanged(fit_prior, why, prior=prior, components=components)
        with Terminal() as terminal:
            code_prior.fit_prior(run, settings, terminal=terminal, **of)
        return
    kind = prior or "mixture"
    trained: dict[str, Any] = {"epochs": epochs, "batch_size": batch_size}
    trained["learning_rate"] = learning_rate
    shared.unchanged(fit_prior, "only a VQ-VAE's prior is trained on several", devices=devices)
    if kind != "flow":
        shared.unchanged(fit_prior, f"a {kind} is not trained in steps", **trained)
    if kind != "mixture":
        shared.unchanged(fit_prior, f"a {kind} is no mixture", components=components)
    with Terminal() as terminal:
        latent_prior.fit_prior(
            run, kind, components=components, **trained, seed=seed, terminal=terminal, **of
        )
