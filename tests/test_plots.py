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

from flaxvae.report import page, plots

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


def tile(columns: int) -> int:
    """Pixels a side of images of four, so many in a row."""
    return 4 * min(page.TILE // 4, page.LONGEST // (4 * columns))


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
    "interpolations": lambda p, x: plots.interpolations(
        p, np.stack([x, x]), ends=np.stack([x[:1], x[-1:]]).repeat(2, 1), title="t"
    ),
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
    columns = len(x) + 2 * (name == "interpolations")
    for image in x:
        assert len(places(picture, image, tile(columns) // 4)) >= times


def test_many_images_keep_whole_pixels(tmp_path: Path) -> None:
    x = images(100)
    picture = pixels(plots.samples(tmp_path / "figure.png", x, title="t"))
    assert all(places(picture, image, page.LONGEST // 40) for image in x[::9])


def test_images_too_large_for_a_sheet_are_drawn_one_to_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "LONGEST", 50)
    x = images(9, side=20)
    picture = pixels(plots.samples(tmp_path / "figure.png", x, title="t"))
    assert places(picture, x[0], 1) and places(picture, x[8], 1)


def test_nothing_but_the_given_levels_between_the_gaps(tmp_path: Path) -> None:
    picture = pixels(plots.samples(tmp_path / "s.png", images(9), title=""))
    assert set(np.unique(picture)) == {0, 51, 102, 204, 255}


@pytest.mark.parametrize(("margin", "gap"), [(0, page.GAP), (1, 0)])
def test_a_manifold_has_its_first_image_at_the_bottom_left(
    tmp_path: Path, margin: int, gap: int
) -> None:
    """Its tiles touch where images have a plain margin of their own, and else stand apart."""
    pixels_a_side = 6 + 2 * margin
    x, z = images(9, side=6), np.array([-1.0, 0.0, 1.0])
    x = np.pad(x, [(0, 0), (margin, margin), (margin, margin), (0, 0)])
    path = plots.manifold(tmp_path / "m.png", x, z=z, title="t", xlabel="z₁", ylabel="z₂")
    scale = page.TILE // pixels_a_side
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


def test_rgba_is_shown_over_white() -> None:
    x = images(5, channels=4).astype(float)
    x[0, ..., 3], x[1, ..., 3] = 1, 0
    shown = page.colours(x)
    np.testing.assert_array_equal(shown[0], page.colours(x[:1, ..., :3])[0])
    assert (shown[1] == 255).all()
    over = x[..., :3] * x[..., 3:] + (1 - x[..., 3:])
    np.testing.assert_array_equal(shown, (over * 255).round())
    x[2, 1, 1, 3] = np.nan
    assert (page.colours(x)[2, 1, 1] == (255, 0, 255)).all()


@pytest.mark.parametrize("dimensions", [1, 2, 40])
@pytest.mark.parametrize("name", FOLD)
def test_vectors_are_lines(name: str, dimensions: int, tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(3, dimensions))
    blue = np.array([int(page.TRAIN[i : i + 2], 16) for i in (1, 3, 5)])
    assert (pixels(FOLD[name](tmp_path / "v.png", x)) == blue).all(-1).any()


@pytest.mark.parametrize("kl", [True, False])
@pytest.mark.parametrize("epochs", [1, 2, 40])
def test_curves(epochs: int, kl: bool, tmp_path: Path) -> None:
    full = pixels(plots.curves(tmp_path / "c.png", history(epochs, kl=kl), title="t"))
    lone = history(epochs, kl=kl, validation=False)
    part = pixels(plots.curves(tmp_path / "c.png", lone, title="t"))
    assert full.shape[1] > (2000 if kl else 0) and (kl or full.shape[1] < 1000)
    orange = np.array([int(page.VALIDATION[i : i + 2], 16) for i in (1, 3, 5)])
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
    border = page.PAD // 2
    for edge in (long[:border], long[-border:], long[:, :border], long[:, -border:]):
        assert (edge == 255).all()


def test_a_title_breaks_between_words_but_not_in_an_interval() -> None:
    figure = Figure(dpi=100)
    FigureCanvasAgg(figure)
    for width in range(120, 700, 20):
        text = figure.text(0, 0, "means of p(x|z), pixels in [0, 1], and more words")
        page.wrap(text, width)
        assert text.get_window_extent().width <= width
        assert "[0, 1]," in text.get_text().replace("\u00a0", " ")


def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved from now on."""
    found: list[Figure] = []
    save = Figure.savefig

    def watched(figure: Figure, *arguments: Any, **more: Any) -> None:
        found.append(figure)
        save(figure, *arguments, **more)

    monkeypatch.setattr(Figure, "savefig", watched)
    return found


def words(figure: Figure) -> str:
    texts = [*figure.texts, *(text for ax in figure.axes for text in ax.texts)]
    labels = [text for ax in figure.axes for text in (ax.xaxis.label, ax.yaxis.label)]
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    return " ".join([*(text.get_text() for text in [*texts, *labels]), *titles]).replace("\n", " ")


def test_an_interpolation_stands_between_its_real_ends(tmp_path: Path) -> None:
    ends, path = images(2), images(5)
    figure = plots.interpolations(tmp_path / "i.png", path[None], ends=ends[None], title="")
    picture = pixels(figure)
    rows = [places(picture, image, tile(7) // 4)[0] for image in (ends[0], *path, ends[1])]
    assert len({y for y, _ in rows}) == 1 and [x for _, x in rows] == sorted(x for _, x in rows)
    steps = np.diff([x for _, x in rows])
    assert steps[0] == steps[-1] > steps[1] == steps[2]  # the real ones stand apart


def test_a_channel_that_is_shown_alone_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = drawn(monkeypatch)
    for channels in (1, 2, 3, 4, 5):
        plots.samples(tmp_path / "s.png", images(2, channels), title="Samples\nof a run")
        said = f"(the first of {channels} channels)" in words(figures[-1])
        assert said == (channels not in (1, 3, 4))
        assert ("(RGBA over white)" in words(figures[-1])) == (channels == 4)


def test_ticks_of_a_manifold_are_whole_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = drawn(monkeypatch)
    z = np.array([-1.28, -0.52, 0.0, 0.52, 1.28])
    plots.manifold(tmp_path / "m.png", images(25), z=z, title="", xlabel="z1", ylabel="z2")
    (ax,) = figures[-1].axes
    assert [t.get_text() for t in ax.get_xticklabels()] == ["−1", "0", "1"]
    left, middle, right = ax.get_xticks()
    assert middle == sum(ax.get_xlim()) / 2
    assert right - middle == pytest.approx(middle - left)


@pytest.mark.parametrize("narrow", [0, 1])
def test_narrow_codes_fill_their_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, narrow: int
) -> None:
    figures = drawn(monkeypatch)
    codes = np.random.default_rng(0).normal(size=(200, 2))
    codes[:, narrow] *= 1e-3
    labels = np.repeat([3, 7], 100)
    scatter(tmp_path / "s.png", codes, labels)
    (ax,) = figures[-1].axes
    for limits, values in zip((ax.get_xlim(), ax.get_ylim()), codes.T):
        assert limits[0] < values.min() and values.max() < limits[1]
        assert np.ptp(values) > 0.9 * np.ptp(limits)
    assert "scale stretched" in (ax.get_xlabel(), ax.get_ylabel())[narrow]
    named = {text.get_text(): text.get_position() for text in ax.texts}
    for name in (3, 7):
        np.testing.assert_allclose(named[str(name)], np.median(codes[labels == name], 0))


def test_no_peak_is_cut_away_to_save_a_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = drawn(monkeypatch)
    for peak, cut in ((0.5, False), (50.0, True)):
        rows = [
            {"epoch": i, "train_reconstruction": 1.0 + i / 40} for i in range(1, 41)
        ]  # over 1 to 2
        rows[0]["train_reconstruction"] = 2.0 + peak
        plots.curves(tmp_path / "c.png", rows, title="t")
        (ax,) = figures[-1].axes
        assert (ax.get_ylim()[1] < 2 + peak) == cut
        assert not cut or "1" in words(figures[-1])


def test_curves_have_the_weight_of_the_kl_where_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = drawn(monkeypatch)
    for change in (False, True):
        rows = [
            row | {"kl_weight": min(1.0, i / 5) if change else 1.0}
            for i, row in enumerate(history(10))
        ]
        plots.curves(tmp_path / "c.png", rows, title="t")
        assert ("weight of the KL" in words(figures[-1])) == change


def test_end_labels_stand_at_their_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = drawn(monkeypatch)
    rows = [
        {"epoch": i, "train_reconstruction": 10.0 + i, "validation_reconstruction": 30.0 - i}
        for i in range(1, 9)
    ]
    plots.curves(tmp_path / "c.png", rows, title="t")
    (ax,) = figures[-1].axes
    low, high = ax.get_ylim()
    ends = {text.get_text().split()[0]: text for text in ax.texts}
    for part, last in (("train", 18.0), ("validation", 22.0)):
        assert abs(ends[part].get_position()[1] - (last - low) / (high - low)) < 0.05
        assert f"{last:.1f}" in ends[part].get_text()


def test_bars_are_as_long_as_their_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = drawn(monkeypatch)
    panels = {"a": {"ours": (2.0, 3.0, 4.0), "theirs": (1.0, 1.5, 2.0)}, "b": {"ours": (5, 6, 7)}}
    pixels(plots.bars(tmp_path / "b.png", panels, title="t", xlabel="images/s"))
    for ax, found in zip(figures[-1].axes, panels.values()):
        assert [bar.get_width() for bar in ax.patches] == [
            middle for _, middle, _ in found.values()
        ]
        spans = [tuple(line.get_xdata()) for line in ax.lines]
        assert spans == [(low, high) for low, _, high in found.values()]
    assert [t.get_text() for t in figures[-1].axes[0].get_yticklabels()] == ["theirs", "ours"]


def test_a_failure_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = plots.samples(tmp_path / "s.png", images(1), title="t")
    before = path.read_bytes()
    with pytest.raises(ValueError, match="nothing to draw"):
        plots.image_grid(path, [np.zeros((0, 4, 4, 1))], ["none"], title="t")
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_importing_the_module_does_not_import_matplotlib() -> None:
    code = "import sys, flaxvae.report.plots; sys.exit('matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
