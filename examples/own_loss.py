"""Train with a loss of your own, written out from the functions of a VAE.

    python examples/own_loss.py

An objective is a function from a model to its loss. A loss takes (variables, key, batch, step) and
returns (scalar, (metrics, updates)). This one adds to the negative ELBO a term that keeps edges
sharp: the squared error of differences between neighbouring pixels (Mathieu et al. 2016).
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import flaxvae as fv


def differences(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Between vertical and horizontal neighbours, of images [B, H, W, C]."""
    return x[:, 1:] - x[:, :-1], x[:, :, 1:] - x[:, :, :-1]


def edges(model: fv.Model, *, weight: float):
    """-E[log p(x|z)] + KL + weight * squared error of the differences, in nats per image."""

    def loss(variables, key, batch, step):
        features = model.encode(variables, batch.x, batch.y)
        latent = model.reparameterize(variables, key, features, True)  # one draw z ~ q(z|x)
        decoded = model.decode(variables, latent.z, batch.y)  # p(x|z)
        reconstruction = -decoded.log_prob(batch.x).mean()  # summed over pixels, mean over images
        kl = latent.kl.sum(-1).mean()
        pairs = zip(differences(decoded.mean), differences(batch.x))
        error = sum(jnp.square(a - b).sum((1, 2, 3)).mean() for a, b in pairs)
        total = reconstruction + kl + weight * error
        metrics = {
            "loss": total,
            "elbo": -reconstruction - kl,
            "reconstruction": reconstruction,
            "kl": kl,
            "edges": error,
        }
        return total, (metrics, latent.updates)  # updates: state without gradient, here none

    return loss


def train(x: np.ndarray, weight: float, steps: int):
    """The trained model, and the metrics of the last step."""
    spec, body = fv.DataSpec("digits", x.shape[1:]), fv.Body(net="mlp", widths=(256, 128))
    plain = fv.vae(spec, body, latent_dim=10)
    recipe = plain._replace(objective=partial(edges, weight=weight))
    optimizer, key = optax.adam(1e-3), jax.random.key(1)
    state = fv.init(recipe, optimizer, jax.random.key(0), x[:2])
    step = jax.jit(fv.update(recipe, optimizer), donate_argnums=0)
    rng = np.random.default_rng(0)
    for i in range(steps):
        batch = fv.Batch(x[rng.integers(len(x), size=128)])
        state, metrics = step(state, jax.random.fold_in(key, i), batch)
    return fv.Trained(recipe, state.variables), metrics


def main(steps: int = 400) -> dict[float, float]:
    x = (load_digits().images[..., None] / 16).astype(np.float32)
    errors = {}
    for weight in (0.0, 10.0):
        model, metrics = train(x, weight, steps)
        again = model.reconstruct(x)
        pairs = zip(differences(again), differences(x))
        errors[weight] = float(sum(np.square(a - b).sum((1, 2, 3)).mean() for a, b in pairs))
        print(
            f"weight {weight:g}: -ELBO {-float(metrics['elbo']):.2f} nats per image, "
            f"squared error of edges {errors[weight]:.3f}"
        )
    return errors


if __name__ == "__main__":
    main()
