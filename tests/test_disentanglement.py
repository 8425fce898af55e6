"""Disentanglement of codes made by hand: answers worked out, and the papers' formulas in loops."""

import itertools

import numpy as np
import pytest
from sklearn.metrics import mutual_info_score

from flaxvae.analysis.disentanglement import agreement, information, intervention, prediction
from flaxvae.analysis.disentanglement.inputs import pairs, silenced
from flaxvae.analysis.disentanglement.scores import measure
from flaxvae.errors import UsageError

# Every combination of 3 and 4 values, 40 times: the factors are exactly independent.
GRID = np.tile(list(itertools.product(range(3), range(4))), (40, 1))
A, B = GRID.T.astype(float)
# Of two factors of two values: their sum and their difference know as much of either.
COINS = np.tile(list(itertools.product(range(2), range(2))), (100, 1))
SUM, DIFFERENCE = COINS.sum(1).astype(float), (COINS[:, 0] - COINS[:, 1]).astype(float)


def noise(count=1, n=480, seed=0):
    return np.random.default_rng(seed).normal(size=(n, count))


PERFECT = np.stack([A, B], 1)
CODES = {
    "perfect": PERFECT,
    "permuted and scaled": np.stack([-70 * B + 3, 0.001 * A], 1),
    "unused": np.stack([A, np.ones_like(A), B], 1),
    "duplicated": np.stack([A, B, 2 * A], 1),
}
ROTATED = np.stack([SUM, DIFFERENCE], 1)
perfect_ones = pytest.mark.parametrize("name", ["perfect", "permuted and scaled", "unused"])


def information_of(codes, factors=GRID):
    return information.information(codes, factors), information.entropy(factors)


def robustness(codes, factors=GRID):
    return intervention.interventional_robustness(codes, factors, 1)


# ---- mutual information: MIG, modularity


def test_information_of_a_perfect_code_is_the_entropy():
    found, entropies = information_of(PERFECT)
    np.testing.assert_allclose(entropies, np.log([3, 4]))
    np.testing.assert_allclose(found, np.diag(np.log([3, 4])), atol=1e-12)


def test_information_of_a_sum_of_coins():
    """H(a) - H(a | a + b) = log 2 - 1/2 log 2: the sum is 1 half of the time, and says nothing."""
    found, _ = information_of(ROTATED, COINS)
    np.testing.assert_allclose(found, np.full((2, 2), 0.5 * np.log(2)), atol=1e-12)


def test_information_is_that_of_scikit_learn_on_the_same_bins():
    z = noise(2) + 0.3 * GRID
    found, _ = information_of(z)
    for d, column in enumerate(z.T):
        bins = np.digitize(column, np.linspace(column.min(), column.max(), 21)[1:-1])
        expected = [mutual_info_score(bins, factor) for factor in GRID.T]
        np.testing.assert_allclose(found[d], expected, rtol=1e-9)


def test_bins_are_of_equal_width():
    z = np.array([[0.0], [0.24], [0.26], [0.99], [1.0]])
    assert information.discretized(z, 4).ravel().tolist() == [0, 0, 1, 3, 3]
    assert information.discretized(z - 5e5, 1).ravel().tolist() == [0] * 5
    assert information.discretized(np.full((3, 1), 7.0)).ravel().tolist() == [0] * 3


@perfect_ones
def test_gap_and_modularity_of_a_perfect_code(name):
    found, entropies = information_of(CODES[name])
    gaps = information.mutual_information_gap(found, entropies)
    assert (gaps.mean, *gaps.of_factors) == pytest.approx((1, 1, 1))
    assert information.modularity(found).mean == pytest.approx(1)


def test_gap_of_a_duplicated_code():
    """Two units know a, so its gap is 0; each knows one factor alone, so modularity is 1."""
    found, entropies = information_of(CODES["duplicated"])
    gaps = information.mutual_information_gap(found, entropies)
    assert gaps.of_factors == pytest.approx([0, 1]) and gaps.mean == pytest.approx(0.5)
    assert gaps.units[1] == 1
    assert information.modularity(found).of_units == pytest.approx([1, 1, 1])


def test_gap_and_modularity_of_a_rotated_code():
    found, entropies = information_of(ROTATED, COINS)
    assert information.mutual_information_gap(found, entropies).mean == pytest.approx(0, abs=1e-12)
    assert information.modularity(found).mean == pytest.approx(0, abs=1e-12)


