"""What README, CONTRIBUTING and docs/ show works as it stands there, on small data."""

import functools
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

import flaxvae
from flaxvae import cli, flags, zoo
from flaxvae.export import onnx
from flaxvae.settings import Hosts
from test_imports import FLOORS

ROOT = Path(__file__).parents[1]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]
}
# What makes the examples small. All of it has to be there.
SMALLER = {
    "README.md": {
        "range(2000)": "range(3)",
        '"mnist"': '"digits"',
        "epochs=20)": 'epochs=1, net="mlp", widths=(8,))',
        "seeds=8": 'seeds=2, epochs=1, net="mlp", widths=(8,)',
    },
    "docs/data.md": {
        "beta=4)": 'beta=4, epochs=0, net="mlp", widths=(8,))',
        "epochs=20)": 'epochs=1, net="mlp", widths=(8,))',
    },
    "docs/ways_out.md": {
        "as_frame=True).data": "as_frame=True).data[:200]",
        "epochs=200": "epochs=0, widths=(8,), devices=1",
        '["gaussian", "gaussian_shared"]}, cv=3': '["gaussian_shared"]}, cv=2',
    },
}
OWN_TESTS = {"docs/processes.md": "test_processes.py"}
# What stands for something of the reader's.
WORDS = {
    r"runs/digits-vae-s0-\d+-\d+": "runs/latest",
    r"\bRUN\b": "runs/latest",
    r"\bNAME\b": "vae",
    r"\bFORMAT\b": "npz",
    r"\bHOST:(PORT|1234)\b": "127.0.0.1:1234",
    r"--num-processes N --process-id I": "--num-processes 2 --process-id 1",
}


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGES[page], re.M | re.S)


def commands():
    """Every command of the pages: {(page, program): lists of words}."""
    found = {}
    for page, text in PAGES.items():
        spans = re.findall(r"(?<!`)`((?:flaxvae|make)\s[^`]+)`(?!`)", text.replace("\n", " "))
        fenced = "\n".join(re.findall(r"^```(?:sh)?\n(.*?)^```", text, re.M | re.S))
        indented = "\n".join(re.findall(r"^    (.*)", text, re.M))
        for line in [*spans, *fenced.splitlines(), *indented.splitlines()]:
            line = re.sub(r"^(\$ |srun |  \.venv/bin/)", "", line.partition(" #")[0].rstrip())
            if not re.match(r"(flaxvae|make) ", line):
                continue
            for word, value in WORDS.items():
                line = re.sub(word, value, line)
            program, *words = shlex.split(line)
            if "…" not in words and words not in found.setdefault((page, program), []):
                found[page, program].append(words)
    return found


@pytest.fixture
def folder(tmp_path, monkeypatch, trained):
    """A reader's folder: images, and a run."""
    monkeypatch.chdir(tmp_path)
    images = (load_digits().images[:300, ..., None] / 16).astype(np.float32)
    np.save("images.npy", images)
    np.savez("mine.npz", x=images)
    (tmp_path / "runs").mkdir()
    shutil.copytree(trained, tmp_path / "runs" / "latest")
    (block,) = blocks("CONTRIBUTING.md", "python")
    (tmp_path / "my_models.py").write_text(block.replace("sparse_vae", "my_vae") + block)
    return tmp_path


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")])
def test_python_runs_as_it_is_written(page, folder, no_figures):
    if page in OWN_TESTS:
        assert page.rpartition("/")[2] in (ROOT / "tests" / OWN_TESTS[page]).read_text()
        return
    text = "\n".join(blocks(page, "python"))
    if '"scorer.onnx"' in text:
        pytest.importorskip("onnxruntime")
        onnx.write(flaxvae.load("runs/latest"), Path())
    for long, short in SMALLER.get(page, {}).items():
        assert long in text
        text = text.replace(long, short)
    names = {"images": np.load("images.npy"), "__name__": "__main__"}
    exec(compile(text, f"<{page}>", "exec"), names)
    if page == "README.md":
        assert names["new"].shape[1:] == (8, 8, 1) and np.isfinite(names["score"]).all()
    if page == "CONTRIBUTING.md":
        check_the_variant(names["sparse_vae"])


