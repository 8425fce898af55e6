"""How training images reach the devices: all at once, or in blocks while others train.

What fits stays on every device, as stored. What does not is read in the order of the epoch, a few
steps at a time, by a thread that is at most two blocks ahead. The order is that of (seed, epoch)
either way, so both give the same batches. The loop asks a feed for what the next steps need; the
compiled step takes a batch and does not know which feed it came from.
"""

from __future__ import annotations

import contextlib
import math
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from flaxvae import machine
from flaxvae.devices import hosts
from flaxvae.devices import mesh as meshes
from flaxvae.errors import DataError, counted, remedy
from flaxvae.settings import Placement

Array = jax.Array
Order = Callable[[int], Any]  # epoch -> [steps, batch] indices of images

SHARE = 1 / 4  # of a device's free memory, which images may fill
CPU_MOST = 2**32  # bytes that they may fill on a CPU, whose memory is everybody's
BLOCK = 2**24  # bytes of a block, or one step where that is more
AHEAD = 2  # blocks that are read while another one trains


class Whole(NamedTuple):
    """All images, and the order of an epoch."""

    order: Any  # [steps, batch] indices
    x: Any  # [N, ...] as stored
    y: Any  # [N] or None

    def batch(self, position: Array) -> tuple[Array, Array | None]:
        """x [batch, ...] and y [batch] of the step after ``position`` others; may be traced."""
        rows = self.order[position % len(self.order)]
        # As flat rows, which XLA's CPU loops gather faster than images.
        x = self.x.reshape(len(self.x), -1)[rows].reshape(-1, *self.x.shape[1:])
        return x, None if self.y is None else self.y[rows]


class Block(NamedTuple):
    """The images of some steps, in order."""

    first: Any  # the position of the first of them
    x: Any  # [steps, batch, ...] as stored
    y: Any  # [steps, batch] or None

    def batch(self, position: Array) -> tuple[Array, Array | None]:
        """As of ``Whole``."""
        i = position - self.first
        return self.x[i], None if self.y is None else self.y[i]


Images = Whole | Block


class Fed(NamedTuple):
    """What steps need."""

    rows: Images
    steps: int  # for which it is enough


class Feed(Protocol):
    """Brings images to the devices."""

    longest: int  # the most steps that ``at`` gives
    remark: str  # where images are, if it is not as usual

    def at(self, position: int) -> Fed:
        """What the steps from ``position`` on need; every process asks for the same.

        Raises DataError if they cannot be read.
        """

    def close(self) -> None:
        """Stop reading; ``at`` begins again."""


class Resident:
    """All images stay on every device.

    Args:
        x, y: all images [N, ...] and labels [N], on the devices.
        order: of an epoch.
        steps: in an epoch.
    """

    def __init__(self, x: Array, y: Array | None, order: Order, steps: int):
        self._x, self._y, self._order, self.longest = x, y, order, steps
        self._known: tuple[int, Any] = (-1, None)  # an epoch, and its order
        self.remark = ""

    def at(self, position: int) -> Fed:
        epoch, within = divmod(position, self.longest)
        if self._known[0] != epoch:
            self._known = epoch, self._order(epoch)
        return Fed(Whole(self._known[1], self._x, self._y), self.longest - within)

    def close(self) -> None:
        pass


