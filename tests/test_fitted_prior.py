"""A prior fitted to codes: its density against scipy's, known mixtures found again; in a run."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import flaxvae
from conftest import TINY, encrypted
from flaxvae import cli
from flaxvae.analysis import fitted_prior, mixtures
from flaxvae.errors import DataError, DivergedError, UsageError
from flaxvae.latent_prior import fit_prior
from flaxvae.runs import fitted
from flaxvae.trained import Trained

WEIGHTS = np.array([0.5, 0.3, 0.2])
MEANS = np.array([[0.0, 0.0], [6.0, 1.0], [-3.0, 7.0]])
SPREADS = np.array([[[1.0, 0.8], [0.8, 1.0]], [[0.5, 0.0], [0.0, 2.0]], [[2.0, -1.0], [-1.0, 1.0]]])


@pytest.fixture(scope="module")
def points():
    rng = np.random.default_rng(0)
    which = rng.choice(3, 3000, p=WEIGHTS)
    noise = rng.standard_normal((3000, 2))
    return MEANS[which] + np.einsum("nij,nj->ni", np.linalg.cholesky(SPREADS)[which], noise)


def test_a_gaussian_has_the_moments_of_the_codes(points):
    found = mixtures.fit(points * [1.0, 100.0], 1)
    np.testing.assert_allclose(found.mean[0], (points * [1.0, 100.0]).mean(0), rtol=1e-5)
    covariance = found.cholesky[0] @ found.cholesky[0].T
    expected = np.cov((points * [1.0, 100.0]).T, bias=True)
    np.testing.assert_allclose(covariance, expected, rtol=1e-5)


def test_a_mixture_finds_the_components_that_made_the_codes(points):
    found = jax.tree.map(np.asarray, mixtures.fit(points, 3))
    order = [int(np.square(found.mean - mean).sum(1).argmin()) for mean in MEANS]
    assert sorted(order) == [0, 1, 2]
    np.testing.assert_allclose(np.exp(found.log_weights)[order], WEIGHTS, atol=0.03)
    np.testing.assert_allclose(found.mean[order, :], MEANS, atol=0.2)
    factors = found.cholesky[order]
    np.testing.assert_allclose(factors @ factors.swapaxes(1, 2), SPREADS, atol=0.25)


def test_a_density_is_that_of_scipy(points):
    found = mixtures.fit(points, 3)
    parts = [
        np.exp(weight) * stats.multivariate_normal(mean, factor @ factor.T).pdf(points[:50])
        for weight, mean, factor in zip(*map(np.float64, found), strict=True)
    ]
    expected = np.log(np.sum(parts, 0))
    got = mixtures.log_prob(found, jnp.asarray(points[:50], jnp.float32))
    np.testing.assert_allclose(got, expected, atol=1e-3)


def test_draws_have_the_moments_of_the_mixture(points, assert_mean):
    found = mixtures.fit(points, 3)
    drawn = np.float64(mixtures.sample(found, jax.random.key(0), 4096))
    mean = points.mean(0)  # EM keeps the mean and the covariance of what it is fitted to
    assert_mean(drawn, mean, 1e-4)
    assert_mean(
        (drawn - mean)[:, 0] * (drawn - mean)[:, 1], np.cov(points.T, bias=True)[0, 1], 1e-2
    )
    still = mixtures.sample(found, jax.random.key(0), 50, 0.0)
    nearest = np.abs(np.asarray(still)[:, None] - np.asarray(found.mean)[None]).max(-1).min(1)
    assert nearest.max() == 0


@pytest.mark.slow
def test_a_flow_is_a_density_and_better_than_a_gaussian():
    rng = np.random.default_rng(1)
    angle = np.pi * rng.random(1500)
    ring = 3 * np.stack([np.cos(angle), np.sin(angle)], 1) + 0.3 * rng.standard_normal((1500, 2))
    flow = fitted_prior.fit(ring, "flow", epochs=12, learning_rate=3e-3)
    side = np.linspace(-9.0, 9.0, 91, dtype=np.float32)
    grid = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
    log_p = np.asarray(fitted_prior.log_prob(flow, jnp.asarray(grid)), np.float64)
    np.testing.assert_allclose(np.exp(log_p).sum() * 0.2**2, 1.0, atol=0.02)
    gaussian = fitted_prior.fit(ring, "gaussian")
    log_q = np.asarray(fitted_prior.log_prob(gaussian, jnp.asarray(ring, jnp.float32)))
    gain = fitted_prior.improvement(flow, ring.astype(np.float32), log_q)
    assert gain.gain > 0.3  # nats
    drawn = np.asarray(fitted_prior.sample(flow, jax.random.key(0), 512))
    inside = fitted_prior.log_prob(gaussian, jnp.asarray(drawn)).mean()
    np.testing.assert_allclose(inside, log_q.mean(), atol=0.3)


@pytest.mark.parametrize(
    "shape, kind, said",
    [
        ((5, 2), "mixture", "5 images for 10 Gaussians: expected at least 10"),
        ((5, 2), "flow", "5 images for a flow: expected at least 20"),
        ((1, 2), "gaussian", "1 image for 1 Gaussian: expected at least 2"),
        ((40, 1), "flow", "two latent dimensions"),
        ((4, 600), "gaussian", "600 dimensions: expected at most 512"),
    ],
)
def test_codes_that_do_not_do(shape, kind, said):
    with pytest.raises(UsageError, match=said):
        fitted_prior.fit(np.zeros(shape), kind)


def test_a_flow_that_is_not_trained_is_none():
    codes = np.random.default_rng(0).normal(size=(40, 2))
    with pytest.raises(UsageError, match="0 epochs for a flow"):
        fitted_prior.fit(codes, "flow", epochs=0)
    with pytest.raises(DivergedError, match=r"diverged in epoch . of 3.*than 1e.20"):
        fitted_prior.fit(codes, "flow", epochs=3, batch_size=8, learning_rate=1e20)


def test_a_constant_unit_does_no_harm():
    codes = np.random.default_rng(0).standard_normal((300, 3)) * [1.0, 0.0, 1e-3] + [0.0, 5.0, 0.0]
    prior = fitted_prior.fit(codes, "mixture", components=2)
    drawn = np.asarray(fitted_prior.sample(prior, jax.random.key(0), 64))
    assert np.isfinite(drawn).all() and np.abs(drawn[:, 1] - 5).max() < 0.1


# ---- in a run


@pytest.fixture(scope="module")
def with_prior(trained, tmp_path_factory):
    path = shutil.copytree(trained, tmp_path_factory.mktemp("fitted") / "run")
    return fit_prior(path, components=3)


def test_samples_come_from_the_fitted_prior(with_prior, trained):
    own, before = with_prior.sample(4, prior="own"), flaxvae.load(trained)
    np.testing.assert_array_equal(own, before.sample(4))
    again = flaxvae.load(with_prior.path)
    np.testing.assert_array_equal(again.sample(4), with_prior.sample(4))
    assert np.abs(again.sample(4) - own).max() > 1e-3
    np.testing.assert_array_equal(again.sample(4), again.sample(7)[:4])
    key = jax.random.key(5)
    z = np.asarray(fitted_prior.sample(again.fitted, key, 4, 0.5))
    drawn = again.sample(4, seed=5, temperature=0.5)
    np.testing.assert_allclose(drawn, again.decode(z), rtol=1e-5, atol=1e-6)
    with pytest.raises(
        UsageError, match=r"no prior is fitted to the codes.*run `flaxvae fit-prior"
    ):
        before.sample(2, prior="fitted")
    assert (with_prior.path / "figures" / "fitted_prior.png").exists()


def test_the_gain_is_that_of_the_bound(with_prior):
    """E[log p(x|z) + log p(z) - log q(z|x)] with either prior, on the same draws."""
    test, model = with_prior.data().test, with_prior.recipe.model
    split = with_prior.split(test)
    other = jax.random.fold_in(jax.random.key(0), 2**32 - 1)
    z = jnp.asarray(with_prior._programs.draw(split, with_prior.variables, other, None))
    fitted_to = np.asarray(with_prior.posterior_draws(split))
    apart = z - with_prior.encode(split), fitted_to - with_prior.encode(split)
    assert abs(np.corrcoef(*map(np.ravel, apart))[0, 1]) < 0.2  # not the noise of the fit
    own = stats.norm.logpdf(np.float64(z)).sum(1)
    np.testing.assert_allclose(model.prior_log_prob(with_prior.variables, z), own, rtol=1e-4)
    gain = with_prior.prior_gain(test)
    fitted_nats = np.float64(fitted_prior.log_prob(with_prior.fitted, z))
    np.testing.assert_allclose(gain.gain, (fitted_nats - own).mean(), atol=1e-4)
    record = fitted.read(with_prior.path / "prior.npz")[1]
    assert record["test_gain"] == gain.gain and record["images"] == len(with_prior.data().train.x)


def test_a_prior_fits_one_set_of_parameters(with_prior, tmp_path, capsys):
    path = shutil.copytree(with_prior.path, tmp_path / "run")
    other = fitted_prior.fit(np.random.default_rng(0).standard_normal((50, 2)), "gaussian")
    moved = jax.tree.map(lambda leaf: leaf + 1, with_prior.variables)
    fitted.write(path / "prior.npz", other, moved, {"images": 50, "seed": 0})
    run = flaxvae.load(path)
    assert run.score(run.data().test.x[:2]).shape == (2,)  # which needs no prior of codes
    with pytest.raises(
        DataError, match=r"prior.npz was fitted to other parameters.*--prior own|own"
    ):
        run.sample(2)
    before = sorted(path.rglob("*"))
    with pytest.raises(SystemExit) as stop:
        cli.main(["sample", str(path)])
    said = capsys.readouterr().err
    assert stop.value.code == 3 and said.count("\n") == 1 and "--prior own" in said
    assert sorted(path.rglob("*")) == before
    assert run.sample(2, prior="own").shape == (2, 8, 8, 1)
    anew = run.fit_prior(run.data().train, kind="gaussian")  # in memory alone
    assert anew.sample(2).shape == (2, 8, 8, 1) and run.fitted is None
    cli.main(["verify", str(path)])
    assert "not used" in capsys.readouterr().out
    assert fit_prior(path, "gaussian").fitted.kind == "gaussian"


def test_a_damaged_prior_is_refused(with_prior, tmp_path, capsys):
    path = shutil.copytree(with_prior.path, tmp_path / "run")
    whole = (path / "prior.npz").read_bytes()
    with np.load(path / "prior.npz") as file:
        arrays = dict(file)
    arrays["mean"] = arrays["mean"] + 1
    np.savez(path / "prior.npz", **arrays)
    with pytest.raises(DataError, match=r"its arrays are not those .*fit it again"):
        flaxvae.load(path).sample(1)
    for damaged in (whole[: len(whole) // 2], encrypted(whole)):
        (path / "prior.npz").write_bytes(damaged)
        with pytest.raises(SystemExit) as stop:
            cli.main(["verify", str(path)])
        assert stop.value.code == 3 and "prior.npz" in capsys.readouterr().err


def test_from_the_command_line(trained, tmp_path, capsys):
    path = shutil.copytree(trained, tmp_path / "run")
    cli.main(["fit-prior", str(path), "--prior", "gaussian"])
    out = capsys.readouterr().out
    assert "Gaussian fitted to the codes" in out and "nats" in out
    cli.main(["sample", str(path), "--n", "4"])
    found = capsys.readouterr()
    assert found.out.strip().endswith("samples-n-4-prior-fitted.png") and "--prior own" in found.err
    cli.main(["verify", str(path)])
    assert "gaussian over 2 dimensions" in capsys.readouterr().out
    about = json.loads(str(np.load(path / "prior.npz")["about"]))
    assert about["kind"] == "gaussian" and about["components"] == 1


def test_a_prior_of_a_model_in_no_folder(trained):
    run = flaxvae.load(trained)
    x = np.random.default_rng(0).random((40, 8, 8))
    model = Trained(run.recipe, run.variables)
    with pytest.raises(UsageError, match="call fit_prior first"):
        model.sample(1, prior="fitted")
    assert model.fit_prior(x, components=2).sample(3).shape == (3, 8, 8, 1)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["ae", "cvae", "ladder_vae", "flow_vae", "vamp_vae"])
def test_models_of_all_kinds(model, tmp_path):
    choices = {k: v for k, v in TINY.items() if k != "latent_dim" or model != "ladder_vae"}
    own = {"latent_dims": (2, 2)} if model == "ladder_vae" else {}
    path = str(tmp_path / "run")
    flaxvae.train(progress=False, model=model, epochs=2, run=path, **choices, **own)
    for kind in ("mixture", "flow"):
        run = fit_prior(path, kind, **({"epochs": 2} if kind == "flow" else {}))
        assert np.isfinite(run.sample(5)).all()


def test_discrete_latents_have_no_such_prior():
    recipe = flaxvae.gumbel_vae(flaxvae.DataSpec("x", (8, 8, 1)))
    with pytest.raises(UsageError, match="discrete latents: expected continuous"):
        Trained(recipe, {"params": {}}).fit_prior(np.zeros((20, 8, 8)))
