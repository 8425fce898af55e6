"""What the commands other than ``train`` do with a run folder: load, look, write."""

from __future__ import annotations

import inspect
import os
import re
import sys
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from flaxvae import api, declared, doctor, writing
from flaxvae.analysis import bounds
from flaxvae.data import sources
from flaxvae.data.labels import listed
from flaxvae.data.pipeline import Split
from flaxvae.declared import AboveZero, Count, NotNegative, Positive, Seed, Steps, typed
from flaxvae.errors import DataError, Finding, UsageError
from flaxvae.report import figures
from flaxvae.report.terminal import Terminal
from flaxvae.report.words import UNITS, numbers, relative, value
from flaxvae.runs import verify as verification
from flaxvae.runs.folder import RunFolder, write_json
from flaxvae.runs.run import Run, load
from flaxvae.settings import Place, TrainSettings


@typed
def evaluate(
    run: str,
    *,
    k: Count = 0,
    samples: Positive = 1,
    split: Literal["test", "validation"] = "test",
    images: Positive | None = None,
    seed: Seed = 0,
    place: Place = Place(),
) -> dict[str, Any]:
    """Measure a run on held-out images, print the numbers, write them to evaluation.json.

    With other options than the usual ones they are in its name: evaluation-k-500.json.

    Raises UsageError for numbers out of range, or a validation split that the run has not.
    """
    loaded = load(run)
    drawn = {"samples": samples != 1, "seed": seed != 0}
    if any(drawn.values()) and not loaded.recipe.has_bound:
        flags = " and ".join(declared.flag(name) for name in drawn if drawn[name])
        raise UsageError(
            f"{flags} without effect: model {loaded.plan.model} draws nothing; leave it out"
        )
    data = loaded.data(place)
    chosen = data.test if split == "test" else data.validation
    if chosen is None:
        raise UsageError("--split validation: the run has no validation images; use test")
    if images is not None:
        if images > len(chosen.x):
            raise UsageError(f"--images {images}: expected 1 to {len(chosen.x)}")
        y = None if chosen.y is None else chosen.y[:images]
        chosen = chosen._replace(x=chosen.x[:images], y=y)
    what = "importance samples" if k else "evaluating"
    with Terminal() as terminal:
        found = bounds.evaluate(
            loaded, chosen, k=k, samples=samples, seed=seed, watch=terminal.watch(what)
        )
        options: dict[str, Any] = {"k": k, "samples": samples, "split": split, "images": images}
        facts = numbers(loaded, found, split)
        unwritten = ""
        try:
            path = _target(loaded, "evaluation.json", None, evaluate, **options, seed=seed)
            write_json(
                path,
                {"split": split, "seed": seed, "samples": samples, "data": loaded.spec.name}
                | _step(loaded)
                | found
                | {"units": UNITS},
            )
            facts["written"] = relative(path)
        except (DataError, OSError) as error:
            unwritten = f"the numbers are not written down: {error}"
        terminal.summary(facts, [])
    if unwritten:
        print(f"flaxvae: {unwritten}", file=sys.stderr)
    return found


@typed
def sample(
    run: str,
    *,
    n: Positive = 100,
    seed: Seed = 0,
    temperature: NotNegative = 1.0,
    label: Any = None,
    out: str | None = None,
) -> str:
    """Draw a mosaic of samples; returns the file's path."""
    loaded = load(run)
    _check_label(loaded, label)
    options: dict[str, Any] = {"seed": seed, "temperature": temperature, "label": label}
    path = _target(loaded, "figures/samples.png", out, sample, n=n, **options)
    return relative(figures.samples(path, loaded, n, **options))


@typed
def reconstruct(
    run: str,
    *,
    images: str | None = None,
    n: Positive | None = None,
    out: str | None = None,
    place: Place = Place(),
) -> str:
    """Draw images over their reconstructions; returns the file's path."""
    loaded = load(run)
    path = _target(loaded, "figures/reconstructions.png", out, reconstruct, images=images, n=n)
    with Terminal(sys.stderr) as terminal:
        shown, _ = _images(loaded, images, place, terminal)
    count = _upto("n", n, 20, len(shown.x))
    shown = figures.rows(shown, np.arange(count))
    which = "test images" if images is None else Path(images).name
    return relative(figures.reconstructions(path, loaded, shown, which))


