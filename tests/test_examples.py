"""The scripts of examples/ run, and do what they say."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxvae as fv
from flaxvae import cli
from flaxvae.parts import objectives

FOLDER = Path(__file__).parents[1] / "examples"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py"))


def load(name):
    spec = importlib.util.spec_from_file_location(f"examples.{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def x():
    return jnp.asarray(load("own_loop").digits()[:8])


def small(data, **settings):
    """A small VAE: a recipe."""
    return fv.build("vae", data, net="mlp", widths=(16,), latent_dim=3, **settings)


DIGITS = fv.DataSpec("digits", (8, 8, 1))


def test_own_loop_learns_either_way(capsys):
    histories = load("own_loop").main(epochs=15)
    assert list(histories) == ["by_step", "by_epoch"]
    for history in histories.values():
        assert len(history) == 15 and history[-1] > history[0] + 8
    assert abs(histories["by_step"][-1] - histories["by_epoch"][-1]) < 1
    assert "-ELBO" in capsys.readouterr().out


def test_a_scanned_epoch_is_its_steps():
    import optax

    module = load("own_loop")
    x, recipe, optimizer = module.digits()[:300], small(DIGITS), optax.adam(1e-3)
    step, key = fv.update(recipe, optimizer), jax.random.key(7)

    def fresh():
        return fv.init(recipe, optimizer, jax.random.key(0), x[:2])

    scanned, _ = module.by_epoch(step, fresh(), key, x, epochs=1)
    order_key, noise_key = jax.random.split(jax.random.fold_in(key, 0))
    order = np.asarray(jax.random.permutation(order_key, len(x)))[: 2 * module.BATCH]
    state, compiled = fresh(), jax.jit(step)
    for rows, noise in zip(np.split(order, 2), jax.random.split(noise_key, 2), strict=True):
        state, _ = compiled(state, noise, fv.Batch(x[rows]))
    assert int(scanned.step) == int(state.step) == 2
    for one, other in zip(jax.tree.leaves(scanned), jax.tree.leaves(state), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_own_loss_is_the_houses_and_its_own_term(x):
    module, recipe = load("own_loss"), small(DIGITS)
    variables = jax.jit(recipe.model.init)(jax.random.key(0), x)
    key, step = jax.random.key(1), jnp.int32(0)
    (same,) = jax.random.split(key, 1)  # the house's loss draws any number of times

    def gradient(loss, key):
        def of(params):
            return loss({"params": params}, key, fv.Batch(x), step)

        return jax.jit(jax.value_and_grad(of, has_aux=True))(variables["params"])

    house = gradient(objectives.negative_elbo(recipe.model), key)
    own = gradient(module.edges(recipe.model, weight=0.0), same)
    for name in ("loss", "elbo", "reconstruction", "kl"):
        np.testing.assert_allclose(own[0][1][0][name], house[0][1][0][name], rtol=1e-5)
    for one, other in zip(jax.tree.leaves(own[1]), jax.tree.leaves(house[1]), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    heavier = jax.jit(module.edges(recipe.model, weight=2.0))(variables, same, fv.Batch(x), step)
    error = heavier[1][0]["edges"]
    np.testing.assert_allclose(heavier[0], own[0][0] + 2 * error, rtol=1e-5)


def test_own_loss_sharpens_edges():
    errors = load("own_loss").main(steps=200)
    assert errors[10.0] < 0.8 * errors[0.0]


def test_own_network_learns(x):
    module = load("own_network")
    history = module.main(steps=200)
    assert np.mean(history[-10:]) > history[0] + 20
    init = module.residual_vae(DIGITS).model.init
    variables = jax.eval_shape(init, jax.random.key(0), x)
    assert {"Block_0", "Dense_0"} <= variables["params"]["encoder"].keys()


def test_own_latent_learns():
    history = load("own_latent").main(steps=200)
    assert np.mean(history[-10:]) > history[0] + 8


def test_own_latents_kl_is_that_of_its_draws(assert_mean):
    """In closed form, against log q(z|x) - log p(z) of many draws; the prior against its draws."""
    latents = load("own_latent").laplace(3)
    heads = {
        "mean": jnp.array([[0.0, -1.5, 2.0], [0.3, 0.0, -4.0]]),
        "log_scale": jnp.array([[0.0, -1.0, 0.5], [-2.0, 0.7, 0.1]]),
    }
    keys = jax.random.split(jax.random.key(0), 20_000)
    drawn = jax.vmap(lambda key: latents.draw({}, key, heads, False))(keys)
    assert_mean(drawn.log_q - drawn.log_p, drawn.kl[0].sum(-1))
    np.testing.assert_allclose(drawn.log_p[0], latents.prior_log_prob({}, drawn.z[0]), rtol=1e-6)
    z = latents.prior_sample({}, jax.random.key(1), 50_000, 1.0)
    assert_mean(jnp.abs(z), 1.0)  # E|z| of Laplace(0, 1)


SMALL = {"net": "mlp", "widths": (16,), "latent_dim": 2, "middle": 5.0, "width": 2.0, "devices": 1}


def test_own_variant_is_a_model_like_any_other(tmp_path, no_figures, capsys):
    """In Python and from the command line alike: the same parameters, to the bit."""
    module = load("own_variant")
    python = fv.train("digits", model=module.sigmoid_vae, epochs=2, run="python", **SMALL)
    words = [f"--{name} {value}" for name, value in SMALL.items() if name not in ("widths",)]
    line = " ".join(["train --epochs 2 --run command --widths 16", *words]).replace("_", "-")
    cli.main([*line.split(), "--recipes", str(FOLDER / "own_variant.py"), "--model", "sigmoid_vae"])
    sealed = [
        json.loads((tmp_path / run / "summary.json").read_text())["parameters_sha256"]
        for run in ("python", "command")
    ]
    assert sealed[0] == sealed[1]
    last = np.asarray(python.history["step"]) - 1
    weight = 1 / (1 + np.exp(-(last - 5.0) / 2))
    np.testing.assert_allclose(python.history["kl_weight"], weight, rtol=1e-5)


def test_own_variant_is_loaded_by_its_name_and_function(no_figures):
    module = load("own_variant")
    run = module.main(epochs=1)
    assert run.recipe.schedules.keys() == {"kl_weight"}
    with pytest.raises(fv.errors.UsageError, match="sigmoid_vae"):
        fv.load(run.path)


def test_own_arrays_are_encoded_file_by_file(tmp_path, no_figures):
    module = load("own_arrays")
    written = module.main(tmp_path, epochs=2)
    assert [path.name for path in written] == [f"{i}.latents.npz" for i in range(10)]
    run = fv.load(tmp_path / "run")
    for path in written[:2]:
        found, images = np.load(path), np.load(path.with_name(f"{path.name[0]}.npy"))
        assert len(found["z"]) == len(found["score"]) == len(images)
        # An image's numbers are its own, in whichever file it is.
        np.testing.assert_allclose(found["z"][3:4], run.encode(images[3:4]), atol=1e-5)
        np.testing.assert_allclose(found["score"][3:4], run.score(images[3:4]), rtol=1e-4)
    assert module.main(tmp_path, str(tmp_path / "run")) == written


@pytest.mark.slow
def test_own_search_chooses_a_likelihood_and_finds_tumours(capsys):
    aurocs = load("own_search").main(epochs=60)
    assert min(aurocs.values()) > 0.8
    out = capsys.readouterr().out
    elbos = dict(re.findall(r"(gaussian\w*): -ELBO (-?[\d.]+)", out))
    best = min(elbos, key=lambda name: float(elbos[name]))
    assert len(elbos) == 3 and f"{best}: codes" in out and "vae3" in out


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_scripts_run_alone(name, tmp_path):
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": os.environ["FLAXVAE_TEST_CACHE"]}
    done = subprocess.run(
        [sys.executable, str(FOLDER / f"{name}.py")],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "-ELBO" in done.stdout and "Traceback" not in done.stderr
