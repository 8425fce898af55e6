"""A prior fitted to the codes of a trained model, which draws better than the model's own.

The decoder has only seen codes from the aggregate posterior q(z) = 1/N sum_n q(z|x_n). Where p(z)
has mass and q(z) has none, it has learnt nothing, and of all priors q(z) gives the highest average
bound (Hoffman & Johnson 2016). So a density is fitted to draws of q(z|x_n), one of each training
image (Ghosh et al. 2020; Dai & Wipf 2019):

| kind     | p(z)                                                                     |
|----------|--------------------------------------------------------------------------|
| gaussian | N(mean, covariance) of the codes                                         |
| mixture  | Gaussians with full covariances, by expectation maximisation             |
| flow     | N(f^-1(u); 0, I) |det df^-1/du|, u = (z - shift) / scale, by coupling maps |

A plain autoencoder has one code for each image, and its own "prior", N(0, I), is none: this is one.
"""

from __future__ import annotations

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from flaxvae.analysis import mixtures
from flaxvae.distributions import standard_normal
from flaxvae.errors import DivergedError, UsageError, counted
from flaxvae.parts import flows

Array = jax.Array
Kind = Literal["gaussian", "mixture", "flow"]

COMPONENTS, EPOCHS, BATCH, LEARNING_RATE = 10, 50, 128, 1e-3
STEPS, HIDDEN = 8, (128, 128)  # of the flow
HELD_OUT = 10  # one of so many codes is, to choose the flow's best epoch by
LARGEST = 512  # latent dimensions: a covariance has their square


class FittedPrior(NamedTuple):
    """A density of codes [D]."""

    kind: Kind
    params: Any  # arrays: a ``Mixture``'s as a dictionary, or ``shift``, ``scale`` and ``flow``
    size: int  # D


class Improvement(NamedTuple):
    """What a fitted prior gains, on codes that it was not fitted to."""

    codes: int
    nats: float  # mean log p(z) under the fitted prior
    own: float | None  # under the model's own; None: it has none
    gain: float | None  # of the average bound, nats - own
    gain_error: float | None  # its standard error


def _flow(size: int) -> flows.Flow:
    return flows.coupling(size, STEPS, HIDDEN)


def log_prob(prior: FittedPrior, z: Array) -> Array:
    """log p(z) in nats, [B, D] -> [B]."""
    if prior.kind != "flow":
        return mixtures.log_prob(mixtures.Mixture(**prior.params), z)
    shift, scale = prior.params["shift"], prior.params["scale"]
    inverse = _flow(prior.size).inverse
    assert inverse is not None
    noise, log_det = inverse(prior.params["flow"], (z - shift[None]) / scale[None], None)
    return standard_normal(noise.shape).log_prob(noise) + log_det - jnp.log(scale).sum()


def sample(prior: FittedPrior, key: Array, n: int, temperature: Array | float = 1.0) -> Array:
    """``n`` draws [n, D]; the temperature scales the standard deviation of the noise."""
    if prior.kind != "flow":
        return mixtures.sample(mixtures.Mixture(**prior.params), key, n, temperature)
    noise = temperature * jax.random.normal(key, (n, prior.size))
    found = _flow(prior.size).forward(prior.params["flow"], noise, None)[0]
    return prior.params["shift"][None] + prior.params["scale"][None] * found


def shapes(kind: Kind, size: int, components: int) -> Any:
    """The shapes of the params of such a prior."""
    if kind != "flow":
        k, d = (1 if kind == "gaussian" else components), size
        found = mixtures.Mixture(np.zeros(k), np.zeros((k, d)), np.zeros((k, d, d)))  # type: ignore[arg-type]
        return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, jnp.float32), found._asdict())
    vector = jax.ShapeDtypeStruct((size,), jnp.float32)
    flow = jax.eval_shape(_flow(size).init, jax.random.key(0))
    return {"shift": vector, "scale": vector, "flow": flow}


def check(kind: Kind, size: int) -> None:
    """Raises UsageError for latents of a size that a prior of this kind cannot have."""
    if size > LARGEST:
        raise UsageError(f"latents of {size} dimensions: expected at most {LARGEST} to fit a prior")
    if kind == "flow" and size < 2:
        raise UsageError(
            "--prior flow: expected two latent dimensions or more, seen 1; use mixture"
        )


