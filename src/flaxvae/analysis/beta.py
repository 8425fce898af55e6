"""What the KL's weight in another program's loss means here, and back. Arithmetic, without JAX.

With S the squared error of an image, summed over its D pixels, and KL summed over the L latent
dimensions, both averaged over images, a Gaussian likelihood with fixed sigma has

    -ELBO = S / (2 sigma^2) + KL + a constant

Other programs minimize a S + c KL. Here a is a factor they may have (1, or 1/2), times 1/D if they
average over pixels, times B if they sum over a batch of B images; c is their weight b, times 1/L
or B likewise. Divided by c, that is the -ELBO above, without its constant, where

    1 / (2 sigma^2) = a / c,    so    sigma^2 = c / (2 a)

"mean squared error + b KL" has a = 1/D and c = b, so sigma^2 = b D / 2: b = 1 on 784 pixels is a
Gaussian of sigma 19.8. With another sigma s, the loss S / (2 s^2) + beta KL has the same minimum if

    beta = c / (2 a s^2) = sigma^2 / s^2

so only the product of beta and s^2 matters. The cross-entropy C of a Bernoulli has no sigma: a C +
c KL is C + beta KL with beta = c / a, which is the ELBO only where that is 1. If their pixels are
R times as far apart (R = 2 for -1 to 1), their squared error is R^2 times that here: a has another
factor of R^2.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

from flaxvae import declared
from flaxvae.declared import AboveZero, Positive
from flaxvae.errors import UsageError

Error = Literal["mse", "bce"]
Reduction = Literal["mean", "sum", "total"]


@dataclasses.dataclass(frozen=True)
class Loss:
    """The loss of another program: factor * reconstruction + b * KL."""

    loss: Error = "mse"  # squared error, or cross-entropy
    # mean: over pixels and images; sum: over pixels, averaged over images; total: over both
    reconstruction: Reduction = "mean"
    kl: Reduction = "sum"  # the same over latent dimensions
    factor: AboveZero = 1.0  # of the reconstruction term, such as 1/2
    span: AboveZero = 1.0  # R, white less black
    pixels: Positive | None = None  # D, values in an image; for a mean over them
    latent_dim: Positive | None = None  # L; for a mean over them
    batch_size: Positive | None = None  # B; where one term is a total over images, the other not

    def __post_init__(self):
        """Raises UsageError for numbers out of range, missing, or without effect."""
        declared.conform_fields(self)
        sums = [kind == "total" for kind in (self.reconstruction, self.kl)]
        needed = {
            "pixels": (self.reconstruction == "mean", "--reconstruction mean", "such as 784"),
            "latent_dim": (self.kl == "mean", "--kl mean", "such as 20"),
            "batch_size": (sums[0] != sums[1], "a total over images in one term", "such as 128"),
        }
        for name, (needs, why, such) in needed.items():
            value, flag = getattr(self, name), declared.flag(name)
            if needs and value is None:
                raise UsageError(f"{why} without {flag}: expected {flag} N, {such}")
            if not needs and value is not None:
                raise UsageError(f"{flag} {value} has no effect without {why}: leave it out")
        if self.loss == "bce" and self.span != 1:
            raise UsageError(f"--span {self.span:g} with --loss bce: expected pixels from 0 to 1")

    @property
    def a(self) -> float:
        """What it multiplies an image's sum of errors by, of pixels from 0 to 1."""
        each = {"sum": 1.0, "mean": 1 / (self.pixels or 1), "total": self.batch_size or 1}
        return self.factor * self.span**2 * each[self.reconstruction]

    @property
    def c(self) -> float:
        """What it multiplies an image's KL by if b = 1."""
        return {"sum": 1.0, "mean": 1 / (self.latent_dim or 1), "total": self.batch_size or 1}[
            self.kl
        ]

    def sigma(self, b: float) -> float:
        """sigma of the Gaussian whose ELBO it is, up to a factor and a constant; of ``mse``."""
        return math.sqrt(b * self.c / (2 * self.a))

    def beta(self, b: float, sigma: float = 1.0) -> float:
        """The ``--beta`` here that has the same minimum, with ``--sigma`` if it is of ``mse``."""
        return b * self.c / (self.a * self._of_error(sigma))

    def b(self, beta: float, sigma: float = 1.0) -> float:
        """The inverse of ``beta``: the weight in this loss that has the minimum of one here."""
        return beta * self.a * self._of_error(sigma) / self.c

    def scale(self, sigma: float = 1.0) -> float:
        """This loss over the one here that has its minimum: gradients are as many times as large.

        Adam does not notice; a learning rate of plain gradient descent and a clipped norm do.
        """
        return self.a * self._of_error(sigma)

    def _of_error(self, sigma: float) -> float:
        """An image's sum of errors over its reconstruction term here, without constants."""
        return 2 * sigma**2 if self.loss == "mse" else 1.0

    def words(self, b: float | str) -> str:
        """The loss as a formula: "mean (x - m)^2 + 0.5 * sum KL"."""
        error = "(x - m)^2" if self.loss == "mse" else "BCE(x, m)"
        times = "" if self.factor == 1 else f"{self.factor:g} * "
        weight = b if isinstance(b, str) else f"{b:.6g}"
        return f"{times}{self.reconstruction} {error} + {weight} * {self.kl} KL"
