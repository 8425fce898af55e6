"""The page of a run: what it says is so, and what it shows is there; what is missing, it says."""

import base64
import io
import json
import re
import shlex
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import flaxvae
from flaxvae import api, cli, flags, lookup
from flaxvae.data.pipeline import Split
from flaxvae.errors import DataError
from flaxvae.plan import flat, make_plan
from flaxvae.report import again
from flaxvae.report.html import pictured, pictures
from flaxvae.report.html import run as html
from flaxvae.report.shown import Subject
from flaxvae.runs import pages
from flaxvae.runs.folder import RunFolder
from test_html import Seen


@pytest.fixture(scope="module")
def whole(trained, tmp_path_factory):
    """A copy of a finished run with its page."""
    return shutil.copytree(trained, tmp_path_factory.mktemp("page") / "run")


def said(path):
    return " ".join(" ".join(Seen((path / pages.NAME).read_text()).text).split())


def test_a_training_ends_in_a_page(whole):
    text, summary = said(whole), json.loads((whole / "summary.json").read_text())["test"]
    expected = [
        f"{-summary['elbo']:.2f} ± {summary['elbo_standard_error']:.2f} nats per image",
        f"{summary['reconstruction']:.2f} nats, cross-entropy",
        f"summing to {summary['kl']:.2f} nats",
        "vae on digits, pixels in [0, 1]",
        "Best reconstructions",
        "Worst reconstructions",
        "Manifold",
        "Samples from the prior",
        "Traversals",
        "Interpolations",
    ]
    assert [one for one in expected if one not in text] == []


def test_a_page_needs_nothing_else(whole):
    page = (whole / pages.NAME).read_text()
    seen = Seen(page)
    sources = [own[key] for _, own in seen.elements for key in ("src", "href") if key in own]
    assert sources and all(one.startswith(("data:", "#")) for one in sources)
    assert "@import" not in page and not re.search(r"url\((?!data:)", page)
    ids = [own["id"] for _, own in seen.elements if "id" in own]
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in sources if link.startswith("#")} <= set(ids)
    assert all("alt" in own for name, own in seen.elements if name == "img")
    assert all(own["aria-label"] for name, own in seen.elements if name == "svg")
    levels = [int(name[1]) for name, _ in seen.elements if re.fullmatch("h[1-6]", name)]
    assert levels[0] == 1 and levels.count(1) == 1 and max(np.diff(levels)) <= 1


def test_best_and_worst_are_those_of_all(whole):
    run = flaxvae.load(whole)
    test = run.data().test
    errors = np.square(run.reconstruct(test) - test.images()).reshape(len(test.x), -1).mean(1)
    order = np.argsort(errors, kind="stable")
    text = said(whole)
    for name, some in ("Best", order[:10]), ("Worst", order[:-11:-1]):
        which = ", ".join(f"test image {i}" for i in some)
        assert f"{name} of all 360" in text and which in text


def test_every_point_has_its_image(whole):
    page = (whole / pages.NAME).read_text()
    [sheet] = [own for _, own in Seen(page).elements if own.get("class") == "sheet"]
    shown = np.asarray(opened(sheet["src"]).convert("L"))
    run = flaxvae.load(whole)
    test, values = run.data().test, []
    for raw in re.findall(r'class="values">(.*?)</script>', page):
        found = json.loads(raw)
        values += found["values"] if found["near"] == "xy" else []
    assert len(values) == len(test.x)
    columns = shown.shape[1] // 8
    for _, _, tip, number in values[::40]:
        label, row = re.fullmatch(r"(\d) · test image (\d+)", tip).groups()
        top, left = number // columns * 8, number % columns * 8
        tile = shown[top : top + 8, left : left + 8] / 255
        np.testing.assert_allclose(tile, test.images()[int(row), ..., 0], atol=0.5 / 14 + 1e-3)
        assert str(test.y[int(row)]) == label


