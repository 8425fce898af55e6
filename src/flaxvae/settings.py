"""What a person can choose about data and training; a model's own choices are its recipe's.

Plain frozen dataclasses: the command line takes its flags and help texts from them, and a
run folder stores them in ``run.json``. Nothing here imports JAX, so ``--help`` is quick.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

from flaxvae.errors import UsageError

Binarization = Literal["none", "dynamic", "fixed", "threshold"]
Schedule = Literal["constant", "cosine"]


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """Which images, and what is done to their pixels."""

    dataset: str = "digits"
    """digits (built in), mnist, fashion_mnist, kmnist, or the path of an .npz or .npy file."""

    data_dir: str | None = None
    """Folder with IDX files (.gz or not), in it or in a sub-folder named after the dataset;
    else the FLAXVAE_DATA_DIR variable, else tensorflow-datasets."""

    binarization: Binarization = "none"
    """none: pixels in [0, 1]; dynamic: Bernoulli(pixel) drawn anew at every visit;
    fixed: one such draw, the same in every run; threshold: pixel >= 0.5."""

    validation: float = 1 / 12
    """Part of the training images held out for the validation ELBO; 0 trains on all."""

    def __post_init__(self):
        if not 0 <= self.validation < 1:
            raise UsageError(f"--validation {self.validation}: expected at least 0 and below 1")


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """How a model learns: Adam on the recipe's loss."""

    epochs: int | None = None
    """Passes over the training images; by default what the dataset suggests
    (digits 500, mnist 20)."""

    batch_size: int = 128
    """Images a step, over all devices together."""

    learning_rate: float = 1e-3
    """Adam's step size (its peak, with a warm-up or a decay)."""

    schedule: Schedule = "constant"
    """constant, or cosine decay to zero at the last step."""

    warmup_steps: int = 0
    """Steps over which the learning rate rises linearly from zero."""

    clip_norm: float | None = None
    """Clip the gradient's global norm to this."""

    ema: float | None = None
    """Decay of an exponential moving average of the weights (e.g. 0.999), used in evaluation."""

    patience: int | None = None
    """Stop after this many epochs without a better validation ELBO; the best weights are kept."""

    seed: int = 0
    """Decides initial weights, order of images and all noise."""

    devices: int | None = None
    """Devices to use; by default all."""

    def __post_init__(self):
        def check(ok: bool, name: str, expected: str) -> None:
            if not ok:
                flag = "--" + name.replace("_", "-")
                raise UsageError(f"{flag} {getattr(self, name)}: expected {expected}")

        check(self.epochs is None or self.epochs >= 0, "epochs", "0 or more")
        check(self.batch_size >= 1, "batch_size", "1 or more")
        check(0 < self.learning_rate < math.inf, "learning_rate", "a number above 0")
        check(self.warmup_steps >= 0, "warmup_steps", "0 or more")
        check(self.clip_norm is None or self.clip_norm > 0, "clip_norm", "a number above 0")
        check(self.ema is None or 0 <= self.ema < 1, "ema", "at least 0 and below 1")
        check(self.patience is None or self.patience >= 1, "patience", "1 or more")
        check(0 <= self.seed < 2**32, "seed", "0 to 4294967295")
        check(self.devices is None or self.devices >= 1, "devices", "1 or more")


def asdict(settings: Any) -> dict[str, Any]:
    """The fields of a settings record, as ``run.json`` stores them."""
    return dataclasses.asdict(settings)
