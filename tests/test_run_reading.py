"""Pictures that a run has not seen become rows as its own did, and keep their names."""

import csv
import io
import shutil
import types
import zipfile

import numpy as np
import pytest
from PIL import Image

import flaxvae
from flaxvae import cli
from flaxvae.data import pictures
from flaxvae.data.pictures import Preprocessing
from flaxvae.errors import DataError, UsageError
from flaxvae.runs import reading
from flaxvae.settings import Place

SMALL = {"net": "mlp", "widths": (16,), "latent_dim": 2, "batch_size": 8, "devices": 1}
HOW = Preprocessing(8, 10, 3, "fit", "grey", 255)
CLASSES = "cat", "dog"


def content(seed, size=(12, 9), mode="RGB"):
    """A PNG file."""
    image = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 4), np.uint8))
    file = io.BytesIO()
    (image if mode == "RGBA" else image.convert(mode)).save(file, "PNG")
    return file.getvalue()


def written(path, files):
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


@pytest.fixture(scope="module")
def cached(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLAXVAE_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def project(tmp_path_factory, cached):
    """A folder with pets, pictures of two classes and sizes, and a run of them."""
    path = tmp_path_factory.mktemp("project")
    names = [f"{CLASSES[i % 2]}/{i:02}.png" for i in range(40)]
    sizes = [(12, 9), (8, 15)]
    written(path / "pets", {name: content(i, sizes[i % 3 > 0]) for i, name in enumerate(names)})
    options = {"image_size": "8x10", "resize": "fit", "background": "grey", "epochs": 1}
    where = {"run": str(path / "run"), "progress": False}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flaxvae.api.drawn", lambda *arguments: {})
        flaxvae.train(str(path / "pets"), **where, **options, **SMALL)
    return path


@pytest.fixture
def run(project):
    return flaxvae.load(project / "run")


@pytest.fixture
def new(tmp_path):
    """Pictures as they come: another size, transparent, grey, and a file that is none."""
    files = {
        "dog/a.png": content(1, (30, 20), "RGBA"),
        "cat/b.png": content(2, (9, 9), "L"),
        "cat/c.png": b"no picture",
        "cat/d.png": content(3, (8, 10)),
    }
    return written(tmp_path / "new", files)


def command(capsys, line):
    """Exit code, stdout and stderr."""
    code = 0
    try:
        cli.main([*line.split(), "--no-cache"])  # compiled programs are where those of tests are
    except SystemExit as stop:
        code = stop.code
    return code, *capsys.readouterr()


def rows(path, files, how=HOW):
    with pictures.decoding():
        return np.stack([pictures.row((path / name).read_bytes(), how)[1] for name in files])


def test_a_runs_own_pictures_are_read_as_they_were_for_it(project, run):
    found, test = run.read(project / "pets"), run.data().test
    assert found.x.dtype == np.uint8 and found.x.shape == (40, 8, 10, 3)
    assert found.files == sorted(found.files) and len(test.files) >= 1
    at = [found.files.index(name) for name in test.files]
    np.testing.assert_array_equal(found.x[at], test.x[:])
    np.testing.assert_array_equal(found.y[at], test.y)
    np.testing.assert_allclose(run.score(found)[at], run.score(test), rtol=1e-5)


def test_new_pictures(run, new, capsys):
    found = run.read(new)
    said = capsys.readouterr().err
    assert "1 file left out: cat/c.png" in said and "resized to 8x10 (fit)" in said
    assert "--image-size" not in said and "1 picture with transparency drawn over grey" in said
    assert found.files == ["cat/b.png", "cat/d.png", "dog/a.png"]
    assert found.y.tolist() == ["cat", "cat", "dog"] and found.peak == 255
    np.testing.assert_array_equal(found.x[:], rows(new, found.files))
    np.testing.assert_array_equal(run.encode(new), run.encode(found.x[:]))
    np.testing.assert_array_equal(run.reconstruct(new), run.reconstruct(found))


def test_an_archive_and_a_file_are_read_like_a_folder(run, new, tmp_path):
    whole = run.read(new)
    with zipfile.ZipFile(tmp_path / "new.zip", "w") as archive:
        for name in whole.files:
            archive.write(new / name, name)
    zipped = run.read(tmp_path / "new.zip")
    assert zipped.files == whole.files
    np.testing.assert_array_equal(zipped.x[:], whole.x[:])
    scores = run.score(whole)
    for name, score in zip(whole.files, scores, strict=True):
        one = run.read(new / name)
        assert one.files == [name.split("/")[1]]
        assert run.score(one) == pytest.approx(score, rel=1e-5)  # in any company


def test_encode_and_score_keep_names(project, run, new, capsys, tmp_path):
    code, out, err = command(capsys, f"encode {project / 'run'} {new} --out {tmp_path / 'z.npz'}")
    assert code == 0 and "cat/c.png" in err and out.endswith("z.npz\n")
    read = run.read(new)
    with np.load(tmp_path / "z.npz") as found:
        assert set(found) == {"z", "score", "labels", "files"}
        assert found["files"].tolist() == read.files and found["labels"].tolist() == list(read.y)
        np.testing.assert_array_equal(found["z"], run.encode(read))
        scores = dict(zip(read.files, found["score"], strict=True))
    code, out, err = command(capsys, f"score {project / 'run'} --images {new} --scores elbo")
    path = project / "run" / "scores-images-new-scores-elbo.csv"
    assert code == 0 and out.splitlines()[-1] == str(path) and "cat/c.png" in err
    with path.open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["file"] for row in table] == sorted(scores, key=scores.get, reverse=True)
    assert [line.split()[1] for line in out.splitlines()[2 : 2 + len(table)]] == [
        row["file"] for row in table
    ]
    for row in table:
        assert np.float32(row["score"]) == scores[row["file"]]
        assert row["label"] == row["file"].split("/")[0]
    code, out, _ = command(
        capsys, f"reconstruct {project / 'run'} {new} --out {tmp_path / 'r.png'}"
    )
    assert code == 0 and (tmp_path / "r.png").stat().st_size > 1000


