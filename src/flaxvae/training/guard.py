"""What is not finite never reaches the state: the compiled step keeps the last good one, bitwise.

A step whose loss, gradient or new model state (a codebook, say) is not finite is left out. As many
in a row as ``tolerance`` are skipped; one more ends the segment there, with ``fault`` saying why.
The tolerance is an argument of the compiled program, so that every choice of --on-nan runs the same
one.

All of it is known before the optimizer moves anything, so nothing need be taken back: with finite
gradients whose squares are finite too, no step of an optimizer here exceeds ten learning rates.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array
FAULTS = ("", "the loss is", "the gradient is", "the model's state is")  # by number; 0 is none
SKIPS = 10  # steps in a row that --on-nan skip leaves out before it gives up
SMALL = 2**14  # numbers of an array that costs less to copy than to sum by itself
ROLLBACKS = 3  # times that --on-nan rollback goes back before it gives up


class Guard(NamedTuple):
    """What was not finite so far, and what was done about it: scalars, part of the state."""

    fault: Array  # int32, why the segment ended early: an index of FAULTS
    in_row: Array  # int32, steps left out since the last good one
    skipped: Array  # int32, steps left out in this epoch
    rollbacks: Array  # int32, in the whole training
    scale: Array  # float32, of the learning rate: halved by every rollback


def fresh() -> Guard:
    zero = jnp.int32(0)
    return Guard(zero, zero, zero, zero, jnp.float32(1))


def tolerance(on_nan: str) -> int:
    """Steps in a row that may be left out."""
    return SKIPS if on_nan == "skip" else 0


def _sum_of_squares(tree: Any) -> Array:
    """Over all floats of the tree. Small arrays go in a row, for every sum is a task of its own."""
    floats = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
    small = [x.ravel() for x in floats if x.size < SMALL]
    rows = [x for x in floats if x.size >= SMALL] + ([jnp.concatenate(small)] if small else [])
    return sum((jnp.square(x).sum() for x in rows), jnp.float32(0))


def fault(loss: Array, gradient: Any, updates: Any) -> Array:
    """Which is not finite, the first of them counts: an index of FAULTS.

    By sums of squares: a gradient whose square no float32 holds would spoil Adam's second moments.
    """
    sums = (loss, _sum_of_squares(gradient), _sum_of_squares(updates))
    return jnp.select([~jnp.isfinite(x) for x in sums], [1, 2, 3], 0).astype(jnp.int32)


def after(found: Array, guard: Guard, tolerance: Array) -> Guard:
    """The guard after a step with this fault."""
    bad = found != 0
    in_row = jnp.where(bad, guard.in_row + 1, 0)
    ends = in_row > tolerance
    return guard._replace(
        fault=jnp.where(ends, found, 0),
        in_row=in_row,
        skipped=guard.skipped + (bad & ~ends),
    )


def choose(good: Array, change: Callable[[Any], Any], old: Any) -> Any:
    """``change(old)`` if ``good``, else ``old``; their arrays are of one shape."""
    return jax.tree.map(lambda a, b: jnp.where(good, b, a), old, change(old))


def only_if(good: Array, change: Callable[[Any], Any], old: Any) -> Any:
    """``choose``, in the way that is quick on each platform."""

    # A choice between two states, or a lax.cond, makes XLA write both on a CPU: a fifth of a step
    # of an mlp. A loop of at most one turn changes the old one in place. An accelerator fuses the
    # choice into the optimizer, and would have to ask the host about every turn.
    def in_place(old):
        return jax.lax.while_loop(
            lambda carry: carry[0], lambda carry: (jnp.array(False), change(carry[1])), (good, old)
        )[1]

    return jax.lax.platform_dependent(
        old, cpu=in_place, default=lambda old: choose(good, change, old)
    )
