"""The codes of a model that are measured: of a split, or of images rendered for a fixed factor."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from flaxvae.analysis.disentanglement.inputs import Array
from flaxvae.analysis.disentanglement.intervention import IMAGES, Sample
from flaxvae.analysis.evaluation import ACTIVE
from flaxvae.core import Variables
from flaxvae.data.pipeline import Split
from flaxvae.devices import batches
from flaxvae.recipe import Recipe

Encode = Callable[..., Array]  # (split, key, watch) -> [N, D]


def encoder(recipe: Recipe, variables: Variables, mesh: Mesh, draws: bool = False) -> Encode:
    """What gives the codes of a split: one draw of z ~ q(z|x) for each image, or what represents
    it without noise (``recipe.code``)."""
    model = recipe.model

    def code(variables, key, batch):
        features = model.encode(variables, batch.x, batch.y)
        latent = model.reparameterize(variables, key if draws else None, features, False)
        return latent.z if draws else latent.code

    every = batches.over_split(code, mesh)
    return lambda split, key, watch=None: every(split, variables, key, watch)


def used(recipe: Recipe, codes: Array) -> Array:
    """Which units say something, [D] bool: those whose code, without noise, has a variance over
    images above 0.01 (Burda et al. 2015); without a prior to compare with, more than rounding."""
    variance = codes.var(0, dtype=np.float64)
    return variance > (ACTIVE if recipe.has_bound else 1e-10 * variance.max())


def rendered(
    encode: Encode,
    like: Split,
    sizes: Sequence[int],
    counted: Sequence[int],
    watch: batches.Watch | None = None,
) -> Sample:
    """Codes of new images, rendered from factors that are all equally likely.

    Args:
        encode: of ``encoder``.
        like: a split of rows of factors that its ``render`` makes images of.
        sizes: how many values each factor has.
        counted: columns of the factors that may be fixed, in the order of the measures.
        watch: is told how many images are encoded, of all that two scores ask for.
    """
    columns, done = np.asarray(counted), 0

    def sample(generator: np.random.Generator, fixed: Array, size: int) -> Array:
        nonlocal done
        rows = generator.integers(sizes, size=(len(fixed), size, len(sizes)))
        groups, shared = np.arange(len(fixed)), columns[fixed]
        rows[groups, :, shared] = rows[groups, :1, shared]
        flat = rows.reshape(-1, len(sizes)).astype(like.x.dtype)
        images = like._replace(x=flat, y=None, names=None, files=None, factors=None)
        codes = encode(images, jax.random.key(generator.integers(2**32)))
        done += len(codes)
        if watch is not None:
            watch(done, IMAGES)
        return codes.reshape(*rows.shape[:2], -1)

    return sample
