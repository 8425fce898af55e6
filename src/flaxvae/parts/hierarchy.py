"""Hierarchical latents: the ladder VAE (Sonderby et al. 2016).

L levels of latent variables, with z_1 next to the data. Each is Gaussian given the level above:

    p(z) = N(z_L; 0, I) prod_{l<L} N(z_l; mean_p(z_{l+1}), var_p(z_{l+1}))

The encoder goes up, d_l = MLP(d_{l-1}), and at each level proposes N(mean_hat_l, var_hat_l) from
d_l. The posterior goes down like the prior, q(z|x) = q(z_L|x) prod_{l<L} q(z_l|z_{l+1}, x). At the
top it is the proposal; below, it is the normalized product of proposal and prior,

    1 / var_q = 1 / var_hat + 1 / var_p,    mean_q = var_q (mean_hat / var_hat + mean_p / var_p).

Where the data are uninformative (var_hat is large) q falls back to the prior, so that upper levels
stay in use. The paper adds batch normalization, which would make the examples of a batch depend on
each other, and a warm-up of the KL, which belongs to the objective; neither is here.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxvae.core import Latent
from flaxvae.distributions import Normal, bounded, kl_normal, standard_normal
from flaxvae.errors import UsageError
from flaxvae.parts.latents import Latents
from flaxvae.parts.levels import Levels
from flaxvae.parts.networks import ACTIVATIONS, Heads, Mlp

Array = jax.Array

# Learned standard deviations lie between exp(-5) and exp(5). Without bounds, one bad step can give
# a KL of thousands of nats, from which training does not recover.
LOG_VAR_RANGE = -10.0, 10.0


def merge(a: Normal, b: Normal) -> Normal:
    """The normalized product of two diagonal Gaussians: precisions add and weight the means.

    var = 1 / (1 / var_a + 1 / var_b),    mean = var (mean_a / var_a + mean_b / var_b)

    Computed from log-variances, so that nothing overflows however different the variances are.

    Args:
        a, b: Gaussians with arrays of the same shape [B, D].

    Returns:
        Normal of that shape.
    """
    weight, rest = jax.nn.sigmoid(b.log_var - a.log_var), jax.nn.sigmoid(a.log_var - b.log_var)
    log_var = -jnp.logaddexp(-a.log_var, -b.log_var)
    return Normal(weight * a.mean + rest * b.mean, log_var)


class Step(nn.Module):
    """Two hidden layers, and a Gaussian from them: [B, F] -> ([B, width], Normal [B, dim])."""

    width: int
    dim: int
    activation: str

    @nn.compact
    def __call__(self, x):
        hidden = Mlp((self.width, self.width), self.activation, name="body")(x)
        heads = Heads({"mean": self.dim, "log_var": self.dim}, name="heads")(hidden)
        return hidden, Normal(heads["mean"], bounded(heads["log_var"], *LOG_VAR_RANGE))


class Drawn(NamedTuple):
    """One level on the way down."""

    z: Array  # [B, D_l]
    q: Normal  # q(z_l | z_{l+1}, x)
    p: Normal  # p(z_l | z_{l+1})


def levels(dims: Sequence[int]) -> Levels:
    """What the levels of a ladder with these latent dimensions are called."""
    names = tuple(f"level {l}" for l in range(1, len(dims) + 1))
    return Levels(names, (1,) * len(dims), tuple(dims))


def ladder(
    dims: tuple[int, ...],
    widths: tuple[int, ...],
    features: int = 256,
    activation: str = "gelu",
) -> Latents:
    """Levels of Gaussian latents whose posterior is top-down like the prior (Sonderby et al. 2016).

    z is all levels concatenated, level 1 first, [B, sum(dims)]; as in the paper p(x|z) = p(x|z_1),
    by ``decoded``. The KL of a level is in closed form given the draw of the level above,

        kl_l = KL(q(z_l | z_{l+1}, x) || p(z_l | z_{l+1}))    nats, kl [B, L],

    so its mean over draws is the level's part of KL(q(z|x) || p(z)). Without a key each level is
    the posterior mean given the means above it. ``prior_sample`` is ancestral; temperature, one for
    all levels or one for each, scales a level's standard deviation given the level above. One level
    is the Gaussian VAE.

    Args:
        dims: latent dimensions of each level, from the data upwards.
        widths: hidden units of each level, likewise; every mapping has two hidden layers. Level l's
            are those of d_{l-1} -> d_l and z_{l+1} -> p(z_l | z_{l+1}).
        features: size of the encoder's only head, a linear layer followed by the activation.
        activation: one of networks.ACTIVATIONS. With relu, initial weights are so small that the
            levels, many layers deep, collapse before they learn.

    Returns:
        Latents with parameters ``up_1`` .. ``up_L`` and ``down_1`` .. ``down_{L-1}``.

    Raises:
        UsageError: no level, not one width for each level, or an unknown activation.
    """
    if not dims or len(dims) != len(widths):
        raise UsageError(
            f"a ladder needs one width for each level: got dims {dims} and widths {widths}"
        )
    if activation not in ACTIVATIONS:
        raise UsageError(f"unknown activation {activation!r}: expected one of {[*ACTIVATIONS]}")

    top = len(dims)
    steps = {f"up_{l}": Step(widths[l - 1], dims[l - 1], activation) for l in range(1, top + 1)}
    steps |= {f"down_{l}": Step(widths[l - 1], dims[l - 1], activation) for l in range(1, top)}
    inputs = (features, *widths[:-1], *dims[1:])

    def init(key):
        keys = jax.random.split(key, len(steps))
        params = {
            name: step.init(k, jnp.zeros((1, size)))["params"]
            for (name, step), k, size in zip(steps.items(), keys, inputs)
        }
        return {"params": params}

    def apply(variables, name, x):
        return steps[name].apply({"params": variables["params"][name]}, x)

    def propose(variables, heads):
        """N(mean_hat_l, var_hat_l) of every level, on the way up."""
        d, proposals = ACTIVATIONS[activation](heads["features"]), {}
        for l in range(1, top + 1):
            d, proposals[l] = apply(variables, f"up_{l}", d)
        return proposals

    def prior(variables, l, drawn, n):
        if l == top:
            return standard_normal((n, dims[-1]))
        return apply(variables, f"down_{l}", drawn[l + 1])[1]

    def descend(variables, key, proposals):
        """Every level's draw, or posterior mean if the key is None, on the way down."""
        keys = None if key is None else jax.random.split(key, top)
        z: dict[int, Array] = {}
        levels: dict[int, Drawn] = {}
        for l in range(top, 0, -1):
            p = prior(variables, l, z, proposals[l].mean.shape[0])
            q = proposals[l] if l == top else merge(proposals[l], p)
            z[l] = q.mean if keys is None else q.sample(keys[l - 1])
            levels[l] = Drawn(z[l], q, p)
        return [levels[l] for l in range(1, top + 1)]

    def row(z):
        return jnp.concatenate(z, axis=-1)

    def draw(variables, key, heads, train):
        proposals = propose(variables, heads)
        levels = descend(variables, key, proposals)
        at_means = levels if key is None else descend(variables, None, proposals)
        z = row([level.z for level in levels])
        return Latent(
            z=z,
            code=row([level.z for level in at_means]),
            kl=jnp.stack([kl_normal(q, p).sum(-1) for _, q, p in levels], axis=-1),
            log_p=sum(p.log_prob(z) for z, _, p in levels),
            log_q=sum(q.log_prob(z) for z, q, _ in levels),
            penalty=jnp.zeros(z.shape[0]),
            updates={},
        )

    def unrow(z):
        ends = list(itertools.accumulate(dims))[:-1]
        return dict(enumerate(jnp.split(z, ends, axis=-1), 1))

    def redraw(variables, key, z, below, temperature):
        keys, levels = jax.random.split(key, top), unrow(z)
        scale = jnp.broadcast_to(jnp.asarray(temperature, z.dtype), (top,))
        for l in range(top, 0, -1):
            p = prior(variables, l, levels, z.shape[0])
            drawn = p.at(scale[l - 1] * jax.random.normal(keys[l - 1], levels[l].shape))
            levels[l] = jnp.where(l <= below, drawn, levels[l])
        return row([levels[l] for l in range(1, top + 1)])

    def prior_sample(variables, key, n, temperature):
        return redraw(variables, key, jnp.zeros((n, sum(dims))), top, temperature)

    def prior_log_prob(variables, z):
        levels = unrow(z)
        return sum(
            prior(variables, l, levels, z.shape[0]).log_prob(own) for l, own in levels.items()
        )

    decoded, heads = slice(0, dims[0]), {"features": features}
    return Latents(heads, init, draw, prior_sample, prior_log_prob, decoded, redraw)
