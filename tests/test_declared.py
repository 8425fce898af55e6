"""What enters: a value is made the plain one of its declared type, or refused in one line."""

import dataclasses
import fractions
import json
import pathlib
import types
from typing import Annotated, Literal, Union, get_args, get_origin

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxvae
from conftest import TINY
from flaxvae import api, cli, commands, declared, lookup, settings, sweeps, zoo
from flaxvae import plan as planning
from flaxvae.code_prior import fit_prior
from flaxvae.errors import UsageError
from flaxvae.settings import Bound, Hosts, TrainSettings

MODELS = ["vae", *(name for name in zoo.RECIPES if name != "vae")]
# Every setting that there is, with a model that takes it.
SETTINGS = {
    name: (model, kind)
    for model in reversed(MODELS)
    for name, kind in planning.kinds(model).items()
}
NAN, INF = float("nan"), float("inf")


def bare(kind):
    """A declared type without its notes and None."""
    while get_origin(kind) in (Annotated, Union, types.UnionType):
        kind = get_args(kind)[0]
    return kind


def plan(name, value):
    return planning.plan_of(SETTINGS[name][0], **{name: value})


def good(name):
    """A value that the setting may have, not its default."""
    default, kind = stored(plan_of(name))[name], bare(SETTINGS[name][1])
    if kind is bool:
        return not default
    if kind is int:
        return (default or 3) + 1
    if kind is float:
        return 0.5 if default != 0.5 else 0.25
    if get_origin(kind) is tuple:
        return ("a", "b") if kind == tuple[str, ...] else (7, 5)
    if get_origin(kind) is Literal:
        return next(option for option in get_args(kind) if option != default)
    others = {"checkpoint_every": "7steps", "image_size": "48x80"}
    return others.get(name, "other/name.npz")


def plan_of(name):
    return flaxvae.make_plan(SETTINGS[name][0])


def stored(found):
    """All settings of a plan, as run.json has them."""
    return vars(found.data) | vars(found.training) | dict(found.arguments)


def same(name, kind, value):
    """Other ways to say ``value``."""
    if kind is bool:
        return [np.bool_(value), np.array(value), jnp.array(value)]
    if kind is int:
        others = [np.int64(value), np.uint32(value), np.array(value), jnp.array(value)]
        return [*others, float(value), np.float32(value), np.array(float(value))]
    if kind is float:
        others = [np.float64(value), np.float32(value), np.array(value), jnp.array(value)]
        return [*others, fractions.Fraction(value)]
    if kind == tuple[str, ...]:
        return [list(value), np.array(value), iter(value)]
    if get_origin(kind) is tuple:
        return [list(value), np.array(value), jnp.array(value), [np.int32(x) for x in value]]
    if get_origin(kind) is Literal:
        return [np.str_(value)]
    return [np.str_(value), *([pathlib.Path(value)] if "/" in value else [])]


