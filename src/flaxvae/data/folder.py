"""A folder of pictures, or a zip or tar of one, as a dataset.

Splits that are given are kept. Else a picture's is a hash of its file's name, 90 % to train, 5 % to
validate and 5 % to test, so that more files move none of those that were there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from flaxvae.data import cache, catalog, containers, decode, labels, layouts, pictures
from flaxvae.data.cache import Decoded
from flaxvae.data.containers import Container
from flaxvae.data.dataset import Dataset, Part
from flaxvae.data.decode import Asked, Watch
from flaxvae.data.layouts import Example
from flaxvae.data.pictures import Preprocessing
from flaxvae.errors import DataError, UsageError, counted, did_you_mean
from flaxvae.settings import DataSettings, height_and_width

TEST = VALIDATION = 0.05
PARTS = ("train", "validation", "test")


def load(dataset: str, settings: DataSettings, watch: Watch | None = None) -> Dataset:
    """The pictures of a folder, a zip or a tar, decoded into a cache or taken from it.

    Args:
        dataset: the path, or tfds:NAME.
        settings: size, resizing, background, share of validation, normal classes, strictness.
        watch: is told how many pictures of how many are decoded.

    Raises:
        UsageError: settings that these pictures do not have.
        DataError: there is nothing, or nothing that can be read, or fewer than two pictures.
    """
    with _source(dataset, settings.strict) as (container, examples, notes):
        path, name = container.path, container.name
        if len(examples) < 2:
            raise DataError(
                f"{path}: {counted(len(examples), 'picture')}; expected at least one to train "
                f"and one to test on, as {', '.join(pictures.SUFFIXES[:3])} or such files"
            )
        parts, remark = _split(path, examples, settings)
        parts, more = _normal(path, parts, settings.normal)
        asked = Asked(height_and_width(settings.image_size), settings.resize, settings.background)
        names = [[example.name for example in part] for part in parts]
        rows = cache.decoded(container, names, asked, name, watch)
    notes = [*container.notes, *notes, *remark, *more, *_remarks(path, rows, settings)]
    kept = [[one for one in part if one.name not in rows.broken] for part in parts]
    return _dataset(path, name, kept, rows, notes)


@contextlib.contextmanager
def _source(dataset: str, strict: bool) -> Iterator[tuple[Container, list[Example], list[str]]]:
    """The files of pictures, with what is known of each, and remarks."""
    if catalog.is_named(dataset):
        with catalog.opened(dataset) as source:
            yield source
        return
    path = found(dataset)
    single = path.suffix.lower() in pictures.SUFFIXES and path.is_file()
    with (containers.single if single else containers.opened)(path) as container:
        yield container, *_examples(container, strict)


def found(dataset: str) -> Path:
    """The path, if there is something. Raises DataError, with the nearest name, if not."""
    path = Path(dataset).expanduser()
    if path.exists():
        return path
    parent = path.parent
    beside = [entry.name for entry in parent.iterdir()] if parent.is_dir() else []
    where = "" if parent.is_dir() else f", nor a folder {parent}"
    raise DataError(f"{dataset}: no such file or folder{where}{did_you_mean(path.name, beside)}")


def _examples(container: Container, strict: bool) -> tuple[list[Example], list[str]]:
    """The pictures, by their names' endings, with what folders and tables say of them."""
    names = [m.name for m in container.members if m.name.lower().endswith(pictures.SUFFIXES)]
    if not names:
        others = Counter(Path(m.name).suffix.lower() or m.name for m in container.members)
        seen = ", ".join(f"{count:,} {ending}" for ending, count in others.most_common(3))
        raise DataError(
            f"{container.path}: no pictures in it ({seen or 'it is empty'}); expected files that "
            f"end in {', '.join(pictures.SUFFIXES[:4])} or the like, in it or its sub-folders"
        )
    tables = {}
    for name in [m.name for m in container.members if layouts.is_table(m.name)]:
        try:
            tables[name] = decode.content(container, name)
        except pictures.Unreadable as why:
            raise DataError(f"{container.path}: {name} {why}; expected a table") from None
    return layouts.arranged(str(container.path), names, tables, strict)


# ---- splits


@functools.lru_cache(maxsize=2**20)
def place(name: str) -> float:
    """Where a file's name falls, evenly in [0, 1); of one name the same everywhere and always."""
    if not name.isascii():
        name = unicodedata.normalize("NFC", name)  # macOS spells accents in another way
    digest = hashlib.sha256(b"flaxvae split 0:" + name.encode("utf-8", "surrogateescape"))
    return int.from_bytes(digest.digest()[:8], "big") / 2**64


