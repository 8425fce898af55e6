"""What commands share: which images they read, which file they write, and what they refuse.

A command imports this module after it has parsed its arguments.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flaxvae import declared, writing
from flaxvae.data import sources
from flaxvae.data.pipeline import Split
from flaxvae.errors import DataError, Finding, UsageError, remedy
from flaxvae.report.terminal import Terminal
from flaxvae.report.words import value
from flaxvae.runs import reading
from flaxvae.runs.folder import RunFolder
from flaxvae.runs.run import Run
from flaxvae.settings import Place

LONGEST = 200  # bytes of a file's name, before its suffix and what is added while it is written
# Arrays of an .npz file that may hold what its images are called.
NAMES = ("files", "file", "filenames", "filename", "names", "name", "paths", "path", "ids", "id")


def tell(findings: Iterable[Finding], of: str = "") -> None:
    """Print findings as they come. Raises DataError if anything is wrong."""
    wrong = []
    with Terminal() as terminal:
        for finding in findings:
            terminal.finding(finding)
            if finding.ok is False:
                wrong.append(finding.what)
    if wrong:
        which = f"{of}: {len(wrong)} " * bool(of)
        raise DataError(f"{which}failed: {', '.join(wrong)}")


def images(
    run: Run, file: str | None, place: Place, terminal: Terminal
) -> tuple[Split, dict[str, np.ndarray]]:
    """The images of a file or a folder, prepared like the run's own, and of a file its other arrays
    of one entry per image; or the run's test images."""
    decoding = terminal.watch("decoding pictures")
    if file is None:
        return run.data(place, decoding).test, {}
    unused(place, f"with --images {file}")
    found = reading.read(run, file, decoding)
    for note in found.notes:
        terminal.note(f"{file}: {note}")
    return found.split, found.others


def named(split: Split, others: Mapping[str, np.ndarray]) -> Sequence[str] | None:
    """What images are called: their files, or the names in the file that they are from."""
    if split.files is not None:
        return split.files
    found = [others[key] for key in NAMES if key in others]
    texts = (names.tolist() for names in found if names.ndim == 1 and names.dtype.kind == "U")
    return next(texts, None)


def step(run: Run) -> dict[str, Any]:
    """The step that numbers belong to, and what is unusual about it, to write beside them."""
    return {"step": run.step} | ({"remarks": list(run.remarks)} if run.remarks else {})


@contextlib.contextmanager
def unless_unwritable(after: contextlib.ExitStack) -> Iterator[None]:
    """Where numbers are written that are shown as well: if it fails, stderr says so ``after``."""
    try:
        yield
    except (DataError, OSError) as error:
        why = str(error)
        if isinstance(error, OSError):
            why = f"{error.strerror or error}; {remedy(error.strerror)}"
        said = f"flaxvae: the numbers could not be written to a file: {why}"
        after.callback(print, said, file=sys.stderr)


def unused(place: Place, why: str) -> None:
    """Raises UsageError if a place was given for data that are not needed."""
    for name, where in vars(place).items():
        if where is not None:
            flag = declared.flag(name)
            raise UsageError(f"{flag} {where} has no effect {why}: expected none; leave it out")


def unchanged(command: Callable[..., Any], why: str, **options: Any) -> None:
    """Raises UsageError if an option that has no effect is not the default."""
    defaults = inspect.signature(command).parameters
    for name, chosen in options.items():
        if chosen != defaults[name].default:
            flag = f"{declared.flag(name)} {declared.seen(chosen)}"
            raise UsageError(f"{flag} has no effect, since {why}: expected none; leave it out")


def upto(name: str, asked: int | None, usual: int, most: int, what: str = "images") -> int:
    """How many to show: ``asked``, else ``usual``, or all if there are fewer."""
    if not most:
        raise UsageError(f"no {what} to show: expected 1 or more")
    if asked is not None and asked > most:
        raise UsageError(f"--{name} {asked}: expected 1 to {most}, the number of {what}")
    return min(usual, most) if asked is None else asked


def check_pictured(run: Run) -> None:
    """Raises UsageError for a run whose examples cannot be drawn, as those of a table."""
    if run.spec.kind == "table":
        raise UsageError(
            f"{run.path} was trained on a table, whose rows are no images: expected a run on "
            "images; `flaxvae score`, `encode` and `eval` take tables"
        )


def check_label(run: Run, label: Any) -> None:
    if label is not None and run.recipe.classes is None:
        raise UsageError(f"--label {label}: expected none, model {run.plan.model} has no classes")


def check_writable(run: Run | RunFolder, folder: Path, advice: str = "") -> None:
    """Raises DataError unless ``folder`` of a run can be written, or created if it is missing."""
    there = folder if folder.exists() else folder.parent
    if not os.access(there, os.W_OK):
        raise DataError(
            f"{there} is not writable: expected a writable run folder; {advice}copy it to a place "
            "that you can write to"
        )
    writing.check_own(run.path)


def target(
    run: Run, usual: str, out: str | None, command: Callable[..., Any], **options: Any
) -> Path:
    """The file that a command writes: ``out``, or ``usual`` with all non-default options appended.

    So a figure of the training is replaced only when it is drawn with the same options.

    Raises DataError if that place is not writable.
    """
    if out is not None:
        if Path(out).suffix.lower() != Path(usual).suffix:
            raise UsageError(f"--out {out}: expected a name that ends in {Path(usual).suffix}")
        path = Path(out).resolve() if Path(out).is_symlink() else Path(out)
        _check_place(out, path)
        return path
    defaults = inspect.signature(command).parameters
    chosen = {k: v for k, v in options.items() if v != defaults[k].default}
    if "images" in chosen and isinstance(chosen["images"], str):
        chosen["images"] = sources.called(chosen["images"])
    words = [name if x is True else f"{name}-{value(x)}" for name, x in chosen.items()]
    words = [re.sub(r"[^\w.+-]+", "_", word) for word in words]
    path = run.path / usual
    check_writable(run, path.parent, "give --out FILE, or " if "out" in defaults else "")
    return path.with_name(_short("-".join([path.stem, *words])) + path.suffix)


def _short(name: str) -> str:
    """A name that a file system takes; the end of a long one is a hash of it."""
    raw = name.encode()
    if len(raw) <= LONGEST:
        return name
    return raw[: LONGEST - 9].decode(errors="ignore") + "-" + hashlib.sha256(raw).hexdigest()[:8]


def _check_place(out: str, path: Path) -> None:
    """Raises DataError now, rather than after all the work, if no file can be written there."""
    if path.is_dir():
        raise DataError(f"--out {out} is a folder: expected a file to write")
    there = next(each for each in path.absolute().parents if os.path.lexists(each))
    if not there.is_dir():
        raise DataError(f"--out {out}: {there} is no folder: expected a file in one")
    if not os.access(there, os.W_OK):
        raise DataError(f"--out {out}: {there} is not writable: expected a folder that is")