def fit(
    codes: np.ndarray,
    kind: Kind = "mixture",
    *,
    components: int = COMPONENTS,
    epochs: int = EPOCHS,
    batch_size: int = BATCH,
    learning_rate: float = LEARNING_RATE,
    seed: int = 0,
) -> FittedPrior:
    """A prior of one ``kind``, of maximum likelihood on codes [N, D].

    Args:
        codes: one for each training image.
        kind: of prior.
        components: of a mixture.
        epochs, batch_size, learning_rate: of a flow, by Adam with cosine decay. One of ten codes is
            held out, and the best epoch on these is kept.
        seed: where k-means starts, or a flow's weights and order of codes.

    Raises:
        UsageError: too few codes, too many dimensions, one dimension for a flow, no epoch for it,
            or codes that are not finite.
        DivergedError: log p(z) under a flow is no longer finite.
    """
    codes = np.asarray(codes)
    check(kind, codes.shape[1])
    if not np.isfinite(codes).all():
        raise UsageError("codes that are not finite: expected finite ones; train the model again")
    if kind == "flow":
        params = _fit_flow(codes, epochs, batch_size, learning_rate, seed)
        return FittedPrior(kind, params, codes.shape[1])
    found = mixtures.fit(codes, 1 if kind == "gaussian" else components, seed)
    return FittedPrior(kind, found._asdict(), codes.shape[1])


def _fit_flow(codes: np.ndarray, epochs: int, size: int, rate: float, seed: int) -> Any:
    if len(codes) < 2 * HELD_OUT:
        raise UsageError(
            f"{counted(len(codes), 'image')} for a flow: expected at least {2 * HELD_OUT}; fit to "
            "more images, or use mixture"
        )
    if epochs < 1:
        raise UsageError(f"{epochs} epochs for a flow: expected at least 1")
    codes = codes.astype(np.float32)[np.random.default_rng(seed).permutation(len(codes))]
    held, train = np.split(codes, [len(codes) // HELD_OUT])
    shift, scale = train.mean(0), np.maximum(train.std(0), 1e-6 * max(float(train.std()), 1e-6))
    init_key, order_key = jax.random.split(jax.random.key(seed))
    size, dimensions = min(size, len(train)), codes.shape[1]
    steps = len(train) // size
    optimizer = optax.adam(optax.cosine_decay_schedule(rate, epochs * steps))
    fixed = {"shift": jnp.asarray(shift), "scale": jnp.asarray(scale)}

    def loss(flow, z):
        return -log_prob(FittedPrior("flow", fixed | {"flow": flow}, dimensions), z).mean()

    @functools.partial(jax.jit, donate_argnums=0)
    def epoch(state, key, points):
        def step(state, rows):
            flow, memory = state
            gradient = jax.grad(loss)(flow, points[rows])
            updates, memory = optimizer.update(gradient, memory)
            return (optax.apply_updates(flow, updates), memory), None

        order = jax.random.permutation(key, len(points))[: steps * size].reshape(steps, size)
        return jax.lax.scan(step, state, order)[0]

    flow = _flow(dimensions).init(init_key)
    state, measure = (flow, optimizer.init(flow)), jax.jit(loss)
    points, best = jnp.asarray(train), (float(measure(flow, held)), jax.device_get(flow))
    for i in range(epochs):
        state = epoch(state, jax.random.fold_in(order_key, i), points)
        nats = float(measure(state[0], held))
        if not np.isfinite(nats):
            raise DivergedError(
                f"the flow diverged in epoch {i + 1} of {epochs}: expected a finite log p(z); use "
                f"a lower learning rate than {rate:g}"
            )
        best = (nats, jax.device_get(state[0])) if nats < best[0] else best
    return fixed | {"flow": jax.tree.map(jnp.asarray, best[1])}


def improvement(prior: FittedPrior, codes: np.ndarray, own: np.ndarray | None) -> Improvement:
    """Mean log p(z) of codes [N, D]; ``own``: log p(z) under the model's own prior, [N].

    If the codes are draws from q(z|x) of other images than the prior was fitted to, the gain is
    that of the average bound on log p(x) of those images, for only log p(z) changes in it.
    """
    fitted = np.asarray(jax.jit(functools.partial(log_prob, prior))(codes), np.float64)
    if own is None:
        return Improvement(len(codes), float(fitted.mean()), None, None, None)
    gains = fitted - np.asarray(own, np.float64)
    error = float(gains.std() / np.sqrt(len(gains)))
    own_nats, gain = float(np.mean(own, dtype=np.float64)), float(gains.mean())
    return Improvement(len(codes), float(fitted.mean()), own_nats, gain, error)