def check_the_variant(sparse_vae):
    """Its penalty is in its loss, and nothing else is."""
    import jax

    from flaxvae import Batch, DataSpec

    data, x = DataSpec("images", (8, 8, 1)), np.load("images.npy")[:4]
    losses = []
    for weight in (0.0, 0.5):
        recipe = sparse_vae(data, latent_dim=2, weight=weight)
        variables = jax.jit(recipe.model.init)(jax.random.key(0), x)
        loss, (metrics, _) = recipe.loss(variables, jax.random.key(1), Batch(x), 0)
        losses.append((loss, metrics))
    (plain, metrics), (sparse, others) = losses
    np.testing.assert_allclose(plain, -metrics["elbo"], rtol=1e-6)
    assert sparse > plain + 1e-3 and others["elbo"] == metrics["elbo"]


def test_the_core_takes_at_most_twenty_lines():
    first = blocks("README.md", "python")[0]
    assert "fv.update" in first and "sample" in first
    assert len([line for line in first.splitlines() if line.strip()]) <= 20
    assert PAGES["README.md"].index("make train") < PAGES["README.md"].index(first)


@pytest.fixture
def parsed(monkeypatch):
    """The commands that were called, none of which does anything."""
    found = []
    for name, command in cli.COMMANDS.items():

        def record(*arguments, called=name, **options):
            found.append((called, options))

        monkeypatch.setitem(cli.COMMANDS, name, functools.wraps(command)(record))
    return found


COMMANDS = commands()


def pages_of(program):
    return pytest.mark.parametrize("page", [page for page, name in COMMANDS if name == program])


@pages_of("flaxvae")
def test_commands_are_understood(page, folder, parsed, capsys):
    for words in COMMANDS[page, "flaxvae"]:
        parsed.clear()
        shown = words == ["--help"] or "--help" in words
        try:
            cli.main(words if shown else [*words, "--no-cache"])
        except SystemExit as stop:
            assert not stop.code, (words, capsys.readouterr().err)
        assert shown or [name for name, _ in parsed] == words[:1]


@pages_of("make")
def test_make_calls_commands_that_are_understood(page, folder, parsed):
    """``make -n`` prints what it would run; where that is flaxvae, it is understood."""
    known = set(re.findall(r"^([A-Z_]+) *\?=", (ROOT / "Makefile").read_text(), re.M))
    outer = {*known, "MFLAGS"}  # of the make that runs the tests
    environment = {
        k: v for k, v in os.environ.items() if k not in outer and not k.startswith("MAKE")
    }
    for words in COMMANDS[page, "make"]:
        assert {word.partition("=")[0] for word in words if "=" in word} <= known
        line = ["make", "-n", *words, *(["NO_INSTALL=1"] if words != ["setup"] else [])]
        done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        if "train" in words:
            (line,) = re.findall(r"-m flaxvae (.*)", done.stdout)
            cli.main([*shlex.split(line), "--no-cache"])
            assert parsed.pop()[0] == "train"


def test_flags_that_are_named_exist():
    known = {"--help", "--all"}
    for command in cli.COMMANDS.values():
        for model in zoo.RECIPES:
            form = flags._form(command, ["--model", model])
            known |= {*form.kinds}
    known |= {f"--{name.replace('_', '-')}" for name in vars(Hosts())}
    for page, text in PAGES.items():
        text = re.sub(r"`python -m [^`]*`|`[^`]*\bNAME[^`]*`", "", text)
        named = set(re.findall(r"`(--[a-z][a-z-]*)", text)) | set(
            re.findall(r"flaxvae [^`]*?(--[a-z][a-z-]*)", text)
        )
        assert {re.sub("^--no-", "--", flag) for flag in named} <= known, page


def test_floors_are_those_of_the_house():
    line = re.search(r"Imports run downwards only: (.*?)\.\s", PAGES["CONTRIBUTING.md"], re.S)
    floors = re.findall(r"`(\w+)`", line[1])
    levels = [FLOORS.index(floor) for floor in floors]
    assert levels == sorted(levels, reverse=True) and len(floors) > 10
    below_all = {"errors", "synonyms", "declared", "settings", "streams", "signals", "machine"}
    beside = {
        "writing",
        "compilation",
        "choices",
        "outside",
        "grid",
        "code_prior",
        "latent_prior",
        "doctor",
    }
    assert {*FLOORS} - {*floors} == below_all | beside
