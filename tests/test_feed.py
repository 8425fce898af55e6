"""Training images that stay on the devices and those that are streamed train the same model."""

import errno
import os
import shutil
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest

import flaxvae
from conftest import QUICK_TO_COMPILE, TINY
from disturbed import EPOCHS, loss_times, rows, sha256, spoiled
from flaxvae import cli
from flaxvae.data import pipeline
from flaxvae.devices import mesh as meshes
from flaxvae.errors import DataError, UsageError
from flaxvae.plan import Plan, make_plan
from flaxvae.runs import contents
from flaxvae.training import feed, loop, members
from flaxvae.training import step as steps

pytestmark = pytest.mark.usefixtures("no_figures")
# Two programs round alike or not, as they are compiled. These tests are of programs compiled as
# users' are; make test runs them in a process of their own.
same_bits = pytest.mark.slow
STEP = 128 * 64  # bytes of a step of digits
SETTINGS = {
    "plain": {},
    "all": {
        "model": "cvae",
        "binarization": "dynamic",
        "flip": True,
        "accumulate": 2,
        "ema": 0.9,
    },
}


def readers():
    return [thread for thread in threading.enumerate() if thread.name == "flaxvae-reader"]


@pytest.fixture(autouse=True)
def blocks_of_three(monkeypatch):
    """An epoch of ten steps is blocks of 3, 3, 3 and 1; no thread is left of any test."""
    monkeypatch.setattr(feed, "BLOCK", 3 * STEP)
    yield
    assert not readers()


def made(placement, devices=1, epochs=2, model="vae", **choices):
    """A plan's data, recipe, mesh and trainer."""
    plan = make_plan(
        model,
        **{"net": "mlp", "widths": (16,), "latent_dim": 2, "epochs": epochs, "devices": devices},
        data_placement=placement,
        **choices,
    )
    data, mesh = pipeline.prepare(plan.data), meshes.make(devices)
    recipe = plan.recipe(data.spec)
    return plan, data, recipe, mesh, steps.trainer(recipe, data, plan.training, mesh, epochs)


def learned(*arguments, **choices):
    """The hash of the variables, and the rows of metrics."""
    plan, data, recipe, mesh, trainer = made(*arguments, **choices)
    variables, found = loop.fit(recipe, trainer, data, plan.training, mesh)
    for row in found:
        del row["images_per_second"]
    return contents.digest(jax.device_get(variables)), found


# ---- the same bits


