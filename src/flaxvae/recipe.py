"""What a recipe takes and gives: a description of the data, and a model with its objective."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    import jax

    from flaxvae.core import Model, Variables
    from flaxvae.parts.corruption import Corruption
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
    unlabelled: str = ""  # why labels that there are cannot be used

    @property
    def names(self) -> tuple[int, ...] | tuple[str, ...]:
        """What the classes are called, in order."""
        return self.labels or tuple(range(self.classes or 0))


class Codes(NamedTuple):
    """The discrete codes of an image, where a model has them."""

    size: int  # how many different codes there are
    indices: Callable[[Variables, jax.Array, jax.Array | None], jax.Array]  # (.., x, y) -> [B, n]
    grid: tuple[int, int]  # how an image's n codes lie
    prior: Recipe | None = None  # fits variables["prior"] to grids of codes; None: it is fixed


class Recipe(NamedTuple):
    """A model with the objective that trains it, and what its numbers are."""

    model: Model
    objective: Objective  # model -> loss
    data: DataSpec  # what it was built for
    log_px: Literal["probability", "density", "cross_entropy"]  # of which the logarithm
    # is log p(x|z); the cross-entropy of pixels between 0 and 1 is that of none: its exponential
    # does not integrate to 1
    has_bound: bool = True  # False: a plain autoencoder, for which no likelihood is reported
    code: str = "posterior mean"  # what Latent.code is, in words
    standard_prior: bool = True  # p(z) = N(0, I): its quantiles can be walked through
    classes: int | None = None  # labels 0..classes-1, which it needs with every image; None: none
    hierarchical: bool = False  # a column of its KL belongs to a level, not to a dimension
    corrupt: Corruption | None = None  # what its encoder is trained to see through
    codes: Codes | None = None
    least_batch: int = 1  # images that its loss needs in a batch, to compare
    schedules: Mapping[str, Schedule] = MappingProxyType({})  # numbers of its loss that the step
    # decides, in nats or as a weight: each is a column of metrics.jsonl

    @property
    def loss(self) -> Loss:
        """The objective of the model."""
        return self.objective(self.model)
