"""flaxvae as its commands run it: compiled segments of steps, and its own likelihood."""

from __future__ import annotations

import jax
import numpy as np

from benchmarks.case import Case
from flaxvae import zoo
from flaxvae.analysis import bounds
from flaxvae.core import Batch
from flaxvae.data.pipeline import Data, Split
from flaxvae.settings import TrainSettings
from flaxvae.training import batches, step
from flaxvae.training import mesh as meshes


def _recipe(case: Case) -> tuple[zoo.Recipe, Data]:
    net = case.shape
    train = Split(case.data()[..., None], None, 255.0)
    spec = zoo.DataSpec("noise", train.x.shape[1:], None, False, 256, len(train.x))
    data = Data(spec, train, None, train, 255.0, "none", "", "")
    flat = {"net": net.kind, "latent_dim": net.latents}
    if net.kind == "mlp":
        flat |= {"widths": net.widths, "activation": net.activation}
    return zoo.build("vae", spec, **flat), data


def train(case: Case):
    recipe, data = _recipe(case)
    settings = TrainSettings(epochs=1, batch_size=case.batch)
    trainer = step.trainer(recipe, data, settings, meshes.make(case.devices), 1000)
    state, order = trainer.init(), trainer.order(0)

    def run(steps: int) -> None:
        nonlocal state
        state = trainer.segment(state, order, steps)
        jax.block_until_ready(state)

    run(1)
    return run


def _likelihood(case: Case):
    recipe, data = _recipe(case)
    example = np.zeros((1, *data.spec.shape), np.float32)
    variables = jax.jit(recipe.model.init)(jax.random.key(0), example)
    return bounds.log_likelihood(recipe.model, case.k, bounds.CHUNK // 10), data, variables


def likelihood_mib(case: Case) -> float:
    """Temporary memory of the compiled estimate of ten images, MiB."""
    function, data, variables = _likelihood(case)
    batch = Batch(np.zeros((10, *data.spec.shape), np.float32))
    compiled = jax.jit(function).lower(variables, jax.random.key(0), batch).compile()
    return compiled.memory_analysis().temp_size_in_bytes / 2**20


def likelihood(case: Case):
    function, data, variables = _likelihood(case)
    estimate = batches.over_split(function, meshes.make(case.devices), 10)

    def run(images: int) -> None:
        estimate(data.test._replace(x=data.test.x[:images]), variables, jax.random.key(1))

    run(10)
    return run


def gemm(case: Case):
    """Square matrix products: the machine's peak. A step is 2 * 1024^3 operations."""
    multiply = jax.jit(lambda a, b: a @ b)
    a = jax.random.normal(jax.random.key(0), (1024, 1024))
    multiply(a, a).block_until_ready()

    def run(steps: int) -> None:
        for _ in range(steps):
            multiply(a, a).block_until_ready()

    return run


CONTENDERS = {"flaxvae": train, "flaxvae likelihood": likelihood, "gemm": gemm}
