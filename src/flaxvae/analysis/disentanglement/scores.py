"""All measures of one model's codes: a record for a table, a figure and JSON."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from flaxvae.analysis.disentanglement import information, intervention, prediction
from flaxvae.analysis.disentanglement.inputs import Array, pairs, silenced
from flaxvae.analysis.disentanglement.intervention import Sample
from flaxvae.declared import Positive, Seed, typed

Numbers = tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Disentanglement:
    """What each measure says of the codes of images, and for MIG, DCI, SAP and explicitness of each
    factor; nan where a measure is not defined."""

    images: int
    factors: tuple[str, ...]
    used: tuple[bool, ...]  # [D] of each unit; others count as constant
    beta_vae: float  # accuracies, 1 / F by chance
    factor_vae: float
    mig: float
    mig_of_factors: Numbers  # [F]
    modularity: float
    irs: float
    dci_disentanglement: float
    dci_completeness: float
    dci_informativeness: float
    completeness_of_factors: Numbers  # [F]
    accuracy_of_factors: Numbers  # [F]
    chance_of_factors: Numbers  # [F] what the accuracy of factors is by chance
    sap: float
    sap_of_factors: Numbers  # [F]
    explicitness: float
    explicitness_of_factors: Numbers  # [F]
    information: tuple[Numbers, ...]  # [D, F] nats
    entropy: Numbers  # [F] nats

    def as_json(self) -> dict[str, Any]:
        """Its fields, for JSON, which has no nan: null."""
        return {name: _plain(value) for name, value in dataclasses.asdict(self).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value


@typed
def measure(
    codes: Array,
    factors: Array,
    names: Sequence[str],
    *,
    used: Array | None = None,
    unordered: Collection[str] = (),
    sample: Sample | None = None,
    bins: Positive = information.BINS,
    seed: Seed = 0,
) -> Disentanglement:
    """Every measure of codes [N, D] of images with factors [N, F].

    Args:
        codes: posterior means, or draws from q(z|x).
        factors: indices of their values, or any numbers.
        names: of the factors.
        used: [D] bool: units that the decoder looks at; others count as constant. By default all.
        unordered: names of factors whose values have no order, such as a shape.
        sample: codes of images that share the value of a factor; by default drawn from these.
        bins: of equal width, for mutual information.
        seed: of draws, and of which images learn and which test.

    Raises UsageError for codes and factors that do not fit each other.
    """
    used = np.ones(codes.shape[1], bool) if used is None else used
    z = silenced(pairs(codes, factors).codes, used)
    found = information.information(z, factors, bins)
    entropy = information.entropy(factors)
    drawn = intervention.resampled(z, factors) if sample is None else _silent(sample, used)
    count = len(names)
    gaps = information.mutual_information_gap(found, entropy)
    forests = prediction.dci(z, factors, seed=seed)
    which = [f for f, name in enumerate(names) if name in unordered]
    separation = prediction.separated_predictability(z, factors, which)
    explicit = prediction.explicitness(z, factors, seed=seed)
    return Disentanglement(
        len(z),
        tuple(names),
        tuple(used.tolist()),
        intervention.beta_vae_score(drawn, count, seed=seed),
        intervention.factor_vae_score(drawn, z.var(0), count, seed=seed),
        gaps.mean,
        tuple(gaps.of_factors.tolist()),
        information.modularity(found).mean,
        intervention.interventional_robustness(z, factors).mean,
        forests.disentanglement,
        forests.completeness,
        forests.informativeness,
        tuple(forests.of_factors.tolist()),
        tuple(forests.accuracy.tolist()),
        tuple(forests.chance.tolist()),
        separation.mean,
        tuple(separation.of_factors.tolist()),
        explicit.mean,
        tuple(explicit.of_factors.tolist()),
        tuple(map(tuple, found.tolist())),
        tuple(entropy.tolist()),
    )


def _silent(sample: Sample, used: Array) -> Sample:
    return lambda generator, fixed, size: np.where(used, sample(generator, fixed, size), 0.0)
