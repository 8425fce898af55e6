"""flaxvae: variational autoencoders in JAX and Flax.

import flaxvae as fv
run = fv.train(images, latent_dim=2)     # or "mnist", "images.npz", (images, labels)
run = fv.load("runs/latest")
run.encode(x), run.decode(z), run.sample(64), run.reconstruct(x), run.score(x)

The pieces are pure functions: ``fv.vae(spec)`` is a recipe, ``fv.init`` and ``fv.update`` train it,
``fv.elbo`` and ``fv.log_weights`` are its bounds, and ``fv.Trained`` uses it.

JAX has threads: a process that has loaded or trained a model must not fork. Use
``multiprocessing.get_context("spawn")`` (docs/processes.md has an example).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flaxvae.analysis.evaluation import Evaluation as Evaluation
    from flaxvae.api import load as load
    from flaxvae.api import train as train
    from flaxvae.core import Batch as Batch
    from flaxvae.core import Latent as Latent
    from flaxvae.core import Model as Model
    from flaxvae.core import Terms as Terms
    from flaxvae.core import elbo as elbo
    from flaxvae.core import elbo_samples as elbo_samples
    from flaxvae.core import log_weights as log_weights
    from flaxvae.lookup import build as build
    from flaxvae.plan import make_plan as make_plan
    from flaxvae.recipe import DataSpec as DataSpec
    from flaxvae.recipe import Recipe as Recipe
    from flaxvae.report.beside import Comparison as Comparison
    from flaxvae.report.beside import compare as compare
    from flaxvae.runs.run import Run as Run
    from flaxvae.settings import Body as Body
    from flaxvae.settings import Bound as Bound
    from flaxvae.sweeps import Sweep as Sweep
    from flaxvae.sweeps import sweep as sweep
    from flaxvae.trained import Trained as Trained
    from flaxvae.trained import evaluate as evaluate
    from flaxvae.training.update import init as init
    from flaxvae.training.update import update as update
    from flaxvae.zoo import RECIPES as RECIPES
    from flaxvae.zoo import ae as ae
    from flaxvae.zoo import beta_vae as beta_vae
    from flaxvae.zoo import cvae as cvae
    from flaxvae.zoo import deep_vae as deep_vae
    from flaxvae.zoo import denoising_ae as denoising_ae
    from flaxvae.zoo import denoising_vae as denoising_vae
    from flaxvae.zoo import factor_vae as factor_vae
    from flaxvae.zoo import flow_prior_vae as flow_prior_vae
    from flaxvae.zoo import flow_vae as flow_vae
    from flaxvae.zoo import gumbel_vae as gumbel_vae
    from flaxvae.zoo import iwae as iwae
    from flaxvae.zoo import ladder_vae as ladder_vae
    from flaxvae.zoo import mmd_vae as mmd_vae
    from flaxvae.zoo import mog_vae as mog_vae
    from flaxvae.zoo import tc_vae as tc_vae
    from flaxvae.zoo import vae as vae
    from flaxvae.zoo import vamp_vae as vamp_vae
    from flaxvae.zoo import vq_vae as vq_vae

__version__ = "0.1.0"

# Where each public name is. They load on first use: `flaxvae --help` does not wait for JAX.
_NAMES = {
    "analysis.evaluation": "Evaluation",
    "api": "load train",
    "core": "Batch Latent Model Terms elbo elbo_samples log_weights",
    "lookup": "build",
    "plan": "make_plan",
    "recipe": "DataSpec Recipe",
    "report.beside": "Comparison compare",
    "runs.run": "Run",
    "settings": "Body Bound",
    "sweeps": "Sweep sweep",
    "trained": "Trained evaluate",
    "training.update": "init update",
    "zoo": "RECIPES ae denoising_ae vae beta_vae denoising_vae cvae iwae tc_vae factor_vae "
    "mmd_vae flow_vae vamp_vae mog_vae flow_prior_vae ladder_vae deep_vae gumbel_vae vq_vae",
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names.split()}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"flaxvae.{_HOMES[name]}"), name)
    if not name.startswith("_"):
        try:
            return importlib.import_module(f"flaxvae.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"flaxvae.{name}":
                raise
    raise AttributeError(f"module 'flaxvae' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
