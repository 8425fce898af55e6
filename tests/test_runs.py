"""Run folders and what is loaded from them, against direct computation."""

import dataclasses
import errno
import json
import math
import os
import shlex
from concurrent import futures

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

import flaxvae
from conftest import TINY
from flaxvae import api, cli, core
from flaxvae import plan as planning
from flaxvae.data import pipeline
from flaxvae.devices import batches, mesh
from flaxvae.errors import DataError, UsageError
from flaxvae.runs import contents, events, fresh
from flaxvae.runs.folder import RunFolder
from flaxvae.settings import DataSettings, TrainSettings
from flaxvae.training import optimizers
from flaxvae.training import step as steps

pytestmark = pytest.mark.usefixtures("no_figures")
QUICK = "--net mlp --widths 8 --devices 1 --epochs 0"
PEAK = 16  # of digits: white as scikit-learn stores it


@pytest.fixture(scope="module")
def run(trained):
    return flaxvae.load(trained)


@pytest.fixture(scope="module")
def raw():
    """Test images as stored, uint8 [360, 8, 8, 1]."""
    return pipeline.prepare(DataSettings()).test.x


def read(path):
    return json.loads(path.read_text())


def train(folder, epochs=1, model="vae", **choices):
    return flaxvae.train(
        progress=False, model=model, epochs=epochs, run=str(folder / "run"), **{**TINY, **choices}
    )


# ---- the folder


def test_what_a_run_folder_holds(trained):
    record, summary = read(trained / "run.json"), read(trained / "summary.json")
    assert record["format"] == 1 and record["model"] == "vae"
    assert record["arguments"]["latent_dim"] == 2 and record["arguments"]["widths"] == [32]
    assert record["data"]["dataset"] == "digits" and record["peak"] == PEAK
    assert record["training"]["epochs"] == 2 and record["training"]["batch_size"] == 128
    assert record["data_spec"]["shape"] == [8, 8, 1] and record["devices"] == "1 x cpu"
    assert record["versions"]["jax"] == jax.__version__ and "nats" in record["units"]
    # 64 -> 32 -> 2 x 2 heads, 2 -> 32 -> 64, with biases
    assert record["parameters"] == 65 * 32 + 33 * 4 + 3 * 32 + 33 * 64
    assert summary["epochs"] == 2 and summary["data"] == "digits, pixels in [0, 1]"
    assert summary["test"]["images"] == 360 and len(summary["parameters_sha256"]) == 64
    names = {path.stem for path in (trained / "figures").iterdir()}
    assert {"reconstructions", "samples", "latent_scatter", "manifold", "curves"} <= names


def test_metrics_are_one_row_an_epoch(trained):
    rows = RunFolder(trained).history()
    assert [row["epoch"] for row in rows] == [1, 2]
    assert [row["step"] for row in rows] == [1317 // 128, 2 * (1317 // 128)]
    for row in rows:
        assert all(math.isfinite(value) for value in row.values())
        assert row["train_loss"] == pytest.approx(-row["train_elbo"])
        assert -row["train_elbo"] == pytest.approx(row["train_reconstruction"] + row["train_kl"])
        bound = row["validation_reconstruction"] + row["validation_kl"]
        assert -row["validation_elbo"] == pytest.approx(bound)
        assert row["learning_rate"] == pytest.approx(1e-3) and row["images_per_second"] > 0
    assert rows[1]["train_loss"] < rows[0]["train_loss"]


def test_a_cut_off_last_line_of_metrics_does_not_count(tmp_path):
    folder = RunFolder(tmp_path)
    lines = ['{"epoch": 1, "step": 9}', '{"epoch": 2, "step": 18}']
    (tmp_path / "metrics.jsonl").write_text("\n".join([*lines, '{"epo']))
    assert folder.history() == [json.loads(line) for line in lines]
    assert folder.rewind(1) == [json.loads(lines[0])]
    assert (tmp_path / "metrics.jsonl").read_text() == lines[0] + "\n"


def test_latest_is_a_relative_link_to_the_newest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = flaxvae.make_plan()
    made = []
    for _ in range(2):  # in the same second, most likely
        path = fresh.make_new("digits-vae")
        RunFolder.create(path, plan, {})
        assert fresh.point_latest(path) == ""
        made.append(path)
        latest = tmp_path / "runs" / "latest"
        assert latest.readlink().as_posix() == path.name
        assert RunFolder.open("runs/latest").path == path.resolve()
    assert made[0] != made[1]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "latest").mkdir()  # a folder of that name is left alone
    assert fresh.point_latest(tmp_path / "mine" / "a") == ""
    assert not (tmp_path / "mine" / "latest").is_symlink()
    assert {p.name for p in (tmp_path / "runs").iterdir()} == {*(p.name for p in made), "latest"}


