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
import jax.numpy as jnp
import numpy as np

from flaxvae.analysis import mixtures
from flaxvae.analysis.anomaly import combined, detection, tails
from flaxvae.analysis.anomaly import scores as scoring
from flaxvae.analysis.anomaly.scores import Measured, Settings
from flaxvae.data import pipeline
from flaxvae.data.dataset import taken
from flaxvae.data.pipeline import Data, Split
from flaxvae.declared import Count, Positive, Rate
from flaxvae.devices.batches import Watch
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


class _Usual(TypedDict):
    """``combined.Usual`` in JSON, of K Gaussians in D dimensions."""

    log_weights: list[float]  # [K]
    means: list[list[float]]  # [K, D]
    cholesky: list[list[float]]  # [K, D (D + 1) / 2] the lower triangles, row by row
    mean: list[float]  # [2]
    sd: list[float]  # [2]


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
    usual: NotRequired[_Usual]
    scores_sha256: NotRequired[Sha256]  # of scores.csv, which these variables gave
    scores_of: NotRequired[str]  # which score it has; an older flaxvae's has elbo


def read(path: Path) -> Any:
    """The file. Raises DataError if it is damaged."""
    found = records.read(path, Record, ADVICE)
    if ("combined" in found["scores"] or "usual" in found) and not _whole(found.get("usual")):
        raise records.damaged(path, "what combined compares with is not whole", ADVICE)
    for name in (*found["scores"], _of(found)):
        if name not in scoring.NAMES:
            raise records.damaged(path, f"a score {name}", ADVICE)
    for name, score in found["scores"].items():
        records.fit(path, _Score, score, ADVICE)
        for part in ("training", "held_out"):
            if sorted(score[part]) != score[part] or len(score[part]) != found[f"{part}_images"]:
                raise records.damaged(path, f"{name} {part} are not sorted, or not all", ADVICE)
    return found


