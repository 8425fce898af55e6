"""What the figures of a run show: arrays and text, which ``figures`` draws."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flaxvae.analysis import latent_space
from flaxvae.analysis.evaluation import ACTIVE, Evaluation
from flaxvae.analysis.neighbours import nearest
from flaxvae.data.dataset import taken
from flaxvae.data.pipeline import Split, binarized
from flaxvae.devices import batches
from flaxvae.errors import counted
from flaxvae.report.words import heading, per_value
from flaxvae.runs.run import Run
from flaxvae.trained import Path

Array = np.ndarray


class Subject:
    """What figures show: a run, the test images, and the run's evaluation on them.

    What is not given is loaded when a figure needs it; a finished run's evaluation is its summary.
    """

    def __init__(
        self,
        run: Run,
        test: Split | None = None,
        evaluation: Evaluation | None = None,
        *,
        draw_pixels: bool = False,  # in the place of means of p(x|z)
        dims: tuple[int, int] | None = None,  # of the manifold, from 1; None: by their KL
    ) -> None:
        self.run, self._test, self._evaluation = run, test, evaluation
        self.draw_pixels, self.dims = draw_pixels, dims
        self.found: dict[str, Any] = {}  # records by figure, once computed

    @property
    def test(self) -> Split:
        if self._test is None:
            self._test = self.run.data().test
        return self._test

    @property
    def evaluation(self) -> Evaluation:
        if self._evaluation is None:
            self._evaluation = self.run.summary or self.run.evaluate(self.test)
        return self._evaluation


# ---- records: their fields are the arguments of the functions that draw them (``plots``)


class Grid(NamedTuple):
    rows: Sequence[Array]  # of images, [N, *shape] each
    labels: Sequence[str]  # of the rows
    title: str
    columns: Sequence[str] = ()
    xlabel: str = ""


class Mosaic(NamedTuple):
    images: Array  # [N, *shape]
    title: str


class Reconstructions(NamedTuple):
    originals: Array  # [N, *shape]
    reconstructions: Array
    title: str


class Interpolations(NamedTuple):
    images: Array  # [N, steps, *shape]
    ends: Array  # [N, 2, *shape] the images that a row connects
    title: str
    labels: Sequence[str] = ()  # of the rows, where classes have names


class Manifold(NamedTuple):
    images: Array  # [n * n, *shape]: i * n + j is decoded from (z[j], z[i])
    z: Array  # [n]
    title: str
    xlabel: str
    ylabel: str


class Scatter(NamedTuple):
    codes: Array  # [N, 2]
    labels: Array | None  # [N]
    title: str
    xlabel: str
    ylabel: str


class SideBySide(NamedTuple):
    left: Array  # [N, *shape]
    right: Array
    names: tuple[str, str]  # of the two
    title: str


class Curves(NamedTuple):
    history: Sequence[Mapping[str, Any]]  # one row per epoch
    title: str


# ---- one function per figure


def reconstructions(
    run: Run, shown: Split, which: str = "test images", draw_pixels: bool = False
) -> Reconstructions:
    """Originals and the decoder's means, or draws from it, at their codes."""
    originals = pixels(shown, slice(None))
    decoded = run.reconstruct(shown, draw_pixels=draw_pixels)
    mse = float(np.square(decoded - originals).mean())
    error = f"mean squared error {mse:.4f} {per_value(run)}"
    what = ", drawn from p(x|z)" if draw_pixels else ""
    title = f"Reconstructions of {which}{what}, {error}\n{heading(run)}"
    return Reconstructions(originals, decoded, title)


def denoising(run: Run, shown: Split) -> Grid:
    """Originals, corrupted copies, and the model's reconstructions of these."""
    corrupt = run.recipe.corrupt
    assert corrupt is not None
    originals = pixels(shown, slice(None))
    corrupted = np.asarray(corrupt(jax.random.key(0), jnp.asarray(originals)))
    # Not with Run.reconstruct, which would binarize them again if the data are binary.
    restore = batches.over_split(run.reconstruction, run.mesh)
    seen = shown._replace(x=corrupted, peak=1.0, render=None)
    restored = restore(seen, run.variables, jax.random.key(0))
    labels = ["original", "corrupted", "reconstruction"]
    title = f"Reconstructions of corrupted test images\n{heading(run)}"
    return Grid([originals, corrupted, restored], labels, title)


