"""A run that was stopped, killed or damaged ends in the same bits as one that nobody disturbed."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

import flaxvae
from conftest import TINY
from flaxvae import cli
from flaxvae.errors import DataError, DivergedError
from flaxvae.report.terminal import Terminal
from flaxvae.training import checkpoints, loop

pytestmark = [
    pytest.mark.usefixtures("no_figures"),
    # Orbax leaves coroutines behind when it fails to read.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
EPOCHS = 4


def sha256(path):
    return json.loads((path / "summary.json").read_text())["parameters_sha256"]


def rows(path):
    """metrics.jsonl but for the speed, which may differ."""
    lines = (path / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(x).items() if k != "images_per_second"} for x in lines]


def steps_saved(path):
    return sorted(int(p.name) for p in (path / "checkpoints").iterdir() if p.name.isdigit())


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run of EPOCHS epochs in one go."""
    path = tmp_path_factory.mktemp("runs") / "straight"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flaxvae.report.figures.write", lambda *arguments: [])
        flaxvae.train(epochs=EPOCHS, run=str(path), **TINY)
    return path


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """One that SIGTERM stopped in the middle of an epoch, with checkpoints of an epoch and of two steps."""
    path = tmp_path_factory.mktemp("runs") / "stopped"

    class Stop(loop.Quiet):
        def progress(self, step, metrics, images_per_second):
            if step == 15:
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "SEGMENT_SECONDS", 0)  # cut after every step
        patch.setattr(loop, "Quiet", Stop)
        with pytest.raises(loop.Stopped) as caught:
            flaxvae.train(epochs=EPOCHS, run=str(path), checkpoint_every="1step", **TINY)
    assert caught.value.exit_code == 128 + signal.SIGTERM
    assert "step 15 of 40" in str(caught.value)
    assert f"flaxvae train --resume {path}" in str(caught.value)
    assert steps_saved(path) == [10, 14, 15] and not (path / "summary.json").exists()
    return path


def resume(path, capsys, *flags):
    cli.main(["train", "--resume", str(path), *flags])
    return capsys.readouterr().out


def same(path, straight):
    assert sha256(path) == sha256(straight)
    assert rows(path) == rows(straight)
    return True


# ---- the same bits


def test_more_epochs_later(straight, tmp_path, capsys):
    path = tmp_path / "run"
    flaxvae.train(epochs=1, run=str(path), **TINY)
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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_twice(straight, stopped, tmp_path, capsys, monkeypatch, number):
    path = shutil.copytree(stopped, tmp_path / "run")
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr(Terminal, "progress", lambda *arguments: os.kill(os.getpid(), number))
        resume(path, capsys)
    assert stop.value.code == 128 + number
    err = capsys.readouterr().err
    assert err.startswith("flaxvae: stopped at step ") and err.count("\n") == 1
    assert f"flaxvae train --resume {path}" in err
    assert steps_saved(path)[-1] == 16 and not (path / "summary.json").exists()
    resume(path, capsys)
    assert same(path, straight)


def test_killed_and_terminated(tmp_path):
    """In processes of their own, at random moments: SIGKILL, then SIGTERM."""
    script = (
        "import sys, time; from flaxvae import api, cli; from flaxvae.training import loop, runs;"
        "loop.SEGMENT_SECONDS = 0.02;"
        "api.figures.write = lambda *arguments: []; append = runs.RunFolder.append;"
        "runs.RunFolder.append = lambda *row: (time.sleep(0.02), append(*row));"  # time to kill
        "cli.main(sys.argv[1:])"
    )
    choices = "--net mlp --widths 64 --latent-dim 2 --epochs 150 --patience 150 --ema 0.9"
    choices += " --checkpoint-every 0.2s"
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "1"}

    def start(*arguments, **more):
        command = [sys.executable, "-c", script, "train", *arguments]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, env=environment | more, stdout=pipe, stderr=pipe, text=True
        )

    def newest(path):
        """The step of the newest checkpoint, -1 where there is none yet."""
        return max(steps_saved(path), default=-1) if (path / "checkpoints").exists() else -1

    moment, path = random.Random(0), tmp_path / "disturbed"
    undisturbed = start(*choices.split(), "--run", str(tmp_path / "straight"))
    compiled = {  # by the first process for the others, but not for the undisturbed one
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    }
    seen = 0  # steps
    for number in (signal.SIGKILL, signal.SIGTERM):
        arguments = ("--resume", str(path)) if seen else (*choices.split(), "--run", str(path))
        process = start(*arguments, **compiled)
        try:
            while process.poll() is None and newest(path) <= seen:
                time.sleep(0.01)
            time.sleep(moment.uniform(0, 0.3))
            process.send_signal(number)
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
        assert process.returncode == (-number if number == signal.SIGKILL else 128 + number), err
        assert err.count("\n") == (number == signal.SIGTERM)
        assert newest(path) > seen and not (path / "summary.json").exists()
        seen = newest(path)
    last = start("--resume", str(path), **compiled)
    for process in (last, undisturbed):
        _, err = process.communicate(timeout=120)
        assert (process.returncode, err) == (0, "")
    assert 0 < seen < 1500 and same(path, tmp_path / "straight")


