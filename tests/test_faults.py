"""Faults on purpose: a run that survives them ends in the bits of one that nobody disturbed.

`make test-faults` also runs the long forms: fifty kills, two hundred flipped bits.
"""

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxvae
from conftest import TINY
from disturbed import (
    EPOCHS,
    loss_times,
    newest,
    resume,
    rows,
    same,
    sha256,
    spoiled,
    steps_saved,
    wait_for_a_save,
)
from flaxvae import cli
from flaxvae.devices import mesh as meshes
from flaxvae.errors import DataError, DivergedError
from flaxvae.plan import Plan
from flaxvae.runs import checkpoints, contents
from flaxvae.runs import folder as runs
from flaxvae.training import guard, loop, observers
from flaxvae.training import step as steps

pytestmark = [
    pytest.mark.usefixtures("no_figures"),
    # Orbax leaves coroutines behind when it fails to read.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
VQ = {"epochs": 2, "net": "mlp", "widths": (32,), "codes": 8, "code_dim": 2, "devices": 1}
FLAGS = "--net mlp --widths 32 --latent-dim 2 --devices 1"  # TINY's


def train(path, **choices):
    return flaxvae.train(progress=False, run=str(path), **{**TINY, "epochs": EPOCHS, **choices})


def start(code, *arguments, **environment):
    """The command line in a process of its own, after ``code``."""
    script = f"""if True:
        import sys, time
        from flaxvae import api, cli
        from flaxvae.training import loop
        from flaxvae.runs import folder as runs
        api.drawn = lambda *arguments: dict()
        {code}
        cli.main(sys.argv[1:])
    """
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-c", script, "train", *arguments],
        env={**os.environ, **environment},
        stdout=pipe,
        stderr=pipe,
        text=True,
    )


# ---- killed


@pytest.mark.parametrize("kills", [1, pytest.param(50, marks=pytest.mark.slow)])
def test_killed_at_random_moments(tmp_path, capsys, kills):
    """Most of them while a checkpoint is written: one is due after every segment."""
    epochs = 20 * kills
    choices = f"{FLAGS} --epochs {epochs} --patience {epochs} --ema 0.9"
    slowly = (  # there has to be time to kill
        "loop.SEGMENT_SECONDS, append = 0.02, runs.RunFolder.append; "
        "runs.RunFolder.append = lambda *row: (time.sleep(0.03), append(*row))"
    )
    compiled = {  # by the first process for the others
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.05",
    }
    cli.main(["train", *choices.split(), "--run", str(tmp_path / "straight")])
    moment, path, seen = random.Random(kills), tmp_path / "disturbed", []
    often, new = ("--checkpoint-every", "0.01s"), (*choices.split(), "--run", str(path))
    for _ in range(kills):
        resumed = ("--resume", str(path)) if (path / "run.json").exists() else ()
        process = start(slowly, *often, *(resumed or new), **compiled)
        try:
            wait_for_a_save(path, newest(path), process)
            time.sleep(moment.uniform(0, 0.2))
            process.send_signal(signal.SIGKILL)
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
        assert (process.returncode, err) == (-signal.SIGKILL, "")
        seen.append(newest(path))
        assert not (path / "summary.json").exists()
    assert seen == sorted(set(seen)) and seen[-1] < 10 * epochs  # each got on, none to the end
    assert (path / "lock").exists()  # of the last one
    out = resume(path, capsys, "--checkpoint-every", "1h")
    assert "damaged" not in out and not (path / "lock").exists()
    assert same(path, tmp_path / "straight")


@pytest.mark.slow
def test_terminated_in_a_process_of_its_own(tmp_path):
    path = tmp_path / "run"
    flags = f"{FLAGS} --epochs 100000 --checkpoint-every 1epoch --run {path}"
    process = start("", *flags.split())
    try:
        wait_for_a_save(path, 9, process)
        process.terminate()
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 128 + signal.SIGTERM and err.count("\n") == 1
    assert f"stopped at step {newest(path)} of" in err and not (path / "lock").exists()


# ---- damaged


