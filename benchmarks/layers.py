"""The convolution layers one by one: part of the GEMM peak, forward and gradient, by shape.

    python -m benchmarks.layers [SIDExCHANNELSxBATCH …] [--lowering gemm]

A layer runs in a compiled loop, as in a training. Its gradient is that of input and kernel, given
that of the output; its forward pass is not counted in it. The peak is measured beside each shape.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from flaxvae.parts import convolutions

VALUES = 2**25  # of an activation, at most: 128 MiB
BATCHES = (16, 128, 512, 2048)
MAPS = (  # side, channels
    *((128, 16), (64, 16), (64, 32), (32, 16), (32, 32), (32, 64), (28, 32), (16, 64), (16, 128)),
    *((14, 16), (14, 64), (8, 64), (8, 128), (7, 32), (7, 64), (7, 128)),
)
LAYERS = {"3x3": 1, "3x3, half the size": 2, "3x3, twice the size": 2}
GEMM_SIDE = 2048
MOMENT, ROUNDS = 0.12, 3  # seconds of one timing, and timings of which one takes the median


class Shape(NamedTuple):
    """Of the larger map; both sides have as many channels."""

    side: int
    channels: int
    batch: int

    def __str__(self) -> str:
        return f"{self.side}x{self.channels}x{self.batch}"


SHAPES = tuple(
    Shape(side, channels, batch)
    for (side, channels), batch in itertools.product(MAPS, BATCHES)
    if side * side * channels * batch <= VALUES
)


def _looped(function: Callable, *arrays: jax.Array) -> Callable[[int], None]:
    """Runs function(*arrays) so many times in one program, anew each time."""

    def turn(_, carry):
        here, total = carry
        # A number of each array depends on the last turn, so that nothing is computed only once.
        here = tuple(a.at[(0,) * a.ndim].add(1e-30 * total) for a in here)
        squares = [jnp.square(leaf).sum() for leaf in jax.tree.leaves(function(*here))]
        return here, sum(squares)

    @jax.jit
    def program(steps, arrays):
        return jax.lax.fori_loop(0, steps, turn, (arrays, jnp.zeros(())))[1]

    return lambda steps: program(steps, arrays).block_until_ready()


def _seconds(run: Callable[[int], None], moment: float, rounds: int) -> float:
    """Median time of one turn."""

    def timed(steps: int) -> float:
        begun = time.perf_counter()
        run(steps)
        return time.perf_counter() - begun

    run(1)
    steps = max(1, round(moment / timed(1)))
    return statistics.median(timed(steps) / steps for _ in range(rounds))


def _layer(lowering: convolutions.Lowering, name: str, shape: Shape):
    """(the layer of input and kernel, its input, kernel and output's gradient, multiply-adds)."""
    stride, (side, channels, batch) = LAYERS[name], shape
    small = convolutions.small_size((side, side), stride)
    maps = [(batch, *size, channels) for size in ((side, side), small)]
    kernel_shape, bias = (3, 3, channels, channels), jnp.zeros(channels)

    def conv(x, kernel):
        return lowering.conv(x, kernel, bias, stride)

    def transpose(x, kernel):
        return lowering.conv_transpose(x, kernel, bias, stride, (side, side))

    twice = "twice" in name
    keys = jax.random.split(jax.random.key(0), 3)
    ends = [lowering.enter(jax.random.normal(k, m)) for k, m in zip(keys, maps)]
    x, dy = reversed(ends) if twice else ends
    kernel = 0.1 * jax.random.normal(keys[2], kernel_shape)
    count = 9 * channels**2 * small[0] * small[1] * batch
    return transpose if twice else conv, x, kernel, dy, count


def _gradient(layer: Callable, x: jax.Array, kernel: jax.Array, dy: jax.Array):
    return jax.vjp(layer, x, kernel)[1](dy)


def measure(
    shape: Shape, lowering: str = "auto", moment: float = MOMENT, rounds: int = ROUNDS
) -> dict[str, dict[str, float]]:
    """{layer: {"forward": part of the GEMM peak, "gradient": likewise}}."""
    chosen, found = convolutions.lowering(lowering), {}
    a = jax.random.normal(jax.random.key(0), (GEMM_SIDE, GEMM_SIDE))
    gemm = _looped(lambda a: a @ a, a)
    for name in LAYERS:
        layer, x, kernel, dy, count = _layer(chosen, name, shape)
        rate = 2 * GEMM_SIDE**3 / _seconds(gemm, moment, rounds)
        backward = _looped(functools.partial(_gradient, layer), x, kernel, dy)
        runs = {"forward": (_looped(layer, x, kernel), 1), "gradient": (backward, 2)}
        found[name] = {
            which: 2 * products * count / _seconds(run, moment, rounds) / rate
            for which, (run, products) in runs.items()
        }
    return found


def told(shape: Shape, found: dict[str, dict[str, float]]) -> str:
    """A line: per cent of the GEMM peak, forward and gradient, layer by layer."""
    each = [f"{100 * v:6.0f} %" for row in found.values() for v in row.values()]
    return f"{shape!s:<14}{'  '.join(each)}"


def head() -> str:
    """What stands above the columns of ``told``."""
    lines = [f"{'':<14}" + "".join(f"{name:<20}" for name in LAYERS)]
    return "\n".join([*lines, f"{'':<14}" + " forward  gradient  " * len(LAYERS)])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shapes", nargs="*", metavar="SIDExCHANNELSxBATCH")
    parser.add_argument("--lowering", default="auto")
    asked = parser.parse_args()
    print(head())
    for shape in [Shape(*map(int, word.split("x"))) for word in asked.shapes] or SHAPES:
        print(told(shape, measure(shape, asked.lowering)), flush=True)


if __name__ == "__main__":
    main()
