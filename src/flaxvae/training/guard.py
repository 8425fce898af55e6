"""Values that are not finite never reach the state: a step keeps the last good one, bit for bit.

A step is skipped if its loss, gradient or new model state (a codebook, say) is not finite. Up to
``tolerance`` steps in a row are skipped; one more ends the segment, and ``fault`` says why. The
tolerance is an argument of the compiled program, so every choice of --on-nan runs the same program.

All this is known before the optimizer changes anything, so nothing must be undone: if gradients and
their squares are finite, no optimizer here takes a step longer than ten learning rates.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array
FAULTS = ("", "the loss is", "the gradient is", "the model's state is")  # by number; 0 is none
SKIPS = 10  # consecutive steps that --on-nan skip leaves out before it gives up
SMALL = 2**14  # arrays with fewer numbers are cheaper to concatenate than to sum one by one
ROLLBACKS = 3  # rollbacks of --on-nan rollback before it gives up


class Guard(NamedTuple):
    """Which values were not finite, and what was done about them: scalars, part of the state."""

    fault: Array  # int32, why the segment ended early: an index of FAULTS
    in_row: Array  # int32, steps skipped since the last good one
    skipped: Array  # int32, steps skipped in this epoch
    rollbacks: Array  # int32, in the whole training
    scale: Array  # float32, a factor on the learning rate, halved by every rollback


def fresh() -> Guard:
    zero = jnp.int32(0)
    return Guard(zero, zero, zero, zero, jnp.float32(1))


def tolerance(on_nan: str) -> int:
    """Steps in a row that may be skipped."""
    return SKIPS if on_nan == "skip" else 0


def _sum_of_squares(tree: Any) -> Array:
    """Over all floats of the tree. Small arrays are concatenated, since each sum costs a task."""
    floats = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
    small = [x.ravel() for x in floats if x.size < SMALL]
    rows = [x for x in floats if x.size >= SMALL] + ([jnp.concatenate(small)] if small else [])
    return sum((jnp.square(x).sum() for x in rows), jnp.float32(0))


def fault(loss: Array, gradient: Any, updates: Any) -> Array:
    """The first of these that is not finite, as an index of FAULTS.

    Sums of squares decide: a gradient whose square overflows would spoil Adam's second moments.
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
    """``change(old)`` if ``good``, else ``old``; their arrays have the same shapes."""
    return jax.tree.map(lambda a, b: jnp.where(good, b, a), old, change(old))


def only_if(good: Array, change: Callable[[Any], Any], old: Any) -> Any:
    """``choose``, in the way that is fastest on each platform."""

    # On a CPU, a choice between two states, or a lax.cond, makes XLA write both: a fifth of the
    # time of an mlp's step. A loop of at most one iteration changes the old state in place. An
    # accelerator fuses the choice into the optimizer; a loop would ask the host at each iteration.
    def in_place(old):
        return jax.lax.while_loop(
            lambda carry: carry[0], lambda carry: (jnp.array(False), change(carry[1])), (good, old)
        )[1]

    return jax.lax.platform_dependent(
        old, cpu=in_place, default=lambda old: choose(good, change, old)
    )
