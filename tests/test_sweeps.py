"""Sweeps: a member is what its training alone would be, whatever trains beside it."""

import dataclasses
import json
import logging
import os
import re
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxvae
from conftest import TINY, rare
from disturbed import loss_times, spoiled
from flaxvae import cli, declared, flags, sweeps, zoo
from flaxvae.analysis import evaluation
from flaxvae.data import pipeline
from flaxvae.devices import mesh as meshes
from flaxvae.errors import DataError, DivergedError, Stopped, UsageError
from flaxvae.plan import Plan
from flaxvae.report import sweeps as report
from flaxvae.runs.checkpoints import Checkpoints
from flaxvae.runs.folder import RunFolder, write_json
from flaxvae.runs.keeper import GroupKeeper
from flaxvae.settings import Body, DataSettings, TrainSettings
from flaxvae.training import loop, members, observers
from flaxvae.training import step as steps

pytestmark = pytest.mark.usefixtures("no_figures")
RATES, TOO_HIGH = [1e-3, 3e-4], 1e30
CHOICES = {**TINY, "epochs": 2}
MEMBER = "beta={},learning_rate={},seed={}"


def read(path):
    return json.loads(path.read_text())


def parameters(path):
    return jax.tree.leaves(flaxvae.load(path).variables["params"])


