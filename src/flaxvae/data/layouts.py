"""Which file of a folder is of which split and class: by its folders, or by a table.

a.png                                   flat
cat/a.png                               classes
train/a.png, train/cat/a.png            splits, with or without classes
train/good/a.png, test/scratch/b.png    anomalies; masks in ground_truth/ are left aside
labels.csv, metadata.csv or .jsonl      a table with the names of files
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from flaxvae.data.containers import listed
from flaxvae.errors import DataError, counted

SPLITS = {
    "train": ("train", "training", "trn", "train_set", "trainset"),
    "validation": ("val", "valid", "validation", "dev", "development", "val_set"),
    "test": ("test", "testing", "tst", "eval", "evaluation", "test_set", "testset", "holdout"),
}
SPLIT = {spelling: split for split, spellings in SPLITS.items() for spelling in spellings}
_ASIDE = ("ground_truth", "masks", "mask", "annotations")
TABLES = tuple(f"{a}.{b}" for a in ("labels", "metadata") for b in ("csv", "tsv", "jsonl"))
_NAME = ("file_name", "filename", "file", "image", "image_path", "path", "image_name", "name", "id")
_LABEL = ("label", "class", "category", "target", "class_name", "label_name", "y")
_PART = ("split", "partition", "subset", "set", "fold")


class Example(NamedTuple):
    """A picture's file."""

    name: str
    split: str | None = None  # "train", "validation" or "test"; None: not given
    label: str | None = None


def arranged(
    where: str, names: Sequence[str], tables: Mapping[str, bytes], strict: bool = False
) -> tuple[list[Example], list[str]]:
    """Examples, in the order of the names, and remarks.

    Args:
        where: the source, for messages.
        names: of the pictures, relative, with slashes.
        tables: the content of each table, by name.
        strict: a table that names absent files is an error.

    Raises DataError if a table cannot be read.
    """
    root = _root([*names, *tables])
    found, notes = _by_folder(names, root)
    if tables:
        rows: dict[str, Example] = {}
        for table, content in tables.items():
            some, remarks = _by_table(where, table, content, names, strict)
            rows |= some
            notes += remarks
        given = {example.name: example for example in found}
        folders = tuple(table[: -len(table.rpartition("/")[2])] for table in tables)
        missing = [n for n in given if n not in rows and n.startswith(folders)]
        rows |= {n: given[n] for n in given if not n.startswith(folders)}  # of no table
        if missing:
            what = counted(len(missing), "picture")
            notes.append(f"{what} left out that {' and '.join(tables)} does not name")
        found = [
            Example(name, row.split or given[name].split, row.label or given[name].label)
            for name, row in sorted(rows.items())
            if name in given
        ]
    return found, notes


def is_table(name: str) -> bool:
    """Whether a file is a table of labels, by its name."""
    return name.rpartition("/")[2].lower() in TABLES


def _root(names: Sequence[str]) -> str:
    """The folders that all files are in, down to a split's: they tell nothing."""
    root = ""
    while True:
        first = {name[len(root) :].partition("/")[0::2] for name in names}
        folders = {folder for folder, rest in first if rest}
        if len(folders) != 1 or not all(rest for _, rest in first):
            return root
        folder = folders.pop()
        if folder.lower() in SPLIT:
            return root
        root += folder + "/"


def _by_folder(names: Sequence[str], root: str) -> tuple[list[Example], list[str]]:
    parts = {name: name[len(root) :].split("/")[:-1] for name in names}
    tops = {folders[0].lower() for folders in parts.values() if folders}
    kinds = {SPLIT[top] for top in tops if top in SPLIT}
    alone = tops <= {*SPLIT, *_ASIDE}  # else "train" may be a class, beside cars and planes
    splits = bool(kinds) and (alone or ("train" in kinds and len(kinds) > 1))
    found, aside = [], dict[str, int]()
    for name, folders in parts.items():
        top = folders[0] if folders else ""
        if not splits:
            found.append(Example(name, None, top or None))
        elif top.lower() in SPLIT:
            label = folders[1] if len(folders) > 1 else None
            found.append(Example(name, SPLIT[top.lower()], label))
        else:
            aside[top] = aside.get(top, 0) + 1
    left = [f"{counted(n, 'file')} in {top or 'no split'}" for top, n in sorted(aside.items())
            if top.lower() not in _ASIDE]  # fmt: skip
    return found, [f"beside the splits, left out: {listed(left)}"] if left else []


def _by_table(
    where: str, table: str, content: bytes, names: Sequence[str], strict: bool
) -> tuple[dict[str, Example], list[str]]:
    rows = _rows(where, table, content)
    columns = {name.strip().lower(): name for row in rows[:1] for name in row}
    column, label, part = (
        next((columns[c] for c in known if c in columns), None) for known in (_NAME, _LABEL, _PART)
    )
    if column is None:
        raise DataError(
            f"{where}: {table} has the columns {listed(list(columns.values()), 6) or 'none'}; "
            f"expected one with the names of files, such as {', '.join(_NAME[:3])}"
        )
    folder = table[: len(table) - len(table.rpartition("/")[2])]
    known = _Known(names, folder)
    found, absent = dict[str, Example](), list[str]()
    for row in rows:
        name, asked = known.find(_text(row.get(column))), _text(row.get(column))
        if name is None:
            absent.append(asked)
            continue
        split = SPLIT.get(_text(row.get(part)).lower()) if part else None
        found[name] = Example(name, split, _text(row.get(label)) or None if label else None)
    if absent and (strict or not found):
        raise DataError(
            f"{where}: {table} names {counted(len(absent), 'file')} that are not there: "
            f"{listed(absent)}; expected names relative to {folder or 'the table'}"
        )
    what = f"{table} names {counted(len(absent), 'file')} that are not there, left out"
    return found, [f"{what}: {listed(absent)}"] if absent else []


class _Known:
    """The names of files as tables give them: relative to it, or without folder or ending."""

    def __init__(self, names: Sequence[str], folder: str):
        self._folder, self._names = folder, set(names)
        self._short: dict[str, str | None] = {}
        for name in names:
            base = name.rpartition("/")[2]
            for short in {base, base.rpartition(".")[0], name.rpartition(".")[0]}:
                self._short[short] = name if short not in self._short else None

    def find(self, asked: str) -> str | None:
        asked = asked.replace("\\", "/").removeprefix("./")
        for name in (self._folder + asked, asked):
            if name in self._names:
                return name
        return self._short.get(asked) or self._short.get(self._folder + asked)


def _text(value: object) -> str:
    whole = isinstance(value, float) and value.is_integer()
    return "" if value is None else str(int(value) if whole else value).strip()  # type: ignore[call-overload]


def _rows(where: str, table: str, content: bytes) -> list[dict[str, object]]:
    try:
        text = content.decode("utf-8-sig")
        if table.lower().endswith(".jsonl"):
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
            if not all(isinstance(row, dict) for row in rows):
                raise ValueError("a line that is no object")
            return rows
        first = text.partition("\n")[0]
        delimiter = max("\t;,", key=first.count)
        return [dict(row) for row in csv.DictReader(io.StringIO(text), delimiter=delimiter)]
    except (ValueError, csv.Error) as error:
        reason = " ".join(str(error).split())[:100]
        raise DataError(f"{where}: {table} cannot be read ({reason}); write it again") from None
