"""Sources: what was written comes back, and what is damaged is refused in one line."""

import gzip
import os
import shutil
import socket
import subprocess
import sys
import time
import tracemalloc
import zipfile

import numpy as np
import pytest

from flaxvae.data import idx, sources, tfds
from flaxvae.data.pipeline import Split
from flaxvae.errors import DataError, UsageError

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (20, 6, 5), np.uint8)
Y = np.arange(20) % 3
X_TEST = RNG.integers(0, 256, (4, 6, 5), np.uint8)
Y_TEST = np.arange(4) % 3


@pytest.fixture(autouse=True)
def no_data_dir(monkeypatch):
    monkeypatch.delenv("FLAXVAE_DATA_DIR", raising=False)


def to_idx(a):
    header = bytes([0, 0, 8, a.ndim]) + np.array(a.shape, ">u4").tobytes()
    return header + a.astype(np.uint8).tobytes()


def write_idx(folder, arrays=(X, Y, X_TEST, Y_TEST), suffix="", dot="-"):
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in zip(idx.FILES, arrays):
        raw = to_idx(array)
        path = folder / (name.replace("-idx", f"{dot}idx") + suffix)
        path.write_bytes(gzip.compress(raw) if suffix else raw)
    return folder


def refused(dataset, data_dir=None, error=DataError):
    """The message with which ``load`` refuses, which must be one line."""
    with pytest.raises(error) as caught:
        sources.load(str(dataset), data_dir and str(data_dir))
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- digits and names


def test_digits_are_all_of_scikit_learns_once():
    from sklearn.datasets import load_digits

    data, whole = sources.load("digits"), load_digits()
    assert data.train.x.shape == (1437, 8, 8, 1) and data.test.x.shape == (360, 8, 8, 1)
    assert data.train.x.dtype == np.uint8 and data.train.y.dtype == np.int32
    assert (data.peak, data.classes) == (16.0, 10)

    def rows(x, y):
        return sorted(zip(map(bytes, x.reshape(-1, 64).astype(np.uint8)), y.tolist()))

    x, y = np.concatenate([data.train.x, data.test.x]), np.concatenate([data.train.y, data.test.y])
    assert rows(x, y) == rows(whole.images, whole.target)
    assert x.sum() == whole.images.sum()
    np.testing.assert_array_equal(data.train.x, sources.load("digits").train.x)


def test_unknown_name_gets_a_suggestion_and_the_list():
    message = refused("fashion_mnits", error=UsageError)
    assert "did you mean 'fashion_mnist'?" in message
    assert all(name in message for name in sources.SOURCES)


def test_importing_sources_imports_nothing_heavy():
    code = (
        "import sys, flaxvae.data.sources; "
        "print([m for m in ('jax', 'sklearn', 'tensorflow_datasets', 'PIL') if m in sys.modules])"
    )
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert seen.stdout.strip() == "[]", seen.stderr


# ---- IDX


@pytest.mark.parametrize("inside", [True, False], ids=["sub-folder", "folder"])
@pytest.mark.parametrize(("suffix", "dot"), [("", "-"), (".gz", "-"), ("", "."), (".gz", ".")])
def test_idx_comes_back(tmp_path, suffix, dot, inside):
    home = write_idx(tmp_path / "kmnist" if inside else tmp_path, suffix=suffix, dot=dot)
    data = sources.load("kmnist", str(tmp_path))
    np.testing.assert_array_equal(data.train.x, X[..., None])
    np.testing.assert_array_equal(data.test.x, X_TEST[..., None])
    np.testing.assert_array_equal(data.train.y, Y)
    np.testing.assert_array_equal(data.test.y, Y_TEST)
    assert data.train.x.dtype == np.uint8 and data.train.y.dtype == np.int32
    assert (data.name, data.peak, data.classes) == ("kmnist", 255.0, 3)
    assert str(home) in data.origin


