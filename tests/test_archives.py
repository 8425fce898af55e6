"""CIFAR-10 and the Frey faces from their files; a pickle runs nothing."""

import os
import pickle
import tarfile

import numpy as np
import pytest

from flaxvae.data import cifar, pipeline, sources
from flaxvae.errors import DataError, UsageError
from flaxvae.settings import DataSettings

RNG = np.random.default_rng(0)
NAMES = [*cifar._TRAIN, "test_batch"]
X = RNG.integers(0, 256, (6, 4, 3072), np.uint8)
Y = np.arange(24).reshape(6, 4) % 10


def write(folder, ending):
    home = folder / ("cifar-10-batches-bin" if ending else "cifar-10-batches-py")
    home.mkdir()
    for name, x, y in zip(NAMES, X, Y):
        rows = np.concatenate([y[:, None].astype(np.uint8), x], 1)
        made = pickle.dumps({b"data": x, b"labels": y.tolist()}, protocol=2)
        (home / (name + ending)).write_bytes(rows.tobytes() if ending else made)
    return home


@pytest.mark.parametrize("archive", [False, True])
@pytest.mark.parametrize("ending", ["", ".bin"])
def test_cifar_comes_back_from_all_of_its_files(tmp_path, ending, archive):
    home = write(tmp_path, ending)
    if archive:
        name = "cifar-10-binary.tar.gz" if ending else "cifar-10-python.tar.gz"
        with tarfile.open(tmp_path / name, "w:gz") as file:
            file.add(home, home.name)
        home.rename(tmp_path / "away")
    data = sources.load("cifar10", str(tmp_path))
    expected = np.moveaxis(X.reshape(6, 4, 3, 32, 32), 2, -1)
    np.testing.assert_array_equal(data.train.x, expected[:5].reshape(20, 32, 32, 3))
    np.testing.assert_array_equal(data.test.x, expected[5])
    assert data.train.y.tolist() == [cifar.CLASSES[i] for i in Y[:5].ravel()]
    assert data.names == tuple(cifar.CLASSES) and data.peak == 255


class Evil:
    def __reduce__(self):
        return os.mkdir, ("made-by-a-pickle",)


def test_a_pickle_that_asks_for_anything_else_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    home = write(tmp_path, "")
    for bad in (Evil(), {b"data": Evil(), b"labels": [1]}, {b"data": X[0] / 2, b"labels": [0] * 4}):
        (home / "data_batch_3").write_bytes(pickle.dumps(bad, protocol=2))
        with pytest.raises(DataError, match="data_batch_3 is not a batch of CIFAR-10") as caught:
            sources.load("cifar10", str(tmp_path))
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "made-by-a-pickle").exists()
    (home / "data_batch_3").unlink()
    with pytest.raises(DataError, match="no data_batch_3 in it"):
        sources.load("cifar10", str(tmp_path))


def test_frey_faces_are_in_the_published_parts(tmp_path):
    x = RNG.integers(0, 256, (1965, 28, 20), np.uint8)
    np.savez(tmp_path / "frey_faces.npz", images=x)
    data = sources.load("frey_faces", str(tmp_path))
    parts = data.train.x, data.validation.x, data.test.x
    assert [len(part) for part in parts] == [1565, 200, 200]
    together = np.concatenate(parts).reshape(1965, -1)
    order = np.random.RandomState(0).permutation(1965)
    np.testing.assert_array_equal(together, x[order].reshape(1965, -1))
    asked = DataSettings("frey_faces", str(tmp_path), validation=0.1)
    with pytest.raises(UsageError, match="has no effect with frey_faces"):
        pipeline.prepare(asked)
    np.savez(tmp_path / "frey_faces.npz", images=x[:9])
    with pytest.raises(DataError, match=r"expected uint8 \(1965, 28, 20\)"):
        sources.load("frey_faces", str(tmp_path))
    with pytest.raises(DataError, match=r"--data-dir DIR|data_dir"):
        sources.load("frey_faces")
