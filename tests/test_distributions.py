"""Log-probabilities against scipy, samples against their moments, KL against float64 and draws.

Values are compared within float32 rounding: a few ulps of the terms that are added up, which is
what the last argument of ``assert_rounded`` says.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, special, stats

from flaxvae.distributions import (
    Bernoulli,
    ContinuousBernoulli,
    Normal,
    kl_normal,
    standard_normal,
    sum_event,
)

EPS = float(np.finfo(np.float32).eps)
EVENT = (3, 4)
LOG_VARS = [-20.0, -3.0, 0.0, 3.0, 20.0]
LOGITS = [-1e4, -90.0, -3.0, 0.0, 3.0, 90.0, 1e4]
# On both sides of lambda = 1/2, and of where the series near it ends.
POSITIVE = [1e-4, 1e-2, 0.3, 0.999, 1.001, 3.0, 50.0]
CONTINUOUS = np.float32([-l for l in POSITIVE[::-1]] + [0.0] + POSITIVE)
PIXELS = np.linspace(0, 1, 513)  # float32 holds them exactly


def assert_rounded(found, expected, magnitude, ulps=8):
    error = np.abs(np.asarray(found, np.float64) - expected)
    assert np.isfinite(np.asarray(found)).all()
    np.testing.assert_array_less(error, ulps * EPS * np.asarray(magnitude) + 1e-300)


def f64(*arrays):
    return [np.asarray(a, np.float64) for a in arrays]


def draws(seed, *shape, scale=1.0):
    values = np.random.default_rng(seed).normal(size=shape, scale=scale)
    return jnp.asarray(values, jnp.float32)


def normal_log_prob(mean, log_var, x):
    """In float64: [B] and the size of the terms that it adds up."""
    mean, log_var, x = f64(mean, log_var, x)
    terms = stats.norm.logpdf(x, mean, np.exp(log_var / 2)).reshape(len(x), -1)
    squared = np.broadcast_to((x - mean) ** 2 / np.exp(log_var), x.shape).reshape(len(x), -1)
    log_vars = np.broadcast_to(np.abs(log_var), x.shape).reshape(len(x), -1)
    return terms.sum(-1), (2 + log_vars + squared).sum(-1)


def bernoulli_log_prob(logits, x):
    """In float64, from scipy's log pmf of a success and of a failure, also for x in between."""
    logits, x = f64(logits, x)
    success, failure = special.log_expit(logits), special.log_expit(-logits)
    terms = (x * success + (1 - x) * failure).reshape(len(x), -1)
    return terms.sum(-1), (1 + np.abs(logits)).reshape(len(x), -1).sum(-1)


@pytest.mark.parametrize("log_var", LOG_VARS)
def test_normal_log_prob(log_var):
    x, mean = draws(0, 5, *EVENT), draws(1, 5, *EVENT)
    log_vars = log_var + draws(2, 5, *EVENT, scale=0.1)
    for variance in (log_vars, jnp.float32(log_var)):  # one for each value, and one for all
        found = Normal(mean, variance).log_prob(x)
        chex.assert_shape(found, (5,))
        assert_rounded(found, *normal_log_prob(mean, variance, x))


@pytest.mark.parametrize("logit", LOGITS)
def test_bernoulli_log_prob(logit):
    logits = jnp.full((3, *EVENT), logit)
    x = jnp.stack([jnp.zeros(EVENT), jnp.ones(EVENT), jnp.full(EVENT, 0.25)])
    found = Bernoulli(logits).log_prob(x)
    chex.assert_shape(found, (3,))
    assert_rounded(found, *bernoulli_log_prob(logits, x))
    assert (np.asarray(found) <= 0).all()


