"""The quality of a run's samples: which images they stand beside, and what network looks at both.

distances of samples and of real images from real images, each in the features of a classifier
of the run's labelled training images, or of a random network where there are no labels
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from flaxvae.analysis import features, sample_quality
from flaxvae.analysis.features import Seen
from flaxvae.analysis.sample_quality import Measured
from flaxvae.data.dataset import taken
from flaxvae.data.pipeline import Data, Split
from flaxvae.devices.batches import Watch
from flaxvae.errors import DataError, UsageError, counted
from flaxvae.runs import classified

if TYPE_CHECKING:
    from flaxvae.runs.run import Run

Network = Literal["classifier", "random"]
Prior = Literal["own", "fitted"]

HALF = 2500  # by default: real images in a half, and samples
MOST = 20_000  # real images that are looked at
_AT_ONCE = 1024
_ADVICE = {
    "own": "train it again with --clip-norm or a lower --learning-rate",
    "fitted": "fit it again with `flaxvae fit-prior`",
}


class SampleQuality(NamedTuple):
    """What was measured of a run's samples, by the prior that they are from: "own", "fitted"."""

    network: Network  # whose features are compared
    accuracy: float | None  # of the classifier, on the real images
    images: int  # real ones that were looked at, of the test images or
    split: str  # "validation", where the test images have anomalies among them
    drawn: bool  # pixels are drawn, for data are binary; else samples are means of p(x|z)
    measured: Measured


def assess(
    run: Run,
    data: Data,
    *,
    half: int | None = None,
    network: Network | None = None,
    k: int = 5,
    cuts: int = sample_quality.CUTS,
    seed: int = 0,
    stages: Callable[[str], Watch] | None = None,
) -> SampleQuality:
    """``Run.sample_quality`` on the run's ``data``."""
    if len(run.spec.shape) != 3:
        raise UsageError(f"{run.path} was trained on {run.spec.kind}: expected a run on images")
    held, name = data.test, "test"
    if run.plan.data.normal and data.validation is not None:
        held, name = data.validation, "validation"
    rows = np.random.default_rng(seed).permutation(len(held.x))[:MOST]
    held = taken(held, np.sort(rows))
    most = len(rows) // 2
    if half is not None and half > most:
        raise UsageError(f"--half {half}: expected at most {most}, half of the {name} images")
    if network is None:
        network = "random" if data.train.y is None else "classifier"
    priors: list[Prior] = ["own", "fitted"] if run.fitted is not None else ["own"]
    if not run.generates:
        run.sample(1)  # refused, before anything takes long

    def watch(what: str) -> Watch | None:
        return None if stages is None else stages(what)

    see = _eye(data, network, watch("classifier"))
    real = seen(see, held)
    accuracy, truth = None, held.classes
    if real.probabilities is not None and truth is not None:
        accuracy = float((real.probabilities.argmax(-1) == truth).mean())
    measured = sample_quality.measure(
        real,
        {prior: sampler(run, see, prior, data) for prior in priors},
        half=min(HALF, most) if half is None else half,
        k=k,
        cuts=cuts,
        seed=seed,
        watch=watch("samples"),
    )
    return SampleQuality(network, accuracy, len(rows), name, run.spec.binary, measured)


def _eye(data: Data, network: Network, watch: Watch | None) -> Callable[[np.ndarray], Seen]:
    if network == "random":
        return features.random_network(data.spec.shape).see
    return classified.classifier(data, watch).see


def seen(see: Callable[[np.ndarray], Seen], split: Split) -> Seen:
    """All images of a split, as a network sees them."""
    starts = range(0, len(split.x), _AT_ONCE)
    parts = [see(split.images(slice(start, start + _AT_ONCE))) for start in starts]
    return _joined(parts)


def _joined(parts: list[Seen]) -> Seen:
    given = [part.probabilities for part in parts if part.probabilities is not None]
    together = np.concatenate([part.features for part in parts])
    return Seen(together, np.concatenate(given) if given else None)


def sampler(
    run: Run, see: Callable[[np.ndarray], Seen], prior: Prior, data: Data
) -> sample_quality.Draw:
    """Samples of a run, as a network sees them.

    They are means of p(x|z), at most 1 and at least 0, as `flaxvae sample` shows them; of binary
    data draws, since means are grey. A conditional model gets labels as often as training images
    have them.
    """

    def draw(n: int, seed: int) -> Seen:
        options: dict[str, Any] = {"prior": prior, "draw_pixels": run.spec.binary}
        rng = np.random.default_rng(seed)
        if run.recipe.classes is not None:
            assert data.train.y is not None
            options["y"] = rng.choice(data.train.y, n)
        images = run.sample(n, seed=seed, **options)
        if lost := int((~np.isfinite(images).reshape(n, -1).all(1)).sum()):
            raise DataError(
                f"{run.path}: {lost} of {counted(n, 'sample')} of the {prior} prior have pixels "
                f"that are not finite: expected a model that has not diverged; {_ADVICE[prior]}"
            )
        return see(np.clip(images, 0, 1).astype(np.float32))

    return draw
