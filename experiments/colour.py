"""Colour photographs: one level, dense levels, and a hierarchy over feature maps.

The JPEGs of CIFAR-10 (32x32, ten classes; by a hash of their names about 45,000 to train on, 2,500
to validate on and 2,500 for tests) for a VAE and a ladder VAE, both with the residual network, and
a deep VAE. Their sizes are such that an epoch takes about as long for each on a CPU, and each
trains for as many. All have the library's likelihood for bytes, `discretized_logistic`, and mirror
images at random. Forty epochs take one to two minutes on an H200, or eight hours on a CPU core.
Depth gains in bits per dimension, and in the distance and the coverage of samples. The ladder's
bits are worse than those of one level, but its samples are closer to images. No model's samples
show an object: the smallest Fréchet distance is 78 times that of real images.

Bits are of test images. The Fréchet distance is between features of samples (means of p(x|z)) and
of a random half of the images that were not trained on, about 2,500 each, in a small classifier of
the ten classes, trained on the same images as the models; beside it stands that between the two
halves. It is not the FID, whose features are another network's. Precision, recall, density and
coverage are of the same features, with k = 5. Coverage and recall say how much of the variety of
real images the samples have.

JPEG has changed the pixels: bits are not those of papers. Published for CIFAR-10 itself, far longer
trainings, not checked against the papers' tables: VQ-VAE 4.67, LVAE-15 3.36, NVAE 2.91, VDVAE 2.87.
`python -m experiments.colour --dataset cifar10` trains on the true images, from
`FLAXVAE_DATA_DIR` or tensorflow-datasets.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments import runs
from experiments.table import Beside, Row
from flaxvae.analysis import features, sample_quality
from flaxvae.analysis.features import Seen
from flaxvae.analysis.sample_quality import Quality
from flaxvae.data.pipeline import Data, Split
from flaxvae.report import plots
from flaxvae.runs.run import Run

EPOCHS = 40
CLASSIFIER_EPOCHS, K = 10, 5
SHOWN, ROWS = 16, 2  # samples of each model in the picture
NET = {"net": "resnet", "channels": (32, 64)}
MODELS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "VAE": ("vae", NET | {"latent_dim": 128}),
    "ladder VAE": ("ladder_vae", NET | {"latent_dims": (128, 32), "level_widths": (256, 128)}),
    "deep VAE": ("deep_vae", {"levels": ("16x3", "8x3", "4x2", "1x1"), "width": 16}),
}
BITS, DISTANCE = "{}: test bits/dim", "{}: Fréchet distance in classifier features"
NEIGHBOURS = "{}: precision, recall, density, coverage"
FLOOR = DISTANCE.format("half of the held-out images")
BESIDE = [
    Beside(
        BITS.format("VAE"),
        3.5,
        7.002,
        "no better than a ladder of 15 levels by far; no worse than after 2 epochs",
        "VQ-VAE 4.67, on other pixels, unchecked",
    ),
    Beside(BITS.format("ladder VAE"), 3.5, 7.281, "as above"),
    Beside(
        BITS.format("deep VAE"),
        2.87,
        BITS.format("VAE"),
        "no better than VDVAE; below one level",
        "LVAE-15 3.36, NVAE 2.91, VDVAE 2.87, on other pixels, unchecked",
    ),
    Beside(
        DISTANCE.format("deep VAE"),
        FLOOR,
        DISTANCE.format("ladder VAE"),
        "no better than real images; below dense levels",
    ),
    Beside("accuracy of the classifier, %", 60, 85, "what such small networks reach"),
]


def default_dataset() -> str:
    return str(Path(os.environ.get("FLAXVAE_DATA_DIR", "data")) / "cifar10_jpeg_train.zip")


def setting(model: str, dataset: str, epochs: int) -> dict[str, Any]:
    """The settings of one of ``MODELS``."""
    _, own = MODELS[model]
    return {
        "dataset": dataset,
        "flip": True,
        "batch_size": 128,
        "learning_rate": 1e-3,
        "schedule": "cosine",
        "clip_norm": 200.0,
        "ema": 0.995,
        "epochs": epochs,
        **own,
    }


def run_name(model: str, dataset: str, epochs: int) -> str:
    return f"colour_{Path(dataset).stem}_{MODELS[model][0]}_{epochs}"


class Judge(NamedTuple):
    """What samples are compared to: two halves of the held-out images, seen by a classifier."""

    classifier: features.Classifier
    accuracy: float  # of the classifier, on held-out images
    real: Seen
    other: Seen

    def of(self, images: np.ndarray) -> Quality:
        """Images beside the first half."""
        return sample_quality.compare(self.real, self.classifier.see(images), K)

    @property
    def floor(self) -> Quality:
        """The second half beside the first."""
        return sample_quality.compare(self.real, self.other, K)


def judge(data: Data, epochs: int = CLASSIFIER_EPOCHS) -> Judge:
    """A classifier of the training images, and two random halves of all others."""
    x, y = _pixels(data.train)
    classifier = features.train(x, y, epochs=epochs, flip=True)
    held = [_pixels(split) for split in (data.validation, data.test) if split is not None]
    x, y = (np.concatenate(parts) for parts in zip(*held, strict=True))
    order = np.random.default_rng(0).permutation(len(x))
    half = len(x) // 2
    real, other = classifier.see(x[order[:half]]), classifier.see(x[order[half : 2 * half]])
    return Judge(classifier, classifier.accuracy(x, y), real, other)


def _pixels(split: Split) -> tuple[np.ndarray, np.ndarray]:
    """All images of a split as stored, bytes, and their labels as numbers."""
    x, y = np.asarray(split.x[:]), split.classes
    if x.dtype != np.uint8 or split.peak != 255 or y is None:
        raise ValueError(f"{x.dtype} up to {split.peak:g}: expected labelled images of 8 bits")
    return x, y


def study(dataset: str = "", epochs: int = EPOCHS) -> Iterator[Row]:
    dataset = dataset or default_dataset()
    found, data, judged = dict[str, Run](), None, None
    for model, (recipe, _) in MODELS.items():
        name = run_name(model, dataset, epochs)
        run = found[model] = runs.train(name, recipe, **setting(model, dataset, epochs))
        if judged is None:
            data = run.data()
            judged = judge(data)
            yield from of_real(judged, run.spec.name)
        yield from measured(model, run, judged)
    name = "colour_samples" if dataset == default_dataset() else f"colour_{Path(dataset).stem}"
    assert data is not None
    draw(runs.FIGURES / f"{name}.png", found, data, epochs)


def of_real(judged: Judge, name: str) -> list[Row]:
    """The classifier, and what perfect samples would score."""
    of = f"{len(judged.real.features):,} images"
    half = NEIGHBOURS.format("half of the held-out images")
    return [
        Row("accuracy of the classifier, %", name, "", f"{100 * judged.accuracy:.1f}"),
        Row(FLOOR, name, of, f"{judged.floor.distance:.2f}"),
        Row(half, name, of, _told(judged.floor)),
    ]


def measured(model: str, run: Run, judged: Judge) -> list[Row]:
    """The rows of a trained model."""
    name, epochs = run.spec.name, run.plan.training.epochs
    budget = f"{epochs} epochs, {runs.parameters(run):,} parameters"
    bits = runs.evaluate(run).bits_per_dim
    assert bits is not None
    quality = judged.of(run.sample(len(judged.real.features), seed=1))
    minutes = f"{runs.minutes(run):.1f}"
    return [
        Row(BITS.format(model), name, budget, f"{bits:.3f}"),
        Row(f"{model}: minutes of training", name, runs.timed(budget), minutes),
        Row(DISTANCE.format(model), name, budget, f"{quality.distance:.2f}"),
        Row(NEIGHBOURS.format(model), name, budget, _told(quality)),
    ]


def _told(found: Quality) -> str:
    around = found.precision, found.recall, found.density, found.coverage
    return ", ".join(f"{x:.2f}" for x in around)


def draw(path: Path, found: Mapping[str, Run], data: Data, epochs: int) -> None:
    """Samples of each model below each other, under test images."""
    groups = {"test images": data.test.images(slice(0, SHOWN * ROWS))}
    groups |= {model: run.sample(SHOWN * ROWS, seed=1) for model, run in found.items()}
    images = [x[i * SHOWN : (i + 1) * SHOWN] for x in groups.values() for i in range(ROWS)]
    labels = [name if i == 0 else "" for name in groups for i in range(ROWS)]
    title = f"Samples (means of p(x|z)) after {epochs} epochs"
    plots.image_grid(path, images, labels, title=title)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", default=default_dataset())
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    chosen = parser.parse_args()
    for row in study(chosen.dataset, chosen.epochs):
        print(" | ".join(row))