@pytest.mark.parametrize("event", [(1,), (3, 4), (7, 9), (28, 28, 1), (16, 16, 3)])
def test_bernoulli_is_scipys(event):
    """By itself, and as the value that comes with a gradient: sizes of many, few and no groups."""
    logits, x = draws(3, 6, *event, scale=3), draws(4, 6, *event) > 0
    expected = stats.bernoulli.logpmf(np.asarray(x, int), special.expit(f64(logits)[0]))

    def log_prob(logits):
        return Bernoulli(logits).log_prob(x.astype(jnp.float32))

    for found in (log_prob(logits), jax.vjp(log_prob, logits)[0]):
        assert_rounded(found, expected.reshape(6, -1).sum(-1), bernoulli_log_prob(logits, x)[1])


@pytest.mark.parametrize("logit", [8.0, 14.0, 15.5, 16.7, 20.0, 40.0])
def test_bernoulli_of_near_certain_pixels(logit):
    """-log p of an image that was foretold is tiny, and has its digits all the same."""
    logits, x = jnp.full((1, 784), logit), jnp.ones((1, 784))
    expected = -784 * np.log1p(np.exp(-logit))

    def log_prob(logits):
        return Bernoulli(logits).log_prob(x)

    for found in (log_prob(logits), jax.vjp(log_prob, logits)[0]):
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_bernoulli_keeps_the_precision_of_its_logits():
    logits, x = draws(3, 6, *EVENT), jnp.ones((6, *EVENT), jnp.bfloat16)
    found = Bernoulli(logits.astype(jnp.bfloat16)).log_prob(x)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found, Bernoulli(logits).log_prob(x), rtol=0.05)


@pytest.mark.parametrize("log_var", LOG_VARS)
def test_normal_gradients(log_var):
    """d/d mean = (x - mean) / var and d/d log_var = ((x - mean)^2 / var - 1) / 2."""
    mean, x = draws(5, 4, *EVENT), draws(6, 4, *EVENT)
    gradient = jax.grad(lambda q: q.log_prob(x).sum())
    found = gradient(Normal(mean, jnp.full(mean.shape, log_var)))
    shift = np.subtract(*f64(x, mean))
    scaled = shift * np.exp(-log_var)
    assert_rounded(found.mean, scaled, np.abs(scaled))
    assert_rounded(found.log_var, (shift * scaled - 1) / 2, shift * scaled + 1)


@pytest.mark.parametrize("logit", LOGITS)
def test_bernoulli_gradients(logit):
    """d/d logit = x - sigmoid(logit): finite where the probability itself is 0 or 1."""
    x = jnp.asarray([[0.0, 1.0, 0.3]])
    gradient = jax.grad(lambda logits: Bernoulli(logits).log_prob(x).sum())
    found = gradient(jnp.full(x.shape, logit))
    assert_rounded(found, f64(x)[0] - special.expit(logit), 1.0)


@pytest.mark.parametrize("log_var", [-6.0, 0.0, 4.0])
def test_normal_sample_moments(log_var, assert_mean):
    mean = draws(7, 1, 3)
    q = Normal(jnp.broadcast_to(mean, (20_000, 3)), jnp.float32(log_var))
    sample = q.sample(jax.random.key(0))
    chex.assert_shape(sample, (20_000, 3))
    assert sample.dtype == jnp.float32
    z = (np.asarray(sample, np.float64) - f64(mean)[0]) / np.exp(log_var / 2)
    assert_mean(z)
    assert_mean(z**2, 1.0)
    assert_mean(z[:, :1] * z[:, 1:])  # dimensions are independent
    assert_mean(z[1:] * z[:-1])  # and so are rows


def test_bernoulli_sample_moments(assert_mean):
    logits = jnp.broadcast_to(jnp.asarray([[-4.0, -0.5, 0.0, 2.0]]), (20_000, 4))
    sample = Bernoulli(logits).sample(jax.random.key(0))
    assert sample.dtype == jnp.float32
    assert set(np.unique(sample)) == {0.0, 1.0}
    assert_mean(sample, special.expit(f64(logits)[0][0]))
    assert_rounded(Bernoulli(logits).mean[0], special.expit(f64(logits)[0][0]), 1.0)


