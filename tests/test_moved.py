"""A folder that is moved or removed while it trains: written again whole, or an error."""

import json
import os
import platform
import shutil

import pytest

import flaxvae
from conftest import TINY
from disturbed import EPOCHS, resume, same, sha256
from flaxvae import cli
from flaxvae.errors import DataError
from flaxvae.report.terminal import Terminal
from flaxvae.runs import checkpoints
from flaxvae.training import loop, observers

pytestmark = pytest.mark.usefixtures("no_figures")
FLAGS = "--net mlp --widths 32 --latent-dim 2 --devices 1"


@pytest.fixture(autouse=True)
def saves_at_once(monkeypatch):
    """No save is in flight when something is taken away."""
    save = checkpoints.Checkpoints.save

    def save_and_wait(self, *rest):
        save(self, *rest)
        self.wait()

    monkeypatch.setattr(checkpoints.Checkpoints, "save", save_and_wait)


class At(observers.Quiet):
    """Does something to the folder after step 12, and notes what is said."""

    def __init__(self, what):
        self.what, self.notes = what, []

    def progress(self, step, metrics, images_per_second):
        if step == 12:
            self.what()

    def note(self, text):
        self.notes.append(text)


def train(path, what, monkeypatch):
    """Notes of a training of ``straight``'s settings that is disturbed by ``what``."""
    watch = At(what)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "SEGMENT_SECONDS", 0)
        patch.setattr(observers, "Quiet", lambda: watch)
        flaxvae.train(
            progress=False, epochs=EPOCHS, run=str(path), checkpoint_every="5steps", **TINY
        )
    return watch.notes


def contents(path):
    return {p.relative_to(path): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def move(path):
    path.rename(path.with_name("elsewhere"))


def remove(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize(
    ("how", "part", "said"),
    [
        (move, "", "lock, run.json: missing"),
        (remove, "run.json", "run.json: missing"),
        (remove, "", "lock, run.json: missing"),
        (remove, "lock", "lock: missing"),
        (remove, "metrics.jsonl", None),
        (remove, "checkpoints", None),
    ],
)
def test_a_training_whose_files_are_taken_away(
    straight, tmp_path, monkeypatch, capsys, how, part, said
):
    path = tmp_path / "run"
    notes = train(path, lambda: how(path / part), monkeypatch)
    assert [note for note in notes if ": missing" in note] == (
        [f"{said}, and written again"] if said else []
    )
    assert same(path, straight) and flaxvae.load(path) and not (path / "lock").exists()
    cli.main(["verify", str(path)])
    capsys.readouterr()
    assert resume(path, capsys) and same(path, straight)


def test_a_run_json_that_was_cut_off_is_written_again(straight, tmp_path, monkeypatch):
    path = tmp_path / "run"
    notes = train(path, lambda: (path / "run.json").write_text("{"), monkeypatch)
    assert notes == ["run.json: missing, and written again"]
    assert flaxvae.load(path).plan.model == "vae" and same(path, straight)


@pytest.mark.parametrize("locked", [False, True])
def test_another_run_in_its_place_is_left_alone(stopped, tmp_path, monkeypatch, locked):
    path = tmp_path / "run"

    def replace():
        move(path)
        if locked:  # by a training that has only begun
            path.mkdir()
            other = {"pid": os.getppid(), "host": platform.node(), "began": None}
            (path / "lock").write_text(json.dumps(other))
        else:
            shutil.copytree(stopped, path)
        before.update(contents(path))

    before = {}
    said = (
        "has been replaced: .* in use by process" if locked else "run.json belongs to another run"
    )
    with pytest.raises(DataError, match=said):
        train(path, replace, monkeypatch)
    assert contents(path) == before


@pytest.mark.parametrize(
    ("stage", "how", "part", "code"),
    [
        ("evaluating", move, "", 3),
        ("drawing", remove, "", 3),
        ("drawing", remove, "summary.json", 3),
        ("drawing", remove, "checkpoints", 3),
        ("drawing", remove, "run.json", 0),
    ],
)
def test_after_the_last_step(tmp_path, monkeypatch, capsys, stage, how, part, code):
    """What cannot be written again is an error; what was moved can be moved back."""
    path = tmp_path / "run"

    def staged(self, what, done=0, total=0):
        if what.startswith(stage) and path.exists() and not total:
            how(path / part)

    monkeypatch.setattr(Terminal, "stage", staged)

    def draw(*arguments):
        staged(None, "drawing")
        return {}

    monkeypatch.setattr("flaxvae.api.drawn", draw)
    found = 0
    try:
        cli.main([*f"train {FLAGS} --epochs 1 --run".split(), str(path)])
    except SystemExit as stop:
        found = stop.code
    err = capsys.readouterr().err
    assert found == code and err.count("\n") == (code > 0)
    if code == 0:
        assert flaxvae.load(path)
    else:
        assert str(path) in err
    if how is move:
        shutil.rmtree(path, ignore_errors=True)
        path.with_name("elsewhere").rename(path)
        (path / "lock").unlink()  # of this process, which is not gone
        monkeypatch.undo()
        assert resume(path, capsys) and flaxvae.load(path)


@pytest.mark.slow
def test_a_sweep_that_is_moved(tmp_path, monkeypatch, capsys):
    """Its only program goes on; of a sweep that had written members before, they are missed."""
    line = f"sweep {FLAGS} --epochs 2 --seeds 2"
    cli.main([*line.split(), "--run", str(tmp_path / "straight")])

    def progress(self, step, *rest):
        if step == 12 and not (tmp_path / "elsewhere").exists():
            (path / "state").rename(tmp_path / "elsewhere")
            remove(path)

    monkeypatch.setattr(Terminal, "progress", progress)
    monkeypatch.setattr(loop, "SEGMENT_SECONDS", 0)
    path = tmp_path / "sweep"
    cli.main([*line.split(), "--run", str(path)])
    assert ": missing, and written again" in " ".join(capsys.readouterr().out.split())
    for seed in (0, 1):
        assert sha256(path / f"seed={seed}") == sha256(tmp_path / "straight" / f"seed={seed}")
    assert not (path / "lock").exists() and not (path / "state").exists()
