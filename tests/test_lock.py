"""One process a run folder."""

import json
import os
import platform
import subprocess
import sys

import pytest

import flaxvae
from conftest import TINY
from disturbed import resume, sha256
from flaxvae import cli
from flaxvae.errors import UsageError
from flaxvae.runs import lock

HERE = platform.node()


def gone():
    """The number of a process that was, and is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def identity(pid, **others):
    return json.dumps({"pid": pid, "host": HERE, "began": lock._began(pid), **others})


def test_held_and_released(tmp_path):
    path = tmp_path / "lock"
    for error in (None, KeyboardInterrupt, ValueError):
        try:
            with lock.hold(tmp_path):
                assert json.loads(path.read_text())["pid"] == os.getpid()
                with pytest.raises(UsageError, match=f"process {os.getpid()} on this machine"):
                    lock.hold(tmp_path).__enter__()
                assert path.exists()  # the refused one leaves it
                if error:
                    raise error
        except (KeyboardInterrupt, ValueError):
            pass
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text",
    [identity(gone()), identity(os.getpid(), began="0"), ""],
    ids=["gone", "another process of that number", "killed at making it"],
)
def test_a_stale_lock_is_taken_over(tmp_path, text):
    (tmp_path / "lock").write_text(text)
    with lock.hold(tmp_path):
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "who"),
    [
        (identity(gone(), host="another"), "on another"),
        (identity(os.getppid()), f"process {os.getppid()} on this machine"),
        ("not JSON", "an unknown process"),
        ("[1]", "an unknown process"),
    ],
    ids=["of another host", "of a process that runs", "not JSON", "not a record"],
)
def test_a_lock_that_may_be_held_is_respected(tmp_path, text, who):
    (tmp_path / "lock").write_text(text)
    with pytest.raises(UsageError) as refused, lock.hold(tmp_path):
        pass
    line = str(refused.value)
    assert who in line and f"remove {tmp_path / 'lock'}" in line and "\n" not in line
    assert (tmp_path / "lock").read_text() == text


@pytest.mark.skipif(not lock._status(os.getpid()), reason="needs /proc")
def test_a_process_that_ended_unasked_holds_nothing(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    (tmp_path / "lock").write_text(identity(process.pid))
    with pytest.raises(UsageError), lock.hold(tmp_path):
        pass
    process.stdin.close()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    with lock.hold(tmp_path):
        pass
    process.wait()


def test_only_one_of_many_gets_a_stale_lock(tmp_path):
    """Four processes at once: the one that has it leaves before the next comes in."""
    (tmp_path / "lock").write_text(identity(gone()))
    script = (
        "import sys, time; from pathlib import Path; from flaxvae.errors import UsageError\n"
        "from flaxvae.runs import lock\n"
        "folder = Path(sys.argv[1])\n"
        "try:\n"
        "    with lock.hold(folder):\n"
        "        (folder / 'inside').touch(exist_ok=False)\n"
        "        time.sleep(0.2)\n"
        "        (folder / 'inside').unlink()\n"
        "        print('had it')\n"
        "except UsageError:\n"
        "    print('refused')\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    many = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    said = [process.communicate(timeout=60)[0].strip() for process in many]
    assert {process.returncode for process in many} == {0}
    assert "had it" in said and {*said} <= {"had it", "refused"}
    assert list(tmp_path.iterdir()) == []


def test_two_trainings_into_one_folder(tmp_path, capsys, no_figures):
    path = tmp_path / "run"
    flaxvae.train(progress=False, epochs=1, run=str(path), **TINY)
    before = sha256(path)
    with lock.hold(path), pytest.raises(SystemExit) as stop:
        resume(path, capsys, "--epochs", "2")
    err = capsys.readouterr().err
    assert stop.value.code == 2 and err.count("\n") == 1 and f"remove {path / 'lock'}" in err
    assert sha256(path) == before and not (path / "lock").exists()
    resume(path, capsys, "--epochs", "2")
    assert sha256(path) != before and not (path / "lock").exists()
    with lock.hold(path), pytest.raises(SystemExit) as stop:
        cli.main(["fit-prior", str(path)])
    assert stop.value.code == 2
    (path / "lock").write_text(identity(gone()))
    flaxvae.load(path)  # looks, and needs no lock
    assert (path / "lock").exists()
