"""Any image dataset of tensorflow-datasets (TFDS), ``tfds:NAME``, read without TensorFlow.

Its records have pictures as PNG or JPEG files. So they are decoded, resized and kept as those of a
folder are, with names such as train/00041.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from flaxvae.data import tfds
from flaxvae.data.containers import Container, Member, listed
from flaxvae.data.layouts import SPLIT, Example
from flaxvae.errors import DataError, UsageError, counted, did_you_mean
from flaxvae.settings import PREPARED

_NAME = re.compile(r"[\w-]+(/[\w.+-]+)?(:[\w.*-]+)?")


def is_named(dataset: str) -> bool:
    """Whether a dataset is one of TFDS."""
    return dataset.startswith(PREPARED)


def called(dataset: str) -> str:
    """The name of a dataset of TFDS, without its configuration and version."""
    return dataset.removeprefix(PREPARED).partition(":")[0].partition("/")[0]


@contextlib.contextmanager
def opened(dataset: str) -> Iterator[tuple[Container, list[Example], list[str]]]:
    """The pictures of a dataset as files, with their splits and classes, and remarks.

    Args:
        dataset: ``tfds:NAME``, ``tfds:NAME/CONFIGURATION`` or ``tfds:NAME:VERSION``. It is
            downloaded and prepared in TFDS's folder (``TFDS_DATA_DIR``) on first use.

    Raises:
        UsageError: TFDS has no dataset of that name.
        DataError: it has no pictures, is not prepared and cannot be, or cannot be read.
    """
    name = dataset.removeprefix(PREPARED)
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"--dataset {dataset}: expected {PREPARED}NAME, {PREPARED}NAME/CONFIGURATION or "
            f"{PREPARED}NAME:VERSION"
        )
    with tfds.reading(name):
        builder = _builder(name)
        image, label = _features(name, builder.info.features)
        notes = _left_out(builder.info.features, label)
        splits = list(builder.info.splits)
        kept: dict[str, str | None] = {split: SPLIT[split] for split in splits if split in SPLIT}
        if "train" not in kept.values():  # then the first of the others is divided
            kept |= {split: None for split in splits[:1] if split not in SPLIT}
        aside = [split for split in splits if split not in kept]
        if aside:
            notes.append(f"splits left out: {listed(aside, 6)}")
        sources = {split: _source(builder, split, image) for split in kept}
    members, examples = list[Member](), list[Example]()
    stamp = _stamp(Path(builder.data_path))
    of = builder.info.features[label] if label else None
    with tfds.reading(name):
        for split, part in kept.items():
            for i, text in enumerate(_labels(sources[split], label, of)):
                file = f"{split}/{i:05d}"
                members.append(Member(file, 0, stamp))
                examples.append(Example(file, part, text))

    def read(file: str) -> bytes:
        split, _, i = file.rpartition("/")
        found = sources[split][int(i)][image]
        if found is None:  # what TFDS makes of a file that ends too early
            raise OSError(0, "no record of it")
        return found

    yield Container(Path(builder.data_path), members, read, (), called(dataset)), examples, notes


def _builder(name: str) -> Any:
    """TFDS's builder of a dataset that is prepared."""
    import tensorflow_datasets

    home = tensorflow_datasets.core.constants.DATA_DIR
    known = [*tensorflow_datasets.list_builders(with_community_datasets=False), *_prepared(home)]
    if called(name) not in known:
        raise UsageError(
            f"--dataset {PREPARED}{name}: tensorflow-datasets has no such dataset: expected one "
            f"of its catalog, or one prepared in {home}{did_you_mean(called(name), known)}"
        )
    builder = tensorflow_datasets.builder(name, data_dir=home)
    if not builder.is_prepared():
        builder = tfds.builder(name) if name in tfds.PREPARABLE else builder
        tfds.prepare(builder)
    return tensorflow_datasets.builder_from_directory(builder.data_path)


def _prepared(home: str) -> set[str]:
    """The names of the datasets in TFDS's folder."""
    found = Path(home).glob("*/**/dataset_info.json")
    return {path.relative_to(home).parts[0] for path in found}


def _features(name: str, features: Mapping[str, Any]) -> tuple[str, str | None]:
    """Which feature has the pictures, and which their classes."""
    from tensorflow_datasets.core import features as kinds

    images = [key for key, kind in features.items() if type(kind) is kinds.Image]
    if "image" not in images and len(images) != 1:
        seen = ", ".join(images or features)
        what = (
            f"has several pictures an example ({seen})" if images else f"has no pictures ({seen})"
        )
        raise DataError(f"{PREPARED}{name} {what}: expected a dataset of single images")
    classes = [key for key, kind in features.items() if isinstance(kind, kinds.ClassLabel)]
    label = "label" if "label" in classes else classes[0] if len(classes) == 1 else None
    return "image" if "image" in images else images[0], label


def _left_out(features: Mapping[str, Any], label: str | None) -> list[str]:
    from tensorflow_datasets.core import features as kinds

    classes = [key for key, kind in features.items() if isinstance(kind, kinds.ClassLabel)]
    if label is None and classes:
        return [f"without labels: {counted(len(classes), 'kind')} of them ({listed(classes, 6)})"]
    return []


def _source(builder: Any, split: str, image: str) -> Any:
    """The examples of a split, with their pictures as they are in the files."""
    import tensorflow_datasets

    decoders = {image: tensorflow_datasets.decode.SkipDecoding()}
    return builder.as_data_source(split, decoders=decoders)


def _labels(source: Any, label: str | None, kind: Any) -> Iterator[str | None]:
    """The class of each example, by name."""
    if label is None:
        yield from [None] * len(source)
        return
    named: Callable[[int], str] = functools.cache(kind.int2str)
    for i, example in enumerate(source):
        if example[label] is None:
            raise ValueError(f"no record of example {i}")
        yield named(int(example[label])) if example[label] >= 0 else None


def _stamp(folder: Path) -> tuple[int, ...]:
    """What changes when the records do."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    about = [path.stat() for path in files]
    return tuple(n for one in about for n in (one.st_size, one.st_mtime_ns))
