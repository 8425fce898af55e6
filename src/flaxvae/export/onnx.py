"""A run's model as ONNX files, for onnxruntime and others, with what comes before and after inside.

    encoder.onnx   examples[, y] -> code [N, D]
    decoder.onnx   z [N, D][, y] -> the mean of p(x|z), [N, *shape]
    sampler.onnx   uniform [N, K][, y] -> images; uniform numbers in [0, 1) decide the draws
    scorer.onnx    examples[, y] -> score [N] in nats, and whether it is above the run's threshold:
                   ``combined`` once the run has it in anomaly.json, else ``elbo``

N is any number. ``examples`` are as decoded from disk: ``image``, uint8 (or uint16) [N, *shape] of
the run's size, scaled and binarized in the file; float32 in [0, 1] if the run's were, and (x + 1) /
2 if they were in [-1, 1]; of a table, ``row``, float64 as in its file. Images that are binarized by
a draw are so by one draw of uniform numbers for all, and the score is -ELBO averaged over
``SAMPLES`` draws of z that are the same for all images. So a file is a function of the image. The
draws are those of a Latin hypercube: the score has less noise than that of ``flaxvae score``, whose
draws are the image's own, and the same mean.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flaxvae import writing
from flaxvae.analysis import fitted_prior
from flaxvae.analysis.anomaly import combined
from flaxvae.analysis.anomaly.scores import SAMPLES
from flaxvae.core import Batch
from flaxvae.data import images
from flaxvae.data.pipeline import binarization_key
from flaxvae.distributions import LOG_2PI
from flaxvae.errors import UsageError
from flaxvae.export import hypercube, onnx_graph, programs, tracing
from flaxvae.export.graph import Graph, Unsupported
from flaxvae.runs import export_folder
from flaxvae.runs.run import Run

Array = jax.Array


def check(run: Run) -> None:
    """Raises UsageError without the package that writes ONNX."""
    try:
        import onnx  # noqa: F401
    except ImportError:
        raise UsageError(
            "--to onnx needs onnx: expected it installed; pip install 'flaxvae[onnx]', or choose "
            "jax"
        ) from None


class Function(NamedTuple):
    """A function of arrays, and their names."""

    function: Callable[..., Any]
    inputs: dict[str, Any]  # names, and examples of any number of rows
    outputs: tuple[str, ...]
    draws: str | None = None  # the name of its uniform numbers


def stored(run: Run) -> tuple[str, type]:
    """The name and type of examples as decoded from disk."""
    if run.columns is not None:
        return "row", np.float32
    if run.peak is None or run.peak == 1 or run.spec.kind == "table":
        return "image", np.float32
    return "image", np.uint8 if run.peak < 256 else np.uint16


def functions(run: Run) -> dict[str, Function]:
    """What is exported, by the name of the file."""
    made = programs.native(run, precision="float32")
    variables = jax.tree.map(jnp.asarray, jax.device_get(run.variables))
    model, shape, n = made.model, run.spec.shape, tracing.any_number()
    name, dtype = stored(run)
    key, how = binarization_key(fold=3), run.binarization

    def like(dtype: Any, *rest: int) -> Any:
        return jax.ShapeDtypeStruct((n, *rest), dtype)

    labels = {} if made.classes is None else {"y": like(np.int32)}
    examples, latents = (
        {name: like(dtype, *shape)} | labels,
        {"z": like(np.float32, run.latent_size)},
    )

    def prepared(raw: Array) -> Array:
        if run.columns is not None:
            return raw
        x = images.scale(raw, 1.0 if dtype is np.float32 else run.peak or 1.0)
        if how in ("none", "threshold"):
            return images.binarize(x, how, key)
        return (jax.random.uniform(key, shape)[None] < x).astype(jnp.float32)

    coded, decode = programs.coders(model, variables)

    def encode(raw, y=None):
        return coded(prepared(raw), y)

    def sample(first, y=None):
        count = first.shape[0]
        if run.fitted is not None:
            z = fitted_prior.sample(run.fitted, jax.random.key(0), count)
        else:
            z = model.prior_sample(variables, jax.random.key(0), count)
        return decode(z, y)

    usual = export_folder.usual(run)

    def score(raw, y=None):
        x = prepared(raw)
        if usual is not None:
            found = combined.terms(model)(variables, jax.random.key(0), Batch(x, y))
            return _combined(usual, found["code"], found["cost"])
        features = model.encode(variables, x, y)

        def draws(row):
            one = jax.tree.map(lambda leaf: leaf[None], row)

            def draw(key):
                latent = model.reparameterize(variables, key, one, False)
                return latent.z[0], latent.kl.sum()

            return jax.vmap(draw)(hypercube.keys(0, SAMPLES))

        z, kl = jax.vmap(draws)(features)  # [N, SAMPLES, D], [N, SAMPLES]
        x, y = jax.tree.map(lambda leaf: jnp.repeat(leaf, SAMPLES, 0), (x, y))
        log_px = model.decode(variables, z.reshape(-1, z.shape[-1]), y).log_prob(x)
        return (kl - log_px.reshape(-1, SAMPLES)).mean(-1)

    found = {
        "encoder": Function(encode, examples, ("code",)),
        "decoder": Function(decode, latents | labels, (name,)),
        "scorer": Function(score, examples, ("score",)),
    }
    if run.generates:
        rows = {"uniform": like(np.float32)} | labels
        found["sampler"] = Function(sample, rows, (name,), "uniform")
    return found


def traced(function: Function) -> Graph:
    """The graph of a function; the sampler's has the uniform numbers as its first input."""
    names = [*function.inputs]
    if function.draws is not None:
        names[0] = "rows"  # only their number counts

    def positional(*arrays):
        return function.function(*arrays)

    made = tracing.trace(
        positional,
        *function.inputs.values(),
        names=names,
        outputs=function.outputs,
        draws=function.draws,
    )
    if function.draws is None:
        return made
    inputs = dict(made.inputs)
    del inputs["rows"]
    if function.draws not in inputs:
        raise Unsupported("a sampler without draws")
    order = sorted(inputs, key=lambda each: each != function.draws)
    return made._replace(inputs={each: inputs[each] for each in order})


