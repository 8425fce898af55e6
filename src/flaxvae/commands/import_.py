"""flaxvae import vae.pt --dataset mnist"""

from __future__ import annotations

from typing import Any

from flaxvae.declared import AboveZero, typed
from flaxvae.flags import RunArgument
from flaxvae.settings import Activation, Likelihood


@typed
def import_(
    weights: RunArgument,
    *,
    dataset: str = "mnist",
    data_dir: str | None = None,
    likelihood: Likelihood = "bernoulli",
    sigma: AboveZero = 1.0,
    activation: Activation = "relu",
    run: str | None = None,
) -> None:
    """Make a run of the weights of a PyTorch tutorial's VAE: evaluated, with figures.

    Args:
        weights: A state_dict that torch.save wrote, or a .safetensors: Linear layers, or the
            tutorials' Conv2d 32 and 64, into heads for mean and log-variance, and back.
        dataset: What it was trained on: mnist, another name, or a file or folder of images.
        data_dir: Folder with the IDX files of the dataset.
        likelihood: What its outputs mean: bernoulli, the logits before a sigmoid; gaussian, means.
        sigma: Standard deviation of likelihood gaussian.
        activation: Of Linear layers.
        run: Folder to create; by default under runs/.
    """
    import hashlib
    from pathlib import Path

    from flaxvae import api
    from flaxvae.commands import shared
    from flaxvae.export import torch_file, tutorials
    from flaxvae.plan import make_plan
    from flaxvae.report.terminal import Terminal

    path = Path(weights).expanduser()
    found = tutorials.recognised(torch_file.read(path))
    if found.settings["net"] == "conv":
        shared.unchanged(import_, "convolutional weights have relu", activation=activation)
    if likelihood != "gaussian":
        shared.unchanged(import_, f"likelihood {likelihood} has none", sigma=sigma)
    own: dict[str, Any] = {} if found.settings["net"] == "conv" else {"activation": activation}
    if likelihood == "gaussian":
        own["sigma"] = sigma
    plan = make_plan(
        "vae",
        dataset=dataset,
        data_dir=data_dir,
        likelihood=likelihood,
        epochs=0,
        **found.settings,
        **own,
    )
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    origin = api.Origin(
        lambda spec: tutorials.params(found, spec), {"file": path.name, "sha256": sha256}
    )
    with Terminal() as terminal:
        if said := tutorials.assumed(found):
            terminal.note(said)
        api.execute(plan, run=run, origin=origin, terminal=terminal)
