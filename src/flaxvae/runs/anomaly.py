"""anomaly.json: the scores of a run's own images, and the threshold that these set for others.

Percentiles are among scores of training images, thresholds are set on held-out ones. Both are of
normal classes alone, if the run has such. They are kept with the sha256 of the model's
variables: another checkpoint has scores of its own.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import jax
import numpy as np

from flaxvae.analysis.anomaly import detection, tails
from flaxvae.analysis.anomaly import scores as scoring
from flaxvae.analysis.anomaly.scores import Measured, Settings
from flaxvae.data import pipeline
from flaxvae.data.dataset import taken
from flaxvae.data.pipeline import Data, Split
from flaxvae.declared import Count, Positive, Rate
from flaxvae.errors import DataError
from flaxvae.runs import records
from flaxvae.runs.contents import digest
from flaxvae.runs.folder import write_json
from flaxvae.runs.records import Sha256
from flaxvae.runs.run import Run
from flaxvae.settings import AnomalyScore

FILE = "anomaly.json"
SCORES = "scores.csv"  # of the test images, with the default options
IMAGES = 2000  # at most, of the training images, and as many held-out ones
RATE = 0.05  # of false positives, unless one is chosen
ADVICE = "remove it, and it is written again"
# The numbers that a score depends on:
DEPENDS = {"importance": ("k",), "regret": ("fit_steps",), "llr": ("levels",)}


class _Score(TypedDict):
    settings: dict[str, int]
    training: list[float]  # sorted
    held_out: list[float]  # sorted
    threshold: float | None  # None: too few are held out for the rate


class _Statistics(TypedDict):
    """``tails.Reference`` in JSON."""

    mean: list[float]
    covariance: list[list[float]]
    skewness: list[float]
    sorted: list[list[float]]


class Record(TypedDict):
    """The file."""

    step: Count
    variables_sha256: Sha256
    normal: list[str]
    false_positive_rate: Rate
    training_images: Positive
    held_out_images: Count
    scores: dict[str, Any]
    statistics: NotRequired[_Statistics]
    scores_sha256: NotRequired[Sha256]  # of scores.csv, which these variables gave


def read(path: Path) -> Any:
    """The file. Raises DataError if it is damaged."""
    found = records.read(path, Record, ADVICE)
    known = dict.fromkeys(scoring.NAMES, _Score)
    for name, score in found["scores"].items():
        if name not in known:
            raise records.damaged(path, f"a score {name}", ADVICE)
        records.fit(path, _Score, score, ADVICE)
        for part in ("training", "held_out"):
            if sorted(score[part]) != score[part] or len(score[part]) != found[f"{part}_images"]:
                raise records.damaged(path, f"{name} {part} are not sorted, or not all", ADVICE)
    return found


def check_scores(run: Run) -> None:
    """Raises DataError unless scores.csv is known to be of the run's present variables."""
    path = run.path / FILE
    if not path.exists():
        raise DataError(f"without {FILE} it is not known which parameters it is of")
    record = read(path)
    scores = hashlib.sha256((run.path / SCORES).read_bytes()).hexdigest()
    own = record["variables_sha256"] == digest(jax.device_get(run.variables))
    if not own or record.get("scores_sha256") != scores:
        raise DataError(f"it is of other parameters, or written before the last {FILE}")


