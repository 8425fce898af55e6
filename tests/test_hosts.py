"""Several processes compute what one does, and end together; state shared out is the same state."""

import contextlib
import functools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import jax
import numpy as np
import pytest

import flaxvae
from conftest import TINY
from disturbed import EPOCHS, newest, rows, wait_for, wait_for_a_save
from flaxvae import cli, lookup
from flaxvae.data import pipeline
from flaxvae.devices import hosts, lifelines, mesh, roll
from flaxvae.errors import HostsError, UsageError
from flaxvae.recipe import DataSpec
from flaxvae.runs import checkpoints, contents, keeper
from flaxvae.training import loop
from flaxvae.training import step as steps

pytestmark = pytest.mark.usefixtures("no_figures")
SCRIPT = (
    "import signal, sys; from flaxvae import api, cli; from flaxvae.devices import mesh;"
    "signal.signal(signal.SIGINT, signal.default_int_handler);"  # ignored by jobs in the background
    "from flaxvae.training import loop;"
    "loop.SEGMENT_SECONDS, mesh.SMALL = 0.02, 256;"
    "api.drawn = lambda *arguments: dict(); cli.main(sys.argv[1:])"
)
CHOICES = ["--net", "mlp", "--widths", "32", "--latent-dim", "2", "--checkpoint-every", "0.2s"]


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


# ---- the roll and the lifelines


def meet_all(calls, seconds=10.0):
    """Lifelines, or errors, of all calls at once, each (processes, process) and perhaps a token."""
    address, found = f"127.0.0.1:{free_port()}", {}

    def one(i, processes, process, token=""):
        try:
            found[i] = roll.meet(address, processes, process, seconds, token).lines
        except Exception as error:
            found[i] = error

    threads = [threading.Thread(target=one, args=(i, *call)) for i, call in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found[i] for i in range(len(calls))]


def heard(line):
    """A list that fills with what a process hears of the ends of others."""
    events = []
    line.watch(lambda *event: events.append(event))
    return events


def first(events):
    wait_for(lambda: events, seconds=10)
    return list(events)


def close(line):
    """What the system does when a process is killed."""
    for end in line._lines.values():
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def test_a_death_is_heard_by_process_0_and_its_death_by_all():
    zero, one, two = meet_all([(3, 0), (3, 1), (3, 2)])
    events = heard(zero), heard(one), heard(two)
    close(two)
    assert first(events[0]) == [(2, False)]
    assert events[1] == []  # until process 0 ends, too
    zero.tell(lifelines.FAILED)
    assert first(events[1]) == [(0, True)]


def test_a_goodbye_is_no_death():
    zero, one, two = meet_all([(3, 0), (3, 1), (3, 2)])
    events = heard(zero)
    one.tell(lifelines.BYE)
    close(one)
    close(two)
    assert first(events) == [(2, False)]


def test_processes_that_cannot_meet():
    (alone,) = meet_all([(3, 0)], seconds=0.3)
    assert isinstance(alone, HostsError) and "process 1, 2 did not come" in str(alone)
    (lost,) = meet_all([(2, 1)], seconds=0.3)
    assert isinstance(lost, HostsError) and "did not answer within 0.3 seconds" in str(lost)
    zero, *others = meet_all([(2, 0), (2, 1), (2, 1)], seconds=2.0)
    assert isinstance(zero, lifelines.Lifelines)
    # Whichever came second is refused, or finds nobody there any more.
    kinds = {type(other) for other in others}
    assert lifelines.Lifelines in kinds and kinds & {HostsError, UsageError}
    zero, other = meet_all([(2, 0), (3, 1)], seconds=1.0)
    assert isinstance(zero, HostsError) and isinstance(other, UsageError)
    assert "num_processes=3, expected its own 2" in str(other)


def knock(host, port):
    """A connection to who has just begun to listen."""
    found = []

    def opens():
        with contextlib.suppress(OSError):
            found.append(socket.create_connection((host, port), timeout=10))
        return found

    wait_for(opens)
    return found[0]


@contextlib.contextmanager
def calling(processes, seconds=20.0, token=""):
    """An address at which process 0 calls the roll, and a list that gets its lifelines at last."""
    address, found = f"127.0.0.1:{free_port()}", []

    def call():
        found.append(roll.meet(address, processes, 0, seconds, token).lines)

    thread = threading.Thread(target=call)
    thread.start()
    yield address, found
    thread.join()
    assert isinstance(found[0], lifelines.Lifelines)


