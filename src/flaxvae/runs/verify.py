"""Check a run folder: its files are read and compared with each other.

Files that are not read are listed. Nothing is changed, and the run may be training meanwhile.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

import jax
import numpy as np

from flaxvae import lookup
from flaxvae.data.pipeline import Data, Split
from flaxvae.errors import DataError, Finding, FlaxvaeError, counted
from flaxvae.plan import Plan
from flaxvae.recipe import DataSpec, Recipe
from flaxvae.runs import anomaly, export_folder, fitted, intact, pages, records
from flaxvae.runs.checkpoints import Checkpoints
from flaxvae.runs.contents import Parts, final, to_parts
from flaxvae.runs.folder import RunFolder
from flaxvae.runs.restored import digests, named
from flaxvae.settings import DataSettings, TrainSettings, asdict
from flaxvae.training import step as steps

FAULTS = (
    FlaxvaeError,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
)
FACTS = ("data_spec", "data_origin", "data_sha256", "peak", "parameters", "versions", "created")
PRIOR_FACTS = ("model_sha256", "parameters", "versions", "created")
LEFTOVERS = {
    "damaged-*": "a damaged checkpoint, set aside",
    "*.partial*": "an unfinished file",
    "*.orbax-checkpoint-tmp*": "a checkpoint that is unfinished or being written",
}
READ = (
    *("run.json", "summary.json", "metrics.jsonl", "lock", "checkpoints", "prior", "tb"),
    *("evaluation*.json", "likelihood*.json", "diagnosis*.json", "disentanglement*.json"),
    *("probe*.json", "quality*.json", "latents*.npz", "restored*.npz", "scores*.csv"),
    *(fitted.NAME, anomaly.FILE, export_folder.FOLDER, pages.NAME),
    *("figures", "figures/*.png", "tb/events*"),
)
LARGEST = 2**24  # bytes of events to check, which takes some seconds


def verify(folder: RunFolder) -> Iterator[Finding]:
    """What is right and what is wrong in a run folder, item by item."""
    try:
        plan, spec, recipe = folder.plan(), folder.spec(), folder.recipe()
        said = _complete(folder, plan, FACTS, _shapes(recipe, spec, plan.training))
        yield Finding(True, "run.json", f"{plan.model} on {spec.name}, {said}")
    except FAULTS as error:
        yield Finding(False, "run.json", _words(error))
        yield Finding(None, "checkpoints", "not read without run.json")
        yield from _figures(folder)
    else:
        findings, model = _training(folder, recipe, spec, plan)
        yield from findings
        yield from _figures(folder)
        if (folder.path / "prior").is_dir():
            for found in _prior(
                RunFolder(folder.path / "prior", folder.recipes), recipe, spec, model
            ):
                yield found._replace(what=f"prior/{found.what}")
        if (folder.path / fitted.NAME).exists():
            yield _fitted(folder.path / fitted.NAME, model)
        yield from _exports(folder, model)
        if (folder.path / pages.NAME).exists():
            yield _page(folder.path / pages.NAME, model)
    yield from _others(folder)
    for pattern, what in LEFTOVERS.items():
        for path in sorted(folder.path.rglob(pattern)):
            yield Finding(None, str(path.relative_to(folder.path)), what)
    if unread := _unread(folder):
        more = f" and {len(unread) - 5} more" if len(unread) > 5 else ""
        yield Finding(None, "others", f"not read: {', '.join(unread[:5])}{more}")


def _unread(folder: RunFolder) -> list[str]:
    """Files in a run folder that flaxvae does not read and that have no findings of their own."""
    paths = [*folder.path.glob("*"), *folder.path.glob("figures/*"), *folder.path.glob("tb/*")]
    names = sorted(path.relative_to(folder.path).as_posix() for path in paths)
    known = (*READ, *LEFTOVERS)
    return [name for name in names if not any(map(PurePath(name).match, known))]


def _prior(
    folder: RunFolder, recipe: Recipe, spec: DataSpec, model: Mapping[str, str]
) -> Iterator[Finding]:
    """The prior over a codebook's codes, fitted to the model with these ``digests``."""
    try:
        plan, codes = folder.plan(), recipe.codes
        if codes is None or codes.prior is None:
            raise DataError(f"a prior: expected none, model {plan.model} has no codes")
        grid = spec._replace(shape=codes.grid, classes=None)
        said = _complete(folder, plan, PRIOR_FACTS, _shapes(codes.prior, grid, plan.training))
        fits = folder.record()["model_sha256"] == model.get("parameters_sha256")
        said += "" if fits else "; fitted to other parameters than the model's, so not used"
        yield Finding(True if fits else None, "run.json", said)
    except FAULTS as error:
        yield Finding(False, "run.json", _words(error))
    else:
        yield from _training(folder, codes.prior, grid, plan)[0]


