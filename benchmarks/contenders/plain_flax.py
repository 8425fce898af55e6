"""Flax as one writes it first: a module, a jitted step, and a Python loop that calls it."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.case import Case
from benchmarks.nets import Net


class Vae(nn.Module):
    net: Net
    size: int

    @nn.compact
    def __call__(self, x, key):
        net, act = self.net, getattr(nn, self.net.activation)
        if net.kind == "conv":
            small = -(-self.size // 4)
            h = act(nn.Conv(32, (3, 3), (2, 2))(x))
            h = act(nn.Conv(64, (3, 3), (2, 2))(h)).reshape(len(x), -1)
            h = act(nn.Dense(256)(h))
        else:
            h = x.reshape(len(x), -1)
            for width in net.widths:
                h = act(nn.Dense(width)(h))
        mean, log_var = nn.Dense(net.latents)(h), nn.Dense(net.latents)(h)
        z = mean + jnp.exp(0.5 * log_var) * jax.random.normal(key, mean.shape)
        if net.kind == "conv":
            h = act(nn.Dense(256)(z))
            h = nn.Dense(small * small * 64)(h).reshape(-1, small, small, 64)
            h = act(nn.ConvTranspose(32, (3, 3), (2, 2))(act(h)))
            logits = nn.ConvTranspose(1, (3, 3), (2, 2))(h)
        else:
            h = z
            for width in reversed(net.widths):
                h = act(nn.Dense(width)(h))
            logits = nn.Dense(self.size**2)(h)
        return logits.reshape(len(x), -1), mean, log_var


def _step(case: Case):
    model, adam = Vae(case.shape, case.size), optax.adam(1e-3)

    def loss(params, x, key):
        logits, mean, log_var = model.apply({"params": params}, x, key)
        bce = optax.sigmoid_binary_cross_entropy(logits, x.reshape(len(x), -1)).sum(-1)
        kl = 0.5 * (mean**2 + jnp.exp(log_var) - 1 - log_var).sum(-1)
        return (bce + kl).mean()

    def step(params, opt_state, x, key):
        grads = jax.grad(loss)(params, x, key)
        change, opt_state = adam.update(grads, opt_state, params)
        return optax.apply_updates(params, change), opt_state

    x = jnp.zeros((case.batch, case.size, case.size, 1))
    params = model.init(jax.random.key(0), x, jax.random.key(1))["params"]
    return step, params, adam.init(params)


def loop(case: Case):
    """Images on the device, gathered in the jitted step; state donated."""
    step, params, opt_state = _step(case)
    images, rng, key = jnp.asarray(case.data()), np.random.default_rng(0), jax.random.key(2)

    def gathered(params, opt_state, images, rows, key, i):
        x = images[rows][..., None] / 255.0
        return step(params, opt_state, x, jax.random.fold_in(key, i))

    compiled = jax.jit(gathered, donate_argnums=(0, 1))

    def run(steps: int) -> None:
        nonlocal params, opt_state
        for i in range(steps):
            rows = rng.integers(0, case.images, case.batch)
            params, opt_state = compiled(params, opt_state, images, rows, key, i)
        jax.block_until_ready(params)

    run(1)
    return run


def example(case: Case):
    """As flax's own examples/vae: batches from NumPy, a new key split off for every step."""
    step, params, opt_state = _step(case)
    images, rng, key = case.data(), np.random.default_rng(0), jax.random.key(2)
    compiled = jax.jit(step)

    def run(steps: int) -> None:
        nonlocal params, opt_state, key
        for _ in range(steps):
            rows = rng.integers(0, case.images, case.batch)
            x = images[rows].astype(np.float32)[..., None] / 255.0
            key, draw = jax.random.split(key)
            params, opt_state = compiled(params, opt_state, x, draw)
        jax.block_until_ready(params)

    run(1)
    return run


CONTENDERS = {"flax loop": loop, "flax example": example}
