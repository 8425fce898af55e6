"""The networks of photographs in PyTorch: ``vae --net resnet`` and ``deep_vae``.

Parameters have flaxvae's names, so that the two can exchange weights; tests/test_benchmarks.py
compares losses and gradients.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.case import Case
from benchmarks.contenders.pytorch import DEVICE, record

SIGMA_RANGE = 2 * math.log(0.01), 0.0  # of a learned sigma's log-variance
LOG_VAR_RANGE = 5.0  # of deep_vae's log-variances, on both sides of 0
# deep_vae's levels by default: side, blocks, channels, channels of latents
LEVELS = {
    28: ((14, 2, 16, 1), (7, 3, 32, 2), (4, 2, 64, 4), (1, 1, 64, 16)),
    32: ((16, 2, 16, 1), (8, 2, 32, 2), (4, 2, 64, 4), (1, 1, 64, 16)),
}


def _conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2)


def _up(inputs: int, outputs: int, size: int) -> nn.ConvTranspose2d:
    """Twice as large, to the given size, which may be odd."""
    return nn.ConvTranspose2d(inputs, outputs, 3, 2, 1, 1 - size % 2)


class Residual(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv_0, self.conv_1 = _conv(channels, channels), _conv(channels, channels)

    def forward(self, x):
        return x + self.conv_1(F.silu(self.conv_0(F.silu(x))))


class Likelihood(nn.Module):
    """-log p(x) of each image, summed over pixels: Bernoulli, or a Gaussian, one sigma for all."""

    def __init__(self, channels: int):
        super().__init__()
        self.raw_log_var = nn.Parameter(torch.zeros(())) if channels > 1 else None

    def forward(self, raw, x):
        if self.raw_log_var is None:
            losses = F.binary_cross_entropy_with_logits(raw, x, reduction="none")
            return losses.flatten(1).sum(1)
        low, high = SIGMA_RANGE
        log_var = low + (high - low) * torch.sigmoid(4 * self.raw_log_var / (high - low))
        error = (raw - x).square().flatten(1).sum(1)
        constant = (math.log(2 * math.pi) + log_var) * x[0].numel()
        return 0.5 * (constant + error * torch.exp(-log_var))


class Resnet(nn.Module):
    """Stem; two halvings, each with a residual block; Dense 256; Gaussian latents; and back."""

    def __init__(self, case: Case, channels: tuple[int, int] = (32, 64)):
        super().__init__()
        (c, d), latents, small = channels, case.shape.latents, case.size // 4
        self.shape = d, small, small
        features = math.prod(self.shape)
        self.encoder = nn.ModuleDict(
            {
                "stem": _conv(case.channels, c),
                "conv_0": _conv(c, c, stride=2),
                "block_0_0": Residual(c),
                "conv_1": _conv(c, d, stride=2),
                "block_1_0": Residual(d),
                "dense": nn.Linear(features, 256),
                "heads": nn.ModuleDict(
                    {name: nn.Linear(256, latents) for name in ("mean", "log_var")}
                ),
            }
        )
        self.decoder = nn.ModuleDict(
            {
                "dense_0": nn.Linear(latents, 256),
                "dense_1": nn.Linear(256, features),
                "block_1_0": Residual(d),
                "conv_1": _up(d, c, case.size // 2),
                "block_0_0": Residual(c),
                "conv_0": _up(c, c, case.size),
                "stem": _conv(c, case.channels),
            }
        )
        self.likelihood = Likelihood(case.channels)

    def forward(self, x, noise=None):
        """-ELBO, averaged over images."""
        e, d = self.encoder, self.decoder
        h = F.silu(e["stem"](x))
        for i in range(2):
            h = F.silu(e[f"block_{i}_0"](e[f"conv_{i}"](h)))
        h = F.silu(e["dense"](h.flatten(1)))
        mean, log_var = e["heads"]["mean"](h), e["heads"]["log_var"](h)
        noise = torch.randn_like(mean) if noise is None else noise
        z = mean + torch.exp(0.5 * log_var) * noise
        kl = 0.5 * (mean.square() + log_var.exp() - 1 - log_var).sum(1)
        h = d["dense_1"](F.silu(d["dense_0"](z))).unflatten(1, self.shape)
        for i in (1, 0):
            h = d[f"conv_{i}"](F.silu(d[f"block_{i}_0"](h)))
        raw = d["stem"](F.silu(h))
        return (self.likelihood(raw, x) + kl).mean()


def _bounded(raw):
    return LOG_VAR_RANGE * torch.tanh(raw / LOG_VAR_RANGE)


class Block(nn.Module):
    """One step down deep_vae: (stream, features, noise) -> (stream, KL of each image)."""

    def __init__(self, width: int, latents: int, point: bool):
        super().__init__()
        kernel, self.latents, self.width = 1 if point else 3, latents, width
        self.prior_0 = _conv(width, width, kernel)
        self.prior_1 = _conv(width, 2 * latents + width, 1)
        self.posterior_s = _conv(width, width, kernel)
        self.posterior_e = _conv(width, width, kernel)
        self.posterior_1 = _conv(width, 2 * latents, 1)
        self.z = _conv(latents, width, 1)
        self.residual = nn.Identity() if point else Residual(width)

    def forward(self, stream, features, noise):
        active = F.silu(stream)
        sizes = (self.latents, self.latents, self.width)
        mean, log_var, more = self.prior_1(F.silu(self.prior_0(active))).split(sizes, 1)
        hidden = self.posterior_s(active) + self.posterior_e(F.silu(features))
        shift, spread = self.posterior_1(F.silu(hidden)).chunk(2, 1)
        log_var, spread = _bounded(log_var), _bounded(spread)
        noise = torch.randn_like(shift) if noise is None else noise
        relative = shift + torch.exp(0.5 * spread) * noise
        z = mean + torch.exp(0.5 * log_var) * relative
        kl = 0.5 * (shift.square() + torch.expm1(spread) - spread)
        return self.residual(stream + more + self.z(z)), kl.flatten(1).sum(1)


class Deep(nn.Module):
    """A pyramid of features, and blocks down from one point to the image."""

    def __init__(self, case: Case):
        super().__init__()
        self.levels = LEVELS[case.size]
        sizes = [case.size]
        while sizes[-1] > 1:
            sizes.append(-(-sizes[-1] // 2))
        self.encoder, self.decoder = nn.ModuleDict(), nn.ModuleDict()
        level = {side: number for number, (side, *_) in enumerate(self.levels)}
        inputs, width = case.channels, self.levels[0][2]
        for i, side in enumerate(sizes[1:], 1):
            width = next(w for s, _, w, _ in self.levels if s <= side)
            self.encoder[f"down_{i}"] = _conv(inputs, width, stride=2)
            inputs = width
            if side in level:
                self.encoder[f"block_{i}"] = Residual(width)
        self.start = nn.Parameter(torch.randn(1, width, 1, 1))
        for i in reversed(range(len(sizes))):
            side = sizes[i]
            if side > 1:
                width = next((w for s, _, w, _ in self.levels if s == side), inputs)
                self.decoder[f"up_{i}"] = _up(inputs, width if i else case.channels, side)
                inputs = width
            if side in level:
                _, blocks, width, latents = self.levels[level[side]]
                for b in range(blocks):
                    name = f"block_{level[side]}_{b}"
                    self.decoder[name] = Block(width, latents, side == 1)
        self.likelihood = Likelihood(case.channels)

    def forward(self, x, noise=None):
        """-ELBO, averaged over images; noise: of each block, the first at the top."""
        h, features = x, []
        for name, layer in self.encoder.items():
            if name.startswith("block"):
                h = layer(h)
                features.append(h)
            else:
                h = layer(h if h is x else F.silu(h))
        stream, kl, given = self.start.expand(len(x), -1, -1, -1), 0.0, iter(noise or ())
        for name, layer in self.decoder.items():
            if name.startswith("block"):
                number = int(name.split("_")[1])
                stream, one = layer(stream, features[number], next(given, None))
                kl = kl + one
            else:
                stream = layer(F.silu(stream))
        return (self.likelihood(stream, x) + kl).mean()


MODELS = {"resnet": Resnet, "deep": Deep}


def _training(channels_last: bool = False, compiled: bool = False, recorded: bool = False):
    layout = torch.channels_last if channels_last else torch.contiguous_format

    def make(case: Case):
        model = MODELS[case.net](case).to(DEVICE, memory_format=layout)
        adam = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True, capturable=recorded)
        loss_of = torch.compile(model) if compiled else model
        images = torch.from_numpy(case.data().reshape(case.images, case.size, case.size, -1))
        images = images.permute(0, 3, 1, 2).contiguous(memory_format=layout).to(DEVICE)
        rows = torch.zeros(case.batch, dtype=torch.int64, device=DEVICE)

        def step() -> None:
            rows.random_(0, case.images)
            x = images[rows].to(torch.float32, memory_format=layout).div(255)
            adam.zero_grad()
            loss_of(x).backward()
            adam.step()

        once = record(step) if recorded else step

        def run(steps: int) -> None:
            for _ in range(steps):
                once()
            if DEVICE == "cuda":
                torch.cuda.synchronize()

        run(3)
        return run

    return make


CONTENDERS = {
    "torch tensors": _training(),
    "torch tuned": _training(),
    "torch channels_last": _training(channels_last=True),
    "torch compiled": _training(compiled=True),
    "torch graph": _training(channels_last=True, recorded=True),
}