def flip(path, place=None):
    raw = bytearray(path.read_bytes())
    place = 4 * len(raw) if place is None else place
    raw[place // 8] ^= 1 << place % 8
    path.write_bytes(raw)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def delete(path):
    path.unlink()


def wipe(checkpoint):
    """All of its arrays: which of its files holds which is chance."""
    for path in (checkpoint / "state").rglob("d/*"):
        path.write_bytes(bytes(path.stat().st_size))


def largest(folder):
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


@pytest.mark.parametrize(
    ("damage", "part"), [(flip, "state"), (truncate, "state"), (delete, "meta")]
)
def test_a_damaged_checkpoint_is_set_aside(straight, stopped, tmp_path, capsys, damage, part):
    path = shutil.copytree(stopped, tmp_path / "run")
    damage(largest(path / "checkpoints" / "15" / part))
    out = " ".join(resume(path, capsys).split())
    assert out.count("is damaged") == 1 and "checkpoint 15 is damaged" in out
    assert "set aside as damaged-15" in out
    assert (path / "checkpoints" / "damaged-15").is_dir()
    assert same(path, straight)


def restored(path):
    """Digests by what the newest good checkpoint holds, its meta included; notes about others."""
    run = flaxvae.load(path)
    settings = run.plan.training
    trainer = steps.trainer(run.recipe, run.data(), settings, meshes.make(1), settings.epochs)
    like = jax.eval_shape(trainer.init)

    def read(folder):
        notes = []
        with checkpoints.Checkpoints(folder) as found:
            parts, meta = found.restore(contents.to_parts(like), notes.append)
        seen = contents.digest(jax.device_get(parts)), json.dumps(meta, sort_keys=True)
        return seen, notes

    return read


def damages(folder, flips):
    """(name, function of the file) for every file of a checkpoint."""
    names = sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    yield from ((name, damage) for name in names for damage in (flip, truncate, delete))
    place = random.Random(0)
    sizes = [(folder / name).stat().st_size for name in names]
    for _ in range(flips):
        (name,) = place.choices(names, sizes)
        bit = place.randrange(8 * (folder / name).stat().st_size)
        yield name, lambda path, bit=bit: flip(path, bit)


@pytest.mark.parametrize("flips", [10, pytest.param(200, marks=pytest.mark.slow)])
def test_no_damage_to_any_file_goes_unseen(stopped, tmp_path, flips):
    """Whatever happens to a file of a checkpoint: what is restored is what was saved, or older."""
    source, read = stopped / "checkpoints", restored(stopped)
    good, notes = read(shutil.copytree(source, tmp_path / "good"))
    assert notes == []
    path = shutil.copytree(source, tmp_path / "older")
    shutil.rmtree(path / "15")
    older, _ = read(path)
    assert older != good
    caught = 0
    for i, (name, damage) in enumerate(damages(source / "15", flips)):
        path = shutil.copytree(source, tmp_path / str(i))
        damage(path / "15" / name)
        found, notes = read(path)
        assert found == (older if notes else good), name
        assert len(notes) <= 1 and not any("\n" in note for note in notes)
        caught += len(notes)
        shutil.rmtree(path)
    assert caught >= 10


def test_a_save_that_was_cut_off_is_no_checkpoint(straight, stopped, tmp_path, capsys):
    """Even with all its files, until it has its name; the next training clears it away."""
    path = shutil.copytree(stopped, tmp_path / "run")
    (path / "checkpoints" / "15").rename(path / "checkpoints" / "15.orbax-checkpoint-tmp")
    older, newer = (flaxvae.load(p).variables for p in (path, stopped))
    assert contents.digest(older) != contents.digest(newer)
    cli.main(["verify", str(path)])
    assert "is unfinished or being written" in " ".join(capsys.readouterr().out.split())
    assert "damaged" not in resume(path, capsys) and same(path, straight)
    assert not list(path.glob("checkpoints/*tmp*"))


def test_loading_touches_nothing(stopped, tmp_path):
    """A run may be loaded while it trains: not even a damaged checkpoint is moved."""
    path = shutil.copytree(stopped, tmp_path / "run")
    wipe(path / "checkpoints" / "15")
    (path / "checkpoints" / "16.orbax-checkpoint-tmp").mkdir()  # a save in flight
    before = sorted(path.rglob("*"))
    found = flaxvae.load(path).variables
    assert sorted(path.rglob("*")) == before
    shutil.rmtree(path / "checkpoints" / "15")
    assert contents.digest(found) == contents.digest(flaxvae.load(path).variables)


def test_all_checkpoints_damaged(stopped, tmp_path, capsys):
    path = shutil.copytree(stopped, tmp_path / "run")
    for step in steps_saved(path):
        wipe(path / "checkpoints" / str(step))
    with pytest.raises(SystemExit) as stop:
        resume(path, capsys)
    assert stop.value.code == DataError.exit_code
    err = capsys.readouterr().err
    assert err.startswith("flaxvae: ") and err.count("\n") == 1
    assert "all checkpoints are damaged" in err
    with pytest.raises(DataError):
        flaxvae.load(path)


def test_good_checkpoints_of_other_settings_are_not_set_aside(
    stopped, tmp_path, capsys, monkeypatch
):
    """A run.json that was tampered with is no damage to the checkpoints, whoever wrote them."""
    monkeypatch.setattr(runs.RunFolder, "digests", lambda self: [])  # as before there were seals
    path = shutil.copytree(stopped, tmp_path / "run")
    record = json.loads((path / "run.json").read_text())
    record["arguments"]["latent_dim"] = 3
    del record["seal"]
    (path / "run.json").write_text(json.dumps(record))
    with pytest.raises(SystemExit) as stop:
        resume(path, capsys)
    err = capsys.readouterr().err
    assert stop.value.code == 3 and err.count("\n") == 1 and "has other arrays" in err
    assert steps_saved(path) == steps_saved(stopped)


def test_a_checkpoint_of_an_older_flaxvae_is_not_set_aside(stopped, tmp_path, capsys):
    path = shutil.copytree(stopped, tmp_path / "run")
    for step in steps_saved(path):
        folder = path / "checkpoints" / str(step)
        (folder / "state").rename(folder / "model")
    with pytest.raises(SystemExit) as stop:
        resume(path, capsys)
    err = capsys.readouterr().err
    assert stop.value.code == 3 and err.count("\n") == 1 and "is from an older flaxvae" in err
    assert steps_saved(path) == steps_saved(stopped)
    with pytest.raises(DataError, match="is from an older flaxvae"):
        flaxvae.load(path)


# ---- a disk that is full, a folder that cannot be written


FULL = """
        import resource
        from flaxvae.report.terminal import Terminal
        from flaxvae.runs.checkpoints import Checkpoints
        save, held = Checkpoints.save, []
        def saving(self, *rest):
            held.append(self)
            save(self, *rest)
        Checkpoints.save = saving
        progress, (_, most) = Terminal.progress, resource.getrlimit(resource.RLIMIT_FSIZE)
        windows = dict({windows})
        def watched(self, step, *rest):
            until = time.monotonic() + 60
            while step in windows and held[-1].busy():
                assert time.monotonic() < until, "a save in flight does not end"
                time.sleep(0.05)
            full = any(begin <= step < end for begin, end in windows.items())
            resource.setrlimit(resource.RLIMIT_FSIZE, (100 if full else most, most))
            progress(self, step, *rest)
        Terminal.progress, loop.SEGMENT_SECONDS = watched, 0
"""


def filled(path, windows, more):
    """A training whose disk is full in some of its forty steps: exit code, stdout, stderr."""
    code = FULL.format(windows=windows).strip() + f"\n        {more}"
    flags = f"{FLAGS} --epochs {EPOCHS} --checkpoint-every 2steps --run {path}"
    process = start(code, *flags.split(), JAX_ENABLE_COMPILATION_CACHE="false")
    try:
        out, err = process.communicate(timeout=300)
    finally:
        process.kill()
    return process.returncode, " ".join(out.split()), err


# The room that was there when Orbax began is gone: its errors come later, from its threads.
BLIND = "from flaxvae.runs import checkpoints; checkpoints._check_room = lambda *size: None"


@pytest.mark.parametrize(
    "blind",
    [
        pytest.param("", id="before a save"),
        pytest.param(BLIND, id="in one", marks=pytest.mark.slow),
    ],
)
def test_a_full_disk(straight, tmp_path, capsys, blind):
    """For a while, which costs nothing; then to the end, which is an error."""
    path = tmp_path / "run"
    code, out, err = filled(path, [(11, 25), (33, 41)], blind)
    assert out.count("could not be written (File too large): training continues") == 1
    assert code == DataError.exit_code and err.count("flaxvae: ") == 1
    assert err.count("\n") == 1 or blind  # TensorStore's threads complain, too
    assert "the state of step 40 could not be saved" in err and "(File too large)" in err
    assert "the newest checkpoint is of step 32" in err and f"--resume {path}" in err
    left = {p.name for p in path.iterdir()} | {p.name for p in (path / "checkpoints").iterdir()}
    names = {"run.json", "metrics.jsonl", "checkpoints", "tb", "30", "32"}
    assert left in (names, names - {"tb"})
    assert rows(path) == rows(straight)[:3]  # those that the full disk refused are there, too
    cli.main(["verify", str(path)])
    assert "damaged" not in resume(path, capsys)
    assert same(path, straight)


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "make room there"),
        (errno.ENAMETOOLONG, "move it to where its path is shorter"),
        (errno.EROFS, "move it to where it can be written"),
        (errno.EACCES, "allow access to it"),
    ],
)
def test_the_advice_is_for_what_the_system_says(tmp_path, monkeypatch, number, advice):
    def refuse(folder, size):
        raise OSError(number, os.strerror(number), str(folder))

    monkeypatch.setattr(checkpoints, "_check_room", refuse)
    with pytest.raises(DataError, match=rf"\({os.strerror(number)}\): .*; {advice}, then `"):
        train(tmp_path / "run", epochs=0)


