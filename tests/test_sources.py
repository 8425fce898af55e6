"""Sources: what was written comes back, and what is damaged is refused in one line."""

import gzip
import shutil
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from flaxvae.data import idx, sources, tfds
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
    assert data.x_train.shape == (1437, 8, 8, 1) and data.x_test.shape == (360, 8, 8, 1)
    assert data.x_train.dtype == np.uint8 and data.y_train.dtype == np.int32
    assert (data.peak, data.classes) == (16.0, 10)

    def rows(x, y):
        return sorted(zip(map(bytes, x.reshape(-1, 64).astype(np.uint8)), y.tolist()))

    x, y = np.concatenate([data.x_train, data.x_test]), np.concatenate([data.y_train, data.y_test])
    assert rows(x, y) == rows(whole.images, whole.target)
    assert x.sum() == whole.images.sum()
    np.testing.assert_array_equal(data.x_train, sources.load("digits").x_train)


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
    np.testing.assert_array_equal(data.x_train, X[..., None])
    np.testing.assert_array_equal(data.x_test, X_TEST[..., None])
    np.testing.assert_array_equal(data.y_train, Y)
    np.testing.assert_array_equal(data.y_test, Y_TEST)
    assert data.x_train.dtype == np.uint8 and data.y_train.dtype == np.int32
    assert (data.name, data.peak, data.classes) == ("kmnist", 255.0, 3)
    assert str(home) in data.origin


def test_the_sub_folder_and_the_argument_win(tmp_path, monkeypatch):
    write_idx(tmp_path / "a", (X, Y, X_TEST, Y_TEST))
    write_idx(tmp_path / "a" / "mnist", (X[::-1], Y, X_TEST, Y_TEST))
    write_idx(tmp_path / "b", (X // 2, Y, X_TEST, Y_TEST))
    monkeypatch.setenv("FLAXVAE_DATA_DIR", str(tmp_path / "b"))
    np.testing.assert_array_equal(sources.load("mnist").x_train[..., 0], X // 2)
    chosen = sources.load("mnist", str(tmp_path / "a"))
    np.testing.assert_array_equal(chosen.x_train[..., 0], X[::-1])


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
    assert data.x_train.shape == (18, *shape) and data.x_test.shape == (2, *shape)
    assert data.x_train.dtype == data.x_test.dtype == dtype
    assert (data.name, data.peak, data.origin) == ("faces", peak, str(path))
    assert data.y_train is data.y_test is data.classes is None
    whole = np.concatenate([data.x_train, data.x_test]).reshape(20, -1)
    np.testing.assert_array_equal(
        np.sort(whole, axis=0), np.sort(x.reshape(20, -1).astype(dtype), axis=0)
    )
    np.testing.assert_array_equal(data.x_test, sources.load(str(path)).x_test)


@pytest.mark.parametrize("key", ["y_train", "labels", "y"])
def test_labels_stay_with_their_images(tmp_path, key):
    np.savez_compressed(tmp_path / "a.npz", x=X, **{key: X[:, 0, 0].astype(np.uint16)})
    data = sources.load(str(tmp_path / "a.npz"))
    np.testing.assert_array_equal(data.y_train, data.x_train[:, 0, 0, 0])
    np.testing.assert_array_equal(data.y_test, data.x_test[:, 0, 0, 0])
    assert data.classes == X[:, 0, 0].max() + 1 and data.y_train.dtype == np.int32


def test_test_images_of_the_file_are_taken(tmp_path):
    path = tmp_path / "a.npz"
    about = np.array({"any": "object"})  # under a key of no concern: must not stand in the way
    np.savez(path, x_train=X, y_train=Y, x_test=X_TEST, y_test=Y_TEST, about=about)
    data = sources.load(str(path))
    for seen, expected in zip(data[1:5], (X[..., None], Y, X_TEST[..., None], Y_TEST)):
        np.testing.assert_array_equal(seen, expected)


NAN = np.where(np.arange(600).reshape(20, 6, 5) == 37, np.nan, 0.5)
NPZ_REFUSED = {
    "no images": ({"pictures": X, "y": Y}, "its keys are pictures, y"),
    "objects": ({"x": np.array([X[0], X[1, 1:]], object)}, "pickle"),
    "no axis": ({"x": np.float32(1)}, "shape ()"),
    "one axis": ({"x": X.ravel()}, "shape (600,)"),
    "one image": ({"x": X[:1]}, "1 image;"),
    "empty": ({"x": X[:, :0]}, "(20, 0, 5)"),
    "NaN": ({"x": NAN}, "hold 1 values that are NaN or infinite, the first at index (1, 1, 2, 0)"),
    "floats of bytes": ({"x": X.astype(np.float32)}, "divide by 255"),
    "negative": ({"x": X / 127.5 - 1}, "from -1 to"),
    "16 bits": ({"x": X.astype(np.uint16) * 257}, "to 65535; expected 0 to 255"),
    "0 and 1 as bytes": ({"x": X % 2}, "bool"),
    "text": ({"x": X.astype(str)}, "type <U"),
    "complex": ({"x": X * 1j}, "type complex128"),
    "other test shape": ({"x": X, "x_test": X[:, 1:]}, "(5, 5, 1)"),
    "other test type": ({"x": X, "x_test": X / 255}, "float32"),
    "other test peak": ({"x": X, "x_test": X > 9}, "with white 1;"),
    "few labels": ({"x": X, "y": Y[:-1]}, "19 for 20 images"),
    "few test labels": ({"x": X, "y": Y, "x_test": X, "y_test": Y[1:]}, "test labels are 19"),
    "one-hot": ({"x": X, "y": np.eye(3, dtype=int)[Y]}, "argmax"),
    "float labels": ({"x": X, "y": Y / 2}, "float64"),
    "negative labels": ({"x": X, "y": Y - 1}, "from -1 to 1"),
    "half labelled": ({"x": X, "y": Y, "x_test": X}, "only training images have labels"),
}


@pytest.mark.parametrize("case", NPZ_REFUSED)
def test_refused_npz(tmp_path, case):
    arrays, said = NPZ_REFUSED[case]
    np.savez(tmp_path / "a.npz", **arrays)
    message = refused(tmp_path / "a.npz")
    assert message.startswith(f"{tmp_path / 'a.npz'}: ") and said in message


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
    assert "directory" in refused(path)


# ---- tensorflow-datasets


REMEDIES = ("--data-dir", "FLAXVAE_DATA_DIR", "pip install 'flaxvae[tfds]'", "--dataset digits")


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
        parent = getattr(mnist, tfds._BUILDERS[dataset])
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
    assert data.x_train.shape == (20, 28, 28, 1) and data.y_train.dtype == np.int32
    assert data.origin == f"tensorflow-datasets {dataset}:3.0.1"
    assert by_pixels(data.x_train, data.y_train) == by_pixels(x, Y)
    assert by_pixels(data.x_test, data.y_test) == by_pixels(x_test, Y_TEST)
    stock = tensorflow_datasets.data_source(dataset, split="train", download=False)
    for example, image, label in zip(stock, data.x_train, data.y_train, strict=True):
        np.testing.assert_array_equal(example["image"], image)
        assert example["label"] == label
    # The second time needs no network.
    monkeypatch.setattr(tfds, "_reachable", lambda url: pytest.fail("probed"))
    np.testing.assert_array_equal(sources.load(dataset).x_train, data.x_train)
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
    assert len(sources.load("mnist").x_train) == 20


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
