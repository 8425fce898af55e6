"""What the numbers of a model show: whether it collapsed, what its sigma should be, and the like.

Pure functions of ``diagnosis.Measured``. What is not known, shows nothing.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from flaxvae.analysis.diagnosis import Measured
from flaxvae.analysis.evaluation import ACTIVE, USED, Evaluation

IDLE = 0.01  # nats: a dimension that carries less carries nothing
FEW, PART = 5, 0.1  # a model whose used dimensions are at most these, and this part, collapsed
HEAVY = 10.0  # a beta that leaves next to nothing in z
ERRORS = 5.0  # standard errors that are no noise
SHAKES = 10.0  # average falls of a loss that only shakes: a thousand epochs of it span six
LOST = 0.02  # part of the loss that validation has lost, for which training has been too long


def setting(m: Measured, name: str, usual: Any = None) -> Any:
    """An argument of the recipe; ``usual`` if it has none, or that is none."""
    value = m.arguments.get(name)
    return usual if value is None else value


def flags(m: Measured, **known: str) -> tuple[str, ...]:
    """Of these flags, by their setting, those that the model takes."""
    return tuple(text for name, text in known.items() if name in m.arguments)


class Dimensions(NamedTuple):
    """Of latent dimensions, or of discrete variables."""

    size: int
    idle: int  # those with a KL of less than 0.01 nats
    silent: int  # those, and those with one code for all images


def dimensions(m: Measured) -> Dimensions:
    """How many there are, and how many say nothing; none of a hierarchy or a codebook.

    A codebook's KL is one number, the same whatever its codes say.
    """
    found = m.test
    if found is None or not m.has_bound or found.kl_units is not None:
        return Dimensions(0, 0, 0)
    kl, variance = found.kl_per_unit or (), found.code_variance or ()
    if m.codes is not None and len(kl) < 2:
        return Dimensions(0, 0, 0)
    idle = [nats < IDLE for nats in kl]
    still = [x < ACTIVE for x in variance]
    if len(kl) == len(variance):
        silent = [a or b for a, b in zip(idle, still, strict=True)]
        return Dimensions(len(kl), sum(idle), sum(silent))
    if len(kl) == 1:  # without closed form it is one number, of all dimensions
        return Dimensions(len(variance), len(variance) * idle[0], sum(still))
    return Dimensions(len(kl), sum(idle), sum(idle))


def collapsed(m: Measured) -> bool:
    """Whether nearly all dimensions are silent, or all blocks of a hierarchy."""
    found = m.test
    if found is not None and found.kl_units is not None:
        return found.active_blocks == 0
    size, _, silent = dimensions(m)
    used = size - silent
    return size > 0 and used <= FEW and used <= PART * size


def idle_blocks(found: Evaluation | None) -> list[str]:
    """The blocks of a hierarchy that carry next to nothing."""
    if found is None or found.kl_units is None or found.kl_per_unit is None:
        return []
    units = zip(found.kl_units, found.kl_per_unit, strict=True)
    return [name for name, nats in units if nats < USED]


def deviations(m: Measured) -> tuple[float, float] | None:
    """A Gaussian's fixed sigma, and what it should be: the residual's."""
    if setting(m, "likelihood") != "gaussian" or m.test is None:
        return None
    seen = math.sqrt(m.test.mse) if m.calibration is None else m.calibration.residual
    return (setting(m, "sigma", 1.0), seen) if seen > 0 else None


def is_mean_loss(m: Measured) -> bool:
    """Whether the KL weighs as if errors were averaged over D values, and not summed.

    Then beta is D of a cross-entropy, and beta 2 sigma^2 is D of a squared error.
    """
    beta, squared = setting(m, "beta"), setting(m, "likelihood") == "gaussian"
    if beta is None or m.values is None or beta < HEAVY:
        return False
    weight = beta * 2 * setting(m, "sigma", 1.0) ** 2 if squared else beta
    return math.isclose(weight, m.values, rel_tol=0.01)


def gap(m: Measured) -> float | None:
    """Nats that test images cost more than training images; None unless that is no noise."""
    test, train = m.test, m.train
    if test is None or train is None or test.elbo is None or train.elbo is None:
        return None
    errors = (test.elbo_standard_error or 0.0, train.elbo_standard_error or 0.0)
    found = train.elbo - test.elbo
    return found if found > ERRORS * math.hypot(*errors) else None


def lost(m: Measured) -> float | None:
    """Nats that the validation loss has lost since its best epoch; None unless that is no noise."""
    story, test = m.story, m.test
    if story is None or story.lost is None or test is None:
        return None
    loss = test.reconstruction if test.elbo is None else test.elbo
    noise = ERRORS * (test.elbo_standard_error or 0.0)  # of other images
    if story.noise is not None:  # the same images were looked at after every epoch
        noise = min(noise, SHAKES * story.noise)
    least = max(noise, LOST * abs(loss))
    return story.lost if story.lost > least else None
