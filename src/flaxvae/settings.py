"""The settings of data and training, and those that models share.

A model's own settings are in its recipe (``zoo``).

Plain frozen dataclasses: the command line takes its flags and help texts from them, and a
run folder stores them in ``run.json``. Nothing here imports JAX, so ``--help`` is quick.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Annotated, Any, Literal

from flaxvae import declared
from flaxvae.declared import (
    AboveZero,
    Alias,
    Count,
    NotNegative,
    Only,
    Part,
    Positive,
    Seed,
    Within,
)
from flaxvae.errors import UsageError

Binarization = Literal["none", "dynamic", "fixed", "threshold"]
Optimizer = Literal["adam", "muon"]
Schedule = Literal["constant", "cosine"]
Net = Literal["auto", "conv", "resnet", "mlp"]
Activation = Literal["relu", "tanh", "gelu", "silu", "elu"]
Convolutions = Literal["auto", "gemm", "native"]
Precision = Literal["float32", "bf16"]
Likelihood = Literal[
    "auto",
    "bernoulli",
    "continuous_bernoulli",
    "gaussian",
    "gaussian_shared",
    "gaussian_pixel",
    "discretized_logistic",
    "logistic_mixture",
]
Kl = Literal["closed_form", "monte_carlo"]
Annealing = Literal["none", "linear", "cyclical"]
AnomalyScore = Literal[
    "combined",
    "elbo",
    "importance",
    "reconstruction",
    "kl",
    "regret",
    "complexity",
    "llr",
    "mahalanobis",
    "copod",
]
Export = Literal["npz", "safetensors", "jax", "torch", "onnx", "projector", "card"]
FreeBitsPer = Literal["dimension", "level", "total"]
OnNan = Literal["stop", "skip", "rollback"]
Resize = Literal["crop", "fit", "stretch"]
Background = Literal["white", "grey", "black"]
Placement = Literal["auto", "device", "stream"]
IN_FOLDERS = ("mnist", "fashion_mnist", "kmnist", "cifar10", "frey_faces")  # in --data-dir
DRAWN = ("sprites", "sprites_color")  # datasets that are drawn from their factors
NAMED = ("digits", *DRAWN, *IN_FOLDERS, "arrays")  # datasets that are no path
ARRAY_FILES = (".npz", ".npy", "-ubyte", "-ubyte.gz", ".idx", ".idx.gz", ".csv", ".tsv", ".parquet")
PREPARED = "tfds:"  # before the name of a dataset of tensorflow-datasets
# Far below float32's largest number: steps of any finite gradient are finite, too.
Rate = Annotated[float, Within(lambda x: 0 < x <= 1e30, "above 0, at most 1e30")]


def check(settings: Any, name: str, ok: bool, expected: str) -> None:
    """Raises UsageError, with the flag and the value seen, unless ``ok``."""
    if not declared.passes(ok):
        value = declared.seen(getattr(settings, name))
        raise UsageError(f"{declared.flag(name)} {value}: expected {expected}")


def interval(text: str) -> tuple[float, str] | None:
    """``"5min"`` as (300.0, "seconds"), ``"500steps"`` as (500, "steps"); also "epochs".

    None if it is not an interval above zero.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(s|min|h|steps?|epochs?)", text)
    if found is None or float(found[1]) == 0:
        return None
    if found[2] in _SECONDS:
        return float(found[1]) * _SECONDS[found[2]], "seconds"
    whole = found[1].isdigit()
    return (int(found[1]), found[2].rstrip("s") + "s") if whole else None


_SECONDS = {"s": 1, "min": 60, "h": 3600}
Interval = Annotated[str, Within(interval, "such as 15s, 5min, 500steps or 1epoch")]


def of_pictures(dataset: str) -> bool:
    """Whether a dataset is of encoded pictures: a folder, a zip or tar of one, or tfds:NAME."""
    return not (dataset in NAMED or dataset.lower().endswith(ARRAY_FILES))