def _split(
    path: Path, examples: Sequence[Example], settings: DataSettings
) -> tuple[list[list[Example]], list[str]]:
    """Training, validation and test examples, and remarks."""
    chosen = settings.validation
    parts = {part: [e for e in examples if e.split == part] for part in PARTS}
    given = [part for part in PARTS if parts[part]]
    rest = [e for e in examples if e.split is None]
    if rest and given and not parts["train"]:
        parts["train"], rest = rest, []
    if given and not parts["train"]:
        raise DataError(
            f"{path}: pictures of {' and '.join(given)} alone; expected some in train/ as well"
        )
    if parts["validation"] and chosen is not None:
        raise UsageError(
            f"--validation {chosen:g} has no effect with {path}, which says what to validate on: "
            "expected none; leave it out"
        )
    share = VALIDATION if chosen is None else chosen
    if not given:
        parts["train"] = rest
    made = []
    for part, size in (("test", TEST), ("validation", share)):
        if not parts[part] and size > 0 and len(parts["train"]) > (part == "validation"):
            low = TEST if "test" in made else 0.0
            parts["train"], parts[part] = _taken(parts["train"], low, low + size)
            made.append(part)
    remark = []
    if made:
        shares = {"test": TEST, "validation": share}
        said = " and ".join(f"{100 * shares[part]:g} % for {part}" for part in reversed(made))
        remark = [f"{said} by file name"]
    return [parts[part] for part in PARTS], remark


def _taken(
    examples: Sequence[Example], low: float, high: float
) -> tuple[list[Example], list[Example]]:
    """Those that stay, and those whose place is in an interval: one at least, and never all."""
    places = [place(example.name) for example in examples]
    taken = {i for i, at in enumerate(places) if low <= at < high}
    if not taken:
        taken = {min(range(len(places)), key=lambda i: (places[i] < low, places[i]))}
    if len(taken) == len(places):
        taken.discard(max(taken, key=lambda i: places[i]))
    stay = [e for i, e in enumerate(examples) if i not in taken]
    return stay, [e for i, e in enumerate(examples) if i in taken]


def _normal(
    path: Path, parts: list[list[Example]], normal: Sequence[str]
) -> tuple[list[list[Example]], list[str]]:
    """Only these classes to train and validate on, all others to test on."""
    if not normal:
        return parts, []
    classes = sorted({e.label for part in parts for e in part if e.label is not None})
    for name in normal:
        if name not in classes:
            seen = f"the classes are {labels.listed(classes)}" if classes else "it has no classes"
            raise UsageError(
                f"--normal {name}: no such class in {path}, {seen}{did_you_mean(name, classes)}"
            )
    train, validation, test = parts
    given = any(e.split == "test" for e in test)
    others = [e for e in (*train, *validation) if e.label not in normal]
    kept = [[e for e in part if e.label in normal] for part in (train, validation)]
    if not kept[0]:
        raise DataError(
            f"{path}: no pictures of {labels.listed(normal)} to train on; expected some"
        )
    if not given:
        test = sorted([*test, *others])
    what = "left out" if given else "for test only"
    return [*kept, test], [
        f"trained on {labels.listed(normal)}, {counted(len(others), 'picture')} of other "
        f"classes {what}"
    ]


# ---- what is said of them


def _remarks(path: Path, rows: Decoded, settings: DataSettings) -> list[str]:
    how, notes = rows.how, []
    sizes = sorted({(one.height, one.width) for one in rows.seen})
    if sizes != [(how.height, how.width)]:
        seen = [f"{h}x{w}" for h, w in sizes]
        which = " and ".join(seen) if len(seen) < 3 else f"{len(seen):,} sizes, {_span(sizes)},"
        notes.append(
            f"pictures of {which} resized to {how.height}x{how.width} ({how.resize})"
            + ", --image-size chooses another" * (settings.image_size is None)
        )
    transparent = sum(count for one, count in rows.seen.items() if one.transparent)
    if transparent:
        what = counted(transparent, "picture")
        notes.append(f"{what} with transparency drawn over {how.background}")
    deep = sum(count for one, count in rows.seen.items() if one.bits == 16)
    if deep and how.peak == 255:
        notes.append(f"{counted(deep, 'picture')} of 16 bits made 8 bits, as the others are")
    if rows.broken:
        what = counted(len(rows.broken), "file")
        first = [f"{containers.shown(name)} ({why})" for name, why in rows.broken.items()]
        said = ", ".join(first[:3]) + ", …" * (len(first) > 3)
        if settings.strict:
            raise DataError(
                f"{path}: {what} that cannot be used: {said}; expected none with --strict"
            )
        notes.append(f"{what} left out: {said}")
    return notes


