"""The KL's weight in a run's rows is what its loss had; a schedule that is too long is said."""

import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxvae
from conftest import TINY, rare
from flaxvae import api, lookup, sweeps, zoo
from flaxvae.core import Batch
from flaxvae.recipe import DataSpec
from flaxvae.report.terminal import Terminal
from flaxvae.settings import TrainSettings
from flaxvae.training import schedules

SPEC = DataSpec("images", (8, 8, 1), classes=3, binary=True, levels=2, examples=100)
MLP = {"net": "mlp", "widths": (8,)}


def rows(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    "own",
    [
        {},
        {"beta": 3.0},
        {"anneal": "linear", "anneal_steps": 7, "beta": 2.0},
        {"anneal": "cyclical", "anneal_steps": 6, "cycles": 2},
    ],
)
@pytest.mark.parametrize(
    "name",
    rare([n for n in zoo.RECIPES if "free_bits" in lookup.arguments(n)], "deep_vae", "ladder_vae"),
)
def test_the_weight_is_that_of_the_loss(name, own):
    """loss = reconstruction + weight KL, of the very step."""
    body = {"width": 4} if name == "deep_vae" else MLP
    recipe = lookup.build(name, SPEC, **body, **own)
    x = jax.random.bernoulli(jax.random.key(1), 0.5, (5, 8, 8, 1)).astype(jnp.float32)
    batch = Batch(x, jnp.array([0, 1, 2, 0, 1]))
    variables = jax.jit(recipe.model.init)(jax.random.key(0), x[:1], batch.y[:1])
    loss = jax.jit(recipe.loss)
    for step in (0, 2, 5, 9, 13, 100):
        _, (metrics, _) = loss(variables, jax.random.key(2), batch, jnp.int32(step))
        weight = schedules.numbers(recipe, step + 1)["kl_weight"]
        expected = metrics["reconstruction"] + weight * metrics["kl"]
        np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)


def test_the_weight_of_an_importance_weighted_bound():
    recipe = lookup.build("iwae", SPEC, **MLP, k=1, anneal="linear", anneal_steps=10)
    x = jnp.ones((4, 8, 8, 1))
    variables = jax.jit(recipe.model.init)(jax.random.key(0), x[:1])
    loss = jax.jit(recipe.loss)
    for step in (0, 4, 10, 50):
        _, (metrics, _) = loss(variables, jax.random.key(2), Batch(x), jnp.int32(step))
        weight = schedules.numbers(recipe, step + 1)["kl_weight"]
        expected = metrics["reconstruction"] + weight * metrics["kl"]
        np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)


def test_a_capacity_is_a_target():
    recipe = lookup.build("beta_vae", SPEC, **MLP, capacity=6.0, capacity_steps=30, beta=50.0)
    assert schedules.numbers(recipe, 16) == {"kl_weight": 50.0, "kl_target": 3.0}
    x = jnp.ones((4, 8, 8, 1))
    variables = jax.jit(recipe.model.init)(jax.random.key(0), x[:1])
    loss = jax.jit(recipe.loss)
    _, (metrics, _) = loss(variables, jax.random.key(2), Batch(x), jnp.int32(15))
    expected = metrics["reconstruction"] + 50 * abs(metrics["kl"] - 3.0)
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)


@pytest.mark.parametrize(
    "name", ["ae", "denoising_ae", "tc_vae", "factor_vae", "mmd_vae", "vq_vae"]
)
def test_losses_without_one_weight_have_no_column(name):
    assert schedules.numbers(lookup.build(name, SPEC, **MLP), 5) == {}


def said(steps, **own):
    name = own.pop("model", "vae")
    training = TrainSettings(warmup_steps=own.pop("warmup_steps", 0))
    body = {"width": 4} if name == "deep_vae" else MLP
    recipe = lookup.build(name, SPEC, **body, **own)
    return list(schedules.remarks(recipe, training, steps))


def test_what_is_longer_than_the_training_is_said():
    linear = {"anneal": "linear", "anneal_steps": 100}
    assert said(100, **linear) == said(101, **linear) == said(0, **linear) == said(5) == []
    (line,) = said(51, beta=4.0, **linear)
    assert line == (
        "the KL's weight ends at 2, not at 4: its schedule is longer than the training's 51 steps"
    )
    cyclical = {"anneal": "cyclical", "anneal_steps": 10, "cycles": 4}
    assert len(said(17, **cyclical)) == 1  # at rest, but two cycles are to come
    assert said(36, **cyclical) == said(40, **cyclical) == []
    (line,) = said(10, model="beta_vae", capacity=25.0)
    assert "the KL's target ends at 0.009, not at 25" in line
    (line,) = said(1, warmup_steps=5)
    assert "warm-up of 5 is longer than the training's 1 step" in line and "steps" not in line


def test_a_run_says_it_once_before_it_begins_and_keeps_the_weight(tmp_path, no_figures):
    choices = TINY | {"epochs": 2, "anneal": "linear", "anneal_steps": 40}
    stream = io.StringIO()
    with Terminal(stream) as terminal:
        plan = flaxvae.make_plan(**choices)
        run = api.execute(plan, run=str(tmp_path / "run"), terminal=terminal)
    text = " ".join(stream.getvalue().split())
    assert text.count("the KL's weight ends at 0.475, not at 1: its schedule is longer") == 1
    assert text.index("ends at 0.475") < text.index("1/2")
    assert [row["kl_weight"] for row in rows(run.path)] == pytest.approx([9 / 40, 19 / 40])
    assert all("kl_target" not in row for row in rows(run.path))


def test_members_of_a_sweep_keep_theirs(tmp_path, no_figures):
    choices = TINY | {"epochs": 1, "beta": [1.0, 4.0], "anneal": "linear", "anneal_steps": 40}
    stream = io.StringIO()
    with Terminal(stream) as terminal:
        grid = sweeps.make_grid("vae", 1, **choices)
        done = sweeps.execute(grid, run=str(tmp_path / "s"), terminal=terminal)
    found = [rows(run.path)[-1]["kl_weight"] for run in done.runs]
    assert found == pytest.approx([9 / 40, 36 / 40])
    text = " ".join(stream.getvalue().split())
    assert "ends at 0.225, not at 1" in text and "ends at 0.9, not at 4" in text
