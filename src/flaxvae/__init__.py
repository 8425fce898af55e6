"""flaxvae: variational autoencoders in JAX and Flax.

import flaxvae
run = flaxvae.load("runs/latest")        # or flaxvae.train(dataset="mnist", latent_dim=2)
run.encode(x), run.decode(z), run.sample(64), run.reconstruct(x), run.score(x)

JAX has threads: a process that has loaded or trained a model must not fork. Use
``multiprocessing.get_context("spawn")`` (docs/processes.md has an example).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flaxvae.api import load, make_plan, train
    from flaxvae.runs.run import Run
    from flaxvae.sweeps import Sweep, sweep

__version__ = "0.1.0"
__all__ = ["Run", "Sweep", "load", "make_plan", "sweep", "train"]


def __getattr__(name: str) -> Any:
    # JAX loads on first use, so that `flaxvae --help` does not wait for it.
    if name in __all__:
        from flaxvae import api, sweeps

        return getattr(sweeps if name in ("Sweep", "sweep") else api, name)
    raise AttributeError(f"module 'flaxvae' has no attribute {name!r}")
