"""Images restored from what is seen of them, as a figure and as text."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from flaxvae.analysis import median
from flaxvae.report.shown import Grid
from flaxvae.report.words import heading
from flaxvae.runs.run import Run
from flaxvae.trained import Restored

Array = np.ndarray
SHOWN = 16  # images at most, in the figure


class Damaged(NamedTuple):
    """Images [N, H, W, C] as they are seen."""

    seen: Array
    hidden: Array  # [N, H, W] bool
    noise: float  # standard deviation
    original: Array | None  # where known

    @property
    def words(self) -> str:
        hidden = f"{100 * self.hidden.mean():.0f} % of pixels hidden" * bool(self.hidden.any())
        noise = f"noise of standard deviation {self.noise:g}" * bool(self.noise)
        return ", ".join(filter(None, [hidden, noise]))


def damaged(x: Array, hidden: Array, noise: float, seed: int) -> Damaged:
    """Whole images with pixels hidden and Gaussian noise added."""
    rng = np.random.default_rng(seed)
    seen = x + np.float32(noise) * rng.standard_normal(x.shape, np.float32)
    return Damaged(seen, hidden, noise, x)


def without_model(of: Damaged) -> tuple[Array, str]:
    """Images restored by medians, and what that is called; the best width, if that is known."""
    seen = median.filled(np.clip(of.seen, 0, 1), of.hidden)
    if not of.noise:
        return seen, "medians of the nearest seen pixels"
    tried = {width: median.smoothed(seen, width) for width in median.WIDTHS}
    best = median.WIDTHS[0]
    if of.original is not None:
        original = of.original
        best = max(tried, key=lambda width: median.psnr(tried[width], original))
    return tried[best], f"median filter, {best} x {best}"


def facts(found: Restored, of: Damaged, plain: tuple[Array, str]) -> dict[str, str]:
    """The numbers of a restoration as text; ``plain``: of ``without_model``."""
    count, chains = len(of.seen), found.effective.mean()
    said = {"images": f"{count}, {of.words}"}
    if of.original is not None:
        where = of.hidden if of.hidden.any() and not of.noise else None
        medians, called = plain
        repeated = np.repeat(of.original[:, None], found.completions.shape[1], 1)
        ratios = {
            "one completion": median.psnr(
                found.completions,
                repeated,
                None if where is None else np.repeat(where[:, None], repeated.shape[1], 1),
            ),
            "their mean": median.psnr(found.mean, of.original, where),
            called: median.psnr(medians, of.original, where),
        }
        pixels = "of hidden pixels" if where is not None else "of all pixels"
        said[f"PSNR {pixels}"] = ", ".join(f"{name} {db:.2f} dB" for name, db in ratios.items())
    said["sampling"] = (
        f"effective sample size {chains:.1f} of the chains, acceptance {found.acceptance:.2f}"
    )
    return said


def figure(run: Run, found: Restored, of: Damaged, plain: tuple[Array, str]) -> Grid:
    """The first images: originals, what is seen of them, completions, their mean, and medians."""
    medians, called = plain
    seen = np.where(of.hidden[..., None], 0.5, np.clip(of.seen, 0, 1))
    completions = list(np.swapaxes(found.completions, 0, 1))
    rows = [seen, *completions, found.mean, medians]
    labels = ["seen" + ", hidden pixels grey" * bool(of.hidden.any())]
    labels += [f"completion {i}" for i in range(1, len(completions) + 1)]
    labels += ["mean of completions", called]
    if of.original is not None:
        rows, labels = [of.original, *rows], ["original", *labels]
    rows = [row[:SHOWN] for row in rows]
    title = f"Restored images: draws from p(z | seen), {of.words}\n{heading(run)}"
    return Grid(rows, labels, title)
