"""Is a run folder whole? Every file of it is read, and held to what the others say of it.

Nothing is changed, and the run may be in training meanwhile.
"""

from __future__ import annotations

import functools
import json
import math
import struct
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flaxvae import zoo
from flaxvae.data.pipeline import Data, Split
from flaxvae.errors import DataError, Finding, FlaxvaeError, counted
from flaxvae.settings import DataSettings, TrainSettings, asdict
from flaxvae.training import mesh as meshes
from flaxvae.training import step as steps
from flaxvae.training.checkpoints import Checkpoints
from flaxvae.training.contents import Parts, digest, from_parts, to_parts
from flaxvae.training.runs import Plan, RunFolder
from flaxvae.zoo import DataSpec, Recipe

FAULTS = (FlaxvaeError, OSError, ValueError, LookupError, TypeError, AttributeError)
FACTS = ("data_spec", "data_origin", "data_sha256", "peak", "parameters", "versions", "created")
PRIOR_FACTS = ("model_sha256", "parameters", "versions", "created")
LEFTOVERS = {
    "damaged-*": "a damaged checkpoint, set aside",
    "*.partial*": "a file that was not finished",
    "*.orbax-checkpoint-tmp*": "a checkpoint that was not finished, or is being written",
}


def verify(folder: RunFolder) -> Iterator[Finding]:
    """What is well and what is wrong in a run folder, thing by thing."""
    try:
        plan, spec = folder.plan(), folder.spec()
        recipe = plan.recipe(spec)
        said = _complete(folder, plan, FACTS, _shapes(recipe, spec, plan.training))
        yield Finding(True, "run.json", f"{plan.model} on {spec.name}, {said}")
    except FAULTS as error:
        yield Finding(False, "run.json", str(error))
        yield Finding(None, "checkpoints", "not read, for want of run.json")
        yield from _figures(folder)
    else:
        parameters = yield from _training(folder, recipe, spec, plan)
        yield from _figures(folder)
        if (folder.path / "prior").is_dir():
            for found in _prior(RunFolder(folder.path / "prior"), recipe, spec, parameters):
                yield found._replace(what=f"prior/{found.what}")
    yield from _others(folder)
    for pattern, what in LEFTOVERS.items():
        for path in sorted(folder.path.rglob(pattern)):
            yield Finding(None, str(path.relative_to(folder.path)), what)


def _prior(
    folder: RunFolder, recipe: Recipe, spec: DataSpec, parameters: str | None
) -> Iterator[Finding]:
    """The prior over a codebook's codes, fitted to the model of these ``parameters``."""
    try:
        plan, codes = folder.plan(), recipe.codes
        if codes is None or codes.prior is None:
            raise DataError(f"a prior: expected none, model {plan.model} has no codes")
        grid = spec._replace(shape=codes.grid, classes=None)
        said = _complete(folder, plan, PRIOR_FACTS, _shapes(codes.prior, grid, plan.training))
        fits = folder.record()["model_sha256"] == parameters
        said += "" if fits else "; fitted to other parameters than the model's, so not in use"
        yield Finding(True if fits else None, "run.json", said)
    except FAULTS as error:
        yield Finding(False, "run.json", str(error))
    else:
        yield from _training(folder, codes.prior, grid, plan)


def _training(
    folder: RunFolder, recipe: Recipe, spec: DataSpec, plan: Plan
) -> Generator[Finding, None, str | None]:
    """Checkpoints, metrics and summary of one training.

    Returns the sha256 of the newest checkpoint's parameters, None where it does not restore.
    """
    shapes = _shapes(recipe, spec, plan.training)
    newest, parameters = None, None
    for step, parts, why in _checkpoints(folder, shapes):
        if newest is None:
            newest, parameters = step, None if parts is None else _parameters(parts)
        well = "restores, sha256 as recorded"
        yield Finding(parts is not None, f"checkpoint {step}", why or well)
    finished = _finished(folder, newest or 0)
    if newest is None:
        yield Finding(False if finished else None, "checkpoints", "none")
    per_epoch = spec.examples // plan.training.batch_size
    yield _finding("metrics.jsonl", lambda: _metrics(folder, per_epoch, newest or 0, finished))
    if finished:
        yield _finding("summary.json", lambda: _summary(folder, parameters))
    else:
        seen = "of before" if (folder.path / "summary.json").exists() else "none yet"
        yield Finding(None, "summary.json", f"{seen}: in training, or interrupted")
    return parameters


