"""Splits: what is held out, and that it stays the same."""

import numpy as np
import pytest

from flaxvae.data import normal, pipeline, sources
from flaxvae.errors import DataError, UsageError
from flaxvae.settings import DataSettings


@pytest.mark.parametrize("count", [1, 2, 3, 5, 6, 12, 1437])
@pytest.mark.parametrize("part", [0, 1e-4, 1 / 12, 0.5, 0.999])
def test_one_image_at_least_is_held_out_and_one_kept(count, part):
    kept, held = pipeline._hold_out(count, part)
    np.testing.assert_array_equal(np.sort([*kept, *held]), np.arange(count))
    assert (len(held) > 0) == (part > 0 and count > 1) and len(kept) > 0
    if 1 <= round(part * count) < count:
        assert len(held) == round(part * count)


@pytest.mark.parametrize("count", [2, 3, 12])
def test_a_few_images_need_no_flags(tmp_path, count):
    """As the command takes them by default: a test image, and a validation image if it can be."""
    path = tmp_path / "few.npy"
    np.save(path, np.linspace(0, 1, count * 16, dtype=np.float32).reshape(count, 4, 4))
    data = pipeline.prepare(DataSettings(str(path)))
    held = 0 if data.validation is None else len(data.validation.x)
    assert (len(data.train.x), held, len(data.test.x)) == (count - 1 - (count > 2), count > 2, 1)
    assert ("only one training image, so no validation images" in data.notes) == (count == 2)


def test_training_on_normal_classes_alone():
    whole = pipeline.prepare(DataSettings("digits"))
    data = pipeline.prepare(DataSettings("digits", normal=("3", "5")))
    assert {*data.train.y.tolist()} == {*data.validation.y.tolist()} == {3, 5}
    np.testing.assert_array_equal(data.test.y, whole.test.y)
    kept = np.isin(sources.load("digits").train.y, (3, 5)).sum()
    assert len(data.train.x) + len(data.validation.x) == kept
    assert f"trained on 3, 5, {1437 - kept:,} examples left out" in data.notes


def test_normal_classes_that_there_are_not():
    digits = sources.load("digits")
    for wrong in (("3", "10"), ("three",)):
        with pytest.raises(UsageError, match="no such class in digits, the classes are 0 to 9"):
            normal.only(digits, wrong)
    unlabelled = digits._replace(train=digits.train._replace(y=None))
    with pytest.raises(UsageError, match="digits has no labels; expected classes"):
        normal.only(unlabelled, ("3",))
    none = digits._replace(train=digits.train._replace(y=np.full(1437, 7)))
    with pytest.raises(DataError, match="no example of 3 to train on"):
        normal.only(none, ("3",))
