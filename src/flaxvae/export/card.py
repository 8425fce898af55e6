"""The model card of a run: README.md in Markdown, with front matter for the Hugging Face Hub.

The front matter is YAML, written as JSON values, of which YAML has all. What comes from a run, such
as the names of its data and classes, is text: nothing in it is markup.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from flaxvae import lookup
from flaxvae.analysis.evaluation import UNITS, Evaluation
from flaxvae.declared import flag
from flaxvae.errors import command, counted
from flaxvae.plan import Plan, changed, make_plan
from flaxvae.runs import export_folder
from flaxvae.runs.run import Run

_MEANS = {
    "probability": "log p(x|z) is the logarithm of a probability",
    "density": "log p(x|z) is the logarithm of a density",
    "cross_entropy": "grey pixels under a Bernoulli give cross-entropies, not log-densities",
}


def card(run: Run, use: str = "") -> str:
    """README.md for a folder with the model of a run; ``use`` says how to use its files."""
    parts = [
        f"---\n{_front(run)}---\n",
        f"# {escape(run.plan.model)} on {escape(run.spec.name)}\n",
        f"{_what(run)}\n",
        _numbers(run),
        f"## Input and output\n\n{_feeding(run)}",
        f"## How to load\n\n{use}" if use else "",
        f"## In flaxvae\n\n{_loading(run)}",
        f"## Limits\n\n{_limits(run)}",
    ]
    return "\n".join(part for part in parts if part).rstrip() + "\n"


def escape(text: str) -> str:
    """Text as Markdown shows it: one line, and nothing in it is markup."""
    return re.sub(r"([\\`*_\[\]<>#|~$])", r"\\\1", " ".join(text.split()))


def _code(text: str) -> str:
    """Text as code in a line, whatever is in it."""
    text = " ".join(text.split())
    fence = "`" * (max((len(run) for run in re.findall("`+", text)), default=0) + 1)
    pad = " " * (text[:1] == "`" or text[-1:] == "`")
    return f"{fence}{pad}{text}{pad}{fence}"


def _front(run: Run) -> str:
    images, conditional = run.spec.kind == "images", run.recipe.classes is not None
    task = "unconditional-image-generation" if images else "feature-extraction"
    fields: dict[str, Any] = {
        "library_name": "flaxvae",
        "pipeline_tag": task,
        "tags": [*dict.fromkeys(["vae", "variational-autoencoder", "jax", "flax", run.plan.model])],
    }
    fields["tags"] += ["conditional"] * conditional
    if (found := run.summary) is not None:
        metrics = [
            {"type": kind, "name": name, "value": value} for kind, name, value in _metrics(found)
        ]
        data = {"type": Path(run.plan.data.dataset).name, "name": run.spec.name, "split": "test"}
        results = {"task": {"type": task}, "dataset": data, "metrics": metrics}
        name = f"{run.plan.model} on {run.spec.name}"
        fields["model-index"] = [{"name": name, "results": [results]}]
    return "".join(f"{name}: {json.dumps(value)}\n" for name, value in fields.items())


def _metrics(found: Evaluation) -> list[tuple[str, str, float]]:
    """Type, name and value of each number of an evaluation."""
    bound = found.importance_weighted_elbo
    tighter = None if bound is None else -bound.nats
    every = [
        ("negative_elbo", "-ELBO, nats", None if found.elbo is None else -found.elbo),
        ("reconstruction", "-log p(x|z), nats", found.reconstruction),
        ("kl", "KL, nats", found.kl),
        ("bits_per_dim", "bits per dimension", found.bits_per_dim),
        (
            "negative_iw_elbo",
            "importance-weighted -ELBO, nats",
            tighter,
        ),
        ("mse", "squared error per value", found.mse),
    ]
    return [(kind, name, value) for kind, name, value in every if value is not None]


def _what(run: Run) -> str:
    function = lookup.recipe(run.plan.function)
    about = " ".join((function.__doc__ or "").strip().partition("\n")[0].split())
    own = [f"likelihood {run.plan.arguments.get('likelihood', 'of its own')}"]
    if "net" in run.plan.arguments and run.recipe.hierarchy is None:
        own.append(f"network {run.plan.arguments['net']}")
    shape = " x ".join(map(str, run.spec.shape))
    size = run.folder.record()["parameters"]
    return (
        f"{escape(about)}\n\n"
        f"Trained on {escape(run.spec.name)} ({counted(run.spec.examples, run.spec.example)} of "
        f"{shape}) by flaxvae: {', '.join(own)}, codes of {counted(run.latent_size, 'number')}, "
        f"{counted(size, 'parameter')}, step {run.step:,}."
    )


def _numbers(run: Run) -> str:
    found = run.summary
    if found is None:
        return "## Numbers\n\nNone: the training is not finished.\n"
    rows = [f"| {escape(name)} | {value:.6g} |" for _, name, value in _metrics(found)]
    if found.active_units is not None:
        rows.append(f"| active units | {found.active_units} of {len(found.code_variance or ())} |")
    if found.active_blocks is not None:
        rows.append(f"| active blocks | {found.active_blocks} of {len(found.kl_per_unit or ())} |")
    if found.codes_used is not None and run.recipe.codes is not None:
        rows.append(f"| codes used | {found.codes_used} of {run.recipe.codes.size} |")
    return "\n".join(
        [
            "## Numbers\n",
            f"Of {counted(found.images, 'test ' + run.spec.example)}: {UNITS}; "
            f"{_MEANS[found.log_px]}.\n",
            "| number | value |",
            "|---|---|",
            *rows,
            "",
        ]
    )


def _feeding(run: Run) -> str:
    shape, spec = ", ".join(map(str, run.spec.shape)), run.spec
    lines = []
    if run.columns is not None:
        lines.append(f"- in: [N, {shape}] numbers of a table, standardized: (x - mean) / sd")
        lines.append(f"- columns, in order: {', '.join(map(_code, run.columns.names))}")
    else:
        lines.append(f"- in: [N, {shape}] float32 in [0, 1]; whole numbers / {run.peak:g}")
        if run.signed:
            lines.append("- the data had numbers x in [-1, 1], which go in as (x + 1) / 2")
    if run.binarization != "none":
        how = "at 1/2" if run.binarization == "threshold" else "by a draw with p = the pixel"
        lines.append(f"- images were binarized before they went in: 0 or 1, {how}")
    if (made := run.folder.record().get("preprocessing")) is not None:
        colours = "grey" if made["channels"] == 1 else "RGB"
        lines.append(
            f"- pictures were made {made['height']} x {made['width']}, {colours}: "
            f"{made['resize']}, with {made['background']} behind what is transparent"
        )
    if run.recipe.classes is not None:
        names = ", ".join(_code(str(name)) for name in spec.names)
        lines.append(f"- and the number of each one's class, from 0: {names}")
    lines.append(f"- code: [N, {run.latent_size}] float32, the {run.recipe.code}")
    lines.append(f"- out: [N, {shape}] float32, the mean of p(x|z)")
    return "\n".join(lines) + "\n"


def _loading(run: Run) -> str:
    return f"""\
