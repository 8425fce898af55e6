"""PyTorch, eager: with a DataLoader as in the tutorials, and with the data in one tensor.

On a GPU the network can also be compiled, and a whole step recorded as a CUDA graph.
"""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.case import Case
from benchmarks.nets import IMAGES_AT_ONCE

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cuda":
    torch.set_float32_matmul_precision("high")  # factors of 10 bits, as JAX has by default


class Vae(nn.Module):
    def __init__(self, case: Case):
        super().__init__()
        net, small = case.shape, -(-case.size // 4)
        act = {"relu": nn.ReLU, "tanh": nn.Tanh}[net.activation]
        if net.kind == "conv":
            self.encoder = nn.Sequential(
                *(nn.Conv2d(1, 32, 3, 2, 1), act(), nn.Conv2d(32, 64, 3, 2, 1), act()),
                *(nn.Flatten(), nn.Linear(small * small * 64, 256), act()),
            )
            self.decoder = nn.Sequential(
                *(nn.Linear(net.latents, 256), act(), nn.Linear(256, small * small * 64), act()),
                nn.Unflatten(1, (64, small, small)),
                *(nn.ConvTranspose2d(64, 32, 3, 2, 1, 1), act()),
                nn.ConvTranspose2d(32, 1, 3, 2, 1, 1),
            )
            last = 256
        else:
            widths = (case.size**2, *net.widths)
            hidden = [m for a, b in itertools.pairwise(widths) for m in (nn.Linear(a, b), act())]
            self.encoder = nn.Sequential(nn.Flatten(), *hidden)
            back = (net.latents, *reversed(net.widths))
            hidden = [m for a, b in itertools.pairwise(back) for m in (nn.Linear(a, b), act())]
            self.decoder = nn.Sequential(*hidden, nn.Linear(widths[1], widths[0]))
            last = net.widths[-1]
        self.mean, self.log_var = nn.Linear(last, net.latents), nn.Linear(last, net.latents)

    def forward(self, x):
        h = self.encoder(x)
        mean, log_var = self.mean(h), self.log_var(h)
        z = mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)
        return self.decoder(z), mean, log_var


def _step(case: Case, compiled: bool = False, recorded: bool = False):
    model = Vae(case).to(DEVICE)
    fused = DEVICE == "cuda"
    adam = torch.optim.Adam(model.parameters(), lr=1e-3, fused=fused, capturable=recorded)
    forward = torch.compile(model) if compiled else model

    def step(x):
        logits, mean, log_var = forward(x)
        bce = F.binary_cross_entropy_with_logits(logits.view_as(x), x, reduction="sum")
        kl = 0.5 * (mean**2 + log_var.exp() - 1 - log_var).sum()
        loss = (bce + kl) / len(x)
        adam.zero_grad()
        loss.backward()
        adam.step()

    return step


def _done() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


class _Images(Dataset):
    """What torchvision's MNIST with ToTensor does for an item."""

    def __init__(self, images):
        self.images = torch.from_numpy(images)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return self.images[i].unsqueeze(0).to(torch.float32).div(255)


def loader(case: Case):
    step = _step(case)
    batches = DataLoader(_Images(case.data()), case.batch, shuffle=True, drop_last=True)
    source = iter(batches)

    def run(steps: int) -> None:
        nonlocal source
        for _ in range(steps):
            x = next(source, None)
            if x is None:
                source = iter(batches)
                x = next(source)
            step(x.to(DEVICE))
        _done()

    run(2)
    return run


def _tensors(**options):
    def make(case: Case):
        step, images = _step(case, **options), torch.from_numpy(case.data()).to(DEVICE)

        def run(steps: int) -> None:
            for _ in range(steps):
                rows = torch.randint(0, case.images, (case.batch,), device=DEVICE)
                step(images[rows].unsqueeze(1).to(torch.float32).div(255))
            _done()

        run(3)
        return run

    return make


def graph(case: Case):
    """As "torch tensors", of which a whole step is recorded once and played again."""
    step, images = _step(case, recorded=True), torch.from_numpy(case.data()).to(DEVICE)
    rows = torch.zeros(case.batch, dtype=torch.int64, device=DEVICE)

    def whole() -> None:
        rows.random_(0, case.images)
        step(images[rows].unsqueeze(1).to(torch.float32).div(255))

    play = record(whole)

    def run(steps: int) -> None:
        for _ in range(steps):
            play()
        _done()

    run(3)
    return run


def record(step):
    """A CUDA graph of a step, after the few that PyTorch asks for on another stream."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    recorded = torch.cuda.CUDAGraph()
    with torch.cuda.graph(recorded):
        step()
    return recorded.replay


@torch.no_grad()
def _log_px(model, case: Case, x):
    """log 1/k sum_i w_i of images x, the draws in chunks of 500 decodings."""
    h = model.encoder(x)
    mean, log_var = model.mean(h), model.log_var(h)
    chunk, total = max(500 // len(x), 1), None
    for _ in range(case.k // chunk):
        noise = torch.randn(chunk, *mean.shape, device=DEVICE)
        z = mean + torch.exp(0.5 * log_var) * noise
        logits = model.decoder(z.flatten(0, 1)).view(chunk, len(x), -1)
        log_px = (x.flatten(1) * logits - F.softplus(logits)).sum(-1)
        log_w = log_px + 0.5 * (noise**2 + log_var - z**2).sum(-1)
        part = torch.logsumexp(log_w, 0)
        total = part if total is None else torch.logaddexp(total, part)
    return total - math.log(case.k)


def likelihood(case: Case):
    model, images = Vae(case).to(DEVICE), torch.from_numpy(case.data()).to(DEVICE)

    def run(steps: int) -> None:
        for i in range(steps):
            first = i * IMAGES_AT_ONCE % case.images
            x = images[first : first + IMAGES_AT_ONCE]
            _log_px(model, case, x.unsqueeze(1).to(torch.float32).div(255))
        _done()

    run(1)
    return run


def evaluation(case: Case):
    """The ELBO of each image; a step is a pass over all."""
    model, images = Vae(case).to(DEVICE), torch.from_numpy(case.data()).to(DEVICE)

    @torch.no_grad()
    def run(passes: int) -> None:
        for _ in range(passes):
            elbo = []
            for part in images.split(512):
                x = part.unsqueeze(1).to(torch.float32).div(255)
                logits, mean, log_var = model(x)
                x, logits = x.flatten(1), logits.flatten(1)
                bce = F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)
                kl = 0.5 * (mean**2 + log_var.exp() - 1 - log_var).sum(-1)
                elbo.append(-bce - kl)
            torch.cat(elbo).cpu()

    run(1)
    return run


CONTENDERS = {
    "torch DataLoader": loader,
    "torch tensors": _tensors(),
    "torch tuned": _tensors(),  # in a process whose malloc keeps its memory, see workers.TUNED
    "torch compiled": _tensors(compiled=True),
    "torch graph": graph,
    "torch evaluation": evaluation,
    "torch likelihood": likelihood,
}