@typed
def interpolate(
    run: str,
    *,
    rows: Positive | None = None,
    steps: Steps = 10,
    out: str | None = None,
    place: Place = Place(),
) -> str:
    """Draw walks between pairs of test images; returns the file's path."""
    loaded = load(run)
    test = loaded.data(place).test
    same_class = loaded.recipe.classes is not None
    ends = figures.pairs(test, len(test.x) // 2, same_class)
    what = "pairs of test images" + " of one class" * same_class
    count = _upto("rows", rows, 8, len(ends.x) // 2, what)
    path = _target(loaded, "figures/interpolations.png", out, interpolate, rows=rows, steps=steps)
    ends = figures.rows(ends, np.arange(2 * count))
    return relative(figures.interpolations(path, loaded, ends, steps))


@typed
def traverse(
    run: str,
    *,
    image: Count | None = None,
    label: Any = None,
    units: Positive | None = None,
    steps: Steps = 11,
    span: AboveZero = 3.0,
    out: str | None = None,
    place: Place = Place(),
) -> str:
    """Draw walks along single latent dimensions; returns the file's path."""
    loaded = load(run)
    _check_label(loaded, label)
    if not loaded.recipe.has_bound or loaded.recipe.codes is not None:
        what = "discrete latents" if loaded.recipe.codes else "no prior"
        raise UsageError(f"model {loaded.plan.model} has {what}: expected continuous ones to walk")
    summary, test = loaded.folder.finished(), None
    evaluation = summary and summary["test"]  # of these very variables
    if evaluation is None or image is not None or not loaded.recipe.standard_prior:
        test = loaded.data(place).test
    else:
        _unused(place, "without --image")
    if image is not None and test is not None and not 0 <= image < len(test.x):
        raise UsageError(f"--image {image}: expected 0 to {len(test.x) - 1}, a test image")
    if units is not None:
        _upto("units", units, 0, loaded.latent_size, "latents")
    options: dict[str, Any] = {
        "image": image,
        "label": label,
        "units": units,
        "steps": steps,
        "span": span,
    }
    path = _target(loaded, "figures/traversals.png", out, traverse, **options)
    if evaluation is None:
        assert test is not None
        evaluation = bounds.evaluate(loaded, test)
    return relative(figures.traversals(path, loaded, evaluation, test, **options))


@typed
def encode(
    run: str,
    *,
    images: str | None = None,
    scores: bool = True,
    out: str | None = None,
    place: Place = Place(),
) -> str:
    """Write codes of images, and scores, to an .npz file; returns its path.

    Of a file, what else it holds for each image is kept.
    """
    loaded = load(run)
    path = _target(loaded, "latents.npz", out, encode, images=images, scores=scores)
    with Terminal(sys.stderr) as terminal:
        split, others = _images(loaded, images, place, terminal)
        x, y = figures.pixels(split, slice(None)), split.y
        arrays = {"z": loaded.encode(x, y, watch=terminal.watch("latents"))}
        if scores:
            arrays["score"] = loaded.score(x, y, watch=terminal.watch("scores"))
        if y is not None:
            arrays["labels"] = y
        if loaded.remarks:
            arrays |= {name: np.array(value) for name, value in _step(loaded).items()}
        taken = [name for name in others if name in arrays]
        if taken:
            terminal.note(f"{images}: {listed(taken)} left out, a name of what is written here")
        kept = [name for name in others if name not in arrays]
        if kept:
            terminal.note(f"{images}: {listed(kept)} kept")
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing.whole(path) as file, zipfile.ZipFile(file, "w") as archive:
        for name, array in (others | arrays).items():  # np.savez would not take all names
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.asanyarray(array), allow_pickle=False)
    return relative(path)


def fit_prior(run: str, settings: TrainSettings, place: Place = Place()) -> None:
    """Fit the prior over a run's codes, and draw samples from it."""
    with Terminal() as terminal:
        api.fit_prior(run, settings, place=place, terminal=terminal)


def draw(run: str, place: Place = Place()) -> list[str]:
    """Draw all figures of a run again; returns their paths."""
    loaded = load(run)
    _check_writable(loaded, loaded.folder.figures)
    test = loaded.data(place).test
    evaluation = bounds.evaluate(loaded, test)
    return [relative(p) for p in figures.write(loaded, evaluation, test, loaded.folder.figures)]


def verify(run: str) -> None:
    """Say of every file in a run folder whether it is whole. Raises DataError if one is not."""
    with Terminal() as terminal:
        wrong = _told(terminal, verification.verify(RunFolder.open(run)))
    if wrong:
        raise DataError(f"{run}: {len(wrong)} not as they should be: {', '.join(wrong)}")


def examine() -> None:
    """Say what is well and what is wrong with the machine. Raises DataError if anything is."""
    with Terminal() as terminal:
        wrong = _told(terminal, doctor.examine())
    if wrong:
        raise DataError(f"not as they should be: {', '.join(wrong)}")


def _told(terminal: Terminal, findings: Iterable[Finding]) -> list[str]:
    """Print findings as they come; returns what is wrong."""
    wrong = []
    for finding in findings:
        terminal.finding(finding)
        if finding.ok is False:
            wrong.append(finding.what)
    return wrong


def _images(
    run: Run, file: str | None, place: Place, terminal: Terminal
) -> tuple[Split, dict[str, np.ndarray]]:
    """The images of a file, as the run's own were prepared, and what else it has for each of them;
    or the run's test images."""
    if file is None:
        return run.data(place).test, {}
    _unused(place, f"with --images {file}")
    found = sources.read_images(Path(file))
    if found.unlabelled and run.recipe.classes is not None:
        raise DataError(f"{file}: {found.unlabelled}")
    split = run.split(found.x, found.y, f"{file}: images")._replace(y=found.y)
    for note in found.notes:
        terminal.note(f"{file}: {note}")
    return split, found.others


def _step(run: Run) -> dict[str, Any]:
    """What is written beside numbers: the step they are of, and what is unusual about it."""
    return {"step": run.step} | ({"remarks": list(run.remarks)} if run.remarks else {})


def _unused(place: Place, why: str) -> None:
    """Raises UsageError if it was said where data are that are not needed."""
    for name, where in vars(place).items():
        if where is not None:
            flag = declared.flag(name)
            raise UsageError(f"{flag} {where} has no effect {why}: expected none; leave it out")


def _upto(name: str, asked: int | None, usual: int, most: int, what: str = "images") -> int:
    """How many to show: as asked, or as usual if there are that many."""
    if not most:
        raise UsageError(f"no {what} to show: expected 1 or more")
    if asked is not None and asked > most:
        raise UsageError(f"--{name} {asked}: expected 1 to {most}, the {what} there are")
    return min(usual, most) if asked is None else asked


def _check_label(run: Run, label: Any) -> None:
    if label is not None and run.recipe.classes is None:
        raise UsageError(f"--label {label}: expected none, model {run.plan.model} has no classes")


def _check_writable(run: Run, folder: Path, advice: str = "") -> None:
    """Raises DataError if nothing can be written into a folder of a run, or into one it lacks."""
    there = folder if folder.exists() else folder.parent
    if not os.access(there, os.W_OK):
        raise DataError(
            f"{there} cannot be written: expected a run that can; {advice}copy it to where you "
            "may write"
        )
    writing.check_own(run.path)


def _target(
    run: Run, usual: str, out: str | None, command: Callable[..., Any], **options: Any
) -> Path:
    """Where a command writes: ``out``, or as usual, with those options in the name that are not.

    So a figure of the training is drawn again by what drew it, and replaced by nothing else.

    Raises DataError if nothing can be written there.
    """
    if out is not None:
        if Path(out).suffix.lower() != Path(usual).suffix:
            raise UsageError(f"--out {out}: expected a name that ends in {Path(usual).suffix}")
        return Path(out).resolve() if Path(out).is_symlink() else Path(out)
    defaults = inspect.signature(command).parameters
    chosen = {k: v for k, v in options.items() if v != defaults[k].default}
    if "images" in chosen and isinstance(chosen["images"], str):
        chosen["images"] = Path(chosen["images"]).stem
    words = [re.sub(r"[^\w.+-]+", "_", f"{name}-{value(x)}") for name, x in chosen.items()]
    path = run.path / usual
    _check_writable(run, path.parent, "give --out FILE, or " if "out" in defaults else "")
    return path.with_name("-".join([path.stem, *words]) + path.suffix)