def test_starts_at_the_same_time_get_names_of_their_own(tmp_path):
    with futures.ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: fresh.make_new("digits-vae", tmp_path / "runs"), range(40)))
    assert len({*made}) == 40 and all(path.is_dir() for path in made)
    with pytest.raises(OSError, match="directory"):
        (tmp_path / "file").write_text("")
        fresh.make_new("digits-vae", tmp_path / "file")


def test_where_there_are_no_symbolic_links(tmp_path, monkeypatch, capsys):
    """As on some network disks: a run all the same, and one line."""

    def refuse(*arguments, **options):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "symlink", refuse)
    monkeypatch.chdir(tmp_path)
    cli.main(["train", *QUICK.split()])
    out = " ".join(capsys.readouterr().out.split())
    assert out.count("no runs/latest (Operation not permitted): use its folder") == 1
    (path,) = (tmp_path / "runs").iterdir()  # and nothing else
    assert flaxvae.load(path)


def test_commands_can_be_pasted(tmp_path, monkeypatch, capsys):
    """Of a run whose name a shell would take apart."""
    monkeypatch.chdir(tmp_path)
    name = "my 'run' (1); $HOME"
    line = ["train", *QUICK.split(), "--run"]
    cli.main([*line, name])
    said = [x.strip() for x in capsys.readouterr().out.partition("Next:")[2].splitlines()]
    commands = [shlex.split(x) for x in said if "flaxvae" in x]
    assert len(commands) >= 3 and all(name in words for words in commands)
    with pytest.raises(SystemExit):
        cli.main([*line, name])
    err = capsys.readouterr().err
    assert shlex.split(err.split("`")[1]) == ["flaxvae", "train", "--resume", name]
    resuming = RunFolder(tmp_path / name).resuming
    assert shlex.split(resuming) == ["flaxvae", "train", "--resume", str(tmp_path / name)]


def test_a_plan_survives_the_folder(tmp_path):
    plan = flaxvae.make_plan(
        "beta_vae", net="mlp", widths=[5, 3], beta=2, ema=0.5, binarization="fixed"
    )
    assert RunFolder.create(tmp_path / "r", plan, {}).plan() == plan


# ---- the loaded model


def test_loaded_variables_are_those_that_were_trained(run, trained):
    recorded = read(trained / "summary.json")["parameters_sha256"]
    assert contents.digest(jax.device_get(run.variables["params"])) == recorded


@pytest.mark.parametrize("values", [batches.VALUES, 6 * 64, 1])
def test_each_function_equals_the_models_own(run, raw, monkeypatch, values):
    """However few images are computed at once."""
    monkeypatch.setattr(batches, "VALUES", values)
    raw = raw if values > 64 else raw[:40]
    model, variables = run.recipe.model, run.variables
    x = jnp.asarray(raw, jnp.float32) / PEAK
    features = model.encode(variables, x)
    decoded = model.decode(variables, features["mean"])
    close = {"rtol": 1e-5, "atol": 1e-5}
    np.testing.assert_allclose(run.encode(raw), features["mean"], **close)
    np.testing.assert_allclose(run.decode(features["mean"]), decoded.mean, **close)
    np.testing.assert_allclose(run.reconstruct(raw), decoded.mean, **close)
    z = np.asarray(model.prior_sample(variables, jax.random.key(3), 5))
    np.testing.assert_allclose(run.sample(5, seed=3), model.decode(variables, z).mean, **close)
    half = model.decode(variables, z / 2).mean
    np.testing.assert_allclose(run.sample(5, seed=3, temperature=0.5), half, **close)
    # The score is random: compare it with other draws of the ELBO, image by image.
    n = 100
    keys = jax.random.split(jax.random.key(99), n)
    bound = jax.vmap(lambda key: core.elbo(model, variables, key, core.Batch(x)).elbo)
    draws = jax.jit(bound)(keys)
    error = (run.score(raw, samples=n) + draws.mean(0)) / (draws.std(0) * np.sqrt(2 / n))
    assert np.abs(error).max() < 6 and 0.8 < error.std() < 1.2


