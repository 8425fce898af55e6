"""A classifier of a run's own labelled training images, kept for the next time.

<user's cache>/flaxvae/classifiers/<data>-<key>.npz    its weights, in a fixed order

It has seen no image that a model of these data has made. The key is a hash of the data, of which
images are trained on, and of how: of other data there is another classifier. A file that cannot be
read is replaced.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from pathlib import Path

import jax
import numpy as np

from flaxvae import writing
from flaxvae.analysis import features
from flaxvae.analysis.features import Classifier
from flaxvae.data import pipeline
from flaxvae.data.dataset import taken
from flaxvae.data.pipeline import Data, Split
from flaxvae.devices.batches import Watch
from flaxvae.errors import UsageError, counted
from flaxvae.runs import kept

FORMAT = 1
IMAGES, VALUES = 50_000, 2**28  # at most, to learn from: bounds time and memory
STEPS, EPOCHS = 1500, (3, 40)  # about as many steps, in as many epochs: fewest and most
SEED = 0


def classifier(data: Data, watch: Watch | None = None) -> Classifier:
    """A classifier of the training images of a run, as ``features.train`` makes it.

    Images are binarized once if those of the training are. It learns from all, or from a random
    part of so many that they take much time or memory; ``classes`` of the split are its own.

    Raises UsageError for data without labels, or fewer images than a batch.
    """
    labels = data.train.classes
    if labels is None:
        raise UsageError(f"{data.spec.name} has no labels: expected some, to train a classifier on")
    if len(labels) < features.BATCH:
        raise UsageError(
            f"{counted(len(labels), 'training image')}: expected at least {features.BATCH} to "
            "train a classifier on"
        )
    most = min(IMAGES, VALUES // int(np.prod(data.spec.shape)))
    rows = np.arange(len(labels))
    if len(rows) > most:
        rows = np.sort(np.random.default_rng(SEED).permutation(rows)[:most])
    labels, fewest = labels[rows], EPOCHS[0]
    epochs = min(max(round(STEPS / (len(rows) // features.BATCH)), fewest), EPOCHS[1])
    like = features.shapes(data.spec.shape, int(labels.max()) + 1)
    path = _path(data, len(rows), epochs)
    params = None if path is None else _kept(path, like)
    if params is not None:
        return features.restored(data.spec.shape, params)
    split = pipeline.binarized(taken(data.train, rows), data.binarization, fold=0)
    found = features.train(stored(split), labels, epochs=epochs, seed=SEED, watch=watch)
    if path is not None:
        with contextlib.suppress(OSError):  # then it is trained again the next time
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            writing.clear(path.parent)
            with writing.whole(path) as file:
                np.savez(file, *map(np.asarray, jax.tree.leaves(found.params)))
    return found


def stored(split: Split) -> np.ndarray:
    """All images of a split, as bytes if they are stored so, else as float32 in [0, 1]."""
    if split.render is None and split.x.dtype == np.uint8 and split.peak == 255:
        return np.asarray(split.x[:])
    return split.images()


def _path(data: Data, images: int, epochs: int) -> Path | None:
    """Where it is kept; None if nothing is."""
    home = kept.classifiers()
    how = [features.CHANNELS, features.SIZE, features.BATCH, features.LEARNING_RATE, SEED, epochs]
    of = [data.sha256, data.labels_sha256, data.binarization, data.spec.shape, len(data.train.x)]
    classes = hashlib.sha256(np.ascontiguousarray(data.train.classes).tobytes()).hexdigest()
    key = hashlib.sha256(json.dumps([FORMAT, how, of, classes, images]).encode()).hexdigest()[:16]
    name = re.sub(r"[^\w.+-]+", "_", data.spec.name)[:60]
    return None if home is None else home / f"{name}-{key}.npz"


def _kept(path: Path, like: features.Params) -> features.Params | None:
    """The params in a file; None if there is none, or it is damaged."""
    wanted, tree = jax.tree.flatten(like)
    try:
        with np.load(path, allow_pickle=False) as file:
            found = [file[f"arr_{i}"] for i in range(len(wanted))]
    except Exception:  # numpy, zipfile and zlib raise almost anything on damage
        return None
    fits = [a.shape == b.shape and a.dtype == b.dtype for a, b in zip(found, wanted, strict=True)]
    if not all(fits) or not all(np.isfinite(a).all() for a in found):
        return None
    with contextlib.suppress(OSError):
        os.utime(path)  # its last use
    return jax.tree.unflatten(tree, map(jax.numpy.asarray, found))
