"""Train a VAE on a NumPy array in a loop of your own, and draw from it.

    python examples/own_loop.py

The step is a pure function, so the loop can be Python's or JAX's: first one compiled step at a
time, then one compiled epoch at a time, which is faster where steps are short.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import flaxvae as fv

BATCH = 128


def digits() -> np.ndarray:
    """[1797, 8, 8, 1] float32 in [0, 1]."""
    return (load_digits().images[..., None] / 16).astype(np.float32)


def by_step(step, state, key, x: np.ndarray, epochs: int):
    """One step at a time; the batches can come from anywhere."""
    rng, compiled = np.random.default_rng(0), jax.jit(step, donate_argnums=0)
    history = []
    for _ in range(epochs):
        order, total = rng.permutation(len(x)), 0.0
        for rows in np.split(order[: len(x) // BATCH * BATCH], len(x) // BATCH):
            key, noise = jax.random.split(key)
            state, metrics = compiled(state, noise, fv.Batch(x[rows]))
            total += metrics["elbo"]
        history.append(float(total) / (len(x) // BATCH))
    return state, history


def by_epoch(step, state, key, x: np.ndarray, epochs: int):
    """One epoch at a time, as a scan over its steps; the images stay on the device."""
    steps, shape = len(x) // BATCH, x.shape[1:]

    @functools.partial(jax.jit, donate_argnums=0)
    def epoch(state, key, flat):
        order_key, noise_key = jax.random.split(key)
        order = jax.random.permutation(order_key, len(flat))[: steps * BATCH]

        def body(state, now):
            rows, noise = now
            return step(state, noise, fv.Batch(flat[rows].reshape(BATCH, *shape)))

        each = order.reshape(steps, BATCH), jax.random.split(noise_key, steps)
        state, metrics = jax.lax.scan(body, state, each)
        return state, jax.tree.map(jnp.mean, metrics)

    flat = jnp.asarray(x.reshape(len(x), -1))  # on a CPU, rows are gathered faster than images
    history = []
    for i in range(epochs):
        state, metrics = epoch(state, jax.random.fold_in(key, i), flat)
        history.append(float(metrics["elbo"]))
    return state, history


def main(epochs: int = 40) -> dict[str, list[float]]:
    x = digits()
    spec, body = fv.DataSpec("digits", x.shape[1:]), fv.Body(net="mlp", widths=(256, 128))
    recipe = fv.vae(spec, body, latent_dim=10)
    optimizer = optax.adam(1e-3)
    step = fv.update(recipe, optimizer)  # (state, key, batch) -> (state, metrics)
    histories = {}
    for loop in (by_step, by_epoch):
        init_key, key = jax.random.split(jax.random.key(0))
        state = fv.init(recipe, optimizer, init_key, x[:2])
        state, history = loop(step, state, key, x, epochs)
        print(f"{loop.__name__}: -ELBO {-history[0]:.2f} -> {-history[-1]:.2f} nats per image")
        histories[loop.__name__] = history
    model = fv.Trained(recipe, state.variables)
    new = model.sample(4)  # [4, 8, 8, 1]
    for row in np.concatenate(new[..., 0], axis=1):  # four digits, side by side
        print("".join(" .:*#"[int(4.99 * pixel)] * 2 for pixel in row))
    return histories


if __name__ == "__main__":
    main()
