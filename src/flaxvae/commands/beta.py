"""flaxvae beta 0.00025 --pixels 784"""

from __future__ import annotations

import math

from flaxvae.analysis.beta import Error, Loss, Reduction
from flaxvae.declared import AboveZero, Positive, typed
from flaxvae.errors import UsageError
from flaxvae.flags import NumberArgument

WIDEST = 0.5  # the largest standard deviation of any number between 0 and 1
SMALLEST = 1e-30  # of any number; the largest is its inverse
HEAVY = 10.0  # a beta above this leaves little in z


@typed
def beta(
    weight: NumberArgument,
    *,
    loss: Error = "mse",
    reconstruction: Reduction = "mean",
    kl: Reduction = "sum",
    factor: AboveZero = 1.0,
    span: AboveZero = 1.0,
    pixels: Positive | None = None,
    latent_dim: Positive | None = None,
    batch_size: Positive | None = None,
    sigma: AboveZero | None = None,
    back: bool = False,
) -> list[str]:
    """Say what another program's KL weight is here: its loss, as an ELBO.

    A Gaussian with fixed sigma has -ELBO = S / (2 sigma^2) + KL + constant, with S the squared
    error summed over an image's D pixels, and the KL summed over latent dimensions. Another
    program minimizes a S + c KL. Divided by c, this is that -ELBO with sigma^2 = c / (2 a).

    "mean squared error + b KL" has a = 1/D and c = b: sigma^2 = b D / 2, so b = 1 on 784 pixels is
    sigma = 19.8. "sum of squared errors + b KL": sigma^2 = b / 2. With 1/2 before the error:
    sigma^2 = b D, and b. A KL averaged over L dimensions: b becomes b / L.

    With another sigma s, beta = c / (2 a s^2) has the same minimum. A cross-entropy has no sigma:
    beta = c / a, which is the ELBO only at 1; mean and not sum over pixels is beta = D.

    Args:
        weight: b, what the other program multiplies its KL by; with --back, the --beta here.
        loss: mse: squared error; bce: cross-entropy.
        reconstruction: mean: over pixels and images (the default in PyTorch); sum: over pixels,
            averaged over images; total: summed over pixels and images.
        kl: The same of the KL, over latent dimensions and images.
        factor: What the reconstruction term is multiplied by, such as 0.5.
        span: White less black in the other program: 2 if its pixels are from -1 to 1.
        pixels: Values in an image, such as 784; for a mean over pixels.
        latent_dim: Latent dimensions; for a mean over them.
        batch_size: Images in a batch; for a total in one term alone.
        sigma: Of --likelihood gaussian here; by default 1.
        back: The other way: from --beta (and --sigma) here to the other program's weight.
    """
    if not weight > 0:
        raise UsageError(f"weight {weight:g}: expected a number above 0")
    for name, x in {"weight": weight, "sigma": sigma, "factor": factor, "span": span}.items():
        if x is not None and not SMALLEST <= x <= 1 / SMALLEST:
            called = name if name == "weight" else f"--{name}"
            raise UsageError(
                f"{called} {x:g}: expected a number from {SMALLEST:g} to {1 / SMALLEST:g}"
            )
    if loss == "bce" and sigma is not None:
        raise UsageError(f"--sigma {sigma:g} with --loss bce: expected none, a Bernoulli has none")
    theirs = Loss(loss, reconstruction, kl, factor, span, pixels, latent_dim, batch_size)
    own = 1.0 if sigma is None else sigma
    b = theirs.b(weight, own) if back else weight
    here = weight if back else theirs.beta(weight, own)
    flags = f"--likelihood bernoulli --beta {here:.6g}"
    if loss == "mse":
        width = f" --sigma {own:.6g}" if own != 1 else ""
        flags = f"--likelihood gaussian{width} --beta {here:.6g}"
    lines = [f"there    {theirs.words(b)}", f"here     {flags}"]
    if loss == "mse":
        true = theirs.sigma(b)
        if not math.isclose(here, 1):
            lines.append(f"or       --likelihood gaussian --sigma {true:.6g}")
        lines.append(f"ELBO     of a Gaussian with sigma^2 = c / (2 a) = {true**2:.6g}")
        if true > WIDEST:
            lines.append(
                f"beware   numbers from 0 to 1 deviate by {WIDEST:g} at most: expect posterior "
                "collapse"
            )
    elif math.isclose(here, 1):
        lines.append("ELBO     of a Bernoulli")
    else:
        lines.append("ELBO     of nothing: a Bernoulli's has beta 1")
        if here > HEAVY:
            lines.append(f"beware   beta {here:.6g} is far above 1: expect posterior collapse")
    scale = theirs.scale(own)
    lines.append(f"scale    the loss there is {scale:.6g} times the one here, but for a constant")
    return lines