def opened(uri):
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_are_their_pixels(channels):
    images = np.random.default_rng(0).uniform(size=(5, 3, 4, channels))
    images[0, 0, 0] = np.nan
    [(_, own)] = Seen(pictures.tiles(images, 2, "five <of> them", gap=1)).elements
    assert own["alt"] == "five <of> them" and (own["width"], own["height"]) == ("189", "231")
    rgba = np.asarray(opened(own["src"]).convert("RGBA"))
    assert rgba.shape == (3 * 4 - 1, 2 * 5 - 1, 4)
    assert (rgba[:3, :4, 3] == 255).all() and (rgba[3, :, 3] == 0).all()
    assert (rgba[8:, 5:, 3] == 0).all()  # there is no sixth
    assert tuple(rgba[0, 0]) == (255, 0, 255, 255)  # not a number
    expected = np.broadcast_to(images[3] * 255, (3, 4, 3))
    np.testing.assert_allclose(rgba[4:7, 5:9, :3], expected, atol=0.51)


@pytest.mark.parametrize("show", ["tiles", "strips"])
def test_large_images_are_averaged_so_that_a_picture_is_no_larger(show):
    images = np.random.default_rng(0).uniform(size=(10, 129, 128, 3))
    if show == "tiles":
        page = pictures.tiles(images, 10, "ten", gap=0)
    else:
        page = pictures.strips([("a", images), ("b", images)], "twenty", gap=0)
    shown = [opened(own["src"]) for name, own in Seen(page).elements if name == "img"]
    assert sum(3 * one.width * one.height for one in shown) <= pictures.VALUES
    assert {one.size for one in shown} == {(640, 64)}  # the row that is left over is cut off
    last = np.asarray(shown[0].convert("RGB"))[63, 63] / 255
    np.testing.assert_allclose(last, images[0, 126:128, 126:].mean((0, 1)), atol=0.51 / 255)


def test_grey_pictures_keep_what_can_be_seen():
    images = np.linspace(0, 1, 48).reshape(1, 6, 8, 1)
    for greys in (64, 15):
        raw = pictures.png(
            np.repeat(np.round(images[0] * 255).astype(np.uint8), 3, -1), greys=greys
        )
        found = np.asarray(Image.open(io.BytesIO(raw)).convert("L")) / 255
        np.testing.assert_allclose(found, images[0, ..., 0], atol=0.5 / (greys - 1) + 1e-2)


PLANS = [
    {},
    {"model": "beta_vae", "beta": 4.0, "dataset": "mnist", "latent_dim": 3},
    {"net": "mlp", "widths": (32, 16), "flip": False, "epochs": 3, "seed": 7},
    {"model": "iwae", "binarization": "fixed", "k": 5, "learning_rate": 3e-4, "normal": ("1", "2")},
    {"dataset": "my pictures/<b>", "image_size": (32, 48), "validation": 0.1, "ema": 0.99},
]


@pytest.mark.parametrize("choices", PLANS)
def test_the_command_makes_the_same_plan(choices, tmp_path, monkeypatch):
    choices = dict(choices)
    plan = make_plan(choices.pop("model", "vae"), **choices)
    folder = RunFolder(tmp_path)
    monkeypatch.setattr(folder, "plan", lambda: plan)
    program, name, *words = shlex.split(again.again(folder))
    assert (program, name) == ("flaxvae", "train")
    found = []

    def record(model="vae", recipes=flags.NO_RECIPES, **choices):
        found.append(make_plan(lookup.recipe(model), **choices))

    monkeypatch.setattr(api, "execute", lambda plan, **_: found.append(plan))
    cli.main([name, *words, "--no-cache"])
    assert flat(found[0]) == flat(plan)


@pytest.mark.parametrize("rows", ["0", "0," + "1" * 200_000, "one,1", "2,1"])
def test_scores_that_are_damaged_are_refused(rows, tmp_path):
    (tmp_path / "scores.csv").write_text(f"index,score\n{rows}\n")
    test = Split(np.zeros((1, 2, 2, 1), np.uint8), None, 255)
    with pytest.raises(ValueError):
        pictured._scored(tmp_path / "scores.csv", test)


