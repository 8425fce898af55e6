"""What a VAE is made of: networks, likelihoods, latents, priors, objectives.

Submodules load on first use (``parts.networks.mlp``), so that reading the recipes' signatures, as
``flaxvae train --help`` does, does not import JAX.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flaxvae.parts import (
        adversary,
        aggregate,
        assemble,
        autoregressive,
        codebook,
        convolutions,
        corruption,
        deep,
        discrete,
        flows,
        hierarchy,
        image_networks,
        latents,
        levels,
        likelihoods,
        made,
        memory,
        networks,
        objectives,
        priors,
        resolutions,
    )

__all__ = [
    "adversary",
    "aggregate",
    "assemble",
    "autoregressive",
    "codebook",
    "convolutions",
    "corruption",
    "deep",
    "discrete",
    "flows",
    "hierarchy",
    "image_networks",
    "latents",
    "levels",
    "likelihoods",
    "made",
    "memory",
    "networks",
    "objectives",
    "priors",
    "resolutions",
]


def __getattr__(name: str):
    if name in __all__:
        return importlib.import_module(f"flaxvae.parts.{name}")
    raise AttributeError(f"module 'flaxvae.parts' has no attribute {name!r}")