def height_and_width(size: str | None) -> tuple[int, int] | None:
    """``"48x80"`` as (48, 80)."""
    if size is None:
        return None
    height, width = size.split("x")
    return int(height), int(width)


def _size(value: Any) -> Any:
    """A size of an image as ``"48x80"``: of that, "64", 64 or (48, 80); anything else as text."""
    sizes = list(value) if isinstance(value, tuple | list) else str(value).lower().split("x")
    whole = [str(size) for size in sizes if str(size).isdecimal()]
    fits = 1 <= len(sizes) == len(whole) <= 2 and not isinstance(value, bool)
    return f"{int(whole[0])}x{int(whole[-1])}" if fits else str(value)


def _is_size(text: str) -> bool:
    found = re.fullmatch(r"(\d{1,4})x(\d{1,4})", text)
    return found is not None and min(int(found[1]), int(found[2])) >= 2


Size = Annotated[
    str,
    Alias(_size, int | tuple[int, int]),
    Within(_is_size, "H or HxW, 2 to 9999, such as 64 or 48x80"),
]
_PICTURES = Only(
    "dataset", within=Within(of_pictures, "FOLDER, a zip or a tar of pictures, or tfds:NAME")
)


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """Which images to use, and how to preprocess their pixels."""

    dataset: str = "digits"
    """digits, sprites or sprites_color (built in), mnist, fashion_mnist, kmnist, cifar10,
    frey_faces, tfds:NAME (any image dataset of tensorflow-datasets), or the path of a folder of
    pictures (also a zip or tar of one), an .npz, .npy or IDX file, or a table (.csv, .parquet)."""

    data_dir: Annotated[str | None, Only("dataset", *IN_FOLDERS)] = None
    """Folder with the IDX files (.gz or not), the archive of CIFAR-10 or frey_faces.npz, or with a
    sub-folder of them named after the dataset. By default FLAXVAE_DATA_DIR if it is set, else
    tensorflow-datasets, where it has them."""

    binarization: Binarization = "none"
    """none: pixels in [0, 1]; dynamic: a new Bernoulli(pixel) draw every time an image is used;
    fixed: one such draw, the same in every run; threshold: pixel >= 0.5."""

    validation: Part | None = None
    """Fraction of the training images held out for the validation ELBO, at least one image; 0
    trains on all of them. By default 1/12; of a folder of pictures 1/20."""

    flip: bool = False
    """Mirror each training image left to right with probability 1/2 whenever it is used; never in
    evaluation. Not for images whose sides mean something, such as digits."""

    image_size: Annotated[Size | None, _PICTURES] = None
    """Height and width of the images, H or HxW; by default their own where it is the same, else
    64x64."""

    resize: Annotated[Resize, _PICTURES] = "crop"
    """How pictures get another shape: crop what sticks out, fit all of it with margins, or stretch
    it."""

    background: Annotated[Background, _PICTURES] = "white"
    """What is behind transparent pictures, and around those that --resize fit fits."""

    normal: tuple[str, ...] = ()
    """Classes to train and validate on; those of others are for tests, as anomalies."""

    strict: Annotated[bool, _PICTURES] = False
    """A file that cannot be read is an error, not a remark."""

    def __post_init__(self):
        declared.conform_fields(self)


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a run's data are now, if they have moved; their contents must be the same."""

    dataset: str | None = None
    """New path of the file or folder that the run was trained on."""

    data_dir: str | None = None
    """New path of the folder with the IDX files that the run was trained on."""

    def __post_init__(self):
        declared.conform_fields(self)


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """How a model is trained: gradient descent on the recipe's loss."""

    epochs: Count | None = None
    """Passes over the training images; by default the fewer the more images there are, such as 500
    of up to 3,000, and 20 of MNIST's."""

    batch_size: Positive = 128
    """Images per step, over all devices together."""

    accumulate: Positive = 1
    """Compute each batch in this many parts, one after another, to save memory. The result is that
    of the whole batch; it costs one more forward pass."""

    optimizer: Optimizer = "adam"
    """adam, or muon: roughly orthogonal steps for the layers' weights, and adam for the rest. With
    muon, mlp nets need far fewer epochs, though each costs more."""

    learning_rate: Rate = 1e-3
    """Step size of the optimizer; its peak, with a warm-up or a decay."""

    schedule: Schedule = "constant"
    """constant, or cosine decay to zero at the last step."""

    warmup_steps: Count = 0
    """Steps over which the learning rate rises linearly from zero."""

    clip_norm: AboveZero | None = None
    """Clip the global norm of the gradient to this value."""

    skip_norm: AboveZero | None = None
    """Leave out the updates of steps whose gradient has a global norm above this value, before any
    clipping (Child 2021); metrics.jsonl counts them as skipped_updates."""

    ema: Part | None = None
    """Decay of an exponential moving average of the weights (such as 0.999), used in evaluation."""

    patience: Positive | None = None
    """Stop after this many epochs without a better validation ELBO, and keep the best weights."""

    seed: Seed = 0
    """Determines the initial weights, the order of the images and all noise."""

    devices: Positive | None = None
    """Number of devices to use; by default all."""

    data_placement: Placement = "auto"
    """Where training images are: all on every device, or streamed to them in blocks, for data
    larger than memory; auto streams what would fill more than a quarter of a device's free memory.
    Results are the same."""

    shard_params: bool = False
    """Split parameters and optimizer state between the devices, for models too large for one."""

    on_nan: OnNan = "stop"
    """If a loss, gradient or state is not finite: stop, with the last good step saved; skip the
    step, at most ten in a row; or rollback to the last checkpoint with half the learning rate, at
    most three times."""

    checkpoint_every: Interval = "15s"
    """How often to save, in steps, epochs, seconds, minutes or hours: 500steps, 1epoch, 5min. The
    two newest checkpoints are kept, and of those at the end of an epoch the best by validation."""

    def __post_init__(self):
        declared.conform_fields(self)

    @property
    def open_ended(self) -> bool:
        """Whether more epochs may follow: the learning rate does not depend on their number."""
        return self.schedule == "constant"


