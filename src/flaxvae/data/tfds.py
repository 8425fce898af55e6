"""MNIST and its cousins from tensorflow-datasets (TFDS), without TensorFlow.

TFDS reads prepared data without TensorFlow, but its MNIST builder needs TensorFlow to prepare
them. The builder here differs only in that step. It writes what TFDS itself would write, with the
same name, version, URLs, checksums and records.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import socket
import threading
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import numpy as np

from flaxvae.data import idx
from flaxvae.errors import DataError, FlaxvaeError

PREPARABLE = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "kmnist": "KMNIST"}
_PROBE_SECONDS = 5.0
_INSTALL = "pip install 'flaxvae[tfds]' and try again with a network"
IDX = "put its four IDX files in a folder and pass --data-dir DIR (or set FLAXVAE_DATA_DIR)"


def read(dataset: str) -> tuple[list[np.ndarray], str]:
    """A dataset in TFDS's folder (``TFDS_DATA_DIR``), downloaded and prepared on first use.

    Args:
        dataset: mnist, fashion_mnist or kmnist.

    Returns:
        Training images [N, 28, 28, 1] uint8 and labels [N] int32, test images and labels,
        in TFDS's order; and their origin, in words.

    Raises:
        DataError: the data are not prepared and cannot be, or cannot be read.
    """
    with reading(dataset):
        import tensorflow_datasets as tfds

        made = builder(dataset)
        if not made.is_prepared():
            prepare(made)
        source = tfds.builder_from_directory(made.data_path).as_data_source()
        arrays = [a for split in ("train", "test") for a in _stack(source[split])]
    return arrays, f"tensorflow-datasets {dataset}:{made.version}"


@contextlib.contextmanager
def reading(dataset: str) -> Iterator[None]:
    """Around what uses TFDS: it is silent, and whatever goes wrong is a DataError of one line."""
    try:
        import array_record  # noqa: F401 (TFDS imports these late: check them before a download)
        import PIL  # noqa: F401
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise _unavailable(dataset, f"tensorflow-datasets is not installed ({error})") from error
    home = Path(tfds.core.constants.DATA_DIR, dataset.partition(":")[0])
    with _quiet():
        try:
            yield
        except FlaxvaeError:
            raise
        except ImportError as error:
            raise DataError(
                f"{dataset}: not prepared, and {_line(error)}: expected TensorFlow, to prepare it "
                f"once; pip install tensorflow, and run `tfds build {dataset.partition(':')[0]} "
                "--file_format=array_record`"
            ) from error
        except Exception as error:  # array_record, protobuf and PIL raise their own
            raise DataError(
                f"{home}: cannot be read as array_record ({_line(error)}); set TFDS_DATA_DIR to "
                "another folder, or delete this one to have it prepared again"
            ) from error


def installed() -> bool:
    """Whether tensorflow-datasets and its requirements are installed; imports nothing."""
    return all(map(find_spec, ("tensorflow_datasets", "array_record", "PIL")))


def prepared(dataset: str) -> Path | None:
    """The folder of a dataset that TFDS has prepared, of any version; imports nothing."""
    home = Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser() / dataset
    return home if any(home.glob("*/dataset_info.json")) else None


def _stack(split: Any) -> tuple[np.ndarray, np.ndarray]:
    """All images [N, H, W, C] and labels [N] of a TFDS data source."""
    examples = list(split)
    images = np.stack([example["image"] for example in examples])
    return images, np.array([example["label"] for example in examples], np.int32)


def prepare(builder: Any) -> None:
    """Download, verify checksums and write; TFDS renames the finished folder into place.

    Raises DataError if that is not possible.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError

    url = getattr(builder, "URL", None) or next(iter(builder.url_infos), None)
    if url is not None and not _reachable(url):
        why = f"not prepared, and {urlsplit(url).hostname} cannot be reached"
        raise _unavailable(builder.name, why)
    logging.getLogger(__name__).info("preparing %s in %s", builder.name, builder.data_path)
    try:
        builder.download_and_prepare(
            file_format="array_record",
            download_config=tfds.download.DownloadConfig(
                try_download_gcs=False, force_checksums_validation=True
            ),
        )
    except AssertionError as error:  # of what the user has to download
        raise DataError(
            f"{builder.name}: not prepared ({_line(error)}); then run `tfds build "
            f"{builder.info.full_name.rpartition('/')[0]} --file_format=array_record`"
        ) from error
    except (OSError, tfds.download.DownloadError, NonMatchingChecksumError) as error:
        if not builder.is_prepared():  # else another process was faster
            why = f"cannot be prepared ({_line(error)})"
            raise _unavailable(builder.name, why, "try again") from error


def builder(dataset: str) -> Any:
    """TFDS's builder of ``dataset``, but reading the raw files with `idx`, not TensorFlow."""
    from PIL import Image
    from tensorflow_datasets.image_classification import mnist

    parent: Any = getattr(mnist, PREPARABLE[dataset])

    class Builder(parent, skip_registration=True):  # type: ignore[call-arg]
        name = dataset
        url_infos = parent.url_infos  # size and SHA-256 of each file

        def _split_generators(self, dl_manager):
            paths = dl_manager.download([urljoin(self.URL, f"{name}.gz") for name in idx.FILES])
            return {
                "train": self._generate_examples(*paths[:2]),
                "test": self._generate_examples(*paths[2:]),
            }

        def _generate_examples(self, images, labels):
            # PIL encodes a PIL image as PNG; TensorFlow would encode an array.
            pairs = zip(idx.read(Path(images), 3), idx.read(Path(labels), 1))
            for key, (image, label) in enumerate(pairs):
                yield key, {"image": Image.fromarray(image), "label": int(label)}

    return Builder()


def _reachable(url: str) -> bool:
    """Whether the host of ``url``, or its proxy, accepts a connection."""
    parts = urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and not urllib.request.proxy_bypass(parts.hostname or ""):
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    address = (parts.hostname, parts.port or (443 if parts.scheme == "https" else 80))
    answered = threading.Event()

    def connect() -> None:
        with contextlib.suppress(OSError), socket.create_connection(address, _PROBE_SECONDS):
            answered.set()

    # In a thread, because looking up a name has no time-out.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(_PROBE_SECONDS)
    return answered.is_set()


def _unavailable(dataset: str, why: str, remedy: str = _INSTALL) -> DataError:
    instead = f"{IDX}, or use" if dataset in PREPARABLE else "use"
    return DataError(
        f"{dataset}: {why}; {remedy}, or {instead} --dataset digits, which needs no download"
    )


def _line(error: Exception) -> str:
    """The first line of an error's text; TFDS writes several."""
    return str(error).strip().partition("\n")[0].rstrip(":") or type(error).__name__


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence TFDS, which prints to stdout, draws progress bars and warns through absl."""
    import tensorflow_datasets as tfds

    absl = logging.getLogger("absl")
    level = absl.level
    absl.setLevel(logging.ERROR)
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tfds.enable_progress_bar()
        absl.setLevel(level)