def speaks(address, *words):
    """A connection to process 0 that says these words, one packet each, and the challenge."""
    host, port = address.split(":")
    line = knock(host, int(port))
    challenge = line.recv(100).decode().strip()
    for word in words:
        line.sendall(word if isinstance(word, bytes) else word(challenge))
    return line


def proven(*numbers, token=""):
    """What a process says, who may not be one: for a challenge."""

    def words(challenge):
        proof = roll._proof(token, challenge, *numbers)
        return json.dumps([*numbers, proof]).encode() + b"\n"

    return words


@pytest.mark.parametrize(
    "words",
    [
        b"GET / HTTP/1.0\r\n\r\n",
        b"[1]\n",
        b"\xff\n",
        b"7\n",
        b"[[], 2]\n",
        b"[99, 2]\n",
        b"[1, 2, null]\n",
        b'[1, 2, "\\ud800"]\n',
        b'[1, 2, ""]\n',
        b"[" * 200 + b"\n",
        b"9" * 1000,
        proven(True, 2),
        proven(1.0, 2),
        proven([1], 2),
        proven("1", 2),
        proven(1, 2, token="guessed"),
        proven(99, 2),
        proven(0, 2),
        proven(-1, 2),
        proven(10**40, 2),
        proven(1, 3),
        proven(1, 10**40),
    ],
)
def test_whoever_is_no_process_of_this_training_is_hung_up_on(words):
    with calling(2) as (address, found):
        stranger = speaks(address, words)
        stranger.settimeout(10)
        with contextlib.suppress(ConnectionResetError):
            while stranger.recv(300):  # a word of why, perhaps; then it is closed
                pass
        assert not found
        roll.meet(address, 2, 1, 10.0)


def test_nobody_waits_for_who_says_nothing_or_little(monkeypatch):
    monkeypatch.setattr(roll, "PATIENCE", 60.0)
    with calling(3) as (address, _):
        silent = [speaks(address, *[b"[1,"] * (i % 2)) for i in range(20)]
        two = threading.Thread(target=roll.meet, args=(address, 3, 2, 20.0))
        two.start()
        roll.meet(address, 3, 1, 20.0)
        two.join()
    for line in silent:
        assert line.recv(10) == b""  # and then they are hung up on


def test_who_says_nothing_is_hung_up_on_in_time(monkeypatch):
    monkeypatch.setattr(roll, "PATIENCE", 0.1)
    monkeypatch.setattr(roll, "CALLERS", 5)
    with calling(2) as (address, _):
        for line in [speaks(address) for _ in range(20)]:
            assert line.recv(10) == b""
        roll.meet(address, 2, 1, 10.0)


def test_a_message_may_come_in_pieces():
    def pieces(challenge):
        whole.append(proven(1, 2)(challenge))
        return whole[0][:7]

    whole = []
    with calling(2) as (address, _):
        line = speaks(address, pieces)
        for i in range(7, len(whole[0])):
            line.sendall(whole[0][i : i + 1])
        assert line.recv(10) == roll.WELCOME


def test_a_number_is_free_again_when_its_process_has_gone():
    with calling(3) as (address, _):
        speaks(address, proven(1, 3)).close()
        again = speaks(address, proven(1, 3))
        roll.meet(address, 3, 2, 10.0)
        assert again.recv(10) == roll.WELCOME


def test_the_token_is_the_same_for_all_and_is_not_sent():
    zero, one = meet_all([(2, 0, "secret"), (2, 1, "secret")])
    assert isinstance(zero, lifelines.Lifelines) and isinstance(one, lifelines.Lifelines)
    zero, one = meet_all([(2, 0, "secret"), (2, 1, "sEcret")], seconds=1.0)
    assert isinstance(zero, HostsError) and isinstance(one, UsageError)
    assert "another FLAXVAE_TOKEN than its own" in str(one)
    assert "secret" not in str(zero).lower() + str(one).lower()
    assert b"secret" not in proven(1, 2, token="secret")("challenge")
    said = [proven(1, 2, token="secret")(challenge) for challenge in ("one", "another")]
    assert said[0] != said[1]  # so what was overheard is of no use


