"""A VAE as one readable file of PyTorch, ``model.py``, with its weights beside it.

For Gaussian latents with the prior N(0, I), networks mlp, conv and resnet. The file is
``model.py.txt`` with the blocks that this model needs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flaxvae import writing, zoo
from flaxvae.errors import UsageError
from flaxvae.export import layouts, safetensors
from flaxvae.runs import export_folder
from flaxvae.runs.run import Run

ACTIVATIONS = {
    "relu": "nn.ReLU",
    "tanh": "nn.Tanh",
    "gelu": 'lambda: nn.GELU(approximate="tanh")',
    "silu": "nn.SiLU",
    "elu": "nn.ELU",
}
NORMAL = ("gaussian", "gaussian_shared", "gaussian_pixel")
LIKELIHOODS = ("bernoulli", "continuous_bernoulli", *NORMAL, "discretized_logistic")
TWICE = ("gaussian_pixel", "discretized_logistic")  # two values for each of x


def check(run: Run) -> None:
    """Raises UsageError for a model that is not such a VAE."""
    params, recipe, arguments = run.variables["params"], run.recipe, run.plan.arguments
    heads = params.get("encoder", {}).get("heads", {})
    why = ""
    if run.plan.function not in zoo.RECIPES.values() and run.plan.function not in zoo.RECIPES:
        why = "a recipe from outside"
    elif {*heads} != {"mean", "log_var"} or "latents" in params or not recipe.standard_prior:
        why = f"{run.plan.model} has other latents"
    elif recipe.classes is not None:
        why = f"{run.plan.model} is conditional"
    elif arguments.get("precision") != "float32":
        why = "it computes in bf16"
    elif _settled(run)["likelihood"] not in LIKELIHOODS:
        why = f"likelihood {_settled(run)['likelihood']}"
    if why:
        raise UsageError(
            f"--to torch: {why}: expected Gaussian latents, the prior N(0, I), and likelihood "
            f"{', '.join(LIKELIHOODS)}; choose jax, which takes all"
        )


def write(run: Run, folder: Path) -> str:
    """Write model.py and weights.safetensors; returns how to use them, in Markdown."""
    state = state_dict(run)
    words = {"format": "pt", "model": run.plan.model, "data": run.spec.name}
    safetensors.write(folder / "weights.safetensors", state, words)
    thresholds = export_folder.thresholds(run)
    limit = thresholds["elbo"]["threshold"] if "elbo" in thresholds else None
    writing.text(folder / "model.py", source(run, limit))
    shape = ", ".join(map(str, _first(run.spec.shape)))
    flagged = ""
    if limit is not None:
        flagged = f"`model.unusual(x)` compares `score` with the threshold, {limit:.6g} nats.\n"
    return f"""\
`model.py` is the network in PyTorch, without flaxvae; `weights.safetensors` are its weights. Images
have their channels first, [N, {shape}]:

```python
from model import load

model = load()
mean, log_var = model.encode(x)
images = model.decode(mean)
```

{flagged}"""


def _first(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of an example with its channels first."""
    return (shape[-1], *shape[:-1])


def _settled(run: Run) -> Mapping[str, Any]:
    return run.plan.settled(run.spec).arguments


def _layers(run: Run) -> layouts.Layers:
    own = _settled(run)
    channels = (32, 64) if own["net"] == "conv" else own["channels"]
    values = run.spec.shape[-1] * (1 + (own["likelihood"] in TWICE))
    return layouts.layers(
        own["net"], run.spec.shape, values, own["widths"], channels, own["blocks"]
    )


def state_dict(run: Run) -> dict[str, np.ndarray]:
    """The weights by the names that the modules of model.py give them."""
    params = jax.device_get(run.variables["params"])
    found, own = _layers(run), _settled(run)
    state: dict[str, np.ndarray] = {}

    def put(name: str, layer: layouts.Layer) -> None:
        state[f"{name}.weight"], state[f"{name}.bias"] = layouts.to_torch(layer, params)

    encoder, decoder = _numbers(own, found)
    for name, layer in zip(encoder, found.encoder, strict=True):
        put(f"encoder.{name}", layer)
    put("mean", found.mean)
    put("log_var", found.log_var)
    for name, layer in zip(decoder, found.decoder, strict=True):
        put(f"decoder.{name}", layer)
    if own["likelihood"] == "gaussian_shared":
        state["raw_log_var"] = np.asarray(params["likelihood"]["raw_log_var"])
    return state


