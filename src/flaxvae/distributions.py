"""Probability distributions as pytrees of arrays: log-probabilities, samples, KL divergences.

Axis 0 is the batch; all other axes belong to one event, so ``log_prob`` sums over them and
returns one number per example, in nats. Everything is float32 and in a numerically stable form:
logits instead of probabilities, log-variances instead of variances.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Protocol

import jax
import jax.numpy as jnp

LOG_2PI = math.log(2 * math.pi)


class Distribution(Protocol):
    """What ``decode`` returns."""

    @property
    def mean(self) -> jax.Array:
        """E[x], shape [B, *event]."""
        ...

    def log_prob(self, x: jax.Array) -> jax.Array:
        """log p(x) in nats, shape [B]."""
        ...

    def sample(self, key: jax.Array) -> jax.Array:
        """One draw, shape [B, *event]."""
        ...


def draw_rows(p: Distribution, keys: jax.Array) -> jax.Array:
    """One draw for each row of ``p``, [B, *event], each with its own key, of ``keys`` [B].

    A row's draw does not depend on the others. Arrays of ``p`` with fewer axes than its mean have
    no axis of rows: they are shared.
    """
    leaves, structure = jax.tree.flatten(p)
    own = [leaf.ndim >= p.mean.ndim and len(leaf) == len(keys) for leaf in leaves]

    def one(leaves, key):
        alone = [leaf[None] if each else leaf for leaf, each in zip(leaves, own, strict=True)]
        return jax.tree.unflatten(structure, alone).sample(key)[0]

    return jax.vmap(one, ([0 if each else None for each in own], 0))(leaves, keys)


def flat(values: jax.Array) -> jax.Array:
    """[B, *event] -> [B, D]; scalars are returned unchanged.

    Flatten before any arithmetic: XLA's CPU loops are ten times slower over a last axis of one
    channel than over all pixels.
    """
    return values.reshape(values.shape[0], -1) if values.ndim else values


def sum_event(values: jax.Array) -> jax.Array:
    """Sum over all axes but the first: [B, *event] -> [B]."""
    return flat(values).sum(-1)


def bounded(raw: jax.Array, low: float, high: float) -> jax.Array:
    """A smooth map from the reals into (low, high), close to the identity in the middle."""
    middle, half = (low + high) / 2, (high - low) / 2
    return middle + half * jnp.tanh((raw - middle) / half)


def _in_groups(values: jax.Array) -> jax.Array:
    """[B, D] -> [B, G, D / G], G at most 64. A group's values are D / G apart, so loops vectorize.

    A product of 64 numbers in (1, 2] does not overflow, and takes one logarithm instead of 64.
    """
    return values.reshape(values.shape[0], math.gcd(values.shape[1], 64), -1)


def _times(a: jax.Array, b: jax.Array) -> jax.Array:
    """(1 + a)(1 + b) - 1, accurate for values far below 1."""
    return a + b + a * b


@jax.custom_jvp
def _cross_entropy(x: jax.Array, logits: jax.Array) -> jax.Array:
    """sum_d [softplus(logits_d) - x_d logits_d] for [B, D], to full precision: [B].

    softplus(l) = max(l, 0) + log(1 + exp(-|l|)). Logarithms are taken of products: one per pixel
    would cost more on CPU than the rest of the likelihood.
    """
    x, logits = _in_groups(x), _in_groups(logits)
    terms = (jnp.maximum(logits, 0) - x * logits, jnp.exp(-jnp.abs(logits)))
    zeros = tuple(jnp.zeros((), term.dtype) for term in terms)
    linear, excess = jax.lax.reduce(
        terms, zeros, lambda a, b: (a[0] + b[0], _times(a[1], b[1])), [1]
    )
    return (linear + jnp.log1p(excess)).sum(-1)


@_cross_entropy.defjvp
def _(primals, tangents):
    (x, logits), (x_dot, logits_dot) = primals, tangents
    # In training x is converted from bytes, which XLA's CPU loops do slowly inside a reduction of
    # two values. So this computes the same in two reductions.
    linear = (jnp.maximum(logits, 0) - x * logits).sum(-1)
    excess = _in_groups(jnp.exp(-jnp.abs(logits)))
    excess = jax.lax.reduce(excess, jnp.zeros((), excess.dtype), _times, [1])
    value = linear + jnp.log1p(excess).sum(-1)
    return value, (logits_dot * (jax.nn.sigmoid(logits) - x) - x_dot * logits).sum(-1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Normal:
    """Gaussian with independent components, N(mean, exp(log_var)).

    log p(x) = -1/2 sum_d [log 2 pi + log_var_d + (x_d - mean_d)^2 exp(-log_var_d)]

    ``log_var`` broadcasts against ``mean`` ([B, *event]), so a shared variance can be a scalar.
    """

    mean: jax.Array
    log_var: jax.Array

    def log_prob(self, x: jax.Array) -> jax.Array:
        """Log-density of ``x`` [B, *event] in nats, shape [B]."""
        log_var = self.log_var
        if log_var.ndim:
            log_var = flat(jnp.broadcast_to(log_var, self.mean.shape))
        return Normal(flat(self.mean), log_var).log_density(flat(x)).sum(-1)

    def log_density(self, x: jax.Array) -> jax.Array:
        """Log-density of ``x`` in each dimension, whatever the axes mean, in nats."""
        squared = jnp.square(x - self.mean) * jnp.exp(-self.log_var)
        return -0.5 * (LOG_2PI + self.log_var + squared)

    def at(self, deviation: jax.Array) -> jax.Array:
        """mean + exp(log_var / 2) deviation, differentiable in both parameters."""
        return self.mean + jnp.exp(0.5 * self.log_var) * deviation

    def sample(self, key: jax.Array) -> jax.Array:
        """A draw: ``at`` a deviation that is N(0, I)."""
        return self.at(jax.random.normal(key, self.mean.shape, self.mean.dtype))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Bernoulli:
    """Independent Bernoulli pixels with the given ``logits`` [B, *event].

    log p(x) = sum_d [x_d logits_d - softplus(logits_d)], accurate for any logit. For pixels
    between 0 and 1 this is the negative cross-entropy of the tutorials. It is not a normalized
    density then, so compare it only with other cross-entropies.
    """

    logits: jax.Array

    @property
    def mean(self) -> jax.Array:
        """The probability of a one, sigmoid(logits), shape [B, *event]."""
        return jax.nn.sigmoid(self.logits)

    def log_prob(self, x: jax.Array) -> jax.Array:
        """Log-probability of ``x`` [B, *event] in nats, shape [B]."""
        return -_cross_entropy(flat(x), flat(self.logits))

    def sample(self, key: jax.Array) -> jax.Array:
        """Zeros and ones, float32, shape [B, *event]."""
        return jax.random.bernoulli(key, self.mean).astype(self.logits.dtype)


def _log_partition(logits: jax.Array) -> jax.Array:
    """log of the integral of exp(logit x) over 0 <= x <= 1, log((exp(logit) - 1) / logit)."""
    near = jnp.abs(logits) < 1  # there these terms of the series are exact in float32
    square = jnp.square(jnp.where(near, logits, 0.0))
    series = square * (1 / 24 - square * (1 / 2880 - square * (1 / 181440 - square / 9676800)))
    size = jnp.where(near, 1.0, jnp.abs(logits))  # so that neither branch gives a NaN gradient
    far = jax.nn.relu(logits) + jnp.log(-jnp.expm1(-size) / size)
    return jnp.where(near, logits / 2 + series, far)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ContinuousBernoulli:
    """Independent pixels in [0, 1] with p(x) proportional to lambda^x (1 - lambda)^(1 - x).

    log p(x) = sum_d [x_d logits_d - log((exp(logits_d) - 1) / logits_d)],  logits = logit(lambda)

    This is the Bernoulli's cross-entropy plus log C(lambda), which makes it a density
    (Loaiza-Ganem & Cunningham 2019). Both are computed as one term, near lambda = 1/2 by a
    series. ``logits`` have shape [B, *event].
    """

    logits: jax.Array

    @property
    def mean(self) -> jax.Array:
        """E[x] = 1 / (1 - exp(-logits)) - 1 / logits, which is not lambda, shape [B, *event]."""
        return jax.grad(lambda logits: _log_partition(logits).sum())(self.logits)

    def log_prob(self, x: jax.Array) -> jax.Array:
        """Log-density of ``x`` [B, *event] in nats, shape [B]."""
        x, logits = flat(x), flat(self.logits)
        return (x * logits - _log_partition(logits)).sum(-1)

    def sample(self, key: jax.Array) -> jax.Array:
        """The inverse CDF, log(1 + u (exp(logits) - 1)) / logits, at uniform u: [B, *event]."""
        uniform = jax.random.uniform(key, self.logits.shape, self.logits.dtype)
        rate = jnp.maximum(jnp.abs(self.logits), 1e-6)  # below this x equals u, up to rounding
        low = jnp.clip(-jnp.log1p(uniform * jnp.expm1(-rate)) / rate, 0.0, 1.0)
        return jnp.where(self.logits < 0, low, 1 - low)


def kl_normal(q: Normal, p: Normal) -> jax.Array:
    """KL(q || p) between diagonal Gaussians, for each dimension.

    KL_d = 1/2 [log_var_p - log_var_q - 1 + (exp(log_var_q) + (mean_q - mean_p)^2) exp(-log_var_p)]

    Returns:
        [B, *event] nats; their sum over the event is the divergence. ``expm1`` keeps the variance
        term accurate where q and p are nearly equal.
    """
    log_ratio = q.log_var - p.log_var
    shift = jnp.square(q.mean - p.mean) * jnp.exp(-p.log_var)
    return 0.5 * (jnp.expm1(log_ratio) - log_ratio + shift)


def standard_normal(shape: tuple[int, ...]) -> Normal:
    """N(0, I) over the given shape [B, *event]."""
    return Normal(jnp.zeros(shape), jnp.zeros(shape))
