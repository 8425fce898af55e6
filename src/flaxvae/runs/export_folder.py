"""A folder that ``flaxvae export`` wrote: a model for another program, and export.json about it.

export.json has the sha256 of every file beside it, and what a program must know to feed the model:
shapes, the value that means white, binarization, class names, and the thresholds of ``flaxvae
score``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from flaxvae import writing
from flaxvae.analysis.anomaly.combined import Usual
from flaxvae.declared import Count, Positive
from flaxvae.errors import DataError, UsageError
from flaxvae.machine import versions
from flaxvae.runs import anomaly, records
from flaxvae.runs.folder import write_json
from flaxvae.runs.records import Sha256
from flaxvae.runs.restored import digests
from flaxvae.runs.run import Run

FOLDER = "export"  # in a run, with a folder for each format
FILE = "export.json"
CARD = "README.md"  # which its user may edit
ADVICE = "export it again"


class Threshold(TypedDict):
    """Above which an image is flagged, and how many of normal ones are."""

    threshold: float
    false_positive_rate: float


class Record(TypedDict):
    """The file."""

    to: str
    model: str
    arguments: dict[str, Any]
    data: str
    kind: str
    shape: list[Positive]
    latent_dim: Positive
    step: Count
    parameters_sha256: Sha256
    variables_sha256: Sha256
    peak: float | None
    binarization: str
    preprocessing: dict[str, Any] | None
    labels: list[int | str]  # of the classes that a conditional model takes
    thresholds: dict[str, Threshold]  # by the name of the score
    files: NotRequired[dict[str, Sha256]]
    versions: dict[str, str]


def describe(run: Run, to: str) -> Record:
    """What export.json says of a run's model, but for the files."""
    record = run.folder.record()
    return Record(
        to=to,
        model=run.plan.model,
        arguments=dict(run.plan.arguments),
        data=run.spec.name,
        kind=run.spec.kind,
        shape=list(run.spec.shape),
        latent_dim=run.latent_size,
        step=run.step,
        **digests(run.variables),  # type: ignore[typeddict-item]
        peak=run.peak,
        binarization=run.binarization,
        preprocessing=record.get("preprocessing"),
        labels=list(run.spec.names) if run.recipe.classes is not None else [],
        thresholds=thresholds(run),
        versions=versions(),
    )


def thresholds(run: Run) -> dict[str, Threshold]:
    """The thresholds of ``flaxvae score`` for these variables, by the name of the score.

    Raises DataError if anomaly.json is damaged.
    """
    found = _anomaly(run)
    if found is None:
        return {}
    rate = found["false_positive_rate"]
    return {
        name: Threshold(threshold=score["threshold"], false_positive_rate=rate)
        for name, score in found["scores"].items()
        if score["threshold"] is not None
    }


def usual(run: Run) -> Usual | None:
    """What the score ``combined`` compares with, if ``flaxvae score`` knows it for these variables.

    Raises DataError if anomaly.json is damaged.
    """
    found = _anomaly(run)
    return None if found is None else anomaly.usual(found)


def _anomaly(run: Run) -> Any:
    """anomaly.json, if it is of these variables."""
    path = run.path / anomaly.FILE
    if not path.exists():
        return None
    found = anomaly.read(path)
    own = digests(run.variables)["variables_sha256"]
    return found if found["variables_sha256"] == own else None


def check_target(path: Path) -> None:
    """Raises UsageError unless ``path`` is new, empty, or an earlier export and nothing else.

    An edited README.md is its user's, and is not replaced.
    """
    if not path.exists():
        return
    if Path.cwd().is_relative_to(path.resolve()):
        raise UsageError(f"--out {path} is where you are: expected a new folder; choose a name")
    if path.is_dir() and not any(path.iterdir()):
        return
    try:
        others, edited = added(path), is_edited(path)
    except DataError:
        raise UsageError(
            f"--out {path} exists and is no earlier export: expected a new folder; choose another "
            "name"
        ) from None
    if others:
        raise UsageError(
            f"--out {path} holds {others[0]}, which flaxvae did not write: expected an earlier "
            "export alone; move that away, or choose another name"
        )
    if edited:
        raise UsageError(
            f"--out {path} holds a {CARD} that was edited: expected the one that flaxvae wrote; "
            "move it away, or choose another name"
        )


def added(path: Path) -> list[str]:
    """The names of what is in an export's folder beside the export.

    Raises DataError if there is no export.json, or it is damaged.
    """
    known = {FILE, "__pycache__", *_read(path).get("files", {})}
    return sorted(each.name for each in path.iterdir() if each.name not in known)


def is_edited(path: Path) -> bool:
    """Whether the README.md of an export is another than flaxvae wrote.

    Raises DataError if there is no export.json, or it is damaged.
    """
    sha256 = _read(path).get("files", {}).get(CARD)
    return sha256 is not None and (path / CARD).is_file() and _sha256(path / CARD) != sha256


@contextmanager
def written(path: Path, about: Mapping[str, Any]) -> Iterator[Path]:
    """A folder to write files into, which replaces ``path`` with an export.json about them."""
    with writing.whole_folder(path) as folder:
        yield folder
        files = {each.name: _sha256(each) for each in sorted(folder.iterdir())}
        write_json(folder / FILE, {**about, "files": files})


def check(path: Path) -> tuple[Record, str]:
    """The record in an export's folder, and what there is. Raises DataError if a file is not whole.

    Files that were added are of no concern, nor is what was written in README.md.
    """
    found = _read(path)
    files = found.get("files", {})
    for name, sha256 in files.items():
        if "/" in name or not (path / name).is_file():
            raise DataError(f"no {name}: expected what flaxvae wrote; {ADVICE}")
        if name != CARD and _sha256(path / name) != sha256:
            raise DataError(f"{name} was changed: expected what flaxvae wrote; {ADVICE}")
    edited = is_edited(path)
    whole = ", ".join(name for name in files if not (edited and name == CARD))
    said = [f"{whole}: sha256 as recorded"] * bool(whole) + [f"{CARD} was edited"] * edited
    return found, "; ".join(said)


def _read(path: Path) -> Record:
    found: Record = records.read(path / FILE, Record, f"remove {path}, and {ADVICE}")
    return found


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