@pytest.fixture
def saves_at_once(monkeypatch):
    """No save is in flight when training goes on."""
    save = checkpoints.Checkpoints.save

    def save_and_wait(self, *rest):
        save(self, *rest)
        self.wait()

    monkeypatch.setattr(checkpoints.Checkpoints, "save", save_and_wait)


@pytest.mark.parametrize("to_the_end", [False, True])
def test_a_folder_that_cannot_be_written(
    straight, tmp_path, capsys, monkeypatch, saves_at_once, to_the_end
):
    """Taken away within the training: in its place is a file, which stops even root."""
    path, away = tmp_path / "run", tmp_path / "away"
    notes = []

    class Watch(observers.Quiet):
        def progress(self, step, metrics, images_per_second):
            if step == 12:
                path.rename(away)
                path.write_text("")
            if step == 25 and not to_the_end:
                path.unlink()
                away.rename(path)

        def note(self, text):
            notes.append(text)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "SEGMENT_SECONDS", 0)
        patch.setattr(observers, "Quiet", Watch)
        if not to_the_end:
            train(path, checkpoint_every="5steps")
        else:
            with pytest.raises(DataError, match="the state of step 40 could not be saved"):
                train(path, checkpoint_every="5steps")
            path.unlink()
            away.rename(path)
            (path / "lock").unlink()
            assert steps_saved(path)[-1] == 10
            resume(path, capsys)
    assert len(notes) == 1 and "could not be written (Not a directory)" in notes[0]
    assert same(path, straight)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
