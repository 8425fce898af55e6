"""``flaxvae disentangle``: on sprites, on a file of factors, and what it refuses."""

import json
import shutil

import jax
import numpy as np
import pytest
from sklearn.metrics import mutual_info_score

import flaxvae as fv
from conftest import said as run
from flaxvae.analysis.disentanglement import codes
from flaxvae.data import sources, sprites
from flaxvae.data.pipeline import Split
from flaxvae.report import disentanglement as report

NAMES = [name for name, _ in sprites.FACTORS]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The folder of a small untrained autoencoder on few sprites."""
    whole = sources.load

    def load(*asked):
        found = whole(*asked)
        if not found.factors:
            return found

        def cut(part, count):
            return part._replace(x=part.x[:count], y=part.y[:count], factors=part.factors[:count])

        parts = {"train": cut(found.train, 64), "test": cut(found.test, 240)}
        return found._replace(**parts, validation=cut(found.validation, 16))

    path = tmp_path_factory.mktemp("runs") / "sprites"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "load", load)
        choices = {"model": "ae", "net": "mlp", "widths": (16,), "latent_dim": 3, "epochs": 0}
        with pytest.MonkeyPatch.context() as other:
            other.setattr("flaxvae.api.drawn", lambda *arguments: {})
            fv.train("sprites", **choices, run=str(path), progress=False, devices=1)
        yield path


@pytest.mark.slow
def test_of_sprites(drawn, tmp_path, capsys):
    """The numbers are those of the codes of the test images, and the files are as printed."""
    other = shutil.copytree(drawn, tmp_path / "other")
    code, out, err = run(f"disentangle {drawn} --udr {other}", capsys)
    assert (code, err) == (0, "")
    found = json.loads((drawn / "disentanglement-udr-other.json").read_text())
    model = fv.load(drawn)
    test = model.data().test
    z = model.encode(test)
    for d, column in enumerate(z.T):
        edges = np.linspace(column.min(), column.max(), 21)[1:-1]
        nats = [mutual_info_score(np.digitize(column, edges), v) for v in test.factors.T]
        np.testing.assert_allclose(found["information"][d], nats, atol=0.02)
    order = np.sort(found["information"], 0)
    gaps = (order[-1] - order[-2]) / found["entropy"]
    np.testing.assert_allclose(found["mig_of_factors"], gaps)
    np.testing.assert_allclose(found["mig"], gaps.mean())
    assert found["factors"] == NAMES and found["unordered"] == ["shape"]
    assert found["images"] == 240 and found["step"] == 0 and found["used"] == [True] * 3
    assert 0 < found["udr"]["median"] <= 1 and len(found["udr"]["runs"]) == 1
    words = out.split()
    names = "beta_vae factor_vae mig sap dci_disentanglement modularity explicitness irs"
    for name in names.split():
        assert f"{found[name]:.3f}," in words, name
    assert all(any(line.startswith(name) for line in out.splitlines()) for name in NAMES)
    assert max(map(len, out.splitlines())) <= 80
    figure = drawn / "figures" / "mutual_information.png"
    before = figure.with_stem("mutual_information-udr-other").read_bytes()
    code, out, _ = run(f"figures {drawn} --only mutual_information", capsys)
    assert code == 0 and "mutual_information.png" in out
    assert figure.read_bytes() == before and before.startswith(b"\x89PNG")
    code, out, _ = run(f"verify {drawn}", capsys)
    assert code == 0 and "240 images, 5 factors" in out and "not read" not in out


@pytest.mark.slow
def test_of_some_factors_and_of_draws(drawn, capsys):
    """An autoencoder draws nothing, so its draws are its codes; fewer factors are counted."""
    code, out, err = run(f"disentangle {drawn} --draws --without shape orientation x", capsys)
    assert (code, err) == (0, "")
    path = drawn / "disentanglement-draws-without-shape_orientation_x.json"
    found = json.loads(path.read_text())
    assert found["factors"] == ["scale", "y"] and found["codes"] == "draws from q(z|x)"
    assert found["unordered"] == [] and "by chance 0.50" in out
    assert "not counted: shape, orientation, x" in " ".join(out.split())


def test_of_a_file_with_factors(trained, capsys, tmp_path, monkeypatch):
    """Under dSprites' own name for them, whose first factor has one value."""
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).integers(0, 17, (60, 8, 8)).astype(np.uint8)
    x[:30] //= 4
    factors = np.stack([np.arange(60) // 30, np.arange(60) % 3], 1)
    np.savez("dsprites.npz", x=x, latents_classes=np.c_[np.zeros(60, int), factors])
    code, out, err = run(f"disentangle {trained} dsprites.npz --without factor-1", capsys)
    assert code == 0, err
    name = "disentanglement-images-dsprites-without-factor-1.json"
    found = json.loads((trained / name).read_text())
    assert found["factors"] == ["factor-2", "factor-3"] and found["data"] == "dsprites.npz"
    code, _, err = run(f"disentangle {trained} dsprites.npz", capsys)
    assert code == 3 and "factor-1 has one value in all 60 images" in err
    for wrong, words in (
        ({}, 'no array "factors" with a row for each of 60 images'),
        ({"factors": factors[:, 0]}, "factors of shape (60,): expected [60, F]"),
        ({"factors": factors[:50]}, "factors left out: not one entry for each of the 60 images"),
        (
            {"factors": np.stack([np.arange(60), factors[:, 0]], 1)},
            "60 values in 60 images: expected several",
        ),
        (
            {"factors": np.where(np.arange(60)[:, None] == 7, np.nan, factors)},
            "factor factor-1 has values that are no numbers, first of image 7",
        ),
    ):
        np.savez("wrong.npz", x=x, **wrong)
        code, out, err = run(f"disentangle {trained} wrong.npz", capsys)
        said = " ".join((out + err).split())
        assert code == 3 and words in said and err.count("\n") == 1, said
    assert not list(trained.glob("*wrong*"))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--without shap", "did you mean 'shape'"),
        ("--without shape scale orientation x", "1 factor left; expected two or more"),
        ("--unordered hue", "--unordered hue: expected some of shape, scale"),
        ("--bins 0", "1 or more"),
    ],
)
def test_misuse(drawn, capsys, flags, words):
    before = sorted(drawn.iterdir())
    code, _, err = run(f"disentangle {drawn} {flags}", capsys)
    assert code == 2 and words in err and err.count("\n") == 1, err
    assert sorted(drawn.iterdir()) == before


