"""Stored rows that a function makes images of: the same ones wherever they are made."""

import dataclasses

import jax
import numpy as np
import pytest

import flaxvae as fv
from flaxvae import lookup
from flaxvae.data import pipeline, sources
from flaxvae.data.pipeline import Split
from flaxvae.settings import DataSettings


def bars(rows):
    """[B, 2] -> [B, 4, 6, 1]: as many columns white, the others a grey of 5 levels."""
    columns = jax.numpy.arange(6)[None] < rows[:, :1]
    grey = jax.numpy.where(columns, 1.0, rows[:, 1:] / 4)
    return jax.numpy.broadcast_to(grey[:, None, :, None], (len(rows), 4, 6, 1))


ROWS = np.stack(np.meshgrid(np.arange(6), np.arange(4), indexing="ij"), -1).reshape(-1, 2)
ROWS = np.tile(ROWS, (3, 1)).astype(np.int32)


@pytest.fixture
def source(monkeypatch):
    train = sources.Part(ROWS, factors=ROWS, render=bars)
    test = sources.Part(ROWS[::7], factors=ROWS[::7], render=bars)
    found = sources.Dataset("bars", train, test, 4.0, None, "drawn here")
    monkeypatch.setattr(sources, "load", lambda *_: found)


def settings(**choices):
    return DataSettings("bars", validation=0.25, **choices)


def test_a_split_has_the_shape_and_the_pixels_of_its_images(source):
    data = pipeline.prepare(settings())
    assert data.test.shape == data.spec.shape == (4, 6, 1) and data.spec.levels == 5
    np.testing.assert_array_equal(data.test.images(), bars(ROWS[::7]))
    np.testing.assert_array_equal(data.test.images(slice(2, 5)), bars(ROWS[::7][2:5]))
    assert data.test.images(slice(0, 0)).shape == (0, 4, 6, 1)
    for split in (data.train, data.validation, data.test):
        np.testing.assert_array_equal(split.factors, split.x)


def test_fingerprints_are_of_the_pixels():
    rendered = Split(ROWS, None, 4.0, render=bars)
    stored = Split(rendered.images(), None, 1.0)
    np.testing.assert_array_equal(pipeline.fingerprints(rendered), pipeline.fingerprints(stored))


@pytest.mark.parametrize("how", ["dynamic", "fixed", "threshold"])
def test_binarized_images_depend_on_their_row_alone(source, how):
    test = pipeline.prepare(settings(binarization=how)).test
    seen = test.images()
    assert set(np.unique(seen)) == {0, 1}
    np.testing.assert_array_equal(
        seen[::-1], pipeline.taken(test, np.arange(len(seen))[::-1]).images()
    )
    if how == "threshold":
        np.testing.assert_array_equal(seen, np.asarray(bars(test.x)) >= 0.5)
    else:
        grey = np.asarray(bars(test.x))
        assert (seen[grey == 1] == 1).all() and (seen[grey == 0] == 0).all()
        middle = seen[(grey > 0) & (grey < 1)]
        assert 0 < middle.mean() < 1


def test_a_loss_sees_what_its_batch_is_rendered_from(source, tmp_path, no_figures):
    def with_factors(data: fv.DataSpec) -> fv.Recipe:
        recipe = lookup.build("vae", data, net="mlp", widths=(8,), latent_dim=2)

        def objective(model):
            loss = recipe.objective(model)

            def judged(variables, key, batch, step):
                value, (metrics, updates) = loss(variables, key, batch, step)
                same = (bars(batch.factors) == batch.x).mean()
                return value, (metrics | {"rendered": same}, updates)

            return judged

        return recipe._replace(objective=objective)

    choices = {"epochs": 1, "batch_size": 8, "validation": 0.25, "progress": False}
    run = fv.train("bars", model=with_factors, **choices, run=str(tmp_path / "run"))
    assert run.history["train_rendered"][-1] == 1


@pytest.mark.parametrize("how", ["none", "threshold"])
def test_training_on_rows_is_training_on_their_images(
    source, monkeypatch, tmp_path, no_figures, how
):
    choices = {"net": "mlp", "widths": (8,), "latent_dim": 2, "epochs": 1, "batch_size": 8}
    choices |= {"binarization": how, "validation": 0.25, "progress": False}
    rendered = fv.train("bars", **choices, run=str(tmp_path / "rendered"))
    found = sources.load()

    def stored(part):
        x = Split(part.x, None, found.peak, render=part.render).images() * found.peak
        return sources.Part(np.rint(x).astype(np.uint8))

    parts = {"train": stored(found.train), "test": stored(found.test)}
    monkeypatch.setattr(sources, "load", lambda *_: found._replace(**parts))
    plain = fv.train("bars", **choices, run=str(tmp_path / "plain"))
    assert rendered.summary == plain.summary
    for a, b in zip(*(jax.tree.leaves(run.variables) for run in (rendered, plain)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert dataclasses.asdict(rendered.evaluate(rendered.data().test))["images"] == len(ROWS[::7])
