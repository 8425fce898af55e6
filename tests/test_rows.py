"""Views of rows: as an array's, and nothing is read before it is asked for."""

import tracemalloc

import numpy as np
import pytest

from flaxvae.data import rows, sources
from flaxvae.data.rows import Rows
from flaxvae.errors import DataError

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


def large(monkeypatch, at_once=700):
    """From here on all files count as large ones, and are gone through a few rows at a time."""
    monkeypatch.setattr(rows, "IN_MEMORY", 100)
    monkeypatch.setattr(rows, "AT_ONCE", at_once)


BYTES = np.random.default_rng(0).integers(0, 256, (50, 6, 5), np.uint8)
KINDS = {
    "bytes": BYTES,
    "16 bits": BYTES * np.uint16(257),
    "floats": BYTES / 255,
    "float32": (BYTES / 255).astype(np.float32),
    "-1 to 1": BYTES / 127.5 - 1,
    "whole floats": BYTES * 1.0,
    "channels first": np.stack([BYTES] * 3, 1),
    "Fortran order": np.asfortranarray(BYTES),
    "bool": BYTES > 99,
}


@pytest.mark.parametrize("ending", ["npy", "npz"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_large_file_gives_views_of_the_same_images(tmp_path, monkeypatch, kind, ending):
    path, x, y = str(tmp_path / f"x.{ending}"), KINDS[kind], np.arange(50) % 3
    np.save(path, x) if ending == "npy" else np.savez(path, x=x, y=y)
    whole = sources.load(path)
    large(monkeypatch)
    seen = sources.load(path)
    order = np.random.RandomState(0).permutation(50)
    parts = (seen.train, whole.train, order[5:]), (seen.test, whole.test, order[:5])
    for part, before, which in parts:
        assert isinstance(part.x, Rows) and isinstance(before.x, np.ndarray)
        ordered = np.argsort(which)  # as in the file
        np.testing.assert_array_equal(part.x[:], before.x[ordered])
        assert part.x.dtype == before.x.dtype and part.x.shape == before.x.shape
        if ending == "npz":
            np.testing.assert_array_equal(part.y, before.y[ordered])
    assert (seen.peak, seen.notes, seen.signed) == (whole.peak, whole.notes, whole.signed)


def test_a_large_file_is_never_read_whole(tmp_path, monkeypatch):
    size = 2 * 10**7
    np.save(tmp_path / "x.npy", np.zeros((size // 100, 10, 10), np.uint8))
    np.savez(tmp_path / "x.npz", x=np.load(tmp_path / "x.npy"))
    large(monkeypatch, 10**5)
    for name in ("x.npy", "x.npz"):
        tracemalloc.start()
        data = sources.load(str(tmp_path / name))
        assert len(data.train.x[:1000]) == 1000
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < size / 2  # the order of the rows is 8 bytes of 100


def test_what_is_wrong_in_a_large_file_is_said_as_of_a_small_one(tmp_path, monkeypatch):
    large(monkeypatch)
    x = BYTES / 255
    x[37, 2, 1] = x[41, 0, 0] = np.nan
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(DataError, match=r"hold 2 values that are NaN .* index \(37, 2, 1\)"):
        sources.load(str(tmp_path / "x.npy"))
    np.save(tmp_path / "x.npy", np.array([BYTES[0], BYTES[1, 1:]], object))
    with pytest.raises(DataError, match="pickle"):
        sources.load(str(tmp_path / "x.npy"))
    np.savez(tmp_path / "x.npz", x=np.array([BYTES[0], BYTES[1, 1:]], object))
    with pytest.raises(DataError, match="pickle"):
        sources.load(str(tmp_path / "x.npz"))
    np.save(tmp_path / "x.npy", BYTES)
    raw = (tmp_path / "x.npy").read_bytes()
    (tmp_path / "x.npy").write_bytes(raw[:-1])
    with pytest.raises(DataError, match="cannot be read"):
        sources.load(str(tmp_path / "x.npy"))