def _finished(folder: RunFolder, saved: int) -> bool:
    """Whether summary.json is there, and the training has not been resumed since."""
    path = folder.path / "summary.json"
    if not path.exists():
        return False
    try:
        epochs, rows = json.loads(path.read_text())["epochs"], folder.history()
        ends = {0: 0} | {row["epoch"]: row["step"] for row in rows}
        return len(rows) <= epochs and saved <= ends.get(epochs, saved)
    except FAULTS:
        return True  # damaged: the checks of these files say how


def _shapes(recipe: Recipe, spec: DataSpec, settings: TrainSettings) -> Parts:
    """What a checkpoint holds, as shapes; the images themselves are not needed."""
    count = max(settings.batch_size, 2)
    x = np.zeros((count, *spec.shape), np.uint8)
    split = Split(x, None if spec.classes is None else np.zeros(count, np.int32), 1.0)
    data = Data(spec, split, split, split, 1.0, "none", "", "")
    trainer = steps.trainer(recipe, data, settings, meshes.make(1), settings.epochs or 0)
    return to_parts(jax.eval_shape(trainer.init))


def _checkpoints(folder: RunFolder, shapes: Parts) -> Iterator[tuple[int, Parts | None, str]]:
    if not folder.checkpoints.is_dir():
        return
    with Checkpoints(folder.checkpoints, read_only=True, owners=folder.digests()) as checkpoints:
        yield from checkpoints.each(shapes)


def _parameters(parts: Parts) -> str:
    """sha256 of the parameters that the training left, as summary.json has it."""
    return digest(from_parts(parts).final()["params"])


# ---- the files, one by one; each check returns what is well, or raises DataError


def _finding(what: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(True, what, check())
    except DataError as error:
        return Finding(False, what, str(error))
    except FAULTS as error:
        return Finding(False, what, f"cannot be read ({type(error).__name__}: {error})")


def _complete(folder: RunFolder, plan: Plan, facts: tuple[str, ...], shapes: Parts) -> str:
    record = folder.record()
    missing = [name for name in facts if name not in record]
    missing += [name for name in zoo.arguments(plan.model) if name not in record["arguments"]]
    for part, kind in (("data", DataSettings), ("training", TrainSettings)):
        missing += [name for name in asdict(kind()) if name not in record[part]]
    if missing:
        raise DataError(f"without {', '.join(missing)}: expected what train wrote")
    params = shapes["model"]["variables"]["params"]
    parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
    if record["parameters"] != parameters:
        raise DataError(f"{record['parameters']:,} parameters: its model has {parameters:,}")
    return counted(parameters, "parameter")


def _metrics(folder: RunFolder, per_epoch: int, saved: int, finished: bool) -> str:
    """``saved``: steps of the newest checkpoint, which is written after its epochs' rows."""
    path = folder.path / "metrics.jsonl"
    *lines, tail = (path.read_text() if path.exists() else "").split("\n")
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 1):
        row = json.loads(line)
        _finite(row, f"line {number}: ")
        if row["epoch"] != number:
            raise DataError(f"line {number} is of epoch {row['epoch']}: expected {number}")
        if rows and row["step"] <= rows[-1]["step"]:
            raise DataError(f"line {number} is of step {row['step']}: expected more than before")
        rows.append(row)
    if tail and finished:
        raise DataError(f"line {len(rows) + 1} is cut off")
    regular = all(row["step"] == row["epoch"] * per_epoch for row in rows)
    if regular and len(rows) < saved // per_epoch:
        expected = f"{saved // per_epoch}, the epochs of checkpoint {saved}"
        raise DataError(f"{len(rows)} rows: expected {expected}")
    epochs = f"{len(rows)} rows" + (f", epochs 1 to {len(rows)}, all finite" if rows else "")
    return epochs + ("; the last line is not finished" if tail else "")


