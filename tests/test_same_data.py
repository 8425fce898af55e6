"""A run's data found again: the same images, and where they matter the same labels."""

import json
import shutil

import numpy as np
import pytest

import flaxvae
from conftest import TINY
from flaxvae import cli
from flaxvae.data import pipeline, sources
from flaxvae.errors import DataError, UsageError
from flaxvae.recipe import DataSpec
from flaxvae.report import words
from flaxvae.runs.folder import RunFolder
from flaxvae.runs.run import same_data
from flaxvae.settings import DataSettings

pytestmark = pytest.mark.usefixtures("no_figures")

FILE = "years.npz"
SHORT = {**TINY, "dataset": FILE, "epochs": 2}


def years(y):
    """Labels 1990, 1993 … 2017."""
    return 1990 + 3 * y.astype(np.int64)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with digits labelled by years, a cvae and a vae of them."""
    path = tmp_path_factory.mktemp("years")
    found = sources.load("digits")
    arrays = {"x_train": found.train.x / 16, "x_test": found.test.x / 16}
    labels = {"y_train": years(found.train.y), "y_test": years(found.test.y)}
    np.savez(path / FILE, **arrays, **labels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flaxvae.api.drawn", lambda *arguments: {})
        patch.chdir(path)
        for model in ("cvae", "vae"):
            flaxvae.train(progress=False, model=model, run=model, **SHORT)
    return path


@pytest.fixture
def here(home, tmp_path, monkeypatch):
    """A copy of it, to change."""
    shutil.copytree(home, tmp_path / "home", symlinks=True)
    monkeypatch.chdir(tmp_path / "home")
    return tmp_path / "home"


def relabel(change):
    arrays = dict(np.load(FILE))
    for key in ("y_train", "y_test"):
        arrays[key] = change(arrays[key])
    np.savez(FILE, **arrays)


def fails(capsys, line, code=3):
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        cli.main(line.split())
    said = capsys.readouterr().err
    assert stop.value.code == code and said.count("\n") == 1
    return said


RESUME = "train --resume {} --epochs 3"


@pytest.mark.parametrize("line", ["eval {}", RESUME, "encode {}", "figures {}", "interpolate {}"])
def test_permuted_labels_are_other_data_for_a_model_that_uses_them(here, capsys, line):
    relabel(lambda y: np.random.default_rng(0).permutation(y))
    before = sorted((here / "cvae").rglob("*"))
    said = fails(capsys, line.format("cvae"))
    assert "the labels of years.npz are not those of" in said and "sha256" in said
    assert sorted((here / "cvae").rglob("*")) == before


def test_permuted_labels_are_a_note_for_one_that_does_not(here, capsys):
    cli.main(["eval", "vae"])
    before = json.loads((here / "vae" / "evaluation.json").read_text())
    relabel(lambda y: np.random.default_rng(0).permutation(y))
    cli.main(["eval", "vae"])
    assert json.loads((here / "vae" / "evaluation.json").read_text()) == before
    capsys.readouterr()
    cli.main(RESUME.format("vae").split())
    assert "the labels are not those of" in " ".join(capsys.readouterr().out.split())


def test_a_run_that_knows_no_hash_of_labels_knows_its_classes(home, monkeypatch):
    """As flaxvae wrote runs before: no hash of labels, classes by their number."""
    monkeypatch.chdir(home)
    folder = RunFolder.open("cvae")
    record = {k: v for k, v in folder.record().items() if k != "labels_sha256"}
    data = pipeline.prepare(DataSettings(FILE))
    assert same_data(record, folder.spec(), True, data, home) is data
    for change in ({"labels": tuple(range(10))}, {"labels": None}, {"classes": 2018}):
        old = folder.spec()._replace(**{"labels": None, "classes": 10} | change)
        with pytest.raises(DataError, match=r"the classes of .* seen 1990, 1993, .*, 2017;"):
            same_data(record, old, True, data, home)
        assert same_data(record, old, False, data, home) is data
    fields = ("name", "shape", "classes", "binary", "levels", "examples")
    spec = DataSpec(**{name: getattr(data.spec, name) for name in fields})  # of digits, as it was
    plain = data._replace(spec=spec)
    assert same_data(record, spec, True, plain, home) is plain


def test_a_sweep_goes_on_with_its_own_labels_only(here, capsys, monkeypatch):
    from flaxvae import sweeps

    stopped = RuntimeError("stopped")

    def stop(*arguments):
        raise stopped

    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(sweeps.members, "mesh_of", stop)  # after sweep.json is written
        sweeps.sweep(model="cvae", progress=False, seeds=2, run="sweep", **SHORT)
    relabel(lambda y: np.random.default_rng(0).permutation(y))
    assert "the labels of years.npz" in fails(capsys, "sweep --resume sweep")


def test_everyone_speaks_the_labels_of_the_file(home, monkeypatch, capsys):
    monkeypatch.chdir(home)
    run = flaxvae.load("cvae")
    assert run.spec.classes == 10 and run.spec.labels == tuple(range(1990, 2018, 3))
    test = run.data().test
    assert set(test.y.tolist()) == set(run.spec.labels)
    np.testing.assert_array_equal(test.classes, (test.y - 1990) // 3)
    for y in (1993, "1993", 1993.0, np.str_("1993"), np.int16(1993), [1993] * 4, ["1993"] * 4):
        np.testing.assert_array_equal(run.sample(4, y=y), run.sample(4, y=1993))
    assert (run.sample(4, y=1996) != run.sample(4, y=1993)).any()
    by_class = run.sample(20, y=np.repeat(run.spec.labels, 2))
    np.testing.assert_array_equal(run.sample(20), by_class)
    for y in (1, 1994, "1990s", -1, None, np.nan):
        with pytest.raises(UsageError, match=r"1990, 1993, .*, 2017"):
            run.sample(4, y=[y] * 4 if y is None else y)
    for line in (
        "sample cvae --label 1993 --n 4 --out a.png",
        "traverse cvae --label 2017 --out b.png",
        "traverse cvae --image 3 --out c.png",
        "encode cvae --out z.npz",
    ):
        cli.main(line.split())
    np.testing.assert_array_equal(np.load("z.npz")["labels"], test.y)
    assert "label 3: expected 1990" in fails(capsys, "sample cvae --label 3", 2)


@pytest.mark.slow
def test_figures_of_named_classes(tmp_path, monkeypatch):
    """Every figure of every kind of model is drawn with text for labels."""
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    found = sources.load("digits")
    names = np.array(["nought", *"abcdefghi"])
    np.savez(FILE, x=found.test.x / 16, y=names[found.test.y])
    for model in ("cvae", "denoising_ae"):
        run = flaxvae.train(progress=False, model=model, run=model, **{**SHORT, "epochs": 1})
        assert len(list(run.folder.figures.iterdir())) >= 5
    run = flaxvae.load("cvae")
    assert run.spec.names == tuple(sorted(names.tolist()))
    with pytest.raises(UsageError, match=r"label nougat: .*did you mean 'nought'"):
        run.sample(1, y="nougat")


def test_a_class_that_training_never_saw_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = sources.load("digits")
    known = found.train.y != 7
    np.savez(
        FILE,
        x_train=found.train.x[known] / 16,
        y_train=found.train.y[known],
        x_test=found.test.x / 16,
        y_test=found.test.y,
    )
    line = words.data_line(pipeline.prepare(DataSettings(FILE)))
    assert line.startswith("years, pixels in [0, 1]: 8 x 8 x 1 (h x w x c), ")
    assert line.endswith("(years.npz); labels that only test images have: 7")


def test_labels_that_cannot_be_used(tmp_path, monkeypatch, capsys):
    """Only a model that needs them refuses, and says why."""
    monkeypatch.chdir(tmp_path)
    found = sources.load("digits")
    np.savez(FILE, x=found.train.x / 16, y=found.train.y / 2)
    line = "train --dataset years.npz --net mlp --widths 32 --epochs 1 --devices 1 --run a --model "
    said = fails(capsys, line + "cvae", 2)
    assert "--model cvae on years" in said and "expected whole numbers): expected labels" in said
    assert not (tmp_path / "a").exists()
    cli.main((line + "vae").split())
    assert "without labels: training labels are float64, 2.5" in " ".join(
        capsys.readouterr().out.split()
    )
    note = json.loads((tmp_path / "a" / "run.json").read_text())["data_notes"][0]
    assert note.startswith("without labels: ")
