"""Keys of a few draws that cover a distribution evenly: a Latin hypercube (McKay et al. 1979).

Of N draws of a uniform number, one lies in each of the N equal parts of [0, 1), in an order that is
drawn anew for every number. Each draw alone is distributed as ever. But the mean over the N of a
sum of functions of one number each has next to no error, and -ELBO is nearly such a sum, over the
dimensions of z.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.extend import random

Array = jax.Array


@functools.cache
def _implementation(draws: int):
    """Keys [3]: one of threefry, which all draws share, and the number of the draw."""

    def shared(key: Array) -> Array:
        return jax.random.wrap_key_data(key[:2], impl="threefry2x32")

    def with_number(keys: Array, key: Array) -> Array:
        data = jax.random.key_data(keys)
        return jnp.concatenate([data, jnp.broadcast_to(key[2:], (*data.shape[:-1], 1))], -1)

    def seed(number: Array) -> Array:
        return jnp.append(jax.random.key_data(jax.random.key(number, impl="threefry2x32")), 0)

    def split(key: Array, shape: tuple[int, ...]) -> Array:
        return with_number(jax.random.split(shared(key), shape), key)

    def fold_in(key: Array, number: int) -> Array:
        return with_number(jax.random.fold_in(shared(key), number), key)

    def random_bits(key: Array, width: int, shape: tuple[int, ...]) -> Array:
        assert width == 32, width
        orders, within = jax.random.split(shared(key))
        parts = jnp.argsort(jax.random.bits(orders, (draws, *shape)), axis=0)[key[2]]
        low = jax.random.bits(jax.random.fold_in(within, key[2]), shape)
        bits = draws.bit_length() - 1
        return (parts.astype(jnp.uint32) << (width - bits)) | (low >> bits)

    return random.define_prng_impl(
        key_shape=(3,),
        seed=seed,
        split=split,
        random_bits=random_bits,
        fold_in=fold_in,
        name="hypercube",
        tag="lhs",
    )


def keys(seed: int, draws: int) -> Array:
    """The keys [draws] of such draws; their number is a power of two."""
    assert draws.bit_count() == 1, draws
    one = jax.random.key_data(jax.random.key(seed, impl="threefry2x32"))
    data = jnp.concatenate([jnp.tile(one, (draws, 1)), jnp.arange(draws, dtype="u4")[:, None]], 1)
    return jax.random.wrap_key_data(data, impl=_implementation(draws))
