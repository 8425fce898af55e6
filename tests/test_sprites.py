"""Sprites: each factor changes what it says, and an image is the same wherever it is drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxvae as fv
from flaxvae import choosing
from flaxvae.data import pipeline, sources, sprites
from flaxvae.devices import batches
from flaxvae.errors import DataError, UsageError
from flaxvae.settings import DRAWN, DataSettings

PLAIN = [count for _, count in sprites.FACTORS]
ROWS = sprites.all_factors()
SOME = ROWS[np.random.default_rng(0).integers(0, len(ROWS), 512)]


def rows(**varied):
    """[N, F] rows that differ in the factors given, the last fastest; others are in the middle."""
    names = [name for name, _ in sprites.FACTORS + sprites.COLORS]
    middle = {"shape": 2, "scale": 3, "orientation": 3, "x": 15, "y": 15, "hue": 5, "ground": 2}
    names = names if {"hue", "ground"} & set(varied) else names[:5]
    grid = np.meshgrid(*[varied.get(name, middle[name]) for name in names], indexing="ij")
    return np.stack(grid, -1).reshape(-1, len(names))


def mass(images):
    """The area of each image's shape, and the mean x and y of it, all in pixels."""
    area, place = images.sum((1, 2, 3)), np.arange(sprites.SIZE)
    x, y = (images.sum((axis, 3)) @ place / area for axis in (1, 2))
    return area, x, y


def test_rows_are_in_the_order_of_dsprites():
    assert ROWS.shape == (737_280, 5) and ROWS.dtype == np.uint8
    np.testing.assert_array_equal(ROWS.max(0) + 1, PLAIN)
    where = np.random.default_rng(1).integers(0, len(ROWS), 100)
    np.testing.assert_array_equal(np.ravel_multi_index(ROWS[where].T.astype(int), PLAIN), where)


@pytest.mark.parametrize("shape", range(3))
def test_x_and_y_move_a_shape_by_pixels(shape):
    images = sprites.render(rows(shape=shape, x=np.arange(32), y=[0, 15, 31]))
    _, x, y = mass(images)
    x, y = x.reshape(32, 3), y.reshape(32, 3)
    np.testing.assert_allclose(np.diff(x, axis=0), 1, atol=1e-3)
    np.testing.assert_allclose(np.diff(y, axis=1), [[15, 16]] * 32, atol=1e-3)
    np.testing.assert_allclose(x[:, 0], np.arange(16, 48), atol=0.25)
    np.testing.assert_allclose(y[0], [16, 31, 47], atol=0.25)
    images = images.reshape(32, 3, 64, 64)
    np.testing.assert_array_equal(images[1:, :, :, 1:], images[:-1, :, :, :-1])


def test_area_is_that_of_the_scale_whatever_the_shape_and_its_orientation():
    images = sprites.render(rows(shape=range(3), scale=range(6), orientation=range(40)))
    area = mass(images)[0].reshape(3, 6, 40)
    wanted = (21 * np.linspace(0.5, 1, 6)) ** 2
    assert (np.diff(area.mean(-1), axis=1) > 0).all()
    np.testing.assert_allclose(area, np.broadcast_to(wanted[:, None], area.shape), rtol=0.01)


def test_no_shape_touches_the_edge():
    corners = rows(shape=range(3), scale=5, orientation=range(40), x=[0, 31], y=[0, 31])
    seen = sprites.render(corners).max(0)[..., 0] > 0
    assert not (seen[0].any() or seen[-1].any() or seen[:, 0].any() or seen[:, -1].any())


def test_a_quarter_turn_of_a_square_is_the_same_picture():
    """So is half a turn of an ellipse; every turn of a heart is another one."""
    images = sprites.render(rows(shape=range(3), scale=range(6), orientation=range(40)))
    square, ellipse, heart = images.reshape(3, 6, 40, 64, 64)
    for quarter in range(1, 4):
        np.testing.assert_array_equal(np.roll(square, 10 * quarter, 1), square)
    np.testing.assert_array_equal(np.roll(ellipse, 20, 1), ellipse)
    for found, different in ((square, 10), (ellipse, 20), (heart, 40)):
        assert len(np.unique(found.reshape(240, -1), axis=0)) == 6 * different


def test_orientation_turns_counter_clockwise():
    """A quarter turn of the middle of an image, which is that of the shape."""
    images = sprites.render(rows(shape=range(3), scale=5, orientation=range(40)))[..., 0]
    images = images.reshape(3, 40, 64, 64)[:, :, 15:48, 15:48]
    turned = np.rot90(images, axes=(2, 3))
    np.testing.assert_allclose(np.roll(images, -10, 1), turned, atol=1 / 255)
    upright = images[2, 0]  # a heart: wide above, its tip below
    assert (upright[-6:] > 0).sum() < (upright[:10] > 0).sum()
    np.testing.assert_array_equal(upright, upright[:, ::-1])


def test_thresholded_images_are_all_different_too():
    images = sprites.render(rows(shape=range(3), scale=range(6), orientation=range(40))) >= 0.5
    assert len(np.unique(images.reshape(720, -1), axis=0)) == 6 * (10 + 20 + 40)


def test_pixels_are_bytes():
    levels = sprites.render(SOME) * 255
    np.testing.assert_allclose(levels, np.rint(levels), atol=1e-4)
    assert levels.min() == 0 and levels.max() == 255
    assert 0.01 < ((levels > 0.5) & (levels < 254.5)).mean() < 0.05  # edges


