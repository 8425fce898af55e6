"""What the KL and the noise are for: AE and VAE with 2, 8 and 32 latents, beside PCA.

The same MLP, 784-512-256, data and budget, and as many principal components, which leave 1.4 to 2.1
times the autoencoder's squared error. The VAE's is larger, most of all with 32 latents. But the
codes of an autoencoder lie anywhere, several units from the origin, so that draws from N(0, I)
decode to smudges. Those of a VAE are closer to its prior, though not close enough: draws from a
mixture of ten Gaussians, fitted to the codes of the training images afterwards, are far better than
from N(0, I) with 8 or 32 latents, too. With such a mixture the autoencoder is ahead of the VAE with
2 and 8 latents, and behind with 32.

Samples are those of `flaxvae quality`: Fréchet distances in the features of a classifier of the
training images, and the part of the samples to which it gives a class with more than 0.9, read as a
digit here. ± is a standard deviation over five cuts of the test images into halves, with new
samples for each. Ghosh et al. 2020 print FID of 58.7 and 10.7 of an autoencoder before and after
fitting a mixture, of a VAE 19.2 and 17.7 (not checked against the paper's table). These are of
other networks, trained longer, and of another feature space, so only the ratios can stand beside
ours.

Interpolations take ten steps between the codes of 200 pairs of test images: on a straight line, on
a sphere, and on a geodesic of the decoder. Each row has three numbers, of these paths in this
order. The rows say how many of the images between the ends are read as a digit; how long the path
is, in the classifier's features and in pixels, as a multiple of the straight line between its ends;
and how long its longest step in features is, as a multiple of the mean: 1 if the digit changes at
an even pace, 10 if it jumps. Geodesics are the shortest in pixels and the most even, but more of
their images are no digit; with 2 and 8 latents, paths on a sphere are the opposite. AE and VAE
differ little, except that with 2 latents the VAE's paths are more even. By none of these measures
is the best path much better than a cross-fade of the pixels: the classifier is as sure of two
digits on top of each other.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from experiments import runs
from experiments.table import Beside, Row
from flaxvae.analysis import probes, sample_quality
from flaxvae.analysis.features import Classifier, Seen
from flaxvae.analysis.sample_quality import CERTAIN, Figure, Quality
from flaxvae.data.pipeline import Data
from flaxvae.report import plots
from flaxvae.runs import classified
from flaxvae.runs.run import Run

EPOCHS, LATENTS, MODELS = 5, (2, 8, 32), ("ae", "vae")
PAIRS, STEPS, PATHS = 200, 11, ("linear", "spherical", "geodesic")
COUNT, SHOWN = 16, 32  # images in a row of the picture, of models with so many latents
TRAINED = f"{EPOCHS} epochs"

MSE, SPREAD = "{} {}: MSE per pixel", "{} {}: standard deviation of a code"
BEFORE, AFTER = "{} {}: Fréchet distance, N(0, I)", "{} {}: Fréchet distance, mixture"
RATIO = "{} {}: distance with N(0, I) / with the mixture"
SURE_BEFORE, SURE_AFTER = "{} {}: read as a digit, %, N(0, I)", "{} {}: read as a digit, %, mixture"
BETWEEN, LENGTH = "{}: read as a digit, %, interpolations", "{}: length of interpolations"
JUMP, PIXELS = "{}: longest step of interpolations", "{}: length of interpolations in pixels"
FLOOR, SURE = "half of the test images: Fréchet distance", "test images: read as a digit, %"
ACCURACY, FADE = "accuracy of the classifier, %", "cross-fade of pixels"
LEFT = {2: (0.0555, 0.0560), 8: (0.0370, 0.0380), 32: (0.0165, 0.0175)}  # by components of MNIST
LEAST = {2: 0.025, 8: 0.008, 32: 0.002}  # below what longer trainings of larger networks give


def of_paths_expected(which: str, pixels: float) -> list[Beside]:
    """Of interpolations that are at most ``pixels`` times as long as straight lines."""
    return [
        Beside(BETWEEN.format(which), 40, SURE, "fewer than of real images"),
        Beside(LENGTH.format(which), 1, 3, "at least that of a straight line"),
        Beside(JUMP.format(which), 1, 5, "no less than the mean; at most half of the way at once"),
        Beside(PIXELS.format(which), 0.999, pixels, "at least that of a straight line"),
    ]


def expected(ae: str, vae: str, size: int) -> list[Beside]:
    """Of an autoencoder and a VAE with the same network."""
    error, pca = MSE.format(ae, size), MSE.format("PCA", size)
    found = [
        Beside(error, LEAST[size], pca, "below principal components"),
        Beside(
            MSE.format(vae, size),
            error,
            pca,
            "no better than without noise and KL; below principal components",
        ),
        Beside(
            SPREAD.format(ae, size),
            1.5,
            30,
            "several times the prior's, but of its order of magnitude",
            "prior: 1",
        ),
        Beside(
            SPREAD.format(vae, size),
            0.5,
            1.3,
            "about the prior's: wider where few latents say much, narrower where some are idle",
            "prior: 1",
        ),
    ]
    for model in (ae, vae):
        before, after = BEFORE.format(model, size), AFTER.format(model, size)
        sure, fitted = SURE_BEFORE.format(model, size), SURE_AFTER.format(model, size)
        found += [
            Beside(after, FLOOR, before, "no better than real images; better than before"),
            Beside(sure, 5, fitted, "fewer than after"),
            Beside(fitted, sure, SURE, "no more than of real images"),
            *of_paths_expected(f"{model} {size}", 4),
        ]
    return [
        *found,
        Beside(
            RATIO.format(vae, size),
            1,
            RATIO.format(ae, size),
            "it helps, but less than it helps an autoencoder",
            "19.2 / 17.7 = 1.08, FID of another network, unchecked",
        ),
        Beside(
            RATIO.format(ae, size),
            RATIO.format(vae, size),
            100,
            "it helps more than it helps a VAE",
            "58.7 / 10.7 = 5.5, FID of another network, unchecked",
        ),
    ]


BESIDE = [
    Beside(ACCURACY, 98, 99.7, "what such small networks reach"),
    Beside(FLOOR, 1, 100, "above 0, and far below any sample's"),
    Beside(SURE, 95, 99.7, "at most somewhat more than are classified rightly"),
    *of_paths_expected(FADE, 1.001),
]
for size in LATENTS:
    why = "the variance that such components leave, of 0.067"
    BESIDE.append(Beside(MSE.format("PCA", size), *LEFT[size], why))
    BESIDE += expected(*MODELS, size)


def study() -> Iterator[Row]:
    judge = None
    shown: dict[str, np.ndarray] = {}
    for size, model in itertools.product(LATENTS, MODELS):
        run = runs.train(f"ae_vs_vae_{model}_{size}", model, **setting(size))
        data, name, test = run.data(), run.spec.name, run.data().test.images()
        ends = test[:PAIRS], test[PAIRS : 2 * PAIRS]
        if judge is None:
            judge = classified.classifier(data)
            yield from of_real(judge, data, name)
            yield from of_paths(FADE, judge, [faded(*ends)], name, "")
            for count, mse in components(data.train.images(), test).items():
                yield Row(MSE.format("PCA", count), name, "", f"{mse:.5f}")
        fitted = run.fit_prior(data.train)
        yield from measured(fitted, model, size, data)
        lines = [run.interpolate(*ends, steps=STEPS, path=path) for path in PATHS]
        yield from of_paths(f"{model} {size}", judge, lines, name, TRAINED)
        if size == SHOWN:
            shown = shown or {"test images": test[:COUNT]}
            shown |= pictures(fitted, model.upper(), test[:COUNT], lines[0])
    title = f"The same networks as autoencoder and as VAE: MNIST, {SHOWN} latents, {TRAINED}"
    plots.image_grid(runs.FIGURES / "ae_vs_vae.png", [*shown.values()], [*shown], title=title)


def setting(size: int) -> dict[str, Any]:
    return {"dataset": "mnist", "net": "mlp", "latent_dim": size, "epochs": EPOCHS}


def of_real(judge: Classifier, data: Data, name: str) -> list[Row]:
    """What perfect samples would score."""
    real = judge.see(data.test.images())
    halves = sample_quality.measure(real, {}, half=2500).halves
    found = sample_quality.figures(halves)
    assert real.probabilities is not None
    right = (real.probabilities.argmax(-1) == data.test.y).mean()
    return [
        Row(ACCURACY, name, "", f"{100 * right:.2f}"),
        Row(FLOOR, name, "", told(found["distance"])),
        Row(SURE, name, "", told(percent(found["certain"]))),
    ]


def components(train: np.ndarray, test: np.ndarray) -> dict[int, float]:
    """Squared error per pixel of test images from as many principal components as latents."""
    _, codes = probes.components(train, test, max(LATENTS))
    centred = test - train.mean(0)
    kept = np.square(codes, dtype=np.float64).sum(0)  # the components are orthonormal
    whole = np.square(centred, dtype=np.float64).sum()
    return {size: float(whole - kept[:size].sum()) / centred.size for size in LATENTS}


def measured(run: Run, model: str, size: int, data: Data) -> list[Row]:
    """Codes, reconstructions, and samples before and after a fitted prior."""
    codes, mse = run.encode(data.test), runs.evaluate(run).mse
    samples = run.sample_quality().measured.samples
    own, fitted = (sample_quality.figures(samples[prior]) for prior in ("own", "fitted"))
    rows = {
        MSE: f"{mse:.5f}",
        SPREAD: f"{codes.std():.2f}",
        BEFORE: told(own["distance"]),
        AFTER: told(fitted["distance"]),
        RATIO: told(ratio(samples["own"], samples["fitted"])),
        SURE_BEFORE: told(percent(own["certain"])),
        SURE_AFTER: told(percent(fitted["certain"])),
    }
    return [Row(what.format(model, size), run.spec.name, TRAINED, x) for what, x in rows.items()]


def ratio(before: list[Quality], after: list[Quality]) -> Figure:
    """Of the Fréchet distances, over the cuts, each with its own half of the test images."""
    found = [one.distance / other.distance for one, other in zip(before, after, strict=True)]
    return Figure(float(np.mean(found)), float(np.std(found, ddof=1)))


def percent(figure: Figure) -> Figure:
    assert figure.spread is not None
    return Figure(100 * figure.mean, 100 * figure.spread)


def told(figure: Figure) -> str:
    return f"{figure.mean:.1f} ± {figure.spread:.1f}"


class Path(NamedTuple):
    """Interpolations, as a classifier sees them; steps are of features f."""

    between: float  # the part of the images between both ends that are read as some class
    length: float  # the mean of sum_i |f_i+1 - f_i| / |f_last - f_first|; 1 at least
    jump: float  # the mean of max_i |f_i+1 - f_i| / mean_i |f_i+1 - f_i|; 1 at least


def path(seen: Seen, steps: int) -> Path:
    """Of N interpolations of so many images, [N * steps] in a row; N, if ends differ."""
    features = seen.features.reshape(-1, steps, seen.features.shape[-1])
    assert seen.probabilities is not None
    certain = (seen.probabilities.max(-1) > CERTAIN).reshape(-1, steps)[:, 1:-1]
    each = np.linalg.norm(np.diff(features, axis=1), axis=-1)
    jump = float(np.mean(each.max(1) / each.mean(1)))
    return Path(float(certain.mean()), relative(features), jump)


def relative(points: np.ndarray) -> float:
    """The length of curves [N, steps, D] over the distance of their ends, on average."""
    walked = np.linalg.norm(np.diff(points, axis=1), axis=-1).sum(1)
    return float(np.mean(walked / np.linalg.norm(points[:, -1] - points[:, 0], axis=-1)))


def faded(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """The images between, [N, STEPS, *shape], mixed pixel by pixel."""
    part = np.linspace(0, 1, STEPS, dtype=np.float32).reshape(1, -1, 1, 1, 1)
    return (1 - part) * start[:, None] + part * end[:, None]


def of_paths(
    what: str, judge: Classifier, lines: list[np.ndarray], name: str, budget: str
) -> list[Row]:
    """Rows with a number for each kind of path, of images [N, STEPS, *shape]."""
    found = [path(judge.see(x.reshape(-1, *x.shape[2:])), x.shape[1]) for x in lines]
    pixels = [relative(x.reshape(*x.shape[:2], -1)) for x in lines]
    rows = {
        BETWEEN: [f"{100 * x.between:.1f}" for x in found],
        LENGTH: [f"{x.length:.2f}" for x in found],
        JUMP: [f"{x.jump:.2f}" for x in found],
        PIXELS: [f"{x:.2f}" for x in pixels],
    }
    return [Row(each.format(what), name, budget, ", ".join(x)) for each, x in rows.items()]


def pictures(run: Run, model: str, x: np.ndarray, lines: np.ndarray) -> Mapping[str, np.ndarray]:
    """Rows of the picture, of a model with a fitted prior."""
    return {
        f"{model} reconstruction": run.reconstruct(x),
        f"{model}, z ~ N(0, I)": run.sample(COUNT, seed=1, prior="own"),
        f"{model}, z ~ mixture": run.sample(COUNT, seed=1),
        f"{model}, interpolation": lines[0],
    }
