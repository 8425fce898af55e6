"""Train a VAE with networks of your own, as Flax modules.

    python examples/own_network.py

The encoder gives a dictionary of heads, whose names and sizes the latents ask for. The decoder
gives the raw values that the likelihood asks for. `parts.assemble` puts them together.
"""

from collections.abc import Mapping

import flax.linen as nn
import jax
import numpy as np
import optax
from sklearn.datasets import load_digits

import flaxvae as fv
from flaxvae import parts


class Block(nn.Module):
    """A residual block of dense layers: [B, F] -> [B, F]."""

    @nn.compact
    def __call__(self, x):
        h = nn.gelu(nn.Dense(2 * x.shape[-1])(nn.LayerNorm()(x)))
        return x + nn.Dense(x.shape[-1])(h)


class Encoder(nn.Module):
    heads: Mapping[str, int]  # {"mean": D, "log_var": D} for Gaussian latents

    @nn.compact
    def __call__(self, x, labels=None):
        x = Block()(nn.Dense(128)(x.reshape(len(x), -1)))
        return {name: nn.Dense(size)(x) for name, size in self.heads.items()}


class Decoder(nn.Module):
    shape: tuple[int, int, int]
    values: int  # for each pixel, all channels together

    @nn.compact
    def __call__(self, z, labels=None):
        x = Block()(nn.Dense(128)(z))
        height, width, _ = self.shape
        x = nn.Dense(height * width * self.values)(x)
        return x.reshape(len(z), height, width, self.values)


def residual_vae(data: fv.DataSpec, *, latent_dim: int = 10) -> fv.Recipe:
    """VAE with residual dense networks.

    Args:
        latent_dim: latent dimensions.
    """
    latents = parts.latents.gaussian(latent_dim)
    likelihood = parts.likelihoods.bernoulli(data.shape[-1])
    network = parts.networks.Network(Encoder(latents.heads), Decoder(data.shape, likelihood.values))
    model = parts.assemble.model(network, latents, likelihood)
    return fv.Recipe(model, parts.objectives.negative_elbo, data, log_px="cross_entropy")


def main(steps: int = 400) -> list[float]:
    x = (load_digits().images[..., None] / 16).astype(np.float32)
    recipe = residual_vae(fv.DataSpec("digits", x.shape[1:]))
    optimizer, key = optax.adam(1e-3), jax.random.key(1)
    state = fv.init(recipe, optimizer, jax.random.key(0), x[:2])
    step = jax.jit(fv.update(recipe, optimizer), donate_argnums=0)
    rng, history = np.random.default_rng(0), []
    for i in range(steps):
        batch = fv.Batch(x[rng.integers(len(x), size=128)])
        state, metrics = step(state, jax.random.fold_in(key, i), batch)
        history.append(metrics["elbo"])  # still on its way: reading it here would wait for it
    history = [float(elbo) for elbo in history]
    print(f"-ELBO {-history[0]:.2f} -> {-history[-1]:.2f} nats per image")
    return history


if __name__ == "__main__":
    main()