def test_images_that_hardly_differ_have_noise_of_their_own(run, raw):
    """And by their pixels, however they are stored."""
    x = np.repeat(raw[:1], 64, 0)
    pixel = x.reshape(64, 64)[np.arange(64), np.arange(64)]
    x.reshape(64, 64)[np.arange(64), np.arange(64)] = np.where(pixel > 0, pixel - 1, 1)
    score = run.score(x, samples=1)
    same = np.repeat(run.score(raw[:1], samples=200), 64)
    spread = np.std([run.score(raw[:1], samples=1, seed=seed)[0] for seed in range(64)])
    assert 0.6 * spread < np.std(score - same) < 1.7 * spread
    numbers = pipeline.fingerprints(pipeline.Split(x, None, PEAK))
    assert len(set(numbers)) == 64
    floats = pipeline.Split(np.float32(x / PEAK), None, 1.0)
    np.testing.assert_array_equal(pipeline.fingerprints(floats), numbers)
    other = pipeline.Split(x, np.ones(64, np.int32), PEAK)
    assert not set(pipeline.fingerprints(other)) & set(numbers)  # a label counts, too


def test_shapes_types_and_determinism(run, raw):
    x = raw[:7]
    expected = {"encode": (7, 2), "reconstruct": (7, 8, 8, 1), "score": (7,)}
    for name, shape in expected.items():
        found = getattr(run, name)(x)
        assert isinstance(found, np.ndarray) and found.dtype == np.float32
        assert found.shape == shape
        np.testing.assert_array_equal(found, getattr(run, name)(x))
    assert (run.score(x, seed=0) != run.score(x, seed=1)).all()
    images = run.sample(3)
    assert images.shape == (3, 8, 8, 1) and images.dtype == np.float32
    assert images.min() >= 0 and images.max() <= 1
    np.testing.assert_array_equal(images, run.sample(3))
    assert (images != run.sample(3, seed=1)).any()
    assert np.ptp(run.sample(3, temperature=0), axis=0).max() == 0
    assert run.encode(x[:1]).shape == (1, 2)


def test_images_at_once():
    """As many as asked for of small images; of large ones a power of two that fits."""
    assert batches.rows_at_once(10_000, (28, 28, 1)) == batches.rows_at_once(400, (8, 8, 1)) == 512
    assert batches.rows_at_once(100, (28, 28, 1)) == 128
    large = batches.rows_at_once(10_000, (128, 128, 3))
    assert large * 128 * 128 * 3 <= batches.VALUES < 2 * large * 128 * 128 * 3
    assert batches.rows_at_once(10_000, (4096, 4096, 3)) == 1
    assert batches.rows_at_once(10_000, (4096, 4096, 3), devices=3) == 3


def test_log_likelihood_of_few_images_at_once(run, raw, monkeypatch):
    split = run.split(raw[:20])
    found = []
    for values in (batches.VALUES, 6 * 64):
        monkeypatch.setattr(batches, "VALUES", values)
        found.append(run.evaluate(split, k=500).importance_weighted_elbo.nats)
    assert found[0] != found[1]  # other draws
    np.testing.assert_allclose(*found, atol=0.05)


