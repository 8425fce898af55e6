"""Updates that are left out because their gradient is too large."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conftest import TINY, rare
from disturbed import loss_times, spoiled
from flaxvae.data import pipeline
from flaxvae.devices import mesh as meshes
from flaxvae.plan import make_plan
from flaxvae.training import loop, observers
from flaxvae.training import step as steps

LARGE = 4  # the step whose loss, and so its gradient, is a million times as large


def made(**choices):
    """A recipe with one large gradient, its trainer, data, settings and mesh."""
    plan, mesh = make_plan(epochs=1, **TINY, **choices), meshes.make(1)
    data, settings = pipeline.prepare(plan.data), plan.training
    change = loss_times(lambda step: jnp.where(step == LARGE, 1e6, 1.0))
    recipe = spoiled(change)(plan, data.spec)
    return recipe, steps.trainer(recipe, data, settings, mesh, 1), data, settings, mesh


@pytest.fixture(scope="module")
def skipping():
    return made(skip_norm=1e4, ema=0.9)


def same(a, b):
    """Whether each leaf is."""
    return [np.array_equal(*leaves) for leaves in zip(*map(jax.tree.leaves, (a, b)), strict=True)]


def test_only_the_large_gradient_moves_nothing(skipping):
    trainer = skipping[1]
    rows, state, moved = trainer.feed.at(0).rows, trainer.init(), []
    for step in range(6):
        before = jax.device_get(state)
        state = trainer.segment(state, rows, 1)
        assert int(state.step) == step + 1
        kept = (state.variables, state.opt_state, state.ema)
        alike = same(kept, (before.variables, before.opt_state, before.ema))
        assert all(alike) or not any(alike[:4])
        moved.append(not all(alike))
        assert int(state.totals[steps.SKIPPED]) == moved.count(False)
        assert float(state.totals["loss"]) > float(before.totals["loss"])  # of all steps
    assert moved == [step != LARGE for step in range(6)]


def test_they_are_counted_in_the_metrics_and_said_once(skipping):
    notes, watch = [], observers.Quiet()
    watch.note = notes.append
    _, (row,) = loop.fit(*skipping, watch=watch)
    assert row["skipped_updates"] == 1 and f"train_{steps.SKIPPED}" not in row
    (said,) = [note for note in notes if "skip-norm" in note]
    assert "epoch 1: the gradient was above --skip-norm at 1 of its steps" in said


def test_segments_leave_out_what_one_training_does(skipping):
    trainer = skipping[1]
    rows = trainer.feed.at(0).rows
    whole = trainer.segment(trainer.init(), rows, 8)
    part = jax.device_get(trainer.segment(trainer.init(), rows, LARGE + 1))
    state = jax.tree.map(meshes.place, part, trainer.sharding)
    assert all(same(whole, trainer.segment(state, rows, 7 - LARGE)))


@pytest.mark.parametrize("factor", rare([0.999, 1.001], 1.001))
def test_the_norm_is_that_of_all_parameters_before_clipping(factor):
    """Just above the norm of the first gradient nothing is left out, and just below it the step."""
    recipe, trainer, data, settings, _ = made()
    program = steps.program(recipe, data, settings, 1)
    state, stream = trainer.init(), steps.keys(settings.seed)
    noise = jax.tree.map(lambda keys: keys[0], program.noise(stream, 0, 1))
    x, _ = trainer.feed.at(0).rows.batch(state.step)
    batch = steps.Batch(x.astype(jnp.float32) / data.train.peak)

    def loss(params):
        return recipe.loss({"params": params}, noise.model, batch, state.step)[0]

    slope = jax.tree.leaves(jax.jit(jax.grad(loss))(state.variables["params"]))
    norm = np.sqrt(sum(np.square(np.float64(leaf)).sum() for leaf in slope))
    _, trainer, *_ = made(skip_norm=factor * norm, clip_norm=norm / 10)
    state = trainer.segment(trainer.init(), trainer.feed.at(0).rows, 1)
    assert int(state.totals[steps.SKIPPED]) == (factor < 1)
