"""Restoring digits: noise taken away, and the lower half drawn in.

Draws from p(z | seen pixels) by `Run.restore`, for the first test images of MNIST, from the VAE and
with the classifier of the study of attribute vectors. Denoising: Gaussian noise of standard
deviation 0.5 on pixels between 0 and 1, beside a median filter whose width is the best of three for
these images. Inpainting: the lower half is hidden; PSNR is of hidden pixels. One completion is one
of the draws, "mean" the average of all. The digit is the most probable class of the classifier, and
"some digit" a completion whose class has at least 90 % of the probability, right or wrong: the
upper half of a 4 or a 9 leaves both open. Beside these stand the originals, what is seen alone, and
hidden pixels filled with the median of the nearest seen ones.

Numbers of temperatures and chains were set by the time at hand: half of the defaults. Clean images
that are only reconstructed are read hardly more often than noisy ones that were denoised: most of
what is lost then is lost to the VAE.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments import judged, runs
from experiments.table import Beside, Row
from flaxvae.analysis import features, median
from flaxvae.data import masks
from flaxvae.data.dataset import taken
from flaxvae.report import plots, restored
from flaxvae.runs import classified
from flaxvae.runs.run import Run
from flaxvae.trained import Restored

Array = np.ndarray

NOISE, SURE = 0.5, 0.9
IMAGES, COMPLETIONS, SHOWN = 1000, 4, 10
HOW: dict[str, Any] = {"completions": COMPLETIONS, "temperatures": 50, "chains": 8}
BUDGET = f"{IMAGES:,} images, {HOW['temperatures']} temperatures, {HOW['chains']} chains"
DENOISED, INPAINTED = "denoised, {}: PSNR, dB", "lower half, {}: PSNR of hidden pixels, dB"
TRUE, SOME = "{}: read as the true digit, %", "{}: read as some digit, %"
MEDIANS = "median filter"
SEVERAL = "lower half: images whose completions are read as more than one digit, %"
BESIDE = [
    Beside(TRUE.format("originals"), 96, 100, "what small networks reach"),
    Beside(
        DENOISED.format("mean"),
        DENOISED.format(MEDIANS),
        26,
        "above the median filter; below the error of reconstructions of clean images",
    ),
    Beside(
        DENOISED.format("one completion"),
        DENOISED.format(MEDIANS),
        DENOISED.format("mean"),
        "above the median filter; the mean has the smallest squared error",
    ),
    Beside(
        TRUE.format("denoised"),
        TRUE.format("noisy"),
        TRUE.format("originals"),
        "easier to read than with noise, not easier than without",
    ),
    Beside(
        INPAINTED.format("mean"),
        INPAINTED.format("medians of the nearest"),
        22,
        "above medians; the lower half is not in the upper one",
    ),
    Beside(
        INPAINTED.format("one completion"),
        INPAINTED.format("medians of the nearest"),
        INPAINTED.format("mean"),
        "above medians; the mean has the smallest squared error",
    ),
    Beside(
        TRUE.format("lower half drawn in"),
        TRUE.format("upper half alone"),
        TRUE.format("originals"),
        "more than half a digit says to the classifier, less than a whole one",
    ),
    Beside(
        SOME.format("lower half drawn in"),
        SOME.format("upper half alone"),
        SOME.format("originals"),
        "as above",
    ),
    Beside(SEVERAL, 5, 80, "some upper halves leave the digit open, most do not"),
]


def restore(
    run: Run, x: Array, hidden: Array | None, noise: float
) -> tuple[restored.Damaged, Restored]:
    nothing = np.zeros(x.shape[:3], bool)
    of = restored.damaged(x, nothing if hidden is None else hidden, noise, seed=0)
    return of, run.restore(of.seen, hidden=hidden, noise=noise, seed=0, **HOW)


def read(
    judge: features.Classifier, called: str, x: Array, y: Array, where: tuple[str, str]
) -> list[Row]:
    """How often images [N, ...], or completions [N, K, ...], are read as the true digit, or one."""
    each = x.reshape(-1, *x.shape[-3:])
    found = judge.probabilities(np.clip(each, 0, 1)).reshape(len(y), -1, 10)
    true = 100 * (found.argmax(-1) == y[:, None]).mean()
    some = 100 * (found.max(-1) >= SURE).mean()
    return [
        Row(TRUE.format(called), *where, f"{true:.1f}"),
        Row(SOME.format(called), *where, f"{some:.1f}"),
    ]


def study() -> list[Row]:
    run = judged.vae()
    data = run.data()
    judge, test = classified.classifier(data), taken(data.test, np.arange(IMAGES))
    x, y, where = test.images(), test.y, (run.spec.name, BUDGET)
    assert y is not None
    rows = read(judge, "originals", x, y, where)
    rows += read(judge, "reconstructions", run.reconstruct(x), y, where)

    of, found = restore(run, x, None, NOISE)
    plain = restored.without_model(of)
    draw(run, "restoration_denoised", of, found, plain)
    for called, images in (
        ("one completion", found.completions[:, 0]),
        ("mean", found.mean),
        (MEDIANS, plain[0]),
        ("as it is", np.clip(of.seen, 0, 1)),
    ):
        ratio = median.psnr(images, x)
        rows.append(Row(DENOISED.format(called), *where, f"{ratio:.2f}"))
    rows += read(judge, "noisy", of.seen, y, where)
    rows += read(judge, "denoised", found.completions, y, where)
    rows += read(judge, f"denoised by a {MEDIANS}", plain[0], y, where)

    hidden = masks.hidden("lower-half", *x.shape[:3])
    of, found = restore(run, x, hidden, 0.0)
    plain = restored.without_model(of)
    draw(run, "restoration_inpainted", of, found, plain)
    for called, images in (
        ("one completion", found.completions[:, 0]),
        ("mean", found.mean),
        ("medians of the nearest", plain[0]),
        ("black", np.where(hidden[..., None], 0, x)),
    ):
        ratio = median.psnr(images, x, hidden)
        rows.append(Row(INPAINTED.format(called), *where, f"{ratio:.2f}"))
    rows += read(judge, "upper half alone", np.where(hidden[..., None], 0, x), y, where)
    rows += read(judge, "lower half drawn in", found.completions, y, where)
    rows += read(judge, "lower half by medians", plain[0], y, where)
    classes = judge.classify(found.completions.reshape(-1, *x.shape[1:])).reshape(IMAGES, -1)
    several = 100 * np.mean([len(set(row)) > 1 for row in classes.tolist()])
    rows.append(Row(SEVERAL, *where, f"{several:.1f}"))
    return rows


def draw(
    run: Run, name: str, of: restored.Damaged, found: Restored, plain: tuple[Array, str]
) -> None:
    shown = slice(0, SHOWN)
    original = None if of.original is None else of.original[shown]
    few = restored.Damaged(of.seen[shown], of.hidden[shown], of.noise, original)
    some = found._replace(completions=found.completions[shown], mean=found.mean[shown])
    grid = restored.figure(run, some, few, (plain[0][shown], plain[1]))
    plots.image_grid(runs.FIGURES / f"{name}.png", **grid._asdict())