def _fitted(path: Path, model: Mapping[str, str]) -> Finding:
    """The prior over continuous latents, fitted to the model with these ``digests``."""
    try:
        prior, about = fitted.read(path)
    except FAULTS as error:
        return Finding(False, path.name, _words(error))
    said = f"{prior.kind} over {counted(prior.size, 'dimension')}, sha256 as recorded"
    if fitted.fits(about, model):
        return Finding(True, path.name, said)
    more = _unless(False, model, "fitted to other parameters, so not used")
    return Finding(None, path.name, said + more)


def _unless(fits: bool, model: Mapping[str, str], otherwise: str) -> str:
    """What to say of something that does not fit the model with these ``digests``, if any is."""
    if fits:
        return ""
    return f"; {otherwise}" if model else "; of which parameters is not known: no model restores"


def _exports(folder: RunFolder, model: Mapping[str, str]) -> Iterator[Finding]:
    """What was exported of the model with these ``digests``."""
    for path in sorted(folder.path.glob(f"{export_folder.FOLDER}/*/")):
        if any(map(path.match, LEFTOVERS)):  # of an export that was killed
            continue
        what = path.relative_to(folder.path).as_posix()
        if not (path / export_folder.FILE).exists():
            yield Finding(None, what, f"not read: without {export_folder.FILE}")
            continue
        try:
            about, said = export_folder.check(path)
        except FAULTS as error:
            yield Finding(False, what, _words(error))
            continue
        fits = about["variables_sha256"] == model.get("variables_sha256")
        more = _unless(fits, model, "of other parameters")
        yield Finding(True if fits else None, what, said + more)


def _page(path: Path, model: Mapping[str, str]) -> Finding:
    """The page of the model with these ``digests``; a resumed training keeps the old one until it
    ends."""
    try:
        variables, said = pages.check(path)
    except FAULTS as error:
        return Finding(False, path.name, _words(error))
    fits = variables == model.get("variables_sha256")
    more = "of other parameters, write it again with `flaxvae report`"
    return Finding(True if fits else None, path.name, said + _unless(fits, model, more))


def _training(
    folder: RunFolder, recipe: Recipe, spec: DataSpec, plan: Plan
) -> tuple[list[Finding], Mapping[str, str]]:
    """Checkpoints, metrics and summary of one training, and the ``digests`` of its model.

    If something is wrong, but a training has written meanwhile, look again.
    """
    shapes = _shapes(recipe, spec, plan.training)
    while True:
        before = _stamp(folder)
        findings, model = _look(folder, shapes, spec, plan)
        if _stamp(folder) == before or all(found.ok is not False for found in findings):
            return findings, model


def _stamp(folder: RunFolder) -> list[Any]:
    """Changes whenever a training has written to the folder."""
    paths = [folder.path / name for name in ("run.json", "summary.json", "metrics.jsonl")]
    steps = [path.name for path in folder.checkpoints.glob("*") if path.name.isdigit()]
    return [sorted(steps), *(path.stat().st_mtime_ns for path in paths if path.exists())]


def _look(
    folder: RunFolder, shapes: Parts, spec: DataSpec, plan: Plan
) -> tuple[list[Finding], Mapping[str, str]]:
    findings, restored = [], dict[int, Mapping[str, str]]()  # digests by step, newest first
    for step, parts, why in _checkpoints(folder, shapes):
        restored[step] = {} if parts is None else digests(final(parts["model"]))
        well = "restores, sha256 as recorded"
        findings.append(Finding(parts is not None, f"checkpoint {step}", why or well))
    newest = next(iter(restored), 0)
    try:
        summary, damage = folder.finished(), ""
    except DataError as error:
        summary, damage = None, str(error)
    finished = bool(summary or damage)
    if not restored:
        findings.append(Finding(False if finished else None, "checkpoints", "none"))
    per_epoch = spec.examples // plan.training.batch_size
    findings.append(
        _finding("metrics.jsonl", lambda: _metrics(folder, per_epoch, newest, finished))
    )
    model = restored.get(newest, {})
    if summary:
        fits = [
            each for each in restored.values() if each and named(summary).items() <= each.items()
        ]
        model = next(iter(fits), model)
        findings.append(_finding("summary.json", lambda: _summary(folder, summary, fits, model)))
    elif damage:
        findings.append(Finding(False, "summary.json", damage))
    else:
        seen = "out of date" if (folder.path / "summary.json").exists() else "none yet"
        said = f"{seen}: in training, or interrupted"
        findings.append(Finding(None, "summary.json", said))
    return findings, model


def _shapes(recipe: Recipe, spec: DataSpec, settings: TrainSettings) -> Parts:
    """The shapes of a checkpoint's contents; the images themselves are not needed."""
    count = max(settings.batch_size, 2)
    if spec.examples and settings.batch_size > spec.examples:
        raise DataError(
            f"batch_size is {settings.batch_size}: expected at most {spec.examples}, the images"
        )
    x = np.broadcast_to(np.uint8(0), (count, *spec.shape))  # takes no memory
    y = None if spec.classes is None else np.broadcast_to(np.int32(0), count)
    split = Split(x, y, 1.0)
    data = Data(spec, split, split, split, 1.0, "none", "", "")
    program = steps.program(recipe, data, settings, settings.epochs or 0)
    given = steps.images_and_labels(recipe, data)
    x, y = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), given)
    return to_parts(jax.eval_shape(program.init, jax.eval_shape(lambda: steps.keys(0)), x, y))


