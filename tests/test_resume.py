"""A run that was stopped and resumed ends in the same bits as one that nobody disturbed."""

import json
import shutil

import jax
import numpy as np
import pytest

import flaxvae
from conftest import TINY
from disturbed import EPOCHS, resume, rows, same, sha256, steps_saved
from flaxvae import cli
from flaxvae import plan as planning
from flaxvae.errors import UsageError
from flaxvae.runs import checkpoints, contents
from flaxvae.settings import interval

pytestmark = pytest.mark.usefixtures("no_figures")
QUICK = ("--checkpoint-every", "1epoch")


# ---- the same bits


def test_more_epochs_later(straight, tmp_path, capsys):
    path = tmp_path / "run"
    flaxvae.train(progress=False, epochs=1, run=str(path), **TINY)
    first = sha256(path)
    assert first != sha256(straight) and rows(path) == rows(straight)[:1]
    for _ in range(2):  # the second time, nothing is left to do
        resume(path, capsys, "--epochs", str(EPOCHS))
        assert same(path, straight)


def test_stopped_within_an_epoch(straight, stopped, tmp_path, capsys):
    path = shutil.copytree(stopped, tmp_path / "run")
    out = resume(path, capsys)
    assert same(path, straight) and "is damaged" not in out
    assert not list((path / "checkpoints").glob("damaged*"))


def test_an_unsaved_tail_of_metrics_is_done_again(straight, stopped, tmp_path, capsys):
    path = shutil.copytree(stopped, tmp_path / "run")
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 2, "step": 20, "train_loss": 0.0}\n{"epo')
    resume(path, capsys)
    assert same(path, straight)


# ---- when to save, and what to keep


def test_intervals():
    known = {"500steps": (500, "steps"), "1step": (1, "steps"), "2epochs": (2, "epochs")}
    known |= {"15s": (15, "seconds"), "1.5min": (90, "seconds"), "2h": (7200, "seconds")}
    assert {text: interval(text) for text in known} == known
    for text in ("", "5", "0steps", "0s", "1.5steps", "-1s", "5 parsecs", "s", "1epoch "):
        assert interval(text) is None
        with pytest.raises(UsageError, match=r"checkpoint_every=.*expected (such as 15s|a name)"):
            flaxvae.make_plan(checkpoint_every=text)


@pytest.mark.parametrize(
    ("every", "steps", "kept"),
    [("7steps", {*range(0, 41, 7), 40}, [35, 40]), ("1epoch", {*range(0, 41, 10)}, [10, 30, 40])],
)
def test_steps_and_epochs_between_checkpoints(straight, tmp_path, monkeypatch, every, steps, kept):
    """The newest two are kept, and of those at an epoch's end the best, until it is finished."""
    seen, save = set(), checkpoints.Checkpoints.save
    before, keep_newest = [], checkpoints.Checkpoints.keep_newest
    elbos = {10: 2.0, 20: np.nan, 30: 1.0, 40: -np.inf}

    def watched(self, state, values):
        seen.add(int(state.step))
        save(self, state, {step: elbos[step] for step in values})

    def finish(self):
        before.extend(steps_saved(path))
        keep_newest(self)

    monkeypatch.setattr(checkpoints.Checkpoints, "save", watched)
    monkeypatch.setattr(checkpoints.Checkpoints, "keep_newest", finish)
    path = tmp_path / "run"
    flaxvae.train(progress=False, epochs=EPOCHS, run=str(path), checkpoint_every=every, **TINY)
    assert seen == steps and before == kept and steps_saved(path) == [40]
    assert same(path, straight)


# ---- other settings


def changes(path):
    return json.loads((path / "run.json").read_text()).get("changes", [])


def test_changes_are_refused_unless_allowed(stopped, tmp_path, capsys):
    path = shutil.copytree(stopped, tmp_path / "run")
    for flags in (["--learning-rate", "1e-4"], ["--batch-size", "64"], ["--beta", "2"]):
        with pytest.raises(SystemExit) as stop:
            resume(path, capsys, *flags)
        assert stop.value.code == 2 and "--allow-changes" in capsys.readouterr().err
    assert sorted(path.rglob("*")) == sorted(
        path / p.relative_to(stopped) for p in stopped.rglob("*")
    )
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", "--allow-changes"])
    assert stop.value.code == 2


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        ("--latent-dim 3", ["latent_dim 2 -> 3"]),
        ("--widths 32 16 --beta 2", ["widths (32,) -> (32, 16)"]),
        ("--binarization fixed", ["binarization none -> fixed"]),
        ("--model beta_vae", ["model vae -> beta_vae"]),
    ],
)
def test_changes_that_no_run_can_take(stopped, tmp_path, capsys, flags, names):
    path = shutil.copytree(stopped, tmp_path / "run")
    with pytest.raises(SystemExit) as stop:
        resume(path, capsys, "--allow-changes", *flags.split())
    err = capsys.readouterr().err
    assert stop.value.code == 2 and err.count("\n") == 1
    assert all(name in err for name in names) and "beta 1.0" not in err
    assert changes(path) == [] and steps_saved(path) == steps_saved(stopped)