def test_the_runs_own_test_pictures_have_names(project, run, capsys, tmp_path):
    out = tmp_path / "z.npz"
    code, *_ = command(capsys, f"encode {project / 'run'} --no-scores --out {out}")
    with np.load(out) as found:
        assert code == 0 and found["files"].tolist() == list(run.data().test.files)


@pytest.mark.parametrize(
    "line, code, words",
    [
        ("encode {run} absent/", 3, ["absent", "no such file or folder"]),
        ("score {run} {new}/cat/c.png", 3, ["c.png"]),
        ("encode {run} {new} --dataset pets", 2, ["--dataset pets has no effect"]),
        ("reconstruct {run} {new} --n 4", 2, ["--n 4", "1 to 3"]),
    ],
)
def test_misuse(project, new, capsys, line, code, words):
    found, out, err = command(capsys, line.format(run=project / "run", new=new))
    assert (found, out) == (code, "") and err.startswith("flaxvae: " if code == 3 else "")
    assert all(word in err for word in words), err


def test_a_run_of_arrays_takes_pictures_in_its_shape_and_levels(trained, new, capsys):
    run = flaxvae.load(trained)  # of digits: 8x8, grey, white is 16
    found = run.read(new)
    said = capsys.readouterr().err
    assert "pictures are made 8x8 grey by crop" in said and found.x.shape == (3, 8, 8, 1)
    expected = rows(new, found.files, Preprocessing(8, 8, 1, "crop", "white", 255))
    np.testing.assert_array_equal(found.x[:], np.rint(expected / 255 * 16))
    assert found.peak == 16 and np.isfinite(run.score(found)).all()
    np.testing.assert_array_equal(run.encode(found), run.encode(found.x[:]))


def of(shape, preprocessing=None):
    """As much of a run as says how pictures are preprocessed for it."""
    record = {"preprocessing": preprocessing}
    spec = types.SimpleNamespace(shape=shape, binary=False, levels=256)
    folder = types.SimpleNamespace(record=lambda: record)
    return types.SimpleNamespace(folder=folder, spec=spec, peak=255.0, path=types.SimpleNamespace())


@pytest.mark.parametrize("shape", [(8,), (8, 8, 2), (8, 8, 4)])
def test_a_run_of_what_no_picture_is(shape):
    with pytest.raises(UsageError, match=r"^new: the run was trained on .*; expected an \.npz"):
        reading.preprocessing(of(shape), "new")


def test_a_damaged_preprocessing(run, monkeypatch):
    for wrong in ({"height": 8}, HOW.as_json() | {"width": 9}, HOW.as_json() | {"resize": "tile"}):
        record = run.folder.record() | {"preprocessing": wrong}
        monkeypatch.setattr(type(run.folder), "record", lambda self, record=record: record)
        with pytest.raises(DataError, match=r"run\.json is damaged"):
            run.read("new")


def test_a_conditional_run_needs_its_classes(project, new, tmp_path, no_figures):
    where = {"run": str(tmp_path / "cvae"), "progress": False}
    run = flaxvae.train(
        str(project / "pets"), model="cvae", image_size="8x10", epochs=0, **where, **SMALL
    )
    found = run.read(new)
    np.testing.assert_array_equal(run.encode(found), run.encode(found.x[:], found.y))
    (new / "dog").rename(new / "bird")
    with pytest.raises(UsageError, match=r"label bird: expected cat, dog"):
        run.read(new)
    shutil.rmtree(new / "bird")
    with pytest.raises(UsageError, match=r"expected labels, cat, dog"):
        run.read(new)


# ---- the run's own data


def test_unchanged_data_are_not_decoded_again(run, monkeypatch):
    monkeypatch.setattr(pictures, "row", lambda *arguments: pytest.fail("decoded"))
    assert len(run.data().train.x) > 20


def test_data_that_were_moved(project, tmp_path, capsys):
    copy = shutil.copytree(project, tmp_path / "copy")
    shutil.copytree(copy / "pets", tmp_path / "moved")
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as archive:
        for path in sorted((copy / "pets").rglob("*.png")):
            archive.write(path, path.relative_to(copy / "pets"))
    run = flaxvae.load(copy / "run")
    own = run.data().test
    for new in ("moved", "packed.zip"):
        test = run.data(Place(dataset=str(tmp_path / new))).test
        assert list(test.files) == list(own.files)
        np.testing.assert_array_equal(test.x[:], own.x[:])
        line = f"score {copy / 'run'} --dataset {tmp_path / new} --out {tmp_path / 's.csv'}"
        assert command(capsys, line)[0] == 0
    (tmp_path / "moved" / "cat" / "00.png").unlink()
    with pytest.raises(DataError, match="are not those of"):
        run.data(Place(dataset=str(tmp_path / "moved")))
