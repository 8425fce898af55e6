"""Objectives on the aggregate posterior q(z) = 1/N sum_n q(z|x_n), taken over all the data.

The average KL of the bound has three parts (Hoffman & Johnson 2016, Chen et al. 2018):

    E_n KL(q(z|x_n) || p(z)) =  E[log q(z|x) - log q(z)]               mutual information of x and z
                              + E[log q(z) - sum_d log q(z_d)]         total correlation
                              + E[sum_d log q(z_d) - log p(z)]         dimension-wise KL

``tc_objective`` (beta-TCVAE) weights each of them. It needs log q(z), a mixture of N terms, which
it estimates from a mini-batch. ``mmd_objective`` (InfoVAE) pulls q(z) to p(z) using only samples
from both, by the maximum mean discrepancy of Gretton et al. 2012.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from flaxvae.core import Model, elbo
from flaxvae.distributions import LOG_2PI, Normal
from flaxvae.parts.objectives import Loss, average

Array = jax.Array


def _log_stratified_weights(batch: int, examples: int) -> Array:
    """[B, B] log-weights of ``log_aggregate``; each row of weights sums to one."""
    others = batch - 1
    own = jnp.eye(batch, dtype=bool)
    light = jnp.roll(own, 1, axis=1)  # any other row would do: batches are shuffled
    log_light = math.log((examples - others) / (examples * others))
    return jnp.where(own, -math.log(examples), jnp.where(light, log_light, -math.log(others)))


def log_aggregate(q: Normal, z: Array, examples: int) -> tuple[Array, Array]:
    """log q(z) and every log q(z_d) by minibatch stratified sampling (Chen et al. 2018, appendix).

    z_i was drawn given x_i, so q(z_i|x_i) is much larger than the other terms, and a plain average
    over the batch would overweight it by N / B. Here its weight is 1/N, and the other M = B - 1
    examples represent the other N - 1:

        q(z_i) ~ 1/N q(z_i|x_i) + (N - M)/(N M) q(z_i|x_s) + 1/M sum_{j != i, s} q(z_i|x_j)

    with any one s != i, here the next row, cyclically. Over batches drawn without replacement the
    estimates of q(z_i) and of each q(z_i_d) are unbiased, so their logs are too low on average.
    They are random even for B = N, where the estimate of q(z_i) is

        N/(N - 1) q(z_i) - q(z_i|x_i) / (N (N - 1)) - q(z_i|x_s) / N.

    Args:
        q: posteriors of a batch, mean [B, D].
        z: one draw from each, [B, D].
        examples: N, the size of the data set that the batch was drawn from.

    Returns:
        log q(z_i) [B] and log q(z_i_d) [B, D], nats. Memory: B^2 D numbers.

    Raises:
        ValueError: a batch of fewer than two examples, or of more than N.
    """
    batch = z.shape[0]
    if not 2 <= batch <= examples:
        found = f"a batch of {batch} from {examples} examples"
        raise ValueError(f"{found}: expected at least 2, and at most all")
    log_var = jnp.broadcast_to(q.log_var, q.mean.shape)
    squared = jnp.square(z[:, None] - q.mean[None]) * jnp.exp(-log_var)[None]
    log_q = -0.5 * (LOG_2PI + log_var[None] + squared)  # [i, j, d]: log q(z_i_d | x_j)
    log_weights = _log_stratified_weights(batch, examples)
    joint = jax.nn.logsumexp(log_weights + log_q.sum(-1), axis=1)
    return joint, jax.nn.logsumexp(log_weights[:, :, None] + log_q, axis=1)


def _posterior(features: Any) -> Normal:
    if not (isinstance(features, Mapping) and set(features) == {"mean", "log_var"}):
        found = sorted(features) if isinstance(features, Mapping) else type(features).__name__
        raise ValueError(
            f"features {found}: expected 'mean' and 'log_var' alone; use the latents `gaussian`"
        )
    return Normal(features["mean"], features["log_var"])


def tc_objective(
    model: Model, *, alpha: float = 1.0, beta: float = 6.0, gamma: float = 1.0, examples: int
) -> Loss:
    """-log p(x|z) + alpha MI + beta TC + gamma DW-KL (+ penalty): beta-TCVAE (Chen et al. 2018).

    MI, TC and DW-KL are the three terms above, each for one draw z ~ q(z|x), with q(z) and q(z_d)
    from ``log_aggregate``. They sum to log q(z|x) - log p(z), so alpha = beta = gamma = 1 is
    exactly the negative ELBO by Monte Carlo, whatever the estimate of q(z).

    Args:
        model: with Gaussian posteriors and no flow after them; any prior.
        alpha: weight of the mutual information I(x; z).
        beta: weight of the total correlation KL(q(z) || prod_d q(z_d)).
        gamma: weight of the dimension-wise KL, sum_d KL(q(z_d) || p(z_d)).
        examples: N, the size of the data set.

    Returns:
        A loss with the metrics loss, elbo, reconstruction, kl (in closed form),
        mutual_information, total_correlation and dimension_kl, nats. Masked rows are left out of
        averages, but not of the mixture in ``log_aggregate``; training batches have none. The loss
        raises ValueError for features other than mean and log_var, and as ``log_aggregate`` does.
    """

    def loss(variables, key, batch, step):
        features = model.encode(variables, batch.x, batch.y)
        encoded = model._replace(encode=lambda variables, x, y=None: features)
        terms = elbo(encoded, variables, key, batch, train=True)
        q, z = _posterior(features), terms.latent.z
        log_pz, log_qz_x = terms.latent.log_p, terms.latent.log_q
        log_qz, log_qz_d = log_aggregate(q, z, examples)
        product = log_qz_d.sum(-1)
        information, correlation, dimension = log_qz_x - log_qz, log_qz - product, product - log_pz
        # With all weights 1 this is the bound, to the last bit.
        extra = (alpha - 1) * information + (beta - 1) * correlation + (gamma - 1) * dimension
        objective = average(extra - terms.log_w + terms.penalty, batch.mask)
        metrics = {
            "loss": objective,
            "elbo": average(terms.elbo, batch.mask),
            "reconstruction": average(-terms.log_px, batch.mask),
            "kl": average(terms.kl.sum(-1), batch.mask),
            "mutual_information": average(information, batch.mask),
            "total_correlation": average(correlation, batch.mask),
            "dimension_kl": average(dimension, batch.mask),
        }
        return objective, (metrics, terms.latent.updates)

    return loss


def _imq(squared: Array, dim: int) -> Array:
    scales = (2.0 * dim * s for s in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0))
    return sum((c / (c + squared) for c in scales), jnp.zeros_like(squared))


def _gaussian(squared: Array, dim: int) -> Array:
    return jnp.exp(-squared / (2.0 * dim))


KERNELS: dict[str, Callable[[Array, int], Array]] = {"imq": _imq, "gaussian": _gaussian}


def _squared_distances(x: Array, y: Array) -> Array:
    """|x_i - y_j|^2 [N, M] as |x_i|^2 + |y_j|^2 - 2 x_i.y_j: one matrix product, no [N, M, D]."""
    # For close points the three terms cancel: a GPU's reduced precision would leave no digits.
    product = jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST)
    norms = jnp.square(x).sum(-1)[:, None] + jnp.square(y).sum(-1)[None]
    return jnp.maximum(norms - 2 * product, 0.0)


def mmd(x: Array, y: Array, kernel: str = "imq", mask: Array | None = None) -> Array:
    """Unbiased squared maximum mean discrepancy between two samples (Gretton et al. 2012).

        MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y)

    estimated by averages over all pairs of different points. This U-statistic has mean zero if the
    distributions are equal, so it is often negative then.

    The kernels are made for coordinates of unit variance, where |x - x'|^2 is 2 D on average:

        imq       sum_s C/(C + |x - y|^2), C = 2 D s, s = 0.1, 0.2, 0.5, 1, 2, 5, 10
                  (Tolstikhin et al. 2018): heavy tails, so that distant points are still pulled
        gaussian  exp(-|x - y|^2 / (2 D)): e^-1 at that distance, in any dimension

    Args:
        x: [N, D], N at least 2.
        y: [M, D], M at least 2.
        kernel: a key of KERNELS.
        mask: [N], 0 for rows of x to leave out; with fewer than two rows left, E k(x, x') is 0.

    Returns:
        A scalar, in expectation between 0 and 2 k(0): 14 for imq, 2 for gaussian. Gradients are
        finite, also where points coincide.

    Raises:
        ValueError: an unknown kernel, or a sample of fewer than two points.
    """
    if kernel not in KERNELS:
        raise ValueError(f"kernel {kernel!r}: expected one of {', '.join(KERNELS)}")
    if min(len(x), len(y)) < 2:
        raise ValueError(f"samples of {len(x)} and {len(y)}: expected at least two points of each")
    # Distances do not depend on the origin, but their rounding errors do.
    origin = jax.lax.stop_gradient(y.mean(0))[None]
    x, y = x - origin, y - origin

    def k(a, b):
        return KERNELS[kernel](_squared_distances(a, b), x.shape[-1])

    def within(a, weights):
        pairs = weights[:, None] * weights[None] * (1 - jnp.eye(len(a)))
        return (pairs * k(a, a)).sum() / jnp.maximum(pairs.sum(), 1)

    weights = jnp.ones(len(x)) if mask is None else mask
    across = average(k(x, y).mean(1), mask)
    return within(x, weights) + within(y, jnp.ones(len(y))) - 2 * across


def mmd_objective(
    model: Model, *, alpha: float = 0.0, mmd_weight: float = 100.0, kernel: str = "imq"
) -> Loss:
    """-log p(x|z) + (1 - alpha) KL + (alpha + lambda - 1) MMD^2(q(z), p(z)) (+ penalty): InfoVAE.

    KL = KL(q(z|x) || p(z)); as many samples are drawn from the prior as from q(z) (Zhao et al.
    2017).

        alpha  lambda   objective
        0      1        the negative ELBO
        0      above 1  the negative ELBO, with q(z) pulled to the prior
        1      any      MMD-VAE: the information in z costs nothing; with a deterministic encoder,
                        WAE-MMD (Tolstikhin et al. 2018)

    The first two terms are nats per image, summed over pixels and dimensions. MMD^2 is a property
    of the batch and is not summed: it is at most 2 k(0), and for imq in 20 dimensions 0.44 if q(z)
    is half as wide as p(z), 0.53 if twice as wide, 1.9 if q(z) is a point, with noise of +-0.006 in
    batches of 128. So lambda has to be in the hundreds to matter.

    Args:
        model: any whose prior can be sampled.
        alpha: weight of the information in z, 0 to 1: the part of the KL that costs nothing.
        mmd_weight: lambda of the paper; it sets how strongly q(z) is pulled to p(z).
        kernel: "imq" or "gaussian", as in ``mmd``.

    Returns:
        A loss with the metrics loss, elbo, reconstruction, kl (nats) and mmd, the estimate of
        MMD^2 without its weight. Masked rows are left out. The loss raises as ``mmd`` does.
    """

    def loss(variables, key, batch, step):
        draw_key, prior_key = jax.random.split(key)
        terms = elbo(model, variables, draw_key, batch, train=True)
        z = terms.latent.z
        prior = model.prior_sample(variables, prior_key, z.shape[0], batch.y)
        discrepancy = mmd(z, prior, kernel, batch.mask)
        kl = terms.kl.sum(-1)
        per_image = average((1 - alpha) * kl - terms.log_px + terms.penalty, batch.mask)
        objective = per_image + (alpha + mmd_weight - 1) * discrepancy
        metrics = {
            "loss": objective,
            "elbo": average(terms.log_px - kl, batch.mask),
            "reconstruction": average(-terms.log_px, batch.mask),
            "kl": average(kl, batch.mask),
            "mmd": discrepancy,
        }
        return objective, (metrics, terms.latent.updates)

    return loss
