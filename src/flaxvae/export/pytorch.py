"""A model as one readable file of PyTorch, ``model.py``, with its weights beside it.

For one vector of latents, Gaussian with the prior N(0, I) or a plain code, and networks mlp, conv
and resnet. The file is ``model.py.txt`` with the blocks that this model needs.
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
LOGISTIC = ("discretized_logistic", "logistic_mixture")
POINT, GAUSSIAN = ("code",), ("mean", "log_var")  # the encoder's heads


def check(run: Run) -> None:
    """Raises UsageError for a model that is not of this kind."""
    params, recipe, model = run.variables["params"], run.recipe, run.plan.model
    heads, why = {*params.get("encoder", {}).get("heads", {})}, ""
    if run.plan.function not in zoo.RECIPES.values() and run.plan.function not in zoo.RECIPES:
        why = "a recipe from outside"
    elif recipe.hierarchy is not None:
        why = f"{model} has levels of latents"
    elif recipe.codes is not None:
        why = f"{model} has discrete latents"
    elif heads not in ({*POINT}, {*GAUSSIAN}):
        why = f"{model} has another posterior"
    elif "latents" in params or not recipe.standard_prior:
        why = f"{model} has a learned prior"
    elif run.plan.arguments.get("precision") != "float32":
        why = "it computes in bf16"
    if why:
        raise UsageError(
            f"--to torch: {why}: expected a plain code, or Gaussian latents with the prior N(0, "
            "I), in float32; choose jax, which takes all"
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
    y = "" if run.recipe.classes is None else ", y"
    code = "mean, log_var" if _heads(run) == GAUSSIAN else "mean"
    said = ""
    if limit is not None:
        said += f"`model.unusual(x{y})` compares `score` with the threshold, {limit:.6g} nats.\n"
    if not _samples(run):
        said += "There is no `model.sample`: the prior that was fitted is a flow.\n"
    return f"""\
`model.py` is the network in PyTorch, without flaxvae; `weights.safetensors` are its weights. Images
have their channels first, [N, {shape}]:

```python
from model import load

model = load()
{code} = model.encode(x{y})
images = model.decode(mean{y})
```

{said}"""


def _first(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of an example with its channels first."""
    return (shape[-1], *shape[:-1])


def _settled(run: Run) -> Mapping[str, Any]:
    return run.plan.settled(run.spec).arguments


def _heads(run: Run) -> tuple[str, ...]:
    return POINT if {*run.variables["params"]["encoder"]["heads"]} == {*POINT} else GAUSSIAN


def _samples(run: Run) -> bool:
    """Whether the file has the prior: N(0, I), or Gaussians fitted to the codes."""
    return run.fitted is None or run.fitted.kind != "flow"


def _values(run: Run) -> int:
    """Numbers that the decoder gives for each point of space."""
    own, channels = _settled(run), run.spec.shape[-1]
    pairs = channels * (channels - 1) // 2
    return {
        "gaussian_pixel": 2 * channels,
        "discretized_logistic": 2 * channels,
        "logistic_mixture": own["components"] * (1 + 2 * channels + pairs),
    }.get(own["likelihood"], channels)


