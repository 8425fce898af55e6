"""What a person can choose: data, training, and what models have in common.

A model's own choices are its recipe's (``zoo``).

Plain frozen dataclasses: the command line takes its flags and help texts from them, and a
run folder stores them in ``run.json``. Nothing here imports JAX, so ``--help`` is quick.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Annotated, Any, Literal

from flaxvae import declared
from flaxvae.declared import AboveZero, Count, NotNegative, Only, Part, Positive, Seed, Within
from flaxvae.errors import UsageError

Binarization = Literal["none", "dynamic", "fixed", "threshold"]
Optimizer = Literal["adam", "muon"]
Schedule = Literal["constant", "cosine"]
Net = Literal["conv", "resnet", "mlp"]
Activation = Literal["relu", "tanh", "gelu", "silu", "elu"]
Precision = Literal["float32", "bf16"]
Likelihood = Literal[
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
FreeBitsPer = Literal["dimension", "total"]
OnNan = Literal["stop", "skip", "rollback"]
IN_FOLDERS = ("mnist", "fashion_mnist", "kmnist")  # datasets that a folder of IDX files may hold
# Far below float32's largest number: steps of any finite gradient are finite, too.
Rate = Annotated[float, Within(lambda x: 0 < x <= 1e30, "above 0, at most 1e30")]


def check(settings: Any, name: str, ok: bool, expected: str) -> None:
    """Raises UsageError, with the flag and the value seen, unless ``ok``."""
    if not ok:
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


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """Which images, and what is done to their pixels."""

    dataset: str = "digits"
    """digits (built in), mnist, fashion_mnist, kmnist, or the path of an .npz or .npy file."""

    data_dir: Annotated[str | None, Only("dataset", *IN_FOLDERS)] = None
    """Folder with IDX files (.gz or not), in it or in a sub-folder named after the dataset;
    else the FLAXVAE_DATA_DIR variable, else tensorflow-datasets."""

    binarization: Binarization = "none"
    """none: pixels in [0, 1]; dynamic: Bernoulli(pixel) drawn anew at every visit;
    fixed: one such draw, the same in every run; threshold: pixel >= 0.5."""

    validation: Part = 1 / 12
    """Part of the training images held out for the validation ELBO, at least one of them; 0 trains
    on all."""

    def __post_init__(self):
        declared.conform_fields(self)


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a run's data are now, if not where they were; they have to be the same."""

    dataset: str | None = None
    """The .npz or .npy file that the run was trained on, where it is now."""

    data_dir: str | None = None
    """The folder with the IDX files that the run was trained on, where it is now."""

    def __post_init__(self):
        declared.conform_fields(self)


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """How a model learns: descent on the recipe's loss."""

    epochs: Count | None = None
    """Passes over the training images; by default what the dataset suggests
    (digits 500, mnist 20)."""

    batch_size: Positive = 128
    """Images a step, over all devices together."""

    accumulate: Positive = 1
    """Compute the batch in so many parts, one after another, where memory does not hold it at once;
    the result is that of the whole batch, for the time of one more forward pass."""

    optimizer: Optimizer = "adam"
    """adam, or muon: roughly orthogonal steps for the layers' weights (mlp nets learn in far fewer
    epochs, each of which costs more), adam for the rest."""

    learning_rate: Rate = 1e-3
    """The optimizer's step size (its peak, with a warm-up or a decay)."""

    schedule: Schedule = "constant"
    """constant, or cosine decay to zero at the last step."""

    warmup_steps: Count = 0
    """Steps over which the learning rate rises linearly from zero."""

    clip_norm: AboveZero | None = None
    """Clip the gradient's global norm to this."""

    ema: Part | None = None
    """Decay of an exponential moving average of the weights (e.g. 0.999), used in evaluation."""

    patience: Positive | None = None
    """Stop after this many epochs without a better validation ELBO; the best weights are kept."""

    seed: Seed = 0
    """Decides initial weights, order of images and all noise."""

    devices: Positive | None = None
    """Devices to use; by default all."""

    shard_params: bool = False
    """Share parameters and optimizer state out between the devices, for models that fill one."""

    on_nan: OnNan = "stop"
    """On a loss, gradient or state that is not finite: stop, saved at the last good step;
    skip that step, ten in a row at most; or rollback to the last checkpoint with half the learning
    rate, three times at most."""

    checkpoint_every: Interval = "15s"
    """Save every so many steps, epochs, seconds, minutes or hours: 500steps, 1epoch, 5min. The two
    newest are kept, and of those at an epoch's end the best by validation."""

    def __post_init__(self):
        declared.conform_fields(self)

    @property
    def open_ended(self) -> bool:
        """Whether more epochs may follow: the learning rate does not depend on their number."""
        return self.schedule == "constant"