def test_whole_numbers_are_divided_by_the_datasets_own_white(run, raw):
    assert raw.max() == PEAK
    floats = raw.astype(np.float64) / PEAK
    for name in ("encode", "reconstruct", "score"):
        found = getattr(run, name)(raw)
        np.testing.assert_array_equal(found, getattr(run, name)(floats))
        np.testing.assert_array_equal(found, getattr(run, name)(raw[..., 0]))  # [N, H, W]
        np.testing.assert_array_equal(found, getattr(run, name)(raw.astype(np.int64)))


@pytest.mark.parametrize("name", ["encode", "reconstruct", "score"])
def test_images_that_cannot_be(run, raw, name):
    function = getattr(run, name)
    x = raw[:2] / np.float32(PEAK)
    for wrong in (x[:, :4], x[0], x[:0], x.reshape(2, 64), x[..., 0, 0], np.float32(1)):
        with pytest.raises(UsageError, match=r"expected \[N, 8, 8, 1\]"):
            function(wrong)
    for bad in (np.nan, np.inf, -np.inf):
        with pytest.raises(DataError, match="NaN or infinite"):
            function(np.where(np.arange(8)[:, None] == 3, bad, x))
    for wrong, peak in ((x * 1.01, 1), (x - 0.01, 1), (raw[:2] + 1, PEAK), (-x, 1)):
        with pytest.raises(DataError, match=f"expected 0 to {peak}"):
            function(wrong)


def test_images_with_channels_first(run):
    colour = dataclasses.replace(
        run, recipe=run.recipe._replace(data=run.spec._replace(shape=(8, 8, 3)))
    )
    x = np.arange(2 * 3 * 8 * 8, dtype=np.uint8).reshape(2, 3, 8, 8) % 17
    last = np.moveaxis(x, 1, -1)
    for given in (x, last):  # of this shape there can be no doubt
        np.testing.assert_array_equal(colour.split(given).x, last)
    with pytest.raises(UsageError, match=r"expected \[N, 8, 8, 3\]"):
        colour.split(x[:, :, :7])


def test_latents_and_numbers_that_cannot_be(run):
    for z in (np.zeros(2), np.zeros((3, 1)), np.zeros((3, 3)), np.zeros((1, 3, 2))):
        with pytest.raises(UsageError, match=r"expected \[N, 2\]"):
            run.decode(z)
    for n, temperature in ((0, 1.0), (-1, 1.0), (1, -1.0), (1, math.nan), (1, math.inf)):
        with pytest.raises(UsageError):
            run.sample(n, temperature=temperature)


def test_a_run_without_checkpoints(tmp_path):
    RunFolder.create(
        tmp_path / "r",
        flaxvae.make_plan(net="mlp"),
        {"data_spec": {"name": "d", "shape": [8, 8, 1]}, "peak": 1.0},
    )
    with pytest.raises(DataError, match="no checkpoints"):
        flaxvae.load(tmp_path / "r")


# ---- choices


@pytest.mark.parametrize(
    ("how", "choices"),
    [("threshold", {"validation": 0}), ("fixed", {"model": "ae"}), ("dynamic", {"ema": 0.8})],
)
def test_binarized_runs(tmp_path, raw, how, choices):
    returned = train(tmp_path, binarization=how, **choices)
    run = flaxvae.load(tmp_path / "run")
    summary = read(tmp_path / "run" / "summary.json")
    for variables in (run.variables, returned.variables):
        digest = contents.digest(jax.device_get(variables["params"]))
        assert digest == summary["parameters_sha256"]
    assert run.spec.binary and "binarized" in summary["data"]
    if how != "ae" and run.recipe.has_bound:
        bits = -summary["test"]["elbo"] / (64 * math.log(2))
        assert summary["test"]["bits_per_dim"] == pytest.approx(bits)
    else:
        assert "bits_per_dim" not in summary["test"] and "elbo" not in summary["test"]
    # Images are made binary as the test images were, and binary ones stay as they are.
    seen = run.split(raw)
    assert set(np.unique(seen.x)) == {0, 1} and seen.peak == 1
    if how == "threshold":
        np.testing.assert_array_equal(seen.x, raw >= PEAK / 2)
    np.testing.assert_array_equal(run.encode(raw), run.encode(seen.x.astype(np.float32)))
    np.testing.assert_array_equal(run.split(seen.x.astype(np.float32)).x, seen.x)
    rows = run.folder.history()
    assert ("validation_reconstruction" in rows[0]) == (choices.get("validation") != 0)
    if choices.get("validation") == 0:
        assert not any(name.startswith("validation") for name in rows[0])
        assert rows[0]["step"] == 1437 // 128


