"""Whoever reads a run gets the variables that its summary.json names, or is told which others."""

import json
import shutil

import jax
import numpy as np
import pytest

import flaxvae
from conftest import TINY
from disturbed import EPOCHS, resume, same, sha256, steps_saved
from flaxvae import cli
from flaxvae.errors import DataError
from flaxvae.runs import checkpoints, contents

pytestmark = pytest.mark.usefixtures("no_figures")
READERS = ("eval", "encode", "sample", "reconstruct", "interpolate", "traverse", "figures")


def flip(folder):
    """One bit of every array file of a checkpoint: which file holds which array is chance."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.parent.name == "d"]
    assert files
    for path in files:
        raw = bytearray(path.read_bytes())
        raw[len(raw) // 2] ^= 1
        path.write_bytes(raw)


def parameters(run):
    return contents.digest(jax.device_get(run.variables["params"]))


@pytest.fixture
def finished(straight, tmp_path):
    return shutil.copytree(straight, tmp_path / "run")


@pytest.fixture(scope="module")
def with_older(tmp_path_factory):
    """A finished run that still has an older checkpoint of its own."""
    path = tmp_path_factory.mktemp("runs") / "older"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flaxvae.api.drawn", lambda *arguments: {})
        patch.setattr(checkpoints.Checkpoints, "keep_newest", lambda self: None)
        flaxvae.train(
            progress=False, epochs=EPOCHS, run=str(path), checkpoint_every="1epoch", **TINY
        )
    assert 30 in steps_saved(path)
    return path


def test_a_finished_run_gives_what_its_summary_names(finished, capsys):
    run = flaxvae.load(finished)
    assert parameters(run) == sha256(finished)
    assert (run.step, run.finished, run.remarks) == (40, True, ())
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("command", READERS)
def test_no_reader_falls_back_to_an_older_checkpoint(with_older, tmp_path, capsys, command):
    """Not even to a sound one of the same run."""
    path = shutil.copytree(with_older, tmp_path / "run")
    flip(path / "checkpoints" / "40")
    with pytest.raises(SystemExit) as stop:
        cli.main([command, str(path)])
    err = capsys.readouterr().err
    assert stop.value.code == 3 and err.count("\n") == 1
    assert "checkpoint 40: damaged" in err and "expected the parameters of summary.json" in err


def test_other_variables_are_refused_although_they_are_sound(with_older, tmp_path):
    """The checkpoint restores, and is not what the numbers of summary.json are of."""
    path = shutil.copytree(with_older, tmp_path / "run")
    shutil.rmtree(path / "checkpoints" / "40")
    with pytest.raises(DataError, match=r"checkpoint 30: not the parameters of summary\.json"):
        flaxvae.load(path)


def test_a_checkpoint_of_another_run_is_refused(stopped, finished):
    shutil.copytree(stopped / "checkpoints" / "15", finished / "checkpoints" / "50")
    assert flaxvae.load(finished).step == 40
    shutil.rmtree(finished / "checkpoints" / "40")
    with pytest.raises(DataError, match=r"checkpoint 50: does not belong to the run\.json"):
        flaxvae.load(finished)


def test_a_training_that_is_not_finished_says_which_step_it_is_at(stopped, capsys):
    assert flaxvae.load(stopped).step == 15
    assert "not finished; this is step 15" in capsys.readouterr().err


def test_what_is_written_says_which_step_and_why(stopped, tmp_path, capsys):
    path = shutil.copytree(stopped, tmp_path / "run")
    flip(path / "checkpoints" / "15")
    cli.main(["eval", str(path)])
    assert "checkpoint 15: damaged" in (err := capsys.readouterr().err) and "step 14" in err
    found = json.loads((path / "evaluation.json").read_text())
    assert found["step"] == 14 and "checkpoint 15: damaged" in found["remarks"][0]
    cli.main(["encode", str(path)])
    with np.load(path / "latents.npz") as arrays:
        assert arrays["step"] == 14


def test_a_training_that_goes_on_has_its_optimizer_and_one_that_is_over_has_not(
    finished, straight, tmp_path, capsys
):
    assert "kept" not in resume(finished, capsys) and same(finished, straight)
    longer = tmp_path / "longer"
    flaxvae.train(progress=False, epochs=EPOCHS + 1, run=str(longer), **TINY)
    resume(finished, capsys, "--epochs", str(EPOCHS + 1))
    assert same(finished, longer)

    over = tmp_path / "over"
    flaxvae.train(progress=False, epochs=2, schedule="cosine", run=str(over), **TINY)
    assert steps_saved(over) == [20]
    size = {p: sum(f.stat().st_size for f in p.rglob("*")) for p in (over, longer)}
    assert size[over] < 0.6 * size[longer]  # Adam's two moments are gone
    before = sha256(over)
    assert "only the model was kept" in resume(over, capsys) and sha256(over) == before
    with pytest.raises(SystemExit) as stop:
        resume(over, capsys, "--learning-rate", "1e-4", "--allow-changes")
    err = capsys.readouterr().err
    assert stop.value.code == 2 and "only the model was kept" in err and err.count("\n") == 1
