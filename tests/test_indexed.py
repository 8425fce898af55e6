"""Sources of examples by number: like arrays, but that no more than is needed is asked for."""

import numpy as np
import pytest
from PIL import Image

import flaxvae as fv
from conftest import TINY, rare
from flaxvae.data import sources
from flaxvae.data.indexed import Indexed
from flaxvae.errors import DataError

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (60, 6, 5, 1), np.uint8)
Y = np.arange(60) % 3


class Source:
    """Gives examples, and notes which were asked for."""

    def __init__(self, example, count=60):
        self.example, self.count, self.asked = example, count, []

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        self.asked.append(i)
        return self.example(i)


FORMS = {
    "image": lambda i: X[i],
    "grey": lambda i: X[i, ..., 0],
    "pair": lambda i: (X[i], Y[i]),
    "mapping": lambda i: {"image": X[i], "label": int(Y[i]), "id": "a"},
    "picture": lambda i: {"image": Image.fromarray(X[i, ..., 0]), "label": np.int64(Y[i])},
}


@pytest.mark.parametrize("form", FORMS)
def test_as_arrays_are(form):
    labelled = form not in ("image", "grey")
    data = sources.from_arrays(Source(FORMS[form]))
    same = sources.from_arrays((X, Y) if labelled else X)
    for part, other in ((data.train, same.train), (data.test, same.test)):
        images, expected = part.x[:], other.x
        order, wanted = (np.lexsort(x.reshape(len(x), -1).T) for x in (images, expected))
        np.testing.assert_array_equal(images[order], expected[wanted])
        assert (part.y is None) == (not labelled)
        if labelled:
            np.testing.assert_array_equal(part.y[order], other.y[wanted])
    assert data.peak == same.peak == 255 and data.classes == same.classes


def test_only_what_is_needed_is_asked_for():
    source = Source(FORMS["pair"])
    data = sources.from_arrays(source)
    assert (
        sorted(set(source.asked)) == list(range(60)) and len(source.asked) == 61
    )  # the first twice
    source.asked.clear()
    data.train.x[np.array([3, 1])]
    assert len(source.asked) == 2


def test_parts():
    data = sources.from_arrays({
        "train": Source(lambda i: X[i], 40),
        "validation": Source(lambda i: X[40 + i], 10),
        "test": Source(lambda i: X[50 + i], 10),
    })  # fmt: skip
    found = [data.train.x[:], data.validation.x[:], data.test.x[:]]
    np.testing.assert_array_equal(np.concatenate(found), X)


def test_channels_first_and_signed_floats_as_pytorch_has_them():
    colours = RNG.uniform(-1, 1, (20, 3, 8, 6)).astype(np.float32)
    data = sources.from_arrays(Source(lambda i: (colours[i], i % 2), 20))
    assert data.train.x.shape == (18, 8, 6, 3) and data.signed
    both = np.concatenate([data.train.x[:], data.test.x[:]])
    whole = (np.moveaxis(colours, 1, -1) + 1) / 2
    assert sorted(x.tobytes() for x in both) == sorted(x.tobytes() for x in whole)


@pytest.mark.parametrize("placement", rare(["device", "stream"], "stream"))
def test_the_same_training_as_of_an_array(tmp_path, no_figures, placement):
    """Streamed or not, to the bit, as users' programs are compiled."""
    given = {"x_train": X[:50], "x_test": X[50:]}
    parts = {"train": Source(lambda i: X[i], 50), "test": Source(lambda i: X[50 + i], 10)}
    shared = {key: value for key, value in TINY.items() if key != "dataset"}
    shared |= {"epochs": 2, "batch_size": 16, "progress": False}
    runs = [
        fv.train(data, run=str(tmp_path / f"{i}"), data_placement=placement, **shared)
        for i, (data, placement) in enumerate([(given, "device"), (parts, placement)])
    ]
    assert len({run.folder.finished()["variables_sha256"] for run in runs}) == 1


def test_with_grain():
    grain = pytest.importorskip("grain")
    data = grain.MapDataset.source(np.arange(60)).map(lambda i: {"image": X[i], "label": Y[i]})
    found = sources.from_arrays(data)
    np.testing.assert_array_equal(
        np.sort(found.train.y), np.sort(sources.from_arrays(Source(FORMS["pair"])).train.y)
    )
    assert len(found.train.x) == 54


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (Source(FORMS["image"], 0), "no examples"),
        (Source(lambda i: "text"), "example 0 is .*expected an image"),
        (Source(lambda i: {"picture": X[i]}), "example 0 has picture; expected one of image"),
        (
            Source(lambda i: X[i] if i < 7 else X[i][:5]),
            r"example \d+ is uint8 of shape \(5, 5, 1\)",
        ),
        (Source(lambda i: X[i] * (1.0 if i == 9 else 1)), "example 9 is float64"),
        (Source(lambda i: X[i] * np.float32(np.nan)), "NaN or infinite, the first at index"),
        ({"x": Source(FORMS["image"])}, "sources called x: expected train"),
    ],
)
def test_refused(source, words):
    with pytest.raises(DataError, match=words):
        sources.from_arrays(source)


def test_what_a_source_raises_is_raised_as_it_is():
    def broken(i):
        if i == 30:
            raise RuntimeError("no such record")
        return X[i]

    with pytest.raises(RuntimeError, match="no such record"):
        sources.from_arrays(Source(broken))
    assert Indexed(Source(broken), "mine")[np.array([2])].shape == (1, 6, 5, 1)
