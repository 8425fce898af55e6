"""Recipes of a file that the user names: models like any other, and mistakes that cost one line."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

import flaxvae
from flaxvae import cli, outside
from flaxvae.errors import UsageError

MINE = '''
"""Models of mine."""
from __future__ import annotations

from flaxvae import zoo
from flaxvae.recipe import DataSpec, Recipe
from flaxvae.settings import Body, Bound
from flaxvae.zoo import vae  # not mine

import beside


def my_vae(
    data: DataSpec, body: Body = Body(), bound: Bound = Bound(), *, pairs: int = 1,
    odd: bool = False,
) -> "Recipe":
    """A VAE of pairs of latents.

    Args:
        pairs: half as many latents.
        odd: one latent more.
    """
    return zoo.vae(data, body, bound, latent_dim=beside.TWO * pairs + odd)


def my_codes(data: DataSpec, body: Body = Body(), codes: int = 8) -> Recipe:
    return zoo.vq_vae(data, body, codes=codes, code_dim=4, prior_width=8, prior_layers=1)


def several(data: DataSpec, likelihood) -> Recipe:
    """A helper: its second parameter has no default."""


def number(data: DataSpec) -> int:
    """Another."""


def _private(data: DataSpec) -> Recipe:
    """One more."""
'''
SMALL = "--net mlp --widths 8 --epochs 1 --devices 1"


@pytest.fixture(autouse=True)
def mine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "beside.py").write_text("TWO = 2\n")
    yield tmp_path
    sys.modules.pop("beside", None)


def run(line, capsys):
    """Exit code, stdout and stderr of ``flaxvae``."""
    try:
        cli.main(line.split())
        code = 0
    except SystemExit as stop:
        code = stop.code or 0
    return code, *capsys.readouterr()


def test_those_that_are_declared_so_are_recipes():
    found = outside.read("mine.py")
    assert list(found) == ["my_vae", "my_codes"]
    assert outside.read("mine.py")["my_vae"] is found["my_vae"]  # executed once
    Path("listed.py").write_text(f"{MINE}\nRECIPES = {{'my_vae': my_vae, 'vae': vae}}\n")
    assert list(outside.read("listed.py")) == ["my_vae"]


def test_help_shows_a_recipes_own_flags(capsys):
    code, out, err = run("train --recipes mine.py --model my_vae --help", capsys)
    assert (code, err) == (0, "")
    assert "A VAE of pairs of latents." in out and "half as many latents. (default: 1)" in out
    assert "--odd, --no-odd" in out and "--beta " in out and "--epochs " in out
    assert "--codes INT" in run("sweep --recipes mine.py --model my_codes --help", capsys)[1]


LONG = {  # what makes these short
    "diagnose": "--images 20",
    "likelihood": "--images 2 --k 2 --temperatures 2 --chains 2 --fit-steps 2 --simulated 2",
    "quality": "--network random --half 20",
    "restore": "--n 1 --temperatures 2 --chains 2 --completions 1",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LONG)
def test_long_commands_take_them(name, capsys, no_figures, mine):
    run(f"train --recipes mine.py --model my_vae {SMALL} --run one", capsys)
    code, _, err = run(f"{name} one --recipes mine.py {LONG[name]}", capsys)
    assert (code, err) == (0, "")


def test_every_command_takes_them(capsys, no_figures, mine):
    line = f"train --recipes mine.py --model my_vae --pairs 1 --odd {SMALL} --run one"
    code, out, _ = run(line, capsys)
    assert code == 0 and "flaxvae sample one --recipes mine.py" in out
    record = json.loads((mine / "one" / "run.json").read_text())
    assert record["model"] == "my_vae" and record["arguments"]["pairs"] == 1
    others = ("train", "sweep", "beta", "cache", "doctor", "runs", "compare", "import")
    commands = [name for name in cli.COMMANDS if name not in others]
    for name in commands:
        code, out, err = run(f"{name} one", capsys)
        assert code == (3 if name == "verify" else 2), name
        assert "--recipes FILE" in " ".join((out + err).split())
    commands.remove("fit-prior")
    commands.remove("disentangle")  # digits have no factors
    for name in commands:
        if name not in LONG:
            only = "--only samples" if name == "figures" else ""
            code, out, err = run(f"{name} one --recipes mine.py {only}", capsys)
            assert (code, err) == (0, ""), name
    assert run("train --resume one --recipes mine.py --epochs 2", capsys)[0] == 0
    code, _, err = run("train --resume one --recipes mine.py --pairs 2 --epochs 2", capsys)
    assert code == 2 and "pairs 1 -> 2" in err
    code, _, err = run("train --resume one --recipes mine.py --model vae", capsys)
    assert code == 2 and err.count("\n") == 1
    loaded = flaxvae.load("one", recipes=outside.read("mine.py"))
    assert loaded.encode(np.zeros((2, 8, 8))).shape == (2, 3) and loaded.step == 20


@pytest.mark.slow
def test_a_prior_over_codes_of_a_recipe_from_outside(capsys, no_figures):
    assert run(f"train --recipes mine.py --model my_codes {SMALL} --run one", capsys)[0] == 0
    code, _, err = run("sample one --recipes mine.py", capsys)
    assert code == 2 and "one --recipes mine.py` first" in err
    line = "fit-prior one --recipes mine.py --epochs 1 --devices 1"
    assert run(line, capsys)[0] == 0
    code, out, _ = run("sample one --recipes mine.py --n 4", capsys)
    assert (code, out) == (0, "one/figures/samples-n-4.png\n")


@pytest.mark.slow
def test_a_sweep_of_a_recipe_from_outside(capsys, mine):
    line = f"sweep --recipes mine.py --model my_vae --pairs 1 2 --seeds 1 {SMALL} --run all"
    code, out, _ = run(line, capsys)
    assert code == 0 and "seed=0 --recipes mine.py --k 500" in out
    assert {p.name for p in (mine / "all").iterdir()} >= {"pairs=1,seed=0", "pairs=2,seed=0"}
    assert run("sweep --resume all --recipes mine.py", capsys)[0] == 0
    code, _, err = run("sweep --resume all", capsys)
    assert code == 2 and "'my_vae'" in err and "--recipes FILE" in err


FAULTS = {
    "absent.py": (None, ["no such file", "a Python file"]),
    "syntax.py": ("x = 1\ndef f(:\n", ["line 2", "SyntaxError"]),
    "null.py": ("x = '\0'", ["null"]),
    "raises.py": ("import json\n\njson.loads('[')\n", ["line 3", "JSONDecodeError"]),
    "exits.py": ("import sys\nsys.exit(0)\n", ["line 2", "SystemExit"]),
    "imports.py": ("import absent_package\n", ["line 1", "absent_package"]),
    "none.py": ("def f(x):\n    return x\n", ["no recipe in it", "-> Recipe"]),
    "zoo.py": ("from flaxvae.zoo import RECIPES, vae\n", ["no recipe in it"]),
    "taken.py": ("def vae(data, *, n: int = 1) -> 'Recipe': ...", ["vae is flaxvae's", "another"]),
    "flag.py": (
        "def mine(data, *, epochs: int = 1) -> 'Recipe': ...",
        ["--epochs", "another name"],
    ),
    "type.py": ("def mine(data, *, n: 'Absent' = 1) -> 'Recipe': ...", ["mine", "Absent"]),
    "object.py": ("def mine(data, *, n=print) -> 'Recipe': ...", ["print", "numbers or words"]),
    "listed.py": ("def f(data): ...\nRECIPES = {'mine': f}", ["'mine' is f"]),
    "number.py": ("RECIPES = {'mine': 3}", ["'mine' is 3"]),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_file_that_is_none(name, capsys, mine):
    text, words = FAULTS[name]
    if text is not None:
        (mine / name).write_text(text)
    before = {*mine.iterdir()}
    for command in ("train --model mine", "sweep --model mine --help", "train --resume x"):
        code, out, err = run(f"{command} --recipes {name}", capsys)
        if name == "flag.py" and "--resume" in command:
            continue  # there is no run, of which a flag could be
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert all(word in err for word in (*words, *([name] if name != "flag.py" else []))), err
    assert {*mine.iterdir()} == before


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("train --recipes mine.py", ["--recipes mine.py has no effect with --model vae", "my_vae"]),
        ("train --recipes mine.py --model my_va", ["'my_va'", "did you mean 'my_vae'", "my_codes"]),
        ("train --recipes mine.py --model my_vae --pears 2", ["--pears", "'--pairs'"]),
        ("train --recipes mine.py --model my_vae --pairs x", ["--pairs", "x"]),
        ("train --model my_vae", ["unknown model 'my_vae'"]),
        ("train --recipes", ["--recipes"]),
        ("train --recipes=", ["--recipes", "expected a name"]),
        ("train --recipes .", ["a folder"]),
        ("doctor --recipes mine.py", ["unknown option --recipes"]),
    ],
)
def test_misuse(line, words, capsys):
    code, out, err = run(line, capsys)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert all(word in err for word in words), err


def test_a_run_folder_has_no_code_executed(capsys, no_figures, mine):
    """Only a name that was typed does: a folder may name any model, or say where its file is."""
    run(f"train --recipes mine.py --model my_vae {SMALL} --run one", capsys)
    (mine / "one" / "my_vae.py").write_text("raise RuntimeError")
    (mine / "my_vae.py").write_text("raise RuntimeError")
    with pytest.raises(UsageError, match="`--recipes FILE`, or recipes="):
        flaxvae.load("one")
    assert "my_vae" not in sys.modules
