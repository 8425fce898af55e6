"""Views of rows: as an array's, and nothing is read before it is asked for."""

import numpy as np
import pytest

from flaxvae.data import rows
from flaxvae.data.rows import Rows

X = np.arange(60, dtype=np.uint16).reshape(10, 3, 2)
SOME = np.array([7, 2, 2, 9])


@pytest.mark.parametrize("which", [slice(None), slice(3, 8, 2), SOME, X[:, 0, 0] > 20, SOME[:0]])
def test_rows_are_those_of_the_array(which):
    view = Rows(X)
    for seen in (view[which], view.taken(which)[:]):
        np.testing.assert_array_equal(seen, X[which])
    order = np.random.default_rng(0).permutation(10)
    np.testing.assert_array_equal(view.taken(order)[which], X[order][which])
    assert view.taken(order).shape == view.shape == X.shape and view.nbytes == X.nbytes


def test_rows_are_converted_as_they_are_read():
    view = Rows(X, SOME, lambda x: (x / 59).astype(np.float32)[..., None])
    assert (view.shape, view.dtype, len(view)) == ((4, 3, 2, 1), np.float32, 4)
    np.testing.assert_array_equal(view[1:3][..., 0], (X[SOME] / 59).astype(np.float32)[1:3])


def test_rows_never_come_all_at_once_by_accident():
    for mistake in (np.asarray, lambda x: x[0], lambda x: x + 1):
        with pytest.raises(TypeError, match=r"rows|unsupported"):
            mistake(Rows(X))


def test_what_is_read_can_be_written_and_the_file_cannot(tmp_path):
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    for which in (slice(0, 2), SOME):
        Rows(mapped)[which][:] = 0
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), X)


def test_only_of_a_large_memory_map_is_a_view_taken(tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert isinstance(rows.taken(mapped, SOME), np.ndarray)
    monkeypatch.setattr(rows, "IN_MEMORY", 10)
    assert isinstance(rows.taken(mapped, SOME), Rows)
    assert isinstance(rows.taken(X, SOME), np.ndarray)
    np.testing.assert_array_equal(rows.taken(rows.taken(mapped, SOME), np.array([1]))[:], X[[2]])


def test_chunks_are_all_rows_in_order(monkeypatch):
    monkeypatch.setattr(rows, "AT_ONCE", 30)  # two rows of 12 bytes
    seen = [*rows.chunks(Rows(X, SOME))]
    assert [len(part) for part in seen] == [2, 2]
    np.testing.assert_array_equal(np.concatenate(seen), X[SOME])