def test_a_read_only_folder(stopped, tmp_path, capsys):
    path = shutil.copytree(stopped, tmp_path / "run")
    path.chmod(0o500)
    try:
        with pytest.raises(SystemExit) as stop:
            resume(path, capsys)
    finally:
        path.chmod(0o700)
    err = capsys.readouterr().err
    assert (
        stop.value.code == 3
        and err == f"flaxvae: Permission denied: {path / 'lock'}; allow access to it\n"
    )


# ---- the clock


def test_a_clock_that_goes_back(straight, tmp_path, monkeypatch):
    """To and fro by hours: the same bits, and not a checkpoint less."""
    hours = random.Random(0)

    def clock():
        return time.monotonic() + 3600 * hours.randint(-9, 9)

    wrong = SimpleNamespace(time=clock, monotonic=clock, perf_counter=clock, strftime=time.strftime)
    for module in (loop, runs):
        monkeypatch.setattr(module, "time", wrong)
    saves, save = [], checkpoints.Checkpoints.save

    def counted(self, state, values):
        saves.append(int(state.step))
        save(self, state, values)

    monkeypatch.setattr(checkpoints.Checkpoints, "save", counted)
    monkeypatch.setattr(checkpoints.Checkpoints, "busy", lambda self: False)
    train(tmp_path / "run", checkpoint_every="2h")
    assert len(saves) > 5 and saves[-1] == 40
    assert same(tmp_path / "run", straight)


# ---- not finite