@dataclasses.dataclass(frozen=True)
class Hosts:
    """Several processes, on one machine or many, that train one model together."""

    coordinator: str | None = None
    """HOST:PORT of process 0, with a free port on a trusted network; or auto under Slurm, Open MPI,
    Kubernetes or on a TPU pod."""

    num_processes: int | None = None
    """Number of processes; start each with the same flags."""

    process_id: int | None = None
    """Number of this process, from 0."""

    def __post_init__(self):
        declared.conform_fields(self)
        where, count, this = self.coordinator, self.num_processes, self.process_id
        if where is None:
            for name in ("num_processes", "process_id"):
                check(self, name, getattr(self, name) is None, "--coordinator HOST:PORT with it")
            return
        check(self, "num_processes", count is None or count >= 1, "1 or more")
        if where != "auto":
            host, _, port = where.rpartition(":")
            ok = host and port.isdecimal() and 0 < int(port) < 2**16
            check(self, "coordinator", bool(ok), "HOST:PORT of process 0, or auto")
            check(self, "num_processes", count is not None, "a number, with --coordinator")
            check(self, "process_id", this is not None, "a number, with --coordinator")
        if this is not None:
            last = "" if count is None else f" to {count - 1}, one for each of {count} processes"
            check(self, "process_id", 0 <= this < (count or this + 1), f"0{last or ' or more'}")