def _numbers(own: Mapping[str, Any], found: layouts.Layers) -> tuple[list[str], list[str]]:
    """What the layers are called in ``nn.Sequential``: their places among all modules."""
    if own["net"] == "mlp":
        count = len(own["widths"])
        return [str(1 + 2 * i) for i in range(count)], [str(2 * i) for i in range(count + 1)]
    stem, sizes = own["net"] == "resnet", 2 if own["net"] == "conv" else len(own["channels"])
    blocks = own["blocks"] if stem else 0

    def residual(at: int) -> list[str]:
        return [f"{at + j}.conv_{k}" for j in range(blocks) for k in range(2)]

    encoder, at = (["0"], 2) if stem else ([], 0)
    for _ in range(sizes):
        encoder += [str(at), *residual(at + 1)]
        at += blocks + 2  # and the activation
    encoder.append(str(at + 1))
    decoder, at = ["0", "2"], 4
    for _ in range(sizes):
        decoder += [*residual(at), str(at + blocks + 1)]
        at += blocks + 2
    return encoder, decoder + ([str(at + 1)] if stem else [])


def source(run: Run, threshold: float | None) -> str:
    """model.py: the template's blocks for this model, with its settings."""
    own, spec = _settled(run), run.spec
    net, likelihood = own["net"], own["likelihood"]
    wanted = {net, likelihood} | ({"images"} if net != "mlp" else set())
    wanted |= {"normal"} if likelihood in NORMAL else set()
    wanted |= {"learned"} if likelihood in NORMAL[1:] else set()
    wanted |= {"threshold"} if threshold is not None else set()
    values: dict[str, Any] = {
        "SHAPE": _first(spec.shape),
        "LATENTS": run.latent_size,
        "VALUES": spec.shape[-1] * (1 + (likelihood in TWICE)),
    }
    if net == "mlp":
        values["WIDTHS"] = tuple(own["widths"])
    else:
        values["CHANNELS"] = (32, 64) if net == "conv" else tuple(own["channels"])
    if net == "resnet":
        values["BLOCKS"] = own["blocks"]
    if likelihood == "gaussian":
        values["LOG_VAR"] = 2 * math.log(own["sigma"])
    if likelihood == "discretized_logistic":
        values["LEVELS"] = spec.levels
    if threshold is not None:
        values["THRESHOLD"] = threshold
    lines = [f"{name} = {value!r}" for name, value in values.items()]
    activation = {"conv": "relu", "resnet": "silu"}.get(net, own["activation"])
    lines.append(f"ACTIVATION = {ACTIVATIONS[activation]}")
    template = resources.files("flaxvae.export").joinpath("model.py.txt").read_text("utf-8")
    text = kept(template, wanted, "\n".join(lines))
    safe = re.sub(r"[^\w ,.()\[\]-]", "?", f"{run.plan.model} on {spec.name}")
    return text.replace("TITLE", f"A VAE that flaxvae trained: {safe}.", 1)


def kept(template: str, wanted: Collection[str], settings: str) -> str:
    """The template without the blocks that are not wanted, and without marks.

    A block is between the lines "# <name>" and "# </name>"; that of the settings is replaced.
    """
    lines, out, open_ = template.split("\n"), list[str](), list[str]()
    for line in lines:
        if (mark := re.fullmatch(r" *# <(/?)(\w+)>", line)) is None:
            if all(name in wanted for name in open_):
                out.append(line)
        elif mark[1]:
            assert open_.pop() == mark[2]
        else:
            open_.append(mark[2])
            if mark[2] == "settings":
                out += settings.split("\n")
    text = "\n".join(out)
    return re.sub(r"\n{3,}(?=    )", "\n\n", re.sub(r"\n{4,}", "\n\n\n", text))
