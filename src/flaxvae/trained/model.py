"""A recipe with trained variables, and what it can do with arrays."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from flaxvae import declared
from flaxvae.analysis import evaluation, fitted_prior, geodesic, latent_space, restoration
from flaxvae.analysis.anomaly import combined
from flaxvae.analysis.anomaly import scores as scoring
from flaxvae.analysis.evaluation import Evaluation
from flaxvae.core import Batch, Variables
from flaxvae.data import pipeline
from flaxvae.data.columns import Columns
from flaxvae.data.pipeline import Split
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
from flaxvae.errors import UsageError, counted
from flaxvae.recipe import DataSpec, Recipe
from flaxvae.settings import AnomalyScore, Binarization
from flaxvae.trained import completion, sampling
from flaxvae.trained.completion import Restored
from flaxvae.trained.inputs import Inputs
from flaxvae.trained.programs import SIZES, Programs

Array = jax.Array
Path = Literal["linear", "spherical", "geodesic"]  # between codes


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
        return self._programs.encode(self.split(x, y), self.variables, jax.random.key(0), watch)

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
        parts, key = [], sampling.key_of_pixels(seed) if draw_pixels else None
        for start in range(0, len(z), size):
            some = np.arange(start, start + size) % len(z)  # the last batch is padded
            labels = None if y is None else y[some]
            parts.append(
                self._programs.decode(self.variables, z[some], labels, key, np.uint32(some))
            )
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
        z = sampling.codes(self._programs, self.variables, fitted, key, n, temperature)
        return self.decode(z, y, draw_pixels=draw_pixels, seed=seed)

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
        fitted = fitted_prior.fit(codes, kind, **options)
        return dataclasses.replace(self, fitted=fitted).compiled_like(self)

    @typed
    def posterior_draws(
        self, x: Any, y: Any = None, *, seed: Seed = 0, watch: batches.Watch | None = None
    ) -> np.ndarray:
        """A draw from q(z|x) for each image, [N, D]; its code, if q is a point.

        Raises UsageError for discrete latents.
        """
        self._check_continuous()
        return self._programs.draw(self.split(x, y), self.variables, jax.random.key(seed), watch)

    def prior_gain(self, x: Any, y: Any = None, *, seed: Seed = 0) -> fitted_prior.Improvement:
        """What the fitted prior gains on images that it was not fitted to, in nats.

        Raises UsageError if no prior is fitted.
        """
        if self.fitted is None:
            raise UsageError(self._none_fitted)
        split, log_prior = self.split(x, y), self.recipe.model.prior_log_prob
        # Other noise than of the codes that it was fitted to, which rows of a number would share.
        key, own = jax.random.fold_in(jax.random.key(seed), 2**32 - 1), None
        z = self._programs.draw(split, self.variables, key, None)
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
        codes, scale = self.encode(x, y), sampling.of_levels(temperature, hierarchy)

        def some(key: Array, rows: np.ndarray) -> Array:
            return self._programs.redraw(
                self.variables, key, codes[rows % len(codes)], below, scale
            )

        return self.decode(sampling.down(len(codes), some, jax.random.key(seed)), y)

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
            return self._shown(self._programs.reconstruct(split, self.variables, jax.random.key(0)))
        key, own = sampling.key_of_pixels(seed), pipeline.fingerprints(split)
        return self._shown(self._programs.reconstruct_drawn(split, self.variables, key, None, own))

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
        terms = self._programs.terms(split, inputs, key, watch, pipeline.fingerprints(split))
        return terms["reconstruction"] + terms["kl"]

    @typed
    def scores(
        self,
        x: Any,
        names: Sequence[AnomalyScore],
        y: Any = None,
        *,
        settings: scoring.Settings = scoring.USUAL,
        usual: combined.Usual | None = None,
        seed: Seed = 0,
        stages: scoring.Stages | None = None,
    ) -> scoring.Measured:
        """Several scores of each image: see ``analysis.anomaly.scores``, which has their names.

        ``combined`` compares with ``usual``, which the function of this name gives.
        """
        split = self.split(x, y)
        options: dict[str, Any] = {"seed": seed, "mesh": self.mesh, "stages": stages}
        options |= {"terms": self._programs.terms, "at_code": self._programs.at_code}
        return scoring.measure(
            self.recipe, self.variables, split, names, settings, usual=usual, **options
        )

    def usual(self, x: Any, y: Any = None, *, watch: batches.Watch | None = None) -> combined.Usual:
        """What the score ``combined`` compares with: normal images, best those of the training.

        Raises UsageError for discrete latents, too few images or too many latent dimensions.
        """
        if self.recipe.codes is not None:
            raise UsageError(f"{self._called} has discrete latents: expected continuous ones")
        fitted_prior.check("mixture", self.latent_size)
        given = (self.split(x, y), self.variables, jax.random.key(0), watch)
        found = self._programs.at_code(*given)
        return combined.fit(self._programs.draw(*given), found["code"], found["cost"])

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
        self._check_continuous()
        if y is None and isinstance(start, Split):
            y = start.y
        first, last = self._ends(start, end, y)
        labels = self.labels(y, len(first))
        found = self._programs.geodesics(self.variables, first, last, labels, steps)
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
        self._check_continuous()
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
        self._inputs.check_shape(x.shape, "images")
        latents = self._latents(prior)
        if completions > chains:
            raise UsageError(f"--completions {completions}: expected at most {chains}, the chains")
        seen, numbers = completion.seen(x, hidden), self.labels(y, len(x))
        kind = (noise, temperatures, chains)
        program = completion.program(latents, self.spec.binary, *kind)
        program = self._restorers.setdefault((prior, *kind), program)
        found = completion.drawn(
            program, self.variables, jax.random.key(seed), seen, numbers, watch
        )
        each = None if numbers is None else np.repeat(np.broadcast_to(y, len(x)), chains)
        means = self.decode(found.z.reshape(len(x) * chains, -1), each)
        return completion.restored(found, means, seen, not noise, completions)

    @functools.cached_property
    def _restorers(self) -> dict[tuple[Any, ...], completion.Program]:
        """Compiled programs of ``restore``, by what they are compiled for."""
        return {}

    def _latents(self, prior: str | None) -> Callable[[Variables], restoration.Latents]:
        """The model of ``restore``, for some variables."""
        fitted = self._prior(prior)
        self._check_continuous()
        if len(self.spec.shape) != 3:
            raise UsageError(f"{self._called} is of {self.spec.kind}: expected one of images")
        if fitted is not None:
            return functools.partial(completion.of_fitted, self.recipe, fitted)
        if not self.recipe.has_bound or self.recipe.model.prior_log_prob is None:
            raise UsageError(f"{self._called} has no prior: expected one; {self._fit_one}")
        return functools.partial(completion.of_own, self.recipe)

    def _check_continuous(self) -> None:
        if self.recipe.codes is not None:
            raise UsageError(f"{self._called} has discrete latents: expected continuous ones")

    def code(self, variables: Variables, key, batch: Batch) -> Array:
        """``encode`` as a function of a batch, for ``batches.over_split``."""
        return self._programs.code(variables, key, batch)

    def reconstruction(self, variables: Variables, key, batch: Batch) -> Array:
        """``reconstruct`` as a function of a batch, for ``batches.over_split``."""
        return self._programs.reconstruction(variables, key, batch)

    def labels(self, y: Any, n: int) -> np.ndarray | None:
        """Class numbers [n] for a conditional model, from one label for all or one for each.

        None for other models, which ignore labels.

        Raises UsageError if they are missing, or not among the data's classes.
        """
        return self._inputs.labels(y, n)

    def split(self, x: Any, y: Any = None, what: str = "images") -> Split:
        """Images, checked and prepared as in training, with class numbers.

        A split is prepared already: it gets ``y`` or its own labels as class numbers, and none
        where the model looks at none. ``what`` names the images in messages.

        Raises:
            UsageError: a shape other than the model's, or missing labels that it needs.
            DataError: values that are not finite, or outside [0, 1].
        """
        return self._inputs.split(x, y, what)

    def prepared(self, split: Split, what: str = "images") -> Split:
        """Images as stored, binarized if those of the training were.

        Raises UsageError if they are grey, and the model is of binary ones.
        """
        return self._inputs.prepared(split, what)

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
        self.__dict__["_programs"] = other._programs
        return self

    @functools.cached_property
    def _programs(self) -> Programs:
        return Programs(self.recipe, self.mesh, self.binarization)

    @functools.cached_property
    def _inputs(self) -> Inputs:
        return Inputs(
            self.spec,
            self.recipe.classes is not None,
            self._called,
            self.peak,
            self.signed,
            self.columns,
            self.binarization,
            self._programs.binarize,
        )


def evaluate(
    recipe: Recipe, variables: Variables, x: Any, y: Any = None, **options: Any
) -> Evaluation:
    """``Trained(recipe, variables).evaluate(x, y, k=..., samples=..., seed=...)``."""
    return Trained(recipe, variables).evaluate(x, y, **options)
