"""Draws from p(x|z) in the place of its means: each row by its own key, wherever it stands."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxvae
from flaxvae import cli
from flaxvae.distributions import Normal, draw_rows
from flaxvae.parts import likelihoods
from flaxvae.report import figures

KINDS = {
    "bernoulli": lambda: likelihoods.bernoulli(2),
    "continuous_bernoulli": lambda: likelihoods.continuous_bernoulli(2),
    "gaussian": lambda: likelihoods.gaussian(2, 0.1),
    "gaussian_shared": lambda: likelihoods.gaussian_shared(2),
    "gaussian_pixel": lambda: likelihoods.gaussian_pixel(2),
    "discretized_logistic": lambda: likelihoods.discretized_logistic(2, 256),
    "logistic_mixture": lambda: likelihoods.logistic_mixture(2, 256, 3),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_is_drawn_by_its_own_key(kind, assert_mean):
    """Alone as among others, another for another key; and on average, the mean."""
    likelihood, count = KINDS[kind](), 3000
    one = 0.3 * jax.random.normal(jax.random.key(1), (1, 2, 2, likelihood.values))
    keys = jax.random.split(jax.random.key(2), count)

    def drawn(raw, keys):
        return draw_rows(likelihood.distribution(likelihood.init(), raw), keys)

    found = np.asarray(jax.jit(drawn)(jnp.repeat(one, count, 0), keys))
    assert found.shape == (count, 2, 2, 2)
    np.testing.assert_allclose(drawn(one, keys[5:6])[0], found[5], rtol=1e-5, atol=1e-6)
    assert (found[0] != found[1]).any()
    if kind not in ("discretized_logistic", "logistic_mixture"):  # their mean is a median
        mean = likelihood.distribution(likelihood.init(), one).mean[0]
        assert_mean(found, mean, rounding=1e-6)


def test_what_rows_share_is_shared_whatever_its_size():
    """A variance of each line of pixels, where there are as many examples as lines."""
    lines = jnp.array([0.1, 1.0, 9.0])
    p = Normal(jnp.zeros((3, 3, 400)), jnp.log(lines)[:, None])
    with jax.numpy_rank_promotion("allow"):
        x = draw_rows(p, jax.random.split(jax.random.key(0), 3))
    np.testing.assert_allclose(np.square(x).mean((0, 2)), lines, rtol=0.25)


@pytest.fixture(scope="module")
def run(trained):
    return flaxvae.load(str(trained))  # its likelihood is Bernoulli


def test_samples_are_draws_around_their_means(run, assert_mean):
    means, drawn = run.sample(8, seed=3), run.sample(8, seed=3, draw_pixels=True)
    assert set(np.unique(drawn)) == {0, 1} and not set(np.unique(means)) <= {0, 1}
    np.testing.assert_array_equal(run.sample(5, seed=3, draw_pixels=True), drawn[:5])
    assert (run.sample(8, seed=4, draw_pixels=True) != drawn).any()
    z = np.repeat(np.float32([[0.5, -1.0]]), 2000, 0)
    many = run.decode(z, draw_pixels=True)
    assert_mean(many, run.decode(z[:1])[0], rounding=5 / 2000)


def test_a_reconstruction_depends_on_its_image_alone(run):
    x = run.data().test.images(slice(9))
    drawn = run.reconstruct(x, draw_pixels=True)
    np.testing.assert_array_equal(run.reconstruct(x[::-1], draw_pixels=True), drawn[::-1])
    assert set(np.unique(drawn)) == {0, 1}
    assert (run.reconstruct(x, draw_pixels=True, seed=1) != drawn).any()


def test_commands_show_draws_and_say_so(trained, monkeypatch, capsys):
    seen, plain = {}, figures.draw

    def draw(name, path, found):
        seen[name] = found
        return path

    monkeypatch.setattr(figures, "draw", draw)
    for command in ("sample", "reconstruct", "figures"):
        only = ["--only", "samples,reconstructions"] * (command == "figures")
        cli.main([command, str(trained), "--draw-pixels", *only])
        for name in [name for name in ("samples", "reconstructions") if name in seen]:
            shown = seen.pop(name)
            assert "drawn from p(x|z)" in shown.title
            images = shown.images if name == "samples" else shown.reconstructions
            assert set(np.unique(images)) == {0, 1}
    assert "samples-draw_pixels.png" in capsys.readouterr().out and plain is not draw
    with pytest.raises(SystemExit):
        cli.main(["figures", str(trained), "--only", "curves", "--draw-pixels"])
    assert "--draw-pixels has no effect on curves" in capsys.readouterr().err