@pytest.mark.parametrize("logit", [-1e4, 1e4])
def test_bernoulli_sample_at_certainty(logit):
    sample = Bernoulli(jnp.full((1000, 1), logit)).sample(jax.random.key(0))
    np.testing.assert_array_equal(sample, float(logit > 0))


@jax.jit
def continuous_bernoulli(logits, x):
    """Log-probability [B] and mean of ContinuousBernoulli, and gradients of both."""

    def log_prob(logits):
        return ContinuousBernoulli(logits).log_prob(x)

    def mean(logits):
        return ContinuousBernoulli(logits).mean

    slopes = [jax.grad(lambda logits, f=f: f(logits).sum())(logits) for f in (log_prob, mean)]
    return log_prob(logits), mean(logits), *slopes


def continuous_bernoulli_log_prob(logits, x):
    """In float64: the cross-entropy plus log C, C = 2 artanh(1 - 2 lambda) / (1 - 2 lambda)."""
    logits, x = f64(logits, x)
    safe = np.where(logits == 0, 1.0, logits)
    log_c = np.where(logits == 0, np.log(2), np.log(safe / np.tanh(safe / 2)))
    return x * special.log_expit(logits) + (1 - x) * special.log_expit(-logits) + log_c


def every_pair():
    """All of CONTINUOUS with all PIXELS, as [B, 1] each."""
    pairs = np.meshgrid(CONTINUOUS, np.float32(PIXELS), indexing="ij")
    return [jnp.asarray(values.reshape(-1, 1)) for values in pairs]


def continuous_bernoulli_mean(logit):
    total = [integrate.quad(lambda x, p=p: x**p * np.exp(logit * (x - 1)), 0, 1) for p in (0, 1)]
    return total[1][0] / total[0][0]


def test_continuous_bernoulli_log_prob():
    """Values and gradients; the reference is log C + cross-entropy, C as in the paper."""
    logits, x = every_pair()
    found, _, slope, _ = continuous_bernoulli(logits, x)
    chex.assert_shape(found, (len(x),))
    expected = continuous_bernoulli_log_prob(logits, x)
    assert_rounded(found, expected[:, 0], 1 + np.abs(logits[:, 0]), ulps=4)
    (center,), step = f64(logits), 1e-3
    ends = [continuous_bernoulli_log_prob(center + sign * step, x) for sign in (1, -1)]
    assert_rounded(slope, (ends[0] - ends[1]) / (2 * step), 1.0)
    rate = np.asarray([1e-3, 0.1, 0.4, 0.501, 0.9])
    paper = np.log(2 * np.arctanh(1 - 2 * rate) / (1 - 2 * rate))
    at_zero = continuous_bernoulli_log_prob(special.logit(rate), np.zeros_like(rate))
    np.testing.assert_allclose(at_zero - np.log1p(-rate), paper, rtol=1e-9)


def test_continuous_bernoulli_integrates_to_one():
    density = np.exp(f64(continuous_bernoulli(*every_pair())[0])[0])
    total = integrate.simpson(density.reshape(len(CONTINUOUS), -1), x=PIXELS)
    np.testing.assert_allclose(total, 1.0, rtol=1e-5)


def test_continuous_bernoulli_mean():
    """The mean and, as its derivative, the variance, against quadrature."""
    _, found, _, slope = (a[:: len(PIXELS)] for a in continuous_bernoulli(*every_pair()))
    logits = f64(CONTINUOUS)[0]
    expected = [continuous_bernoulli_mean(logit) for logit in logits]
    assert_rounded(found[:, 0], expected, 1.0, ulps=4)
    ends = [[continuous_bernoulli_mean(l + step) for l in logits] for step in (0.01, -0.01)]
    expected = np.subtract(*ends)[:, None] / 0.02
    np.testing.assert_allclose(slope, expected, rtol=2e-4, atol=4 * EPS)


