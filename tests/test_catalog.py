"""tfds:NAME, the datasets of tensorflow-datasets, prepared here and read as pictures are."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flaxvae.data import catalog, sources, tfds
from flaxvae.errors import DataError, UsageError
from flaxvae.settings import DataSettings

pytest.importorskip("tensorflow_datasets")
pytest.importorskip("array_record")

COUNTS = {"train": 20, "validation": 4, "test": 6, "extra": 3}


def picture(split, i, levels=256):
    rng = np.random.default_rng([i, *split.encode()])
    return rng.integers(0, levels, (9 + i % 2, 8, 1), dtype=np.uint8)


def drawn(pixels):
    return Image.fromarray(pixels[..., 0])  # Pillow encodes it, and not TensorFlow


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Three datasets: pictures of cats and dogs; of two levels, in one split; and words."""
    import tensorflow_datasets

    features, core = tensorflow_datasets.features, tensorflow_datasets.core
    path = str(tmp_path_factory.mktemp("tfds"))

    def made(called, counts, columns, example):
        class Builder(core.GeneratorBasedBuilder, skip_registration=True):
            name, VERSION = called, core.Version("1.2.0")

            def _info(self):
                return core.DatasetInfo(builder=self, features=features.FeaturesDict(columns))

            def _split_generators(self, dl_manager):
                return {split: self._generate_examples(split) for split in counts}

            def _generate_examples(self, split):
                yield from ((i, example(split, i)) for i in range(counts[split]))

        with tfds._quiet():
            Builder(data_dir=path, file_format="array_record").download_and_prepare()

    image, text = features.Image(shape=(None, None, 1)), features.Text()
    label = features.ClassLabel(names=["cat", "dog"])
    made(
        "pets",
        COUNTS,
        {"image": image, "label": label, "id": text},
        lambda split, i: {"image": drawn(picture(split, i)), "label": i % 2, "id": f"{split}{i}"},
    )
    made(
        "shapes",
        {"train": 30},
        {"image": features.Image(shape=(8, 8, 1)), "label_x": label, "label_y": label},
        lambda split, i: {
            "image": drawn(picture(split, 0, 2)[:8] * (i % 3 > 0)),
            "label_x": i % 2,
            "label_y": 0,
        },
    )
    made("words", {"train": 3}, {"text": text}, lambda split, i: {"text": str(i)})
    return path


@pytest.fixture(autouse=True)
def of_home(home, monkeypatch):
    from tensorflow_datasets.core import constants

    monkeypatch.setattr(constants, "DATA_DIR", home)


def test_pictures_with_their_splits_and_classes(capfd):
    data = sources.load("tfds:pets", settings=DataSettings(image_size="9x8", resize="stretch"))
    assert capfd.readouterr() == ("", "")
    parts = {"train": data.train, "validation": data.validation, "test": data.test}
    assert {name: len(part.x) for name, part in parts.items()} == {
        name: count for name, count in COUNTS.items() if name in parts
    }
    assert data.names == ("cat", "dog") and data.classes == 2 and data.peak == 255
    assert "splits left out: extra" in data.notes
    assert data.train.files[:2] == ["train/00000", "train/00001"]
    # Records are shuffled: the pictures are those that went in, each with its class.
    for name, part in parts.items():
        whole = {picture(name, i).tobytes(): i % 2 for i in range(0, COUNTS[name], 2)}
        found = [(x.tobytes(), label) for x, label in zip(part.x, part.y, strict=True)]
        kept = dict(pair for pair in found if pair[0] in whole)
        assert kept == {key: ["cat", "dog"][label] for key, label in whole.items()}


@pytest.mark.parametrize("name", ["pets:1.2.0", "pets:1.*.*"])
def test_a_version(name):
    assert len(sources.load(f"tfds:{name}").test.x) == COUNTS["test"]
    assert sources.called(f"tfds:{name}") == "pets" and not sources.is_path(f"tfds:{name}")


def test_one_split_and_two_levels():
    data = sources.load("tfds:shapes")
    assert data.peak == 1 and data.train.x.max() == 1
    assert len(data.train.x) + len(data.test.x) + len(data.validation.x) == 30
    notes = " ".join(data.notes)
    assert "5 % for validation and 5 % for test by file name" in notes
    assert "1 is taken for white" in notes and "without labels: 2 kinds of them" in notes
    assert data.preprocessing.peak == 1


def test_pictures_of_two_levels_are_read_as_others_have_them(tmp_path):
    """Black and white are 0 and 1 there, 0 and 255 in other files: a model sees the same."""
    from flaxvae.data import folder

    how = sources.load("tfds:shapes").preprocessing
    levels = picture("mine", 0, 2)[:8, :, 0]
    for name, image in (("a", levels), ("b", levels * 255), ("c", levels * 0)):
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    a, b, c = folder.read(str(tmp_path), how).x
    np.testing.assert_array_equal(a[..., 0], levels)
    np.testing.assert_array_equal(a, b)
    assert not c.any()


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("pet", UsageError, "no such dataset.*did you mean 'pets'"),
        ("", UsageError, "expected tfds:NAME"),
        ("../pets", UsageError, "expected tfds:NAME"),
        ("words", DataError, "tfds:words has no pictures .text."),
        ("pets:9.9.9", DataError, "pets: cannot be read"),
    ],
)
def test_refused(name, error, words):
    with pytest.raises(error, match=words):
        sources.load(f"tfds:{name}")


def test_what_is_not_prepared_and_cannot_be(monkeypatch):
    monkeypatch.setattr(tfds, "_reachable", lambda url: False)
    with pytest.raises(DataError, match=r"cifar10: not prepared, and www.cs.toronto.edu cannot"):
        sources.load("tfds:cifar10")


@pytest.mark.parametrize(
    ("name", "words"),
    [("pets", "pets: cannot be read .*no record of"), ("shapes", "none of its 30 .*no record of")],
)
def test_records_that_end_too_early(home, name, words):
    records = next(Path(home, name).rglob("*train.array_record*"))
    raw = records.read_bytes()
    records.write_bytes(raw[: len(raw) // 2])
    try:
        with pytest.raises(DataError, match=words):
            sources.load(f"tfds:{name}")
    finally:
        records.write_bytes(raw)


def test_names():
    assert catalog.called("tfds:imagenette/320px:1.0.0") == "imagenette"
