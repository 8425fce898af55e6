"""Output that fails: the work goes on, and ends as it would have."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from disturbed import summary
from flaxvae import cli, streams

FLAGS = "--net mlp --widths 32 --latent-dim 2 --devices 1"
pytestmark = pytest.mark.usefixtures("no_figures")
full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")


def broken(kind):
    """A stream to write into that fails."""
    if kind == "full":
        return Path("/dev/full").open("w")
    if kind == "closed":
        stream = io.StringIO()
        stream.close()
        return stream
    if kind == "none":  # what Python makes of a closed one
        return None
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w")


def main(line):
    try:
        cli.main(line.split())
    except SystemExit as stop:
        return stop.code or 0
    return 0


@pytest.mark.parametrize("kind", [pytest.param("full", marks=full), "closed", "none", "left"])
def test_a_training_nobody_hears_is_a_training(tmp_path, monkeypatch, capsys, straight, kind):
    """Both streams fail at the first word; what it leaves is what it always leaves."""
    path = tmp_path / "run"
    monkeypatch.setattr(sys, "stdout", broken(kind))
    monkeypatch.setattr(sys, "stderr", broken(kind))
    before = sys.stdout, sys.stderr
    assert main(f"train {FLAGS} --epochs 4 --run {path}") == 0
    assert main(f"eval {path}") == 0
    assert main(f"eval {path} --split wrong") == 2
    assert (sys.stdout, sys.stderr) == before
    summaries = [summary(p) for p in (path, straight)]
    assert summaries[0] == summaries[1]
    assert json.loads((path / "evaluation.json").read_text())["elbo"]
    assert not (path / "lock").exists()


def test_a_terminal_that_is_closed(tmp_path, monkeypatch, capsys):
    """As rich writes to it, which ends the process where a pipe is left."""

    class Gone(io.StringIO):
        encoding, left = "utf-8", 5

        def isatty(self):
            return True

        def write(self, text):
            self.left -= 1
            if self.left < 0:
                raise BrokenPipeError(32, "Broken pipe")
            return len(text)

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", Gone())
    assert main(f"train {FLAGS} --epochs 2 --run {tmp_path / 'run'}") == 0
    assert (tmp_path / "run" / "summary.json").exists() and capsys.readouterr().err == ""


@full
def test_a_log_on_a_full_disk_is_said_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", broken("full"))
    assert main(f"train {FLAGS} --epochs 2 --run {tmp_path / 'run'}") == 0
    said = "flaxvae: standard output cannot be written (No space left on device)\n"
    assert capsys.readouterr().err == said


@full
def test_a_log_goes_on_when_there_is_room_again(tmp_path):
    class Disk(io.RawIOBase):
        full, kept = False, b""

        def writable(self):
            return True

        def write(self, data):
            if self.full:
                raise OSError(28, "No space left on device")
            self.kept += bytes(data)
            return len(data)

    disk = Disk()
    stream = streams.Steady(io.TextIOWrapper(io.BufferedWriter(disk), "ascii"))
    for word, disk.full in (("a", False), ("b", True), ("β", True), ("c", False)):
        print(word, file=stream, flush=True)
    assert disk.kept.startswith(b"a\n") and disk.kept.endswith(b"c\n")


# ---- to the very end of the process, where Python writes what is left


@pytest.mark.parametrize(
    ("shell", "code"),
    [
        ("{flaxvae} --version > /dev/full", 0),
        ("{flaxvae} --version >&-", 0),
        ("{flaxvae} --help | true", 0),
        ("{flaxvae} train --help > /dev/full", 0),
        ("{flaxvae} wrong 2> /dev/full", 2),
        ("{flaxvae} wrong 2>&-", 2),
        ("{flaxvae} wrong > /dev/full 2>&1", 2),
        ("{flaxvae} wrong <&- >&- 2>&-", 2),
    ],
)
@full
def test_the_exit_code_is_that_of_the_work(shell, code):
    command = shell.format(flaxvae=f"{sys.executable} -m flaxvae")
    script = f"set -o pipefail; {command}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == code
    assert "Exception ignored" not in done.stderr and "Traceback" not in done.stderr


def test_files_do_not_take_the_place_of_a_closed_stream(tmp_path):
    """Else what is printed, by C libraries too, would be written into a run."""
    script = (
        "import os; from flaxvae import cli, streams\n"
        "with streams.steady():\n"
        "    file = open('x', 'w')\n"
        "    assert file.fileno() > 2, file.fileno()\n"
        "    os.write(1, b'to nobody')\n"
    )
    command = f'{sys.executable} -c "{script}" >&- <&-'
    subprocess.run(["bash", "-c", command], check=True, cwd=tmp_path, timeout=60)
    assert (tmp_path / "x").read_bytes() == b""


def test_the_first_line_is_read_and_the_training_ends(tmp_path):
    """In a process of its own: ``train | head -1``."""
    path = tmp_path / "run"
    quick = "from flaxvae import api, cli; api.drawn = lambda *arguments: dict(); cli.main()"
    words = [sys.executable, "-c", quick, "train", *FLAGS.split(), "--epochs", "2"]
    process = subprocess.Popen(
        [*words, "--run", str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline().startswith("model")
    process.stdout.close()
    err = process.stderr.read()
    assert (process.wait(timeout=120), err) == (0, "")
    assert json.loads((path / "summary.json").read_text())["epochs"] == 2
    assert not (path / "lock").exists()