def _layers(run: Run) -> layouts.Layers:
    own = _settled(run)
    channels = (32, 64) if own["net"] == "conv" else own["channels"]
    return layouts.layers(
        own["net"],
        run.spec.shape,
        _values(run),
        own["widths"],
        channels,
        own["blocks"],
        _heads(run),
        run.recipe.classes or 0,
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
        put(name, layer)
    for name, layer in zip(_heads(run), found.heads, strict=True):
        put(name, layer)
    for name, layer in zip(decoder, found.decoder, strict=True):
        put(f"decoder.{name}", layer)
    if own["likelihood"] == "gaussian_shared":
        state["raw_log_var"] = np.asarray(params["likelihood"]["raw_log_var"])
    if run.fitted is not None and _samples(run):
        fitted = jax.device_get(run.fitted.params)
        state |= {f"prior_{name}": np.asarray(array) for name, array in fitted.items()}
    return state


def _numbers(own: Mapping[str, Any], found: layouts.Layers) -> tuple[list[str], list[str]]:
    """What the layers are called: ``nn.Sequential`` numbers all its modules."""
    if own["net"] == "mlp":
        count = len(own["widths"])
        return [f"encoder.{2 * i}" for i in range(count)], [str(2 * i) for i in range(count + 1)]
    stem, sizes = own["net"] == "resnet", 2 if own["net"] == "conv" else len(own["channels"])
    blocks = own["blocks"] if stem else 0

    def residual(at: int) -> list[str]:
        return [f"{at + j}.conv_{k}" for j in range(blocks) for k in range(2)]

    maps, at = (["0"], 2) if stem else ([], 0)
    for _ in range(sizes):
        maps += [str(at), *residual(at + 1)]
        at += blocks + 2  # and the activation
    decoder, at = ["0", "2"], 4
    for _ in range(sizes):
        decoder += [*residual(at), str(at + blocks + 1)]
        at += blocks + 2
    return [*(f"maps.{name}" for name in maps), "encoder.0"], decoder + [str(at + 1)] * stem


def source(run: Run, threshold: float | None) -> str:
    """model.py: the template's blocks for this model, with its settings."""
    own, spec = _settled(run), run.spec
    net, likelihood = own["net"], own["likelihood"]
    wanted = {net, likelihood, "variational" if _heads(run) == GAUSSIAN else "point"}
    wanted |= {"images"} if net != "mlp" else set()
    wanted |= {"normal"} if likelihood in NORMAL else set()
    wanted |= {"learned"} if likelihood in NORMAL[1:] else set()
    wanted |= {"logistic"} if likelihood in LOGISTIC else set()
    wanted |= {"labels"} if run.recipe.classes is not None else set()
    wanted |= {"sample", "standard" if run.fitted is None else "fitted"} if _samples(run) else set()
    wanted |= {"threshold"} if threshold is not None else set()
    values: dict[str, Any] = {
        "SHAPE": _first(spec.shape),
        "LATENTS": run.latent_size,
        "VALUES": _values(run),
    }
    if net == "mlp":
        values["WIDTHS"] = tuple(own["widths"])
    else:
        values["CHANNELS"] = (32, 64) if net == "conv" else tuple(own["channels"])
    if net == "resnet":
        values["BLOCKS"] = own["blocks"]
    if likelihood == "gaussian":
        values["LOG_VAR"] = 2 * math.log(own["sigma"])
    if likelihood in LOGISTIC:
        values["LEVELS"] = spec.levels
    if likelihood == "logistic_mixture":
        values["COMPONENTS"] = own["components"]
    if run.recipe.classes is not None:
        values["CLASSES"] = run.recipe.classes
    if run.fitted is not None and "fitted" in wanted:
        values["PRIOR_COMPONENTS"] = len(run.fitted.params["mean"])
    if threshold is not None:
        values["THRESHOLD"] = threshold
    lines = [f"{name} = {value!r}" for name, value in values.items()]
    activation = {"conv": "relu", "resnet": "silu"}.get(net, own["activation"])
    lines.append(f"ACTIVATION = {ACTIVATIONS[activation]}")
    template = resources.files("flaxvae.export").joinpath("model.py.txt").read_text("utf-8")
    text = kept(template, wanted, "\n".join(lines))
    if run.recipe.classes is None:
        text = re.sub(r", y\)( +)#", r")\1   #", text)  # the label, wherever one is taken
        text = re.sub(r", y(?=[,)])", "", text)
    safe = re.sub(r"[^\w ,.()\[\]-]", "?", f"{run.plan.model} on {spec.name}")
    return text.replace("TITLE", f"A model that flaxvae trained: {safe}.", 1)


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