def test_no_epochs_leaves_the_initial_weights(tmp_path):
    returned = train(tmp_path, epochs=0, seed=4, patience=1)
    run, summary = flaxvae.load(tmp_path / "run"), read(tmp_path / "run" / "summary.json")
    x = jnp.zeros((1, 8, 8, 1))
    initial = jax.jit(run.recipe.model.init)(steps.keys(4).init, x)
    for variables in (run.variables, returned.variables):
        jax.tree.map(np.testing.assert_array_equal, variables, initial)
    assert summary["epochs"] == 0 and math.isfinite(summary["test"]["elbo"])
    assert run.folder.history() == []


def test_ema_is_the_average_of_the_weights_after_each_step(tmp_path):
    decay = 0.9
    train(tmp_path, ema=decay, epochs=2)
    run = flaxvae.load(tmp_path / "run")
    data = run.data()
    trainer = steps.trainer(run.recipe, data, run.plan.training, mesh.make(1), 2)
    state = trainer.init()
    average = jax.tree.map(np.float64, state.variables["params"])
    for step in range(trainer.total_steps):
        state = trainer.segment(state, trainer.feed.at(step).rows, 1)
        average = jax.tree.map(
            lambda a, p: decay * a + (1 - decay) * np.float64(p), average, state.variables["params"]
        )
    last, loaded = state.variables["params"], run.variables["params"]
    for name, expected in flatten_dict(average).items():
        np.testing.assert_allclose(flatten_dict(loaded)[name], expected, atol=1e-6)
    assert contents.digest(last) != contents.digest(loaded)  # the last weights are others


def test_patience_stops_and_keeps_the_best(tmp_path):
    returned = train(tmp_path, patience=2, epochs=60, learning_rate=0.05)
    run = flaxvae.load(tmp_path / "run")
    values = [row["validation_elbo"] for row in run.folder.history()]
    best = int(np.argmax(values))
    assert len(values) < 60 and best == len(values) - 1 - 2  # stopped two epochs after the best
    validation = run.data().validation
    batch = core.Batch(jnp.asarray(validation.x, jnp.float32) / PEAK)
    key = jax.random.fold_in(steps.keys(0).evaluation, 0)
    bound = jax.jit(lambda variables: core.elbo(run.recipe.model, variables, key, batch).elbo)
    for variables in (run.variables, returned.variables):
        assert float(bound(variables).mean()) == pytest.approx(max(values), rel=1e-5)


def test_learning_rate_schedules(tmp_path):
    def rates(total, at, **settings):
        schedule = optimizers.learning_rate(TrainSettings(learning_rate=0.1, **settings), total)
        return [float(schedule(step)) for step in at]

    assert rates(100, [0, 50, 99]) == pytest.approx([0.1] * 3)
    cosine = [0.05 * (1 + math.cos(math.pi * step / 100)) for step in (0, 25, 50, 100, 150)]
    cosine[-1] = 0  # and stays there
    assert rates(100, [0, 25, 50, 100, 150], schedule="cosine") == pytest.approx(cosine, abs=1e-8)
    at = [0, 5, 10, 60, 110]
    both = rates(110, at, schedule="cosine", warmup_steps=10)
    assert both == pytest.approx([0, 0.05, 0.1, 0.05, 0], abs=1e-8)
    assert rates(110, at, warmup_steps=10) == pytest.approx([0, 0.05, 0.1, 0.1, 0.1])
    assert rates(5, [0, 4], schedule="cosine", warmup_steps=10) == pytest.approx([0, 0.04])
    train(tmp_path, epochs=2, schedule="cosine", warmup_steps=10, learning_rate=0.1)
    rows = flaxvae.load(tmp_path / "run").folder.history()
    last = 0.05 * (1 + math.cos(math.pi * 9 / 10))  # steps 9 and 19 of 0..19
    assert [row["learning_rate"] for row in rows] == pytest.approx([0.09, last])


