"""Mirrored training images: half of them, by the key of the step, and no others."""

import jax
import numpy as np
import pytest

from conftest import TINY
from flaxvae.data import images, pipeline
from flaxvae.devices import mesh as meshes
from flaxvae.errors import UsageError
from flaxvae.plan import make_plan
from flaxvae.settings import DataSettings
from flaxvae.training import loop
from flaxvae.training import step as steps


def made(**choices):
    """A plan's recipe, trainer, data, settings and mesh."""
    plan, mesh = make_plan(epochs=1, **TINY, **choices), meshes.make(1)
    data = pipeline.prepare(plan.data)
    recipe, settings = plan.recipe(data.spec), plan.training
    return recipe, steps.trainer(recipe, data, settings, mesh, 1), data, settings, mesh


def test_each_image_is_itself_or_its_mirror_image(assert_mean):
    x = np.random.default_rng(0).random((500, 3, 4, 2), np.float32)
    found = np.asarray(images.flipped(x, jax.random.key(1)))
    same = (found == x).all((1, 2, 3))
    mirrored = (found == x[:, :, ::-1]).all((1, 2, 3))
    assert (same ^ mirrored).all()
    assert_mean(mirrored, 0.5)
    other = np.asarray(images.flipped(x, jax.random.key(2)))
    assert_mean((other == found).all((1, 2, 3)), 0.5)  # each key draws anew


def test_images_of_evaluation_are_never_mirrored():
    """With weights that do not move, only what is measured on training images changes."""
    rows = [loop.fit(*made(learning_rate=1e-30, flip=flip))[1][0] for flip in (False, True)]
    validated = [{k: v for k, v in row.items() if k.startswith("validation")} for row in rows]
    assert validated[0] == validated[1] and validated[0]
    assert rows[0]["train_reconstruction"] != rows[1]["train_reconstruction"]


def test_segments_draw_what_one_training_does():
    _, trainer, *_ = made(flip=True, binarization="dynamic")
    rows = trainer.feed.at(0).rows
    whole = trainer.segment(trainer.init(), rows, 5)
    part = jax.device_get(trainer.segment(trainer.init(), rows, 2))
    parts = trainer.segment(jax.tree.map(meshes.place, part, trainer.sharding), rows, 3)
    for a, b in zip(*map(jax.tree.leaves, (whole, parts)), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("dataset", "what"),
    [
        ("rows.npy", "set of vectors"),
        ("rows.csv", "table"),
        ("sprites", "drawn from their factors"),
    ],
)
def test_what_has_no_mirror_image(tmp_path, monkeypatch, dataset, what):
    monkeypatch.chdir(tmp_path)
    np.save("rows.npy", np.linspace(0, 1, 24, dtype=np.float32).reshape(8, 3))
    (tmp_path / "rows.csv").write_text("a,b\n" + "1.5,2\n2.5,7\n" * 4)
    with pytest.raises(UsageError, match=f"^flip on .*{what}.*: expected images") as error:
        pipeline.prepare(DataSettings(dataset, flip=True))
    assert "\n" not in str(error.value)
