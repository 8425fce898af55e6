"""Signals, whenever they come: saved or at once, and an exit code that says which."""

import os
import shutil
import signal

import numpy as np
import pytest

import flaxvae
from conftest import said as main
from disturbed import resume, same, sha256, steps_saved
from flaxvae import signals
from flaxvae.report.terminal import Terminal
from flaxvae.runs import checkpoints
from flaxvae.training import loop

pytestmark = pytest.mark.usefixtures("no_figures")
FLAGS = "--net mlp --widths 32 --latent-dim 2 --devices 1"
INT, TERM, HUP = signal.SIGINT, signal.SIGTERM, signal.SIGHUP


def send(*numbers):
    for number in numbers:
        os.kill(os.getpid(), number)


def unfinished(path):
    names = ("*.partial", "*tmp*", "lock", "probe*")
    return [str(left.relative_to(path)) for name in names for left in path.rglob(name)]


@pytest.fixture(autouse=True)
def handlers():
    """Whatever is done with signals is undone, and all are heard.

    Tests that nohup runs ignore a hang-up, those in the background of a script Ctrl-C.
    """
    outside = {
        HUP: signal.signal(HUP, signal.SIG_DFL),
        INT: signal.signal(INT, signal.default_int_handler),
    }
    before = [signal.getsignal(number) for number in (INT, TERM, HUP)]
    yield
    after = [signal.getsignal(number) for number in (INT, TERM, HUP)]
    for number, handler in outside.items():
        signal.signal(number, handler)
    assert after == before


# ---- the two ways


@pytest.mark.parametrize("number", [TERM, HUP])
def test_raised_once(number):
    cleaned = False
    with pytest.raises(signals.Interrupted) as caught, signals.raised():
        try:
            send(number)
        finally:
            send(TERM, HUP)  # while files are being cleaned up
            cleaned = True
    assert caught.value.number == number and cleaned
    assert isinstance(caught.value, KeyboardInterrupt)


def test_caught_and_a_second_ctrl_c():
    with signals.raised(), signals.caught() as heard:
        send(TERM, TERM, HUP, INT)
        with signals.caught() as inner:
            assert inner is heard == [TERM, TERM, HUP, INT]
            with pytest.raises(KeyboardInterrupt):
                send(INT)
        send(TERM)  # the outer one still hears
        assert heard[0] == TERM
    with signals.caught() as heard:
        assert heard == []


def test_what_is_ignored_stays_ignored():
    """As nohup does with SIGHUP."""
    old = signal.signal(HUP, signal.SIG_IGN)
    try:
        with signals.raised(), signals.caught() as heard:
            send(HUP)
            assert heard == [] and signal.getsignal(HUP) == signal.SIG_IGN
    finally:
        signal.signal(HUP, old)


# ---- a training


@pytest.mark.parametrize("number", [INT, TERM, HUP])
def test_a_signal_that_is_repeated_while_it_saves(
    straight, stopped, tmp_path, capsys, monkeypatch, number
):
    path = shutil.copytree(stopped, tmp_path / "run")
    write = checkpoints.Checkpoints.save

    def save(self, *rest):
        if number != INT:
            send(number, number)
        write(self, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.Checkpoints, "save", save)
        patch.setattr(Terminal, "progress", lambda *arguments: send(number))
        code, _, err = main(f"train --resume {path}", capsys)
    assert code == 128 + number and err.count("\n") == 1
    assert err.startswith("flaxvae: stopped at step 16 of 40, saved; ")
    assert steps_saved(path)[-1] == 16 and unfinished(path) == []
    resume(path, capsys)
    assert same(path, straight)