# ---- damage


def flip(path):
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def largest(folder):
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


@pytest.mark.parametrize(
    ("damage", "part"),
    [(flip, "model"), (truncate, "training"), (lambda path: path.unlink(), "meta")],
    ids=["flip", "truncate", "delete"],
)
def test_a_damaged_checkpoint_is_set_aside(straight, stopped, tmp_path, capsys, damage, part):
    path = shutil.copytree(stopped, tmp_path / "run")
    damage(largest(path / "checkpoints" / "15" / part))
    out = " ".join(resume(path, capsys).split())
    assert out.count("is damaged") == 1 and "checkpoint 15 is damaged" in out
    assert "set aside as damaged-15" in out
    assert (path / "checkpoints" / "damaged-15").is_dir()
    assert same(path, straight)


def test_no_damage_to_any_file_goes_unseen(stopped, tmp_path):
    """Whatever happens to a file of a checkpoint: what is restored is what was saved, or older."""
    like = {"model": checkpoints.model_part(flaxvae.load(stopped).variables, False, False)}
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like)

    def restored(path, notes):
        with checkpoints.Checkpoints(path) as found:
            return checkpoints.digest(jax.device_get(found.restore(like, notes.append).parts))

    newest = restored(stopped / "checkpoints", [])
    names = [p.relative_to(stopped) for p in stopped.glob("checkpoints/15/**/*") if p.is_file()]
    older, caught = set(), 0
    for i, name in enumerate(names):
        for damage in (flip, truncate):
            path = shutil.copytree(stopped, tmp_path / f"{i}-{damage.__name__}")
            damage(path / name)
            notes = []
            found = restored(path / "checkpoints", notes)
            assert len(notes) == (found != newest) and not any("\n" in note for note in notes)
            older |= {found} - {newest}
            caught += len(notes)
    assert len(older) == 1 and caught >= 4  # the older one, and no third


def test_loading_touches_nothing(stopped, tmp_path):
    """A run may be loaded while it trains: not even a damaged checkpoint is moved."""
    path = shutil.copytree(stopped, tmp_path / "run")
    flip(largest(path / "checkpoints" / "15" / "model"))
    (path / "checkpoints" / "16.orbax-checkpoint-tmp").mkdir()  # a save in flight
    before = sorted(path.rglob("*"))
    found = flaxvae.load(path).variables
    assert sorted(path.rglob("*")) == before
    shutil.rmtree(path / "checkpoints" / "15")
    assert checkpoints.digest(found) == checkpoints.digest(flaxvae.load(path).variables)


def test_all_checkpoints_damaged(stopped, tmp_path, capsys):
    path = shutil.copytree(stopped, tmp_path / "run")
    for step in steps_saved(path):
        flip(largest(path / "checkpoints" / str(step) / "model"))
    with pytest.raises(SystemExit) as stop:
        resume(path, capsys)
    assert stop.value.code == DataError.exit_code
    err = capsys.readouterr().err
    assert err.startswith("flaxvae: ") and err.count("\n") == 1
    assert "all checkpoints are damaged" in err
    with pytest.raises(DataError):
        flaxvae.load(path)


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
    digests = {checkpoints.digest(each) for each in (tree, *others)}
    assert len(digests) == 1 + len(others)
    assert checkpoints.digest(tree) == checkpoints.digest(jax.tree.map(jax.numpy.asarray, tree))
    transposed = {"a": {"b": np.asfortranarray(a)}, "n": b}
    assert checkpoints.digest(tree) == checkpoints.digest(transposed)


# ---- divergence, devices


def test_divergence(tmp_path, capsys):
    path = tmp_path / "run"
    line = f"train --net mlp --widths 32 --latent-dim 2 --devices 1 --epochs 3 --run {path}"
    with pytest.raises(SystemExit) as stop:
        cli.main([*line.split(), "--learning-rate", "1e30"])
    assert stop.value.code == DivergedError.exit_code == 4
    err = capsys.readouterr().err
    assert err.startswith("flaxvae: the loss is nan within steps ")
    assert err.count("\n") == 1 and "--learning-rate" in err
    assert rows(path) == []
    assert steps_saved(path) == [0] and not (path / "summary.json").exists()
    leaves = jax.tree.leaves(flaxvae.load(path).variables)
    assert all(np.isfinite(leaf).all() for leaf in leaves)


def test_other_devices(straight, tmp_path, capsys):
    """Eight devices, then one: the same up to the order of a sum."""
    path = tmp_path / "run"
    flaxvae.train(epochs=2, run=str(path), **{**TINY, "devices": 8})
    resume(path, capsys, "--devices", "1", "--epochs", str(EPOCHS))
    assert json.loads((path / "run.json").read_text())["training"]["devices"] == 1
    pairs = (jax.tree.leaves(flaxvae.load(p).variables) for p in (path, straight))
    for found, expected in zip(*pairs):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    for found, expected in zip(rows(path), rows(straight)):
        assert found == pytest.approx(expected, rel=1e-4)
