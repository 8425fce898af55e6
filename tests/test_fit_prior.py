"""A codebook's second stage: no samples before its prior is fitted, a tighter bound after."""

import json
import math
import os
import shutil
import signal

import numpy as np
import pytest

import flaxvae
from conftest import TINY
from flaxvae import cli
from flaxvae.code_prior import fit_prior
from flaxvae.errors import Stopped, UsageError
from flaxvae.runs.contents import digest
from flaxvae.runs.folder import write_json
from flaxvae.settings import TrainSettings
from flaxvae.training import observers

CODES, POSITIONS = 8, 16
SETTINGS = TrainSettings(epochs=4, learning_rate=3e-3, devices=1)


@pytest.fixture(scope="module")
def unfitted(tmp_path_factory):
    own = {"codes": CODES, "code_dim": 4, "prior_width": 16, "prior_layers": 1}
    path = tmp_path_factory.mktemp("runs") / "vq"
    choices = {k: v for k, v in TINY.items() if k != "latent_dim"}
    return flaxvae.train(progress=False, model="vq_vae", epochs=20, run=str(path), **choices, **own)


@pytest.fixture(scope="module")
def fitted(unfitted, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "fitted"
    shutil.copytree(unfitted.path, path)
    return fit_prior(path, SETTINGS)


@pytest.fixture
def no_samples(monkeypatch):
    """Fits end without samples and their figure."""
    monkeypatch.setattr("flaxvae.code_prior.shown.samples", lambda run: None)
    monkeypatch.setattr("flaxvae.code_prior.figures.draw", lambda *arguments: None)


def test_no_samples_before_the_prior(unfitted, capsys):
    assert not unfitted.generates
    assert "samples.png" not in {path.name for path in unfitted.folder.figures.iterdir()}
    before = sorted(unfitted.path.rglob("*"))
    with pytest.raises(UsageError, match=r"no prior yet: .*run `flaxvae fit-prior"):
        unfitted.sample(3)
    with pytest.raises(SystemExit) as stop:
        cli.main(["sample", str(unfitted.path)])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.count("\n") == 1 and "flaxvae fit-prior" in said
    with pytest.raises(SystemExit):
        cli.main(["traverse", str(unfitted.path)])
    assert "discrete latents" in capsys.readouterr().err
    assert sorted(unfitted.path.rglob("*")) == before


def test_the_bound_has_the_prior_in_it(unfitted, fitted):
    test = unfitted.data().test
    before, after = (run.evaluate(test) for run in (unfitted, fitted))
    np.testing.assert_allclose(before.kl, POSITIONS * math.log(CODES), rtol=1e-6)
    assert after.reconstruction == before.reconstruction
    assert after.kl < before.kl - 0.5  # codes are far from independent and uniform
    summary = json.loads((fitted.path / "prior" / "summary.json").read_text())
    np.testing.assert_allclose(after.kl, summary["test"]["code_nats"], rtol=1e-5)
    # The posterior is a point: one importance weight says all.
    estimate = fitted.evaluate(test, k=2).importance_weighted_elbo.nats
    np.testing.assert_allclose(estimate, after.elbo, rtol=1e-5)
    indices = np.asarray(unfitted.recipe.codes.indices(unfitted.variables, test.x / 16.0, None))
    used = np.bincount(indices.ravel(), minlength=CODES) / indices.size
    assert before.codes_used == (used > 0).sum()
    entropy = -sum(p * math.log(p) for p in used if p)
    np.testing.assert_allclose(before.perplexity, math.exp(entropy), rtol=1e-5)


def test_a_stopped_fit_says_how_to_go_on(unfitted, tmp_path, monkeypatch):
    class Stop(observers.Quiet):
        def progress(self, step, metrics, images_per_second):
            os.kill(os.getpid(), signal.SIGTERM)

    path = shutil.copytree(unfitted.path, tmp_path / "run")
    monkeypatch.setattr(observers, "Quiet", Stop)
    with pytest.raises(Stopped, match=rf"saved; resume with `flaxvae fit-prior {path}`"):
        fit_prior(path, SETTINGS)


def test_samples_are_decoded_codes(fitted):
    assert fitted.generates
    samples = fitted.sample(50, seed=1)
    np.testing.assert_array_equal(samples, fitted.sample(50, seed=1))
    assert (samples != fitted.sample(50, seed=2)).any()
    np.testing.assert_array_equal(
        fitted.sample(3, temperature=0.0)[:1].repeat(3, 0), fitted.sample(3, temperature=0.0)
    )
    z = fitted.recipe.model.prior_sample(fitted.variables, *_key_and_number(), None, 1.0)
    rows = np.asarray(z).reshape(-1, 4)
    codebook = np.asarray(fitted.variables["codebook"]["embedding"])
    nearest = np.abs(rows[:, None] - codebook[None]).max(-1).min(1)
    np.testing.assert_allclose(nearest, 0.0, atol=1e-6)
    assert (fitted.folder.figures / "samples.png").exists()


def _key_and_number():
    import jax

    return jax.random.key(0), 6


def test_a_fit_goes_on_where_it_was_stopped(unfitted, fitted, tmp_path, no_samples):
    path = tmp_path / "again"
    shutil.copytree(unfitted.path, path)
    fit_prior(path, TrainSettings(epochs=2, learning_rate=3e-3, devices=1))
    again = fit_prior(path, SETTINGS)
    assert digest(again.variables["prior"]) == digest(fitted.variables["prior"])
    with pytest.raises(UsageError, match=r"fit-prior with other settings .*learning_rate.*remove"):
        fit_prior(path, TrainSettings(epochs=4, devices=1))


def test_a_prior_of_other_weights_is_not_used(unfitted, fitted, tmp_path, no_samples):
    path = tmp_path / "other"
    shutil.copytree(fitted.path, path)
    record = json.loads((path / "prior" / "run.json").read_text())
    write_json(path / "prior" / "run.json", record | {"model_sha256": "0" * 64})
    assert not flaxvae.load(path).generates
    assert fit_prior(path, SETTINGS).generates


def test_latest_still_points_to_the_run(fitted):
    assert not (fitted.path / "latest").exists()