class Streamed:
    """Images are read in blocks of steps, each process the rows of its own devices.

    Args:
        x, y: all images [N, ...] and labels [N]: arrays, memory-mapped or with rows by index.
        order: of an epoch; computed on this process alone.
        shape: (steps, batch) of an epoch.
        steps: in all.
        mesh: the devices, between which a batch is split.
        origin: what messages call the source.
    """

    def __init__(
        self, x: Any, y: Any, order: Order, shape: tuple[int, int], steps: int, mesh: Mesh,
        origin: str,
    ):  # fmt: skip
        self._x, self._y, self._order, self._shape, self._steps = x, y, order, shape, steps
        self._sharding, self._origin = meshes.split(mesh, axis=1), origin
        per_epoch, batch = shape
        row = x.nbytes // len(x)
        most = max(BLOCK // max(batch * row, 1), 1)
        self.longest = math.ceil(per_epoch / math.ceil(per_epoch / most))
        count, block = counted(len(x), "training image"), self.longest * batch * row
        self.remark = (
            f"{count}, {x.nbytes / 1e9:.3g} GB, are streamed to the devices in blocks of "
            f"{block / 1e6:.3g} MB"
        )
        self._block: Block | None = None
        self._reader: Reader | None = None
        self._next = 0  # the position at which the reader goes on

    def at(self, position: int) -> Fed:
        steps = self._left(position)
        if not steps:
            self._block = None  # before there is another one
            if self._reader is None or self._next != position:
                self.close()
                self._reader = Reader(self._blocks(position))
            self._block = self._taken(self._reader)
            steps = self._left(position)
            self._next = position + steps
        assert self._block is not None
        return Fed(self._block, steps)

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
        self._reader = self._block = None

    def _left(self, position: int) -> int:
        """Steps from ``position`` on of which the block at hand has the images."""
        if self._block is None or position < self._block.first:
            return 0
        return max(int(self._block.first) + self._count(int(self._block.first)) - position, 0)

    def _count(self, first: int) -> int:
        """Steps in the block that begins at ``first``: no block goes over an epoch's end."""
        return min(self.longest, self._shape[0] - first % self._shape[0])

    def _taken(self, reader: Reader) -> Block:
        try:
            return reader.take()
        except OSError as error:
            self.close()
            reason = error.strerror or str(error) or type(error).__name__
            raise DataError(
                f"{self._origin}: training images cannot be read ({reason}); expected to read "
                f"them until the training ends; {remedy(error.strerror)}"
            ) from None
        except BaseException:
            self.close()
            raise

    def _blocks(self, position: int) -> Iterator[Block]:
        """The blocks from ``position`` to the end of the training, on the devices."""
        known, order = -1, np.zeros(self._shape, np.int32)
        while position < self._steps:
            epoch, within = divmod(position, self._shape[0])
            if epoch != known:
                known, order = epoch, np.asarray(self._order(epoch))
            count = self._count(position)
            rows = order[within : within + count]
            x, y = (None if a is None else self._placed(a, rows) for a in (self._x, self._y))
            assert x is not None
            yield Block(np.int32(position), x, y)
            position += count

    def _placed(self, a: Any, rows: np.ndarray) -> Array:
        """Some rows of an array, [longest, batch, ...], each device's on it; the rest is empty."""
        shape = self.longest, rows.shape[1], *a.shape[1:]

        def read(index: Any) -> np.ndarray:
            return gathered(a, rows[:, index[1]], self.longest)

        return jax.make_array_from_callback(shape, self._sharding, read)


def gathered(a: Any, rows: np.ndarray, steps: int) -> np.ndarray:
    """Rows of ``a`` by index, [steps, batch, ...], of which the last may be empty."""
    found = np.empty((steps, rows.shape[1], *a.shape[1:]), a.dtype)
    found[: len(rows)] = a[rows.ravel()].reshape(*rows.shape, *a.shape[1:])
    return found


class Reader:
    """A thread that takes from an iterator what will be asked for next, at most AHEAD of it."""

    def __init__(self, items: Iterator[Any]):
        self._items, self._ready = items, queue.SimpleQueue[tuple[Any, BaseException | None]]()
        self._room, self._closed = threading.Semaphore(AHEAD), threading.Event()
        self._thread = threading.Thread(target=self._read, name="flaxvae-reader", daemon=True)
        self._thread.start()

    def take(self) -> Any:
        """The next item. Raises what the iterator raised."""
        item, error = self._ready.get()
        if error is not None:
            raise error
        self._room.release()
        return item

    def close(self) -> None:
        """Let the thread end; waits for what it is reading."""
        self._closed.set()
        self._room.release()
        self._thread.join()

    def _read(self) -> None:
        error: BaseException = IndexError("there are no more images: the training is over")
        try:
            while self._room.acquire() and not self._closed.is_set():
                self._ready.put((next(self._items), None))
        except StopIteration:
            self._ready.put((None, error))
        except BaseException as caught:  # of the trainer's business
            self._ready.put((None, caught))


# ---- what fits


def is_resident(x: Any, y: Any, placement: Placement, mesh: Mesh) -> bool:
    """Whether images and labels are to stay on the devices; all processes say the same.

    ``auto``: where they fill at most SHARE of the free memory of each.
    """
    if placement != "auto":
        return placement == "device"
    taken = sum(a.nbytes for a in (x, y) if a is not None)
    fits = all(taken <= SHARE * free for free in map(_free, meshes.local(mesh).devices.flat))
    return bool(hosts.gather(fits).all())


def _free(device: jax.Device) -> float:
    """Free bytes of a device; of a CPU's devices, which have one memory, an equal part of it."""
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        found = device.memory_stats() or {}
        if "bytes_limit" in found:
            return found["bytes_limit"] - found.get("bytes_in_use", 0)
    known = machine.free_memory()
    most = CPU_MOST / SHARE
    return min(most if known is None else known, most) / jax.local_device_count()


def whole(a: Any) -> np.ndarray | None:
    """All rows of an array, in memory."""
    return None if a is None else np.asarray(a[:])