def _span(sizes: Iterable[tuple[int, int]]) -> str:
    small, large = min(sizes, key=lambda s: s[0] * s[1]), max(sizes, key=lambda s: s[0] * s[1])
    return f"{small[0]}x{small[1]} to {large[0]}x{large[1]}"


def _dataset(
    path: Path, name: str, parts: list[list[Example]], rows: Decoded, notes: list[str]
) -> Dataset:
    for part, what in ((parts[0], "train"), (parts[2], "test")):
        if not part:
            raise DataError(f"{path}: no picture to {what} on; expected at least one")
    if rows.low == rows.high:
        raise DataError(
            f"{path}: every pixel of every picture is {rows.low}; expected pictures that differ"
        )
    how = rows.how
    if rows.high == 1 and how.peak == 255:
        how = dataclasses.replace(how, peak=1.0)
        notes.append("pixels are 0 and 1: 1 is taken for white")
    columns, names, unlabelled = _labels(parts)
    if unlabelled:
        notes.append(f"without labels: {unlabelled}")
    ends = np.cumsum([len(part) for part in parts])
    made = [
        Part(rows.x[end - len(part) : end], y, [example.name for example in part])
        for part, y, end in zip(parts, columns, ends, strict=True)
    ]
    trained = made[0].y is not None
    if names:
        notes.append(f"{len(names)} classes: {labels.listed(names)}")
    return Dataset(
        name,
        made[0],
        made[2],
        how.peak,
        len(names) if names and trained else None,
        str(path),
        None if names and labels.counted(names) else names,
        unlabelled or ("training pictures have no labels" if names and not trained else ""),
        tuple(notes),
        made[1],
        sha256=rows.sha256,
        preprocessing=how,
    )


def _labels(
    parts: Sequence[Sequence[Example]],
) -> tuple[list[np.ndarray | None], labels.Names | None, str]:
    """The labels of each part, the classes, and why there are none."""
    none: list[np.ndarray | None] = [None] * len(parts)
    texts = {e.label for part in parts for e in part}
    if len(texts - {None}) < 2:  # one class tells nothing
        return none, None, ""
    whole = all(text is not None and text.isdecimal() and str(int(text)) == text
                for text in texts - {None})  # fmt: skip
    columns = none[:]
    try:
        for i, part in enumerate(parts):
            given = [e.label for e in part if e.label is not None]
            if 0 < len(given) < len(part):
                raise labels.Unusable(f"missing for {len(part) - len(given)} of {PARTS[i]}")
            if given:
                columns[i] = labels.column(np.array([int(t) if whole else t for t in given]),
                                           len(part))  # fmt: skip
        return columns, labels.classes(*(y for y in columns if y is not None)), ""
    except labels.Unusable as why:
        return none, None, f"labels are {why}"


class Files(NamedTuple):
    """Pictures that a trained model is shown."""

    x: np.ndarray
    """[N, H, W, C], memory-mapped."""
    y: np.ndarray | None
    """[N] labels, whole numbers or text."""
    files: list[str]
    """[N] names, relative to the folder."""
    notes: list[str]


def read(
    dataset: str, how: Preprocessing, watch: Watch | None = None, strict: bool = False
) -> Files:
    """All pictures of a folder, a zip or a tar, preprocessed exactly so, in order of name.

    Args:
        dataset: as for ``load``; also the path of a single picture.
        how: as a run stores it.
        watch: is told how many pictures of how many are decoded.
        strict: a file that cannot be used is an error, else a remark.

    Raises DataError if there is nothing that can be read.
    """
    asked = Asked(None, how.resize, how.background, how)
    exact = DataSettings(image_size=f"{how.height}x{how.width}", strict=strict)
    with _source(dataset, strict) as (container, examples, notes):
        names = [[example.name for example in examples]]
        rows = cache.decoded(container, names, asked, container.name, watch)
    notes = [*container.notes, *notes, *_remarks(container.path, rows, exact)]
    kept = [example for example in examples if example.name not in rows.broken]
    (y,), _, unlabelled = _labels([kept])
    notes += [f"without labels: {unlabelled}"] if unlabelled else []
    return Files(rows.x, y, [example.name for example in kept], notes)
