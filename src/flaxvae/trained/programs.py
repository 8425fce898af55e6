"""What a model computes, compiled once for each of a few sizes."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from flaxvae.analysis import fitted_prior, geodesic
from flaxvae.analysis.anomaly import combined
from flaxvae.core import Batch, Latent, Variables
from flaxvae.data import images
from flaxvae.devices import batches
from flaxvae.distributions import draw_rows
from flaxvae.recipe import Recipe
from flaxvae.settings import Binarization

Array = jax.Array
SIZES = 8  # small batches are padded to powers of this: 1, 8, 64 and 512 images


@dataclasses.dataclass(frozen=True, eq=False)
class Programs:
    """Functions of variables and arrays, for all models of one recipe.

    Those of a split are as ``batches.over_split`` gives them; the others are of one batch.
    """

    recipe: Recipe
    mesh: Mesh
    binarization: Binarization  # of the images that the model was trained on

    def latent(self, variables: Variables, key: Array | None, batch: Batch) -> Latent:
        """A draw from q(z|x); without a key, its mean."""
        model = self.recipe.model
        features = model.encode(variables, batch.x, batch.y)
        return model.reparameterize(variables, key, features, False)

    def code(self, variables: Variables, key: Any, batch: Batch) -> Array:
        """The codes of a batch, [B, D]."""
        return self.latent(variables, None, batch).code

    def reconstruction(self, variables: Variables, key: Any, batch: Batch) -> Array:
        """The means of p(x|z) at the codes of a batch, [B, *shape]."""
        z = self.latent(variables, None, batch).z
        return self.recipe.model.decode(variables, z, batch.y).mean

    # Of a split.

    @functools.cached_property
    def encode(self):
        return batches.over_split(self.code, self.mesh, base=SIZES)

    @functools.cached_property
    def draw(self):
        """A draw from q(z|x) of each image."""
        return batches.over_split(lambda *given: self.latent(*given).z, self.mesh, base=SIZES)

    @functools.cached_property
    def reconstruct(self):
        return batches.over_split(self.reconstruction, self.mesh, base=SIZES)

    @functools.cached_property
    def reconstruct_drawn(self):
        """A draw from p(x|z) at each image's code, with a key for each."""

        def drawn(variables, keys, batch):
            z = self.latent(variables, None, batch).z
            return draw_rows(self.recipe.model.decode(variables, z, batch.y), keys)

        return batches.over_split(drawn, self.mesh, base=SIZES)

    @functools.cached_property
    def terms(self):
        return batches.over_split(batches.own_terms(self.recipe.model), self.mesh, base=SIZES)

    @functools.cached_property
    def at_code(self):
        return batches.over_split(combined.terms(self.recipe.model), self.mesh, base=SIZES)

    @functools.cached_property
    def binarize(self):
        how = self.binarization

        def each(variables, keys, batch):
            drawn = jax.vmap(lambda x, key: images.binarize(x, how, key))(batch.x, keys)
            return drawn.astype(jnp.uint8)

        return batches.over_split(each, self.mesh, base=SIZES)

    # Of latents.

    @functools.cached_property
    def decode(self):
        """(variables, z, labels, key, rows) -> means of p(x|z), or draws, each of its row's key."""
        decode = self.recipe.model.decode

        def decoded(variables, z, y, key, rows):
            p = decode(variables, z, y)
            if key is None:
                return p.mean
            return draw_rows(p, jax.vmap(jax.random.fold_in, (None, 0))(key, rows))

        return jax.jit(decoded)

    @functools.cached_property
    def prior_sample(self):
        """(variables, key, n, temperature) -> z [n, D]."""
        draw = self.recipe.model.prior_sample
        return jax.jit(lambda v, key, n, t: draw(v, key, n, None, t), static_argnums=2)

    @functools.cached_property
    def fitted_sample(self):
        """(kind, params, size, key, n, temperature) -> z [n, D] from a fitted prior."""

        def drawn(kind, params, size, key, n, temperature):
            prior = fitted_prior.FittedPrior(kind, params, size)
            return fitted_prior.sample(prior, key, n, temperature)

        return jax.jit(drawn, static_argnums=(0, 2, 4))

    @functools.cached_property
    def redraw(self):
        redraw = self.recipe.model.redraw
        assert redraw is not None
        return jax.jit(redraw)

    @functools.cached_property
    def geodesics(self):
        """(variables, start, end, labels, steps) -> Geodesics."""
        decode = self.recipe.model.decode

        def found(variables, start, end, labels, steps):
            def curve(z, y):
                return geodesic.points(decode(variables, z, y))

            return geodesic.geodesics(curve, start, end, labels, steps=steps)

        return jax.jit(found, static_argnums=4)