def test_clip_norm_scales_the_gradient_before_adam():
    schedule = optax.constant_schedule(0.1)
    clipped = optimizers.optimizer(TrainSettings(clip_norm=1.0), schedule)
    plain = optimizers.optimizer(TrainSettings(), schedule)
    gradients = [
        {"a": jnp.array([3.0]), "b": jnp.array([4.0])},
        {"a": jnp.array([0.3]), "b": -1e-3 * jnp.ones(1)},
    ]
    by_hand = [jax.tree.map(lambda g: g / 5.0, gradients[0]), gradients[1]]  # norms 5 and 0.3
    params = {"a": jnp.zeros(1), "b": jnp.zeros(1)}

    def updates(optimizer, gradients):
        state, found = optimizer.init(params), []
        for gradient in gradients:
            change, state = optimizer.update(gradient, state, params)
            found += [float(change["a"][0]), float(change["b"][0])]
        return found

    assert updates(clipped, gradients) == pytest.approx(updates(plain, by_hand), rel=1e-5)
    assert updates(clipped, gradients) != pytest.approx(updates(plain, gradients), rel=1e-2)


def test_muon_steps_are_nearer_to_orthogonal_for_kernels_and_nadams_for_the_rest():
    schedule = optax.constant_schedule(0.1)
    shapes = {"kernel": (60, 40), "conv": {"kernel": (3, 3, 4, 8)}, "bias": (40,)}
    keys = iter(jax.random.split(jax.random.key(0), 3))
    gradient = jax.tree.map(
        lambda shape: jax.random.normal(next(keys), shape),
        shapes,
        is_leaf=lambda x: type(x) is tuple,
    )
    params = jax.tree.map(jnp.zeros_like, gradient)

    def first(optimizer):
        return optimizer.update(gradient, optimizer.init(params), params)[0]

    muon = first(optimizers.optimizer(TrainSettings(optimizer="muon"), schedule))
    np.testing.assert_allclose(muon["bias"], first(optax.nadam(schedule))["bias"], rtol=1e-5)
    for kernel, of in [
        (muon["kernel"], gradient["kernel"]),
        *zip(*[tree["conv"].values() for tree in (muon, gradient)]),
    ]:
        step, slope = (np.asarray(x, float).reshape(-1, x.shape[-1]) for x in (kernel, of))
        u, _, vt = np.linalg.svd(slope, full_matrices=False)
        polar = -0.1 * 0.2 * np.sqrt(max(step.shape)) * u @ vt  # the nearest orthogonal matrix
        assert np.vdot(step, polar) / np.vdot(polar, polar) == pytest.approx(1, abs=0.3)
        stretch = np.linalg.svd(step, compute_uv=False)
        spread = np.linalg.svd(slope, compute_uv=False)
        assert stretch.max() / stretch.min() < 0.9 * spread.max() / spread.min()