def assert_same_training(found, expected):
    """Parameters and metrics of two run folders, but for rounding and speed."""
    for ours, theirs in zip(parameters(found), parameters(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    rows = [runs.history() for runs in map(RunFolder, (found, expected))]
    assert rows[0]
    for ours, theirs in zip(*rows, strict=True):
        assert list(ours) == list(theirs)
        for name in ours.keys() - {"images_per_second"}:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4, abs=1e-6), name


@pytest.fixture(scope="module")
def compiled():
    """Names of the programs that the sweep of ``swept`` compiled."""
    return []


@pytest.fixture(scope="module")
def swept(tmp_path_factory, compiled):
    """A sweep of twelve members, four of which diverge."""

    class Names(logging.Handler):
        def emit(self, record):
            compiled.extend(re.findall(r"Compiling jit\((\w+)\)", record.getMessage()))

    handler, logger = Names(), logging.getLogger("jax")
    logger.addHandler(handler)
    try:
        with jax.log_compiles():
            return flaxvae.sweep(
                progress=False,
                model="beta_vae",
                seeds=2,
                beta=[1.0, 4.0],
                learning_rate=[*RATES, TOO_HIGH],
                run=str(tmp_path_factory.mktemp("runs") / "swept"),
                **CHOICES,
            )
    finally:
        logger.removeHandler(handler)


# ---- members


@pytest.mark.parametrize(
    ("beta", "rate", "seed"), [(4, 3e-4, 1), pytest.param(1, 1e-3, 0, marks=pytest.mark.slow)]
)
def test_a_member_equals_its_training_alone(swept, tmp_path, beta, rate, seed):
    settings = {"beta": float(beta), "learning_rate": rate, "seed": seed}
    alone = flaxvae.train(
        progress=False, model="beta_vae", run=str(tmp_path / "alone"), **CHOICES, **settings
    )
    member = swept.path / MEMBER.format(beta, rate, seed)
    assert_same_training(member, alone.path)
    ours, theirs = read(member / "summary.json"), read(alone.path / "summary.json")
    assert ours["test"].keys() == theirs["test"].keys() and ours["epochs"] == theirs["epochs"]
    for name in ("elbo", "kl", "reconstruction", "mse", "code_variance"):
        assert ours["test"][name] == pytest.approx(theirs["test"][name], rel=1e-4, abs=1e-6)
    records = [read(folder / "run.json") for folder in (member, alone.path)]
    for record in records:
        assert record.pop("created") and record.pop("seal")
    assert records[0] == records[1]


def test_members_of_other_settings_differ(swept):
    first = [parameters(path)[0] for path in map(swept.path.joinpath, swept.names)]
    assert len({leaf.tobytes() for leaf in map(np.asarray, first)}) == len(swept.names) == 8


def test_one_compilation_trains_them_all(swept, compiled):
    assert compiled.count("segment") == 1


def test_grid_order(swept):
    listed = [member["name"] for member in read(swept.path / "sweep.json")["members"]]
    rates = ["0.001", "0.0003", "1e+30"]
    assert listed == [MEMBER.format(b, r, s) for b in (1, 4) for r in rates for s in (0, 1)]
    assert [row["settings"] for row in swept.table] == [
        {"beta": b, "learning_rate": r} for b in (1.0, 4.0) for r in (*RATES, TOO_HIGH)
    ]
    assert swept.names == [name for name in listed if "1e+30" not in name]


def test_a_member_is_a_run(swept, capsys):
    path = swept.path / swept.names[0]
    assert {p.name for p in path.iterdir()} >= {"run.json", "metrics.jsonl", "summary.json"}
    cli.main(["eval", str(path)])
    found, summary = read(path / "evaluation.json"), read(path / "summary.json")
    assert found["elbo"] == pytest.approx(summary["test"]["elbo"], rel=1e-5)
    assert "-ELBO" in capsys.readouterr().out
    assert [run.path.name for run in swept.runs] == swept.names
    assert swept.runs[0].sample(3).shape == (3, 8, 8, 1)


@pytest.mark.parametrize("command", ["verify", "eval", "train --resume"])
def test_a_sweep_is_no_run_and_a_member_of_it_is_named(tmp_path, capsys, command):
    (tmp_path / "sweep.json").write_text("{}")
    for seed in (1, 0):
        (tmp_path / f"seed={seed}").mkdir()
        (tmp_path / f"seed={seed}" / "run.json").write_text("{}")
    with pytest.raises(SystemExit) as stop:
        cli.main([*command.split(), str(tmp_path)])
    err = capsys.readouterr().err
    assert stop.value.code == 2 and err.count("\n") == 1
    assert "(a sweep, whose members are runs)" in err
    assert err.rstrip().endswith(f"such as {tmp_path / 'seed=0'}")


def test_a_member_can_go_on(swept, tmp_path, capsys):
    path = shutil.copytree(swept.path / swept.names[0], tmp_path / "run")
    before = read(path / "summary.json")["parameters_sha256"]
    cli.main(["train", "--resume", str(path)])  # nothing is left to do
    assert read(path / "summary.json")["parameters_sha256"] == before
    cli.main(["train", "--resume", str(path), "--epochs", "3"])
    assert [row["epoch"] for row in RunFolder(path).history()] == [1, 2, 3]


# ---- the table


def test_the_table_is_over_seeds(swept):
    assert read(swept.path / "sweep.json")["table"] == swept.table
    for row in swept.table[:2]:
        names = [MEMBER.format(1, row["settings"]["learning_rate"], seed) for seed in (0, 1)]
        tests = [read(swept.path / name / "summary.json")["test"] for name in names]
        for name in ("elbo", "reconstruction", "kl", "active_units", "mse"):
            a, b = (test[name] for test in tests)
            assert row[name]["mean"] == pytest.approx((a + b) / 2)
            assert row[name]["std"] == pytest.approx(abs(a - b) / 2**0.5)
        assert row["seeds"] == 2 and row["diverged"] == []


def test_diverged_members_are_left_out(swept):
    for row in swept.table:
        high = row["settings"]["learning_rate"] == TOO_HIGH
        assert (row["seeds"], row["diverged"]) == ((0, [0, 1]) if high else (2, []))
        assert ("elbo" in row) != high
        assert high or np.isfinite(row["elbo"]["mean"])
    left = {path.name for path in swept.path.iterdir()}
    assert left == {"sweep.json", "sweep.md", *swept.names}
    page = (swept.path / "sweep.md").read_text()
    assert "diverged, left out: beta 4, learning-rate 1e+30, seeds 0, 1" in page
    assert page.count("\n| beta") == len(swept.table)


@pytest.mark.parametrize("hierarchical", [False, True])
def test_a_table_is_narrow(hierarchical):
    """Of 80 columns, with active units or with active blocks."""
    number = {"mean": 123.5, "std": 12.25}
    settings = {"beta": 1.0, "learning_rate": 3e-4, "anneal": "cyclical", "widths": (512, 256)}
    row = {
        "settings": settings,
        "seeds": 5,
        "diverged": [],
        **dict.fromkeys(report.MEASURES, number),
        "mse": {"mean": 0.02417, "std": 0.00012},
    }
    row.pop("codes_used")
    if not hierarchical:
        row.pop("active_blocks")
    found = report.lines([row])
    assert max(map(len, found)) <= 80 and len(found) == 3
    assert found[1] == "beta 1, learning-rate 0.0003, anneal cyclical, widths 512x256"
    assert found[2].split()[:3] == ["-123.50", "±", "12.25"]
    narrow = {
        "settings": {"beta": 1.0},
        "seeds": 1,
        "diverged": [],
        "mse": {"mean": 0.5, "std": None},
    }
    assert report.lines([narrow])[1].split() == ["beta", "1", "0.50000"]


@pytest.mark.slow
def test_all_diverged(tmp_path):
    with pytest.raises(DivergedError, match="every member diverged"):
        flaxvae.sweep(
            progress=False, seeds=1, learning_rate=TOO_HIGH, run=str(tmp_path / "run"), **CHOICES
        )
    assert read(tmp_path / "run" / "sweep.json")["members"][0]["diverged"] == 1


# ---- groups and devices

DATA = pipeline.prepare(DataSettings())


def grouped(model, seeds, **choices):
    plans = sweeps.make_grid(model, seeds, **choices).plans()
    each = [members.Member(name, plan, plan.recipe(DATA.spec)) for name, plan in plans.items()]
    return members.groups(each, DATA, evaluation.measurement)


@pytest.mark.parametrize(
    ("varied", "sizes"),
    [
        ({"latent_dim": [2, 3], "beta": [1.0, 2.0]}, [4, 4]),  # other shapes
        ({"free_bits": [0.0, 0.1, 0.2]}, [2, 4]),  # without free bits, another program
    ],
)
def test_other_shapes_and_programs_are_other_compilations(varied, sizes):
    groups = grouped("vae", 2, **(CHOICES | varied))
    assert [len(group.members) for group in groups] == sizes
    name = next(iter(varied))
    seen = [{member.plan.arguments[name] for member in group.members} for group in groups]
    assert not seen[0] & seen[1]


def test_many_devices_equal_one(swept, tmp_path):
    choices = {**CHOICES, "devices": 8}
    wide = flaxvae.sweep(
        progress=False,
        model="beta_vae",
        seeds=2,
        beta=[1.0, 4.0],
        learning_rate=RATES,
        run=str(tmp_path / "wide"),
        **choices,
    )
    assert wide.names == swept.names
    assert read(wide.path / wide.names[0] / "run.json")["devices"] == "8 x cpu"
    for name in wide.names[::3]:
        assert_same_training(wide.path / name, swept.path / name)


@pytest.mark.parametrize(("count", "devices"), [(1, 1), (7, 7), (8, 8), (12, 6), (11, 1), (48, 8)])
def test_members_are_shared_out_evenly(count, devices):
    assert members.mesh_of(count).size == devices


# ---- interruption


def test_stopped_and_resumed(swept, tmp_path, capsys, monkeypatch):
    path = tmp_path / "stopped"

    class Stop(observers.Quiet):
        def progress(self, step, metrics, images_per_second):
            if step == 15:
                os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch, pytest.raises(Stopped) as caught:
        patch.setattr(loop, "SEGMENT_SECONDS", 0)  # cut after every step
        patch.setattr(observers, "Quiet", Stop)
        grid = {"beta": [1.0, 4.0], "learning_rate": [*RATES, TOO_HIGH]}
        flaxvae.sweep(
            model="beta_vae",
            seeds=2,
            run=str(path),
            progress=False,
            **grid,
            **CHOICES,
        )
    assert caught.value.exit_code == 128 + signal.SIGTERM
    assert "step 15 of 20" in str(caught.value)
    assert f"flaxvae sweep --resume {path}" in str(caught.value)
    assert {p.name for p in path.iterdir()} == {"sweep.json", "state"}
    cli.main(["sweep", "--resume", str(path)])
    assert "8 runs, sweep.json and sweep.md" in capsys.readouterr().out
    assert read(path / "sweep.json")["table"] == swept.table  # to the bit
    for name in swept.names:
        shas = [read(p / name / "summary.json")["parameters_sha256"] for p in (path, swept.path)]
        assert shas[0] == shas[1]
    cli.main(["sweep", "--no-cache", "--resume", str(path)])  # nothing is left to do
    assert read(path / "sweep.json")["table"] == swept.table


ROW, NEXT = {"epoch": 1, "x": 0.5}, {"epoch": 2, "x": 0.25}


@pytest.mark.parametrize(
    ("rows", "ok"),
    [
        ([[ROW, NEXT], [ROW]], True),  # the second is finite no longer
        ([[ROW, NEXT], []], True),
        ([[ROW, NEXT]], False),
        ([[ROW, ROW], [NEXT, NEXT]], False),  # by epoch instead of by member
        ([[ROW], [NEXT]], False),
        ([[{}], [ROW]], False),
        ({"0": [ROW]}, False),
    ],
)
def test_rows_of_an_interrupted_sweep_are_those_of_its_members(rows, ok, tmp_path):
    write_json(tmp_path / "history.json", rows)
    with GroupKeeper(tmp_path, 2, None, "flaxvae sweep --resume x", print) as keeper:
        assert keeper.rewind(0) == [[], []]
        if ok:
            assert keeper.rewind(1) == [found[:1] for found in rows]
        else:
            with pytest.raises(DataError, match=r"history.json is damaged"):
                keeper.rewind(2)


# ---- misuse


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--beta 1 2 -1", ["--beta -1.0", "0 or more"]),
        ("--beta 1 x", ["--beta", "x"]),
        ("--beta", ["--beta"]),
        ("--beta 1 2 1.0", ["--beta 1 2 1", "each value once"]),
        ("--beta 1 --beta 2", ["--beta twice", "once, with all its values"]),
        ("--latent-dim 2 0", ["--latent-dim 0", "1 or more"]),
        ("--free-bits 0 1 --kl closed_form monte_carlo", ["--kl monte_carlo", "closed_form"]),
        ("--bta 1 2", ["--bta", "did you mean '--beta'?"]),
        ("--epochs 2 3", ["--epochs 2 3", "one value"]),
        ("--dataset digits mnist", ["--dataset digits mnist", "one value"]),
        ("--seed 0 1", ["--seed 0 1", "--seeds"]),
        ("--seeds 0", ["--seeds 0", "1 or more"]),
        ("--seeds 2 3", ["--seeds", "expected one"]),
        ("--seed 4294967295 --seeds 2", ["--seed 4294967296"]),
        ("--patience 3", ["--patience 3", "leave it out"]),
        ("--on-nan skip rollback", ["--on-nan rollback", "stop or skip"]),
        ("--shard-params", ["--shard-params", "leave it out"]),
        ("--checkpoint-every 1s 2s", ["--checkpoint-every 1s 2s", "one value"]),
        ("--batch-size 128 4000", ["--batch-size 4000", "1317"]),
        ("--devices 9", ["--devices 9", "at most 8"]),
        ("--model mmd_vae --batch-size 32 1", ["--batch-size 1", "2 or more"]),
        ("--net mlp cnn", ["cnn", "mlp"]),
        ("--resume nowhere", ["is not a sweep", "flaxvae sweep"]),
        ("--resume nowhere --beta 1", ["other flags", "expected none"]),
        ("--resume nowhere --seeds 5", ["other flags", "expected none"]),
        ("--resume nowhere --model vae", ["other flags", "expected none"]),
        ("--resume nowhere stray", ["--resume", "expected one"]),
    ],
)
def test_refused(line, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(members, "trainer", None)  # nothing is compiled
    with pytest.raises(SystemExit) as stop:
        named = "--resume" in line or "--model" in line
        cli.main(["sweep", *([] if named else ["--model", "beta_vae"]), *line.split()])
    err = capsys.readouterr().err
    assert stop.value.code == 2 and err.startswith("flaxvae: ") and err.count("\n") == 1, err
    assert all(word in err for word in words), err
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_empty_is_refused(tmp_path):
    (tmp_path / "mine").write_text("")
    with pytest.raises(UsageError, match=r"not empty.*--resume"):
        flaxvae.sweep(progress=False, run=str(tmp_path), **CHOICES)


def test_no_values_are_refused():
    with pytest.raises(UsageError, match="beta: expected at least one value"):
        sweeps.make_grid("vae", beta=[])


def test_a_resumed_sweep_says_what_it_takes_and_has_the_cache(capsys, monkeypatch):
    for flag in ("--help", "-h"):
        with pytest.raises(SystemExit) as stop:
            cli.main(["sweep", "--resume", "nowhere", flag])
        said = capsys.readouterr()
        assert not stop.value.code and not said.err
        taken = {"--resume", "--recipes", "--dataset", "--data-dir", "--cache", "--no-cache"}
        found = {*re.findall(r"--[a-z][a-z-]*", said.out)}
        assert found == taken | {"--help", "--beta"}  # which the help mentions
    enabled = []
    monkeypatch.setattr("flaxvae.compilation.enable", lambda: enabled.append(1))
    for more, count in (["--no-cache"], 0), ([], 1):
        with pytest.raises(SystemExit):
            cli.main(["sweep", "--resume", "nowhere", *more])
        assert len(enabled) == count


def test_flags_with_several_words_for_one_value():
    def words(line):
        return line.split()

    first, others = flags.several(words("--wid_ths 8 4 --beta=1 2 3 --x"), {"--wid-ths"})
    assert first == words("--wid-ths 8 4 --beta 1 --x")
    assert others == [
        ("beta", words("--wid-ths 8 4 --beta 2 --x")),
        ("beta", words("--wid-ths 8 4 --beta 3 --x")),
    ]


# ---- programs whose numbers are inputs

SMALL = {"net": "mlp", "widths": (8,), "epochs": 1, "devices": 1}
DESCENT = {
    "learning_rate": (1e-2, 1e-3),
    "warmup_steps": (2, 5),
    "clip_norm": (0.5, 50.0),
    "skip_norm": (1e3, 5.0),
}
ANNEALED = {"beta": (1.0, 4.0), "anneal_steps": (9, 2), "cycles": (1, 2), "free_bits": (0.5, 2.0)}
GUMBEL = {
    "temperature": (1.0, 2.0),
    "min_temperature": (0.99, 0.3),
    "temperature_rate": (0.1, 1.0),
}
MEMBERS = {  # of a sweep: what is the same for all, and the numbers that differ
    "vae": ({"anneal": "cyclical"}, {**DESCENT, **ANNEALED, "ema": (0.9, 0.5)}),
    "ae": ({"likelihood": "gaussian", "precision": "bf16"}, {"sigma": (0.5, 2.0)}),
    "denoising_vae": ({}, {"level": (0.1, 0.6)}),
    "denoising_ae": ({"noise": "salt_and_pepper"}, {"level": (0.1, 0.6)}),
    "beta_vae": ({}, {"beta": (1.0, 8.0), "capacity": (3.0, 9.0), "capacity_steps": (2, 9)}),
    "tc_vae": ({}, {"alpha": (1.0, 0.0), "beta": (0.0, 6.0), "gamma": (1.0, 2.0)}),
    "factor_vae": ({"discriminator": (8,)}, {"gamma": (0.0, 10.0)}),
    "mmd_vae": ({}, {"alpha": (0.0, 0.5), "mmd_weight": (10.0, 100.0)}),
    "iwae": ({"anneal": "linear"}, {"anneal_steps": (2, 9)}),
    "gumbel_vae": ({}, GUMBEL),
    "vq_vae": ({"codes": 8, "code_dim": 2}, {"commitment": (0.25, 2.0), "decay": (0.99, 0.5)}),
    "flow_vae": ({"free_bits_per": "total"}, {"free_bits": (0.5, 50.0)}),
}


@pytest.mark.parametrize(
    "model",
    rare(
        MEMBERS, "vae", "denoising_vae", "tc_vae", "factor_vae", "mmd_vae", "gumbel_vae", "flow_vae"
    ),
)
def test_members_of_other_numbers_share_a_program(model):
    """Which computes for each what its own would; the settings differ all at once."""
    fixed, varied = MEMBERS[model]
    pairs = [
        dict(zip(varied, values, strict=True)) for values in zip(*varied.values(), strict=True)
    ]
    plans = [flaxvae.make_plan(model, **SMALL, **fixed, **settings) for settings in pairs]
    each = [members.Member(str(i), p, p.recipe(DATA.spec)) for i, p in enumerate(plans)]
    (group,) = members.groups(each, DATA, evaluation.measurement)
    assert set(group.varied) == set(varied)
    assert all(x.weak_type for x in group.numbers().values())  # as the numbers of Python are
    mesh = meshes.make(1)
    together = members.trainer(group, DATA, mesh)
    state = together.segment(together.init(), together.feed.at(0).rows, 3)
    close = {"rtol": 1e-4, "atol": 1e-5} if "precision" not in fixed else {"atol": 2e-3}
    for i, (_, plan, recipe) in enumerate(each):
        alone = steps.trainer(recipe, DATA, plan.training, mesh, 1)
        expected = alone.segment(alone.init(), alone.feed.at(0).rows, 3)
        ours, theirs = (jax.tree.leaves(s) for s in (members.alone(state, i), expected))
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b, **close)
    losses = np.asarray(state.totals["loss"])
    assert losses[0] != pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize(
    ("use", "sizes"),
    [
        (lambda x: jnp.float32(x) * x, [5]),
        (lambda x: jnp.float32(x) if declared.is_on(x) else 7.0, [2, 3]),  # is it there at all?
        (lambda x: jnp.ones(int(x) + 1).sum(), [2, 1, 1, 1]),
        (lambda x: jnp.float32(x) if x > 2 else 7.0, [2, 1, 1, 1]),
        (lambda x: np.float32(x), [2, 1, 1, 1]),
        (lambda x: jax.lax.fori_loop(0, 2, lambda i, y: y * x, 1.0), [5]),
    ],
)
def test_what_a_recipe_does_with_a_number_decides_which_members_share_it(use, sizes):
    """A recipe from outside, of which nobody has said what its numbers are."""

    def mine(data, body=Body(), *, latent_dim: int = 2, size: float = 1.0):
        plain = zoo.ae(data, body, latent_dim=latent_dim)

        def objective(model):
            loss, by = plain.objective(model), use(size)

            def scaled(variables, key, batch, step):
                value, found = loss(variables, key, batch, step)
                return value * by, found

            return scaled

        return plain._replace(objective=objective)

    rows = [(0.0, 0), (0.0, 1), (2.0, 0), (3.0, 0), (4.0, 0)]
    plans = [flaxvae.make_plan(mine, **SMALL, size=size, seed=seed) for size, seed in rows]
    each = [members.Member(str(i), p, p.recipe(DATA.spec)) for i, p in enumerate(plans)]
    found = members.groups(each, DATA, evaluation.measurement)
    assert [len(group.members) for group in found] == sizes
    assert [member for group in found for member in group.members] == each