def samples(
    run: Run,
    n: int = 100,
    *,
    seed: int = 0,
    temperature: tuple[float, ...] = (1.0,),
    label: Any = None,
    draw_pixels: bool = False,
    prior: Any = None,
) -> Mosaic:
    """Decoded draws from a prior, as of ``Run.sample``."""
    what = f"Samples from {prior_called(run, prior)}"
    degrees = ", ".join(f"{one:g}" for one in temperature)
    at = "" if temperature == (1.0,) else f", temperature {degrees}"
    if run.recipe.classes is not None:
        at += ", the classes in order" if label is None else f", class {label}"
    pixels = "drawn from p(x|z)" if draw_pixels else "means of p(x|z)"
    title = f"{what}, {pixels}{at}\n{heading(run)}"
    options: dict[str, Any] = {"temperature": temperature, "draw_pixels": draw_pixels}
    return Mosaic(run.sample(n, seed=seed, y=label, prior=prior, **options), title)


def prior_called(run: Run, chosen: Any = None) -> str:
    """What a prior that ``Run.sample`` draws from is called."""
    if run.fitted is None or chosen == "own":
        return "the prior" if run.recipe.has_bound else "random codes z ~ N(0, I)"
    kind = {"gaussian": "Gaussian", "mixture": "mixture of {}", "flow": "flow"}
    size = 0 if run.fitted.kind == "flow" else len(run.fitted.params["mean"])
    return f"the {kind[run.fitted.kind].format(counted(size, 'Gaussian'))} fitted to the codes"


def before_and_after(run: Run, n: int = 64) -> SideBySide:
    """Samples from the model's own prior beside those from the fitted one."""
    images = [run.sample(n, prior=prior) for prior in ("own", "fitted")]
    names = prior_called(run, "own"), prior_called(run, "fitted")
    title = f"Samples before and after fitting a prior, means of p(x|z)\n{heading(run)}"
    return SideBySide(images[0], images[1], names, title)


def interpolations(run: Run, ends: Split, steps: int = 10, path: Path = "linear") -> Interpolations:
    """Lines between the codes of pairs of images, decoded."""
    how = "Spherical interpolation" if path == "spherical" else "Interpolation"
    shown, places = pixels(ends, slice(None)), np.arange(len(ends.x))
    start, end = (taken(ends, places[first::2]) for first in (0, 1))
    if path == "geodesic":
        way = run.geodesics(start, end, steps=steps)
        straight = float(way.straight.sum())
        saved = 100 * (1 - float(way.length.sum()) / straight) if straight else 0.0
        shorter = f"{saved:.0f} % shorter" if saved >= 0.5 else "no shorter"
        how = f"Geodesics of the decoder, {shorter} than what straight lines decode to,"
        found = run.decode_walks(way.z, start.y)
    else:
        found = run.interpolate(start, end, steps=steps, path=path)
    title = f"{how} between the codes of two test images\n{heading(run)}"
    labels = []
    if ends.y is not None and ends.y.dtype.kind == "U":
        labels = [f"{one} to {other}" for one, other in ends.y.reshape(-1, 2).tolist()]
    return Interpolations(found, shown.reshape(-1, 2, *shown.shape[1:]), title, labels)


def neighbours(
    run: Run, shown: Split, train: Split, k: int, watch: batches.Watch | None = None
) -> Grid:
    """Images, each in a row with the ``k`` training images whose codes are nearest."""
    seen = binarized(train, run.binarization, fold=0)
    rows, _ = nearest(run.encode(seen, watch=watch), run.encode(shown), k)
    found = train.images(rows.ravel()).reshape(*rows.shape, *shown.shape)
    own = pixels(shown, slice(None))
    labels = [""] * len(own) if shown.y is None else [str(label) for label in shown.y]
    columns = ["image", *(str(i) for i in range(1, k + 1))]
    title = f"Training images with the nearest codes\n{heading(run)}"
    grid = [np.concatenate([one[None], near]) for one, near in zip(own, found, strict=True)]
    return Grid(grid, labels, title, columns)


