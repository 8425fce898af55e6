"""Rates of wanted and unwanted changes, and what strokes are measured to be."""

import numpy as np
import pytest

from flaxvae.analysis import changes, strokes
from flaxvae.errors import UsageError


def test_rates_are_of_the_images_that_could_change():
    before = {
        "smile": np.array([False, False, False, False, True, True]),
        "digit": np.array([1, 2, 3, 4, 5, 6]),
        "dark": np.array([True, True, False, False, False, False]),
    }
    after = {
        "smile": np.array([True, True, True, False, False, True]),
        "digit": np.array([1, 2, 3, 9, 9, 9]),
        "dark": np.array([True, True, False, False, True, True]),
    }
    found = changes.changed(before, after, "smile")
    assert found == (4, 0.75, {"digit": 0.25, "dark": 0.0}) and found.unwanted_mean == 0.125
    lost = changes.changed(before, after, "smile", gained=False)
    assert lost == (2, 0.5, {"digit": 1.0, "dark": 1.0})
    same = changes.changed(before, before, "smile")
    assert same.wanted == 0 and same.unwanted_mean == 0
    none = changes.changed({"smile": before["smile"][4:]}, {"smile": after["smile"][4:]}, "smile")
    assert none.images == 0 and np.isnan([none.wanted, none.unwanted_mean]).all()


def test_to_become_a_third_value_is_unwanted():
    digits = np.array([1, 2, 3, 7, 7]), np.array([7, 2, 9, 7, 4])
    before, after = ({"7": found == 7, "digit": found} for found in digits)
    found = changes.changed(before, after, "7", value_of="digit")
    assert found == (3, pytest.approx(1 / 3), {"digit": pytest.approx(1 / 3)})
    lost = changes.changed(before, after, "7", gained=False, value_of="digit")
    assert lost == (2, 0.5, {})


@pytest.mark.parametrize("name", ["other", "smile"])
def test_readings_of_other_images_are_refused(name):
    before, after = {"smile": np.zeros(3, bool)}, {"smile": np.zeros(3 + (name == "smile"), bool)}
    with pytest.raises(UsageError, match="expected the same"):
        changes.changed(before, after, name)


def test_a_random_direction_is_as_long_and_of_no_use():
    like = np.arange(1.0, 65.0)
    found = np.array([changes.random_direction(like, seed) for seed in range(200)])
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), np.linalg.norm(like))
    cosines = found @ like / np.square(np.linalg.norm(like))
    # The cosine of a uniform direction in D dimensions has variance 1 / D.
    assert abs(cosines.mean()) < 5 / np.sqrt(64 * 200)
    assert cosines.std() == pytest.approx(1 / 8, rel=0.25)


def stroke(width, length, shear=0.0, size=64):
    """A stroke through the middle, with edges as grey as the part of a pixel that they cover."""
    at = (np.arange(4 * size) + 0.5) / 4 - size / 2
    up, right = -at[:, None], at[None, :]
    inside = (np.abs(right - shear * up) < width / 2) & (np.abs(up) < length / 2)
    return inside.reshape(size, 4, size, 4).mean((1, 3))


@pytest.mark.parametrize("width", [2.0, 3.0, 5.0])
def test_the_width_of_a_stroke(width):
    length = 50.0
    found = strokes.width(np.stack([stroke(width, length), stroke(width, length).T]))
    np.testing.assert_allclose(found, width * length / (width + length), rtol=0.03)


def test_a_wider_stroke_is_wider_at_any_slant():
    found = [strokes.width(stroke(w, 40.0, s)[None])[0] for s in (0.0, 0.3, 0.6) for w in (2, 3, 5)]
    found = np.reshape(found, (3, 3))
    assert (np.diff(found, axis=1) > 0.5).all()
    # Measured across the stroke, not along a row of pixels.
    np.testing.assert_allclose(found[2], found[0] / np.hypot(1, 0.6), rtol=0.08)


@pytest.mark.parametrize("shear", [-0.5, 0.0, 0.25, 0.8])
def test_slant_is_the_shear(shear):
    image = stroke(4.0, 40.0, shear)
    assert strokes.slant(image[None])[0] == pytest.approx(shear, abs=0.01)
    assert strokes.slant(image[None, ..., None])[0] == strokes.slant(image[None])[0]
    moved = np.roll(image, (5, -7), (0, 1))
    assert strokes.slant(moved[None])[0] == pytest.approx(shear, abs=0.01)


def test_a_black_image_has_no_stroke():
    black = np.zeros((1, 8, 8))
    assert strokes.width(black)[0] == 0 and strokes.slant(black)[0] == 0
