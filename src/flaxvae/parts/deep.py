"""Deep hierarchies over feature maps (Child 2021; Vahdat & Kautz 2020; Maaloe et al. 2019).

Latents are maps z_1 .. z_N at several resolutions. The prior goes down, from one point to the
largest map, through a stream of features s; each block has a prior given all blocks above it,

    p(z) = prod_i N(z_i; mean_p(s_i), var_p(s_i)),    s_{i+1} = residual(s_i + h(s_i) + W z_i).

The encoder is a pyramid that halves the image and keeps its features e at each resolution. The
posterior goes down with the prior and sees them too. It is given relative to the prior,

    q(z_i | z_above, x) = N(mean_p + sd_p d_i, var_p exp(v_i)),    d_i, v_i functions of s_i and e,

so that a block's KL, 1/2 (d^2 + exp(v) - 1 - v) in each dimension, does not depend on the prior's
scale. p(x|z) is computed from the last of the stream. All log-variances are bounded.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxvae.core import Latent, Model
from flaxvae.distributions import Normal, bounded, kl_normal
from flaxvae.parts.convolutions import Lowering, Size
from flaxvae.parts.image_networks import SILU_SCALE, Conv, ConvTranspose, Residual
from flaxvae.parts.likelihoods import Likelihood
from flaxvae.parts.resolutions import Level, halvings

Array = jax.Array

# Of a prior's log-variance, and of what the posterior adds to it.
LOG_VAR_RANGE = -5.0, 5.0
# Initial scale, relative to other layers', of what a block adds to the stream besides z, of a
# posterior's difference from its prior, and of the raw values of p(x|z): far from 0 they would give
# some pixels a scale so small that the first losses are far too large.
SMALL = 0.1


class Drawn(NamedTuple):
    """A block's latents on the way down, in the layout of the convolutions."""

    z: Array
    p: Normal
    # The posterior relative to p, N(d, exp(v)): d in standard deviations of p, exp(v) in variances
    relative: Normal | None = None

    @property
    def q(self) -> Normal:
        assert self.relative is not None
        return Normal(self.p.at(self.relative.mean), self.p.log_var + self.relative.log_var)

    @property
    def kl(self) -> Array:
        """KL(q || p) in each dimension, that of ``relative`` from N(0, 1)."""
        assert self.relative is not None
        return kl_normal(self.relative, Normal(jnp.zeros(()), jnp.zeros(())))


class Pyramid(nn.Module):
    """The encoder: features [*size, width] of an image at each level, largest first."""

    lowering: Lowering
    levels: tuple[Level, ...]  # largest first

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, ...]:
        found, inputs = [], x.shape[-1]
        sizes, x = halvings((x.shape[1], x.shape[2])), self.lowering.enter(x)
        waiting = list(self.levels)
        if waiting[0].size == sizes[0]:  # latents of every pixel
            conv = Conv(waiting[0].width, inputs, stride=1, init_scale=SILU_SCALE, name="stem")
            x, inputs = conv(self.lowering, x), waiting[0].width
        for i, size in enumerate(sizes):
            if i:
                width = waiting[0].width
                conv = Conv(width, inputs, init_scale=SILU_SCALE, name=f"down_{i}")
                x, inputs = conv(self.lowering, x), width
            if size == waiting[0].size:
                x = Residual(inputs, name=f"block_{i}")(self.lowering, x)
                found.append(x)
                waiting.pop(0)
                if not waiting:
                    break
            x = nn.silu(x) if i or found else x
        return tuple(found)


class Block(nn.Module):
    """One step down: its prior, its posterior given features, z as ``choose`` says, the stream."""

    lowering: Lowering
    width: int
    latents: int
    point: bool  # its maps are one point, of which a larger kernel sees no more
    depth: int  # blocks of the hierarchy: at the start their z together weigh as much as one

    @nn.compact
    def __call__(self, stream, features, choose):
        kernel, axis = 1 if self.point else 3, self.lowering.channels
        c, width = self.latents, self.width

        def conv(name, outputs, inputs, size, scale, x):
            layer = Conv(outputs, inputs, size, 1, scale * SILU_SCALE, name=name)
            return layer(self.lowering, x)

        active = nn.silu(stream)
        hidden = nn.silu(conv("prior_0", width, width, kernel, 1.0, active))
        heads = conv("prior_1", 2 * c + width, width, 1, SMALL, hidden)
        mean, log_var, more = jnp.split(heads, [c, 2 * c], axis)
        p, relative = Normal(mean, bounded(log_var, *LOG_VAR_RANGE)), None
        if features is not None:
            hidden = conv("posterior_s", width, width, kernel, 1.0, active)
            hidden += conv("posterior_e", width, width, kernel, 1.0, nn.silu(features))
            heads = conv("posterior_1", 2 * c, width, 1, SMALL, nn.silu(hidden))
            shift, spread = jnp.split(heads, 2, axis)
            relative = Normal(shift, bounded(spread, *LOG_VAR_RANGE))
        z = choose(p, relative)
        stream = stream + more + conv("z", width, c, 1, self.depth**-0.5, z)
        if not self.point:
            stream = Residual(width, name="residual")(self.lowering, stream)
        return stream, Drawn(z, p, relative)