def _summary(folder: RunFolder, parameters: str | None) -> str:
    summary = json.loads((folder.path / "summary.json").read_text())
    _finite(summary)
    rows = len(folder.history())
    if summary["epochs"] != rows:
        raise DataError(f"{summary['epochs']} epochs: expected {rows}, the rows of metrics.jsonl")
    if not summary["test"]:
        raise DataError("no numbers of test images")
    if parameters is None:
        raise DataError("the newest checkpoint, which it is of, does not restore")
    if "model_sha256" in folder.record():  # a prior, which notes the model's parameters only
        return counted(rows, "epoch")
    if summary["parameters_sha256"] != parameters:
        raise DataError(
            f"sha256 of the parameters {summary['parameters_sha256'][:12]}…: expected "
            f"{parameters[:12]}…, that of the newest checkpoint"
        )
    return f"{counted(rows, 'epoch')}, of the newest checkpoint's parameters"


def _finite(value: Any, where: str = "") -> None:
    """Raises DataError, naming the first number in some JSON that is not finite."""
    if isinstance(value, dict):
        for name, each in value.items():
            _finite(each, f"{where}{name} ")
    elif isinstance(value, list):
        for each in value:
            _finite(each, where)
    elif isinstance(value, float) and not math.isfinite(value):
        raise DataError(f"{where}is {value}: expected a finite number")


def _figures(folder: RunFolder) -> Iterator[Finding]:
    paths = sorted(folder.figures.glob("*.png"))
    found = [_finding(f"figures/{path.name}", functools.partial(_png, path)) for path in paths]
    yield from (finding for finding in found if not finding.ok)
    good = sum(bool(finding.ok) for finding in found)
    yield Finding(True if good else None, "figures", f"{good} whole" if good else "none")


def _png(path: Path) -> str:
    """Every chunk of a PNG is there and has its checksum."""
    raw = path.read_bytes()
    if not raw.startswith(b"\x89PNG\r\n\x1a\n"):
        raise DataError(f"begins with {raw[:8]!r}: expected a PNG")
    at, kind = 8, b""
    try:
        while kind != b"IEND":
            size, kind = struct.unpack_from(">I4s", raw, at)
            (checksum,) = struct.unpack_from(">I", raw, at + 8 + size)
            if zlib.crc32(raw[at + 4 : at + 8 + size]) != checksum:
                raise DataError(f"damaged in the {size:,} bytes after {at:,}; draw it again")
            at += 12 + size
    except struct.error:
        raise DataError(f"cut off after {len(raw):,} bytes; draw it again") from None
    return "whole"


def _others(folder: RunFolder) -> Iterator[Finding]:
    """What commands after the training have written."""
    for kind, read in (("evaluation*.json", _evaluation), ("latents*.npz", _arrays)):
        for path in sorted(folder.path.glob(kind)):
            yield _finding(path.name, functools.partial(read, path))


def _evaluation(path: Path) -> str:
    found = json.loads(path.read_text())
    _finite(found)
    return f"{counted(found['images'], 'image')}, {found['split']}"


def _arrays(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as file:
            damaged = file.testzip()
            names = file.namelist()
    except zipfile.BadZipFile as error:
        raise DataError(f"cannot be read ({error})") from None
    if damaged:
        raise DataError(f"its {damaged} is damaged")
    return ", ".join(name.removesuffix(".npy") for name in names)