def test_gap_and_modularity_by_hand():
    """MIG: ((0.6 - 0.2) / 1 + (0.8 - 0.4) / 2) / 2. Modularity of the units: 1 - (0.2/0.6)^2,
    1 - (0.2/0.8)^2, 1 - (0/0.4)^2; the last says nothing."""
    found = np.array([[0.6, 0.2], [0.2, 0.8], [0.0, 0.4], [0.0, 0.0]])
    gaps = information.mutual_information_gap(found, np.array([1.0, 2.0]))
    assert gaps.mean == pytest.approx((0.4 + 0.2) / 2) and gaps.units.tolist() == [0, 1]
    modularity = information.modularity(found)
    expected = [1 - 1 / 9, 1 - 1 / 16, 1]
    assert modularity.of_units[:3] == pytest.approx(expected) and np.isnan(modularity.of_units[3])
    assert modularity.mean == pytest.approx(np.mean(expected))


def test_modularity_of_three_factors_divides_by_two():
    assert information.modularity(np.array([[1.0, 1.0, 0.0]])).mean == pytest.approx(0.5)


def test_gap_of_a_single_unit_is_to_nothing():
    found, entropies = information_of(A[:, None])
    assert information.mutual_information_gap(found, entropies).of_factors == pytest.approx([1, 0])


def test_random_codes_know_next_to_nothing():
    """No more than the bias of counts, (B - 1)(K - 1) / 2N, and its noise."""
    found, entropies = information_of(noise(6))
    assert found.max() < 3 * 19 * 3 / (2 * len(GRID))
    assert information.mutual_information_gap(found, entropies).mean < 0.05


# ---- prediction: DCI, SAP, explicitness


def test_shares_by_hand():
    """Units: (1/2, 1/2) of two factors is no disentanglement, (0, 1) all of it, weighted 2 : 1.
    Factors: (1, 0) is complete; (1/2, 1/2) of two units is not at all."""
    found = prediction.shares(np.array([[1.0, 1.0], [0.0, 1.0]]))
    assert found.of_units == pytest.approx([0, 1]) and found.of_factors == pytest.approx([1, 0])
    assert found.disentanglement == pytest.approx(1 / 3)
    assert found.completeness == pytest.approx(1 / 2)


def test_shares_of_a_duplicated_and_of_an_unused_unit():
    """Two of three units share a factor: 1 - log 2 / log 3."""
    found = prediction.shares(np.array([[0.5, 0.0], [0.5, 0.0], [0.0, 1.0]]))
    assert found.disentanglement == pytest.approx(1)
    assert found.of_factors == pytest.approx([1 - np.log(2) / np.log(3), 1])
    silent = prediction.shares(np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]))
    assert (silent.disentanglement, silent.completeness) == pytest.approx((1, 1))
    assert np.isnan(silent.of_units[2])


@perfect_ones
def test_dci_of_a_perfect_code(name):
    found = prediction.dci(CODES[name], GRID, trees=5)
    assert found[:3] == pytest.approx((1, 1, 1))


def test_dci_of_duplicated_rotated_and_random_codes():
    duplicated = prediction.dci(CODES["duplicated"], GRID, trees=40)
    assert duplicated[0] == duplicated[2] == 1
    assert duplicated.completeness == pytest.approx((2 - np.log(2) / np.log(3)) / 2, abs=0.03)
    # Trees of a sum and a difference need both of them to know either coin.
    rotated = prediction.dci(ROTATED, COINS, trees=20)
    assert rotated.informativeness == 1 and max(rotated[:2]) < 0.15
    random = prediction.dci(noise(4), GRID, trees=10)
    assert max(random[:2]) < 0.1 and random.accuracy == pytest.approx(random.chance, abs=0.15)


@perfect_ones
def test_separated_predictability_of_a_perfect_code(name):
    """The thresholds of an unrelated unit are right for as many as chance, 1/3: the gap is 2/3."""
    found = prediction.separated_predictability(CODES[name], GRID)
    assert found.of_factors == pytest.approx([1, 1])
    some = prediction.separated_predictability(CODES[name], GRID, [0])
    assert some.of_factors == pytest.approx([2 / 3, 1])