# ---- every setting of a training

OTHER = {
    "epochs": 1,
    "batch_size": 64,
    "accumulate": 2,
    "optimizer": "muon",
    "learning_rate": 3e-2,
    "schedule": "cosine",
    "warmup_steps": 7,
    "clip_norm": 0.1,
    "skip_norm": 5.0,
    "ema": 0.5,
    "patience": 1,
    "seed": 3,
    "devices": 2,
    "data_placement": "stream",
    "shard_params": True,
    "on_nan": "skip",
    "checkpoint_every": "3steps",
}
REFUSED = ("patience", "data_placement", "shard_params")
SAME = ("accumulate", "devices")  # numbers that these settings leave as they are


def spoilt(plan, spec, recipe=Plan.recipe):
    """A recipe whose loss is not finite at two steps, and with a large beta from the first on."""
    beta = plan.arguments["beta"]

    def factor(step):
        return jnp.where((step >= 5) & ((step < 7) | (beta > 2)), jnp.nan, 1.0)

    return spoiled(loss_times(factor), recipe)(plan, spec)


@pytest.fixture
def saves(monkeypatch):
    """Steps at which checkpoints were saved, by the folder that they are of."""
    found, save = {}, Checkpoints.save

    def saving(self, state, *rest):
        found.setdefault(self.folder, []).append(int(state.step))
        save(self, state, *rest)

    monkeypatch.setattr(Checkpoints, "save", saving)
    return found


