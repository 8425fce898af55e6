"""Masked networks: masks on the kernels decide which outputs can depend on which inputs.

MADE (Germain et al. 2015) gives every unit a degree and connects it only to units of the same or a
lower degree. So the outputs for dimension d depend only on the dimensions before it, and the
Jacobian is triangular.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flaxvae.parts.networks import fan_in_uniform

Array = jax.Array

# With a last layer a hundredth of the usual size a flow starts near the identity, with a gradient.
SMALL = jax.nn.initializers.variance_scaling(1e-4 / 3, "fan_in", "uniform")


class Conditioner(NamedTuple):
    """A network from z and a context to the parameters of one step of a flow."""

    init: Callable[[Array], Any]  # key -> params
    apply: Callable[[Any, Array, Array | None], Array]  # (params, z [B, D], context) -> [B, F]


def _masked(mask: np.ndarray) -> Callable[..., Array]:
    def dot_general(x, kernel, dimensions, **options):
        return jax.lax.dot_general(x, kernel * mask, dimensions, **options)

    return dot_general


def masked_mlp(masks: Sequence[np.ndarray], context: int) -> Conditioner:
    """Dense layers with elu in between, whose kernels are multiplied by ``masks`` [in, out].

    The context enters every layer, without a mask.
    """

    def layers():
        for i, mask in enumerate(masks):
            init = SMALL if i == len(masks) - 1 else fan_in_uniform()
            layer = functools.partial(nn.Dense, mask.shape[1], kernel_init=init)
            yield f"z_{i}", mask.shape[0], layer(dot_general=_masked(mask))
            if context:
                yield f"context_{i}", context, layer(use_bias=False)

    def init(key):
        parts = [*layers()]
        keys = jax.random.split(key, len(parts))
        return {
            name: layer.init(k, jnp.zeros((1, size)))["params"]
            for k, (name, size, layer) in zip(keys, parts)
        }

    def apply(params, z, features=None):
        layer = {name: part for name, _, part in layers()}
        x = z
        for i in range(len(masks)):
            x = jax.nn.elu(x) if i else x
            x = layer[f"z_{i}"].apply({"params": params[f"z_{i}"]}, x)
            if context:
                x = x + layer[f"context_{i}"].apply({"params": params[f"context_{i}"]}, features)
        return x

    return Conditioner(init, apply)


def made(dim: int, hidden: tuple[int, ...], context: int, order: np.ndarray) -> Conditioner:
    """Two values for each dimension, from only the dimensions before it (Germain et al. 2015).

    A hidden unit sees the inputs whose rank in ``order`` is at most its degree; outputs of rank r
    see units of degree below r. Degrees are assigned cyclically, so that every permitted dependence
    is possible.

    Args:
        dim: dimensions D.
        hidden: hidden layer sizes, each at least ``dim``.
        context: size of the context, on which all outputs can depend.
        order: ranks 1 to D of the dimensions, [D].

    Returns:
        A Conditioner to [B, 2 D]: the first values of all dimensions, then the second.

    Raises:
        ValueError: a hidden layer is too narrow to have units of every degree.
    """
    if any(width < dim for width in hidden):
        raise ValueError(f"hidden widths {hidden}: expected at least dim = {dim} in each")
    lowest = 0 if context or dim == 1 else 1  # units of degree 0 see only the context
    degrees = [order, *(lowest + np.arange(width) % (dim - lowest) for width in hidden)]
    masks = [before[:, None] <= after[None] for before, after in itertools.pairwise(degrees)]
    masks.append(degrees[-1][:, None] < np.tile(order, 2)[None])
    return masked_mlp([mask.astype(np.float32) for mask in masks], context)