def test_process_0_listens_at_the_address_it_was_given():
    with calling(2) as (address, _):
        knock(*address.split(":")).close()
        elsewhere = "127.0.0.2", int(address.split(":")[1])
        with pytest.raises(OSError):
            socket.create_connection(elsewhere, timeout=2).close()
        assert roll.meet(address, 2, 1, 10.0).at is None


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("192.0.2.1", ["192.0.2.1 is no address of this machine", "0.0.0.0"]),
        ("nowhere.invalid", ["nowhere.invalid is not known here"]),
        ("a" * 70 + ".b", ["is not known here"]),
    ],
)
def test_an_address_of_another_machine(host, words):
    with pytest.raises(HostsError) as caught:
        roll.meet(f"{host}:{free_port()}", 2, 0, 1.0)
    assert all(word in str(caught.value) for word in words), caught.value
    assert "\n" not in str(caught.value)


def test_a_port_that_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(HostsError, match=r"cannot be opened at 127\.0\.0\.1"):
            roll.meet(address, 2, 0, 1.0)


def test_a_name_that_means_this_machine_alone_is_said(monkeypatch, capsys):
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.1.1", free_port()))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **more: found)
    assert roll.meet("myhost:1234", 1, 0, 1.0).at.startswith("127.0.1.1:")
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "myhost is 127.0.1.1 on this machine" in said


def test_a_relay_hides_the_end_of_who_is_behind_it():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = lifelines.relay(f"127.0.0.1:{server.getsockname()[1]}").split(":")[1]
        near = socket.create_connection(("127.0.0.1", int(port)), timeout=10)
        far, _ = server.accept()
        for one, other, word in ((near, far, b"there"), (far, near, b"back")):
            one.sendall(word)
            assert other.recv(100) == word
        far.close()
    near.settimeout(0.2)
    with pytest.raises(TimeoutError):
        near.recv(1)
    late = socket.create_connection(("127.0.0.1", int(port)), timeout=10)
    assert late.recv(1) == b""  # nobody is behind it any more