class Descent(nn.Module):
    """The way down: latents of every block, largest maps last, and the decoder's raw values.

    ``choose(i, p, relative)`` gives z of block i, counted from the top.
    """

    lowering: Lowering
    levels: tuple[Level, ...]  # largest first
    size: Size
    values: int
    share_top: bool = False  # one set of weights for the blocks of the smallest maps
    remat: bool = False  # compute blocks again for the gradient, and store nothing

    @nn.compact
    def __call__(self, batch: int, features: Sequence[Array] | None, choose) -> Any:
        sizes = halvings(self.size)
        above = self.levels[-1]
        start = self.param("start", nn.initializers.normal(1.0), (1, *above.size, above.width))
        stream = self.lowering.enter(jnp.broadcast_to(start, (batch, *start.shape[1:])))
        at, inputs, drawn = sizes.index(above.size), above.width, list[Drawn]()

        def up(stream, at, width, inputs, scale=SILU_SCALE):
            layer = ConvTranspose(width, inputs, sizes[at], init_scale=scale, name=f"up_{at}")
            return layer(self.lowering, nn.silu(stream))

        depth = sum(level.blocks for level in self.levels)
        block_of = nn.remat(Block, static_argnums=(3,)) if self.remat else Block
        for number in reversed(range(len(self.levels))):
            level = self.levels[number]
            while sizes[at] != level.size:
                at -= 1
                stream, inputs = up(stream, at, level.width, inputs), level.width
            shared = self.share_top and number == len(self.levels) - 1
            blocks = [
                block_of(
                    self.lowering,
                    level.width,
                    level.latents,
                    level.size == (1, 1),
                    depth,
                    name=f"block_{number}_{b}",
                )
                for b in range(1 if shared else level.blocks)
            ]
            for b in range(level.blocks):
                block = blocks[b % len(blocks)]
                own = None if features is None else features[number]
                stream, one = block(stream, own, functools.partial(choose, len(drawn)))
                drawn.append(one)
        while at:
            at -= 1
            width, scale = (inputs, SILU_SCALE) if at else (self.values, SMALL * SILU_SCALE)
            stream = up(stream, at, width, inputs, scale)
        if self.levels[0].size == self.size:
            out = Conv(self.values, inputs, stride=1, init_scale=SMALL * SILU_SCALE, name="out")
            stream = out(self.lowering, nn.silu(stream))
        return self.lowering.leave(stream), drawn


