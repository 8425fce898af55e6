"""Fréchet distance, precision, recall, density and coverage against answers worked out by hand."""

import numpy as np
import pytest
from scipy import linalg

from flaxvae.analysis import quality
from flaxvae.analysis.quality import Gaussian
from flaxvae.errors import UsageError

rng = np.random.default_rng(0)


def cloud(n=200, size=5):
    return rng.normal(size=(n, size)) @ rng.normal(size=(size, size)) + rng.normal(size=size)


def test_distance_of_gaussians_with_diagonal_covariances():
    """sum (mean_a - mean_b)^2 + (sd_a - sd_b)^2, for each coordinate by itself."""
    a = Gaussian(np.array([0.0, 1.0, 2.0]), np.diag([1.0, 4.0, 9.0]))
    b = Gaussian(np.array([3.0, 1.0, 0.0]), np.diag([16.0, 4.0, 1.0]))
    assert quality.gaussian_distance(a, b) == pytest.approx(9 + 0 + 4 + (9 + 0 + 4))


def test_distance_of_gaussians_whose_covariances_do_not_commute():
    a, b = quality.fitted(cloud()), quality.fitted(cloud())
    root = linalg.sqrtm(a.covariance @ b.covariance).real
    expected = np.square(a.mean - b.mean).sum()
    expected += np.trace(a.covariance + b.covariance - 2 * root)
    assert quality.gaussian_distance(a, b) == pytest.approx(expected)


def test_fitted_is_the_mean_and_the_covariance():
    x = cloud()
    mean, covariance = quality.fitted(x)
    np.testing.assert_allclose(mean, x.mean(0))
    np.testing.assert_allclose(covariance, np.cov(x.T))


@pytest.mark.parametrize("rank", [5, 2], ids=["full rank", "rank 2"])
def test_distance_is_zero_of_equal_symmetric_and_the_same_after_rotation(rank):
    line = np.eye(5)[:, :rank] @ np.eye(5)[:rank]
    a, b = cloud() @ line, cloud() @ line
    turn = linalg.qr(rng.normal(size=(5, 5)))[0]
    found = quality.frechet_distance(a, b)
    assert found > 0.1
    assert quality.frechet_distance(a, a[::-1]) == pytest.approx(0, abs=1e-12)
    assert quality.frechet_distance(b, a) == pytest.approx(found, rel=1e-9)
    assert quality.frechet_distance(a @ turn, b @ turn) == pytest.approx(found, rel=1e-9)


def test_distance_of_float32_features_far_from_zero():
    a, b = cloud(), cloud()
    found = quality.frechet_distance(np.float32(a + 1e3), np.float32(b + 1e3))
    assert found == pytest.approx(quality.frechet_distance(a, b), rel=1e-3)


def test_halves_of_one_cloud_are_close_and_disjoint():
    x = cloud(2000)
    assert 0 < quality.distance_of_halves(x) < 0.05 * quality.frechet_distance(x, x + 1)
    assert quality.distance_of_halves(np.repeat(x[:1], 9, 0)) == 0


def test_neighbours_of_clouds_on_a_line():
    """Real 0 1 3 7 has, with k = 1, balls [-1, 1] [0, 2] [1, 5] [3, 11]; samples 2 4 20 have
    [0, 4] [2, 6] [4, 36]. 2 is in two of the former, 4 in two, 20 in none; 0, 1 and 3 are in the
    first of the latter, 7 in the third. Only [-1, 1] of the former is without a sample.
    """
    real, samples = np.array([[0.0], [1], [3], [7]]), np.array([[2.0], [4], [20]])
    found = quality.neighbours(real, samples, k=1)
    assert found == pytest.approx((2 / 3, 1.0, 4 / 3, 3 / 4))


def test_neighbours_with_two_neighbours():
    """With k = 2 balls around 0 1 2 10 are [-2, 2] [0, 2] [0, 4] [1, 19] (radii 2 1 2 9), and those
    around 0 5 6 are [-6, 6] [0, 10] [0, 12]."""
    real, samples = np.array([[0.0], [1], [2], [10]]), np.array([[0.0], [5], [6]])
    found = quality.neighbours(real, samples, k=2)
    # 0 lies in three balls, 5 and 6 in one each: [1, 19].
    assert found == pytest.approx((1.0, 1.0, 5 / (2 * 3), 1.0))


def test_neighbours_of_samples_far_away_and_of_one_mode():
    real = np.concatenate([rng.normal(size=(100, 2)), rng.normal(size=(100, 2)) + 100])
    assert quality.neighbours(real, real + 1000) == (0, 0, 0, 0)
    one = quality.neighbours(real, rng.normal(size=(200, 2)))
    assert one.precision > 0.8 and one.density > 0.7  # it looks real
    assert 0.3 < one.recall <= 0.5 and 0.3 < one.coverage <= 0.5  # half of the data is left out


def test_neighbours_in_parts_are_the_same(monkeypatch):
    real, samples = cloud(60), cloud(50)
    whole = quality.neighbours(real, samples, k=3)
    monkeypatch.setattr(quality, "_AT_ONCE", 700)
    assert quality.neighbours(real, samples, k=3) == whole


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda x: quality.frechet_distance(x, x[:, :2]), "features of 5 and of 2 numbers"),
        (lambda x: quality.frechet_distance(x, x[:1]), "features of 1x5: expected .* 2 rows"),
        (lambda x: quality.neighbours(x, x[:3], k=3), "features of 3x5: expected .* 4 rows"),
        (lambda x: quality.neighbours(x, x, k=0), "k=0"),
        (
            lambda x: quality.neighbours(x, x * np.nan, k=3),
            "of 20 of 20 images are not finite: .*; leave",
        ),
        (lambda x: quality.frechet_distance(x + np.inf, x), "of 20 of 20 images are not finite"),
    ],
)
def test_what_cannot_be_compared(call, said):
    with pytest.raises(UsageError, match=said):
        call(cloud(20))
