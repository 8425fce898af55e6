"""The aggregate posterior against closed forms: linear-Gaussian encoders, and clusters."""

import numpy as np
import pytest

from flaxvae.analysis import aggregate_posterior
from flaxvae.analysis.aggregate_posterior import densities, log_mixture, measure
from flaxvae.errors import UsageError

RNG = np.random.default_rng(0)


def normal_log(z):
    return -0.5 * (np.log(2 * np.pi) + np.square(z)).sum(-1)


def linear(mixing, deviation, count):
    """q(z|x) = N(A x, diag s^2) of x ~ N(0, I), for which q(z) is N(0, A A' + diag s^2)."""
    mean = RNG.normal(size=(count, len(mixing))) @ np.transpose(mixing)
    log_var = np.broadcast_to(2 * np.log(deviation), mean.shape)
    return mean, log_var, mean + deviation * RNG.normal(size=mean.shape)


def test_brackets_hold_the_exact_numbers():
    mixing, deviation = np.array([[0.9, 0.7], [0.1, 0.9]]), np.array([0.4, 0.7])
    mean, log_var, z = linear(mixing, deviation, 1500)
    covariance = mixing @ mixing.T + np.diag(deviation**2)
    log_det = np.linalg.slogdet(covariance)[1]
    information = 0.5 * (log_det - 2 * np.log(deviation).sum())
    correlation = 0.5 * (np.log(np.diag(covariance)).sum() - log_det)
    marginal = 0.5 * (np.trace(covariance) - 2 - log_det)
    found = measure(mean, log_var, z, normal_log(z))
    noise = 0.06  # some standard errors of 1,500 draws
    for bracket, exact in [
        (found.information, information),
        (found.total_correlation, correlation),
        (found.marginal_kl, marginal),
    ]:
        assert bracket.low - noise < exact < bracket.high + noise
        assert 0 <= bracket.high - bracket.low < 0.1
    assert found.kl == pytest.approx(information + marginal, abs=2 * noise)
    assert correlation > 0.05 and information > 1 and marginal > 0.02


def test_few_images_widen_the_bracket():
    """20 posteriors far from each other: at least log 20 nats, and no more than the KL."""
    mean, log_var, z = linear(10 * np.eye(3), np.full(3, 0.1), 20)
    found = measure(mean, log_var, z, normal_log(z))
    assert found.information.low == pytest.approx(np.log(20), abs=1e-6)
    assert found.information.high == found.kl > 100
    assert found.marginal_kl.low == 0 and found.marginal_kl.high == found.kl - np.log(20)


def test_posteriors_that_are_the_prior_say_nothing():
    z, zeros = RNG.normal(size=(300, 4)), np.zeros((300, 4))
    prior = RNG.normal(size=(4000, 4))
    found = measure(zeros, zeros, z, normal_log(z), prior)
    for bracket in (found.information, found.marginal_kl, found.total_correlation):
        np.testing.assert_allclose(bracket, 0, atol=1e-12)
    assert found.kl == pytest.approx(0, abs=1e-12)
    # The edge is the third lowest of 300 draws: about 1 % of the prior is below.
    assert 0.001 < found.holes < 0.03


def test_the_prior_between_two_clusters_is_a_hole():
    """Half the draws of N(0, 1) are within 0.67 of 0, which the clusters at +-1.5 leave out."""
    mean = np.where(np.arange(400) % 2, 1.5, -1.5)[:, None]
    log_var = np.full((400, 1), 2 * np.log(0.2))
    z = mean + 0.2 * RNG.normal(size=mean.shape)
    found = measure(mean, log_var, z, normal_log(z), RNG.normal(size=(4000, 1)))
    outside = np.abs(np.abs(RNG.normal(size=100_000)) - 1.5) > 2.576 * 0.2
    assert found.holes == pytest.approx(outside.mean(), abs=0.06) and found.holes > 0.5
    assert found.information.low == pytest.approx(np.log(2), abs=0.01)


def test_densities_by_a_plain_loop(monkeypatch):
    monkeypatch.setattr(aggregate_posterior, "_AT_ONCE", 40)  # some rows at a time
    mean, log_var = RNG.normal(size=(7, 3)), RNG.normal(size=(7, 3))
    z = mean + np.exp(log_var / 2) * RNG.normal(size=(7, 3))
    found = densities(mean, log_var, z)

    def q(i, j):
        variance = np.exp(log_var[j])
        return np.exp(-0.5 * (z[i] - mean[j]) ** 2 / variance) / np.sqrt(2 * np.pi * variance)

    for i in range(7):
        each = np.array([q(i, j) for j in range(7)])
        others = np.delete(each, i, 0)
        expected = [
            np.log(each[i].prod()),
            np.log(each.prod(1).mean()),
            np.log(others.prod(1).mean()),
            np.log(each.mean(0)).sum(),
            np.log(others.mean(0)).sum(),
        ]
        np.testing.assert_allclose([row[i] for row in found], expected, rtol=1e-10)
    np.testing.assert_allclose(log_mixture(mean, log_var, z), found.with_own, rtol=1e-12)


def test_one_image_is_too_few():
    with pytest.raises(UsageError, match="1 image: expected at least two"):
        densities(np.zeros((1, 2)), np.zeros((1, 2)), np.zeros((1, 2)))