@dataclasses.dataclass(frozen=True)
class Body:
    """Networks and likelihood, which all models share."""

    net: Net = "auto"
    """conv (the tutorials' Conv 32, Conv 64, Dense 256), resnet, or mlp; auto: conv for images, mlp
    for anything else."""

    widths: Annotated[tuple[Positive, ...], Only("net", "mlp")] = (512, 256)
    """Hidden layer sizes of an mlp encoder; the decoder mirrors them."""

    activation: Annotated[Activation, Only("net", "mlp")] = "relu"
    """Activation of an mlp."""

    channels: Annotated[tuple[Positive, ...], Only("net", "resnet")] = ()
    """Channels of a resnet, one number for each halving of the image; by default 32, then 64 until
    its longer side is 8 or less."""

    blocks: Annotated[Count, Only("net", "resnet")] = 1
    """Residual blocks of a resnet after each halving."""

    convolutions: Annotated[Convolutions, Only("net", "conv", "resnet")] = "auto"
    """How convolutions are computed: gemm is fast on CPU, native on GPU and TPU; auto picks."""

    likelihood: Likelihood = "auto"
    """p(x|z); -log p(x|z) is the reconstruction loss. auto: by the data, as run.json then says.
    bernoulli: the BCE; continuous_bernoulli: its
    density on [0, 1]; gaussian, with fixed sigma: the MSE, as squared error / 2 sigma^2 plus the
    constant 1/2 D log 2 pi sigma^2 for D pixels; gaussian_shared: one learned sigma;
    gaussian_pixel: a learned sigma for each pixel; discretized_logistic and logistic_mixture: for
    8-bit values."""

    sigma: Annotated[AboveZero, Only("likelihood", "gaussian")] = 1.0
    """Standard deviation of likelihood gaussian."""

    components: Annotated[Positive, Only("likelihood", "logistic_mixture")] = 10
    """Components of a logistic mixture."""

    precision: Precision = "float32"
    """Precision in which encoder and decoder compute; parameters, KL and likelihood stay float32.
    bf16 is for GPU and TPU; on CPU it is slower."""

    remat: bool = False
    """Compute the blocks of a resnet or of deep_vae again for the gradient instead of storing their
    activations: less memory, more time."""

    def __post_init__(self):
        declared.conform_fields(self)


@dataclasses.dataclass(frozen=True)
class Bound:
    """How the evidence lower bound becomes a loss."""

    beta: NotNegative = 1.0
    """Weight of the KL: 1 is the ELBO; more than 1 encourages independent latents."""

    anneal: Annotated[Annealing, Only("beta")] = "none"
    """Raise the KL's weight from 0 to beta: linear, once; or cyclical, in cycles that rise in their
    first half and stay at beta in their second."""

    anneal_steps: Annotated[Positive, Only("anneal")] = 10_000
    """Steps of the linear rise, or of one cycle."""

    cycles: Annotated[Positive, Only("anneal", "cyclical")] = 4
    """Number of cycles, after which the weight stays at beta."""

    free_bits: Annotated[NotNegative, Only("beta")] = 0.0
    """KL in nats that costs nothing: the loss takes max(KL, free bits) of the batch's mean."""

    free_bits_per: Annotated[FreeBitsPer, Only("free_bits")] = "dimension"
    """Free bits for each latent dimension (block of a hierarchy, discrete variable), for each level
    of a hierarchy, or in total. A KL without closed form needs total."""

    balance: Annotated[bool, Only("anneal")] = False
    """Of a hierarchy: while the KL's weight rises, weight each block's KL by how much it says for
    its size, so that little-used blocks pay less."""

    kl: Kl = "closed_form"
    """closed_form, where the KL has one, or monte_carlo, from the same draws of z (not for discrete
    latents, whose draws have no gradient)."""

    samples: Positive = 1
    """Draws of z per image and step."""

    def __post_init__(self):
        declared.conform_fields(self)
        free = declared.is_on(self.free_bits)
        each = free and self.free_bits_per != "total"
        if self.balance and (free or self.kl != "closed_form"):
            other = "--free-bits" if free else f"--kl {self.kl}"
            raise UsageError(f"--balance with {other}: expected one of them")
        expected = "closed_form with --free-bits for every dimension, or --free-bits-per total"
        check(self, "kl", self.kl == "closed_form" or not each, expected)
        last = self.anneal_steps * self.cycles
        check(self, "cycles", last <= declared.MOST, f"at most {declared.MOST} steps in all")


def asdict(settings: Any) -> dict[str, Any]:
    """The fields of a settings record, as stored in ``run.json``."""
    return dataclasses.asdict(settings)
