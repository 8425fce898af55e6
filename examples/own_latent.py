"""Train a VAE with a posterior and a prior of your own: Laplace instead of Gaussian.

    python examples/own_latent.py

A `Latents` record says which heads the encoder must give, how z is drawn from them, and what the
prior is. With q(z|x) = Laplace(mean, b) and p(z) = Laplace(0, 1), in each dimension

    KL = |mean| + b exp(-|mean| / b) - log b - 1.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import flaxvae as fv
from flaxvae import parts


def log_prob(z, mean=0.0, scale=1.0):
    """log Laplace(z; mean, scale), summed over dimensions: [B]."""
    return (-jnp.abs(z - mean) / scale - jnp.log(2 * scale)).sum(-1)


def laplace(dim: int) -> parts.latents.Latents:
    """Laplace posterior and prior in ``dim`` dimensions."""

    def draw(variables, key, heads, train):
        mean, scale = heads["mean"], jnp.exp(heads["log_scale"])
        z = mean if key is None else mean + scale * jax.random.laplace(key, mean.shape)
        distance = jnp.abs(mean)
        return fv.Latent(
            z=z,
            code=mean,  # what stands for x where nothing is drawn
            kl=distance + scale * jnp.exp(-distance / scale) - heads["log_scale"] - 1,  # [B, D]
            log_p=log_prob(z),
            log_q=log_prob(z, mean, scale),
            penalty=jnp.zeros(len(z)),
            updates={},
        )

    def prior_sample(variables, key, n, temperature):
        return temperature * jax.random.laplace(key, (n, dim))

    return parts.latents.Latents(
        heads={"mean": dim, "log_scale": dim},
        init=parts.latents.nothing,  # no parameters of its own
        draw=draw,
        prior_sample=prior_sample,
        prior_log_prob=lambda variables, z: log_prob(z),
    )


def laplace_vae(data: fv.DataSpec, *, latent_dim: int = 10) -> fv.Recipe:
    """VAE with Laplace latents.

    Args:
        latent_dim: latent dimensions.
    """
    latents, likelihood = laplace(latent_dim), parts.likelihoods.bernoulli(data.shape[-1])
    network = parts.networks.mlp(data.shape, latents.heads, likelihood.values, widths=(256, 128))
    model = parts.assemble.model(network, latents, likelihood)
    facts = {"log_px": "cross_entropy", "standard_prior": False}  # p(z) is not N(0, I)
    return fv.Recipe(model, parts.objectives.negative_elbo, data, **facts)


def main(steps: int = 400) -> list[float]:
    x = (load_digits().images[..., None] / 16).astype(np.float32)
    recipe = laplace_vae(fv.DataSpec("digits", x.shape[1:]))
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
    z = fv.Trained(recipe, state.variables).encode(x)
    print(f"of {z.shape[1]} latents, {(z.var(0) > 0.01).sum()} vary with the image")
    return history


if __name__ == "__main__":
    main()
