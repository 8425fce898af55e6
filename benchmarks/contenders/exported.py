"""The score of one image: by the run itself, and by two programs that were exported from it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

from benchmarks.case import Case

TO = ("onnx", "torch")


def make(folder: Path, case: Case) -> None:
    """A run of the network of ``case`` and its exports; times do not depend on its weights."""
    import flaxvae
    from flaxvae.export import formats

    x, net = case.data(), case.shape
    run = flaxvae.train(
        {"x_train": x, "x_test": x},
        net=net.kind,
        latent_dim=net.latents,
        likelihood="bernoulli",
        epochs=0,
        run=str(folder / "run"),
        progress=False,
    )
    for to in TO:
        formats.write(run, to, folder / to)


def _again(function: Callable[[], object]) -> Callable[[int], None]:
    def run(steps: int) -> None:
        for _ in range(steps):
            function()

    return run


def ours(case: Case) -> Callable[[int], None]:
    import flaxvae

    run, x = flaxvae.load(f"{case.exported}/run"), case.data()[:1, ..., None]
    return _again(lambda: run.score(x))


def onnx(case: Case) -> Callable[[int], None]:
    import onnxruntime

    scorer = onnxruntime.InferenceSession(f"{case.exported}/onnx/scorer.onnx")
    x = {"image": case.data()[:1, ..., None]}
    return _again(lambda: scorer.run(["score"], x))


def pytorch(case: Case) -> Callable[[int], None]:
    import torch

    path = f"{case.exported}/torch/model.py"
    spec = importlib.util.spec_from_file_location("model", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model, x = module.load(), torch.from_numpy(case.data()[:1, None]).float() / 255
    return _again(lambda: model.score(x))


CONTENDERS = {"flaxvae score": ours, "onnx score": onnx, "torch score": pytorch}