def test_the_sub_folder_and_the_argument_win(tmp_path, monkeypatch):
    write_idx(tmp_path / "a", (X, Y, X_TEST, Y_TEST))
    write_idx(tmp_path / "a" / "mnist", (X[::-1], Y, X_TEST, Y_TEST))
    write_idx(tmp_path / "b", (X // 2, Y, X_TEST, Y_TEST))
    monkeypatch.setenv("FLAXVAE_DATA_DIR", str(tmp_path / "b"))
    np.testing.assert_array_equal(sources.load("mnist").train.x[..., 0], X // 2)
    chosen = sources.load("mnist", str(tmp_path / "a"))
    np.testing.assert_array_equal(chosen.train.x[..., 0], X[::-1])


IDX_DAMAGE = {
    "cut": (0, lambda raw: raw[:-7], "bytes of data"),
    "longer": (0, lambda raw: raw + b"\0", "bytes of data"),
    "cut in the header": (0, lambda raw: raw[:9], "magic number"),
    "empty file": (2, lambda raw: b"", "magic number"),
    "labels as images": (0, lambda raw: to_idx(Y), "0x00000801"),
    "wrong magic": (1, lambda raw: b"<htm" + raw[4:], "0x3c68746d"),
    "cut gz": (2, lambda raw: gzip.compress(raw)[:-20], "cannot be read"),
    "flipped gz": (2, lambda raw: gzip.compress(raw)[:-6] + b"\1\2\3\4\5\6", "cannot be read"),
    "fewer labels": (1, lambda raw: to_idx(Y[:-1]), "19 labels"),
}


@pytest.mark.parametrize("damage", IDX_DAMAGE)
def test_damaged_idx(tmp_path, damage):
    at, spoil, said = IDX_DAMAGE[damage]
    path = write_idx(tmp_path) / idx.FILES[at]
    path.write_bytes(spoil(path.read_bytes()))
    message = refused("mnist", tmp_path)
    assert path.name in message and str(tmp_path) in message and said in message


def test_missing_idx_names_folder_and_file_and_never_downloads(tmp_path, monkeypatch):
    monkeypatch.setattr(tfds, "read", lambda dataset: pytest.fail("fell through to TFDS"))
    message = refused("mnist", tmp_path / "nowhere")
    assert "no such folder" in message
    (write_idx(tmp_path) / idx.FILES[3]).unlink()
    message = refused("mnist", tmp_path)
    assert f"{tmp_path}: no {idx.FILES[3]}" in message
    monkeypatch.setenv("FLAXVAE_DATA_DIR", str(tmp_path))
    assert refused("mnist") == message


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("dot", ["-", "."])
def test_idx_by_path(tmp_path, suffix, dot):
    """The labels and the test images lie beside the training images."""
    home = write_idx(tmp_path, suffix=suffix, dot=dot)
    names = [name.replace("-idx", f"{dot}idx") + suffix for name in idx.FILES]
    images, labels, test, test_labels = (home / name for name in names)
    data = sources.load(str(images))
    np.testing.assert_array_equal(data.train.x, X[..., None])
    np.testing.assert_array_equal(data.train.y, Y)
    np.testing.assert_array_equal(data.test.x, X_TEST[..., None])
    np.testing.assert_array_equal(data.test.y, Y_TEST)
    shown = sources.read_images(test)
    np.testing.assert_array_equal(shown.x, X_TEST)
    np.testing.assert_array_equal(shown.y, Y_TEST)
    labels.unlink(), test_labels.unlink(), test.unlink()
    alone = sources.load(str(images))
    assert alone.classes is None and len(alone.train.x) == 18 and len(alone.test.x) == 2


def test_idx_by_path_that_cannot_be(tmp_path):
    home = write_idx(tmp_path, (X, Y[:5], X_TEST, Y_TEST))
    assert "20 images, but 5 labels" in refused(home / idx.FILES[0])
    assert "expected the magic number 0x00000803" in refused(home / idx.FILES[1])
    (home / "photographs.idx").write_bytes(b"\x89PNG")
    assert "begins with 0x89504e47" in refused(home / "photographs.idx")
    assert "No such file" in refused(home / "missing.idx.gz")


def test_idx_without_images_or_with_other_test_images(tmp_path):
    write_idx(tmp_path / "a", (X[:0], Y[:0], X_TEST, Y_TEST))
    assert "(0, 6, 5)" in refused("mnist", tmp_path / "a")
    write_idx(tmp_path / "b", (X, Y, X_TEST[:, 1:], Y_TEST))
    assert "(5, 5, 1)" in refused("mnist", tmp_path / "b")


# ---- NumPy files


@pytest.mark.parametrize(
    ("x", "shape", "dtype", "peak"),
    [
        (X, (6, 5, 1), np.uint8, 255.0),
        (np.stack([X] * 3, -1), (6, 5, 3), np.uint8, 255.0),
        (X.reshape(20, 30).astype(np.int64), (30,), np.uint8, 255.0),
        (X > 128, (6, 5, 1), np.uint8, 1.0),
        (X / 255, (6, 5, 1), np.float32, 1.0),
        ((X / 255).astype(">f2"), (6, 5, 1), np.float32, 1.0),
    ],
    ids=["bytes", "colour", "integer vectors", "bool", "float64", "big-endian float16"],
)
@pytest.mark.parametrize("key", ["x_train", "images", "data", "x", None])
def test_numpy_file_comes_back_with_a_tenth_held_out(tmp_path, x, shape, dtype, peak, key):
    path = tmp_path / ("faces.npz" if key else "faces.npy")
    if key:
        np.savez(path, **{key: x})
    else:
        np.save(path, x)
    data = sources.load(str(path))
    assert data.train.x.shape == (18, *shape) and data.test.x.shape == (2, *shape)
    assert data.train.x.dtype == data.test.x.dtype == dtype
    assert (data.name, data.peak, data.origin) == ("faces", peak, str(path))
    assert data.train.y is data.test.y is data.classes is None
    whole = np.concatenate([data.train.x, data.test.x]).reshape(20, -1)
    np.testing.assert_array_equal(
        np.sort(whole, axis=0), np.sort(x.reshape(20, -1).astype(dtype), axis=0)
    )
    np.testing.assert_array_equal(data.test.x, sources.load(str(path)).test.x)


@pytest.mark.parametrize("key", ["y_train", "labels", "y"])
def test_labels_stay_with_their_images(tmp_path, key):
    y = X[:, 0, 0].astype(np.uint16) // 100
    np.savez_compressed(tmp_path / "a.npz", x=X, **{key: y})
    data = sources.load(str(tmp_path / "a.npz"))
    np.testing.assert_array_equal(data.train.y, data.train.x[:, 0, 0, 0] // 100)
    np.testing.assert_array_equal(data.test.y, data.test.x[:, 0, 0, 0] // 100)
    assert data.classes == 3 and data.train.y.dtype == np.int32 and data.names is None


def test_test_images_of_the_file_are_taken(tmp_path):
    path = tmp_path / "a.npz"
    about = np.array({"any": "object"})  # under a key of no concern: must not stand in the way
    np.savez(path, x_train=X, y_train=Y, x_test=X_TEST, y_test=Y_TEST, about=about)
    data = sources.load(str(path))
    wanted = (X[..., None], Y, X_TEST[..., None], Y_TEST)
    for seen, expected in zip((*data.train[:2], *data.test[:2]), wanted):
        np.testing.assert_array_equal(seen, expected)


NAN = np.where(np.arange(600).reshape(20, 6, 5) == 37, np.nan, 0.5)
NPZ_REFUSED = {
    "no images": ({"pictures": X, "y": Y}, "its keys are pictures, y"),
    "objects": ({"x": np.array([X[0], X[1, 1:]], object)}, "pickle"),
    "no axis": ({"x": np.float32(1)}, "shape ()"),
    "one axis": ({"x": X.ravel()}, "shape (600,)"),
    "one image": ({"x": X[:1]}, "1 example;"),
    "empty": ({"x": X[:, :0]}, "(20, 0, 5)"),
    "NaN": ({"x": NAN}, "hold 1 values that are NaN or infinite, the first at index (1, 1, 2)"),
    "a Gaussian's means": ({"x": np.float32(1.2 * X / 255 - 0.1)}, "np.clip(x, 0, 1)"),
    "floats of digits": ({"x": X // 16 * 1.0}, "divide them by the value of white"),
    "standardized": ({"x": (X - 128.0) / 64}, "with black at 0 and white at 1"),
    "partly below 0": ({"x": X / 300 - 0.4}, "from -0.4 to 0.45; expected 0 to 1: np.clip"),
    "bytes with halves": ({"x": X / 2 + 100.0}, "floats made from bytes: divide by 255"),
    "many channels first": ({"x": np.zeros((20, 6, 8, 8))}, "here [20, 8, 8, 6]; save np.moveaxis"),
    "signed bytes": ({"x": (X - 128).view(np.int8)}, "with black at 0"),
    "32 bits": ({"x": X.astype(np.uint32) << 24}, "expected 0 to 65535: divide them by"),
    "text": ({"x": X.astype(str)}, "type <U"),
    "complex": ({"x": X * 1j}, "type complex128"),
    "other test shape": ({"x": X, "x_test": X[:, 1:]}, "(5, 5, 1)"),
    "other test type": ({"x": X, "x_test": X / 255}, "test images are floats of shape (6, 5, 1)"),
    "other test peak": ({"x": X, "x_test": X > 9}, "are bool of"),
    "times": ({"x": X.astype("m8[s]")}, "type timedelta64[s]"),
    "records": ({"x": np.zeros((20, 6), [("a", "u1"), ("b", "u1")])}, "type [('a', 'u1')"),
}


F32 = (X / 127.5 - 1).astype(np.float32)
BYTES_FIRST = np.stack([X] * 3, 1)
CONVERTED = {
    "floats of bytes": (X.astype(np.float32), X, 255, "whole numbers 0 to 255: 255 is white"),
    "floats of 16 bits": (X * 257.0, X.astype(np.uint16) * 257, 65535, "65535 is white"),
    "-1 to 1": (F32, (F32 + 1) / 2, 1, "values are -1 to 1: read as -1 black, 1 white"),
    "halves of -1 to 1": (F32.astype(np.float16), (F32.astype("f2") + np.float32(1)) / 2, 1, "-1"),
    "channels first": (BYTES_FIRST, np.stack([X] * 3, -1), 255, "(20, 3, 6, 5): read as [N, H, W"),
    "grey channel first": (X[:, None], X, 255, "channels come first in (20, 1, 6, 5)"),
    "0 and 1 as bytes": (X % 2, X % 2, 1, "values are 0 and 1: 1 is white"),
    "0 and 1 as int64": (X % 2 - np.int64(0), X % 2, 1, "values are 0 and 1: 1 is white"),
    "constant": (X * 0 + 7, X * 0 + 7, 255, "all values are 7: there is nothing to learn"),
}


@pytest.mark.parametrize("case", CONVERTED)
def test_what_can_be_meant_in_one_way_only_is_converted_and_said(tmp_path, case):
    x, stored, peak, said = CONVERTED[case]
    data = load(tmp_path, x=x, x_test=x[:4])
    seen = np.concatenate([data.train.x, data.test.x]).reshape(24, *data.train.x.shape[1:])
    np.testing.assert_array_equal(seen.reshape(24, *stored.shape[1:]), [*stored, *stored[:4]])
    assert (data.peak, data.signed) == (peak, "-1" in case)
    assert seen.dtype == {255: np.uint8, 65535: np.uint16}.get(peak, data.train.x.dtype)
    (note,) = data.notes
    assert said in note


@pytest.mark.parametrize("case", NPZ_REFUSED)
def test_refused_npz(tmp_path, case):
    arrays, said = NPZ_REFUSED[case]
    np.savez(tmp_path / "a.npz", **arrays)
    message = refused(tmp_path / "a.npz")
    assert message.startswith(f"{tmp_path / 'a.npz'}: ") and said in message


def test_what_is_no_numpy_file(tmp_path, monkeypatch):
    """A folder of pictures, a picture, a pipe, a name that is too long: each its own advice."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "cat.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert "pictures: no pictures in it" in refused("pictures")
    assert "expected one of them, such as np.savez" in refused("cat.png", error=UsageError)
    for name in ("pictures", "cat.png"):
        with pytest.raises(DataError, match=r"into one array|not a NumPy file"):
            sources.read_images(tmp_path / name)
    (tmp_path / "digits").mkdir()  # a folder called as a dataset is no dataset
    assert sources.load("digits").classes == 10
    os.mkfifo("pipe.npz")
    assert "a pipe or a device" in refused("pipe.npz")
    message = refused("a" * 300 + ".npz")
    assert "(File name too long); move it to where its path is shorter" in message


def test_damaged_numpy_files(tmp_path):
    path = tmp_path / "a.npz"
    assert "no such file" in refused(path)
    assert "no such file" in refused(tmp_path / "A.NPY")
    np.savez(path, x=X)
    raw = path.read_bytes()
    np.save(tmp_path / "a.npy", X)
    npy = (tmp_path / "a.npy").read_bytes()
    flipped = raw[:300] + bytes([raw[300] ^ 1]) + raw[301:]
    for spoilt in (b"", b"hello", raw[:2], raw[:90], raw[:-30], flipped, npy[:99], npy[:-1]):
        path.write_bytes(spoilt)
        assert refused(path).startswith(f"{path}: ")
    path.unlink()
    path.mkdir()
    assert "a folder; expected an .npz or .npy file" in refused(path)


def load(path, **arrays):
    np.savez(path / "a.npz", **arrays)
    return sources.load(str(path / "a.npz"))


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.int64, ">u2"])
def test_whole_numbers_above_255_have_white_at_65535(tmp_path, kind):
    data = load(tmp_path, x=(X.astype(np.uint16) * 257).astype(kind))
    assert data.train.x.dtype == data.test.x.dtype == np.uint16 and data.peak == 65535
    np.testing.assert_array_equal(np.unique(data.train.x // 257 * 257), np.unique(data.train.x))
    same = load(tmp_path, x=X.astype(kind))
    assert same.train.x.dtype == np.uint8 and same.peak == 255


def test_white_is_that_of_training_and_test_images_together(tmp_path):
    data = load(tmp_path, x=X.astype(np.uint16) * 257, x_test=X_TEST.astype(np.uint16) // 2)
    assert data.peak == 65535 and data.test.x.dtype == np.uint16
    np.testing.assert_array_equal(data.test.x[..., 0], X_TEST // 2)
    data = load(tmp_path, x=X, x_test=X_TEST % 2)  # no refusal of 0 and 1: training says bytes
    assert data.peak == 255


def test_rounding_beyond_0_and_1_is_cut(tmp_path):
    x = (X / 255).astype(np.float32)
    off = x + np.float32(1.2e-7) * np.sign(x - 0.5)
    data = load(tmp_path, x=off)
    assert off.max() > 1 and off.min() < 0 and not data.notes
    assert data.train.x.min() >= 0 and data.train.x.max() <= 1
    np.save(tmp_path / "b.npy", x * np.float32(1.0001))
    assert "divide" in refused(tmp_path / "b.npy")


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (X // 16, "all images are dark: values 0 to 15 of 255; if 15 is white, save x / 15"),
        (X.astype(np.uint16) * 16, "all images are dark: values 0 to 4080 of 65535"),
        (X / 255 / 255, "all images are dark: values 0 to 0.00392157 of 1"),
        (X, ""),
        (X > 3, ""),
        (X * 0 + np.arange(20, dtype=np.uint8)[:, None, None] // 19 * 128, ""),
    ],
    ids=["digits", "12 bits", "divided twice", "bytes", "bool", "half"],
)
def test_the_range_is_said_where_all_is_dark(tmp_path, x, said):
    notes = load(tmp_path, x=x).notes
    assert notes[0].startswith(said) if said else not notes


@pytest.mark.parametrize("shape", [(8, 8, 3), (3, 3, 200), (8, 8, 8), (28, 28, 1), (3, 8, 2)])
def test_channels_that_come_last(tmp_path, shape):
    assert load(tmp_path, x=np.ones((4, *shape))).train.x.shape == (3, *shape)


def test_layouts_of_an_array_do_not_matter(tmp_path):
    expected = load(tmp_path, x=X).train.x
    for x in (np.asfortranarray(X), X.astype(">i4"), np.repeat(X, 2, 0)[::2]):
        np.testing.assert_array_equal(load(tmp_path, x=x).train.x, expected)


# ---- what takes too much


@pytest.fixture
def small_machine(monkeypatch):
    monkeypatch.setattr("flaxvae.machine.memory", lambda: 2**23)  # half of that is 4.19 MB


def peak_memory(function):
    tracemalloc.start()
    try:
        return function(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_files_that_expand_beyond_memory_are_not_read(tmp_path, small_machine):
    path, size = tmp_path / "a.npz", 2 * 10**7
    zeros = np.zeros((size // 100, 10, 10), np.uint8)
    np.savez_compressed(path, x=zeros)
    write_idx(tmp_path)
    train = tmp_path / idx.FILES[0]
    train.write_bytes(gzip.compress(to_idx(zeros)))
    for dataset, folder in ((path, None), ("mnist", tmp_path)):
        message, peak = peak_memory(lambda d=dataset, f=folder: refused(d, f))
        assert "takes 0.02 GB when read; expected at most 0.00419 GB" in message
        assert peak < size / 10
    # Longer than its header says: read no further than that.
    train.write_bytes(gzip.compress(to_idx(X) + bytes(size)))
    message, peak = peak_memory(lambda: refused("mnist", tmp_path))
    assert "more than 600 bytes of data, expected 600" in message and peak < size / 10


def test_arrays_that_only_together_take_too_much(tmp_path, small_machine):
    half = np.zeros((30, 10**5), np.uint8) + np.arange(30, dtype=np.uint8)[:, None] * 8
    np.savez_compressed(tmp_path / "a.npz", x=half, other=half)
    assert len(sources.load(str(tmp_path / "a.npz")).train.x) == 27
    np.savez_compressed(tmp_path / "a.npz", x=half, x_test=half)
    assert "x_test, with others, takes 0.006 GB" in refused(tmp_path / "a.npz")


def test_a_header_that_promises_more_than_there_is(tmp_path):
    np.save(tmp_path / "a.npy", X)
    raw = (tmp_path / "a.npy").read_bytes()
    for shape in ("(20, 6, 5)", "(2**9, 6, 5)", "(9999999999999, 6, 5)", "(-1, 6, 5)"):
        lie = raw.replace(b"(20, 6, 5), }" + b" " * 20, f"{shape}, }}".encode().ljust(33))
        assert len(lie) == len(raw)
        for name in ("b.npy", "b.npz"):
            (tmp_path / name).unlink(missing_ok=True)
        (tmp_path / "b.npy").write_bytes(lie)
        with zipfile.ZipFile(tmp_path / "b.npz", "w") as file:
            file.writestr("x.npy", lie)
        if lie == raw:
            continue
        for name in ("b.npy", "b.npz"):
            assert "cannot be read" in refused(tmp_path / name)


def test_thousands_of_members(tmp_path):
    names = {f"picture_{i:05}": X[0] for i in range(3000)}
    np.savez(tmp_path / "a.npz", **names)
    message = refused(tmp_path / "a.npz")
    assert "picture_00000" in message and "…" in message and len(message) < 400
    assert len(load(tmp_path, x=X, **names).train.x) == 18


# ---- labels


@pytest.mark.parametrize(
    ("y", "names"),
    [
        (Y, None),
        (Y[:, None], None),
        (Y.astype(float), None),
        (Y == 1, None),
        (np.eye(3)[Y], None),
        (np.eye(3, dtype=bool)[Y], None),
        (Y.astype(">u2"), None),
        (Y + 1, (1, 2, 3)),
        (Y - 1, (-1, 0, 1)),
        (1990 + 5 * Y, (1990, 1995, 2000)),
        (np.eye(6)[2 * Y], (0, 2, 4)),
        (10**9 * Y, (0, 10**9, 2 * 10**9)),
        (np.array(["dog", "cat", "élan"])[Y], ("cat", "dog", "élan")),
        (np.array([b"dog", b"cat", b"eel"])[Y][:, None], ("cat", "dog", "eel")),
    ],
)
def test_classes_are_the_labels_that_occur(tmp_path, y, names):
    x = X.copy()
    x[:, 0, 0] = Y  # so that the images tell
    data = load(tmp_path, x=x, y=y)
    assert data.names == names and data.classes == (2 if y.dtype == bool and y.ndim == 1 else 3)
    split = Split(data.train.x, data.train.y, 255.0, data.names)
    order = {"dog": 0, "cat": 1, "élan": 2, "eel": 2}
    mark = data.train.x[:, 0, 0, 0]
    for number, m in zip(split.classes, mark, strict=True):
        if names and isinstance(names[0], str):
            assert order[names[number]] == m
        elif y.dtype != bool or y.ndim == 2:
            assert number == m
        else:
            assert number == (m == 1)
    assert split.classes.dtype == np.int32
    notes = f"3 classes: {', '.join(map(str, names))}" if names else ""
    assert "".join(data.notes) == notes


UNUSABLE = {
    "few": ({"y": Y[:-1]}, "training labels are 19 for 20 images"),
    "objects": ({"y": Y.astype(object)}, "training labels are Python objects (a pickle)"),
    "test objects": ({"y": Y, "x_test": X, "y_test": Y.astype(object)}, "test labels are Python"),
    "halves": ({"y": Y / 2}, "0.5 at index 1; expected whole numbers"),
    "NaN": ({"y": np.where(Y, Y, np.nan)}, "nan at index 0"),
    "infinite": ({"y": np.where(Y, Y, np.inf)}, "inf at index 0"),
    "two hot": ({"y": np.ones((20, 3))}, "float64 of shape (20, 3); expected one whole number"),
    "no axis": ({"y": np.int64(3)}, "of shape ()"),
    "complex": ({"y": Y * 1j}, "complex128"),
    "times": ({"y": Y.astype("m8[s]")}, "timedelta64[s]"),
    "ids": ({"y": np.arange(20)}, "20 different ones for 20 images"),
    "empty text": ({"y": np.array(["a", ""])[Y % 2]}, "text, such as ''"),
    "lines": ({"y": np.array(["a", "b\nc"])[Y % 2]}, "'b\\nc'; expected names"),
    "prose": ({"y": np.array(["a", "b" * 41])[Y % 2]}, "of 1 to 40 characters"),
    "not UTF-8": ({"y": np.array([b"a", b"\xff"])[Y % 2]}, "not all in UTF-8"),
    "beyond int64": ({"y": np.uint64(2**63) + Y.astype(np.uint64)}, "numbers below 2^63"),
    "half labelled": ({"y": Y, "x_test": X}, "test labels are missing"),
    "other half": ({"x_test": X, "y_test": Y}, "training labels are missing"),
    "few test labels": ({"y": Y, "x_test": X, "y_test": Y[1:]}, "test labels are 19 for 20"),
    "mixed": ({"y": Y, "x_test": X, "y_test": Y.astype(str)}, "partly numbers and partly text"),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_labels_that_cannot_be_used_are_left_out_and_said(tmp_path, case):
    arrays, said = UNUSABLE[case]
    data = load(tmp_path, x=X, **arrays)
    assert data.train.y is data.test.y is data.classes is data.names is None
    assert said in data.unlabelled and said in data.notes[0]
    np.testing.assert_array_equal(data.train.x, load(tmp_path, **{"x": X, **arrays}).train.x)


@pytest.mark.parametrize(
    ("said", "name"), [("MNIST", "mnist"), ("Digits", "digits"), ("Fashion-MNIST", "fashion_mnist")]
)
def test_case_does_not_hide_a_name(said, name):
    assert f"did you mean {name!r}?" in refused(said, error=UsageError)


# ---- tensorflow-datasets


REMEDIES = ("data_dir", "FLAXVAE_DATA_DIR", "pip install 'flaxvae[tfds]'", "dataset='digits'")


def test_without_tensorflow_datasets(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    message = refused("mnist")
    assert all(remedy in message for remedy in REMEDIES)


def test_probe(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        here = f"http://127.0.0.1:{server.getsockname()[1]}"
        assert tfds._reachable(f"{here}/file.gz")
        monkeypatch.setenv("http_proxy", here)
        assert tfds._reachable("http://nowhere.invalid/file.gz")
    assert not tfds._reachable("http://nowhere.invalid/file.gz")  # the proxy is gone


def test_probe_gives_up_on_a_slow_name_server(monkeypatch):
    monkeypatch.setattr(tfds, "_PROBE_SECONDS", 0.1)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: time.sleep(2) or [])
    start = time.monotonic()
    assert not tfds._reachable("http://nowhere.invalid/")
    assert time.monotonic() - start < 1


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A function that makes TFDS "download" files from a folder, checksums still being checked."""
    pytest.importorskip("tensorflow_datasets")
    pytest.importorskip("array_record")
    pytest.importorskip("PIL")
    from tensorflow_datasets.core import constants
    from tensorflow_datasets.core.download import checksums, downloader
    from tensorflow_datasets.image_classification import mnist

    folder = write_idx(tmp_path / "host", (X, Y, X_TEST, Y_TEST), suffix=".gz")
    monkeypatch.setattr(constants, "DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.setattr(tfds, "_reachable", lambda url: True)

    def download(self, url, destination_path, verify=True):
        path = destination_path / url.rpartition("/")[2]
        shutil.copy(folder / path.name, path)
        self._pbar_url.update(1)
        return downloader.DownloadResult(path=path, url_info=checksums.compute_url_info(path))

    monkeypatch.setattr(downloader._Downloader, "_sync_download", download)

    def register(dataset):
        """Make the checksums of the served files the ones expected."""
        parent = getattr(mnist, tfds.PREPARABLE[dataset])
        infos = {
            parent.URL + path.name: checksums.compute_url_info(path) for path in folder.iterdir()
        }
        monkeypatch.setattr(parent, "url_infos", infos)

    # TFDS's features insist on 28x28.
    big = [np.pad(x, ((0, 0), (11, 11), (11, 12))) for x in (X, X_TEST)]
    write_idx(folder, (big[0], Y, big[1], Y_TEST), suffix=".gz")
    return register, big


def by_pixels(x, y):
    return sorted((image.tobytes(), int(label)) for image, label in zip(x, y))


@pytest.mark.parametrize("dataset", ["mnist", "fashion_mnist", "kmnist"])
def test_prepared_without_tensorflow_and_read_by_stock_tfds(served, dataset, monkeypatch, capfd):
    import tensorflow_datasets

    register, (x, x_test) = served
    register(dataset)
    data = sources.load(dataset)
    assert capfd.readouterr() == ("", "")
    assert data.train.x.shape == (20, 28, 28, 1) and data.train.y.dtype == np.int32
    assert data.origin == f"tensorflow-datasets {dataset}:3.0.1"
    assert by_pixels(data.train.x, data.train.y) == by_pixels(x, Y)
    assert by_pixels(data.test.x, data.test.y) == by_pixels(x_test, Y_TEST)
    stock = tensorflow_datasets.data_source(dataset, split="train", download=False)
    for example, image, label in zip(stock, data.train.x, data.train.y, strict=True):
        np.testing.assert_array_equal(example["image"], image)
        assert example["label"] == label
    # The second time needs no network.
    monkeypatch.setattr(tfds, "_reachable", lambda url: pytest.fail("probed"))
    np.testing.assert_array_equal(sources.load(dataset).train.x, data.train.x)
    assert "tensorflow" not in sys.modules


def test_unreachable_is_said_at_once_and_writes_nothing(served, tmp_path, monkeypatch):
    monkeypatch.setattr(tfds, "_reachable", lambda url: False)
    start = time.monotonic()
    message = refused("kmnist")
    assert time.monotonic() - start < 5
    assert "codh.rois.ac.jp" in message and all(remedy in message for remedy in REMEDIES)
    assert not (tmp_path / "tfds").exists()


def test_wrong_checksum_and_interruption_leave_nothing_prepared(served, tmp_path, monkeypatch):
    register, _ = served
    assert "wrong checksum" in refused("mnist")  # the registered ones are those of real MNIST
    register("mnist")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(idx, "read", lambda path, axes: (_ for _ in ()).throw(KeyboardInterrupt))
        sources.load("mnist")
    assert not list((tmp_path / "tfds" / "mnist").iterdir())
    # SIGKILL leaves such a folder behind: it must not pass for the data.
    (tmp_path / "tfds" / "mnist" / "incomplete.ABCDEF_3.0.1").mkdir()
    assert len(sources.load("mnist").train.x) == 20


def test_damaged_records(served, tmp_path):
    register, _ = served
    register("mnist")
    sources.load("mnist")
    home = tmp_path / "tfds" / "mnist"
    records = next(home.rglob("*train.array_record*"))
    raw = records.read_bytes()
    info = next(home.rglob("dataset_info.json"))
    text = info.read_text()
    records.write_bytes(raw[: len(raw) // 2])
    assert str(home) in refused("mnist")
    records.write_bytes(raw)
    for spoilt in (text[:100], text.replace("array_record", "tfrecord")):
        info.write_text(spoilt)
        message = refused("mnist")
        assert str(home) in message and "TFDS_DATA_DIR" in message
