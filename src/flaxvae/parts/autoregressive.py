"""An autoregressive prior over a grid of discrete codes, and the model and objective that fit it.

For the codes c_1..c_P of a grid in raster order,

    log p(c) = sum_i log p(c_i | c_1, ..., c_{i-1}),

where each factor is a softmax. A VQ-VAE generates by sampling a grid from such a prior, fitted to
the codes of the training data after the VQ-VAE itself, and decoding it (van den Oord et al. 2017).
The paper uses a PixelCNN, whose masked convolutions leave a blind spot. Here a causal transformer
(Vaswani et al. 2017) sees all earlier codes: pre-norm blocks over the embedding of the previous
code (a learned start token before the first) plus learned embeddings of the row and column to be
predicted.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxvae.core import Latent, Model
from flaxvae.errors import UsageError
from flaxvae.parts.networks import Dense
from flaxvae.parts.objectives import Objective, average

Array = jax.Array


class InitParams(Protocol):
    def __call__(self, key: Array) -> Any: ...


class OfCodes(Protocol):
    def __call__(self, params: Any, indices: Array) -> Array: ...


class Sample(Protocol):
    def __call__(
        self, params: Any, key: Array, n: int, temperature: float | Array = 1.0
    ) -> Array: ...


class AutoregressivePrior(NamedTuple):
    """p(c) over grids of codes, flattened in raster order, as functions of its own parameters."""

    init: InitParams  # key -> params
    log_prob: OfCodes  # (params, indices [B, positions] int32) -> [B] nats
    sample: Sample  # (params, key, n, temperature) -> indices [n, positions] int32
    logits: OfCodes  # (params, indices) -> [B, positions, codes] of p(c_i | c_<i), unnormalized
    grid: tuple[int, int]  # rows and columns


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); position i attends to positions <= i."""

    heads: int

    @nn.compact
    def __call__(self, x):
        width = x.shape[-1]
        split = (*x.shape[:2], self.heads, width // self.heads)
        qkv = jnp.split(Dense(3 * width, name="qkv")(nn.LayerNorm()(x)), 3, axis=-1)
        query, key, value = (part.reshape(split) for part in qkv)
        # Written out, and with relu: on CPU half the time of jax.nn's attention with gelu.
        score = jnp.einsum("bqhd,bkhd->bhqk", query, key) * split[-1] ** -0.5
        causal = jnp.tril(jnp.ones(score.shape[2:], bool))[None, None]
        weight = jax.nn.softmax(jnp.where(causal, score, -jnp.inf))
        seen = jnp.einsum("bhqk,bkhd->bqhd", weight, value)
        x = x + Dense(width, name="mix")(seen.reshape(x.shape))
        hidden = nn.relu(Dense(4 * width, name="expand")(nn.LayerNorm()(x)))
        return x + Dense(width, name="contract")(hidden)


class CausalTransformer(nn.Module):
    """Codes [B, positions] -> logits [B, positions, codes]; those at i depend on codes before i."""

    grid: tuple[int, int]
    codes: int
    width: int
    layers: int
    heads: int

    @nn.compact
    def __call__(self, indices):
        height, width = self.grid
        start = self.codes  # the start token follows the codes
        previous = jnp.pad(indices[:, :-1], ((0, 0), (1, 0)), constant_values=start)
        x = nn.Embed(self.codes + 1, self.width, name="token")(previous)
        rows = nn.Embed(height, self.width, name="row")(jnp.repeat(jnp.arange(height), width))
        columns = nn.Embed(width, self.width, name="column")(jnp.tile(jnp.arange(width), height))
        x = x + (rows + columns)[None]
        for i in range(self.layers):
            x = Block(self.heads, name=f"block_{i}")(x)
        return Dense(self.codes, name="logits")(nn.LayerNorm(name="norm")(x))


def code_prior(
    grid: tuple[int, int], codes: int, *, width: int = 128, layers: int = 4, heads: int = 4
) -> AutoregressivePrior:
    """log p(c) = sum_i log softmax(f_i(c_1..c_{i-1}))[c_i], where f is a causal transformer.

    With temperature T each code is drawn from softmax(f_i / T), as the arg max of f_i + T g with
    standard Gumbel noise g. Nothing is divided by T, so T = 0 gives the arg max. Each code takes
    one evaluation of the network on the whole grid.

    Args:
        grid: rows and columns of codes.
        codes: K, the size of the codebook; indices are 0 to K - 1.
        width: features at each position, a multiple of ``heads``.
        layers: blocks of attention and an MLP with 4 ``width`` hidden units.
        heads: attention heads.

    Raises:
        UsageError: ``width`` is not a multiple of ``heads``.
    """
    if width % heads:
        raise UsageError(f"width {width} with {heads} heads: expected a multiple of {heads}")
    module = CausalTransformer(grid, codes, width, layers, heads)
    positions = math.prod(grid)

    def init(key):
        return module.init(key, jnp.zeros((1, positions), jnp.int32))["params"]

    def logits(params, indices):
        return module.apply({"params": params}, indices)

    def log_prob(params, indices):
        log_probs = jax.nn.log_softmax(logits(params, indices))
        return jnp.take_along_axis(log_probs, indices[..., None], axis=-1).sum((1, 2))

    def sample(params, key, n, temperature=1.0):
        def draw(i, indices):
            at_i = logits(params, indices)[:, i]  # codes from i on have no effect
            noise = jax.random.gumbel(jax.random.fold_in(key, i), at_i.shape)
            code = jnp.argmax(at_i + temperature * noise, axis=-1)
            return indices.at[:, i].set(code.astype(jnp.int32))

        return jax.lax.fori_loop(0, positions, draw, jnp.zeros((n, positions), jnp.int32))

    return AutoregressivePrior(init, log_prob, sample, logits, grid)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CodeGrids:
    """The prior as a distribution over ``count`` grids x [count, h, w], codes as float32."""

    params: Any
    prior: AutoregressivePrior = dataclasses.field(metadata={"static": True})
    count: int = dataclasses.field(metadata={"static": True})

    def _grids(self, indices: Array) -> Array:
        return indices.reshape(-1, *self.prior.grid).astype(jnp.float32)

    @property
    def mean(self) -> Array:
        """The greedy grid, with the most probable code each time: codes have no average."""
        greedy = self.prior.sample(self.params, jax.random.key(0), 1, 0.0)  # the key has no effect
        return jnp.repeat(self._grids(greedy), self.count, axis=0)

    def log_prob(self, x: Array) -> Array:
        """log p(codes) in nats, shape [count]."""
        return self.prior.log_prob(self.params, x.reshape(x.shape[0], -1).astype(jnp.int32))

    def sample(self, key: Array) -> Array:
        """Independent draws, shape [count, h, w]."""
        return self._grids(self.prior.sample(self.params, key, self.count))


def fitting(prior: AutoregressivePrior) -> tuple[Model, Objective]:
    """A model and an objective that fit ``prior`` to grids of codes by maximum likelihood.

    The data x [B, h, w] are codes 0 to K - 1, as float32 or integers (not scaled: the ``peak`` of a
    split is 1). The latent has no dimensions: z is [B, 0], the KL [B, 1] is zero, and the bound is
    log p(codes) itself.

    Returns:
        The Model, whose ``init`` returns {"params": those of the prior} and raises UsageError for
        data of another shape; and the objective, the mean of -log p(codes) in nats, with the
        metrics ``loss`` and ``bits_per_code`` = loss / (positions log 2).
    """

    def init(key, x, y=None):
        if x.shape[1:] != prior.grid:
            seen, expected = list(x.shape[1:]), list(prior.grid)
            raise UsageError(f"codes of shape {seen}: expected grids {expected}, as the prior's")
        return {"params": prior.init(key)}

    def encode(variables, x, y=None):
        return x

    def reparameterize(variables, key, features, train):
        rows = features.shape[0]
        z, none = jnp.zeros((rows, 0)), jnp.zeros(rows)
        kl = jnp.zeros((rows, 1))
        return Latent(z, z, kl, log_p=none, log_q=none, penalty=none, updates={})

    def decode(variables, z, y=None):
        return CodeGrids(variables["params"], prior, z.shape[0])

    def prior_sample(variables, key, n, y=None, temperature=1.0):
        return jnp.zeros((n, 0))

    def prior_log_prob(variables, z, y=None):
        return jnp.zeros(z.shape[0])

    def objective(model):
        def loss(variables, key, batch, step):
            codes = model.decode(variables, jnp.zeros((batch.x.shape[0], 0)))
            nats = -average(codes.log_prob(batch.x), batch.mask)
            metrics = {"loss": nats, "bits_per_code": nats / (math.prod(prior.grid) * math.log(2))}
            return nats, (metrics, {})

        return loss

    model = Model(init, encode, reparameterize, decode, prior_sample, prior_log_prob)
    return model, objective