def model(
    shape: tuple[int, int, int],
    levels: tuple[Level, ...],
    likelihood: Likelihood,
    lowering: Lowering,
    share_top: bool = False,
    remat: bool = False,
) -> Model:
    """A deep hierarchical VAE of images.

    z is all maps in a row, [B, D], the largest first: z_N, .., z_1, each [h, w, c] flattened. The
    KL has a column for each block in that order, in closed form given the draws above it. Without
    a key each z is the posterior mean given the means above. ``prior_sample`` is ancestral, and
    takes a temperature for each block as well as one for all: it scales standard deviations.

    Args:
        shape: height, width and channels of an image.
        levels: largest first; sizes are those of ``halvings``.
        likelihood: p(x|z).
        lowering: of the convolutions.
        share_top: the blocks of the smallest maps have one set of weights.
        remat: compute the decoder's blocks again for the gradient (less memory, same numbers).

    Returns:
        A Model with parameters ``encoder``, ``decoder`` and perhaps ``likelihood``.
    """
    size = shape[:2]
    pyramid = Pyramid(lowering, levels)
    descent = Descent(lowering, levels, size, likelihood.values, share_top, remat)
    blocks = [level for level in reversed(levels) for _ in range(level.blocks)]  # top first
    shapes = [(*level.size, level.latents) for level in blocks]
    others = tuple(axis for axis in range(4) if axis != lowering.batch)
    names = [f"maps_{max(level.size)}" for level in levels]  # of the encoder's features

    def row(maps: Sequence[Array]) -> Array:
        """Maps, top first, as z [B, D]."""
        flat = [lowering.leave(one) for one in reversed(maps)]
        return jnp.concatenate([one.reshape(one.shape[0], -1) for one in flat], -1)

    def unrow(z: Array) -> list[Array]:
        """The inverse."""
        found, end = [], z.shape[1]
        for one in shapes:
            begin = end - math.prod(one)
            found.append(lowering.enter(z[:, begin:end].reshape(-1, *one)))
            end = begin
        return found

    def noises(key: Array, batch: int) -> list[Array]:
        keys = jax.random.split(key, len(shapes))
        return [
            lowering.enter(jax.random.normal(k, (batch, *one)))
            for k, one in zip(keys, shapes, strict=True)
        ]

    def down(variables, batch: int, features, choose) -> tuple[Array, list[Drawn]]:
        params = {"params": variables["params"]["decoder"]}
        found: Any = descent.apply(params, batch, features, choose)
        return found

    def posterior(noise: list[Array] | None) -> Callable[..., Array]:
        def choose(i, p, relative):
            return p.at(relative.mean if noise is None else relative.at(noise[i]))

        return choose

    def distribution(variables, raw):
        return likelihood.distribution(variables["params"].get("likelihood", {}), raw)

    def log_prob(z: Array, of: Normal) -> Array:
        return of.log_density(z).sum(others)

    def init(key, x, y=None):
        encoder_key, decoder_key, draw_key = jax.random.split(key, 3)
        features, encoder = pyramid.init_with_output(encoder_key, x)
        choose = posterior(noises(draw_key, x.shape[0]))
        decoder = descent.init(decoder_key, x.shape[0], features, choose)
        own = likelihood.init()
        params = {"encoder": encoder["params"], "decoder": decoder["params"]}
        return {"params": params | ({"likelihood": own} if own else {})}

    def encode(variables, x, y=None):
        maps = pyramid.apply({"params": variables["params"]["encoder"]}, x)
        return {name: lowering.leave(one) for name, one in zip(names, maps, strict=True)}

    def reparameterize(variables, key, features, train):
        features = [lowering.enter(features[name]) for name in names]
        batch = features[0].shape[lowering.batch]
        raw, means = down(variables, batch, features, posterior(None))
        drawn = means
        if key is not None:
            raw, drawn = down(variables, batch, features, posterior(noises(key, batch)))
        kl = [one.kl.sum(others) for one in drawn]
        return Latent(
            z=row([one.z for one in drawn]),
            code=row([one.z for one in means]),
            kl=jnp.stack(kl[::-1], -1),
            log_p=jnp.stack([log_prob(one.z, one.p) for one in drawn]).sum(0),
            log_q=jnp.stack([log_prob(one.z, one.q) for one in drawn]).sum(0),
            penalty=jnp.zeros(batch),
            updates={},
            px=distribution(variables, raw),
        )

    def decode(variables, z, y=None):
        given = unrow(z)
        return distribution(variables, down(variables, z.shape[0], None, lambda i, *_: given[i])[0])

    def redraw(variables, key, z, below, temperature=1.0):
        noise, given = noises(key, z.shape[0]), unrow(z)
        scale = jnp.broadcast_to(jnp.asarray(temperature, z.dtype), (len(shapes),))[::-1]

        def choose(i, p, _):
            return jnp.where(i < len(shapes) - below, given[i], p.at(scale[i] * noise[i]))

        return row([one.z for one in down(variables, z.shape[0], None, choose)[1]])

    def prior_sample(variables, key, n, y=None, temperature=1.0):
        nothing = jnp.zeros((n, sum(map(math.prod, shapes))))
        return redraw(variables, key, nothing, len(shapes), temperature)

    def prior_log_prob(variables, z, y=None):
        given = unrow(z)
        drawn = down(variables, z.shape[0], None, lambda i, *_: given[i])[1]
        return sum(log_prob(one.z, one.p) for one in drawn)

    return Model(init, encode, reparameterize, decode, prior_sample, prior_log_prob, redraw)