def traversals(
    of: Subject,
    *,
    image: int | None = None,
    label: Any = None,
    units: int | None = None,
    steps: int = 11,
    span: float = 3.0,
) -> Grid:
    """One row per unit, which moves alone from -span to span; the most used units first.

    By default 2 to 10 units, those in use; for a conditional model, in the middle class. If the
    prior is not N(0, I), units move over the range of the test images' codes.
    """
    run, evaluation = of.run, of.evaluation
    units = units or min(max(_in_use(evaluation), 2), 10)
    start, codes, through = None, None, "through the prior's mean"
    if image is not None:
        one = taken(of.test, np.array([image]))
        start = run.encode(one)[0]
        through = f"through test image {image}"
        if one.files is not None:
            through += f", {PurePosixPath(one.files[0]).name}"
        if label is None and one.y is not None:
            label = one.y[0]
    if not run.recipe.standard_prior:
        codes = run.encode(of.test)
        through = through if image is not None else "through the mean code of the test images"
    if run.recipe.classes is not None:
        label = run.spec.names[run.recipe.classes // 2] if label is None else label
        through += f", class {label}"
    usage = used(run, evaluation)
    found = run.traverse(
        usage, codes=codes, start=start, label=label, units=units, steps=steps, span=span
    )
    title = f"Traversals {through}: each row moves one unit{collapse(evaluation)}"
    kl = len(evaluation.kl_per_unit or ()) == run.latent_size
    names = [f"z{unit + 1}, {'KL' if kl else 'variance'} {usage[unit]:.2f}" for unit in found.units]
    columns = [f"{at:.3g}".replace("-", "−") for at in np.linspace(-span, span, steps)]
    xlabel = "standard deviations of the " + ("prior" if codes is None else "unit's codes")
    return Grid(list(found.images), names, f"{title}\n{heading(run)}", columns, xlabel)


def manifold(of: Subject, n: int = 20) -> Manifold:
    """The plane of two units, by default those with the largest KL, by the prior's inverse CDF."""
    run = of.run
    units = None if of.dims is None else (of.dims[0] - 1, of.dims[1] - 1)
    found = latent_space.manifold(run.decode, n, used(run, of.evaluation), units)
    first, second = (f"z{unit + 1}" for unit in found.units)
    rest = "" if run.latent_size == 2 else ", all other units 0"
    title = (
        f"Latent manifold, means of p(x|z) at equal steps of prior probability{rest}"
        f"{collapse(of.evaluation)}\n{heading(run)}"
    )
    return Manifold(found.images, found.z, title, first, second)


def latent_scatter(of: Subject) -> Scatter:
    """Codes of the test images with their labels; above two dimensions, their PCA."""
    run = of.run
    codes = run.encode(of.test)
    found = latent_space.plane(codes)
    if found.explained is None:
        axes = [f"z{unit} ({run.recipe.code})" for unit in range(1, codes.shape[1] + 1)]
    else:
        axes = [
            f"principal component {i} ({100 * part:.0f} % of variance)"
            for i, part in enumerate(found.explained, 1)
        ]
    what = f"Codes of {counted(len(codes), 'test image')}{collapse(of.evaluation)}"
    title = f"{what}\n{heading(run)}"
    return Scatter(found.points, of.test.y, title, axes[0], "".join(axes[1:]))


# ---- what they have in common


def pixels(split: Split, rows: slice) -> np.ndarray:
    """Images of a split as a figure shows them, in [0, 1]."""
    return split.images(rows)


def _in_use(evaluation: Evaluation) -> int:
    """How many units the codes of images use; of a hierarchy, how many vary."""
    if evaluation.active_blocks is None:
        return evaluation.active_units or 0
    return sum(variance > ACTIVE for variance in evaluation.code_variance or ())


def collapse(evaluation: Evaluation) -> str:
    """What a title adds if the codes carry no information on the images."""
    none = 0 in (evaluation.active_units, evaluation.active_blocks) or evaluation.codes_used == 1
    return "; posterior collapse: no unit is in use" if none else ""


def used(run: Run, evaluation: Evaluation) -> np.ndarray:
    """[D] how much each unit is used: its KL if known, else the variance of its code."""
    kl = np.asarray(evaluation.kl_per_unit or ())  # a plain autoencoder has none
    return kl if len(kl) == run.latent_size else np.asarray(evaluation.code_variance)


def first(split: Split, count: int) -> Split:
    """The first ``count`` images of a split, or all if there are fewer."""
    return taken(split, np.arange(min(count, len(split.x))))


def pairs(test: Split, count: int = 8, same_class: bool = False) -> Split:
    """Pairs of images: of different classes if there are labels, or of the same class.

    The first image without a partner is paired with the next that fits, up to ``count`` pairs.
    """
    if test.y is None:
        return taken(test, np.arange(2 * min(count, len(test.x) // 2)))
    found: list[tuple[int, int]] = []
    waiting: dict[Any, deque[int]] = {}  # by class, images without a partner
    for i, label in enumerate(test.y.tolist()):
        fits = label if same_class else next((other for other in waiting if other != label), None)
        if fits in waiting:
            found.append((waiting[fits].popleft(), i))
            if not waiting[fits]:
                del waiting[fits]
        else:
            waiting.setdefault(label, deque()).append(i)
    return taken(test, np.array(sorted(found)[:count], int).ravel())
