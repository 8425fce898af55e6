"""Every setting that ``flaxvae.train`` takes by keyword, for editors and type checkers.

What each of them does is said where it is declared: in ``settings`` and in the recipes of ``zoo``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from flaxvae.settings import (
    Activation,
    Annealing,
    Background,
    Binarization,
    Convolutions,
    FreeBitsPer,
    Kl,
    Likelihood,
    Net,
    OnNan,
    Optimizer,
    Placement,
    Precision,
    Resize,
    Schedule,
)
from flaxvae.zoo import Codebook, FlowKind, Gradient, Kernel, Noise


class Choices(TypedDict, total=False):
    # The data
    dataset: str
    data_dir: str | None
    binarization: Binarization
    validation: float | None
    flip: bool
    image_size: str | int | tuple[int, int] | None
    resize: Resize
    background: Background
    normal: Sequence[str]
    strict: bool
    # The training
    epochs: int | None
    batch_size: int
    accumulate: int
    optimizer: Optimizer
    learning_rate: float
    schedule: Schedule
    warmup_steps: int
    clip_norm: float | None
    skip_norm: float | None
    ema: float | None
    patience: int | None
    seed: int
    devices: int | None
    data_placement: Placement
    shard_params: bool
    on_nan: OnNan
    checkpoint_every: str
    # What models have in common
    net: Net
    widths: Sequence[int]
    activation: Activation
    channels: Sequence[int]
    blocks: int
    convolutions: Convolutions
    likelihood: Likelihood
    sigma: float
    components: int
    precision: Precision
    remat: bool
    beta: float
    anneal: Annealing
    anneal_steps: int
    cycles: int
    free_bits: float
    free_bits_per: FreeBitsPer
    balance: bool
    kl: Kl
    samples: int
    # Models' own
    latent_dim: int
    noise: Noise
    level: float
    capacity: float | None
    capacity_steps: int
    k: int
    gradient: Gradient
    alpha: float
    gamma: float
    discriminator: Sequence[int]
    mmd_weight: float
    kernel: Kernel
    flow: FlowKind
    flow_steps: int
    flow_width: int
    pseudo_inputs: int
    prior_components: int
    latent_dims: Sequence[int]
    width: int
    latent_channels: Sequence[int]
    level_widths: Sequence[int]
    levels: Sequence[str]
    share_top: bool
    variables: int
    categories: int
    temperature: float
    min_temperature: float
    temperature_rate: float
    straight_through: bool
    codes: int
    code_dim: int
    codebook: Codebook
    commitment: float
    decay: float
    prior_width: int
    prior_layers: int
