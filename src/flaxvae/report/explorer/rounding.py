"""Matrices rounded so that what the model computes stays close: few bits a weight, small errors.

Of a product y = x W with x [K], W [K, M], row i of W is stored as whole numbers times a step s_i.
Rows are rounded one after the other, and each error e is made good by the rows that follow, in
proportion to how x_i is predicted from the others: with C = E[x x^T] + damping and U^T U = C^-1, U
upper triangular, row j > i changes by -e U_ij / U_ii (Frantar et al. 2023, "OPTQ"). What is left is
e / U_ii, the part of x_i that the rows after it do not predict. The step is s_i = c U_ii, so that
all rows leave equally much: the variance of y's error is K c^2 / 12. Rows that hardly matter get
large steps, and whole numbers with little entropy, which deflate makes short.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from flaxvae.export import interpreter
from flaxvae.report.explorer import packing
from flaxvae.report.explorer.packing import Form

if TYPE_CHECKING:
    from flaxvae.export.graph import Graph

Array = np.ndarray
LEAST = 16_384  # numbers of a matrix that is worth it
DAMPING = 0.1  # of the mean square of x: inputs of another kind are not far off, either
FIRST, TRIES = 0.006, 4  # the deviation of y's error that is tried first; how often it is changed
AIM, ENOUGH = 0.85, 0.7  # parts of the tolerance: at which the next try aims, which will do
BLOCK = 128


def inputs(graph: Graph, calls: Sequence[Sequence[Array]]) -> dict[bytes, tuple[Array, Array]]:
    """The matrices of a graph that are worth rounding, by their keys, with what they multiply.

    Args:
        graph: of one image.
        calls: arguments.

    Returns:
        W [K, M] and x [calls, K] of each.
    """
    known = {
        op.inputs[1]: op.inputs[0]
        for op in graph.ops
        if op.name == "dot_general" and _is_product(graph, op)
    }
    seen: dict[int, list[Array]] = {number: [] for number in known}
    for given in calls:
        values = interpreter.values(graph, *given)
        for number, x in known.items():
            seen[number].append(values[x].ravel())
    return {
        packing.key(graph.constants[number]): (graph.constants[number], np.stack(rows))
        for number, rows in seen.items()
    }


def _is_product(graph: Graph, op: Any) -> bool:
    """Whether it is a row times a matrix of weights, large enough."""
    x, matrix = op.inputs
    weights, shape = graph.constants.get(matrix), graph.shapes[x][1]
    if x in graph.constants or weights is None or weights.ndim != 2 or weights.size < LEAST:
        return False
    mine, yours = op.params["dimension_numbers"][0]
    plain = list(mine) == [len(shape) - 1] and list(yours) == [0]
    return plain and weights.dtype == np.float32 and all(size == 1 for size in shape[:-1])


def rounded(
    matrices: Mapping[bytes, tuple[Array, Array]],
    error: Callable[[Mapping[bytes, Form]], float],
    tolerance: float,
) -> dict[bytes, Form] | None:
    """Forms with the largest steps whose error is within the tolerance; None if none was found.

    Args:
        matrices: as ``inputs`` gives them.
        error: what the page would be off by with these forms. It is about proportional to c.
        tolerance: of that.
    """
    try:
        factors = {key: _factor(x) for key, (_, x) in matrices.items()}
    except np.linalg.LinAlgError:  # of inputs that are not finite
        return None
    deviation, best = FIRST, None
    for _ in range(TRIES):
        try:
            found = {
                key: _rounded(weights, *factors[key], deviation * np.sqrt(12 / len(weights)))
                for key, (weights, _) in matrices.items()
            }
        except ValueError:  # steps too small for 16 bits
            return best
        off = error(found)
        if off <= tolerance:
            best = found
        if not np.isfinite(off) or ENOUGH * tolerance <= off <= tolerance:
            return best
        deviation *= AIM * tolerance / max(off, 1e-3 * tolerance)
    return best


def _factor(x: Array) -> tuple[Array, Array]:
    """The order in which rows are rounded, the largest inputs first, and U for that order."""
    power = np.square(x).mean(0)
    order = np.argsort(-power, kind="stable")
    damping = DAMPING * float(power.mean()) or 1.0
    a = x[:, order].astype(np.float32) / np.sqrt(np.float32(len(x) * damping))
    # (damping (1 + a^T a))^-1 by Woodbury: the matrix to invert has the size of the calls.
    inner = np.linalg.solve(np.eye(len(a), dtype=np.float32) + a @ a.T, a)
    inverse = (np.eye(x.shape[1], dtype=np.float32) - a.T @ inner) / np.float32(damping)
    return order, np.linalg.cholesky(inverse).T


def _rounded(weights: Array, order: Array, upper: Array, c: float) -> Form:
    count = len(weights)
    diagonal = np.diag(upper)
    left = (weights[order] / (c * diagonal[:, None])).astype(np.float32)  # in steps of its row
    share = upper / diagonal  # of errors in steps of one row, in steps of another
    whole = np.empty_like(left)
    for start in range(0, count, BLOCK):
        end = min(start + BLOCK, count)
        part, off = left[start:end], np.empty_like(left[start:end])
        for i in range(end - start):
            whole[start + i] = np.rint(part[i])
            off[i] = part[i] - whole[start + i]
            part[i + 1 :] -= share[start + i, start + i + 1 : end, None] * off[i]
        left[end:] -= share[start:end, end:].T @ off
    found, steps = np.empty_like(whole), np.empty(count)
    found[order], steps[order] = whole, c * diagonal
    return packing.stepped(found, steps)