def _whole(found: _Usual | None) -> bool:
    """Whether its parts are there and fit each other."""
    if found is None or not found["means"]:
        return False
    count, size = len(found["log_weights"]), len(found["means"][0])
    each = ((found["means"], size), (found["cholesky"], size * (size + 1) // 2))
    return (
        size > 0
        and len(found["mean"]) == len(found["sd"]) == 2
        and all(len(rows) == count and {*map(len, rows)} == {length} for rows, length in each)
    )


def _of(record: Mapping[str, Any]) -> AnomalyScore:
    """Which score is in scores.csv."""
    return record.get("scores_of", "elbo")


def check_scores(run: Run) -> AnomalyScore:
    """Which score scores.csv has.

    Raises DataError unless it is known to be of the run's present variables.
    """
    path = run.path / FILE
    if not path.exists():
        raise DataError(f"without {FILE} it is not known which parameters it is of")
    record = read(path)
    scores = hashlib.sha256((run.path / SCORES).read_bytes()).hexdigest()
    own = record["variables_sha256"] == digest(jax.device_get(run.variables))
    if not own or record.get("scores_sha256") != scores:
        raise DataError(f"it is of other parameters, or written before the last {FILE}")
    return _of(record)


@dataclasses.dataclass
class Reference:
    """The scores of a run's own images."""

    run: Run
    normal: tuple[str, ...]  # classes; (): all
    settings: Settings
    record: dict[str, Any] | None = None  # what is, or will be, in the file
    kept: Mapping[str, Any] | None = None  # what is in it
    before: float = RATE  # the rate of false positives, unless one is chosen
    given: dict[str, str] = dataclasses.field(default_factory=dict)  # what is known of scores.csv

    @classmethod
    def open(cls, run: Run, normal: tuple[str, ...], settings: Settings) -> Reference:
        """As the run keeps it; without a record if it has none of these variables and classes.

        Raises DataError if it is damaged.
        """
        found, path = cls(run, normal, settings), run.path / FILE
        if path.exists():
            record = read(path)
            found.before = record["false_positive_rate"]
            if record["variables_sha256"] == found.sha256:
                about = ("scores_sha256", "scores_of")
                found.given = {k: v for k, v in record.items() if k in about}
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
        watch: Watch | None = None,
    ) -> None:
        """Compute the scores ``names`` of the run's own images.

        With ``combined`` goes ``elbo``, which models exported to JAX and PyTorch compute. ``watch``
        hears how many codes there are to compare with.

        Raises DataError if there are no normal ones.
        """
        names = [*names, *({"elbo"} - {*names} if "combined" in names else ())]
        normal = self._normal(data.train)
        train = pipeline.binarized(_some(normal), data.binarization, 4)
        held = None if data.validation is None else _some(self._normal(data.validation))
        if not len(train.x):
            raise DataError(f"{data.origin}: no training image of {', '.join(self.normal)}")
        self.record = record = self.record or {
            "step": self.run.step,
            "variables_sha256": self.sha256,
            "normal": list(self.normal),
            "false_positive_rate": self.before,
            "training_images": len(train.x),
            "held_out_images": 0 if held is None else len(held.x),
            "scores": {},
            **self.given,
        }
        if "combined" in names and self.usual is None:
            some = pipeline.binarized(_some(normal, combined.IMAGES), data.binarization, 4)
            record["usual"] = _written(self.run.usual(some, watch=watch))
        parts = {"training": measure(train, names)}
        if held is not None and len(held.x):
            parts["held_out"] = measure(held, names)
        if (statistics := parts["training"].statistics) is not None:
            reference = tails.reference(statistics)
            record["statistics"] = {k: v.tolist() for k, v in reference._asdict().items()}
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
    def usual(self) -> combined.Usual | None:
        """What the score ``combined`` compares with, if it is known."""
        return None if self.record is None else usual(self.record)

    @property
    def rate(self) -> float:
        return self.before if self.record is None else self.record["false_positive_rate"]

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

    def wrote(self, scores: bytes, name: AnomalyScore) -> None:
        """Note that scores.csv, with these bytes, has this score by these variables."""
        if self.record is not None:
            self.record["scores_sha256"] = hashlib.sha256(scores).hexdigest()
            self.record["scores_of"] = name

    def write(self) -> None:
        """Keep it in the run, if it has changed."""
        assert self.record is not None
        if self.record != self.kept:
            write_json(self.run.path / FILE, self.record, compact=True)


def _some(split: Split, most: int = IMAGES) -> Split:
    """At most so many images of a split, spread over it."""
    count = min(len(split.x), most)
    return taken(split, np.linspace(0, len(split.x) - 1, count).round().astype(int))


def _written(found: combined.Usual) -> _Usual:
    """In JSON."""
    log_weights, means, cholesky = map(np.asarray, found.codes)
    rows, columns = np.tril_indices(means.shape[1])

    def short(array: np.ndarray) -> list[Any]:
        return jax.tree.map(_short, array.tolist())

    return _Usual(
        log_weights=short(log_weights),
        means=short(means),
        cholesky=short(cholesky[:, rows, columns]),
        mean=found.mean.tolist(),
        sd=found.sd.tolist(),
    )


def usual(record: Mapping[str, Any]) -> combined.Usual | None:
    """What the score ``combined`` compares with, to the last bit that which was written."""
    kept = record.get("usual")
    if kept is None:
        return None
    means = np.array(kept["means"], np.float32)
    count, size = means.shape
    cholesky = np.zeros((count, size, size), np.float32)
    rows, columns = np.tril_indices(size)
    cholesky[:, rows, columns] = kept["cholesky"]
    arrays = (np.array(kept["log_weights"], np.float32), means, cholesky)
    codes = mixtures.Mixture(*map(jnp.asarray, arrays))
    return combined.Usual(codes, np.array(kept["mean"]), np.array(kept["sd"]))


def _sorted(scores: np.ndarray) -> list[float]:
    """In order, and as short as they can be written to be read as the same float32."""
    return [_short(number) for number in np.sort(np.asarray(scores, np.float32))]


def _short(number: float) -> float:
    return float(str(np.float32(number)))