def test_a_run_without_factors_and_one_of_other_images(trained, drawn, capsys):
    code, _, err = run(f"disentangle {trained}", capsys)
    assert code == 2 and "has no factors: digits" in err and err.count("\n") == 1
    code, _, err = run(f"disentangle {drawn} --udr {trained}", capsys)
    assert code == 2 and "images of 8 x 8 x 1, expected 64 x 64 x 1" in err
    code, _, err = run(f"disentangle {drawn} --udr {drawn}", capsys)
    assert code == 2 and "the same run twice: expected runs with other seeds" in err


def test_fresh_images_share_the_factor_that_is_fixed():
    """``encode`` gives the rows themselves; of three factors the last two are counted."""
    like = Split(np.zeros((1, 3), np.uint8), None, 1.0, render=sprites.draw)
    sample = codes.rendered(lambda split, key: split.x, like, (2, 40, 7), (1, 2))
    fixed = np.repeat([0, 1], 400)
    found = sample(np.random.default_rng(0), fixed, 6)
    assert found.shape == (800, 6, 3)
    still = (found == found[:, :1]).all(1)
    assert still[:400, 1].all() and still[400:, 2].all() and still.mean() < 0.4
    assert set(found[:400, 0, 1]) == set(range(40)) and set(found[..., 2].ravel()) == set(range(7))


def test_fresh_is_refused_without_a_way_to_render(trained, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("images.npz", x=np.zeros((4, 8, 8), np.uint8), factors=np.eye(4, 2))
    code, _, err = run(f"disentangle {trained} images.npz --fresh", capsys)
    assert code == 2 and "--fresh with --images images.npz" in err


def test_draws_are_of_the_posterior(trained):
    """Their mean is the code, and they differ from key to key."""
    model = fv.load(trained)
    split = model.split(np.random.default_rng(0).integers(0, 17, (8, 8, 8)).astype(np.uint8))
    encode = codes.encoder(model.recipe, model.variables, model.mesh, draws=True)
    some = np.stack([encode(split, jax.random.key(i)) for i in range(100)])
    error = 5 * some.std(0) / np.sqrt(100)
    assert (np.abs(some.mean(0) - model.encode(split)) < error).all() and error.min() > 0


def test_of_many_units_the_figure_has_those_that_know_most(drawn, tmp_path):
    nats = np.random.default_rng(0).uniform(0, 0.1, (100, 2))
    nats[77, 1] = nats[3, 0] = 0.6
    found = report.matrix(
        fv.load(drawn), nats, np.log([2, 3]), np.arange(100) != 3, ("a", "b"), "code"
    )
    assert len(found.units) == report.MOST and {"z78", "z4, unused"} <= set(found.units)
    assert found.parts[found.units.index("z78"), 1] == pytest.approx(0.6 / np.log(3))
    assert "40 of 100 units" in found.title
    report.draw_matrix(tmp_path / "x.png", **found._asdict())
    assert (tmp_path / "x.png").stat().st_size > 1000
