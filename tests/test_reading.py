"""Rows of a file are read, not mapped: the same ones, in memory that does not grow."""

import os
import re
import subprocess
import sys
import threading

import numpy as np
import pytest

from flaxvae.data import images, pipeline, reading, rows, sources
from flaxvae.data.pipeline import Split
from flaxvae.data.rows import Rows
from flaxvae.errors import DataError, UsageError
from flaxvae.settings import DataSettings

X = np.random.default_rng(0).integers(0, 60_000, (50, 4, 3), np.uint16)


@pytest.fixture
def path(tmp_path):
    np.save(tmp_path / "x.npy", X)
    return tmp_path / "x.npy"


@pytest.fixture
def mapped(path):
    return np.load(path, mmap_mode="r")


INDICES = [
    slice(None),
    slice(3, 40, 7),
    slice(10, 0, -3),
    slice(4, 4),
    np.array([3, 4, 5, 49, 0, 0, 1, -1]),
    np.arange(50) % 3 == 0,
    [2, 3],
    np.zeros(0, int),
]


@pytest.mark.parametrize("which", INDICES, ids=str)
def test_rows_of_a_file_are_those_of_the_array(mapped, which):
    for part in (slice(None), slice(20, 45), slice(49, 50)):
        whole, expected = reading.reader(mapped[part]), X[part]
        if np.size(which) == 0 or not isinstance(which, np.ndarray | list) or len(expected) == 50:
            assert isinstance(whole, reading.File)
            np.testing.assert_array_equal(whole[which], expected[which])
    assert whole.shape == (1, 4, 3) and whole.dtype == X.dtype


def test_what_cannot_be_read_as_a_file_stays_an_array(path, mapped):
    private = np.load(path, mmap_mode="c")
    private[0] = 7
    for array in (X, mapped[::2], mapped[:, :1], mapped[:0], private):
        assert reading.reader(array) is array
    np.testing.assert_array_equal(Rows(private)[[0]], private[:1])


def test_an_index_that_is_out_of_range(mapped):
    for which in ([50], [-51]):
        with pytest.raises(IndexError):
            reading.reader(mapped)[which]


def test_a_file_that_has_become_shorter_is_one_line(path, mapped):
    found = reading.reader(mapped)
    os.truncate(path, path.stat().st_size - 30)
    np.testing.assert_array_equal(found[:40], X[:40])
    with pytest.raises(DataError, match="has become shorter") as caught:
        found[np.array([3, 49])]
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_threads_may_read_at_once(mapped):
    found, seen = reading.reader(mapped), []
    order = np.random.default_rng(1).permutation(50)
    threads = [threading.Thread(target=lambda: seen.append(found[order])) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 8 and all((x == X[order]).all() for x in seen)


GROWS = """
import resource, sys
import numpy as np
from flaxvae.data.rows import Rows, chunks
x = Rows(np.load(sys.argv[1], mmap_mode="r"))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
order = np.random.default_rng(0).permutation(len(x))
total = sum(int(part.sum()) for part in chunks(x))
for i in range(0, len(x), 512):
    total -= int(x[order[i : i + 512]].sum())
print(total, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has another unit elsewhere")
def test_memory_does_not_hold_what_was_read(tmp_path):
    file = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.uint8, (40_000, 4096))
    file[::7] = 1
    file.flush()
    command = [sys.executable, "-c", GROWS, str(tmp_path / "x.npy")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    total, grown = map(int, done.stdout.split())
    assert total == 0 and grown < file.nbytes / 2


# ---- what a pipeline makes of rows that are not in memory


GREY = np.random.default_rng(2).integers(0, 256, (700, 5, 4, 1), np.uint8)


@pytest.fixture
def source(tmp_path, monkeypatch):
    """``source(large)``: a dataset whose images are in memory, or views of a file."""
    np.save(tmp_path / "grey.npy", GREY)

    def given(large):
        monkeypatch.setattr(rows, "IN_MEMORY", 0 if large else 2**30)
        monkeypatch.setattr(rows, "AT_ONCE", 64 * 20)  # many chunks
        x = np.load(tmp_path / "grey.npy", mmap_mode="r") if large else GREY
        parts = sources.Part(x[:600]), sources.Part(x[600:])
        found = sources.Dataset("grey", *parts, 255.0, None, "drawn here")
        monkeypatch.setattr(sources, "load", lambda *_: found)

    return given


@pytest.mark.parametrize("how", ["none", "dynamic", "fixed", "threshold"])
def test_data_are_the_same_in_memory_and_in_a_file(source, how):
    found = []
    for large in (False, True):
        source(large)
        data = pipeline.prepare(DataSettings("grey", binarization=how, validation=0.1))
        lazy = isinstance(data.train.x, Rows), isinstance(data.test.x, Rows)
        drawn = how in ("dynamic", "fixed")
        assert lazy == (large and how != "fixed", large and not drawn)
        found.append(data)
    small, large = found
    assert small.sha256 == large.sha256 and small.binarization == large.binarization
    for name in ("train", "validation", "test"):
        one, other = getattr(small, name), getattr(large, name)
        assert (one.x.dtype, one.peak) == (other.x.dtype, other.peak)
        np.testing.assert_array_equal(one.x, other.x[:])
        np.testing.assert_array_equal(pipeline.fingerprints(one), pipeline.fingerprints(other))


@pytest.mark.parametrize("first", [0, 3, 2**32 // 20 - 1])
def test_a_part_is_binarized_as_all_would_be(first):
    x, key = GREY[:9] / np.float32(255), pipeline.binarization_key(2)
    part = images.binarize_part(x, "dynamic", key, first)
    assert set(np.unique(part)) == {0, 1}
    if first < 9:
        whole = images.binarize(np.concatenate([np.zeros_like(x[:first]), x]), "dynamic", key)
        np.testing.assert_array_equal(part, whole[first:])
    else:  # beyond 32 bits the numbers do not begin again
        again = images.binarize_part(x, "dynamic", key, 0)
        assert (np.asarray(part)[1:] != np.asarray(again)[:-1]).any()


def test_draws_that_do_not_fit_memory_are_refused(source, monkeypatch):
    source(True)
    monkeypatch.setattr(pipeline.machine, "free_memory", lambda: 2 * 540 * 20 - 1)
    pipeline.prepare(DataSettings("grey", binarization="dynamic", validation=0.1))
    with pytest.raises(UsageError, match="half of the free memory") as caught:
        pipeline.prepare(DataSettings("grey", binarization="fixed", validation=0.1))
    assert re.search("540 images", str(caught.value)) and "\n" not in str(caught.value)


def test_the_digest_is_that_of_the_whole_arrays(monkeypatch):
    import hashlib

    text = np.array(["a", "bc", "d"])
    expected = hashlib.sha256()
    for array in (X, text):
        expected.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    monkeypatch.setattr(rows, "AT_ONCE", 100)
    assert rows.digest([X, text]) == rows.digest([Rows(X), text]) == expected.hexdigest()
    assert rows.digest([Split(X, None, 1.0).x[::2]]) == rows.digest([X[::2].copy()])