SETTINGS = [field.name for field in dataclasses.fields(TrainSettings)]
OFTEN = ("learning_rate", "on_nan", "ema")


@pytest.mark.parametrize("name", rare(SETTINGS, *({*SETTINGS} - {*OFTEN})))
def test_a_sweep_of_one_obeys_every_setting(swept, tmp_path, monkeypatch, saves, name):
    """As a training does, or it refuses it."""
    setting = {name: OTHER[name]}
    choices = {**CHOICES, "beta": 1.0, "learning_rate": 1e-3, "checkpoint_every": "1h", **setting}
    path = tmp_path / "sweep"
    if name in REFUSED:
        with pytest.raises(UsageError, match=name) as refused:
            flaxvae.sweep(progress=False, model="beta_vae", seeds=1, run=str(path), **choices)
        assert "\n" not in str(refused.value) and not path.exists()
        return
    if name == "on_nan":
        monkeypatch.setattr(Plan, "recipe", spoilt)
    alone = flaxvae.train(
        progress=False, model="beta_vae", run=str(tmp_path / "alone"), **choices
    ).path
    (member,) = flaxvae.sweep(
        progress=False, model="beta_vae", seeds=1, run=str(path), **choices
    ).runs
    assert_same_training(member.path, alone)
    assert saves[path / "state" / "0" / "checkpoints"] == saves[alone / "checkpoints"]
    if name == "checkpoint_every":
        assert {*saves[alone / "checkpoints"]} == {*range(0, 20, 3), 20}
        return
    folders = alone, swept.path / MEMBER.format(1, 1e-3, 0)
    found, usual = (RunFolder(run).history()[-1]["validation_elbo"] for run in folders)
    assert (found == pytest.approx(usual, rel=1e-5)) == (name in SAME)  # it is heard


def test_each_member_skips_its_own_steps(tmp_path, monkeypatch, capsys):
    """And where they are too many it stays at its last good step; the others go on."""
    monkeypatch.setattr(Plan, "recipe", spoilt)
    choices = {**CHOICES, "on_nan": "skip", "run": str(tmp_path / "sweep")}
    found = flaxvae.sweep(progress=False, model="beta_vae", seeds=1, beta=[1.0, 4.0], **choices)
    (one,) = found.runs
    assert [row.get("skipped_steps", 0) for row in one.folder.history()] == [2, 0]
    assert [member["diverged"] for member in read(found.path / "sweep.json")["members"]] == [
        None,
        2,
    ]
    with pytest.raises(DivergedError, match=r"at step 16 \(epoch 2\), nor at the 10 skipped"):
        flaxvae.train(
            progress=False, model="beta_vae", beta=4.0, **choices | {"run": str(tmp_path / "alone")}
        )


def test_every_setting_has_another_value():
    usual = dataclasses.asdict(TrainSettings())
    assert OTHER.keys() == usual.keys() and all(OTHER[name] != usual[name] for name in usual)
