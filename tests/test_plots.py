"""Figures hold exactly the pixels they were given, in a PNG, and leave nothing else behind."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from flaxvae.report import plots

LEVELS = np.array([0.0, 51.0, 102.0, 204.0]) / 255  # black, two greys, a light grey
Draw = Callable[[Path, np.ndarray], Path]


def images(n: int, channels: int = 1, side: int = 4) -> np.ndarray:
    rng = np.random.default_rng(n)
    return rng.choice(LEVELS, size=(n, side, side, channels))


def pixels(path: Path) -> np.ndarray:
    """The PNG's colours; nothing but the PNG may be left in its folder."""
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    with Image.open(path) as png:
        png.load()
        assert png.format == "PNG"
        return np.asarray(png.convert("RGB"))


def places(picture: np.ndarray, image: np.ndarray, scale: int) -> list[tuple[int, int]]:
    """Where ``image``, each pixel a square of ``scale``, stands in the picture, exactly."""
    one_number = np.array([1, 256, 65536])
    picture = picture @ one_number
    small = np.broadcast_to((image * 255).round().astype(int), (*image.shape[:2], 3)) @ one_number
    big = small.repeat(scale, 0).repeat(scale, 1)
    h, w = big.shape
    ends = np.r_[0:h:scale, scale - 1 : h : scale]  # the first and last row of every pixel
    found = np.ones((len(picture) - h + 1, picture.shape[1] - w + 1), bool)
    for y in ends:
        for x in ends:
            found &= picture[y : y + len(found), x : x + found.shape[1]] == big[y, x]
    return [(y, x) for y, x in np.argwhere(found) if (picture[y : y + h, x : x + w] == big).all()]


def history(epochs: int, *, kl: bool = True, validation: bool = True) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for epoch in range(1, epochs + 1):
        row: dict[str, Any] = {"epoch": epoch, "learning_rate": 1e-3, "images_per_second": 1e4}
        for part in ("train", "validation") if validation else ("train",):
            row[f"{part}_reconstruction"] = 80 + 400 / epoch**3
            if kl:
                row |= {f"{part}_kl": 25 - 20 / epoch, f"{part}_elbo": -105 - 400 / epoch**3}
        rows.append(row)
    return rows


def scatter(path: Path, codes: np.ndarray, labels: np.ndarray | None) -> Path:
    return plots.latent_scatter(path, codes, labels, title="codes", xlabel="z₁", ylabel="z₂")


