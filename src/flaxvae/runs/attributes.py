"""Which images of a run have an attribute: a label, or a factor, by its name as it is typed."""

from __future__ import annotations

import numpy as np

from flaxvae.data.pipeline import Split
from flaxvae.errors import UsageError, did_you_mean
from flaxvae.runs.run import Run


def has(run: Run, split: Split, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Which images have an attribute and which do not, [N] bool each.

    A label is an attribute of the images of that class, which the others have not. Of a factor
    ``size`` the images in the upper half of its values have it and those in the lower half do not,
    ``size=2`` have the images with that value, from 0.

    Raises UsageError for a name that is neither.
    """
    names = [str(one) for one in run.spec.names] if split.y is not None else []
    factor, equals, value = name.partition("=")
    factors = dict(run.spec.factors) if split.factors is not None else {}
    if name in names:
        assert split.y is not None
        found = np.asarray(split.y).astype(str) == name
        return found, ~found
    if factor not in factors:
        known = [*names, *factors]
        if not known:
            raise UsageError(
                f"{name}: {run.spec.name} has neither labels nor factors; expected two folders, "
                "--having DIR --lacking DIR"
            )
        raise UsageError(
            f"{name}: expected a label or a factor, {', '.join(known)}{did_you_mean(name, known)}"
        )
    assert split.factors is not None
    values, count = split.factors[:, list(factors).index(factor)], factors[factor]
    if not equals:
        middle = (count - 1) / 2
        return values > middle, values < middle
    if not value.isdigit() or int(value) >= count:
        raise UsageError(f"{name}: expected {factor}=0 to {factor}={count - 1}")
    found = values == int(value)
    return found, ~found