def test_the_same_bits_as_users_programs_have_them():
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    del environment["JAX_DISABLE_MOST_OPTIMIZATIONS"]
    flags = environment.get("XLA_FLAGS", "").split()
    environment["XLA_FLAGS"] = " ".join(flag for flag in flags if flag not in QUICK_TO_COMPILE)
    command = [sys.executable, "-m", "pytest", "-m", "slow", "-p", "no:cacheprovider", __file__]
    command += ["-k", "train_the_same_model and plain-1"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout


@same_bits
@pytest.mark.parametrize(("settings", "devices"), [("plain", 1), ("all", 1), ("all", 8)])
def test_streamed_and_resident_images_train_the_same_model(monkeypatch, settings, devices):
    monkeypatch.setattr(loop, "SEGMENT_SECONDS", 0.005)  # cut within blocks, too
    streamed, resident = (
        learned(placement, devices, **SETTINGS[settings]) for placement in ("stream", "device")
    )
    assert streamed == resident and len(streamed[1]) == 2


@same_bits
def test_resumed_in_the_middle_of_an_epoch(stopped, straight, tmp_path):
    """What was begun with resident images goes on with streamed ones, at step 15."""
    path = tmp_path / "run"
    shutil.copytree(stopped, path)
    cli.main(["train", "--resume", str(path), "--data-placement", "stream"])
    assert sha256(path) == sha256(straight) and rows(path) == rows(straight)


@same_bits
def test_rolled_back_to_an_earlier_block(tmp_path, monkeypatch):
    """Once at step 18, with blocks that begin at 10, 13, 16 and 19, to the checkpoint at 14."""

    def run(placement):
        seen = []

        def once(step):
            def factor(now):
                seen.append(int(now))
                bad = now == 18 and seen.count(18) == 1
                return np.float32(np.nan if bad else 1)

            return jax.pure_callback(factor, jax.ShapeDtypeStruct((), np.float32), step)

        monkeypatch.setattr(Plan, "recipe", spoiled(loss_times(once), RECIPE))
        path = tmp_path / placement
        options = {"on_nan": "rollback", "checkpoint_every": "7steps", "data_placement": placement}
        flaxvae.train(progress=False, epochs=EPOCHS, run=str(path), **{**TINY, **options})
        assert [row.get("rollbacks") for row in rows(path)] == [None, 1, 1, 1]
        return sha256(path)

    assert run("stream") == run("device")


RECIPE = Plan.recipe


def test_blocks_have_the_rows_of_the_order():
    _, data, _, _, trainer = made("stream", devices=4, model="cvae")
    position, sizes = 4, []
    while position < trainer.total_steps:
        block, enough = trainer.feed.at(position)
        order = np.asarray(trainer.order(position // 10))[position % 10 :][:enough]
        np.testing.assert_array_equal(np.asarray(block.x)[:enough], data.train.x[order])
        np.testing.assert_array_equal(np.asarray(block.y)[:enough], data.train.y[order])
        assert block.x.sharding.shard_shape(block.x.shape)[:2] == (3, 32)
        sizes, position = [*sizes, enough], position + enough
    assert sizes == [3, 3, 3, 3, 3, 1]  # to the end of an epoch; then from the next one's begin
    with pytest.raises(IndexError, match="the training is over"):
        trainer.feed.at(position)


# ---- errors, signals and threads


@same_bits
def test_a_readers_error_ends_the_training_with_its_state_saved(tmp_path, monkeypatch, straight):
    path, calls, gathered = tmp_path / "run", [], feed.gathered

    def fails(*arguments):
        calls.append(arguments)
        if len(calls) == 6:
            raise OSError(errno.EIO, "Input/output error")
        return gathered(*arguments)

    monkeypatch.setattr(feed, "gathered", fails)
    options = {**TINY, "epochs": EPOCHS, "data_placement": "stream", "run": str(path)}
    with pytest.raises(DataError) as caught:
        flaxvae.train(progress=False, **options)
    message = str(caught.value)
    assert "training images cannot be read (Input/output error)" in message
    assert "stopped at step 13 of 40" in message  # after blocks of 3, 3, 3, 1 and 3 steps
    assert f"flaxvae train --resume {path}" in message and "\n" not in message
    assert not readers()
    cli.main(["train", "--resume", str(path)])
    assert sha256(path) == sha256(straight)


def test_no_thread_is_left_when_a_signal_comes(tmp_path):
    """The training ends in the middle of an epoch, with blocks that nobody asked for."""
    import signal

    from flaxvae.training import observers

    class Stop(observers.Quiet):
        def progress(self, step, metrics, images_per_second):
            assert len(readers()) == 1
            os.kill(os.getpid(), signal.SIGTERM)

    _, data, recipe, mesh, trainer = made("stream")
    settings = make_plan(epochs=2).training
    with pytest.raises(loop.Stopped):
        loop.fit(recipe, trainer, data, settings, mesh, watch=Stop())
    assert not readers()


def test_a_reader_is_ahead_by_two_at_most_and_ends_when_it_is_told():
    begun = []

    def items():
        for i in range(100):
            begun.append(i)
            yield i

    def wait():
        until = time.monotonic() + 10
        while len(begun) < expected and time.monotonic() < until:
            time.sleep(0.001)
        time.sleep(0.02)
        return begun == list(range(expected))

    reader, expected = feed.Reader(items()), 2
    assert wait()
    assert [reader.take() for _ in range(3)] == [0, 1, 2]
    expected = 5
    assert wait()
    reader.close()
    assert not readers() and begun == list(range(5))


def test_a_reader_raises_what_the_iterator_raised():
    def items():
        yield 1
        raise ValueError("of no use")

    reader = feed.Reader(items())
    assert reader.take() == 1
    with pytest.raises(ValueError, match="of no use"):
        reader.take()
    reader.close()


# ---- what fits


def test_what_fills_more_than_a_quarter_of_a_device_is_streamed(monkeypatch):
    x, y, mesh = np.zeros((100, 10), np.uint8), np.zeros(100, np.int32), meshes.make(1)
    for free, fits in ((4 * 1400, True), (4 * 1400 - 1, False)):
        monkeypatch.setattr(feed, "_free", lambda device, free=free: free)
        assert feed.is_resident(x, y, "auto", mesh) == fits
        assert feed.is_resident(x, y, "device", mesh)
        assert not feed.is_resident(x, y, "stream", mesh)


def test_the_devices_of_a_cpu_share_its_memory(monkeypatch):
    monkeypatch.setattr(feed.machine, "free_memory", lambda: 8000)
    assert feed._free(jax.devices()[0]) == 8000 / jax.local_device_count()
    monkeypatch.setattr(feed.machine, "free_memory", lambda: None)
    assert feed._free(jax.devices()[0]) * feed.SHARE * jax.local_device_count() == feed.CPU_MOST


def test_a_sweep_does_not_stream(monkeypatch, tmp_path, capsys):
    path = tmp_path / "sweep"
    line = f"sweep --data-placement stream --seeds 2 --epochs 1 --run {path}"
    with pytest.raises(SystemExit) as stop:
        cli.main(line.split())
    error = capsys.readouterr().err
    assert stop.value.code == 2 and "--data-placement stream with a sweep" in error
    assert error.count("\n") == 1 and not path.exists()
    _, data, recipe, *_ = made("device")
    settings = make_plan().training
    members.check_resident(recipe, data, settings)
    monkeypatch.setattr(feed, "_free", lambda device: 1000)
    with pytest.raises(UsageError, match="a quarter of the device's free memory"):
        members.check_resident(recipe, data, settings)
