"""flaxvae as its commands run it: compiled segments of steps, and its own likelihood."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from benchmarks.case import Case
from benchmarks.nets import GEMM_SIZE, IMAGES_AT_ONCE
from flaxvae import lookup
from flaxvae.analysis.evaluation import CHUNK, importance_weighted_elbo
from flaxvae.core import Batch
from flaxvae.data import sprites
from flaxvae.data.pipeline import Data, Split
from flaxvae.data.rows import Rows
from flaxvae.devices import batches
from flaxvae.devices import mesh as meshes
from flaxvae.recipe import DataSpec, Recipe
from flaxvae.settings import TrainSettings
from flaxvae.training import step


def parts(case: Case, train: Split | None = None) -> tuple[Recipe, Data]:
    """The VAE of a case, and data of its images or of others."""
    net = case.shape
    if train is None:
        rows = case.data().reshape(case.images, case.size, case.size, case.channels)
        train = Split(rows, None, 255.0)
    spec = DataSpec("noise", train.shape, None, False, 256, len(train.x))
    data = Data(spec, train, None, train, 255.0, "none", "", "")
    likelihood = "bernoulli" if case.channels == 1 else "gaussian_shared"
    if net.kind == "deep":
        return lookup.build("deep_vae", spec, likelihood=likelihood), data
    flat = {"net": net.kind, "latent_dim": net.latents, "likelihood": likelihood}
    if net.kind == "mlp":
        flat |= {"widths": net.widths, "activation": net.activation}
    return lookup.build("vae", spec, **flat), data


def train(
    case: Case,
    changed: Callable[[Recipe], Recipe] = lambda recipe: recipe,
    images: Split | None = None,
):
    recipe, data = parts(case, images)
    settings = TrainSettings(epochs=1, batch_size=case.batch)
    trainer = step.trainer(changed(recipe), data, settings, meshes.make(case.devices), 1000)
    state, (rows, _) = trainer.init(), trainer.feed.at(0)

    def run(steps: int) -> None:
        nonlocal state
        state = trainer.segment(state, rows, steps)
        jax.block_until_ready(state)

    run(1)
    return run


def _sprites(case: Case, color: bool) -> Split:
    rows = sprites.splits(color)[0][: case.images]
    return Split(rows, None, sprites.PEAK, render=sprites.draw)


def train_on_sprites(case: Case, color: bool):
    """As ``train``, of images that each step draws."""
    return train(case, images=_sprites(case, color))


def draw(case: Case, color: bool):
    """Only draw the batches of ``train_on_sprites``, all alone."""
    rows = jax.numpy.asarray(_sprites(case, color).x)

    @jax.jit
    def batches_of(steps, rows):
        def step(i, images):
            first = i * case.batch % (len(rows) - case.batch)
            return sprites.draw(jax.lax.dynamic_slice_in_dim(rows, first, case.batch))

        return jax.lax.fori_loop(0, steps, step, sprites.draw(rows[: case.batch]))

    def run(steps: int) -> None:
        batches_of(steps, rows).block_until_ready()

    run(1)
    return run


def streamed(case: Case):
    """Images are read from a file, in the order of epochs; no turn finds any that were read before
    it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.npy"
        case.write(path)
        recipe, data = parts(case, Split(Rows(np.load(path, mmap_mode="r")), None, 255.0))
    settings = TrainSettings(epochs=1, batch_size=case.batch, data_placement="stream")
    trainer = step.trainer(recipe, data, settings, meshes.make(case.devices), 1000)
    state, done = trainer.init(), 0

    def run(steps: int) -> None:
        nonlocal state, done
        end = done + steps
        while done < end:
            rows, enough = trainer.feed.at(done)
            count = min(enough, end - done)
            state, done = trainer.segment(state, rows, count), done + count
            jax.block_until_ready(state)
        trainer.feed.close()

    run(1)
    return run


def evaluation(case: Case):
    """The ELBO of each image, as training validates; a step is a pass over all images."""
    recipe, data = parts(case)
    variables = _variables(recipe, data)
    bound = batches.over_split(batches.bound_terms(recipe.model), meshes.make(case.devices))

    def run(passes: int) -> None:
        for _ in range(passes):
            bound(data.test, variables, jax.random.key(1))

    run(1)
    return run


def _variables(recipe: Recipe, data: Data):
    example = np.zeros((1, *data.spec.shape), np.float32)
    return jax.jit(recipe.model.init)(jax.random.key(0), example)


def _likelihood(case: Case):
    recipe, data = parts(case)
    function = importance_weighted_elbo(recipe.model, case.k, CHUNK // IMAGES_AT_ONCE)
    return function, data, _variables(recipe, data)


def likelihood_mib(case: Case) -> float:
    """Temporary memory of the compiled estimate of a step's images, MiB."""
    function, data, variables = _likelihood(case)
    batch = Batch(np.zeros((IMAGES_AT_ONCE, *data.spec.shape), np.float32))
    compiled = jax.jit(function).lower(variables, jax.random.key(0), batch).compile()
    return compiled.memory_analysis().temp_size_in_bytes / 2**20


def likelihood(case: Case):
    """log p(x) by importance samples; a step is IMAGES_AT_ONCE images."""
    function, data, variables = _likelihood(case)
    estimate = batches.over_split(function, meshes.make(case.devices), IMAGES_AT_ONCE)

    def run(steps: int) -> None:
        rows = np.arange(steps * IMAGES_AT_ONCE) % case.images
        estimate(data.test._replace(x=data.test.x[rows]), variables, jax.random.key(1))

    run(1)
    return run


def gemm(case: Case):
    """The machine's peak: a step is one product of two square matrices, float32."""
    multiply = jax.jit(lambda a: a @ a)
    a = jax.random.normal(jax.random.key(0), (GEMM_SIZE, GEMM_SIZE))

    def run(steps: int) -> None:
        for _ in range(steps):
            product = multiply(a)
        product.block_until_ready()

    run(1)
    return run


CONTENDERS = {
    "flaxvae": train,
    "flaxvae sprites": functools.partial(train_on_sprites, color=False),
    "flaxvae sprites_color": functools.partial(train_on_sprites, color=True),
    "draw sprites": functools.partial(draw, color=False),
    "draw sprites_color": functools.partial(draw, color=True),
    "flaxvae streamed": streamed,
    "flaxvae evaluation": evaluation,
    "flaxvae likelihood": likelihood,
    "gemm": gemm,
}
