"""Mixtures of Gaussians with full covariances, by expectation maximisation (Dempster et al. 1977).

    p(z) = sum_k w_k N(z; mean_k, L_k L_k^T)

One component is the Gaussian with the mean and the covariance of the points. Mixtures are fitted in
float64 by scikit-learn; densities and draws are JAX, so that they can be differentiated.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flaxvae import machine
from flaxvae.distributions import LOG_2PI
from flaxvae.errors import UsageError, counted

Array = jax.Array

FLOOR = 1e-6  # added to variances, of points that are scaled to variance 1
MOST = 200  # iterations of EM, which ends when one gains less than 0.001 nats a point


class Mixture(NamedTuple):
    """K Gaussians in D dimensions."""

    log_weights: Array  # [K]
    mean: Array  # [K, D]
    cholesky: Array  # [K, D, D] lower triangular


def log_prob(mixture: Mixture, z: Array) -> Array:
    """log p(z) in nats, [B, D] -> [B]."""

    def one(mean, cholesky):
        white = jax.scipy.linalg.solve_triangular(cholesky, (z - mean[None]).T, lower=True)
        scale = jnp.log(jnp.diagonal(cholesky)).sum()
        return -0.5 * jnp.square(white).sum(0) - scale - 0.5 * len(mean) * LOG_2PI

    found = jax.vmap(one)(mixture.mean, mixture.cholesky)  # [K, B]
    return jax.nn.logsumexp(mixture.log_weights[:, None] + found, axis=0)


def sample(mixture: Mixture, key: Array, n: int, temperature: Array | float = 1.0) -> Array:
    """``n`` draws [n, D]; the temperature scales the standard deviations of the components."""
    which_key, noise_key = jax.random.split(key)
    which = jax.random.categorical(which_key, mixture.log_weights, shape=(n,))
    noise = jax.random.normal(noise_key, (n, mixture.mean.shape[1]))
    spread = jnp.einsum("nij,nj->ni", mixture.cholesky[which], noise)
    return mixture.mean[which] + temperature * spread


def fit(points: np.ndarray, components: int, seed: int = 0) -> Mixture:
    """The mixture under which points [N, D] are most probable, as far as EM finds it from k-means.

    Raises:
        UsageError: fewer points than components, or only one.
    """
    points = np.asarray(points, np.float64)
    least = max(components, 2)
    if len(points) < least:
        raise UsageError(
            f"{counted(len(points), 'image')} for {counted(components, 'Gaussian')}: expected at "
            f"least {least}; fit to more images"
        )
    shift, scale = points.mean(0), points.std(0)
    largest = max(scale.max(), 1e-6)
    scale = np.where(scale > 1e-6 * largest, scale, largest)  # a unit may be constant
    weights, mean, covariance = _fitted((points - shift) / scale, components, seed)
    cholesky = np.linalg.cholesky(covariance)
    return Mixture(
        jnp.asarray(np.log(weights), jnp.float32),
        jnp.asarray(shift + scale * mean, jnp.float32),
        jnp.asarray(scale[:, None] * cholesky, jnp.float32),
    )


def _fitted(z: np.ndarray, components: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights [K], means [K, D] and covariances [K, D, D]."""
    if components == 1:
        covariance = z.T @ z / len(z) + FLOOR * np.eye(z.shape[1])  # the mean is 0
        return np.ones(1), np.zeros((1, z.shape[1])), covariance[None]
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    machine.count_cores()

    model = GaussianMixture(components, max_iter=MOST, reg_covar=FLOOR, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # few distinct points, or slow gains
        model.fit(z)
    return model.weights_, model.means_, model.covariances_
