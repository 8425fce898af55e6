"""What a recipe takes and gives: a description of the data, and a model with its objective."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    import jax

    from flaxvae.core import Model, Variables
    from flaxvae.parts.corruption import Corruption
    from flaxvae.parts.levels import Levels
    from flaxvae.parts.objectives import Loss, Objective, Schedule


class DataSpec(NamedTuple):
    """What a recipe may know about the data."""

    name: str  # with the binarization, as in every table: "mnist, dynamically binarized"
    shape: tuple[int, ...]  # of one example
    classes: int | None = None  # None: no labels
    binary: bool = False  # every value is 0 or 1
    levels: int | None = None  # values are j / (levels - 1); None: any number in [0, 1]
    examples: int = 0  # training images
    labels: tuple[int, ...] | tuple[str, ...] | None = None  # of the classes; None: 0, 1, 2 …
    unlabelled: str = ""  # why existing labels cannot be used
    kind: Literal["images", "vectors", "table"] = "images"  # a table's values are any numbers
    grey: float | None = None  # fraction of training values from 1/4 to 3/4; None: unknown
    factors: tuple[tuple[str, int], ...] = ()  # names of known factors, and how many values

    @property
    def names(self) -> tuple[int, ...] | tuple[str, ...]:
        """The names of the classes, in order."""
        return self.labels or tuple(range(self.classes or 0))

    @property
    def example(self) -> str:
        """What one example is called."""
        return "row" if self.kind == "table" else "image"


class Codes(NamedTuple):
    """The discrete codes of an image, if a model has them."""

    size: int  # number of different codes
    indices: Callable[[Variables, jax.Array, jax.Array | None], jax.Array]  # (.., x, y) -> [B, n]
    grid: tuple[int, int]  # rows and columns of an image's n codes
    prior: Recipe | None = None  # fits variables["prior"] to grids of codes; None: a fixed prior
    latents: Callable[[jax.Array], jax.Array] | None = None  # indices [B, n] -> z, where q(z|x)
    # is a distribution over codes; None: it is one code


class Recipe(NamedTuple):
    """A model with the objective that trains it, and facts about both."""

    model: Model
    objective: Objective  # model -> loss
    data: DataSpec  # what it was built for
    log_px: Literal["probability", "density", "cross_entropy"]  # what log p(x|z) is the logarithm
    # of; a cross-entropy, of pixels between 0 and 1, is neither: its exponential does not integrate
    # to 1
    has_bound: bool = True  # False: a plain autoencoder, for which no likelihood is reported
    code: str = "posterior mean"  # Latent.code, in words
    standard_prior: bool = True  # p(z) = N(0, I), so manifolds are drawn at its quantiles
    classes: int | None = None  # needs a label 0..classes-1 with every image; None: no labels
    hierarchy: Levels | None = None  # what the KL's columns are, where they are not dimensions
    corrupt: Corruption | None = None  # the corruption of what it encodes in training
    codes: Codes | None = None
    least_batch: int = 1  # smallest batch for which the loss is defined
    schedules: Mapping[str, Schedule] = MappingProxyType({})  # numbers in the loss that depend on
    # the step, in nats or as a weight: each is a column of metrics.jsonl

    @property
    def loss(self) -> Loss:
        """The objective of the model."""
        return self.objective(self.model)
