"""Hierarchies: what levels are called, their KL in a run, drawing anew below one, their prices."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxvae
from flaxvae import cli, lookup
from flaxvae.core import Batch
from flaxvae.errors import UsageError
from flaxvae.parts import objectives
from flaxvae.parts.levels import Levels
from flaxvae.recipe import DataSpec
from flaxvae.report import words
from flaxvae.runs.run import load

KEY = jax.random.key(1)
LEVELS = Levels(("14x14", "7x7", "1x1"), (2, 3, 1), (392, 98, 16))
SPEC = DataSpec("bits", (7, 5, 1), binary=True, levels=2, examples=100)
X = jax.random.bernoulli(jax.random.key(0), 0.4, (6, 7, 5, 1)).astype(jnp.float32)
SMALL = {
    "deep_vae": {"levels": ("4x2", "1x1"), "width": 4},
    "ladder_vae": {
        "net": "mlp",
        "widths": (8,),
        "latent_dims": (3, 2, 2),
        "level_widths": (8,) * 3,
    },
}
COLUMNS = {"deep_vae": (48, 48, 16), "ladder_vae": (3, 2, 2)}


@functools.cache
def made(name, **choices):
    recipe = lookup.build(name, SPEC, **SMALL[name], **choices)
    variables = jax.device_get(jax.jit(recipe.model.init)(jax.random.key(0), X))
    rng = np.random.default_rng(3)
    return recipe, jax.tree.map(lambda x: np.float32(x + rng.normal(0, 0.1, x.shape)), variables)


# ---- what they are called


def test_columns_of_the_kl():
    assert LEVELS.columns[:3] == ("14x14 block 2", "14x14 block 1", "7x7 block 3")
    assert LEVELS.columns[-1] == "1x1" and LEVELS.keys[4] == "kl_7x7_block_1"
    assert LEVELS.each((1, 2, 3)) == (1, 1, 2, 2, 2, 3)
    kl = np.arange(12.0).reshape(2, 6)
    np.testing.assert_array_equal(LEVELS.sums(kl), [[1, 9, 5], [13, 27, 11]])


@pytest.mark.parametrize("name", SMALL)
def test_names_and_sizes_are_those_of_the_model(name):
    recipe, variables = made(name)
    model = recipe.model
    latent = jax.eval_shape(
        lambda: model.reparameterize(variables, KEY, model.encode(variables, X), False)
    )
    assert latent.kl.shape == (6, len(recipe.hierarchy.columns))
    assert recipe.hierarchy.each(recipe.hierarchy.sizes) == COLUMNS[name]
    assert latent.z.shape[1] == sum(COLUMNS[name])


def test_unused_levels_are_named():
    found = words.of_levels(LEVELS, [3.0, 0.05, 2.0, 1.0, 0.0, 7.5])
    assert (
        found["KL by level"] == "14x14 3.05 (3.00 + 0.05), 7x7 3.00 (2.00 + 1.00 + 0.00), 1x1 7.50"
    )
    said = "4 of 6; a KL below 0.1 nats: 14x14 block 1, 7x7 block 1"
    assert found["active blocks"] == said
    ladder = Levels(("level 1", "level 2"), (1, 1), (3, 2))
    assert words.of_levels(ladder, [5.0, 0.1]) == {
        "KL by level": "level 1 5.00, level 2 0.10",
        "active levels": "2 of 2",
    }
    assert words.of_levels(ladder, [np.nan, 1.0])["active levels"].startswith("1 of 2")
    assert words.of_levels(Levels(("level 1",), (1,), (3,)), [5.0]) == {}


# ---- drawn anew


@pytest.mark.parametrize("name", SMALL)
def test_what_is_above_stays(name):
    recipe, variables = made(name)
    model, ends = recipe.model, np.cumsum(COLUMNS[name])
    draw, redraw = jax.jit(model.prior_sample, static_argnums=2), jax.jit(model.redraw)
    z = draw(variables, jax.random.key(7), 5)
    for below in range(4):
        found = np.asarray(redraw(variables, KEY, z, below))
        first = ends[below - 1] if below else 0
        np.testing.assert_array_equal(found[:, first:], z[:, first:])
        assert (found[:, :first] != z[:, :first]).all()
    anew = draw(variables, KEY, 5)
    np.testing.assert_allclose(found, anew, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", SMALL)
def test_a_temperature_of_each_level(name):
    """At 0 the lowest is its mean given what is above, which differs; the others are drawn."""
    recipe, variables = made(name)
    run = flaxvae.Trained(recipe, variables)
    count, first = len(recipe.hierarchy.names), COLUMNS[name][0]
    plain = run.sample(4, temperature=1)
    np.testing.assert_array_equal(run.sample(4, temperature=[1.0] * count), plain)
    assert (run.sample(4, temperature=[0.5] + [1.0] * (count - 1)) != plain).any()
    draw = jax.jit(recipe.model.prior_sample, static_argnums=2)
    z, same = (draw(variables, KEY, 4, None, jnp.asarray(t)) for t in ((0.0, 1.0, 1.0), (1.0,) * 3))
    np.testing.assert_allclose(z[:, first:], same[:, first:], rtol=1e-5)
    again = jax.jit(recipe.model.redraw)(variables, jax.random.key(9), z, 1, 0.0)
    np.testing.assert_allclose(again, z, rtol=1e-4, atol=1e-5)


def test_redrawn_images():
    recipe, variables = made("deep_vae")
    run = flaxvae.Trained(recipe, variables)
    np.testing.assert_allclose(run.redraw(X, levels=0), run.reconstruct(X), atol=1e-6)
    some, every = run.redraw(X, levels=1), run.redraw(X, levels=2)
    np.testing.assert_allclose(run.redraw(X[::-1], levels=2), every, atol=1e-5)  # forgets them
    assert np.abs(run.redraw(X[::-1], levels=1) - some).max() > 1e-3
    with pytest.raises(UsageError, match="levels=3: expected at most 2, the levels of this model"):
        run.redraw(X, levels=3)
    for wrong in ((1, 1, 1), (1, -1), ()):
        with pytest.raises(UsageError, match="temperature"):
            run.sample(2, temperature=wrong)
    plain = lookup.build("vae", SPEC, net="mlp", widths=(4,))
    other = flaxvae.Trained(plain, plain.model.init(KEY, X))
    with pytest.raises(UsageError, match="no levels to draw anew"):
        other.redraw(X, levels=0)
    with pytest.raises(UsageError, match=r"temperature=\(1.0, 2.0\): expected one number"):
        other.sample(2, temperature=(1, 2))


# ---- what the KL costs

KL = jnp.array([3.0, 0.5, 2.0, 0.25, 0.25, 7.0])


def test_free_bits_of_each_level():
    price = objectives.free_bits(objectives.constant(2.0), 4.0, "level", LEVELS)
    value, slope = jax.value_and_grad(price)(KL, 0)
    assert value == pytest.approx(2 * (4 + 4 + 7))
    np.testing.assert_allclose(slope, [0, 0, 0, 0, 0, 2])
    other = objectives.free_bits(objectives.constant(2.0), 3.0, "level", LEVELS)
    np.testing.assert_allclose(jax.grad(other)(KL, 0), [2, 2, 0, 0, 0, 2])


def test_balanced_coefficients():
    """In proportion to KL / size, with a mean of 1, until the warm-up ends."""
    two = Levels(("2x2", "1x1"), (1, 1), (4, 1))
    price = objectives.balanced(objectives.linear(2.0, 10), 2.0, two)
    kl = jnp.array([7.99, 0.99])  # 8 / 4 and 1 / 1, with the 0.01 that keeps them from zero
    for step, expected in ((5, [4 / 3, 2 / 3]), (10, [2, 2]), (500, [2, 2])):
        value, slope = jax.value_and_grad(price)(kl, jnp.int32(step))
        np.testing.assert_allclose(slope, expected, rtol=1e-5)
        assert value == pytest.approx(float(slope @ kl), rel=1e-5)
    assert np.isfinite(price(jnp.zeros(2), 0))


def test_settings_that_only_hierarchies_have():
    for choices in ({"free_bits": 1.0, "free_bits_per": "level"}, {"balance": True}):
        with pytest.raises(UsageError, match="expected a hierarchy, such as ladder_vae"):
            lookup.build("vae", SPEC, net="mlp", anneal="linear", **choices)
    for choices in ({"free_bits": 1.0}, {"kl": "monte_carlo"}):  # whose KL has one column
        with pytest.raises(UsageError, match=r"balance with .*: expected one of them"):
            lookup.build("ladder_vae", SPEC, anneal="linear", balance=True, **choices)


@pytest.mark.parametrize("name", SMALL)
def test_the_kl_of_each_column_is_a_metric(name):
    recipe, variables = made(name, kl="monte_carlo")
    _, (metrics, _) = jax.jit(recipe.loss)(variables, KEY, Batch(X), jnp.int32(0))
    plain, _ = made(name)
    _, (closed, _) = jax.jit(plain.loss)(variables, KEY, Batch(X), jnp.int32(0))
    parts = [float(metrics[key]) for key in recipe.hierarchy.keys]
    assert sum(parts) == pytest.approx(float(closed["kl"]), rel=1e-5)
    assert min(parts) > 0 and metrics["kl"] != closed["kl"]


# ---- a run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("levels") / "run"
    choices = "--levels 4x2 1x1 --width 4 --epochs 1 --anneal linear --balance --no-cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flaxvae.api.drawn", lambda *arguments: {})
        cli.main(["train", "--model", "deep_vae", "--run", str(path), *choices.split()])
    return path


def test_the_numbers_of_a_run(trained):
    run, names = load(trained), ("4x4 block 2", "4x4 block 1", "1x1")
    (row,) = map(json.loads, (trained / "metrics.jsonl").read_text().splitlines())
    for part in ("train", "validation"):
        each = [row[f"{part}_kl_{name.replace(' ', '_')}"] for name in names]
        assert sum(each) == pytest.approx(row[f"{part}_kl"], rel=1e-5) and min(each) > 0
    found = run.summary
    assert found.kl_units == names and 0 <= found.active_blocks <= 3
    assert found.active_units is None  # the mean of a lower z varies with the z above it
    assert sum(found.kl_per_unit) == pytest.approx(found.kl, rel=1e-5)
    assert found.active_blocks == sum(nats >= 0.1 for nats in found.kl_per_unit)
    cli.main(["figures", str(trained), "--only", "levels", "redrawn"])
    for name in ("levels", "redrawn"):
        assert (trained / "figures" / f"{name}.png").stat().st_size > 5_000


def test_the_figure_before_the_first_epoch_has_no_curves(trained, monkeypatch):
    from flaxvae.report import levels, shown

    run = load(trained)
    monkeypatch.setattr(type(run.folder), "history", lambda self: [])
    found = levels.levels(shown.Subject(run, run.data().test))
    assert found.curves == {} and len(found.nats) == 3
    assert levels.draw_levels(trained / "levels.png", *found[:-1], title=found.title).exists()


def test_samples_come_in_turns_of_which_the_first_are_the_same(trained, monkeypatch):
    run = load(trained)
    many = run.sample(10, seed=3)
    monkeypatch.setattr("flaxvae.trained.sampling.DRAWN", 4)
    again = run.sample(10, seed=3)
    np.testing.assert_allclose(run.sample(3, seed=3), again[:3], atol=1e-6)
    assert many.shape == again.shape and len({x.tobytes() for x in again}) == 10


def test_samples_at_a_temperature_of_each_level(trained, capsys):
    cli.main(["sample", str(trained), "--n", "4", "--temperature", "0.5", "1"])
    assert "samples-n-4-temperature-0.5x1.png" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        cli.main(["sample", str(trained), "--temperature", "1", "1", "1"])
    assert stop.value.code == 2
    expected = "--temperature 1.0 1.0 1.0: expected one number, or one for each level, 4x4, 1x1"
    assert expected in capsys.readouterr().err