def test_hues_of_shape_and_ground():
    grid = rows(shape=range(3), hue=range(8), ground=range(8))
    images = sprites.render(grid).reshape(3, 8, 8, 64, 64, 3)
    shape, ground = images[..., 31, 31, :], images[..., 0, 0, :]
    for found, own in ((shape, 1), (ground, 2)):
        colors = np.unique(found.reshape(-1, 3), axis=0)
        assert len(colors) == 8
        same = np.take(found, [0], axis=3 - own)  # whatever the other hue is
        np.testing.assert_array_equal(found, np.broadcast_to(same, found.shape))
    np.testing.assert_allclose(shape.max(-1), 1)
    np.testing.assert_allclose(ground.max(-1), 0.4, atol=1e-6)
    red, green = shape[0, 0, 0], ground[0, 0, 3]
    assert red.argmax() == 0 and green.argmax() == 1
    covered = sprites.render(grid[:, :5]).reshape(3, 8, 8, 64, 64, 1)
    mixed = ground[..., None, None, :] + covered * (shape - ground)[..., None, None, :]
    np.testing.assert_allclose(images, mixed, atol=1 / 255)


def test_a_row_has_one_image_wherever_it_is_drawn():
    """In a loop with what uses it, in another batch, under vmap, and outside."""
    expected = sprites.render(SOME)
    np.testing.assert_array_equal(sprites.render(SOME[100:107]), expected[100:107])
    nested = jax.jit(jax.vmap(sprites.draw))(jnp.asarray(SOME).reshape(8, 64, 5))
    np.testing.assert_array_equal(nested.reshape(expected.shape), expected)

    @jax.jit
    def steps(given):
        def step(i, images):
            return images.at[i].set(sprites.draw(given[i]) * 2)

        return jax.lax.fori_loop(0, 8, step, jnp.zeros((8, 64, 64, 64, 1)))

    inside = steps(jnp.asarray(SOME).reshape(8, 64, 5)) / 2
    np.testing.assert_array_equal(inside.reshape(expected.shape), expected)


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ([[0, 6, 0, 0, 0]], "scale 6 in row 0; expected 0 to 5"),
        ([[0, 0, 0, 0, 0], [0, 0, -1, 0, 0]], "orientation -1 in row 1; expected 0 to 39"),
        ([[0, 0, 0, 0, 0, 0, 8]], "ground 8 in row 0; expected 0 to 7"),
        ([0, 0, 0, 0, 0], r"int64 of shape \(5,\); expected whole numbers \[B, 5\]"),
        ([[0.0] * 5], r"float64 of shape \(1, 5\)"),
        ([[0] * 6], r"\(1, 6\)"),
    ],
)
def test_factors_that_are_none(factors, message):
    with pytest.raises(DataError, match=message):
        sprites.render(factors)


@pytest.mark.parametrize("name", DRAWN)
def test_splits(name):
    data = pipeline.prepare(DataSettings(name))
    held = (data.validation, data.test)
    assert [len(split.x) for split in (data.train, *held)] == [717_280, 10_000, 10_000]
    color = name == "sprites_color"
    assert data.spec.factors == sprites.FACTORS + (sprites.COLORS if color else ())
    assert data.spec.shape == data.test.shape == (64, 64, 3 if color else 1)
    assert (data.spec.levels, data.spec.binary) == (256, False)
    assert choosing.likelihood(data.spec).value == "bernoulli"
    found = np.concatenate([split.factors for split in (data.train, *held)])
    counts = [count for _, count in data.spec.factors]
    for values, count in zip(found.T, counts, strict=True):
        share = np.bincount(values, minlength=count) / len(found)
        np.testing.assert_allclose(share, 1 / count, rtol=0.03)
    where = np.ravel_multi_index(found[:, :5].T.astype(int), PLAIN)
    np.testing.assert_array_equal(np.sort(where), np.arange(len(ROWS)))
    shapes = np.array(sprites.SHAPES)
    np.testing.assert_array_equal(data.test.y, shapes[data.test.factors[:, 0]])
    some = pipeline.taken(data.test, np.array([5, 3]))
    np.testing.assert_array_equal(some.images(), sprites.render(data.test.factors[[5, 3]]))


def test_what_is_held_out_is_fixed():
    with pytest.raises(UsageError, match=r"validation=0\.5 has no effect with sprites"):
        pipeline.prepare(DataSettings("sprites", validation=0.5))


@pytest.fixture(scope="module")
def few():
    """The sources with few rows each, for a training of seconds."""
    whole, patch = sources.load, pytest.MonkeyPatch()

    def load(*asked):
        found = whole(*asked)

        def cut(part, count):
            return part._replace(x=part.x[:count], y=part.y[:count], factors=part.factors[:count])

        parts = {"train": cut(found.train, 64), "test": cut(found.test, 24)}
        return found._replace(**parts, validation=cut(found.validation, 16))

    patch.setattr(sources, "load", load)
    yield
    patch.undo()


def test_a_run_has_the_factors_of_its_images(few, tmp_path, no_figures):
    choices = {"net": "mlp", "widths": (16,), "latent_dim": 2, "epochs": 1, "batch_size": 32}
    run = fv.train("sprites_color", **choices, run=str(tmp_path / "run"), progress=False)
    assert run.spec.factors == sprites.FACTORS + sprites.COLORS
    test = fv.load(run.path).data().test
    assert test.factors.shape == (24, 7)
    images = sprites.render(test.factors)
    np.testing.assert_array_equal(run.encode(images), run.encode(test.images()))
    seen = batches.over_split(lambda variables, key, batch: batch.factors, run.mesh)
    np.testing.assert_array_equal(seen(test, {}, jax.random.key(0)), test.factors)
    again = run.evaluate(images, test.y)
    assert again == run.evaluate(test)