@dataclasses.dataclass(frozen=True)
class Hosts:
    """Several processes, on one machine or many, that train one model on all their devices."""

    coordinator: str | None = None
    """HOST:PORT of process 0, a free port on a trusted network; or auto where Slurm, Open MPI,
    Kubernetes or a TPU pod tell it all."""

    num_processes: int | None = None
    """How many processes there are; each is started with the same flags."""

    process_id: int | None = None
    """Which one this is, from 0."""

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
    """Networks and likelihood, which every model has."""

    net: Net = "conv"
    """conv (the tutorials' Conv 32, Conv 64, Dense 256), resnet, or mlp."""

    widths: Annotated[tuple[Positive, ...], Only("net", "mlp")] = (512, 256)
    """Hidden layers of an mlp encoder; the decoder mirrors them."""

    activation: Annotated[Activation, Only("net", "mlp")] = "relu"
    """Of an mlp."""

    channels: Annotated[
        tuple[Positive, ...], Within(bool, "1 or more each"), Only("net", "resnet")
    ] = (32, 64)
    """Feature maps of a resnet, one number for each halving of the image."""

    blocks: Annotated[Count, Only("net", "resnet")] = 1
    """Residual blocks of a resnet after each halving."""

    likelihood: Likelihood = "bernoulli"
    """p(x|z), whose -log is the reconstruction loss. bernoulli: the BCE; continuous_bernoulli, its
    density on [0, 1]; gaussian with sigma fixed: the MSE, as squared error / 2 sigma^2 plus the
    constant 1/2 D log 2 pi sigma^2 of D pixels; with one sigma learned (gaussian_shared) or one a
    pixel (gaussian_pixel); for 8-bit values discretized_logistic or logistic_mixture."""

    sigma: Annotated[AboveZero, Only("likelihood", "gaussian")] = 1.0
    """Standard deviation of the fixed gaussian."""

    components: Annotated[Positive, Only("likelihood", "logistic_mixture")] = 10
    """Of a logistic mixture."""

    precision: Precision = "float32"
    """What encoder and decoder compute in; parameters, KL and likelihood stay float32. bf16 is for
    GPU and TPU, on CPU it is slower."""

    remat: Annotated[bool, Only("net", "resnet")] = False
    """Compute a resnet's blocks a second time for their gradient instead of keeping what they
    computed: less memory, more time."""

    def __post_init__(self):
        declared.conform_fields(self)


@dataclasses.dataclass(frozen=True)
class Bound:
    """How the evidence lower bound is made a loss."""

    beta: NotNegative = 1.0
    """Weight of the KL: 1 is the ELBO; above 1 presses for independent latents."""

    anneal: Annotated[Annealing, Only("beta")] = "none"
    """Raise the KL's weight from 0 to beta: linear, once, or cyclical, in cycles that rise for
    their first half and rest in the second."""

    anneal_steps: Annotated[Positive, Only("anneal")] = 10_000
    """Steps of the linear rise, or of one cycle."""

    cycles: Annotated[Positive, Only("anneal", "cyclical")] = 4
    """Cycles, after which the weight stays at beta."""

    free_bits: Annotated[NotNegative, Only("beta")] = 0.0
    """KL in nats that is not penalised: the loss takes max(KL, free bits), of the batch's mean."""

    free_bits_per: Annotated[FreeBitsPer, Only("free_bits")] = "dimension"
    """Free bits for every latent dimension (level of a hierarchy, discrete variable), or in total,
    as a KL without closed form has to have them."""

    kl: Kl = "closed_form"
    """The KL in closed form where there is one, or by Monte Carlo from the same draws (not of
    discrete ones, which have no gradient)."""

    samples: Positive = 1
    """Draws of z for each image and step."""

    def __post_init__(self):
        declared.conform_fields(self)
        each = self.free_bits > 0 and self.free_bits_per == "dimension"
        expected = "closed_form with --free-bits for every dimension, or --free-bits-per total"
        check(self, "kl", self.kl == "closed_form" or not each, expected)
        last = self.anneal_steps * self.cycles
        check(self, "cycles", last <= declared.MOST, f"at most {declared.MOST} steps in all")


def asdict(settings: Any) -> dict[str, Any]:
    """The fields of a settings record, as ``run.json`` stores them."""
    return dataclasses.asdict(settings)