def test_ctrl_c_twice_stops_at_once(straight, stopped, tmp_path, capsys, monkeypatch):
    path = shutil.copytree(stopped, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(Terminal, "progress", lambda *arguments: send(INT, INT))
        code, _, err = main(f"train --resume {path}", capsys)
    assert (code, err) == (130, "flaxvae: interrupted\n")
    assert steps_saved(path) == steps_saved(stopped) and unfinished(path) == []
    resume(path, capsys)
    assert same(path, straight)


def test_before_the_first_step(straight, tmp_path, capsys, monkeypatch):
    """While the program is compiled, which takes minutes for large models."""
    path = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Terminal, "start", lambda *arguments: send(TERM))
        code, _, err = main(f"train {FLAGS} --epochs 4 --run {path}", capsys)
    assert code == 143 and "stopped at step 0 of 40, saved; " in err
    assert steps_saved(path) == [0] and unfinished(path) == []
    resume(path, capsys)
    assert same(path, straight)


def at_stage(word, *numbers):
    """A ``stage`` that sends signals once it is told of something."""
    stage = Terminal.stage

    def staged(self, what, done=0, total=0):
        if word in what:
            send(*numbers)
        stage(self, what, done, total)

    return staged


def test_after_the_last_step(straight, tmp_path, capsys, monkeypatch):
    path = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Terminal, "stage", at_stage("evaluating", HUP, TERM))
        code, _, err = main(f"train {FLAGS} --epochs 4 --run {path}", capsys)
    assert code == 129 and err.count("\n") == 1
    assert "stopped after training, which is saved, before evaluating test images" in err
    assert f"resume with `flaxvae train --resume {path}`" in err
    assert steps_saved(path)[-1] == 40 and unfinished(path) == []
    assert not (path / "summary.json").exists()
    resume(path, capsys)
    assert same(path, straight)


@pytest.mark.slow
def test_in_a_sweep(tmp_path, capsys, monkeypatch):
    line = f"sweep {FLAGS} --epochs 2 --seeds 2 --run "
    assert main(line + str(tmp_path / "straight"), capsys)[0] == 0
    path = tmp_path / "disturbed"
    for patched in (
        ("progress", lambda *arguments: send(HUP, TERM)),
        ("stage", at_stage("evaluating", TERM)),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(loop, "SEGMENT_SECONDS", 0)
            patch.setattr(Terminal, *patched)
            begun = f"sweep --resume {path}" if path.exists() else line + str(path)
            code, _, err = main(begun, capsys)
        assert code == (129 if patched[0] == "progress" else 143) and err.count("\n") == 1
        assert f"flaxvae sweep --resume {path}" in err and unfinished(path) == []
    assert main(f"sweep --resume {path}", capsys)[0] == 0
    for seed in (0, 1):
        assert sha256(path / f"seed={seed}") == sha256(tmp_path / "straight" / f"seed={seed}")


@pytest.mark.slow
def test_in_the_fit_of_a_prior(tmp_path, capsys, monkeypatch):
    path = tmp_path / "run"
    vq = {"net": "mlp", "widths": (32,), "codes": 8, "code_dim": 2, "devices": 1}
    flaxvae.train(progress=False, model="vq_vae", epochs=1, run=str(path), **vq)
    line = f"fit-prior {path} --epochs 2 --devices 1"
    for patched, said in (
        (("progress", lambda *arguments: send(TERM)), "stopped at step"),
        (("stage", at_stage("evaluating", TERM)), "stopped after training"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(Terminal, *patched)
            code, _, err = main(line, capsys)
        assert code == 143 and said in err and f"resume with `flaxvae fit-prior {path}`" in err
        assert unfinished(path) == []
    assert main(line, capsys)[0] == 0 and flaxvae.load(path).generates


# ---- what saves nothing


def test_a_command_that_is_ended_leaves_nothing_behind(trained, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.setattr(np.lib.format, "write_array", lambda *rest, **more: send(TERM))
    code, _, err = main(f"encode {trained} --no-scores --out {out / 'latents.npz'}", capsys)
    assert (code, err) == (143, "flaxvae: interrupted\n") and list(out.iterdir()) == []


def test_while_the_data_are_read_a_training_ends_at_once(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("flaxvae.data.pipeline.prepare", lambda *_: send(TERM))
    code, _, err = main(f"train {FLAGS} --run {tmp_path / 'run'}", capsys)
    assert (code, err) == (143, "flaxvae: interrupted\n") and not (tmp_path / "run").exists()
