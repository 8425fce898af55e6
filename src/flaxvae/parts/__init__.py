"""What a VAE is made of: networks, likelihoods, latents, objectives.

The submodules load on first use (``parts.networks.mlp``), so that reading the recipes'
signatures, as ``flaxvae train --help`` does, does not import JAX.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flaxvae.parts import assemble, latents, likelihoods, networks, objectives

__all__ = ["assemble", "latents", "likelihoods", "networks", "objectives"]


def __getattr__(name: str):
    if name in __all__:
        return importlib.import_module(f"flaxvae.parts.{name}")
    raise AttributeError(f"module 'flaxvae.parts' has no attribute {name!r}")