# ---- flags


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--num-processes 2", "--num-processes 2: expected --coordinator"),
        ("--process-id 0", "--process-id 0: expected --coordinator"),
        ("--coordinator h:1 --num-processes 2", "--process-id"),
        ("--coordinator h:1 --process-id 0", "--num-processes"),
        ("--coordinator h:1 --num-processes 2 --process-id 2", "--process-id 2: expected 0 to 1"),
        ("--coordinator h:1 --num-processes 2 --process-id -1", "--process-id -1: expected 0 to 1"),
        ("--coordinator h:1 --num-processes 0 --process-id 0", "--num-processes 0: expected 1"),
        ("--coordinator h --num-processes 2 --process-id 0", "--coordinator h: expected HOST:PORT"),
        ("--coordinator h:70000 --num-processes 2 --process-id 0", "--coordinator h:70000"),
        ("--coordinator auto --process-id -1", "--process-id -1: expected 0 or more"),
    ],
)
def test_flags_that_cannot_be(flags, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", *flags.split()])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and message in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_coordinator_that_cannot_be_reached(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hosts, "MEETING_SECONDS", 0.2)
    monkeypatch.setattr(jax.config, "update", lambda *setting: None)  # this process goes on
    line = f"train --coordinator 127.0.0.1:{free_port()} --num-processes 2 --process-id 1"
    with pytest.raises(SystemExit) as stop:
        cli.main(line.split())
    error = capsys.readouterr().err
    assert stop.value.code == 3 and error.count("\n") == 1 and "did not answer" in error
    assert not list(tmp_path.iterdir())


# ---- processes


def start(count, *arguments, before=""):
    """``flaxvae train`` in ``count`` processes with a device each, which do ``before`` before."""
    address = f"127.0.0.1:{free_port()}"
    environment = {
        **os.environ,
        "JAX_NUM_CPU_DEVICES": "1",
        "JAX_COMPILATION_CACHE_DIR": os.environ["FLAXVAE_TEST_CACHE"],
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    }
    command = [sys.executable, "-c", before + SCRIPT, "train", "--coordinator", address]
    pipe = subprocess.PIPE
    return [
        subprocess.Popen(
            [*command, "--num-processes", str(count), "--process-id", str(i), *arguments],
            env=environment,
            stdout=pipe,
            stderr=pipe,
            text=True,
        )
        for i in range(count)
    ]


def ends(processes):
    """(exit code, standard output, standard error) of each."""
    try:
        return [(p.returncode, *said) for p in processes for said in [p.communicate(timeout=300)]]
    finally:
        for process in processes:
            process.kill()


def summary(path):
    return json.loads((path / "summary.json").read_text())


def same(found, expected):
    """The same history, parameters aside from rounding, and evaluation."""
    for row, other in zip(rows(found), rows(expected), strict=True):
        assert row == pytest.approx(other, rel=2e-6, abs=1e-6)
    assert summary(found)["test"]["elbo"] == pytest.approx(
        summary(expected)["test"]["elbo"], rel=2e-6
    )
    return True


def named():
    """Whether this machine's own name has an address, without which no processes can meet."""
    try:
        return bool(socket.getaddrinfo(socket.gethostname(), None))
    except OSError:
        return False


def test_a_machine_whose_name_has_no_address_is_one_line(monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "nobody.invalid")
    words = r"nobody\.invalid, has no address.*/etc/hosts"
    with pytest.raises(HostsError, match=words), hosts._named():
        raise RuntimeError("Gloo context initialization failed")
    monkeypatch.setattr(socket, "gethostname", lambda: "localhost")
    with pytest.raises(RuntimeError, match="another fault"), hosts._named():
        raise RuntimeError("another fault")


@pytest.mark.skipif(not named(), reason="this machine's own name has no address")
def test_two_processes_learn_what_one_does(straight, tmp_path):
    """Each reads its own rows of streamed images; what is resident is in a slow test."""
    path = tmp_path / "pair"
    choices = [*CHOICES, "--data-placement", "stream"]
    before = "from flaxvae.training import feed; feed.BLOCK = 3 * 128 * 64\n"
    found = ends(start(2, *choices, "--epochs", str(EPOCHS), "--run", str(path), before=before))
    assert [end[0] for end in found] == [0, 0], found
    assert "2 x cpu" in found[0][1] and found[1][1:] == ("", "")  # process 0 alone talks
    assert same(path, straight)
    loaded = flaxvae.load(path).variables["params"]
    assert contents.digest(jax.device_get(loaded)) == summary(path)["parameters_sha256"]


@pytest.mark.slow
def test_two_devices_learn_what_two_processes_do(straight, tmp_path):
    path, pair = tmp_path / "devices", tmp_path / "pair"
    flaxvae.train(progress=False, epochs=EPOCHS, run=str(path), **{**TINY, "devices": 2})
    found = ends(start(2, *CHOICES, "--epochs", str(EPOCHS), "--run", str(pair)))
    assert [end[0] for end in found] == [0, 0], found
    assert same(path, straight) and same(path, pair)


def disturb(path, processes, seen, which, number):
    """Send a signal once there is a checkpoint newer than ``seen``; how all end."""
    try:
        wait_for_a_save(path, seen, *processes)
        processes[which].send_signal(number)
        return ends(processes)
    finally:
        for process in processes:
            process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("shard", [False, True])
def test_stopped_and_killed(tmp_path, shard):
    """A signal at either stops both, saved; the death of either ends the other in one line."""
    path, epochs, seen = tmp_path / "disturbed", 120, 0
    choices = [*CHOICES, "--ema", "0.9", "--patience", str(epochs), "--epochs", str(epochs)]
    choices += ["--shard-params"] * shard
    arguments = [*choices, "--run", str(path)]
    for which, number in [(1, 15), (0, 2), (1, 9), (0, 9), (0, 15)]:
        found = disturb(path, start(2, *arguments), seen, which, signal.Signals(number))
        arguments = ["--resume", str(path)]
        for i, (code, _, err) in enumerate(found):
            if number != signal.SIGKILL:
                assert code == 128 + number and "stopped at step" in err, found
            elif i == which:
                assert code == -signal.SIGKILL
            else:
                assert code == HostsError.exit_code, found
                assert err.startswith(f"flaxvae: process {which} has ended"), found
            assert err.count("\n") == (code > 0), found
        assert newest(path) > seen and not (path / "summary.json").exists()
        seen = newest(path)
    found = ends(start(2, *arguments))
    assert [end[0] for end in found] == [0, 0], found
    straight = ends(start(2, *choices, "--run", str(tmp_path / "straight")))
    assert [end[0] for end in straight] == [0, 0], straight
    digests = {summary(p)["parameters_sha256"] for p in (path, tmp_path / "straight")}
    assert len(digests) == 1 and rows(path) == rows(tmp_path / "straight")


EVALUATES = """
import pathlib, time
from flaxvae.analysis import evaluation
evaluate = evaluation.evaluate
def slowly(*arguments, watch, **options):
    pathlib.Path({mark!r}).touch()
    time.sleep(3)
    watch(1, 2)
    return evaluate(*arguments, watch=watch, **options)
evaluation.evaluate = slowly
"""


@pytest.mark.slow
@pytest.mark.parametrize(("who", "codes"), [([1], [0, 143]), ([1, 0], [143, 143])])
def test_signals_while_the_first_evaluates(tmp_path, who, codes):
    """Process 1, which only waits, waits on: its end would be that of process 0."""
    path, mark = tmp_path / "run", tmp_path / "evaluates"
    before = EVALUATES.format(mark=str(mark))
    processes = start(2, *CHOICES, "--epochs", "1", "--run", str(path), before=before)
    wait_for(lambda: mark.exists() or processes[0].poll() is not None)
    for process in who:
        processes[process].send_signal(signal.SIGTERM)
    found = ends(processes)
    assert [end[0] for end in found] == codes, found
    assert all(end[2].count("\n") == (end[0] > 0) for end in found), found
    assert (path / "summary.json").exists() == (0 not in who)
    found = ends(start(2, "--resume", str(path)))
    assert [end[0] for end in found] == [0, 0] and summary(path)["epochs"] == 1, found


POISON = """
import jax.numpy as jnp
from disturbed import loss_times, spoiled
from flaxvae.plan import Plan
from flaxvae.runs import folder as runs
Plan.recipe = spoiled(loss_times(lambda step: jnp.where(step == 17, jnp.nan, 1.0)))
"""


@pytest.mark.slow
@pytest.mark.parametrize("flags", [[], ["--shard-params"]])
def test_all_go_back_from_what_is_not_finite(tmp_path, flags):
    """Three times to the first process's checkpoint at step 15; then all give up, saved."""
    path = tmp_path / "run"
    choices = [*CHOICES[:-1], "5steps", "--on-nan", "rollback", *flags]  # checkpoints, too
    found = ends(start(2, *choices, "--epochs", "3", "--run", str(path), before=POISON))
    for code, _, err in found:
        assert code == 4 and err.count("\n") == 1, found
        assert "the loss is not finite at step 18 (epoch 2), after 3 rollbacks" in err, found
    said = " ".join(found[0][1].split())
    assert said.count("back to step 15") == 3 and f"--resume {path}" in found[0][2]
    assert newest(path) == 17
    found = ends(start(2, "--resume", str(path)))
    assert [end[0] for end in found] == [0, 0], found
    assert [row["learning_rate"] for row in rows(path)] == [1e-3, 1.25e-4, 1.25e-4]


@pytest.mark.slow
def test_a_full_disk_ends_all_at_the_end(tmp_path):
    """That of the first process: it goes on, and its last state is lost."""
    path = tmp_path / "run"
    full = """
from flaxvae.runs.checkpoints import Checkpoints
def save(*arguments):
    raise OSError(28, "No space left on device")
Checkpoints._write = save
"""
    zero, one = ends(start(2, *CHOICES, "--epochs", "2", "--run", str(path), before=full))
    assert zero[0] == one[0] == 3 and len(rows(path)) == 2, (zero, one)
    assert "the state of step 20 could not be saved" in zero[2] and zero[2].count("\n") == 1
    assert one[2].startswith("flaxvae: process 0 has ended") and one[2].count("\n") == 1
    assert newest(path) == -1 and not (path / "summary.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("count", "flags"), [(3, []), (2, ["--shard-params"])])
def test_what_one_process_left_goes_on_in_several_and_back(tmp_path, capsys, count, flags):
    path, straight = tmp_path / "run", tmp_path / "straight"
    choices = {**TINY, "batch_size": 126}
    flaxvae.train(progress=False, epochs=1, run=str(path), **choices)
    flaxvae.train(progress=False, epochs=3, run=str(straight), **choices)
    more = ["--resume", str(path), "--devices", str(count), "--epochs", "2", *flags]
    found = ends(start(count, *more))
    assert [end[0] for end in found] == [0] * count, found
    cli.main(["train", "--resume", str(path), "--devices", "1", "--epochs", "3"])
    capsys.readouterr()
    assert len(rows(path)) == 3 and same(path, straight)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "codes", "message"),
    [
        (([], ["--seed", "1"]), {2}, "other settings"),
        ((["--batch-size", "127"],) * 2, {2}, "--batch-size 127: expected a multiple of 2"),
        ((["--devices", "1"],) * 2, {2}, "--devices 1: expected 2"),
        (([], ["--dataset", "missing.npz"]), {3}, "process 1 has ended"),
    ],
)
def test_a_process_that_cannot_start(tmp_path, flags, codes, message):
    path = tmp_path / "run"
    address = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-c", SCRIPT, "train", *CHOICES, "--run", str(path)]
    together = ["--coordinator", address, "--num-processes", "2", "--process-id"]
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "1"}
    pipe = subprocess.PIPE
    found = ends(
        [
            subprocess.Popen(
                [*command, *together, str(i), *own],
                env=environment,
                stdout=pipe,
                stderr=pipe,
                text=True,
            )
            for i, own in enumerate(flags)
        ]
    )
    assert {end[0] for end in found} <= codes, found
    assert message in found[0][2] and all(end[2].count("\n") == 1 for end in found), found
    assert not path.exists()