@pytest.fixture
def poison(monkeypatch):
    """``poison.at(when)``: the loss of a step is multiplied by ``when(step)``."""
    recipe = Plan.recipe

    def set_up(when):
        def factor(step):
            scalar = jax.ShapeDtypeStruct((), np.float32)
            return jax.pure_callback(lambda i: np.float32(when(int(i))), scalar, step)

        monkeypatch.setattr(Plan, "recipe", spoiled(loss_times(factor)))

    def restore():
        monkeypatch.setattr(Plan, "recipe", recipe)

    return SimpleNamespace(at=set_up, none=restore)


def nan_at(*bad):
    return lambda step: np.nan if step in bad else 1.0


def by_hand(path, after=lambda state: state, at=0, bad=()):
    """The parameters' sha256 after EPOCHS, step by step, without ``loop``: no NaN at all."""
    run = flaxvae.load(path)
    plan = run.plan.training
    trainer = steps.trainer(run.recipe, run.data(), plan, meshes.make(1), EPOCHS)
    state = trainer.init()
    while (step := int(state.step)) < trainer.total_steps:
        if step == at:
            state, at = after(state), None
            continue
        if step in bad:
            state = state.__class__(**{**vars(state), "step": state.step + 1})
            continue
        state = trainer.segment(state, trainer.feed.at(step).rows, 1)
    return contents.digest(jax.device_get(state.variables["params"]))


@pytest.mark.parametrize("on_nan", ["skip", "rollback"])
def test_a_healthy_run_does_not_depend_on_what_is_not_finite(straight, tmp_path, on_nan):
    train(tmp_path / "run", on_nan=on_nan)
    assert same(tmp_path / "run", straight)
    assert not {"skipped_steps", "rollbacks"} & set().union(*rows(straight))


def test_stop_at_what_is_not_finite(straight, tmp_path, capsys, poison):
    """The state before it is saved; the resume, without the fault, is as if nothing had been."""
    path = tmp_path / "run"
    poison.at(nan_at(17))
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", *FLAGS.split(), "--epochs", str(EPOCHS), "--run", str(path)])
    err = capsys.readouterr().err
    assert stop.value.code == DivergedError.exit_code == 4 and err.count("\n") == 1
    assert err.startswith("flaxvae: the loss is not finite at step 18 (epoch 2): expected")
    for advice in ("--learning-rate", "--clip-norm 1", "--on-nan skip", f"--resume {path}"):
        assert advice in err
    assert steps_saved(path) == [0, 17] and rows(path) == rows(straight)[:1]
    poison.none()
    resume(path, capsys)
    assert same(path, straight)


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_the_largest_learning_rate_leaves_finite_parameters(tmp_path, optimizer):
    with pytest.raises(DivergedError, match=r"the loss is not finite at step 2 \(epoch 1\)"):
        train(tmp_path / "run", learning_rate=1e30, optimizer=optimizer)
    assert steps_saved(tmp_path / "run")[-1] == 1
    leaves = jax.tree.leaves(flaxvae.load(tmp_path / "run").variables)
    assert all(np.isfinite(leaf).all() for leaf in leaves)


@pytest.mark.parametrize("slope", [np.nan, np.inf, 1e25])
def test_a_gradient_that_is_not_finite_or_whose_square_is_not(slope):
    gradient = {"a": np.ones((40, 30), np.float32), "b": np.ones(7, np.float32)}
    assert int(guard.fault(jnp.float32(1), gradient, {})) == 0
    gradient["a"][33, 4] = slope
    assert guard.FAULTS[int(guard.fault(jnp.float32(1), gradient, {}))] == "the gradient is"
    assert guard.FAULTS[int(guard.fault(jnp.float32(np.nan), gradient, {}))] == "the loss is"


def test_state_without_a_gradient_that_is_not_finite(tmp_path, monkeypatch):
    def change(step, value, metrics, updates):
        factor = jnp.where(step == 17, jnp.nan, 1.0)
        return value, (metrics, jax.tree.map(lambda x: x * factor, updates))

    monkeypatch.setattr(Plan, "recipe", spoiled(change))
    with pytest.raises(DivergedError, match="the model's state is not finite at step 18"):
        flaxvae.train(progress=False, model="vq_vae", run=str(tmp_path / "run"), **VQ)
    assert steps_saved(tmp_path / "run")[-1] == 17
    leaves = jax.tree.leaves(flaxvae.load(tmp_path / "run").variables)
    assert all(np.isfinite(leaf).all() for leaf in leaves)


