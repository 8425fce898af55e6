"""The pure train step: a recipe's loss, an optax optimizer, and the state that they update.

    state = init(recipe, optimizer, jax.random.key(0), x[:2])
    step = jax.jit(update(recipe, optimizer))
    state, metrics = step(state, key, Batch(x[rows]))

It knows no dataset, device or folder, and can be jitted, scanned, vmapped over seeds, or given
arrays on a mesh. The trainer of ``flaxvae.train`` is this function with a guard around it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from flaxvae.core import Batch, Variables
from flaxvae.errors import UsageError
from flaxvae.recipe import Recipe

Array = jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """What a step updates, a pytree."""

    step: Array  # int32, steps done
    variables: Variables  # {"params": ...}, and collections without gradient: a codebook, say
    opt_state: Any


class Found(NamedTuple):
    """What a step computes from a batch."""

    gradient: Any  # of the loss, like variables["params"]
    metrics: dict[str, Array]  # means over the batch: "loss" and its terms, in nats
    updates: Variables  # new values of collections without gradient


Move = Callable[[State, Any], State]  # (state, gradient) -> the state one step on
Step = Callable[[State, Array, Batch], Any]


def take(state: State, found: Found, move: Move) -> tuple[State, dict[str, Array]]:
    """Take the step unconditionally."""
    return move(state, found.gradient), found.metrics


def init(
    recipe: Recipe,
    optimizer: optax.GradientTransformation,
    key: Array,
    x: Any,
    y: Any = None,
) -> State:
    """The state before the first step.

    Args:
        recipe: what to train, such as ``vae(DataSpec("mine", (28, 28, 1)))``.
        optimizer: an optax optimizer.
        key: a typed key; decides the initial weights.
        x: [B, *data] a few examples as the model will see them; only their shapes matter (but a
            VQ-VAE with a moving average also uses their values).
        y: [B] labels, if the recipe needs them.

    Raises:
        UsageError: examples with a shape other than the recipe's, outside [0, 1], or without
            labels that it needs.
        ValueError: the recipe's loss would lose state of its model.
    """
    check_examples(recipe, x, y)
    batch = Batch(jnp.asarray(x, jnp.float32), None if y is None else jnp.asarray(y))
    variables = jax.jit(recipe.model.init)(key, batch.x, batch.y)
    check_state(recipe, variables, batch)
    return State(jnp.int32(0), variables, optimizer.init(variables["params"]))


def update(
    recipe: Recipe,
    optimizer: optax.GradientTransformation,
    take: Callable[[State, Found, Move], Any] = take,
) -> Step:
    """One step of descent on the recipe's loss, as a pure function.

    Args:
        recipe: what to train.
        optimizer: the one given to ``init``.
        take: ``(state, found, move)``; decides whether and how to take the step, and what to
            return; by default takes it and returns the state and the metrics.

    Returns:
        ``step(state, key, batch) -> (state, metrics)``. The key decides all noise of the step:
        fold the step's number into a key, and use none twice. Metrics are means over the batch, in
        nats summed over pixels and latent dimensions, for the variables before the step: ``loss``
        and, if there is a bound, ``elbo``, ``reconstruction`` and ``kl``. Collections without
        gradient (a codebook, a temperature) get their new values.

    Raises:
        ValueError: from the step, if the loss does not return the state that the model would write
            back.
    """
    loss = recipe.loss

    def of_params(params, rest, key, batch, step):
        return loss({**rest, "params": params}, key, batch, step)

    gradient = jax.grad(of_params, has_aux=True)

    def step(state: State, key: Array, batch: Batch) -> Any:
        check_state(recipe, state.variables, batch)
        params = state.variables["params"]
        rest = {k: v for k, v in state.variables.items() if k != "params"}
        slope, (metrics, updates) = gradient(params, rest, key, batch, state.step)

        def move(old: State, slope: Any) -> State:
            params = old.variables["params"]
            change, opt_state = optimizer.update(slope, old.opt_state, params)
            params = optax.apply_updates(params, change)
            return State(old.step + 1, {**old.variables, **updates, "params": params}, opt_state)

        return take(state, Found(slope, metrics, updates), move)

    return step


def check_state(recipe: Recipe, variables: Any, batch: Any) -> None:
    """Raises ValueError if the model has state to write back that its loss does not return.

    Such a model would train without an error, but its state (a codebook, say) would never change.
    All arguments may be shapes.
    """
    if variables.keys() == {"params"}:
        return

    def updates(variables, batch):
        model, (key, other) = recipe.model, jax.random.split(jax.random.key(0))
        features = model.encode(variables, batch.x, batch.y)
        made = model.reparameterize(variables, key, features, True).updates
        return made, recipe.loss(variables, other, batch, jnp.int32(0))[1][1]

    made, returned = jax.eval_shape(updates, variables, batch)
    lost = sorted(made.keys() - returned.keys())
    if lost:
        raise ValueError(
            f"the loss returns no updates of {', '.join(lost)}: expected those that "
            "model.reparameterize gives, or the state would never change"
        )


def check_examples(recipe: Recipe, x: Any, y: Any) -> None:
    """Raises UsageError unless these can be examples of the recipe's data."""
    wanted, seen = recipe.data.shape, np.shape(x)
    if seen[1:] != wanted or not seen[0]:
        each = ", ".join(map(str, wanted))
        hint = "; add the channel: x[..., None]" if (*seen[1:], 1) == wanted else ""
        raise UsageError(f"examples of shape {seen}: expected [B, {each}]{hint}")
    if recipe.classes is not None and y is None:
        raise UsageError(
            f"examples without labels: expected y, whole numbers 0 to {recipe.classes - 1}"
        )
    if not isinstance(x, jax.core.Tracer):
        low, high = float(np.min(x)), float(np.max(x))
        if not (low >= 0 and high <= 1):
            raise UsageError(
                f"examples from {low:g} to {high:g}: expected floats in [0, 1]; divide bytes by 255"
            )
