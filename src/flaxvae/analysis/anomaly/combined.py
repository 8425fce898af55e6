"""The reconstruction of an image and its code, each as unusual as it is among training images.

    S(x) = (-log p(x|z) - m_1) / s_1 + (-log p̂(z) - m_2) / s_2,   z the code of x

p̂ is a mixture of Gaussians fitted to draws from q(z|x), one of each training image; m and s are
mean and standard deviation of a term over these images. Where p(z) is N(0, I), codes of an unseen
class often lie between those of the others, where p(z) is high and p̂ low: Li et al. 2024 replace
p(z) so in the ELBO. There -log p(x|z) would decide alone: it varies by tens of nats with how much
there is to draw, and -log p̂(z) by a few.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from flaxvae.analysis import fitted_prior, mixtures
from flaxvae.core import Batch, Model, Variables
from flaxvae.recipe import Recipe

Array = np.ndarray

IMAGES = 20_000  # most training images that are compared with
COMPONENTS = 50  # most Gaussians, each of
PER_COMPONENT = 10  # draws or more for each latent dimension, on average
ROUNDING = 1e-5  # of a term in float32, relative, with room to spare


class Usual(NamedTuple):
    """What is known of training images, to compare with."""

    codes: mixtures.Mixture  # p̂
    mean: Array  # [2] nats
    sd: Array  # [2] nats

    @property
    def scale(self) -> Array:
        """What terms are divided by, [2]; one that varies by rounding alone is not."""
        return np.where(self.sd > ROUNDING * np.abs(self.mean), self.sd, 1)


def possible(recipe: Recipe, latent_size: int) -> bool:
    """Whether codes of a model have a density that can be fitted."""
    return recipe.codes is None and latent_size <= fitted_prior.LARGEST


def terms(model: Model) -> Callable[[Variables, jax.Array, Batch], dict[str, jax.Array]]:
    """The code of each image, "code" [B, D], and "cost" [B], -log p(x|z) there in nats."""

    def function(variables: Variables, key: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        features = model.encode(variables, batch.x, batch.y)
        latent = model.reparameterize(variables, None, features, False)
        px = model.decode(variables, latent.z, batch.y) if latent.px is None else latent.px
        return {"code": latent.code, "cost": -px.log_prob(batch.x)}

    return function


def fit(draws: Array, codes: Array, costs: Array) -> Usual:
    """What to compare with, of training images: draws from q(z|x) and ``terms``.

    Args:
        draws: [N, D], one of each image; of a point, its code.
        codes: [N, D].
        costs: [N].

    Raises UsageError for fewer than two images, more than 512 dimensions, or draws that are not
    finite.
    """
    count, size = draws.shape
    components = min(max(count // (PER_COMPONENT * size), 1), COMPONENTS)
    params = fitted_prior.fit(draws, "mixture", components=components).params
    density = mixtures.Mixture(**params)
    both = _both(density, codes, costs)
    return Usual(density, both.mean(0), both.std(0))


def scores(usual: Usual, codes: Array, costs: Array) -> Array:
    """S of images with these ``terms``, [N]: 0 on average over training images."""
    return ((_both(usual.codes, codes, costs) - usual.mean) / usual.scale).sum(1)


_log_prob = jax.jit(mixtures.log_prob)


def _both(density: mixtures.Mixture, codes: Array, costs: Array) -> Array:
    """-log p(x|z) and -log p̂(z), [N, 2]."""
    rows = [_log_prob(density, part) for part in _parts(np.asarray(codes, np.float32))]
    rare = -np.concatenate(rows)[: len(codes)]
    return np.stack([costs, rare], 1).astype(np.float64)


def _parts(codes: Array) -> list[Array]:
    """Codes in parts of one size, the last one padded: for one compilation."""
    size = 512
    short = -len(codes) % size
    padded = np.concatenate([codes, np.zeros((short, codes.shape[1]), codes.dtype)])
    return np.split(padded, len(padded) // size)
