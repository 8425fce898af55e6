"""Discretized logistics: probabilities, not densities, of pixels stored as integers.

A pixel takes ``levels`` values j / (levels - 1). The probability of a level is the mass of the bin
around it under a logistic distribution with location m and scale s,

    P(x) = sigmoid((x + h - m) / s) - sigmoid((x - h - m) / s),   h = 1 / (2 (levels - 1))

where the bins of 0 and 1 extend to infinity, so that the probabilities sum to one. There is one
logistic per pixel (Kingma et al. 2016), or a mixture per point of space (PixelCNN++, Salimans et
al. 2017). A value between two levels is rounded to the nearer one.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from flaxvae.distributions import flat, sum_event


def _to_level(x: jax.Array, levels: int) -> jax.Array:
    """The index of the level nearest to ``x``, 0 to levels - 1."""
    return jnp.round(jnp.clip(x, 0.0, 1.0) * (levels - 1))


def _logistic_log_mass(
    x: jax.Array, location: jax.Array, log_scale: jax.Array, levels: int
) -> jax.Array:
    """log [sigmoid(b) - sigmoid(a)] for each element, where a and b are the ends of its bin.

    The difference is sigmoid(b) sigmoid(-a) (1 - exp(a - b)), a product, so nothing cancels. At an
    open end the sigmoid is 1, and so is the last factor.
    """
    top = levels - 1
    level = _to_level(x, levels)
    width = jnp.exp(-log_scale) / top  # b - a
    offset = level - top * location  # in levels, whose indices are exact
    first, last = level == 0, level == top
    below = jnp.where(last, 0.0, jax.nn.log_sigmoid((offset + 0.5) * width))
    above = jnp.where(first, 0.0, jax.nn.log_sigmoid((0.5 - offset) * width))
    return below + above + jnp.where(first | last, 0.0, jnp.log(-jnp.expm1(-width)))


def _logistic_sample(
    key: jax.Array, location: jax.Array, log_scale: jax.Array, levels: int
) -> jax.Array:
    """A logistic variable rounded to its level, for each element; the bins are the same."""
    x = location + jnp.exp(log_scale) * jax.random.logistic(key, location.shape, location.dtype)
    return _to_level(x, levels) / (levels - 1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DiscretizedLogistic:
    """Independent pixels, each with its own logistic (Kingma et al. 2016).

    log P(x) = sum_d log [sigmoid((x_d + h - location_d) / s_d)
                          - sigmoid((x_d - h - location_d) / s_d)],   s_d = exp(log_scale_d)

    with half a bin h = 1 / (2 (levels - 1)) and open ends. ``location`` and ``log_scale`` have
    shape [B, *event].
    """

    location: jax.Array
    log_scale: jax.Array
    levels: int = dataclasses.field(metadata={"static": True})

    @property
    def mean(self) -> jax.Array:
        """The location clipped to [0, 1], shape [B, *event].

        This is the median. E[x] is close to it unless an end cuts off much of one tail.
        """
        return jnp.clip(self.location, 0.0, 1.0)

    def log_prob(self, x: jax.Array) -> jax.Array:
        """Log-probability of ``x`` [B, *event], rounded to levels, in nats, shape [B]."""
        x, location, log_scale = flat(x), flat(self.location), flat(self.log_scale)
        return _logistic_log_mass(x, location, log_scale, self.levels).sum(-1)

    def sample(self, key: jax.Array) -> jax.Array:
        """Levels, shape [B, *event], without gradient."""
        return _logistic_sample(key, self.location, self.log_scale, self.levels)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LogisticMixture:
    """A mixture of K discretized logistics for each point of space (Salimans et al. 2017).

    P(x) = sum_k softmax(logits)_k prod_c P(x_c; m_ck, exp(log_scales_ck)),
    m_ck = locations_ck + sum_{e<c} coefficients_cek (x_e - 1/2)

    The C channels of a point share one component; the location of each is linear in the channels
    before it. Shapes, after [B, *space]: ``logits`` [K], ``locations`` and ``log_scales`` [C, K],
    ``coefficients`` [C (C - 1) / 2, K], with pairs (c, e) in the order 10, 20, 21, 30, ...
    """

    logits: jax.Array
    locations: jax.Array
    log_scales: jax.Array
    coefficients: jax.Array
    levels: int = dataclasses.field(metadata={"static": True})

    def _location(self, earlier: list[jax.Array]) -> jax.Array:
        """m_c [B, *space, K] of the channel after ``earlier``, each [B, *space, K or 1]."""
        channel = len(earlier)
        location = self.locations[..., channel, :]
        for e, value in enumerate(earlier):
            pair = channel * (channel - 1) // 2 + e
            location += self.coefficients[..., pair, :] * (value - 0.5)
        return location

    @property
    def mean(self) -> jax.Array:
        """sum_k softmax(logits)_k m_ck, with m_ck clipped to [0, 1], shape [B, *space, C].

        In m_ck each x_e is replaced by the clipped m_ek; see ``DiscretizedLogistic.mean``.
        """
        means: list[jax.Array] = []
        for _ in range(self.locations.shape[-2]):
            means.append(jnp.clip(self._location(means), 0.0, 1.0))
        weights = jax.nn.softmax(self.logits)
        return jnp.stack([(weights * mean).sum(-1) for mean in means], -1)

    def log_prob(self, x: jax.Array) -> jax.Array:
        """Log-probability of ``x`` [B, *space, C], rounded to levels, in nats, shape [B]."""
        x = _to_level(x, self.levels) / (self.levels - 1)
        values = [x[..., c, None] for c in range(x.shape[-1])]
        joint = jax.nn.log_softmax(self.logits)
        for c, value in enumerate(values):
            scale = self.log_scales[..., c, :]
            joint += _logistic_log_mass(value, self._location(values[:c]), scale, self.levels)
        return sum_event(jax.nn.logsumexp(joint, -1))

    def sample(self, key: jax.Array) -> jax.Array:
        """Draws a component for each point, then its channels in order: levels [B, *space, C]."""
        component_key, *keys = jax.random.split(key, 1 + self.locations.shape[-2])
        component = jax.random.categorical(component_key, self.logits)[..., None, None]

        def pick(values):
            return jnp.take_along_axis(values, component, -1)

        scales = pick(self.log_scales)
        one = dataclasses.replace(
            self, locations=pick(self.locations), coefficients=pick(self.coefficients)
        )
        x: list[jax.Array] = []
        for c, channel_key in enumerate(keys):
            location = one._location(x)
            x.append(_logistic_sample(channel_key, location, scales[..., c, :], self.levels))
        return jnp.concatenate(x, -1)