# ---- state shared out between devices


@pytest.fixture
def shared(monkeypatch):
    """Even small arrays are shared out."""
    monkeypatch.setattr(mesh, "SMALL", 64)


def made(devices, model="vae", **choices):
    """A trainer for digits."""
    tiny = {name: x for name, x in TINY.items() if name != "widths" or "net" not in choices}
    plan = flaxvae.make_plan(model, **{**tiny, "devices": devices, "epochs": 2, **choices})
    data = pipeline.prepare(plan.data)
    recipe, over = plan.recipe(data.spec), mesh.make(devices)
    return steps.trainer(recipe, data, plan.training, over, 2)


def test_the_largest_axis_that_divides_is_shared_out(shared):
    over = mesh.make(8)
    shapes = {"a": (16, 24), "b": (24, 16), "c": (24, 7), "d": (7, 9), "e": (8,), "f": ()}
    arrays = {k: jax.ShapeDtypeStruct(shape, np.float32) for k, shape in shapes.items()}
    found = {k: tuple(s.spec) for k, s in mesh.shared_out(arrays, over).items()}
    whole = ()
    assert found == {
        "a": (None, "data"),
        "b": ("data",),
        "c": ("data",),
        "d": whole,
        "e": whole,
        "f": whole,
    }


def bytes_of(state, device):
    """What a device holds of a state."""
    shards = [s for leaf in jax.tree.leaves(state) for s in leaf.addressable_shards]
    return sum(shard.data.nbytes for shard in shards if shard.device == device)


