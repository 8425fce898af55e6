"""Words of the field: each is answered with what flaxvae calls it, on both of its doors."""

from typing import Literal, get_args, get_origin, get_type_hints

import pytest

import flaxvae
from flaxvae import cli, declared, flags, sweeps, synonyms, zoo
from flaxvae import plan as planning
from flaxvae.errors import UsageError
from flaxvae.settings import Hosts
from test_declared import MODELS, bare

FLAGS = {name for model in MODELS for name in planning.kinds(model)} | {*declared.hints(Hosts)}
READERS = [cli.COMMANDS[name] for name in cli.COMMANDS if name not in ("train", "sweep")]
HINTS = [get_type_hints(reader, include_extras=True) for reader in READERS]
OWN = {flag.removeprefix("--").replace("-", "_") for kinds in HINTS for flag in flags.taken(kinds)}
OWN |= {"run", "resume", "seeds", "model"}  # of train and sweep
OPTIONS = {
    option
    for model in MODELS
    for kind in map(bare, planning.kinds(model).values())
    if get_origin(kind) is Literal
    for option in get_args(kind)
}


def test_what_the_table_answers_exists():
    known = FLAGS | OWN | OPTIONS | {*zoo.RECIPES} | {*cli.COMMANDS}
    answers = {
        name for meanings in synonyms.MEANINGS.values() for m in meanings for name in m.names
    }
    assert not answers - known
    assert all(word == word.lower() and "-" not in word for word in synonyms.MEANINGS)


def said(line):
    with pytest.raises(SystemExit) as stop:
        cli.main(line.split())
    assert stop.value.code == 2


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("train --loss mse", "'--likelihood': bernoulli is the BCE, gaussian with its fixed"),
        ("train --loss=bce", "'--likelihood': bernoulli is the BCE"),
        ("train --lr 1e-3", "'--learning-rate'"),
        ("train --batch 64", "'--batch-size'"),
        ("train --latent 2", "'--latent-dim'"),
        ("train --z-dim 2", "'--latent-dim'"),
        ("train --z_dim 2", "'--latent-dim'"),
        ("train --model ladder_vae --z-dim 2", "'--latent-dims'"),
        ("train --random-state 1", "'--seed'"),
        ("train --gpu 0", "'--devices'"),
        ("train --num-epochs 3", "'--epochs'"),
        ("train --kld-weight 0.1", "'--beta'"),
        ("train --hidden-dims 400", "'--widths': of --net mlp"),
        ("sweep --lr 1 2", "'--learning-rate'"),
        ("train --likelihood mse", "'gaussian': gaussian with its fixed --sigma"),
        ("train --likelihood=BCE", "'bernoulli'"),
        ("train --net cnn", "'conv'"),
        ("train --model infovae", "'mmd_vae'"),
        ("eval x --num-importance-samples 5", "'--k'"),
        ("sample x --num-samples 5", "'--n'"),
        ("evaluate x", "'eval'"),
    ],
)
def test_the_command_line_understands(line, meant, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said(line)
    err = capsys.readouterr().err
    assert f"here it is {meant}" in err and err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("choices", "meant"),
    [
        ({"loss": "mse"}, "'likelihood': bernoulli is the BCE"),
        ({"lr": 1e-3}, "'learning_rate'"),
        ({"z_dim": 2}, "'latent_dim'"),
        ({"random_state": 0}, "'seed'"),
        ({"gpu": True}, "'devices'"),
        ({"likelihood": "mse"}, "'gaussian'"),
    ],
)
def test_python_understands(choices, meant):
    for call in (flaxvae.make_plan, flaxvae.train, lambda **c: sweeps.make_grid("vae", 1, **c)):
        with pytest.raises(UsageError, match=f"here it is {meant}"):
            call(**choices)


def test_what_is_near_is_still_found():
    assert synonyms.hint("--epoch", ["--epochs", "--seed"]) == "; did you mean '--epochs'?"
    assert synonyms.hint("xyzzy", ["--epochs", "--seed"]) == ""
    assert synonyms.hint("lr", ["epochs"]) == ""  # its meaning is not to be had here


def test_a_run_needs_no_flag(capsys):
    said("sample --run runs/x")
    assert "flaxvae sample runs/latest" in capsys.readouterr().err


def test_help_says_what_the_losses_are(capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    words = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "bernoulli: the BCE" in words and "gaussian, with fixed sigma: the MSE" in words
    assert "constant 1/2 D log 2 pi sigma^2" in words