def test_skip_what_is_not_finite(straight, tmp_path, poison):
    path = tmp_path / "run"
    poison.at(nan_at(3, 4, 17))
    train(path, on_nan="skip")
    assert [row.get("skipped_steps", 0) for row in rows(path)] == [2, 1, 0, 0]
    assert all(np.isfinite(value) for row in rows(path) for value in row.values())
    losses = [[row["train_loss"] for row in rows(p)] for p in (path, straight)]
    np.testing.assert_allclose(*losses, rtol=0.03)  # means over eight steps, nine, ten and ten
    poison.none()
    assert sha256(path) == by_hand(path, bad=(3, 4, 17)) != sha256(straight)


def test_skipping_gives_up(tmp_path, poison):
    poison.at(nan_at(*range(17, 40)))
    with pytest.raises(DivergedError, match=r"at step 28 .* nor at the 10 skipped before it"):
        train(tmp_path / "run", on_nan="skip")
    assert steps_saved(tmp_path / "run")[-1] == 17 + guard.SKIPS
    poison.at(nan_at(*range(17, 17 + guard.SKIPS)))
    train(tmp_path / "other", on_nan="skip")


def test_rollback(straight, tmp_path, capsys, poison):
    """Twice at step 17, to the checkpoint at 15: the rest at a quarter of the rate."""
    path, visits = tmp_path / "run", []

    def twice(step):
        visits.append(step)
        return np.nan if step == 17 and visits.count(17) <= 2 else 1.0

    poison.at(twice)
    line = f"{FLAGS} --epochs {EPOCHS} --on-nan rollback --checkpoint-every 5steps --run {path}"
    cli.main(["train", *line.split()])
    out = " ".join(capsys.readouterr().out.split())
    assert "step 18 (epoch 2): back to step 15, with 0.5 of the learning rate (1 of 3)" in out
    assert "with 0.25 of the learning rate (2 of 3)" in out
    assert [row["learning_rate"] for row in rows(path)] == pytest.approx([1e-3, *[2.5e-4] * 3])
    assert [row.get("rollbacks", 0) for row in rows(path)] == [0, 2, 2, 2]
    poison.none()

    def quarter(state):
        scaled = state.guard._replace(scale=state.guard.scale / 4)
        return state.__class__(**{**vars(state), "guard": scaled})

    assert sha256(path) == by_hand(path, quarter, at=15)


def test_the_lower_rate_survives_a_resume(tmp_path, capsys, poison):
    """Three times to no avail; what is saved goes on at an eighth of the rate."""
    path = tmp_path / "run"
    poison.at(nan_at(22))
    with pytest.raises(DivergedError, match=r"at step 23 \(epoch 3\), after 3 rollbacks"):
        train(path, on_nan="rollback", checkpoint_every="9steps")
    assert steps_saved(path)[-1] == 22 and len(rows(path)) == 2  # one of them done again
    with pytest.raises(SystemExit) as stop:  # nor does it go back a fourth time
        resume(path, capsys)
    assert stop.value.code == 4
    capsys.readouterr()
    poison.none()
    resume(path, capsys)
    expected = [1e-3, 1.25e-4, 1.25e-4, 1.25e-4]
    assert [row["learning_rate"] for row in rows(path)] == pytest.approx(expected)


# ---- devices


def test_other_devices_and_back(straight, tmp_path, capsys):
    """Eight devices, then one, then eight: the same up to the order of a sum, and it says so."""
    path = tmp_path / "run"
    train(path, epochs=2, devices=8)
    for devices, epochs, change in (("1", "3", "8 x cpu -> 1 x cpu"), ("8", "4", "1 x cpu -> 8 x")):
        out = resume(path, capsys, "--devices", devices, "--epochs", epochs)
        assert "the last bits may differ from here on: devices" in out and change in out
    assert json.loads((path / "run.json").read_text())["training"]["devices"] == 8
    pairs = (jax.tree.leaves(flaxvae.load(p).variables) for p in (path, straight))
    for found, expected in zip(*pairs):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    for found, expected in zip(rows(path), rows(straight)):
        assert found == pytest.approx(expected, rel=1e-4)