BAD = {
    int: [True, np.True_, "1", b"1", 1.5, NAN, INF, [1], np.array([1]), np.array("1"), 1j, {}],
    float: [True, np.True_, "1", NAN, INF, np.float32(NAN), [1.0], np.array([1.0]), 1j, 10**400],
    bool: [0, 1, np.int64(1), "True", [True], np.array([True]), "", 1.0],
    str: [0, b"x", ["x"], np.array(["x"]), True, "", "a\0b"],
    tuple: ["64", 8, [True], [1.5], ["8"], [[8]], np.array(8), [NAN], b"8"],
    tuple[str, ...]: ["a", 8, [True], [1], b"a", [""], [None], np.array("a")],
    Literal: [0, True, b"none", ["none"], "nonsense", np.array(["none"]), ""],
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_is_the_plain_value_or_refused(name):
    kind = bare(SETTINGS[name][1])
    value = good(name)
    expected = plan(name, value)
    for other in same(name, kind, value):
        found = plan(name, other)
        assert found == expected, other
        assert type(stored(found)[name]) is type(value)
        assert json.dumps(stored(found)) == json.dumps(stored(expected))
    for wrong in BAD[kind if kind in BAD else get_origin(kind)]:
        with pytest.raises(UsageError, match=f"^{name}=.*: expected ") as error:
            plan(name, wrong)
        assert "\n" not in str(error.value)
    if type(None) not in get_args(declared.plain(SETTINGS[name][1])):
        with pytest.raises(UsageError, match=r"=None: expected "):
            plan(name, None)


def test_records_are_checked_wherever_they_are_made():
    assert TrainSettings(seed=np.int64(3)) == TrainSettings(seed=3)
    assert type(TrainSettings(seed=np.int64(3)).seed) is int
    with pytest.raises(UsageError, match=r"process_id=0.5: expected a whole number"):
        Hosts("auto", process_id=0.5)
    with pytest.raises(UsageError, match=r"seed=4294967301: expected 0 to 4294967295"):
        dataclasses.replace(TrainSettings(), seed=2**32 + 5)


def test_a_model_is_a_name():
    assert flaxvae.make_plan(np.str_("vae")) == flaxvae.make_plan()
    for wrong in (3, ["vae"], None):
        with pytest.raises(UsageError, match=r"model=.*: expected text"):
            flaxvae.make_plan(wrong)


@pytest.mark.parametrize("wrong", [{"seed": True}, {"epochs": "2"}, {"seed": np.array([[1]])}])
def test_nothing_is_written_for_a_setting_that_cannot_be(tmp_path, monkeypatch, wrong):
    monkeypatch.chdir(tmp_path)
    for train in (
        flaxvae.train,
        lambda **choices: flaxvae.sweep(progress=False, seeds=1, **choices),
    ):
        with pytest.raises(UsageError):
            train(**{**TINY, "epochs": 1, **wrong})
    with pytest.raises(UsageError, match=r"run=5: expected text"):
        flaxvae.train(progress=False, run=5, **TINY, epochs=1)
    assert not list(tmp_path.iterdir())


def test_a_run_of_numpy_settings_is_that_of_plain_ones(tmp_path, no_figures):
    plain = flaxvae.train(progress=False, run=str(tmp_path / "a"), **TINY, epochs=1, seed=3)
    settings = {**TINY, "widths": [32], "epochs": np.int64(1), "seed": np.array(3)}
    other = flaxvae.train(progress=False, run=tmp_path / "b", **settings)
    again = flaxvae.load(other.path).plan
    assert again == flaxvae.load(plain.path).plan == plain.plan == other.plan
    sums = [json.loads((run.path / "summary.json").read_text()) for run in (plain, other)]
    assert sums[0]["parameters_sha256"] == sums[1]["parameters_sha256"]


@pytest.mark.parametrize(
    ("model", "wrong"),
    [
        ("vae", {"epochs": 2**31}),
        ("vae", {"epochs": 2**29}),  # of ten steps each
        ("vae", {"warmup_steps": 10**12}),
        ("vae", {"anneal": "linear", "anneal_steps": 10**12}),
        ("vae", {"anneal": "cyclical", "anneal_steps": 2**20, "cycles": 2**20}),
        ("iwae", {"anneal": "cyclical", "cycles": 10**12}),
        ("beta_vae", {"capacity": 1.0, "capacity_steps": 10**12}),
    ],
)
def test_steps_that_cannot_be_counted_are_refused(tmp_path, model, wrong):
    with pytest.raises(UsageError, match=r"^.*=.*: expected at most 2147483647"):
        flaxvae.train(
            progress=False, model=model, run=str(tmp_path / "run"), **{**TINY, "epochs": 1, **wrong}
        )
    assert not list(tmp_path.iterdir())


def test_values_of_a_grid():
    def varied(**choices):
        return sweeps.make_grid("vae", seeds=np.int64(2), **choices).varied

    expected = varied(beta=[1.0, 2.0])
    assert expected == {"beta": [1.0, 2.0]}
    for several in ((1, 2), range(1, 3), np.array([1, 2]), jnp.array([1.0, 2.0])):
        assert varied(beta=several) == expected
        assert all(type(x) is float for x in varied(beta=several)["beta"])
    assert varied(widths=[[32], (16, 8)], net="mlp") == {"widths": [(32,), (16, 8)]}
    assert varied(widths=(16, 8), net="mlp") == {}
    assert sweeps.make_grid("vae", 1, seed=[3], epochs=[2]).seeds == [3]
    for wrong in ({"widths": [16, 32]}, {"beta": ["1"]}, {"seed": True}, {"seed": 2**32}):
        with pytest.raises(UsageError, match=r"expected"):
            varied(**wrong)


SEEDS = [-1, 2**32, 2**32 + 5, True, "0", 0.5, NAN]


def test_seeds_of_every_reader_are_those_of_train(trained):
    run = flaxvae.load(trained)
    x = np.zeros((2, 8, 8), np.uint8)
    calls = [
        lambda seed: run.sample(2, seed=seed),
        lambda seed: run.score(x, seed=seed),
        lambda seed: commands.evaluate(str(trained), seed=seed),
        lambda seed: commands.sample(str(trained), seed=seed),
        lambda seed: fit_prior(trained, TrainSettings(seed=seed)),
    ]
    for seed in SEEDS:
        for call in calls:
            with pytest.raises(UsageError, match=r"seed=.*: expected"):
                call(seed)
    np.testing.assert_array_equal(run.sample(2, seed=np.int64(3)), run.sample(np.int8(2), seed=3))
    np.testing.assert_array_equal(run.score(x, seed=np.array(3)), run.score(x, seed=3.0))


@pytest.mark.parametrize("wrong", [0, -1, True, "1", 1.5, NAN, None])
def test_counts_of_readers(trained, wrong):
    run, path = flaxvae.load(trained), str(trained)
    calls = [
        lambda: run.sample(wrong),
        lambda: run.score(np.zeros((2, 8, 8)), samples=wrong),
        lambda: commands.evaluate(path, samples=wrong),
        lambda: commands.sample(path, n=wrong),
        lambda: commands.interpolate(path, steps=wrong),
        lambda: commands.traverse(path, span=0 if wrong == 1.5 else wrong if wrong != "1" else NAN),
    ]
    for call in calls:
        with pytest.raises(UsageError, match=r"^[a-z]+=.*: expected "):
            call()


def test_typed_conforms_what_is_declared_and_nothing_else():
    @declared.typed
    def function(n: declared.Positive, x, *rest, path: str | None = None, other: dict = {}):  # noqa: B006
        return n, x, rest, path, other

    x = np.arange(3)
    assert function(np.int8(2), x, 1, path=pathlib.Path("a")) == (2, x, (1,), "a", {})
    with pytest.raises(UsageError, match=r"n=0: expected 1 or more"):
        function(0, x)
    with pytest.raises(TypeError):
        function()


# ---- settings that would have no effect


def test_only_of_a_declared_type():
    kinds = {
        "width": Annotated[int, declared.Only("net", "mlp", "resnet")],
        "net": str,
        "cycles": Annotated[int, declared.Only("anneal")],
        "anneal": str,
    }
    usual = {"width": 8, "net": "conv", "cycles": 4, "anneal": "none"}

    def said(*changes, also=()):
        return declared.idle(kinds, [usual | change for change in changes], [usual, *also])

    assert said({}) is None
    assert said({"width": 9, "net": "mlp"}) is None
    assert said({"width": 9}) == (
        "--width 9 has no effect with --net conv: expected --net mlp or resnet, or leave it out"
    )
    assert said({"width": 9}, also=[usual | {"width": 9}]) is None
    assert said({"cycles": 2, "anneal": "linear"}) is None
    assert "--cycles 2 has no effect with --anneal none: expected another" in said({"cycles": 2})
    assert said({"width": 9}, {"width": 9, "net": "mlp"}) is None  # in one of two it has


def notes(kind):
    """What a declared type says that a setting depends on."""
    found = get_args(kind)[1:] if get_origin(kind) is Annotated else ()
    return [note for note in found if isinstance(note, declared.Only)]


DEPENDENT = [
    (model, name)
    for model in MODELS
    for name, kind in planning.kinds(model).items()
    if notes(kind) and not lookup.without(model).keys() & {name, *(n.name for n in notes(kind))}
]


@pytest.mark.parametrize("model", MODELS)
def test_a_setting_that_a_recipe_does_nothing_with_is_refused(model):
    unused = lookup.without(model)
    assert bool(unused) == (model == "deep_vae")
    for name in unused:
        with pytest.raises(UsageError, match=r"has no effect: .*; leave it out"):
            flaxvae.make_plan(model, **{name: good(name)})
        flat = planning.flat(planning.make_plan(model))
        assert not declared.has_effect(planning.kinds(model)[name], flat)


@pytest.mark.parametrize(("model", "name"), DEPENDENT)
def test_a_setting_without_effect_is_refused(model, name):
    """There are values of what it depends on with which it is taken, and others with which not."""
    kinds = planning.kinds(model)
    for note in notes(kinds[name]):
        kind, taken = bare(kinds[note.name]), set()
        options = get_args(kind) or (0.0, 2.0)
        examples = note.values or ("folder", "pictures.zip", "a.tar.gz")
        for option in ("digits", *examples) if kind is str else options:
            choices = {note.name: option, name: good(name)}
            found = [planning.flat(planning.plan_of(model, **chosen)) for chosen in (choices, {})]
            # What the other one depends on in its turn does not matter here.
            idle = declared.idle({name: kinds[name]}, found[:1], found[1:])
            assert (idle is None) == note.holds(choices)
            taken.add(idle is None)
            if idle:
                with pytest.raises(UsageError, match=r"has no effect with .* or leave it out"):
                    flaxvae.make_plan(model, **choices)
        assert taken == {True, False}


def test_a_folder_is_read_of_the_datasets_that_can_be_in_one():
    from flaxvae.data import sources

    assert set(settings.IN_FOLDERS) == set(sources.SOURCES) - {"digits", *settings.DRAWN}


def test_datasets_with_names_are_no_folders_of_pictures():
    from flaxvae.data import sources

    assert {*sources.SOURCES, sources.ARRAYS} == set(settings.NAMED)
    for path in ("mnist", "a.npz", "A.NPY"):
        assert not settings.of_pictures(path)
    for path in ("photos", "photos/", "./mnist", "a.zip", "photos.v2", "~/a.tar.gz"):
        assert settings.of_pictures(path)


def test_a_size_may_be_typed_in_many_ways():
    for size in ("48x80", "48X80", (48, 80), [48, 80]):
        assert settings.DataSettings("a.zip", image_size=size).image_size == "48x80"
    for size in ("64", 64, "064x64", (64,)):
        assert settings.DataSettings("a.zip", image_size=size).image_size == "64x64"
    for size in ("x", "64x", "1x1", 0, -4, "4x4x4", "large", True, 64.5, (4, 4, 4), "99999"):
        with pytest.raises(UsageError, match="expected H or HxW"):
            settings.DataSettings("a.zip", image_size=size)


def test_stored_settings_without_effect_are_no_fault(tmp_path, no_figures, capsys):
    """What an older flaxvae took is read, goes on, and is swept."""
    path = str(tmp_path / "run")
    plan = planning.plan_of("vae", **TINY, epochs=1, likelihood="bernoulli", sigma=2.0)
    with pytest.raises(UsageError, match=r"sigma=2.0 has no effect"):
        planning.check_effects([plan])
    api.execute(plan, run=path)
    cli.main(["train", "--resume", path, "--epochs", "2"])
    assert flaxvae.load(path).plan.arguments["sigma"] == 2.0
    assert flaxvae.load(path).plan.training.epochs == 2


def test_a_grid_may_vary_what_a_setting_depends_on():
    grid = sweeps.make_grid("vae", 1, net=["conv", "mlp"], widths=(8,))
    assert [plan.arguments["widths"] for plan in grid.plans().values()] == [(8,), (8,)]
    with pytest.raises(UsageError, match="widths=8 has no effect with net='conv'"):
        sweeps.make_grid("vae", 1, net=["conv", "resnet"], widths=[(8,), (16,)])


def test_a_prior_without_a_temperature(tmp_path, no_figures):
    run = flaxvae.train(
        progress=False,
        model="gumbel_vae",
        run=str(tmp_path / "run"),
        dataset="digits",
        net="mlp",
        widths=(8,),
        epochs=0,
        devices=1,
    )
    with pytest.raises(UsageError, match=r"temperature=0.5 has no effect on the uniform prior"):
        run.sample(2, temperature=0.5)
    assert run.sample(2).shape == (2, 8, 8, 1)


# ---- numbers that are inputs of a program


def test_a_traced_number_passes_and_shows_no_value():
    def program(x, y):
        assert declared.traced(x) and not declared.traced(2.0)
        assert declared.conform("beta", declared.NotNegative, x) is x
        assert declared.passes(x < 0) and not declared.passes(-1.0 > 0)
        with declared.not_zero([y]):
            assert declared.is_on(y)
            bound = Bound(beta=x, free_bits=y, anneal_steps=x)
            assert bound.beta is x and bound.anneal_steps is x
            with pytest.raises(jax.errors.TracerBoolConversionError):
                declared.is_on(x)
        with pytest.raises(jax.errors.TracerBoolConversionError):
            declared.is_on(y)
        return x

    jax.eval_shape(program, -1.0, 0.5)
    assert declared.is_on(0.1) and not declared.is_on(0)