def test_shared_out_state_learns_the_same_in_less_memory(shared, tmp_path):
    trainers = {shard: made(8, shard_params=shard, ema=0.9) for shard in (False, True)}
    whole, out = (t.segment(t.init(), t.feed.at(0).rows, 10) for t in trainers.values())
    for name, total in whole.totals.items():
        assert float(out.totals[name]) == pytest.approx(float(total), rel=2e-6)
    for one, other in zip(jax.tree.leaves(whole.variables), jax.tree.leaves(out.variables)):
        np.testing.assert_allclose(one, other, atol=1e-5)
    everything = sum(leaf.nbytes for leaf in jax.tree.leaves(whole))
    for device in mesh.make(8).devices.flat:
        assert bytes_of(whole, device) == everything
        assert bytes_of(out, device) < everything / 4
    # A checkpoint restores on one device, and what that saves again on eight.
    state = out
    for i, trainer in enumerate((made(1, ema=0.9), trainers[True])):
        with checkpoints.Checkpoints(tmp_path / str(i)) as folder:
            folder.save(state)
            state = loop.resume(
                trainer, functools.partial(keeper.restored, folder, note=pytest.fail), pytest.fail
            )
    assert bytes_of(state, jax.devices()[0]) == bytes_of(out, jax.devices()[0])
    jax.tree.map(np.testing.assert_array_equal, state, out)