def model(run: Run, what: str, made: Graph) -> Any:
    """An ``onnx.ModelProto`` of one of a run's functions."""
    from onnx import checker, helper, numpy_helper

    build, inputs, outputs = onnx_graph.Builder(), [], []
    columns = run.columns
    given = []
    for name, number in made.inputs.items():
        dtype, shape = made.shapes[number]
        table = name == "row" and columns is not None
        kind = helper.np_dtype_to_tensor_dtype(np.dtype("float64" if table else dtype))
        inputs.append(helper.make_tensor_value_info(name, kind, list(shape)))
        if table and columns is not None:
            centred = build.node("Sub", [name, build.constant(columns.mean)])
            name = build.cast(build.node("Div", [centred, build.constant(columns.std)]), "float32")
        given.append(name)
    shaped = build.node("Shape", [next(iter(made.inputs))])
    build.batch = build.node("Slice", [shaped, build.integers(0), build.integers(1)])
    found = dict(zip(made.outputs, onnx_graph.add(build, made, given), strict=True))
    if columns is not None and "row" in found:
        wide = build.node("Mul", [build.cast(found["row"], "float64"), build.constant(columns.std)])
        found["row"] = build.node("Add", [wide, build.constant(columns.mean)])
    properties = {
        "producer": "flaxvae",
        "what": _what(run, what),
        "model": run.plan.model,
        "data": run.spec.name,
        "step": str(run.step),
    }
    decides = "elbo" if export_folder.usual(run) is None else "combined"
    limit = export_folder.thresholds(run).get(decides) if what == "scorer" else None
    if limit is not None:
        found["anomalous"] = build.like(found["score"], "Greater", limit["threshold"])
        properties |= {key: str(value) for key, value in limit.items()}
    for name, value in found.items():
        shape = made.shapes[made.outputs.get(name, made.outputs.get("score", -1))][1]
        dtype = "bool" if name == "anomalous" else "float32"
        dtype = "float64" if columns is not None and name == "row" else dtype
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        build.nodes.append(helper.make_node("Identity", [value], [name]))
        outputs.append(helper.make_tensor_value_info(name, kind, list(shape)))
    weights = [numpy_helper.from_array(value, key) for key, value in build.initializers.items()]
    whole = helper.make_graph(build.nodes, what, inputs, outputs, weights)
    opsets = [helper.make_opsetid("", onnx_graph.OPSET)]
    proto = helper.make_model(
        whole, opset_imports=opsets, ir_version=onnx_graph.IR, producer_name="flaxvae"
    )
    helper.set_model_props(proto, properties)
    checker.check_model(proto)
    return proto


