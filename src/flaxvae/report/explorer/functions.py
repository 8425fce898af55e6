"""What the explorer computes, as graphs: functions of one image, whose weights are the run's.

| graph  | inputs                                   | outputs                                      |
|--------|------------------------------------------|----------------------------------------------|
| decode | z [1, D], or indices [1, n] of codes     | image, the mean of p(x|z)                    |
| look   | image                                    | z or indices, its code; image, its mean      |
| bound  | image, noise                             | cost, -log p(x|z), and kl, in nats; z, drawn |
| sample | temperature [1], noise                   | z, a draw from the prior                     |
| redraw | z, below [1], temperature [L], noise     | z with its lower levels drawn anew           |

Those of an image, and ``decode``, take the label [1], a class number, if the model does. ``noise``
[1, K] are uniform numbers, of which the draws are made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flaxvae.analysis import fitted_prior
from flaxvae.analysis.fitted_prior import FittedPrior
from flaxvae.core import Variables
from flaxvae.export import tracing
from flaxvae.export.graph import Graph, Unsupported
from flaxvae.parts import assemble, codebook
from flaxvae.recipe import Recipe

Array = jax.Array
NOISE = "noise"


class Functions(NamedTuple):
    """The graphs of a run, by name, and why others are missing."""

    graphs: dict[str, Graph]
    missing: dict[str, str]


class _Function(NamedTuple):
    of: Callable[..., Any]
    inputs: dict[str, Any]  # their shapes
    outputs: tuple[str, ...]
    draws: bool = False
    labelled: bool = True  # takes the label, if the model does


def trace(recipe: Recipe, variables: Variables, fitted: FittedPrior | None = None) -> Functions:
    """The graphs of a model.

    Args:
        recipe: as ``export.programs.native`` gives it.
        variables: of the model.
        fitted: a prior fitted to its codes, from which ``sample`` draws then.
    """
    try:
        functions = _functions(recipe, variables, fitted)
    except Exception as error:  # of its encoder or decoder, without which there is nothing
        return Functions({}, dict.fromkeys(("decode", "look", "bound"), _reason(error)))
    label = {} if recipe.classes is None else {"label": _shape(1, dtype=jnp.int32)}
    found, missing = dict[str, Graph](), dict[str, str]()
    for name, one in functions.items():
        inputs = one.inputs | (label if one.labelled else {})
        try:
            found[name] = tracing.trace(
                one.of,
                *inputs.values(),
                names=[*inputs],
                outputs=one.outputs,
                draws=NOISE if one.draws else None,
            )
        except Exception as error:  # a recipe from outside may do anything while it is traced
            missing[name] = _reason(error)
    return Functions(found, missing)


def _reason(error: Exception) -> str:
    said = str(error).partition("\n")[0] or type(error).__name__
    lacking = isinstance(error, Unsupported)
    return f"the page lacks an operation of the model, {said}" if lacking else said


def latents_read(decode: Graph) -> int:
    """How many latents, the first ones of z, the image depends on: of a ladder, those of level 1.

    Args:
        decode: the graph of that name, of a model without codes.
    """
    z = decode.inputs["z"]
    size = int(decode.shapes[z][1][1])
    ends = [
        int(op.params["limit_indices"][1]) if op.name == "slice" else size
        for op in decode.ops
        if z in op.inputs
    ]
    return max(ends, default=size)


def _functions(
    recipe: Recipe, variables: Variables, fitted: FittedPrior | None
) -> dict[str, _Function]:
    model, codes, hierarchy = recipe.model, recipe.codes, recipe.hierarchy
    key = jax.random.key(0)  # no draw of it is used: all are made of the noise

    def latent(key, x, *y):
        found = model.reparameterize(variables, key, model.encode(variables, x, *y), False)
        return found, model.decode(variables, found.z, *y) if found.px is None else found.px

    def decode(z, *y):
        if codes is not None:
            z = _embedded(recipe, variables, z)
        return model.decode(variables, z, *y).mean

    def look(x, *y):
        if codes is not None and codes.latents is None:  # without the prior over the codes
            at = codes.indices(variables, x, *y)
            return at, decode(at, *y)
        found, px = latent(None, x, *y)
        return found.code if codes is None else codes.indices(variables, x, *y), px.mean

    def bound(x, *y):
        found, px = latent(key, x, *y)
        return -px.log_prob(x), found.kl.sum(-1), found.z

    def sample(temperature):
        if fitted is not None:
            return fitted_prior.sample(fitted, key, 1, temperature[0])
        return model.prior_sample(variables, key, 1, None, temperature[0])

    def redraw(z, below, temperature):
        assert model.redraw is not None
        return model.redraw(variables, key, z, below[0], temperature)

    image = {"image": _shape(1, *recipe.data.shape)}
    label = [] if recipe.classes is None else [_shape(1, dtype=jnp.int32)]
    latents = jax.eval_shape(lambda *given: latent(None, *given)[0].z, *image.values(), *label)
    z = _shape(*latents.shape)
    point, at = "z", {"z": z}
    if codes is not None:
        point, at = "indices", {"indices": _shape(1, int(np.prod(codes.grid)), dtype=jnp.int32)}
    found = {
        "decode": _Function(decode, at, ("image",)),
        "look": _Function(look, image, (point, "image")),
        "bound": _Function(bound, image, ("cost", "kl", "z"), draws=True),
    }
    temperature = _shape(1)
    if codes is None:
        inputs = {"temperature": temperature}
        found["sample"] = _Function(sample, inputs, ("z",), draws=True, labelled=False)
    if hierarchy is not None and model.redraw is not None:
        each, below = _shape(sum(hierarchy.blocks)), _shape(1, dtype=jnp.int32)
        inputs = {"z": z, "below": below, "temperature": each}
        found["redraw"] = _Function(redraw, inputs, ("z",), draws=True, labelled=False)
    return found


def _shape(*sizes: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sizes, dtype)


def _embedded(recipe: Recipe, variables: Any, indices: Array) -> Array:
    """The latents of codes."""
    assert recipe.codes is not None
    if recipe.codes.latents is not None:
        return recipe.codes.latents(indices)
    return codebook.embed(assemble.of_latents(variables), indices)