def test_separated_predictability_is_the_squared_correlation():
    z = noise(3) + GRID @ noise(3, 2)
    found = prediction.separated_predictability(z, GRID)
    expected = np.corrcoef(z.T, GRID.T)[:3, 3:] ** 2
    np.testing.assert_allclose(found.scores, expected)
    assert found.mean == pytest.approx(np.diff(np.sort(expected, 0)[-2:], axis=0).mean())


def test_separated_predictability_of_rotated_duplicated_and_random_codes():
    rotated = prediction.separated_predictability(ROTATED, COINS)
    assert rotated.scores == pytest.approx(np.full((2, 2), 0.5)) and abs(rotated.mean) < 1e-12
    duplicated = prediction.separated_predictability(CODES["duplicated"], GRID)
    assert duplicated.of_factors == pytest.approx([0, 1])
    assert prediction.separated_predictability(noise(4), GRID).mean < 0.05


@pytest.mark.parametrize("count", [2, 3])
def test_best_thresholds_are_those_of_every_choice(count):
    """With ties, and values of unlike numbers."""
    generator = np.random.default_rng(count)
    value = np.r_[np.arange(count), generator.integers(0, count, 10)]
    code = generator.integers(0, 5, len(value)) + value
    share = np.eye(count)[value] / np.bincount(value)[value, None] / count  # [N, K]
    best = 0.0
    for cuts in itertools.combinations_with_replacement(np.arange(-0.5, 7), count - 1):
        interval = np.searchsorted(cuts, code)
        for meant in itertools.product(range(count), repeat=count):
            guess = np.array(meant)[interval]
            best = max(best, share[np.arange(len(code)), guess].sum())
    assert prediction.threshold_accuracy(code, value, count) == pytest.approx(best)
    assert prediction.threshold_accuracy(np.zeros(len(code)), value, count) == pytest.approx(
        1 / count
    )


def test_explicitness():
    """One axis: its ends are told from the rest, its middle is not; a code for each value tells
    all. Chance is 0.5."""
    spread = np.concatenate([np.eye(3)[GRID[:, 0]], np.eye(4)[GRID[:, 1]]], 1)
    assert prediction.explicitness(spread, GRID).mean == pytest.approx(1)
    ends = prediction.explicitness(np.stack([A, B], 1), GRID).of_factors
    # Of 3 values the middle's scores are at chance, or lower; the rest's at 1.
    assert 2 / 3 <= ends[0] < 0.9
    assert prediction.explicitness(noise(3), GRID).mean == pytest.approx(0.5, abs=0.1)
    assert prediction.explicitness(ROTATED, COINS).mean == pytest.approx(1)


# ---- intervention: BetaVAE, FactorVAE, IRS


def test_resampled_groups_share_their_factor_and_nothing_else():
    generator = np.random.default_rng(0)
    fixed = np.repeat([1, 0], 600)
    found = intervention.resampled(np.c_[GRID, np.arange(len(GRID))], GRID)(generator, fixed, 8)
    assert found.shape == (1200, 8, 3)
    np.testing.assert_array_equal(found[..., :2], GRID[found[..., 2].astype(int)])
    for f, k in enumerate(GRID.max(0) + 1):
        own = found[fixed == f][..., f]
        assert (own == own[:, :1]).all()
        share = 1 / (GRID.max(0) + 1)[1 - f]
        other = found[fixed == f][..., 1 - f]
        assert abs((other == 0).mean() - share) < 5 * np.sqrt(share * (1 - share) / other.size)
        assert abs((own[:, 0] == 0).mean() - 1 / k) < 5 * np.sqrt(1 / k / len(own))


def test_a_value_of_one_image_is_not_shared():
    factors = np.array([[0, 0], [0, 1], [0, 0], [1, 1], [2, 0]])
    sample = intervention.resampled(np.arange(5.0)[:, None], factors)
    found = sample(np.random.default_rng(0), np.zeros(50, int), 3)
    assert set(found.ravel()) == {0, 1, 2}
    with pytest.raises(UsageError, match="factor 0: no two images share a value"):
        intervention.resampled(np.zeros((4, 1)), np.array([[0, 1], [1, 1], [2, 0], [3, 0]]))


def scores_of(codes, factors):
    sample = intervention.resampled(codes, factors)
    beta = intervention.beta_vae_score(sample, 2, points=400, pairs=32)
    factor = intervention.factor_vae_score(sample, codes.var(0), 2, votes=400, size=32)
    return beta, factor