@pytest.mark.slow
def test_runs_with_shared_out_state(shared, straight, tmp_path, capsys):
    path = tmp_path / "run"
    flaxvae.train(
        progress=False, epochs=1, run=str(path), **{**TINY, "devices": 8}, shard_params=True
    )
    flags = f"--epochs {EPOCHS} --devices 1 --no-shard-params"
    cli.main(["train", "--resume", str(path), *flags.split()])
    assert json.loads((path / "run.json").read_text())["training"]["shard_params"] is False
    assert same(path, straight)
    flags = f"--epochs {EPOCHS + 1} --devices 8 --shard-params"
    cli.main(["train", "--resume", str(path), *flags.split()])
    capsys.readouterr()
    assert json.loads((path / "run.json").read_text())["training"]["shard_params"] is True
    flaxvae.train(progress=False, epochs=EPOCHS + 1, run=str(tmp_path / "longer"), **TINY)
    assert same(path, tmp_path / "longer")


# ---- what a step moves between devices (docs/scaling.md)

COLLECTIVE = re.compile(
    r"= (.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("
)


def collectives(trainer):
    """(name, numbers in the result, whether outside the loop of steps) of each, as compiled."""
    state = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        jax.eval_shape(trainer.init),
        trainer.sharding,
    )
    jitted = jax.jit(trainer.segment, out_shardings=trainer.sharding)
    text = jitted.lower(state, trainer.feed.at(0).rows, 2).compile().as_text()
    body, entry = text.split("\nENTRY ")
    found = []
    for part, outside in ((body, False), (entry, True)):
        for shapes, name in COLLECTIVE.findall(part):
            sizes = [
                np.prod([int(n) for n in dims.split(",") if n], dtype=int)
                for dims in re.findall(r"[a-z]+\d+\[([\d,]*)\]", shapes)
            ]
            found.append((name, int(sum(sizes)), outside))
    return found


def parameters(trainer):
    return jax.tree.leaves(jax.eval_shape(trainer.init).variables["params"])


def check_one_all_reduce(trainer):
    """All gradients and the means of the step's metrics, at once."""
    ((name, size, outside),) = collectives(trainer)
    count = sum(leaf.size for leaf in parameters(trainer))
    assert (name, outside) == ("all-reduce", False)
    assert count < size <= count + 64


def test_a_step_has_one_all_reduce():
    check_one_all_reduce(made(8))


@pytest.mark.parametrize("model", ["vae", "iwae"])
def test_a_part_of_a_batch_stays_on_its_devices(model):
    """Nothing but gradients and means passes between them: of each network once a part."""
    trainer = made(8, model, accumulate=4)
    found = collectives(trainer)
    assert {(name, outside) for name, _, outside in found} == {("all-reduce", False)}
    count = sum(leaf.size for leaf in parameters(trainer))
    assert len(found) <= 3 and count < sum(size for _, size, _ in found) <= count + 64


@pytest.mark.slow
@pytest.mark.parametrize("net", ["conv", "resnet"])
def test_a_step_of_image_networks_has_one_all_reduce(net):
    check_one_all_reduce(made(8, net=net))


@pytest.mark.slow
def test_a_step_on_shared_out_state_gathers_each_array_once(shared):
    trainer = made(8, shard_params=True)
    out = [
        leaf.size
        for leaf, sharding in zip(
            parameters(trainer), jax.tree.leaves(trainer.sharding.variables["params"])
        )
        if not sharding.is_fully_replicated
    ]
    found = collectives(trainer)
    gathered = [size for name, size, _ in found if name == "all-gather"]
    assert sorted(gathered) == sorted(out) and len(out) >= 2
    assert [name for name, *_ in found if name != "all-gather"] == ["all-reduce"]


@pytest.mark.parametrize(
    ("shape", "choices"),
    [
        ((28, 28, 1), {"latent_dim": 20}),
        (
            (32, 32, 3),
            {"net": "resnet", "channels": (256, 512, 1024), "blocks": 4, "latent_dim": 256},
        ),
    ],
)
def test_the_plan_in_the_documentation_is_of_these_models(shape, choices):
    recipe = lookup.build("vae", DataSpec("images", shape), **lookup.arguments("vae") | choices)
    image = jax.ShapeDtypeStruct((1, *shape), np.float32)
    shapes = jax.eval_shape(recipe.model.init, jax.random.key(0), image)
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
    text = (Path(__file__).parents[1] / "docs" / "scaling.md").read_text()
    assert f"| {count:,} |" in text
    row = next(line for line in text.splitlines() if f"| {count:,} |" in line)
    assert row.endswith(f"| {4 * count / 1e6:.{1 if count < 1e7 else 0}f} MB |")
