"""Words that are shown or copied: nothing in them hides, moves or becomes anything else."""

import os
import shutil
import subprocess
import unicodedata

import pytest

from flaxvae import cli
from flaxvae.errors import command, visible

NAMES = [
    "plain-1.png",
    "my photos (1)",
    "it's",
    'back\\slash "two" $HOME `id`',
    "photo\u202egnp.exe",
    "zero\u200bwidth",
    "two\nlines\ttab",
    "escape\x1b[2J",
    "\u202e'\\",
    "family \U0001f468\u200d\U0001f469",
    "dates 日本\u3000語",
    "half \udcff of a byte",
]


@pytest.mark.parametrize("shell", [x for x in ("bash", "zsh") if shutil.which(x)])
def test_a_command_that_is_copied_names_the_same_files(shell):
    line = command("printf", "%s\\0", *NAMES)
    assert line.isprintable()
    out = subprocess.run([shell, "-c", line.encode()], capture_output=True, check=True).stdout
    assert out.split(b"\0")[:-1] == [os.fsencode(name) for name in NAMES]


def test_a_plain_command_is_quoted_as_ever():
    assert command("flaxvae", "sample", "runs/a", "my data") == "flaxvae sample runs/a 'my data'"


def test_nothing_hides():
    """By the properties of Unicode: whatever formats, controls or ends lines, but for joiners."""
    for number in range(0x110000):
        one = chr(number)
        hides = unicodedata.category(one) in ("Cc", "Zl", "Zp") or (
            unicodedata.bidirectional(one) in ("LRE", "RLE", "PDF", "LRO", "RLO")
            or unicodedata.bidirectional(one) in ("LRI", "RLI", "FSI", "PDI")
        )
        if hides:
            assert visible(one) == one.encode("unicode_escape").decode() != one
    joined = ["می\u200cروم", "\U0001f468\u200d\U0001f469"]
    for text in ["é ü 日本語 مثال", *joined, "a\xa0b", "\\u202e"]:
        assert visible(text) == text
    assert visible("a\u202eb\nc", keep="\n") == "a\\u202eb\nc"


def test_what_is_printed_hides_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        cli.main(["verify", "no\u202ewhere\x1b[2J\nflaxvae: done"])
    err = capsys.readouterr().err
    assert stop.value.code == 2 and err.count("\n") == 1 and err[:-1].isprintable()
    assert "no\\u202ewhere\\x1b[2J\\nflaxvae: done" in err


def test_a_path_of_several_lines_is_printed_as_one(monkeypatch, capsys):
    monkeypatch.setitem(cli.COMMANDS, "paths", lambda: ["a\nb", "c\u2028d"])
    monkeypatch.setattr(cli.flags, "call", lambda command, rest, name: command())
    cli.main(["paths"])
    assert capsys.readouterr().out == "a\\nb\nc\\u2028d\n"


def test_a_full_disk_says_what_to_do(monkeypatch, capsys):
    def full():
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(cli.COMMANDS, "full", full)
    monkeypatch.setattr(cli.flags, "call", lambda command, rest, name: command())
    with pytest.raises(SystemExit) as stop:
        cli.main(["full"])
    assert stop.value.code == 3
    assert capsys.readouterr().err == "flaxvae: No space left on device; make room there\n"