def test_allowed_changes(straight, stopped, tmp_path, capsys):
    """The rate is the new one from the resume on; averages begin; both are recorded."""
    path = shutil.copytree(stopped, tmp_path / "run")
    flags = "--learning-rate 1e-4 --beta 2 --ema 0.9 --patience 9 --clip-norm 1"
    resume(path, capsys, "--allow-changes", *flags.split(), *QUICK)
    assert [row["learning_rate"] for row in rows(path)] == pytest.approx([1e-3, 1e-4, 1e-4, 1e-4])
    (change,) = changes(path)
    assert change["changed"]["learning_rate"] == [1e-3, 1e-4]
    assert change["changed"]["ema"] == [None, 0.9] and change["changed"]["beta"] == [1.0, 2.0]
    plan = flaxvae.load(path).plan
    assert plan.training.learning_rate == 1e-4 and plan.arguments["beta"] == 2
    assert rows(path)[0] == rows(straight)[0] and sha256(path) != sha256(straight)
    resume(path, capsys)  # its settings are now those
    assert len(changes(path)) == 1


def test_another_batch_size_begins_the_epoch_anew(stopped, tmp_path, capsys):
    """Ten steps an epoch become twenty; the fifteen that were done are not forgotten."""
    path = shutil.copytree(stopped, tmp_path / "run")
    out = resume(path, capsys, "--allow-changes", "--batch-size", "64", *QUICK)
    assert "epoch 2 starts again, with 20 steps" in out
    assert [(row["epoch"], row["step"]) for row in rows(path)] == [
        (1, 10),
        (2, 35),
        (3, 55),
        (4, 75),
    ]
    assert steps_saved(path)[-1] == 75
    assert rows(path)[3]["train_loss"] < rows(path)[0]["train_loss"]


def test_a_kill_before_the_first_save_of_changed_settings(stopped, tmp_path, capsys):
    """run.json tells of them, the newest checkpoint not: it is used, not set aside."""
    path = shutil.copytree(stopped, tmp_path / "run")
    flags = {"ema": 0.9, "patience": 9, "batch_size": 64}
    old = flaxvae.load(stopped).plan
    new = planning.make_plan(
        old.model, **{**old.arguments, **vars(old.data), **vars(old.training), **flags}
    )
    flaxvae.load(path).folder.extend(new)
    before, after = (flaxvae.load(p).variables for p in (stopped, path))
    assert contents.digest(before) == contents.digest(after)
    out = resume(path, capsys, *QUICK)
    assert "damaged" not in out and steps_saved(path)[-1] == 75


# ---- the seal


def bits(array):
    """Every array that differs from this one in one bit."""
    for i in range(8 * array.nbytes):
        raw = bytearray(array.tobytes())
        raw[i // 8] ^= 1 << i % 8
        yield np.frombuffer(bytes(raw), array.dtype).reshape(array.shape)


def test_digest_depends_on_everything():
    a, b = np.array([[0.5, -1.0]], np.float32), np.array(3, np.int32)
    tree = {"a": {"b": a}, "n": b}
    others = [
        *({"a": {"b": other}, "n": b} for other in bits(a)),
        *({"a": {"b": a}, "n": other} for other in bits(b)),
        {"a": {"b": a.reshape(2)}, "n": b},
        {"a": {"b": a.T}, "n": b},
        {"a": {"b": a.view(np.int32)}, "n": b},
        {"a": {"b": a}, "n": b.astype(np.int64)},
        {"a": {"c": a}, "n": b},
        {"ab": a, "n": b},
        {"a": {"b": a}},
        {"a": {"b": a, "n": b}},
    ]
    digests = {contents.digest(each) for each in (tree, *others)}
    assert len(digests) == 1 + len(others)
    assert contents.digest(tree) == contents.digest(jax.tree.map(jax.numpy.asarray, tree))
    transposed = {"a": {"b": np.asfortranarray(a)}, "n": b}
    assert contents.digest(tree) == contents.digest(transposed)