@pytest.mark.parametrize("name", CODES)
def test_scores_with_a_fixed_factor_of_codes_that_hold_one_each(name):
    assert scores_of(CODES[name], GRID) == (1, 1)


def test_scores_with_a_fixed_factor_of_rotated_and_random_codes():
    """Both units of a rotated code are as still whichever coin is fixed: chance, 1/2."""
    assert scores_of(ROTATED, COINS) == pytest.approx((0.5, 0.5), abs=0.18)  # 5 standard errors
    assert scores_of(noise(3), GRID) == pytest.approx((0.5, 0.5), abs=0.18)


def test_a_linear_classifier_sees_through_a_mixture_and_the_stillest_unit_does_not():
    """a + b and a - b: they move less with b fixed than with a fixed, but both as much."""
    beta, factor = scores_of(np.stack([A + B, A - B], 1), GRID)
    assert beta > 0.75 and factor == pytest.approx(0.5, abs=0.18)


def test_factor_vae_score_in_a_loop():
    """The paper's procedure, on the same groups."""
    codes = np.c_[GRID @ noise(3, 2, seed=3) + 0.3 * noise(3), np.zeros(len(GRID))]
    kept, draw = [], intervention.resampled(codes, GRID)

    def sample(generator, fixed, size):
        found = draw(generator, fixed, size)
        kept.extend(zip(fixed, found, strict=True))
        return found

    found = intervention.factor_vae_score(sample, codes.var(0), 2, votes=200, size=16, seed=5)
    order = np.random.default_rng(5).permutation(200)
    votes = {}
    for i in order[:100]:
        factor, group = kept[i]
        variances = [np.var(group[:, d]) / np.var(codes[:, d]) for d in range(3)]
        votes.setdefault(int(np.argmin(variances)), []).append(int(factor))
    right = 0
    for i in order[100:]:
        factor, group = kept[i]
        d = int(np.argmin([np.var(group[:, d]) / np.var(codes[:, d]) for d in range(3)]))
        right += max(sorted(set(votes[d])), key=votes[d].count) == factor
    assert found == right / 100 and 0.4 < found < 1


def test_scores_of_codes_that_never_move_are_chance():
    still = np.zeros_like(PERFECT)
    assert scores_of(still, GRID) == pytest.approx((0.5, 0.5), abs=0.18)
    assert np.isnan(robustness(still).mean)


@pytest.mark.parametrize("name", CODES)
def test_robustness_of_codes_that_hold_one_factor_each(name):
    assert robustness(CODES[name]).mean == pytest.approx(1)


def test_robustness_of_a_rotated_code():
    """The sum is 0, 1 or 2, at most 1 from its mean; with a known, 1/2 from its mean."""
    found = robustness(ROTATED, COINS)
    assert found.of_pairs == pytest.approx(np.full((2, 2), 0.5)) and found.mean == pytest.approx(
        0.5
    )


def test_robustness_in_loops():
    codes = GRID @ noise(3, 2, seed=2) + 0.2 * noise(3)
    expected, weights = [], []
    for unit in codes.T:
        most = max(abs(unit - unit.mean()))
        scores = []
        for f in range(2):
            worst = 0.0
            for value in set(GRID[:, f]):
                own = unit[GRID[:, f] == value]
                worst += len(own) / len(unit) * max(abs(own - own.mean()))
            scores.append(1 - worst / most)
        expected.append(max(scores))
        weights.append(most)
    found = robustness(codes)
    np.testing.assert_allclose(found.of_units, expected)
    assert found.mean == pytest.approx(np.average(expected, weights=weights))


# ---- agreement: UDR


def test_rank_correlation_of_monotone_and_of_constant_units():
    z = noise(3)
    other = np.stack([-np.exp(z[:, 2]), np.ones(len(z)), z[:, 0] ** 3], 1)
    found = agreement.rank_correlation(z, other)
    assert found[[2, 0], [0, 2]] == pytest.approx([1, 1]) and not found[:, 1].any()
    assert found[1].max() < 0.2


def test_agreement_by_hand():
    """Columns: 0.8^2 / 1.0 and 0.5^2 / 0.5, rows: 0.8^2 / 0.8, 0.5^2 / 0.7, of 2 + 2 units."""
    similarity = np.array([[0.8, 0.0], [0.2, 0.5]])
    both = np.ones(2, bool)
    total = 0.64 + 0.5 + 0.8 + 0.25 / 0.7
    assert agreement.agreement(similarity, both, both) == pytest.approx(total / 4)
    first = np.array([True, False])
    assert agreement.agreement(similarity, first, both) == pytest.approx((0.64 + 0.5 + 0.8) / 3)
    assert agreement.agreement(similarity, ~both, ~both) == 0


