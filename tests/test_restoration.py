"""Images restored by draws from p(z | seen): against the exact posterior of a linear model."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import stats

import flaxvae
from conftest import rare
from flaxvae import cli
from flaxvae.analysis import median, restoration
from flaxvae.data import masks
from flaxvae.distributions import Bernoulli, Normal, standard_normal
from flaxvae.errors import DataError, UsageError
from flaxvae.logistic import LogisticMixture

D, PIXELS, SIGMA = 2, 6, 0.5
RNG = np.random.default_rng(0)
WEIGHTS, SHIFT = RNG.standard_normal((D, PIXELS)), RNG.standard_normal(PIXELS)


def linear():
    """z ~ N(0, I), x = z W + b + 0.5 eps."""

    def decode(z, y):
        mean = z @ jnp.asarray(WEIGHTS, jnp.float32) + jnp.asarray(SHIFT, jnp.float32)[None]
        return Normal(mean, jnp.float32(2 * np.log(SIGMA)))

    def log_prior(z, y):
        return standard_normal(z.shape).log_prob(z)

    return restoration.Latents(lambda key, n: jax.random.normal(key, (n, D)), log_prior, decode)


def exact(y, seen, noise):
    """Mean and covariance of p(z | y), and log p(y), given the pixels ``seen``."""
    w, variance = WEIGHTS[:, seen], SIGMA**2 + noise**2
    covariance = np.linalg.inv(np.eye(D) + w @ w.T / variance)
    mean = covariance @ w @ (y[seen] - SHIFT[seen]) / variance
    spread = w.T @ w + variance * np.eye(len(seen))
    return mean, covariance, stats.multivariate_normal(SHIFT[seen], spread).logpdf(y[seen])


@pytest.mark.parametrize("noise", rare([0.0, 0.8], 0.8))
def test_the_posterior_of_a_linear_model_given_half_the_pixels(noise, assert_mean):
    y, seen = RNG.standard_normal(PIXELS).astype(np.float32), np.arange(PIXELS // 2)
    copies, chains = 8, 64
    mask = np.zeros((copies, PIXELS), np.float32)
    mask[:, seen] = 1
    # What is hidden must not matter, whatever stands there.
    what = restoration.Seen(jnp.asarray(np.where(mask, y, 1e3)), jnp.asarray(mask), noise)
    found = jax.jit(
        lambda key: restoration.completed(linear(), key, what, temperatures=24, chains=chains)
    )(jax.random.key(1))
    mean, covariance, log_p = exact(np.float64(y), seen, noise)
    z = np.float64(found.z).reshape(-1, D)
    # Chains of an image begin at few chains if weights are unequal: count images.
    assert_mean(np.float64(found.z).mean(1), mean)
    centred = z - mean
    second = np.einsum("ni,nj->nij", centred, centred).reshape(copies, chains, D, D).mean(1)
    assert_mean(second, covariance)
    each = np.logaddexp.reduce(np.float64(found.log_w), 1) - np.log(chains)
    np.testing.assert_allclose(each, log_p, atol=0.5)
    assert abs(each.mean() - log_p) < 0.15
    assert found.effective.min() > chains / 4 and 0.4 < found.acceptance.mean() < 0.95


def test_of_two_modes_both_are_found_in_their_proportion():
    """x = z^2 is seen: z is one of two roots, of which the prior prefers one."""

    def log_prior(z, y):
        return Normal(jnp.full_like(z, 0.5), jnp.zeros(())).log_prob(z)

    def draw(key, n):
        return 0.5 + jax.random.normal(key, (n, 1))

    latents = restoration.Latents(
        draw, log_prior, lambda z, y: Normal(jnp.square(z), jnp.float32(2 * np.log(0.1)))
    )
    what = restoration.Seen(jnp.ones((8, 1)), jnp.ones((8, 1)))
    found = restoration.completed(latents, jax.random.key(0), what, temperatures=24, chains=64)
    share = np.asarray(found.z > 0).mean(1)[:, 0]
    side = np.linspace(-4, 4, 8001)
    density = stats.norm.pdf(side, 0.5) * stats.norm.pdf(1, side**2, 0.1)
    expected = density[side > 0].sum() / density.sum()
    error = share.std(ddof=1) / np.sqrt(len(share))
    assert 0.5 < expected < 0.9 and abs(share.mean() - expected) < 5 * error


@pytest.mark.parametrize(
    "p",
    [
        Bernoulli(jnp.asarray(RNG.standard_normal((2, 3, 4, 3)), jnp.float32)),
        Normal(jnp.asarray(RNG.standard_normal((2, 3, 4, 3)), jnp.float32), jnp.float32(0.3)),
        LogisticMixture(
            *(
                jnp.asarray(RNG.standard_normal((2, 3, 4, *own)), jnp.float32)
                for own in ((2,), (3, 2), (3, 2), (3, 2))
            ),
            levels=256,
        ),
    ],
    ids=lambda p: type(p).__name__,
)
def test_pixels_sum_to_the_image(p):
    x = jnp.asarray(RNG.integers(0, 2, (2, 3, 4, 3)), jnp.float32)
    found = restoration.pixelwise(p, x)
    assert found.shape == (2, 3, 4)
    np.testing.assert_allclose(found.sum((1, 2)), p.log_prob(x), rtol=1e-5)


def test_noise_widens_the_density_of_a_pixel():
    y = np.array([[-0.4, 0.2, 1.7]], np.float32)
    p = Normal(jnp.asarray([[0.1, 0.2, 0.9]]), jnp.float32(np.log(0.25)))
    found = restoration.pixelwise(p, jnp.asarray(y), 0.3)
    expected = stats.norm.logpdf(y, p.mean, np.sqrt(0.25 + 0.09))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    binary = Bernoulli(jnp.asarray([[2.0, -1.0, 0.5]]))
    found = restoration.pixelwise(binary, jnp.asarray(y), 0.3, binary=True)
    one = np.float64(binary.mean)
    expected = np.log(one * stats.norm.pdf(y, 1, 0.3) + (1 - one) * stats.norm.pdf(y, 0, 0.3))
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    grey = restoration.pixelwise(binary, jnp.asarray(y), 0.3)
    np.testing.assert_allclose(grey, stats.norm.logpdf(y, one, 0.3), rtol=1e-4)


def test_chains_are_drawn_again_by_their_weights():
    weights = jnp.asarray([[0.5, 0.0, 0.25, 0.25], [0.0, 1.0, 0.0, 0.0]])
    found = np.asarray(restoration._again(jax.random.key(0), weights))
    np.testing.assert_array_equal(np.sort(found), [[0, 0, 2, 3], [1, 1, 1, 1]])
    # The first of an image is a draw like any other, also of a chain that is not the first.
    many = jnp.tile(jnp.array([0.1, 0.0, 0.9, 0.0]), (4000, 1))
    first = np.asarray(restoration._again(jax.random.key(1), many))[:, 0]
    assert abs((first == 2).mean() - 0.9) < 0.02 and set(first.tolist()) == {0, 2}


def test_medians():
    x = np.zeros((1, 5, 5, 1), np.float32)
    x[0, 2, 2] = 1  # a speck, which a median removes
    assert median.smoothed(x, 3).max() == 0
    hidden = np.zeros((1, 5, 5), bool)
    hidden[:, 3:] = True
    x[0, :3] = np.arange(5, dtype=np.float32)[None, :, None]
    filled = median.filled(np.where(hidden[..., None], 9, x), hidden)
    np.testing.assert_array_equal(filled[0, 3, :, 0], [0.5, 1, 2, 3, 3.5])
    np.testing.assert_array_equal(filled[0, :3], x[0, :3])
    assert (median.filled(x, np.ones_like(hidden)) == 0.5).all()
    np.testing.assert_allclose(median.psnr(x + 0.1, x), 20, rtol=1e-5)
    assert median.psnr(x, x) == np.inf


def test_masks(tmp_path):
    lower = masks.hidden("lower-half", 2, 5, 4)
    np.testing.assert_array_equal(lower[1].sum(1), [0, 0, 4, 4, 4])
    drawn = np.zeros((5, 4), np.uint8)
    drawn[1:3, 2] = 255
    Image.fromarray(drawn).save(tmp_path / "mask.png")
    np.save(tmp_path / "mask.npy", drawn)
    np.savez(tmp_path / "mask.npz", mask=np.stack([drawn, 255 - drawn]), other=np.ones(3))
    for name in ("mask.png", "mask.npy"):
        found = masks.hidden(str(tmp_path / name), 2, 5, 4)
        np.testing.assert_array_equal(found, [drawn > 0, drawn > 0])
    each = masks.hidden(str(tmp_path / "mask.npz"), 2, 5, 4)
    np.testing.assert_array_equal(each[1], drawn == 0)
    with pytest.raises(DataError, match=r"shape \(5, 4\); expected \(4, 4\)"):
        masks.hidden(str(tmp_path / "mask.png"), 2, 4, 4)
    np.save(tmp_path / "mask.npy", np.zeros((5, 4)))
    with pytest.raises(DataError, match="hides nothing"):
        masks.hidden(str(tmp_path / "mask.npy"), 2, 5, 4)
    (tmp_path / "mask.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="not a picture"):
        masks.hidden(str(tmp_path / "mask.png"), 2, 5, 4)


SHORT = {"temperatures": 4, "chains": 4, "completions": 2}


def test_restored_images_keep_what_is_seen(trained):
    run = flaxvae.load(trained)
    x = run.data().test.images(slice(0, 3))
    hidden = masks.hidden("left-half", 3, 8, 8)
    found = run.restore(np.where(hidden[..., None], np.float32(7), x), hidden=hidden[0], **SHORT)
    assert found.completions.shape == (3, 2, 8, 8, 1) and found.mean.shape == x.shape
    shown = np.broadcast_to(hidden[:, None, ..., None], found.completions.shape)
    np.testing.assert_array_equal(found.completions[~shown], np.repeat(x[:, None], 2, 1)[~shown])
    assert found.completions[shown].max() <= 1 and np.isfinite(found.log_p).all()
    again = run.restore(x, hidden=hidden, **SHORT)
    np.testing.assert_array_equal(again.completions, found.completions)
    # What is said to be hidden has no effect, nor has a second call another program.
    marked = np.where(np.broadcast_to(hidden, x.shape[:3])[..., None], np.nan, x)
    again = run.restore(marked[..., 0], hidden=hidden, **SHORT)
    np.testing.assert_array_equal(again.completions, found.completions)
    assert len(run._restorers) == 1
    for wrong, words in ((np.uint8(x), "uint8"), (marked, "no numbers")):
        with pytest.raises(UsageError, match=words):
            run.restore(wrong, **SHORT)
    with pytest.raises(UsageError, match=r"hidden pixels of shape \(3, 3\)"):
        run.restore(x, hidden=np.ones((3, 3)))


@pytest.mark.slow
def test_from_the_command_line(trained, tmp_path, capsys):
    path = shutil.copytree(trained, tmp_path / "run")
    options = ["--n", "2", "--temperatures", "4", "--chains", "4", "--completions", "2"]
    cli.main(["restore", str(path), "--mask", "upper-half", *options])
    out = " ".join(capsys.readouterr().out.split())
    assert "PSNR of hidden pixels" in out and "medians of the nearest" in out
    stem = "restored-mask-upper-half-n-2-completions-2-temperatures-4-chains-4"
    assert (path / "figures" / f"{stem}.png").exists()
    with np.load(path / f"{stem}.npz") as file:
        assert file["completions"].shape == (2, 2, 8, 8, 1) and file["hidden"][:, :4].all()
    x = flaxvae.load(path).data().test.images(slice(0, 2))
    np.savez(tmp_path / "noisy.npz", x=np.clip(x + 0.1, 0, 1))
    line = ["restore", str(path), str(tmp_path / "noisy.npz"), "--noise", "0.1", *options]
    cli.main([*line, "--out", str(tmp_path / "found.png")])
    out = capsys.readouterr().out
    assert "PSNR" not in out and (tmp_path / "found.npz").exists()
    cli.main(["verify", str(path)])
    assert stem in capsys.readouterr().out


def test_a_fitted_prior_is_one_to_restore_with(trained):
    run = flaxvae.load(trained)
    x = run.data().test.images(slice(0, 2))
    fitted = run.fit_prior(run.data().train, kind="gaussian")
    found = fitted.restore(x, hidden=masks.hidden("centre", 2, 8, 8), **SHORT)
    own = fitted.restore(x, hidden=masks.hidden("centre", 2, 8, 8), prior="own", **SHORT)
    assert np.isfinite(found.log_p).all() and (found.log_p != own.log_p).any()