With the run's folder:

```python
import flaxvae as fv

run = fv.load({str(run.path.name)!r})
codes = run.encode(images)
```

Made by

```
{again(run.plan)}
```
"""


def again(plan: Plan) -> str:
    """The command that trains such a model: every setting that is not the default."""
    usual = make_plan(plan.function)
    words: list[Any] = ["flaxvae", "train", "--model", plan.model]
    for name, (_, value) in changed(usual, plan).items():
        if value is None or name in ("model", "data_dir") or value == ():
            continue  # the folder of the data is nobody else's concern
        value = Path(value).name if name == "dataset" else value
        if isinstance(value, bool):
            words.append(flag(name) if value else flag(f"no_{name}"))
        else:
            words += [flag(name), *(value if isinstance(value, tuple | list) else [value])]
    return command(*words)


def _limits(run: Run) -> str:
    found, lines = run.summary, []
    one = run.spec.example
    lines.append(
        f"It has seen {escape(run.spec.name)} and nothing else: of other data its codes and "
        "samples say little, and a likelihood is no sign that data are familiar."
    )
    if found is not None and found.log_px == "cross_entropy":
        lines.append(f"Its numbers in nats are no log-likelihoods: {_MEANS['cross_entropy']}.")
    if found is not None and 0 in (found.active_units, found.active_blocks):
        lines.append("No latent dimension is used: it has collapsed to the prior.")
    if not run.finished:
        lines.append("Its training is not finished.")
    for name, limit in export_folder.thresholds(run).items():
        lines.append(
            f"Above a score {name} of {limit['threshold']:.6g}, {'a' if one == 'row' else 'an'} "
            f"{one} is called unusual: so are {100 * limit['false_positive_rate']:.3g}% of {one}s "
            "like those of the training."
        )
    lines.append(
        "flaxvae does not know the license of the data, nor whom they show: say so here before you "
        "share the model."
    )
    return "\n".join(f"- {line}" for line in lines) + "\n"
