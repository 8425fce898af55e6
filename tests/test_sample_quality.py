"""How good samples are, beside real images: on clouds of points whose answers are known."""

import numpy as np
import pytest

from flaxvae.analysis import sample_quality
from flaxvae.analysis.features import Seen
from flaxvae.errors import UsageError
from flaxvae.report import quality

RNG = np.random.default_rng(0)


def cloud(n, shift=0.0, rng=RNG):
    """Points of a normal distribution in four dimensions, and three classes by the first one."""
    x = rng.normal(size=(n, 4)) + shift * np.eye(4)[0]
    logits = np.stack([-4 * x[:, 0], np.zeros(n), 4 * x[:, 0]], 1)
    odds = np.exp(logits - logits.max(1, keepdims=True))
    return Seen(x, odds / odds.sum(1, keepdims=True))


def test_balance_and_certainty_by_hand():
    """Shares 1/2 1/2 0 beside 1/4 1/4 1/2: half of the images would have to change class."""
    real = Seen(RNG.normal(size=(8, 2)), np.array([[0.95, 0.05, 0], [0.2, 0.8, 0]] * 4))
    odds = np.array([[0.5, 0.3, 0.2], [0, 0.99, 0.01], [0, 0.08, 0.92], [0.1, 0.1, 0.8]] * 2)
    found = sample_quality.compare(real, Seen(RNG.normal(size=(8, 2)), odds), k=3)
    assert found.imbalance == pytest.approx(0.5)
    assert found.certain == 0.5
    plain = sample_quality.compare(Seen(real.features, None), real, k=3)
    assert plain.imbalance is None and plain.certain is None
    assert plain.distance < 1e-9 and plain.precision == plain.coverage == 1


def test_perfect_samples_score_as_the_other_half_does_and_others_are_told():
    def perfect(n, seed):
        return cloud(n, rng=np.random.default_rng(seed))

    def shifted(n, seed):
        return cloud(n, 1.5, np.random.default_rng(seed))

    draws = {"perfect": perfect, "shifted": shifted}
    found = sample_quality.measure(cloud(2000), draws, half=400, seed=3)
    halves = sample_quality.figures(found.halves)
    same, other = (sample_quality.figures(found.samples[name]) for name in draws)
    assert len(found.halves) == len(found.samples["shifted"]) == sample_quality.CUTS
    for name in ("precision", "recall", "density", "coverage", "certain", "distance", "imbalance"):
        error = 5 * np.hypot(halves[name].spread, same[name].spread) / np.sqrt(5)
        assert abs(halves[name].mean - same[name].mean) < error + 1e-3, name
    # The distance of two Gaussians that differ in their mean alone, and few points' own.
    assert other["distance"].mean == pytest.approx(1.5**2 + same["distance"].mean, abs=0.35)
    assert other["coverage"].mean < same["coverage"].mean - 0.2
    assert other["imbalance"].mean > same["imbalance"].mean + 0.2
    np.testing.assert_allclose([each.sum() for each in found.shares.values()], 1)
    assert found.shares["shifted"][2] > 0.8 > found.shares[""][2]


def test_one_cut_has_no_spread():
    one = sample_quality.compare(cloud(40), cloud(40), k=3)
    assert sample_quality.figures([one])["precision"].spread is None
    assert "±" not in quality._number(sample_quality.figures([one])["distance"], 3)


def test_halves_are_disjoint_and_other_ones_for_each_cut_and_seed(monkeypatch):
    seen = []
    kept = sample_quality.compare

    def compare(real, other, k):
        seen.append((real.features[:, 0], other.features[:, 0]))
        return kept(real, other, k)

    monkeypatch.setattr(sample_quality, "compare", compare)
    real = Seen(np.arange(40.0)[:, None] * [1, -1], None)
    first, again, other = (
        sample_quality.measure(real, {}, half=20, k=2, cuts=2, seed=seed) for seed in (0, 0, 1)
    )
    assert first == again != other
    for one, rest in seen:
        assert sorted([*one, *rest]) == list(range(40))
    assert len({tuple(sorted(one)) for one, _ in seen}) == 4


@pytest.mark.parametrize(("half", "said"), [(21, "42 images or more"), (5, "more than k = 5")])
def test_too_few_images(half, said):
    with pytest.raises(UsageError, match=said):
        sample_quality.measure(cloud(40), {}, half=half)
