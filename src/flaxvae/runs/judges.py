"""Who judges the images that a run decodes: classifiers of its training images, by attribute.

They are trained on labels, on a factor's values, or on two sets of images, and have seen no image
that a model has made. Those of labels and factors are kept (``classified``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from flaxvae.analysis import features
from flaxvae.analysis.changes import Readings
from flaxvae.analysis.features import Classifier
from flaxvae.data.dataset import taken
from flaxvae.data.pipeline import Data, Split
from flaxvae.devices.batches import Watch
from flaxvae.errors import UsageError, counted
from flaxvae.runs import attributes, classified
from flaxvae.runs.attributes import LABEL

Array = np.ndarray
Stages = Callable[[str], Watch]

TESTED = 2000  # images at most, for the accuracy
EPOCHS = 40  # of two sets


class Judge(NamedTuple):
    """What reads attributes of images."""

    read: Callable[[Array], Readings]  # images [N, H, W, C] in [0, 1]
    value_of: str  # the reading of which the attribute that is added is a value; "": of none
    accuracy: dict[str, float]  # of classifiers, on test images


def judge(data: Data, name: str, others: Sequence[str], stages: Stages | None = None) -> Judge:
    """Of an attribute by name, of others, and of the labels, if there are any.

    Raises UsageError for names that are neither labels nor factors, or too few images.
    """
    own = attributes.source(data.spec, data.train, name)
    return _named(data, [name, *others], stages)._replace(value_of=LABEL if own == LABEL else "")


def of_sets(
    data: Data,
    having: Split,
    lacking: Split,
    name: str,
    others: Sequence[str],
    stages: Stages | None = None,
) -> Judge:
    """Of an attribute that two sets of images differ in, and of others as in ``judge``.

    Raises UsageError for too few images, or a name that another attribute has.
    """
    if name in (LABEL, *others):
        other = "what labels say" if name == LABEL else "an attribute of --against"
        raise UsageError(
            f"--having {name}: {other} has this name, too: expected images of another name"
        )
    count = len(having.x) + len(lacking.x)
    if count < features.BATCH:
        raise UsageError(
            f"--judge with {counted(count, 'image')} in both sets: expected at least "
            f"{features.BATCH}, to train a classifier on"
        )
    images = np.concatenate([having.images(), lacking.images()])
    labels = (np.arange(count) < len(having.x)).astype(np.int32)
    watch = None if stages is None else stages(f"classifier of {name}")
    own = features.train(images, labels, epochs=EPOCHS, watch=watch)
    rest = _named(data, others, stages)

    def read(images: Array) -> Readings:
        return {name: own.classify(images) == 1, **rest.read(images)}

    return Judge(read, "", rest.accuracy)


def _named(data: Data, names: Sequence[str], stages: Stages | None = None) -> Judge:
    """Of labels and factors."""
    sources = {name: attributes.source(data.spec, data.train, name) for name in names}
    wanted = dict.fromkeys([*sources.values(), *([LABEL] if data.train.y is not None else [])])
    kept = {source: _classifier(data, source, stages) for source in wanted}
    accuracy = {source: _accuracy(one, data, source) for source, one in kept.items()}

    def read(images: Array) -> Readings:
        found = {source: one.classify(images) for source, one in kept.items()}
        return {key: values for key, values in found.items() if key == LABEL} | {
            name: attributes.parts(data.spec, name, source, found[source])[0]
            for name, source in sources.items()
        }

    return Judge(read, "", accuracy)


def _classifier(data: Data, source: str, stages: Stages | None) -> Classifier:
    watch = None if stages is None else stages(f"classifier of {source}")
    if source == LABEL:
        return classified.classifier(data, watch)
    values = attributes.values(data.train, data.spec, source).astype(np.int32)
    train = data.train._replace(y=values, names=None)
    return classified.classifier(data._replace(train=train), watch)


def _accuracy(one: Classifier, data: Data, source: str) -> float:
    some = taken(data.test, np.arange(min(len(data.test.x), TESTED)))
    return one.accuracy(some.images(), attributes.values(some, data.spec, source))