_WHAT = {
    "encoder": "examples to codes",
    "decoder": "codes to the means of p(x given z)",
    "sampler": "uniform numbers to images from the prior",
}


def _what(run: Run, what: str) -> str:
    if what != "scorer":
        return _WHAT[what]
    if export_folder.usual(run) is None:
        score = programs.score_words(run)
    else:
        score = "the score combined of flaxvae score"
    return f"{score}: high for unusual examples"


def _combined(usual: combined.Usual, codes: Array, costs: Array) -> Array:
    """``combined.scores`` without solving for a triangle, which ONNX does not have."""
    log_weights, mean, cholesky = (np.asarray(leaf, np.float64) for leaf in usual.codes)
    inverse = np.linalg.inv(cholesky)
    log_det = np.log(np.diagonal(inverse, axis1=1, axis2=2)).sum(1)
    level = log_weights + log_det - 0.5 * mean.shape[1] * LOG_2PI
    apart = codes[:, None] - jnp.asarray(mean, jnp.float32)[None]  # [B, K, D]
    white = jnp.einsum("ked,bkd->bke", jnp.asarray(inverse, jnp.float32), apart)
    each = jnp.asarray(level, jnp.float32)[None] - 0.5 * jnp.square(white).sum(-1)  # [B, K]
    top = each.max(-1)
    log_p = top + jnp.log(jnp.exp(each - top[:, None]).sum(-1))
    (cost_mean, rare_mean), (cost_sd, rare_sd) = usual.mean, usual.scale
    found = (costs - cost_mean) / cost_sd + (-log_p - rare_mean) / rare_sd
    return found.astype(jnp.float32)


def write(run: Run, folder: Path) -> str:
    """Write the files; returns how to use them, in Markdown.

    Raises UsageError: the model has an operation that ONNX, or a graph, has not.
    """
    rows, without = [], ""
    for what, function in functions(run).items():
        try:
            made = traced(function)
            proto = model(run, what, made)
        except Unsupported as error:
            if what == "sampler":
                without = f"There is no sampler.onnx: {error}.\n\n"
                continue
            raise UsageError(
                f"--to onnx of model {run.plan.model}: its {what} has {error}: expected one that "
                "ONNX can hold; choose jax"
            ) from None
        with writing.whole(folder / f"{what}.onnx") as file:
            file.write(proto.SerializeToString())
        takes = ", ".join(_said(each) for each in proto.graph.input)
        gives = ", ".join(_said(each) for each in proto.graph.output)
        rows.append(f"| `{what}.onnx` | {takes} | {gives} | {_what(run, what)} |")
    if not run.generates:
        without = "There is no sampler.onnx: no prior is fitted to the codes.\n\n"
    return f"""\
For ONNX, opset {onnx_graph.OPSET}, with the weights inside; for onnxruntime:

```python
import onnxruntime

scorer = onnxruntime.InferenceSession("scorer.onnx")
score = scorer.run(["score"], {{"{stored(run)[0]}": x}})[0]
```

| file | takes | gives | what |
|---|---|---|---|
{chr(10).join(rows)}

{without}{_preparation(run)}"""


def _preparation(run: Run) -> str:
    if run.columns is not None:
        return "Rows are standardized in the files, and decoded rows are in the table's units.\n"
    scaled = "" if stored(run)[1] is np.float32 else f" divided by {run.peak:g}"
    said = {
        "none": "",
        "threshold": " and binarized at 1/2",
        "dynamic": " and binarized by one draw for all images",
        "fixed": " and binarized by one draw for all images",
    }[run.binarization]
    what = f"{scaled}{said}".strip().removeprefix("and ")
    shape = " x ".join(map(str, run.spec.shape))
    inside = f", which are {what} in the files" if what else ", in [0, 1]"
    if run.signed:
        inside += ": numbers x in [-1, 1], as the data had, go in as (x + 1) / 2"
    labels = "" if run.recipe.classes is None else " Labels y are class numbers."
    return f"Images are of {shape}{inside}; resize others first.{labels}\n"


def _said(value: Any) -> str:
    from onnx import helper

    kind = value.type.tensor_type
    sizes = [each.dim_param or str(each.dim_value) for each in kind.shape.dim]
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type)).name
    return f"{value.name} [{', '.join('N' if one == 'batch' else one for one in sizes)}] {dtype}"