def _checkpoints(folder: RunFolder, shapes: Parts) -> Iterator[tuple[int, Parts | None, str]]:
    if not folder.checkpoints.is_dir():
        return
    owners = folder.digests()
    with Checkpoints(folder.checkpoints, read_only=True, owners=owners) as checkpoints:
        yield from checkpoints.each(shapes)


# ---- the files of a training; each check returns what it found, or raises DataError


def _words(error: Exception) -> str:
    if isinstance(error, FlaxvaeError):
        return str(error)
    return f"cannot be read ({type(error).__name__}: {error})".replace("\n", " ")


def _finding(what: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(True, what, check())
    except FAULTS as error:
        return Finding(False, what, _words(error))


def _complete(folder: RunFolder, plan: Plan, facts: tuple[str, ...], shapes: Parts) -> str:
    record = folder.record()
    missing = [name for name in facts if name not in record]
    if "seal" not in record:  # otherwise a missing setting was introduced later
        known = {
            "arguments": lookup.arguments(plan.function),
            "data": asdict(DataSettings()),
            "training": asdict(TrainSettings()),
        }
        missing += [n for part, names in known.items() for n in names if n not in record[part]]
    if missing:
        raise DataError(f"without {', '.join(missing)}: expected what train wrote")
    params = shapes["model"]["variables"]["params"]
    parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
    if record["parameters"] != parameters:
        raise DataError(f"{record['parameters']:,} parameters: its model has {parameters:,}")
    unsealed = "" if "seal" in record else "; from an older flaxvae, without a seal"
    return counted(parameters, "parameter") + unsealed


def _metrics(folder: RunFolder, per_epoch: int, saved: int, finished: bool) -> str:
    """``saved``: the step of the newest checkpoint, which is written after its epochs' rows."""
    path = folder.path / "metrics.jsonl"
    *lines, tail = (path.read_bytes() if path.exists() else b"").split(b"\n")
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 1):
        try:
            row = records.row(line)
        except ValueError as error:
            raise DataError(f"line {number} is damaged ({error})") from None
        intact.finite(row, f"line {number}: ")
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
    return epochs + ("; the last line is incomplete" if tail else "")


def _summary(
    folder: RunFolder,
    summary: Mapping[str, Any],
    fits: list[Mapping[str, str]],
    newest: Mapping[str, str],
) -> str:
    """``fits``: digests of the checkpoints that match those in ``summary``."""
    intact.finite(summary)
    last = max((row["epoch"] for row in folder.history()), default=0)
    if summary["epochs"] != last:
        raise DataError(f"{summary['epochs']} epochs: expected {last}, as metrics.jsonl has them")
    if not summary["test"]:
        raise DataError("no numbers on test images")
    if not newest:
        raise DataError("the newest checkpoint, which it belongs to, does not restore")
    for name, sha256 in named(summary).items():
        if not fits and newest[name] != sha256:
            what = name.removesuffix("_sha256")
            raise DataError(
                f"sha256 of the {what} {sha256[:12]}…: expected {newest[name][:12]}…, that of the "
                "newest checkpoint"
            )
    return f"{counted(summary['epochs'], 'epoch')}, of a checkpoint's variables"


def _figures(folder: RunFolder) -> Iterator[Finding]:
    paths = sorted(folder.figures.glob("*.png"))
    found = [
        _finding(f"figures/{path.name}", functools.partial(intact.png, path)) for path in paths
    ]
    yield from (finding for finding in found if not finding.ok)
    good = sum(bool(finding.ok) for finding in found)
    yield Finding(True if good else None, "figures", f"{good} whole" if good else "none")


def _others(folder: RunFolder) -> Iterator[Finding]:
    """What later commands have written."""
    kinds = {
        "evaluation*.json": intact.evaluation,
        "likelihood*.json": intact.evaluation,
        "diagnosis*.json": intact.evaluation,
        "disentanglement*.json": intact.disentanglement,
        "probe*.json": intact.evaluation,
        "quality*.json": intact.evaluation,
        "latents*.npz": intact.arrays,
        "restored*.npz": intact.arrays,
        "scores*.csv": intact.scores,
        anomaly.FILE: intact.own_scores,
        "tb/events*": intact.tensorboard,
    }
    for kind, read in kinds.items():
        for path in sorted(folder.path.glob(kind)):
            what, size = path.relative_to(folder.path).as_posix(), path.stat().st_size
            if read is intact.tensorboard and size > LARGEST:
                yield Finding(None, what, f"{size:,} bytes, too large to read here")
            else:
                yield _finding(what, functools.partial(read, path))
