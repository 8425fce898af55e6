"""A trained model: a recipe with its variables, and what it can do with arrays.

    model = Trained(recipe, state.variables)
    model.encode(x), model.decode(z), model.sample(64), model.reconstruct(x), model.score(x)

It needs no folder; a ``Run`` is a Trained with the folder that it came from.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from flaxvae import declared
from flaxvae.analysis import evaluation, fitted_prior, geodesic, latent_space, restoration
from flaxvae.analysis.anomaly import scores as scoring
from flaxvae.analysis.evaluation import Evaluation
from flaxvae.core import Batch, Variables
from flaxvae.data import images, labels, pipeline, pixels, rows
from flaxvae.data.pipeline import Split
from flaxvae.data.tables import Columns
from flaxvae.declared import (
    AboveZero,
    Count,
    NotNegative,
    Positive,
    Seed,
    Steps,
    Temperature,
    typed,
)
from flaxvae.devices import batches
from flaxvae.devices import mesh as meshes
from flaxvae.distributions import draw_rows
from flaxvae.errors import UsageError, counted, did_you_mean
from flaxvae.recipe import DataSpec, Recipe
from flaxvae.settings import AnomalyScore, Binarization

Array = jax.Array
DRAWN = 64  # rows that are drawn down a hierarchy at a time, each time with all its maps
SIZES = 8  # small batches are padded to powers of this: 1, 8, 64 and 512 images
Path = Literal["linear", "spherical", "geodesic"]  # between codes
# What depends on the recipe alone, and takes the variables.
_COMPILED = (
    *("_draw", "_encode", "_reconstruct", "_reconstruct_drawn", "_terms", "_binarize"),
    *("_prior_sample", "_decode"),
)
RESTORED = 4  # images that are restored at a time, each with all its chains


class Restored(NamedTuple):
    """Completions of N images of which only a part is seen."""

    completions: np.ndarray  # [N, K, *shape] means of p(x|z) at draws of z, with the seen pixels
    mean: np.ndarray  # [N, *shape] of as many completions as there are chains
    log_p: np.ndarray  # [N] nats: in expectation at most log p of what is seen
    effective: np.ndarray  # [N] effective sample size of the chains
    acceptance: float  # of Hamiltonian Monte Carlo, on average


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Trained:
    """A recipe with trained variables.

    Arrays go in and come out as NumPy. Images may be [N, *shape] or, with one channel, [N, H, W]:
    whole numbers on the dataset's own scale, or floats in [0, 1]; if the training images were
    floats in [-1, 1], so are those of an array that goes below 0. If the model was trained on
    binary images, they are binarized as the evaluation images were. Labels are the dataset's.
    Rows of a table are [N, D] numbers as in its file, in the order of ``columns``, when they go in
    and when they come out. A `Split` can take the place of images: it is prepared already, has its
    own labels, and is read a batch at a time.

    Batches are padded to one of a few sizes, so that other numbers of images do not compile again.
    A Trained may be used from several threads.

    The same images on the same number of devices give the same bits. Matrix products of few rows
    may be summed in another order than those of many, so a different batch or number of devices
    changes results by rounding, a relative 1e-7.
    """

    recipe: Recipe
    variables: Variables
    _: dataclasses.KW_ONLY
    mesh: Mesh = dataclasses.field(default_factory=meshes.local)
    peak: float | None = None  # what whole numbers are divided by; None: decided by their type
    binarization: Binarization = "none"  # of the images that the model was trained on
    signed: bool = False  # they were floats in [-1, 1]
    columns: Columns | None = None  # of a table
    fitted: fitted_prior.FittedPrior | None = None  # to its codes, by ``fit_prior``

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self._facts())})"

    def _facts(self) -> list[str]:
        count = sum(leaf.size for leaf in jax.tree.leaves(self.variables["params"]))
        shape = " x ".join(map(str, self.spec.shape))
        return [f"{self.spec.name}, {shape}", counted(count, "parameter")]

    @property
    def spec(self) -> DataSpec:
        """The data that the recipe was built for."""
        return self.recipe.data

    @property
    def _called(self) -> str:
        """The model's name in messages."""
        return "this model"

    @property
    def generates(self) -> bool:
        """Whether there is a prior to draw from; a codebook's is fitted after training."""
        codes = self.recipe.codes
        return codes is None or codes.prior is None or "prior" in self.variables

    def encode(self, x: Any, y: Any = None, *, watch: batches.Watch | None = None) -> np.ndarray:
        """The code of each image, [N, D], without noise: ``recipe.code`` says what it is."""
        return self._encode(self.split(x, y), self.variables, jax.random.key(0), watch)

    @typed
    def decode(
        self, z: Any, y: Any = None, *, draw_pixels: bool = False, seed: Seed = 0
    ) -> np.ndarray:
        """The mean of p(x|z), or with ``draw_pixels`` a draw from it: [N, D] -> [N, *shape].

        Images are in [0, 1], except with Gaussian likelihoods, which are unbounded: use
        ``np.clip(x, 0, 1)`` before encoding or reconstructing them again. The draw of row i depends
        on i and the seed.

        Raises UsageError on other shapes.
        """
        z = np.asarray(z, np.float32)
        if z.ndim != 2 or z.shape[1] != self.latent_size:
            raise UsageError(f"latents of shape {z.shape}: expected [N, {self.latent_size}]")
        if not len(z):
            return self._shown(np.zeros((0, *self.spec.shape), np.float32))
        y, size = self.labels(y, len(z)), batches.rows_at_once(len(z), self.spec.shape, base=SIZES)
        parts, key = [], _of_pixels(seed) if draw_pixels else None
        for start in range(0, len(z), size):
            some = np.arange(start, start + size) % len(z)  # the last batch is padded
            labels = None if y is None else y[some]
            parts.append(self._decode(self.variables, z[some], labels, key, np.uint32(some)))
        return self._shown(np.concatenate(jax.device_get(parts))[: len(z)])

    def _shown(self, x: np.ndarray) -> np.ndarray:
        """What a model decodes, as in the user's data."""
        return x if self.columns is None else self.columns.restored(x)

    @typed
    def sample(
        self,
        n: Positive,
        *,
        seed: Seed = 0,
        temperature: Temperature = (1.0,),
        y: Any = None,
        draw_pixels: bool = False,
        prior: Literal["fitted", "own"] | None = None,
    ) -> np.ndarray:
        """Means of p(x|z) for ``n`` draws z from the prior, [n, *shape]; or draws, as ``decode``.

        The prior is the one that ``fit_prior`` has fitted, if it has, else the model's own.

        ``temperature`` scales the prior's standard deviation; a hierarchy takes one number for each
        level, too, the one next to the data first. A conditional model takes one label
        ``y`` or n of them; by default all its classes, in order. A larger ``n`` adds draws after
        the same first ones.

        Raises UsageError for numbers or labels out of range, a temperature that the prior does not
        have, or a prior that is not fitted yet.
        """
        codes, fitted = self.recipe.codes, self._prior(prior)
        scale = self._scale(temperature) if fitted is None else _one(temperature)
        if temperature != (1.0,) and codes is not None and codes.prior is None:
            raise UsageError(
                f"--temperature {declared.seen(temperature)} has no effect on the uniform prior of "
                f"{self._called}: expected 1, or leave it out"
            )
        if not self.generates:
            raise UsageError(self._unfitted)
        if y is None and self.recipe.classes is not None:
            names = np.array(self.spec.names)
            y = names[np.arange(n) * len(names) // n]
        key = jax.random.key(seed)
        drawn = 1 << (n - 1).bit_length()  # so that only a few sizes are compiled
        if fitted is not None:
            z = np.asarray(self._fitted_sample(fitted.params, key, drawn, scale))
        elif self.recipe.hierarchy is None:
            z = self._prior_sample(self.variables, key, drawn, scale)
        else:
            z = self._down(n, lambda i, _: self._prior_sample(self.variables, i, DRAWN, scale), key)
        return self.decode(z[:n], y, draw_pixels=draw_pixels, seed=seed)

    @typed
    def fit_prior(
        self,
        x: Any,
        y: Any = None,
        *,
        kind: fitted_prior.Kind = "mixture",
        components: Positive = fitted_prior.COMPONENTS,
        seed: Seed = 0,
        **flow: Any,
    ) -> Self:
        """This model with a prior fitted to a draw from q(z|x) of each image; see
        ``analysis.fitted_prior.fit``, which has the arguments of a ``flow`` as well.

        ``sample`` then draws from it. All else, such as ``score``, keeps the model's own prior. Of
        a conditional model it is one prior for all classes, as its own is.

        Raises UsageError for discrete latents, too few images or too many latent dimensions.
        """
        codes = self.posterior_draws(x, y, seed=seed)
        options: dict[str, Any] = {"components": components, "seed": seed, **flow}
        return dataclasses.replace(self, fitted=fitted_prior.fit(codes, kind, **options))

    @typed
    def posterior_draws(
        self, x: Any, y: Any = None, *, seed: Seed = 0, watch: batches.Watch | None = None
    ) -> np.ndarray:
        """A draw from q(z|x) for each image, [N, D]; its code, if q is a point.

        Raises UsageError for discrete latents.
        """
        if self.recipe.codes is not None:
            raise UsageError(f"{self._called} has discrete latents: expected continuous ones")
        return self._draw(self.split(x, y), self.variables, jax.random.key(seed), watch)

    def prior_gain(self, x: Any, y: Any = None, *, seed: Seed = 0) -> fitted_prior.Improvement:
        """What the fitted prior gains on images that it was not fitted to, in nats.

        Raises UsageError if no prior is fitted.
        """
        if self.fitted is None:
            raise UsageError(self._none_fitted)
        split, log_prior = self.split(x, y), self.recipe.model.prior_log_prob
        # Other noise than of the codes that it was fitted to, which rows of a number would share.
        key, own = jax.random.fold_in(jax.random.key(seed), 2**32 - 1), None
        z = self._draw(split, self.variables, key, None)
        if self.recipe.has_bound and log_prior is not None:
            own = np.asarray(jax.jit(log_prior)(self.variables, z, split.classes))
        return fitted_prior.improvement(self.fitted, z, own)

    def _prior(self, chosen: str | None) -> fitted_prior.FittedPrior | None:
        """The fitted prior to draw from; None: the model's own."""
        if chosen == "fitted" and self.fitted is None:
            raise UsageError(f"--prior fitted: {self._none_fitted}")
        return None if chosen == "own" else self.fitted

    @property
    def _none_fitted(self) -> str:
        return f"no prior is fitted to the codes: expected one; {self._fit_one}"

    @property
    def _fit_one(self) -> str:
        return "call fit_prior first"

    @typed
    def redraw(
        self,
        x: Any,
        y: Any = None,
        *,
        levels: Count,
        seed: Seed = 0,
        temperature: Temperature = (1.0,),
    ) -> np.ndarray:
        """Images whose lowest ``levels`` levels of latents are drawn from the prior, [N, *shape].

        The levels above keep the image's code; ``levels`` is at most the hierarchy's number. With
        0 these are the reconstructions, with all of them samples. ``temperature`` is as in
        ``sample``.

        Raises UsageError for a model without levels, or more than there are.
        """
        hierarchy, redraw = self.recipe.hierarchy, self.recipe.model.redraw
        if hierarchy is None or redraw is None:
            raise UsageError(f"{self._called} has no levels to draw anew: expected a hierarchy")
        if levels > len(hierarchy.names):
            raise UsageError(
                f"--levels {levels}: expected at most {len(hierarchy.names)}, the levels of "
                f"{self._called}"
            )
        below = np.int32(sum(hierarchy.blocks[:levels]))
        codes, scale = self.encode(x, y), self._scale(temperature)

        def some(key: Array, rows: np.ndarray) -> Array:
            return self._redraw(self.variables, key, codes[rows % len(codes)], below, scale)

        return self.decode(self._down(len(codes), some, jax.random.key(seed)), y)

    def _down(self, n: int, some: Callable[[Array, np.ndarray], Array], key: Array) -> np.ndarray:
        """n rows of z drawn down a hierarchy, DRAWN at a time: ``some`` of a key and the rows."""
        parts = [
            np.asarray(some(jax.random.fold_in(key, start), np.arange(start, start + DRAWN)))
            for start in range(0, n, DRAWN)
        ]
        return np.concatenate(parts)[:n]

    def _scale(self, temperature: tuple[float, ...]) -> Any:
        """One number, or of several, one for each level, those of the KL's columns."""
        hierarchy = self.recipe.hierarchy
        if len(temperature) == 1:
            return temperature[0]
        if hierarchy is None or len(temperature) != len(hierarchy.names):
            names = () if hierarchy is None else hierarchy.names
            other = f", or one for each level, {', '.join(names)}" if len(names) > 1 else ""
            raise UsageError(
                f"--temperature {declared.seen(temperature)}: expected one number{other}"
            )
        return np.asarray(hierarchy.each(temperature), np.float32)

    @property
    def _unfitted(self) -> str:
        return 'no prior over the codes yet: expected variables["prior"]'

    @typed
    def reconstruct(
        self, x: Any, y: Any = None, *, draw_pixels: bool = False, seed: Seed = 0
    ) -> np.ndarray:
        """The mean of p(x|z) at each image's code, [N, *shape], or a draw from it.

        The draw depends on the image's pixels, its label and the seed alone.
        """
        split = self.split(x, y)
        if not draw_pixels:
            return self._shown(self._reconstruct(split, self.variables, jax.random.key(0)))
        own = pipeline.fingerprints(split)
        return self._shown(
            self._reconstruct_drawn(split, self.variables, _of_pixels(seed), None, own)
        )

    @typed
    def score(
        self,
        x: Any,
        y: Any = None,
        *,
        samples: Positive = 16,
        seed: Seed = 0,
        watch: batches.Watch | None = None,
    ) -> np.ndarray:
        """-ELBO of each image in nats, averaged over draws of z, [N]: high for unusual images.

        The noise depends only on the image's pixels, its label and the seed, so an image has the
        same score in any batch, in any order, on any number of devices. A plain autoencoder, which
        has no bound, gives -log p(x | z = f(x)). ``watch`` is told of progress.
        """
        split, key = self.split(x, y), jax.random.key(seed)
        inputs = (self.variables, np.int32(samples))
        terms = self._terms(split, inputs, key, watch, pipeline.fingerprints(split))
        return terms["reconstruction"] + terms["kl"]

    @typed
    def scores(
        self,
        x: Any,
        names: Sequence[AnomalyScore],
        y: Any = None,
        *,
        settings: scoring.Settings = scoring.USUAL,
        seed: Seed = 0,
        stages: scoring.Stages | None = None,
    ) -> scoring.Measured:
        """Several scores of each image: see ``analysis.anomaly.scores``, which has their names."""
        split = self.split(x, y)
        options: dict[str, Any] = {"seed": seed, "mesh": self.mesh, "stages": stages}
        return scoring.measure(
            self.recipe, self.variables, split, names, settings, terms=self._terms, **options
        )

    def evaluate(
        self,
        x: Any,
        y: Any = None,
        *,
        k: Count = 0,
        samples: Positive = 1,
        seed: Seed = 0,
        watch: batches.Watch | None = None,
    ) -> Evaluation:
        """ELBO and its terms, tighter bounds, squared error: see ``analysis.evaluation.evaluate``.

        ``x`` are images, or a whole split of the data.
        """
        split = self.split(x, y)
        options: dict[str, Any] = {"k": k, "samples": samples, "seed": seed, "watch": watch}
        return evaluation.evaluate(self.recipe, self.variables, split, mesh=self.mesh, **options)

    @typed
    def interpolate(
        self,
        start: Any,
        end: Any,
        y: Any = None,
        *,
        steps: Steps = 10,
        path: Path = "linear",
    ) -> np.ndarray:
        """Decoded lines between the codes of two arrays of images, [N, *shape] each: straight, on
        a sphere (``analysis.latent_space.spherical``), or as ``geodesics`` gives them.

        Returns:
            [N, steps, *shape], both ends included. A conditional model encodes and decodes each row
            with its label ``y``, by default that of its start.
        """
        if y is None and isinstance(start, Split):
            y = start.y
        if path == "geodesic":
            codes = self.geodesics(start, end, y, steps=steps).z
        else:
            between = latent_space.spherical if path == "spherical" else latent_space.interpolate
            codes = between(*self._ends(start, end, y), steps)
        return self.decode_walks(codes, y)

    def decode_walks(self, codes: np.ndarray, y: Any = None) -> np.ndarray:
        """``decode`` of walks [N, steps, D], each with one label: [N, steps, *shape]."""
        label = None if y is None else np.repeat(np.broadcast_to(y, len(codes)), codes.shape[1])
        decoded = self.decode(codes.reshape(-1, codes.shape[-1]), label)
        return decoded.reshape(*codes.shape[:2], *decoded.shape[1:])

    @typed
    def geodesics(
        self, start: Any, end: Any, y: Any = None, *, steps: Steps = 10
    ) -> geodesic.Geodesics:
        """Shortest paths between the codes of two arrays of images: ``analysis.geodesic``.

        ``y`` is as in ``interpolate``. Raises UsageError for discrete latents, and for other
        numbers of images.
        """
        if self.recipe.codes is not None:
            raise UsageError(f"{self._called} has discrete latents: expected continuous ones")
        if y is None and isinstance(start, Split):
            y = start.y
        first, last = self._ends(start, end, y)
        labels = self.labels(y, len(first))
        found = self._geodesics(self.variables, first, last, labels, steps)
        return jax.tree.map(np.asarray, found)

    def _ends(self, start: Any, end: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
        """The codes of two arrays of images."""
        first, last = self.encode(start, y), self.encode(end, y)
        if len(first) != len(last):
            raise UsageError(f"{len(first)} images and {len(last)}: expected the same number")
        return first, last

    @typed
    def traverse(
        self,
        usage: Any = None,
        *,
        codes: Any = None,
        start: Any = None,
        label: Any = None,
        units: Positive = 10,
        steps: Steps = 11,
        span: AboveZero = 3.0,
    ) -> latent_space.Traversal:
        """Decoded walks along one latent dimension at a time: ``analysis.latent_space.traversal``.

        By default all units have the same ``usage`` [D], and the first ones are walked.
        """
        if self.recipe.codes is not None:
            raise UsageError(f"{self._called} has discrete latents: expected continuous ones")
        size = self.latent_size
        usage = -np.arange(size, dtype=float) if usage is None else np.asarray(usage)
        if usage.shape != (size,):
            raise UsageError(f"usage of shape {usage.shape}: expected [{size}]")
        options: dict[str, Any] = {"units": units, "steps": steps, "span": span}
        return latent_space.traversal(
            self.decode, usage, codes=codes, start=start, label=label, **options
        )

    @typed
    def restore(
        self,
        x: Any,
        y: Any = None,
        *,
        hidden: Any = None,
        noise: NotNegative = 0.0,
        completions: Positive = 4,
        temperatures: Positive = 100,
        chains: Positive = 16,
        seed: Seed = 0,
        prior: Literal["fitted", "own"] | None = None,
        watch: batches.Watch | None = None,
    ) -> Restored:
        """Several completions of each image from what is seen of it: ``analysis.restoration``.

        Args:
            x: [N, *shape] images in [0, 1] as they are seen: with noise they may be beyond, and
                any number where a pixel is hidden.
            y: labels, for a conditional model.
            hidden: [N, H, W] or [H, W], not 0 where a pixel is hidden; None: all are seen.
            noise: the standard deviation of Gaussian noise on x.
            completions: K of them for each image, at most ``chains``.
            temperatures: of annealing: the more, the closer to exact draws from p(z | seen).
            chains: for each image.
            seed: decides the draws.
            prior: as in ``sample``.
            watch: is told of progress.

        Raises:
            UsageError: other shapes, discrete latents, or no prior.
        """
        x = np.asarray(x)
        if x.dtype.kind != "f":
            raise UsageError(
                f"images of {x.dtype}: expected floats in [0, 1]; divide by their peak"
            )
        x = x.astype(np.float32)
        if (*x.shape[1:], 1) == self.spec.shape:
            x = x[..., None]
        self._check_shape(x.shape, "images")
        latents = self._latents(prior)
        if completions > chains:
            raise UsageError(f"--completions {completions}: expected at most {chains}, the chains")
        space, count = x.shape[:3], len(x)
        if hidden is not None and np.shape(hidden) not in (space, space[1:]):
            raise UsageError(
                f"hidden pixels of shape {np.shape(hidden)}: expected {space} or {space[1:]}"
            )
        seen = np.broadcast_to(True if hidden is None else np.equal(hidden, 0), space)
        x = np.where(seen[..., None], x, np.float32(0))
        if not np.isfinite(x).all():
            raise UsageError("images with seen pixels that are no numbers: expected them hidden")
        numbers, key = self.labels(y, count), jax.random.key(seed)
        how: dict[str, Any] = {"binary": self.spec.binary, "temperatures": temperatures}

        def some(variables, key, y, mask, labels):
            what = restoration.Seen(y, mask, noise)
            model = latents(variables)
            return restoration.completed(model, key, what, labels, chains=chains, **how)

        some = self._restorers.setdefault((prior, noise, temperatures, chains), jax.jit(some))
        parts = []
        for start in range(0, count, RESTORED):
            rows = np.arange(start, start + RESTORED) % count
            labels = None if numbers is None else numbers[rows]
            own = jax.random.fold_in(key, start)
            mask = seen[rows].astype(np.float32)
            parts.append(some(self.variables, own, x[rows], mask, labels))
            if watch is not None:
                jax.block_until_ready(parts[-1])
                watch(min(start + RESTORED, count), count)
        found = jax.tree.map(lambda *leaves: np.concatenate(leaves)[:count], *parts)
        each = None if numbers is None else np.repeat(np.broadcast_to(y, count), chains)
        images = self.decode(found.z.reshape(count * chains, -1), each)
        images = np.clip(images, 0, 1).reshape(count, chains, *x.shape[1:])
        if not noise:
            images = np.where(seen[:, None, ..., None], x[:, None], images)
        chosen = np.arange(completions) * chains // completions
        log_p = np.logaddexp.reduce(found.log_w, 1) - np.log(chains)
        return Restored(
            images[:, chosen],
            images.mean(1),
            log_p,
            found.effective,
            float(found.acceptance.mean()),
        )

    @functools.cached_property
    def _restorers(self) -> dict[tuple[Any, ...], Callable[..., restoration.Completed]]:
        """Compiled programs of ``restore``, by what they are compiled for."""
        return {}

    def _latents(self, prior: str | None) -> Callable[[Variables], restoration.Latents]:
        """The model of ``restore``, for some variables."""
        model, fitted, log_prior = self.recipe.model, self._prior(prior), None
        if self.recipe.codes is not None:
            raise UsageError(f"{self._called} has discrete latents: expected continuous ones")
        if len(self.spec.shape) != 3:
            raise UsageError(f"{self._called} is of {self.spec.kind}: expected one of images")
        if self.recipe.has_bound:
            log_prior = model.prior_log_prob
        if fitted is None and log_prior is None:
            raise UsageError(f"{self._called} has no prior: expected one; {self._fit_one}")

        def of(variables: Variables) -> restoration.Latents:
            def decode(z, y):
                return model.decode(variables, z, y)

            if fitted is not None:
                draw = functools.partial(fitted_prior.sample, fitted)
                density = functools.partial(fitted_prior.log_prob, fitted)
                return restoration.Latents(draw, lambda z, y: density(z), decode)
            assert log_prior is not None

            def drawn(key, n):
                return model.prior_sample(variables, key, n)

            return restoration.Latents(drawn, lambda z, y: log_prior(variables, z, y), decode)

        return of

    def code(self, variables: Variables, key, batch: Batch) -> Array:
        """``encode`` as a function of a batch, for ``batches.over_split``."""
        return self._latent(variables, None, batch).code

    def reconstruction(self, variables: Variables, key, batch: Batch) -> Array:
        """``reconstruct`` as a function of a batch, for ``batches.over_split``."""
        z = self._latent(variables, None, batch).z
        return self.recipe.model.decode(variables, z, batch.y).mean

    def labels(self, y: Any, n: int) -> np.ndarray | None:
        """Class numbers [n] for a conditional model, from one label for all or one for each.

        None for other models, which ignore labels.

        Raises UsageError if they are missing, or not among the data's classes.
        """
        if self.recipe.classes is None:
            return None
        known = labels.listed(self.spec.names)
        if y is None:
            raise UsageError(f"{self._called} is conditional: expected labels, {known}")
        shape = np.shape(y)
        if len(shape) > 1 or (shape and shape != (n,)):
            raise UsageError(f"labels of shape {shape}: expected one label or {n}")
        found, strange = labels.find(y, self.spec.names)
        if strange is not None:
            hint = did_you_mean(str(strange), map(str, self.spec.labels or ()))
            raise UsageError(
                f"label {strange}: expected {known}, the classes of {self.spec.name}{hint}"
            )
        return np.broadcast_to(found, (n,))

    def split(self, x: Any, y: Any = None, what: str = "images") -> Split:
        """Images, checked and prepared as in training, with class numbers.

        A split is prepared already: it gets ``y`` or its own labels as class numbers, and none
        where the model looks at none. ``what`` names the images in messages.

        Raises:
            UsageError: a shape other than the model's, or missing labels that it needs.
            DataError: values that are not finite, or outside [0, 1].
        """
        if isinstance(x, Split):
            self._check_shape((len(x.x), *x.shape), what)
            return x._replace(y=self.labels(x.y if y is None else y, len(x.x)), names=None)
        large, x, shape = rows.is_mapped(x), np.asarray(x), self.spec.shape
        if x.shape[1:] != shape and (*x.shape[1:], 1) == shape:
            x = x[..., None]
        elif x.shape[1:] != shape and x.ndim == 4 and (*x.shape[2:], x.shape[1]) == shape:
            x = np.moveaxis(x, 1, -1)
        self._check_shape(x.shape, what)
        x = pixels.array(x, what)
        if self.spec.kind == "table":
            pixels.values(x, what)  # finite ones
            stored = x.astype(np.float32) if self.columns is None else self.columns.standardized(x)
            return Split(stored, self.labels(y, len(x)), 1.0, bounded=False)
        form = pixels.known_form(x.dtype, pixels.values(x, what), self._peak(x), self.signed, what)
        stored = rows.Rows(x, convert=form.of) if large else form.of(x)
        return self.prepared(Split(stored, self.labels(y, len(x)), form.peak), what)

    def prepared(self, split: Split, what: str = "images") -> Split:
        """Images as stored, binarized if those of the training were.

        Raises UsageError if they are grey, and the model is of binary ones.
        """
        if self.binarization == "none":
            binary = (np.isin(part, (0, split.peak)).all() for part in rows.chunks(split.x))
            if self.spec.binary and not all(binary):
                raise UsageError(
                    f"{what} are grey, but {self._called} was built for binary ones: expected 0 "
                    "and 1; binarize them, or give Trained the binarization used in training"
                )
            return split
        key, own = pipeline.binarization_key(fold=3), pipeline.fingerprints(split)
        return split._replace(x=self._binarize(split, {}, key, None, own), peak=1.0)

    def _check_shape(self, seen: tuple[int, ...], what: str) -> None:
        if seen[1:] != self.spec.shape or not seen[0]:
            wanted = ", ".join(map(str, self.spec.shape))
            raise UsageError(f"{what} of shape {seen}: expected [N, {wanted}] with N >= 1")

    def _peak(self, x: np.ndarray) -> float:
        if self.peak is not None:
            return self.peak
        levels = self.spec.levels
        if levels is not None:
            return float(levels - 1)
        return float(np.iinfo(x.dtype).max) if x.dtype.kind == "u" else 255.0

    def _latent(self, variables, key, batch):
        model = self.recipe.model
        features = model.encode(variables, batch.x, batch.y)
        return model.reparameterize(variables, key, features, False)

    @functools.cached_property
    def latent_size(self) -> int:
        """D, the numbers in a code."""
        label = None if self.recipe.classes is None else jnp.zeros(1, jnp.int32)
        batch = Batch(jnp.zeros((1, *self.spec.shape)), label)
        return jax.eval_shape(self.code, self.variables, None, batch).shape[1]

    def compiled_like(self, other: Trained) -> Self:
        """This model, with what is compiled for another: of the same recipe, mesh and binarization.

        What either compiles from now on serves both.
        """
        self.__dict__.update({name: getattr(other, name) for name in _COMPILED})
        return self

    # Compiled once for each of a few sizes.

    @functools.cached_property
    def _draw(self):
        return batches.over_split(lambda *given: self._latent(*given).z, self.mesh, base=SIZES)

    @functools.cached_property
    def _fitted_sample(self):
        def drawn(params, key, n, temperature):
            assert self.fitted is not None
            return fitted_prior.sample(self.fitted._replace(params=params), key, n, temperature)

        return jax.jit(drawn, static_argnums=2)

    @functools.cached_property
    def _encode(self):
        return batches.over_split(self.code, self.mesh, base=SIZES)

    @functools.cached_property
    def _reconstruct(self):
        return batches.over_split(self.reconstruction, self.mesh, base=SIZES)

    @functools.cached_property
    def _reconstruct_drawn(self):
        def drawn(variables, keys, batch):
            z = self._latent(variables, None, batch).z
            return draw_rows(self.recipe.model.decode(variables, z, batch.y), keys)

        return batches.over_split(drawn, self.mesh, base=SIZES)

    @functools.cached_property
    def _terms(self):
        return batches.over_split(batches.own_terms(self.recipe.model), self.mesh, base=SIZES)

    @functools.cached_property
    def _binarize(self):
        how = self.binarization

        def each(variables, keys, batch):
            drawn = jax.vmap(lambda x, key: images.binarize(x, how, key))(batch.x, keys)
            return drawn.astype(jnp.uint8)

        return batches.over_split(each, self.mesh, base=SIZES)

    @functools.cached_property
    def _prior_sample(self):
        draw = self.recipe.model.prior_sample
        return jax.jit(lambda v, key, n, t: draw(v, key, n, None, t), static_argnums=2)

    @functools.cached_property
    def _redraw(self):
        redraw = self.recipe.model.redraw
        assert redraw is not None
        return jax.jit(redraw)

    @functools.cached_property
    def _geodesics(self):
        decode = self.recipe.model.decode

        def found(variables, start, end, labels, steps):
            def curve(z, y):
                return geodesic.points(decode(variables, z, y))

            return geodesic.geodesics(curve, start, end, labels, steps=steps)

        return jax.jit(found, static_argnums=4)

    @functools.cached_property
    def _decode(self):
        decode = self.recipe.model.decode

        def decoded(variables, z, y, key, rows):
            p = decode(variables, z, y)
            if key is None:
                return p.mean
            return draw_rows(p, jax.vmap(jax.random.fold_in, (None, 0))(key, rows))

        return jax.jit(decoded)


def _one(temperature: tuple[float, ...]) -> float:
    """The temperature of a prior without levels."""
    if len(temperature) > 1:
        raise UsageError(
            f"--temperature {declared.seen(temperature)}: expected one number, since the fitted "
            "prior has no levels"
        )
    return temperature[0]


def _of_pixels(seed: int) -> Array:
    """The key of draws from p(x|z), beside those of z from the same seed."""
    return jax.random.fold_in(jax.random.key(seed), 2**32 - 1)


def evaluate(
    recipe: Recipe, variables: Variables, x: Any, y: Any = None, **options: Any
) -> Evaluation:
    """``Trained(recipe, variables).evaluate(x, y, k=..., samples=..., seed=...)``."""
    return Trained(recipe, variables).evaluate(x, y, **options)