@dataclasses.dataclass
class Reference:
    """The scores of a run's own images."""

    run: Run
    normal: tuple[str, ...]  # classes; (): all
    settings: Settings
    record: dict[str, Any] | None = None  # what is, or will be, in the file
    kept: Mapping[str, Any] | None = None  # what is in it
    usual: float = RATE  # of false positives, unless one is chosen
    given: dict[str, str] = dataclasses.field(default_factory=dict)  # scores_sha256, if known

    @classmethod
    def open(cls, run: Run, normal: tuple[str, ...], settings: Settings) -> Reference:
        """As the run keeps it; without a record if it has none of these variables and classes.

        Raises DataError if it is damaged.
        """
        found, path = cls(run, normal, settings), run.path / FILE
        if path.exists():
            record = read(path)
            found.usual = record["false_positive_rate"]
            if record["variables_sha256"] == found.sha256:
                found.given = {k: v for k, v in record.items() if k == "scores_sha256"}
                if record["normal"] == list(normal):
                    found.record, found.kept = copy.deepcopy(dict(record)), record
        return found

    @property
    def sha256(self) -> str:
        return digest(jax.device_get(self.run.variables))

    def missing(self, names: Sequence[AnomalyScore]) -> list[AnomalyScore]:
        """The scores that are not known, or with other settings."""
        known = {} if self.record is None else self.record["scores"]
        return [n for n in names if n not in known or known[n]["settings"] != self._settings(n)]

    def _settings(self, name: str) -> dict[str, int]:
        return {each: getattr(self.settings, each) for each in DEPENDS.get(name, ())}

    def extend(
        self,
        names: Sequence[AnomalyScore],
        data: Data,
        measure: Callable[[Split, Sequence[AnomalyScore]], Measured],
    ) -> None:
        """Compute the scores ``names`` of the run's own images.

        Raises DataError if there are no normal ones.
        """
        train = pipeline.binarized(self._some(self._normal(data.train)), data.binarization, 4)
        held = None if data.validation is None else self._some(self._normal(data.validation))
        if not len(train.x):
            raise DataError(f"{data.origin}: no training image of {', '.join(self.normal)}")
        parts = {"training": measure(train, names)}
        if held is not None and len(held.x):
            parts["held_out"] = measure(held, names)
        record = self.record or {
            "step": self.run.step,
            "variables_sha256": self.sha256,
            "normal": list(self.normal),
            "false_positive_rate": self.usual,
            "training_images": len(train.x),
            "held_out_images": 0 if held is None else len(held.x),
            "scores": {},
            **self.given,
        }
        if (statistics := parts["training"].statistics) is not None:
            reference = tails.reference(statistics)
            record["statistics"] = {k: v.tolist() for k, v in reference._asdict().items()}
        self.record = record
        done = {part: found.completed(names, self.statistics) for part, found in parts.items()}
        for name in names:
            for part, found in done.items():
                if bad := int((~np.isfinite(found[name])).sum()):
                    raise DataError(
                        f"{name} of {bad} of {len(found[name])} {part.replace('_', '-')} images is "
                        "not finite: expected a model whose training did not diverge"
                    )
            kept = {part: _sorted(found[name]) for part, found in done.items()}
            record["scores"][name] = {"settings": self._settings(name), "held_out": []} | kept

    def _some(self, split: Split) -> Split:
        """At most IMAGES of a split, spread over it."""
        count = min(len(split.x), IMAGES)
        return taken(split, np.linspace(0, len(split.x) - 1, count).round().astype(int))

    def _normal(self, split: Split) -> Split:
        if not self.normal or split.y is None:
            return split
        return taken(split, np.flatnonzero(np.isin(split.y.astype(str), self.normal)))

    @property
    def statistics(self) -> tails.Reference | None:
        """Of the training images, for scores that need them."""
        found = None if self.record is None else self.record.get("statistics")
        return None if found is None else tails.Reference(**{k: np.array(found[k]) for k in found})

    @property
    def rate(self) -> float:
        return self.usual if self.record is None else self.record["false_positive_rate"]

    @property
    def held_out(self) -> int:
        return 0 if self.record is None else self.record["held_out_images"]

    def training(self, name: str) -> np.ndarray:
        """The scores of training images, sorted."""
        assert self.record is not None
        return np.array(self.record["scores"][name]["training"], np.float32)

    def threshold(self, name: str) -> float | None:
        """Above which an image is flagged; None if there are too few held-out images."""
        assert self.record is not None
        found = self.record["scores"][name]["threshold"]
        return None if found is None else float(np.float32(found))

    def decide(self, rate: float | None) -> None:
        """Set all thresholds at a rate of false positives; None: at that which is known.

        Raises UsageError if there are too few held-out images for a ``rate`` that was asked for.
        """
        assert self.record is not None
        self.record["false_positive_rate"] = used = self.rate if rate is None else rate
        for score in self.record["scores"].values():
            enough = rate is not None or used * (self.held_out + 1) >= 1
            held = np.array(score["held_out"], np.float32)
            above = detection.threshold(held, used) if enough else None
            score["threshold"] = None if above is None else _short(above)

    def wrote(self, scores: bytes) -> None:
        """Note that scores.csv, with these bytes, is of these variables."""
        if self.record is not None:
            self.record["scores_sha256"] = hashlib.sha256(scores).hexdigest()

    def write(self) -> None:
        """Keep it in the run, if it has changed."""
        assert self.record is not None
        if self.record != self.kept:
            write_json(self.run.path / FILE, self.record, compact=True)


def _sorted(scores: np.ndarray) -> list[float]:
    """In order, and as short as they can be written to be read as the same float32."""
    return [_short(number) for number in np.sort(np.asarray(scores, np.float32))]


def _short(number: float) -> float:
    return float(str(np.float32(number)))