FOLD: dict[str, Draw] = {
    "samples": lambda p, x: plots.samples(p, x, title="t"),
    "image_grid": lambda p, x: plots.image_grid(p, [x, x[:1]], ["all", "one"], title="t"),
    "reconstructions": lambda p, x: plots.reconstructions(p, x, x, title="t"),
    "errors": lambda p, x: plots.reconstructions(p, x, x, title="t", errors=np.ones(len(x))),
    "interpolations": lambda p, x: plots.interpolations(p, np.stack([x, x]), title="t"),
}


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (4, 1)])
@pytest.mark.parametrize("name", FOLD)
def test_every_image_is_there_pixel_for_pixel(
    name: str, shape: tuple[int, int], tmp_path: Path
) -> None:
    x = images(*shape)
    path = FOLD[name](tmp_path / "figure.png", x)
    picture = pixels(path)
    assert path == tmp_path / "figure.png"
    times = 1 if name in ("samples", "image_grid") else 2
    for image in x:
        assert len(places(picture, image, plots.TILE // 4)) >= times


def test_many_images_keep_whole_pixels(tmp_path: Path) -> None:
    x = images(100)
    picture = pixels(plots.samples(tmp_path / "figure.png", x, title="t"))
    assert all(places(picture, image, plots.LONGEST // 40) for image in x[::9])


def test_images_too_large_for_a_sheet_are_drawn_one_to_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plots, "LONGEST", 50)
    x = images(9, side=20)
    picture = pixels(plots.samples(tmp_path / "figure.png", x, title="t"))
    assert places(picture, x[0], 1) and places(picture, x[8], 1)


def test_nothing_but_the_given_levels_between_the_gaps(tmp_path: Path) -> None:
    picture = pixels(plots.samples(tmp_path / "s.png", images(9), title=""))
    assert set(np.unique(picture)) == {0, 51, 102, 204, 255}


@pytest.mark.parametrize(("pixels_a_side", "gap"), [(6, plots.GAP), (16, 0)])
def test_a_manifold_has_its_first_image_at_the_bottom_left(
    tmp_path: Path, pixels_a_side: int, gap: int
) -> None:
    x, z = images(9, side=pixels_a_side), np.array([-1.0, 0.0, 1.0])
    path = plots.manifold(tmp_path / "m.png", x, z=z, title="t", xlabel="z₁", ylabel="z₂")
    scale = plots.TILE // pixels_a_side
    picture = pixels(path)
    at = [places(picture, image, scale)[0] for image in x]
    tile = pixels_a_side * scale + gap
    top, left = at[6]
    assert at[0] == (top + 2 * tile, left) and at[8] == (top, left + 2 * tile)
    with pytest.raises(ValueError, match="needs 9 images"):
        plots.manifold(tmp_path / "m.png", x[:8], z=z, title="t", xlabel="", ylabel="")


def test_other_channels_and_broken_pixels(tmp_path: Path) -> None:
    x = images(1, channels=2)
    first = pixels(plots.samples(tmp_path / "s.png", x, title=""))
    assert places(first, x[0, :, :, :1], 80)
    x[0, 1, 1, 0] = np.nan
    assert (pixels(plots.samples(tmp_path / "s.png", x, title="")) == (255, 0, 255)).all(-1).any()


@pytest.mark.parametrize("dimensions", [1, 2, 40])
@pytest.mark.parametrize("name", FOLD)
def test_vectors_are_lines(name: str, dimensions: int, tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(3, dimensions))
    blue = np.array([int(plots.TRAIN[i : i + 2], 16) for i in (1, 3, 5)])
    assert (pixels(FOLD[name](tmp_path / "v.png", x)) == blue).all(-1).any()


@pytest.mark.parametrize("kl", [True, False])
@pytest.mark.parametrize("epochs", [1, 2, 40])
def test_curves(epochs: int, kl: bool, tmp_path: Path) -> None:
    full = pixels(plots.curves(tmp_path / "c.png", history(epochs, kl=kl), title="t"))
    lone = history(epochs, kl=kl, validation=False)
    part = pixels(plots.curves(tmp_path / "c.png", lone, title="t"))
    assert full.shape[1] > (2000 if kl else 0) and (kl or full.shape[1] < 1000)
    orange = np.array([int(plots.VALIDATION[i : i + 2], 16) for i in (1, 3, 5)])
    assert (full == orange).all(-1).any() and not (part == orange).all(-1).any()


def test_a_run_that_diverged_still_has_curves(tmp_path: Path) -> None:
    rows = history(4)
    rows[-1] |= {"train_elbo": float("nan"), "train_kl": float("inf"), "validation_elbo": None}
    pixels(plots.curves(tmp_path / "c.png", rows, title="t"))
    with pytest.raises(ValueError, match="no curve"):
        plots.curves(tmp_path / "c.png", [{"epoch": 1}], title="t")


@pytest.mark.parametrize("classes", [0, 1, 3, 10, 47])
@pytest.mark.parametrize("n", [1, 300])
def test_scatter(n: int, classes: int, tmp_path: Path) -> None:
    codes = np.random.default_rng(0).normal(size=(n, 2))
    labels = np.arange(n) % classes if classes else None
    first = pixels(scatter(tmp_path / "s.png", codes, labels))
    np.testing.assert_array_equal(first, pixels(scatter(tmp_path / "s.png", codes, labels)))
    codes[0] = np.nan
    pixels(scatter(tmp_path / "s.png", codes, labels))


def test_a_long_title_is_wrapped_and_never_cut(tmp_path: Path) -> None:
    short = pixels(plots.samples(tmp_path / "s.png", images(1), title="$1 and $2"))
    title = "many words of a title " * 12 + "and_one_word_without_an_end_" * 8
    long = pixels(plots.samples(tmp_path / "s.png", images(1), title=title))
    assert long.shape[1] == short.shape[1] and len(long) > 2 * len(short)
    border = plots.PAD // 2
    for edge in (long[:border], long[-border:], long[:, :border], long[:, -border:]):
        assert (edge == 255).all()


def test_a_title_breaks_between_words_but_not_in_an_interval() -> None:
    figure = Figure(dpi=100)
    FigureCanvasAgg(figure)
    for width in range(120, 700, 20):
        text = figure.text(0, 0, "means of p(x|z), pixels in [0, 1], and more words")
        plots._wrap(text, width)
        assert text.get_window_extent().width <= width
        assert "[0, 1]," in text.get_text().replace("\u00a0", " ")


def test_a_failure_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = plots.samples(tmp_path / "s.png", images(1), title="t")
    before = path.read_bytes()
    with pytest.raises(ValueError, match="nothing to draw"):
        plots.image_grid(path, [np.zeros((0, 4, 4, 1))], ["none"], title="t")
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_importing_the_module_does_not_import_matplotlib() -> None:
    code = "import sys, flaxvae.report.plots; sys.exit('matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