def test_scores_of_which_the_parameters_are_not_known_are_not_shown(tmp_path):
    (tmp_path / "scores.csv").write_text("index,score\n0,1.5\n")
    spec, folder = SimpleNamespace(kind="images"), SimpleNamespace(path=tmp_path)
    run = SimpleNamespace(path=tmp_path, spec=spec, folder=folder)
    section = pictured._anomalies(SimpleNamespace(run=run, test=None))
    assert "it is not known which parameters" in section.body


def test_a_diagnosis_nested_deep_is_not_read(tmp_path):
    (tmp_path / "diagnosis.json").write_text("[" * 100_000 + "]" * 100_000)
    run = SimpleNamespace(folder=SimpleNamespace(path=tmp_path), step=1)
    assert html._diagnosis(run, None) == ("", False)


def test_a_run_that_is_not_finished_says_so(stopped, tmp_path, capsys):
    path = shutil.copytree(stopped, tmp_path / "run")
    cli.main(["report", str(path)])
    assert capsys.readouterr().out.strip().endswith("run/report.html")
    text = said(path)
    assert "Training is not finished: this is step 15" in text
    assert f"flaxvae train --resume {path}" in text


def test_a_run_without_a_model_has_its_settings_and_curves(whole, tmp_path, capsys):
    path = shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(path / "checkpoints")
    with pytest.raises(SystemExit):
        cli.main(["report", str(path), str(tmp_path / "none")])
    assert capsys.readouterr().out.endswith("run/report.html\n")  # what is written is said
    text = said(path)
    assert "There is no model to show:" in text and "has no checkpoints" in text
    assert "Training" in text and "flaxvae train" in text and "Samples" not in text


def test_a_run_whose_data_have_moved_says_so(whole, tmp_path, monkeypatch):
    path = shutil.copytree(whole, tmp_path / "run")
    run = flaxvae.load(path)

    def gone(self, *_):
        raise DataError("images.npz: no such file")

    monkeypatch.setattr(type(run), "data", gone)
    html.write(Subject(run))
    text = said(path)
    assert "Pictures of test images are missing: images.npz: no such file" in text
    assert f"{-run.summary.elbo:.2f}" in text and "KL of each dimension" in text


def test_a_page_that_cannot_be_written_does_not_lose_the_run(whole, monkeypatch):
    def fails(of):
        raise RuntimeError("no page today\nwith a second line")

    monkeypatch.setattr(api.html, "write", fails)
    monkeypatch.setattr(api.figures, "write", lambda *arguments: [])
    monkeypatch.setattr(api.outside, "flag", lambda recipes: ["--recipes", "mine.py"])
    facts = api.drawn(Subject(flaxvae.load(whole)), lambda *arguments: None)
    assert facts["page"].startswith("not written (no page today); write it with `flaxvae report")
    assert facts["page"].endswith(" --recipes mine.py`")


def test_verify_reads_the_page(whole, tmp_path):
    path = tmp_path / pages.NAME
    raw = (whole / pages.NAME).read_bytes()
    path.write_bytes(raw)
    variables = json.loads((whole / "summary.json").read_text())["variables_sha256"]
    assert pages.check(path) == (variables, f"{len(raw):,} bytes, sha256 as written")
    for damaged in (raw[:-1], raw.replace(b"nats", b"bits", 1), raw[:5000], b""):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="write it again"):
            pages.check(path)


def test_a_page_that_cannot_be_written_is_one_line(whole, tmp_path, capsys):
    path = shutil.copytree(whole, tmp_path / "run")
    (path / pages.NAME).unlink()
    (path / pages.NAME).mkdir()
    with pytest.raises(SystemExit) as stop:
        cli.main(["report", str(path)])
    assert stop.value.code == 3
    assert capsys.readouterr().err.count("\n") == 1
