"""Slow: published numbers, and bounds against a truth, through the whole program."""

import os

import numpy as np
import pytest
from scipy import stats

import flaxvae
from flaxvae.analysis import bounds
from flaxvae.report import figures

pytestmark = pytest.mark.slow
needs_mnist = pytest.mark.skipif(
    "FLAXVAE_DATA_DIR" not in os.environ, reason="set FLAXVAE_DATA_DIR to a folder with MNIST"
)


@needs_mnist
def test_flax_example_is_reproduced(tmp_path):
    """784-500-20, 10 epochs: flax's log has 103.6 nats on the fixed binarization."""
    run = flaxvae.train(
        run=str(tmp_path / "run"),
        dataset="mnist",
        binarization="dynamic",
        validation=0.0,
        net="mlp",
        widths=(500,),
        epochs=10,
        devices=1,
    )
    assert -bounds.evaluate(run, run.data().test)["elbo"] <= 102.0


@needs_mnist
def test_tutorial_conv_net_reconstructs(tmp_path):
    run = flaxvae.train(run=str(tmp_path / "run"), dataset="mnist", epochs=5, devices=1)
    assert bounds.evaluate(run, run.data().test)["mse"] <= 0.012


def test_bounds_of_a_trained_linear_vae_rise_to_the_exact_likelihood(tmp_path):
    sigma = 0.2
    run = flaxvae.train(
        run=str(tmp_path / "run"),
        net="mlp",
        widths=(),
        latent_dim=8,
        likelihood="gaussian",
        sigma=sigma,
        epochs=1000,
        learning_rate=3e-3,
        schedule="cosine",
        devices=1,
    )
    test = run.data().test
    out = run.variables["params"]["decoder"]["out"]
    w, b = np.asarray(out["kernel"], np.float64), np.asarray(out["bias"], np.float64)
    x = figures.pixels(test, slice(None)).reshape(len(test.x), -1)
    exact = stats.multivariate_normal(b, w.T @ w + sigma**2 * np.eye(len(b))).logpdf(x).mean()
    found = [bounds.evaluate(run, test, samples=1000)["elbo"]]
    found += [bounds.evaluate(run, test, k=k)["log_likelihood"]["nats"] for k in (10, 100, 5000)]
    assert np.all(np.diff([*found, exact]) > 0)
    assert exact - found[-1] < 0.01
