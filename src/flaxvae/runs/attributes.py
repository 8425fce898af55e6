"""Which images have an attribute: a label, or a factor, by its name as it is typed."""

from __future__ import annotations

import numpy as np

from flaxvae.data.pipeline import Split
from flaxvae.errors import UsageError, did_you_mean
from flaxvae.recipe import DataSpec

Array = np.ndarray

LABEL = "class"  # what an attribute is a value of that is a label


def source(spec: DataSpec, split: Split, name: str) -> str:
    """What an attribute is a value of: LABEL, or a factor's name.

    Raises UsageError for a name that is neither.
    """
    labels = [str(one) for one in spec.names] if split.y is not None else []
    factors = dict(spec.factors) if split.factors is not None else {}
    factor, equals, value = name.partition("=")
    if name in labels:
        return LABEL
    if factor not in factors:
        known = [*labels, *factors]
        if not known:
            raise UsageError(
                f"{name}: {spec.name} has neither labels nor factors; expected two folders, "
                "--having DIR --lacking DIR"
            )
        raise UsageError(
            f"{name}: expected a label or a factor, {', '.join(known)}{did_you_mean(name, known)}"
        )
    if equals and (not value.isdigit() or int(value) >= factors[factor]):
        raise UsageError(f"{name}: expected {factor}=0 to {factor}={factors[factor] - 1}")
    return factor


def values(split: Split, spec: DataSpec, source: str) -> Array:
    """The numbers of the values [N] that images have of a source: of the class, or of a factor."""
    if source == LABEL:
        found = split.classes
    else:
        assert split.factors is not None
        found = split.factors[:, list(dict(spec.factors)).index(source)]
    assert found is not None
    return np.asarray(found)


def parts(spec: DataSpec, name: str, source: str, values: Array) -> tuple[Array, Array]:
    """Which values [N] of its source make an attribute, and which are without it, [N] bool each.

    A label is an attribute of the images of that class, which the others have not. Of a factor
    ``size`` the images in the upper half of its values have it and those in the lower half do not,
    in the order in which the factor lists them; ``size=2`` have the images with that value, from 0.
    """
    _, equals, value = name.partition("=")
    if source == LABEL:
        found = values == [str(one) for one in spec.names].index(name)
    elif equals:
        found = values == int(value)
    else:
        middle = (dict(spec.factors)[source] - 1) / 2
        return values > middle, values < middle
    return found, ~found


def has(spec: DataSpec, split: Split, name: str) -> tuple[Array, Array]:
    """Which images have an attribute and which do not, [N] bool each: ``parts`` of their values.

    Raises UsageError for a name that is neither a label nor a factor.
    """
    of = source(spec, split, name)
    return parts(spec, name, of, values(split, spec, of))