def test_continuous_bernoulli_mean_has_no_jump():
    """1/2 + logit / 12 near the middle; slopes between 1/15 and 1/12 up to logits of 2."""
    small, wide = np.linspace(-1e-3, 1e-3, 4001), np.linspace(-2, 2, 4001)
    logits = jnp.asarray(np.stack([small, wide]), jnp.float32)
    found = f64(continuous_bernoulli(logits, jnp.zeros_like(logits))[1])[0]
    assert_rounded(found[0], 0.5 + small / 12, 1.0, ulps=2)
    np.testing.assert_allclose(np.diff(found[1]), 1e-3 / 13.5, rtol=0.13, atol=4 * EPS)


@pytest.mark.parametrize("logit", [-1e4, 1e4])
def test_continuous_bernoulli_at_extremes(logit):
    logits, edge = jnp.full((1000, 1), logit), float(logit > 0)
    log_prob, mean, *slopes = continuous_bernoulli(logits, jnp.full_like(logits, edge))
    assert_rounded(log_prob, np.log(abs(logit)), abs(logit), ulps=2)
    assert_rounded(mean, edge - 1 / logit, 1.0)
    chex.assert_tree_all_finite(slopes)
    sample = f64(ContinuousBernoulli(logits).sample(jax.random.key(0)))[0]
    assert (np.abs(sample - edge) < 20 / abs(logit)).all()


def test_continuous_bernoulli_sample(assert_mean):
    """The CDF makes uniform variables of the draws."""
    logits = f64(CONTINUOUS)[0]
    repeated = jnp.asarray(np.repeat(CONTINUOUS[None], 20_000, 0))
    sample = jax.jit(lambda q, key: q.sample(key))(ContinuousBernoulli(repeated), jax.random.key(0))
    assert sample.dtype == jnp.float32
    x = f64(sample)[0]
    assert (x >= 0).all() and (x <= 1).all()
    assert_mean(x, [continuous_bernoulli_mean(logit) for logit in logits])
    safe = np.where(logits == 0, 1.0, logits)
    uniform = np.where(logits == 0, x, np.expm1(safe * x) / np.expm1(safe))
    for power in (1, 2, 3):
        assert_mean(uniform**power, 1 / (power + 1))
    assert_mean((uniform[:, :1] - 0.5) * (uniform[:, 1:] - 0.5))  # pixels are independent


def normals(seed, *shape, scale=1.0):
    return Normal(draws(seed, *shape), draws(seed + 1, *shape, scale=scale))


def kl_float64(q, p):
    """The textbook form, which has the digits to spare in float64; and the size of its terms."""
    qm, ql, pm, pl = f64(q.mean, q.log_var, p.mean, p.log_var)
    ratio, shift = np.exp(ql - pl), (qm - pm) ** 2 / np.exp(pl)
    kl = 0.5 * (pl - ql - 1 + ratio + shift)
    return kl, np.abs(ql) + np.abs(pl) + 1 + shift + ratio * (1 + np.abs(ql) + np.abs(pl))


@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])
def test_kl_in_closed_form(scale):
    q, p = normals(10, 6, *EVENT, scale=scale), normals(20, 6, *EVENT, scale=scale)
    found = kl_normal(q, p)
    chex.assert_shape(found, (6, *EVENT))
    assert_rounded(found, *kl_float64(q, p))
    assert_rounded(kl_normal(q, standard_normal((6, *EVENT))), *kl_float64(q, normals_zero(q)))
    assert (np.asarray(found) >= 0).all()


def normals_zero(like):
    return Normal(np.zeros(like.mean.shape), np.zeros(like.mean.shape))


def test_kl_is_zero_only_at_equality():
    q = normals(30, 50, 3, scale=5.0)
    np.testing.assert_array_equal(kl_normal(q, q), 0.0)
    shifted = Normal(q.mean + 0.1, q.log_var)
    assert (np.asarray(kl_normal(shifted, q)) > 0).all()


