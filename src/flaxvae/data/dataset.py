"""What every source of data gives: a `Dataset`, in parts, checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import numpy as np

from flaxvae.data import labels, rows
from flaxvae.data.pictures import Preprocessing
from flaxvae.data.rows import Rows
from flaxvae.errors import DataError

if TYPE_CHECKING:
    from flaxvae.data.columns import Columns
    from flaxvae.data.split import Split


class Part(NamedTuple):
    """Examples that belong together, as stored."""

    x: np.ndarray | Rows
    """[N, H, W, C] (images) or [N, D] (vectors): uint8 or uint16 in 0..peak, or float32 in
    [0, 1]. It may be memory-mapped, or a view of such: take rows of it, never all."""
    y: np.ndarray | None = None
    """[N] class labels, whole numbers or text; None when unlabelled."""
    files: Sequence[str] | None = None
    """[N] the name of the file that each example is from, relative to the source."""
    factors: np.ndarray | None = None
    """[N, F] ground-truth factors, as indices of their values."""
    render: Callable[[Any], Any] | None = None
    """Makes images of rows of x: float32 j / peak, [B, *shape]; None: the rows are images."""


Some = TypeVar("Some", "Part", "Split")  # what has x, y, files and factors of examples


class Dataset(NamedTuple):
    """Training and test examples, as stored."""

    name: str
    """The name in `SOURCES`, or the stem of the file."""
    train: Part
    test: Part
    peak: float
    """The stored value that means 1.0 (white)."""
    classes: int | None
    """The number of classes; None when unlabelled."""
    origin: str
    """Where the examples come from, in words."""
    names: labels.Names | None = None
    """The labels that occur, in order; None when they are 0 to classes - 1, or unlabelled."""
    unlabelled: str = ""
    """Why labels that there are cannot be used."""
    notes: tuple[str, ...] = ()
    """Remarks on these examples."""
    validation: Part | None = None
    """Given by the source; else some of the training examples are held out."""
    signed: bool = False
    """The source has floats in [-1, 1], of which these in [0, 1] are made."""
    sha256: str | None = None
    """Of all stored images, where it is known already."""
    preprocessing: Preprocessing | None = None
    """How pictures in files became these images."""
    factors: tuple[tuple[str, int], ...] = ()
    """The name of each ground-truth factor, and the number of its values."""
    kind: Literal["images", "table"] = "images"
    """Of a table, x is [N, D] float32 of any size."""
    columns: Columns | None = None
    """Of a table: how rows of the file became these."""


def assembled(
    name: str,
    origin: str,
    parts: Mapping[str, Part],
    peak: float,
    notes: Sequence[str] = (),
    held_out: int | None = None,
    **facts: Any,
) -> Dataset:
    """A `Dataset` of parts, with their labels checked.

    Args:
        name, origin, peak, notes, facts: of the dataset.
        parts: "training", and where they are given "validation" and "test".
        held_out: how many training examples become the test part, where there is none; by default
            a tenth.

    Raises DataError if there is nothing to hold out.
    """
    notes, found = list(notes), dict(parts)
    columns, names, unlabelled = _classes(found)
    if unlabelled:
        notes.append(f"without labels: {unlabelled}")
    if names and labels.counted(names):
        columns, names = [y.astype(np.int32) for y in columns], None
    elif names:
        notes.append(f"{len(names)} classes: {labels.listed(names)}")
    classes = len(np.unique(np.concatenate(columns))) if columns else None
    if classes == 1:
        notes.append("all labels are the same")
    if columns:
        found = {x: found[x]._replace(y=y) for x, y in zip(found, columns, strict=True)}
    else:
        found = {x: part._replace(y=None) for x, part in found.items()}
    if "test" not in found:
        whole = found["training"]
        train, test = hold_out(len(whole.x), origin, held_out)
        if isinstance(whole.x, Rows):  # read in the order of the file, which is far quicker
            train, test = np.sort(train), np.sort(test)
        found["training"], found["test"] = taken(whole, train), taken(whole, test)
    return Dataset(
        name,
        found["training"],
        found["test"],
        peak,
        classes,
        origin,
        names,
        unlabelled,
        tuple(notes),
        found.get("validation"),
        **facts,
    )


def hold_out(count: int, origin: str, held_out: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the training and of the test examples, where none are given for the test."""
    if count < 2:
        raise DataError(f"{origin}: 1 example; expected at least one to train and one to test on")
    held_out = held_out or max(1, count // 10)
    # RandomState, because NumPy has frozen its stream: always the same rows.
    order = np.random.RandomState(0).permutation(count)
    return order[held_out:], order[:held_out]


def taken(examples: Some, which: np.ndarray) -> Some:
    """Some examples of a part or of a split, with all that there is of each."""
    y, files, factors = examples.y, examples.files, examples.factors
    return examples._replace(
        x=rows.taken(examples.x, which),
        y=None if y is None else y[which],
        files=None if files is None else [files[i] for i in which],
        factors=None if factors is None else factors[which],
    )


def _classes(parts: Mapping[str, Part]) -> tuple[list[np.ndarray], labels.Names | None, str]:
    """The labels of each part as columns, the classes, and why there are none."""
    if all(part.y is None for part in parts.values()):
        return [], None, ""
    columns: list[np.ndarray] = []
    for what, part in parts.items():
        try:
            if part.y is None:
                raise labels.Unusable("missing; expected labels for all images, or for none")
            columns.append(labels.column(part.y, len(part.x)))
        except labels.Unusable as why:
            return [], None, f"{what} labels are {why}"
    try:
        return columns, labels.classes(*columns), ""
    except labels.Unusable as why:
        return [], None, f"labels are {why}"