def test_ranking_finds_the_model_that_differs():
    """Permuted and flipped codes agree; a rotated one does not, but for the units that move alike.

    The median of (1, 1, low) is 1, that of (low, low, low) low.
    """
    z = noise(4, n=2000)
    turn = np.linalg.qr(noise(4, 4, seed=1))[0]
    unused = np.c_[z[:, ::-1], np.full(len(z), 3.0)]
    found = agreement.unsupervised_ranking([z, -z[:, [2, 0, 3, 1]], unused, z @ turn])
    assert found.scores[:3] == pytest.approx([1, 1, 1], abs=0.15)
    assert found.scores[3] < 0.6
    np.testing.assert_allclose(found.of_pairs, found.of_pairs.T)
    assert np.isnan(agreement.unsupervised_ranking([z]).scores[0])


def test_ranking_leaves_out_what_is_not_informative():
    z = noise(3, n=500)
    other = np.c_[z[:, :2], noise(1, 500, seed=9)]
    used = np.array([True, True, False])
    found = agreement.unsupervised_ranking([z, other], [used, used])
    assert found.scores.min() > agreement.unsupervised_ranking([z, other]).scores.max()
    with pytest.raises(UsageError, match="expected those of the same images"):
        agreement.unsupervised_ranking([z, z[:9]])


# ---- all of them


def test_measure_of_a_perfect_code_beside_units_that_whisper():
    """A unit that is not used moves by 1e-4 of a factor: it would spoil every gap."""
    codes = np.stack([A, B, 1e-4 * A], 1)
    used = np.array([True, True, False])
    found = measure(codes, GRID, ("a", "b"), used=used)
    ones = "beta_vae factor_vae mig modularity irs sap"
    ones += " dci_disentanglement dci_completeness dci_informativeness"
    assert [getattr(found, name) for name in ones.split()] == pytest.approx([1] * 9)
    assert found.used == (True, True, False) and found.images == len(GRID)
    assert information.mutual_information_gap(*information_of(codes)).of_factors[0] == 0
    assert not silenced(codes, used)[:, 2].any()


def test_measure_takes_codes_of_new_images():
    """Of a model that mixes, unless images are drawn anew: the score is that of the new ones."""

    def sample(generator, fixed, size):
        rows = generator.integers((3, 4), size=(len(fixed), size, 2))
        every = np.arange(len(fixed))
        rows[every, :, fixed] = rows[every, :1, fixed]
        return rows.astype(float)

    found = measure(noise(2), GRID, ("a", "b"), sample=sample)
    assert found.beta_vae == 1 and found.factor_vae > 0.9 and found.mig < 0.1


def test_numbers_that_are_not_defined_are_null():
    found = measure(np.ones((len(GRID), 2)), GRID, ("a", "b")).as_json()
    assert found["irs"] is None and found["modularity"] is None and found["mig"] == 0


@pytest.mark.parametrize(
    ("codes", "factors", "words"),
    [
        (PERFECT, GRID[:-1], r"factors of shape \(479, 2\): expected \[480, F\], a row for each"),
        (PERFECT, GRID[:, 0], r"factors of shape \(480,\)"),
        (PERFECT, GRID[:, :1], "1 factor: expected two or more"),
        (PERFECT, GRID * [1, 0], "factor 1 has one value in all 480 images"),
        (PERFECT * np.nan, GRID, "codes that are not finite"),
        (PERFECT[:3], GRID[:3], "codes of 3 images: expected 4 or more"),
        (A, GRID, r"codes of shape \(480,\): expected \[N, D\]"),
    ],
)
def test_arrays_that_do_not_fit(codes, factors, words):
    with pytest.raises(UsageError, match=words):
        pairs(codes, factors)


def test_factors_may_have_any_values():
    names = np.array(["c", "a", "d", "b"])[GRID[:, 1]]
    assert pairs(PERFECT, np.c_[GRID[:, 0] * 0.5 - 7, GRID[:, 1]]).values == (3, 4)
    named = pairs(PERFECT, np.c_[GRID[:, 0].astype(str), names])
    assert named.factors[:4, 1].tolist() == [2, 0, 3, 1]