@pytest.mark.parametrize("size", [1e-1, 1e-2, 1e-3, 1e-4])
def test_kl_keeps_its_digits_near_equality(size):
    """A KL of size^2 / 4 with an error of ulps of ``size``; the textbook form has ulps of 1."""
    log_vars = jnp.linspace(-size, size, 101)[None]
    q = Normal(jnp.zeros((1, 101)), log_vars)
    delta = f64(log_vars)[0]
    expected = 0.5 * (np.expm1(delta) - delta)
    found = kl_normal(q, standard_normal((1, 101)))
    assert_rounded(found, expected, np.abs(delta), ulps=4)
    moved = Normal(log_vars, jnp.zeros((1, 101)))  # nor does a small shift of the mean get lost
    found = kl_normal(moved, standard_normal((1, 101)))
    assert_rounded(found, delta**2 / 2, delta**2, ulps=1)


@pytest.mark.parametrize("log_var", [-20.0, 20.0])
def test_kl_and_its_gradient_at_extremes(log_var):
    q = Normal(jnp.ones((1, 2)), jnp.full((1, 2), log_var))
    p = standard_normal((1, 2))
    assert_rounded(kl_normal(q, p), *kl_float64(q, p))
    gradient = jax.grad(lambda q: kl_normal(q, p).sum())(q)
    assert_rounded(gradient.mean, 1.0, 1.0)
    expected = np.expm1(log_var) / 2
    assert_rounded(gradient.log_var, expected, np.abs(expected))


def test_kl_is_what_draws_say(assert_mean):
    q, p = normals(40, 1, 4, scale=0.5), normals(50, 1, 4, scale=0.5)
    (mean, log_var, p_mean, p_log_var), n = f64(*q.__dict__.values(), *p.__dict__.values()), 50_000
    z = np.random.default_rng(0).normal(mean, np.exp(log_var / 2), (n, 4))
    log_q = stats.norm.logpdf(z, mean, np.exp(log_var / 2))
    log_p = stats.norm.logpdf(z, p_mean, np.exp(p_log_var / 2))
    assert_mean(log_q - log_p, np.asarray(kl_normal(q, p))[0])


def test_sum_event():
    x = draws(60, 3, 2, 4)
    assert_rounded(sum_event(x), f64(x)[0].sum((1, 2)), 8.0)
    np.testing.assert_array_equal(sum_event(x[:, 0, 0]), x[:, 0, 0])  # no event axes


class Compilation(chex.TestCase):
    """jit, and where the arguments lie, change no value beyond rounding."""

    @chex.all_variants(with_pmap=False)
    def test_log_probs(self):
        mean, log_var, x = draws(0, 5, *EVENT), draws(1, 5, *EVENT, scale=5), draws(2, 5, *EVENT)
        found = self.variant(lambda m, v, x: Normal(m, v).log_prob(x))(mean, log_var, x)
        assert_rounded(found, *normal_log_prob(mean, log_var, x))
        found = self.variant(lambda logits, x: Bernoulli(logits).log_prob(x))(30 * mean, x > 0)
        assert_rounded(found, *bernoulli_log_prob(30 * mean, x > 0))
        x = jnp.abs(x) / 8
        found = self.variant(lambda logits, x: ContinuousBernoulli(logits).log_prob(x))(mean, x)
        expected = continuous_bernoulli_log_prob(mean, x).sum((1, 2))
        assert_rounded(found, expected, sum_event(1 + jnp.abs(mean)))

    @chex.all_variants(with_pmap=False)
    def test_kl(self):
        q, p = normals(10, 6, *EVENT), normals(20, 6, *EVENT)
        found = self.variant(kl_normal)(q, p)  # the distributions are pytrees
        assert_rounded(found, *kl_float64(q, p))

    @chex.all_variants(with_pmap=False)
    def test_samples(self):
        q, b, key = normals(10, 6, *EVENT), Bernoulli(draws(0, 6, *EVENT)), jax.random.key(1)
        found = self.variant(lambda q, key: q.sample(key))(q, key)
        np.testing.assert_allclose(found, q.sample(key), rtol=8 * EPS, atol=8 * EPS)
        found = self.variant(lambda b, key: b.sample(key))(b, key)
        np.testing.assert_array_equal(found, b.sample(key))
