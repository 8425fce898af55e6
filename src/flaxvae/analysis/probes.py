"""What simple methods read from codes: are the classes linear, near, or clusters in them?

| number  | how                                                                                 |
|---------|-------------------------------------------------------------------------------------|
| linear  | accuracy of a logistic regression on held-out codes                                 |
| nearest | accuracy of the commonest class among the five nearest codes                        |
| rand    | adjusted Rand index of as many k-means clusters as classes (Hubert & Arabie 1985):  |
|         | 1 if the clusters are the classes, 0 on average if they are drawn at random         |

Each unit is scaled to standard deviation 1 for the regression; distances are those of the codes as
they are. The principal components of the pixels, as many as there are units, are what to beat.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from flaxvae import machine
from flaxvae.analysis.disentanglement.inputs import linear_classifier
from flaxvae.errors import UsageError, counted

Array = np.ndarray

NEIGHBOURS = 5
STARTS = 5  # of k-means


@dataclasses.dataclass(frozen=True)
class Probe:
    """What is read from codes of one kind."""

    units: int  # numbers in a code
    linear: float  # accuracy
    nearest: float  # accuracy
    rand: float  # adjusted Rand index


def probe(train: Array, labels: Array, test: Array, truth: Array, seed: int = 0) -> Probe:
    """Probe codes of test images [M, D] with labels [M], after learning from others [N, D], [N].

    Raises UsageError if the training codes are of fewer than two classes, or too few.
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score
    from sklearn.neighbors import KNeighborsClassifier

    machine.count_cores()

    classes = len(np.unique(labels))
    if classes < 2 or len(train) < NEIGHBOURS or len(test) < classes:
        raise UsageError(
            f"{counted(len(train), 'image')} of {counted(classes, 'class', 'classes')} to learn "
            f"from, {len(test):,} to test on: expected two classes and {NEIGHBOURS} images or more"
        )
    train, test = np.asarray(train, np.float64), np.asarray(test, np.float64)
    shift, scale = train.mean(0), train.std(0)
    scale = np.where(scale > 1e-9 * max(scale.max(), 1e-9), scale, np.inf)  # constant units say 0
    model = linear_classifier((train - shift) / scale, labels)
    linear = model.score((test - shift) / scale, truth)
    nearest = KNeighborsClassifier(NEIGHBOURS).fit(train, labels).score(test, truth)
    clusters = KMeans(classes, n_init=STARTS, random_state=seed).fit_predict(test)
    rand = adjusted_rand_score(truth, clusters)
    return Probe(train.shape[1], float(linear), float(nearest), float(rand))


def components(train: Array, test: Array, size: int) -> tuple[Array, Array]:
    """The first ``size`` principal components of training images, of both, [N, D] and [M, D].

    Fewer if images have fewer pixels, or there are fewer images.
    """
    from sklearn.decomposition import PCA

    flat = [np.reshape(x, (len(x), -1)) for x in (train, test)]
    size = min(size, *flat[0].shape)
    model = PCA(size, random_state=0).fit(flat[0])
    return model.transform(flat[0]), model.transform(flat[1])


def commonest(labels: Array, truth: Array) -> float:
    """The accuracy of always saying the commonest class."""
    names, counts = np.unique(labels, return_counts=True)
    return float((truth == names[counts.argmax()]).mean())
