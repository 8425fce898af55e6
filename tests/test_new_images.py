"""A trained model reads new images as those of its training were read."""

import numpy as np
import pytest

import flaxvae as fv
from flaxvae.data import sources
from flaxvae.errors import DataError, UsageError
from flaxvae.trained import Trained

X = np.random.default_rng(0).integers(0, 256, (8, 6, 5, 3), np.uint8)
RECIPE = fv.vae(fv.DataSpec("squares", (6, 5, 3)), body=fv.Body(net="mlp", widths=(4,)))


def read(x, **facts):
    split = Trained(RECIPE, {}, **facts).split(x)
    return split.images()


@pytest.mark.parametrize(
    "given",
    [X, X.astype(float), X / 255, X.astype(np.int64), np.moveaxis(X, -1, 1), X[:1] * 1.0],
    ids=["bytes", "whole floats", "floats", "int64", "channels first", "one"],
)
def test_all_ways_to_write_an_image_are_the_same_image(given):
    np.testing.assert_allclose(read(given, peak=255.0), X[: len(given)] / 255, atol=1e-7)


def test_floats_below_0_are_those_of_training_or_refused():
    given = X / 127.5 - 1
    data = sources.from_arrays(given)
    assert data.signed and not sources.from_arrays(X).signed
    expected = (given.astype(np.float32) + 1) / 2
    np.testing.assert_allclose(read(given, peak=1.0, signed=True), expected, atol=1e-6)
    np.testing.assert_allclose(read(X / 255, peak=1.0, signed=True), X / 255, atol=1e-6)
    with pytest.raises(DataError, match=r"use \(x \+ 1\) / 2"):
        read(given, peak=1.0)
    with pytest.raises(DataError, match="expected 0 to 1"):
        read(1.5 * given, peak=1.0, signed=True)


def test_what_could_be_another_image_is_refused():
    for given in (X + 0.5, X.astype(np.int16) - 1, X.astype(np.uint16) * 2):
        with pytest.raises(DataError, match="expected 0 to"):
            read(given, peak=255.0)
    with pytest.raises(DataError, match=r"NaN or infinite, the first at index \(1, 2, 3, 0\)"):
        read(np.where(np.arange(X.size).reshape(X.shape) == 90 + 2 * 15 + 9, np.nan, 0.5))
    with pytest.raises(UsageError, match=r"expected \[N, 6, 5, 3\]"):
        read(X.reshape(8, 5, 6, 3))