def test_muon_takes_a_convolutions_kernel_for_a_matrix():
    """[k, k, in, out] as [k k in, out], against the algorithm (Jordan et al. 2024) in float64."""
    optimizer = optimizers.muon(optax.constant_schedule(0.1))
    gradients = np.random.default_rng(1).normal(size=(2, 3, 3, 4, 8))
    params = {"conv": {"kernel": jnp.zeros((3, 3, 4, 8))}}
    state, momentum = optimizer.init(params), np.zeros((36, 8))
    for t, gradient in enumerate(gradients, 1):
        given = {"conv": {"kernel": jnp.float32(gradient)}}
        change, state = optimizer.update(given, state, params)
        slope = gradient.reshape(36, 8)
        momentum = 0.95 * momentum + 0.05 * slope
        ahead = 0.95 * momentum / (1 - 0.95 ** (t + 1)) + 0.05 * slope / (1 - 0.95**t)
        x = ahead / np.linalg.norm(ahead)
        for _ in range(3):
            square = x.T @ x
            x = 3.4445 * x + x @ (-4.7750 * square + 2.0315 * square @ square)
        expected = -0.1 * 0.2 * np.sqrt(36) * x
        found = np.asarray(change["conv"]["kernel"]).reshape(36, 8)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_singular_values_of_muons_steps():
    """What the docstring says: three iterations leave the smallest of a wide spectrum small."""
    random = np.random.default_rng(0).normal(size=(784, 200))
    u, _, vt = np.linalg.svd(random, full_matrices=False)
    optimizer = optimizers.muon(optax.constant_schedule(1.0))

    def stretch(matrix):
        gradient = {"kernel": jnp.float32(matrix)}
        params = jax.tree.map(jnp.zeros_like, gradient)
        step = optimizer.update(gradient, optimizer.init(params), params)[0]["kernel"]
        values = np.linalg.svd(np.float64(step), compute_uv=False) / (0.2 * np.sqrt(784))
        return values.min(), np.median(values), values.max()

    assert stretch(random) == pytest.approx((0.69, 1.07, 1.20), abs=0.01)
    wide = stretch(u * np.geomspace(1, 1e-4, 200) @ vt)
    assert wide == pytest.approx((0.0012, 0.12, 1.20), abs=0.005)


@pytest.mark.slow
def test_a_run_by_muon_resumes_to_the_same_bits(tmp_path):
    choices = TINY | {"optimizer": "muon", "shard_params": True, "devices": 2}
    whole = flaxvae.train(
        progress=False, model="vae", run=str(tmp_path / "whole"), **choices | {"epochs": 2}
    )
    flaxvae.train(progress=False, model="vae", run=str(tmp_path / "cut"), **choices | {"epochs": 1})
    more = planning.make_plan("vae", **choices | {"epochs": 2})
    cut = api.execute(more, resume=str(tmp_path / "cut"))
    assert jax.tree.all(jax.tree.map(np.array_equal, whole.variables, cut.variables))


@pytest.mark.parametrize(
    ("model", "devices", "own"),
    [
        ("gumbel_vae", 1, {"variables": 4, "temperature_rate": 0.01}),
        ("tc_vae", 2, {"latent_dim": 2}),
    ],
)
def test_a_training_in_parts_is_the_training(tmp_path, model, devices, own):
    """Its noise, its state and what its loss compares; Adam magnifies what rounding leaves."""
    choices = {**TINY, "epochs": 1, "batch_size": 64, "devices": devices}
    choices = {name: x for name, x in choices.items() if name != "latent_dim"} | own
    runs = [
        flaxvae.train(
            progress=False, model=model, run=str(tmp_path / str(count)), accumulate=count, **choices
        )
        for count in (1, 4)
    ]
    whole, parts = (run.variables for run in runs)
    chex.assert_trees_all_close(parts, whole, rtol=1e-3, atol=1e-4)
    rows = [json.loads((run.path / "metrics.jsonl").read_text()) for run in runs]
    np.testing.assert_allclose(rows[1]["train_loss"], rows[0]["train_loss"], rtol=1e-5)


def test_parts_of_a_batch_that_do_not_divide_it(tmp_path):
    with pytest.raises(UsageError, match="accumulate=3: expected a divisor of 64"):
        flaxvae.train(
            progress=False,
            model="ae",
            run=str(tmp_path / "run"),
            accumulate=3,
            **TINY | {"batch_size": 64},
        )
    assert not (tmp_path / "run").exists()


def test_tensorboard_groups_columns_by_the_split_they_are_of():
    columns = ["train_elbo", "validation_kl", "learning_rate", "images_per_second", "kl_weight"]
    assert [events.tag(column) for column in columns] == [
        "train/elbo",
        "validation/kl",
        "learning_rate",
        "images_per_second",
        "kl_weight",
    ]
