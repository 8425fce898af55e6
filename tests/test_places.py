"""A run's data are found again: where they were named, where they were, or where somebody says."""

import json
import shutil

import numpy as np
import pytest

import flaxvae
from flaxvae import cli
from flaxvae.data import idx
from flaxvae.errors import DataError
from flaxvae.settings import Place

pytestmark = pytest.mark.usefixtures("no_figures")
SMALL = {"net": "mlp", "widths": (16,), "latent_dim": 2, "batch_size": 50, "devices": 1}
FIGURES = "figures --only reconstructions"
NEED_DATA = ("eval", "encode", "reconstruct", "interpolate", FIGURES, "traverse --image 1")


def images(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (120, 6, 6), np.uint8)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with data of a relative name, and a run trained on them."""
    path = tmp_path_factory.mktemp("project")
    (path / "data").mkdir()
    np.savez(path / "data" / "mine.npz", images=images())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        patch.setattr("flaxvae.api.drawn", lambda *arguments: {})
        flaxvae.train("data/mine.npz", progress=False, epochs=2, run="run", **SMALL)
    return path


@pytest.fixture
def here(project, tmp_path, monkeypatch):
    """A copy of it, which its run.json does not know of."""
    path = shutil.copytree(project, tmp_path / "copy", symlinks=True)
    monkeypatch.chdir(path)
    return path


def run(capsys, line):
    """Exit code and standard error of a command."""
    capsys.readouterr()
    try:
        cli.main(line.split())
    except SystemExit as stop:
        return stop.code, capsys.readouterr().err
    return 0, capsys.readouterr().err


def fails(capsys, line, code, *words):
    found, err = run(capsys, line)
    assert found == code and err.count("\n") == 1 and all(word in err for word in words), err


def command(name, more=""):
    first, *rest = name.split()
    return " ".join([first, "run", *rest, more])


@pytest.mark.parametrize("name", NEED_DATA)
def test_from_another_folder_and_after_a_move(here, project, tmp_path, monkeypatch, capsys, name):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)  # where the relative path is of nothing
    shutil.copytree(here / "run", "run", symlinks=True)
    assert run(capsys, command(name))[0] == 0
    shutil.move(project / "data", tmp_path / "moved")
    try:
        fails(capsys, command(name), 3, "give its new place with --dataset")
        assert run(capsys, command(name, f"--dataset {tmp_path}/moved/mine.npz"))[0] == 0
    finally:
        shutil.move(tmp_path / "moved", project / "data")


def test_what_is_where_it_was_named_comes_first(here, project):
    """A project that is copied whole reads its own copy, which may have changed."""
    assert flaxvae.load("run").data().origin == "data/mine.npz"
    np.savez("data/mine.npz", images=images(1))
    with pytest.raises(DataError, match=f"trained on those of {project}/data/mine.npz"):
        flaxvae.load("run").data()
    where = Place(dataset=str(project / "data" / "mine.npz"))
    np.testing.assert_array_equal(flaxvae.load("run").data(where).train.x.shape[1:], (6, 6, 1))


def test_other_data_and_wrong_flags_are_one_line(here, capsys):
    np.savez("other.npz", images=images(1))
    fails(capsys, "eval run --dataset other.npz", 3, "other.npz", "not those of")
    fails(capsys, "eval run --dataset mnist", 2, "--dataset mnist", "data/mine.npz")
    fails(capsys, "eval run --data-dir data", 2, "--data-dir data has no effect", "--dataset")
    fails(capsys, "eval run --dataset gone.npz", 3, "gone.npz")
    np.savez("new.npz", images=images(2))
    given = "encode run --images new.npz"
    fails(capsys, f"{given} --dataset data/mine.npz", 2, "has no effect with --images new.npz")


@pytest.mark.parametrize("line", ["sample run", "traverse run", "encode run --images new.npz"])
def test_what_needs_no_data_has_none(here, monkeypatch, capsys, line):
    np.savez("new.npz", images=images(2))
    monkeypatch.setattr("flaxvae.data.pipeline.prepare", None)
    assert run(capsys, line)[0] == 0


def test_a_training_goes_on_with_data_that_moved(here, project, capsys):
    straight = flaxvae.train(
        progress=False, model="vae", dataset="data/mine.npz", epochs=3, run="straight", **SMALL
    )
    before = (here / "run" / "run.json").read_text()
    np.savez("other.npz", images=images(1))
    fails(capsys, "train --resume run --dataset other.npz --epochs 3", 3, "other.npz")
    assert (here / "run" / "run.json").read_text() == before
    shutil.move("data/mine.npz", "moved.npz")
    assert run(capsys, "train --resume run --dataset moved.npz --epochs 3")[0] == 0
    sha256 = "parameters_sha256"
    summaries = [json.loads((here / x / "summary.json").read_text()) for x in ("run", "straight")]
    assert summaries[0][sha256] == summaries[1][sha256] and straight.step == 3
    record = json.loads((here / "run" / "run.json").read_text())
    assert record["data_paths"] == {"dataset": str(here / "moved.npz")}
    assert run(capsys, "eval run")[0] == 0


def test_a_sweep_goes_on_with_data_that_moved(here, monkeypatch, capsys):
    from flaxvae import sweeps

    def stop(*arguments):
        raise RuntimeError("stopped")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(sweeps.members, "mesh_of", stop)  # after sweep.json is written
        sweeps.sweep("data/mine.npz", progress=False, seeds=2, epochs=1, run="sweep", **SMALL)
    shutil.move("data/mine.npz", "moved.npz")
    fails(capsys, "sweep --resume sweep", 3, "--dataset")
    fails(capsys, "sweep --resume sweep --epochs 3", 2, "with other flags")
    assert run(capsys, "sweep --resume sweep --dataset moved.npz")[0] == 0
    member = next((here / "sweep").glob("*seed=0"))
    assert run(capsys, f"eval {member}")[0] == 0


def test_a_folder_of_idx_files(tmp_path, monkeypatch, capsys):
    def write(folder, name, array):
        head = bytes([0, 0, 8, array.ndim])
        head += b"".join(size.to_bytes(4, "big") for size in array.shape)
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(head + array.tobytes())

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FLAXVAE_DATA_DIR", raising=False)
    labels = np.arange(120, dtype=np.uint8) % 10
    for name, array in zip(idx.FILES, (images(), labels, images(3), labels)):
        write(tmp_path / "old", name, array)
    flaxvae.train(
        progress=False, model="vae", dataset="mnist", data_dir="old", epochs=1, run="run", **SMALL
    )
    (tmp_path / "old").rename(tmp_path / "new")
    fails(capsys, "eval run", 3, "give its new place with --data-dir")
    assert run(capsys, "eval run --data-dir new")[0] == 0
    monkeypatch.setenv("FLAXVAE_DATA_DIR", str(tmp_path / "new"))
    fails(capsys, "eval run", 3, "old")  # what the run names comes before the variable
