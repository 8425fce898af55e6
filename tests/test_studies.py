"""The tables of experiments/ and of the README; slow: published numbers, through the program."""

import importlib
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from sklearn.datasets import load_digits

import flaxvae
from conftest import rare
from flaxvae import plan as planning
from flaxvae.analysis.features import Seen
from flaxvae.data.pipeline import Split
from flaxvae.recipe import DataSpec
from flaxvae.report import shown

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT))

from experiments import __main__ as experiments  # noqa: E402
from experiments import (  # noqa: E402
    ae_vs_vae,
    attributes,
    choices,
    colour,
    deep,
    depth,
    disentanglement,
    runs,
    table,
)
from experiments.__main__ import STUDIES  # noqa: E402

MODULES = {name: importlib.import_module(f"experiments.{name}") for name in STUDIES}
KEPT = {name: kept[0] for name in STUDIES if (kept := table.load(name)) is not None}
CHOICES = [
    pytest.param(name, what, choice, id=f"{name}, {what}")
    for name, module in MODULES.items()
    for what, choice in getattr(module, "CHOICES", {}).items()
]
every_study = pytest.mark.parametrize("name", KEPT)
needs_mnist = pytest.mark.skipif(
    "FLAXVAE_DATA_DIR" not in os.environ, reason="set FLAXVAE_DATA_DIR to a folder with MNIST"
)


def test_every_study_has_results():
    assert list(KEPT) == list(STUDIES)


def test_a_study_that_is_stopped_keeps_what_it_found(tmp_path, monkeypatch):
    """A row takes the place of the old one; the others stay until all are found."""
    monkeypatch.setattr(table, "HERE", tmp_path)
    old = [table.Row(quantity, "digits", "1 epoch", "2.0") for quantity in "ab"]
    table.save("study", old, minutes=3)
    new, last = (table.Row(quantity, "digits", "9 epochs", "1.0") for quantity in "bc")

    def stopped(epochs):
        yield new._replace(budget=f"{epochs} epochs")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        experiments.run("study", SimpleNamespace(study=stopped, BESIDE=[]), epochs=9)
    assert table.load("study")[:2] == ([old[0], new], 3)
    experiments.run("study", SimpleNamespace(study=lambda: [new, last], BESIDE=[]))
    assert table.load("study").rows == [new, last]


def test_rows_that_differ_in_their_budgets_alone_are_all_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "HERE", tmp_path)
    rows = [table.Row("a", "digits", f"{epochs} epochs", "2.0") for epochs in (10, 20, 40)]
    found = []
    for row in rows[:2]:  # of a study that was never run
        table.put("study", row, found)
        found.append(row)
    assert table.load("study").rows == rows[:2]
    better = rows[1]._replace(ours="1.0")
    table.put("study", better)  # of one that is run again, in another order
    assert table.load("study").rows == [rows[0], better]
    table.put("study", rows[2], [better])  # with another budget
    assert table.load("study").rows == [rows[2], better]


@pytest.mark.parametrize("asked", [["unknown"], ["anomaly", "--epochs", "3"], ["--epochs", "3"]])
def test_studies_refuse_what_they_cannot_do(asked, capsys):
    with pytest.raises(SystemExit) as stopped:
        experiments.main(asked)
    assert stopped.value.code == 2 and "expected" in capsys.readouterr().err


@every_study
def test_what_is_expected_is_of_one_row_and_bounded_on_both_sides(name):
    for expected in MODULES[name].BESIDE:
        assert sum(expected.is_of(row) for row in KEPT[name]) == 1, expected.quantity
        low, high = table.bounds(expected, KEPT[name])
        assert -np.inf < low < high < np.inf
        assert expected.why


@every_study
def test_results_lie_within_what_is_expected(name):
    assert table.misses(KEPT[name], MODULES[name].BESIDE) == []


@every_study
def test_a_number_far_too_good_is_missed_as_one_far_too_bad(name):
    for expected in MODULES[name].BESIDE:
        low, high = table.bounds(expected, KEPT[name])
        for wrong in (low - 10, high + 10):
            rows = [
                row._replace(ours=f"{wrong:.4f} ± 0.2") if expected.is_of(row) else row
                for row in KEPT[name]
            ]
            (missed,) = table.misses(rows, [expected])
            assert expected.quantity in missed and expected.why in missed


@pytest.mark.parametrize(
    ("ours", "numbers"),
    [("86.39 ± 0.23", [86.39]), ("13 of 50", [13]), ("14.13, 0.4", [14.13, 0.4]), ("9 %", [9])],
)
def test_numbers_of_a_row(ours, numbers):
    assert table.numbers(table.Row("", "", "", ours)) == numbers


def test_each_of_several_numbers_is_looked_at():
    row = table.Row("KL of each level", "", "", "16.74, 6.52, 0.02")
    assert table.misses([row], [table.Beside("KL of each level", 0.5, 30, "in use")])


@pytest.mark.parametrize(("name", "what", "choice"), CHOICES)
def test_a_study_takes_what_held_out_images_prefer(name, what, choice):
    outcomes = table.load_choices(name)[what]
    assert outcomes.keys() == choice.candidates.keys()
    assert (choice.rule(outcomes) == choice.chosen) != bool(choice.why_another)


@pytest.mark.parametrize(("name", "what", "choice"), CHOICES)
def test_candidates_are_settings_that_there_are(name, what, choice):
    for own in choice.candidates.values():
        settings = choices.settings(choice, own)
        settings.pop("initial_scales", None)
        assert planning.make_plan(choice.model, **settings).model == choice.model


@pytest.mark.parametrize("name", [name for name in MODULES if hasattr(MODULES[name], "runs")])
def test_studies_train_by_settings_that_there_are(name, monkeypatch):
    planned = []

    def train(run, model, **settings):
        planned.append(planning.make_plan(model, **settings))
        raise InterruptedError

    monkeypatch.setattr(runs, "train", train)
    with pytest.raises(InterruptedError):
        list(MODULES[name].study())
    assert len(planned) == 1


def test_candidates_are_compared_on_held_out_images_alone(monkeypatch):
    """They are not trained on, and test images are not evaluated."""
    seen = []

    def measure(run, data):
        seen.append(data)
        return float(run.evaluate(data.validation).mse)

    monkeypatch.setattr(table, "save_choices", lambda name, kept: seen.append(kept))
    monkeypatch.setattr(table, "load_choices", lambda name: {})
    setting = {"dataset": "digits", "net": "mlp", "widths": (8,), "epochs": 1, "devices": 1}
    candidates = {"2": {"latent_dim": 2}, "wide": {"initial_scales": {"relu": 3.0}}}
    choice = choices.Choice("vae", setting, candidates, "2", "MSE", measure)
    choices.choose("a study", {"latents": choice})
    data, kept = seen[0], seen[-1]
    held = round(len(data.train.x) / 5)
    assert abs(len(data.validation.x) - held) <= 1
    pixels = {image.tobytes() for image in data.train.x}
    overlap = [image.tobytes() in pixels for image in data.validation.x]
    assert np.mean(overlap) < 0.01
    assert list(kept["latents"]) == ["2", "wide"] and len(set(kept["latents"].values())) == 2


def test_experiments_readme_is_what_the_results_give():
    assert (ROOT / "experiments" / "README.md").read_text() == table.readme(MODULES)


def test_numbers_of_the_readme_are_those_of_the_results():
    text = (ROOT / "README.md").read_text()
    lines = text.partition("\n## Numbers")[2].partition("\n## ")[0].splitlines()
    cells = [line.split("|") for line in lines if line.startswith("| ")][1:]
    assert len(cells) > 15
    name = ""
    for cell in cells:
        found = re.search(r"ARGS=(\w+)", cell[6])
        name = found[1] if found else name
        obtained = " ".join(row.ours for row in KEPT[name]).replace(",", "")
        for number in re.findall(r"\d+\.\d+|\d{2,}", cell[4].replace("sha256", "")):
            assert re.search(rf"(?<![\d.]){re.escape(number)}(?!\d)", obtained), (name, number)


def size(model, settings):
    spec = DataSpec("mnist, dynamically binarized", (28, 28, 1), 10, True, 2, 60_000)
    model = planning.make_plan(model, **settings).recipe(spec).model
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))


def test_sizes_are_said_where_models_differ_in_them():
    ladder, vamp, richer = (MODULES[name] for name in ("ladder", "vamp", "richer"))
    said = [(ladder, "ladder_vae", ladder.setting(20, levels)) for levels in ladder.LEVELS]
    for module in (vamp, richer):
        setting = runs.iwae_setting(module.EPOCHS)
        said += [(module, model, setting | own) for model, own in module.MEMBERS.values()]
    for module, model, settings in said:
        assert f"{size(model, settings):,}" in module.__doc__, (module.__name__, model)


@pytest.mark.parametrize("blocks", rare(depth.GROWTH, 16))
def test_deep_models_have_as_many_blocks_as_they_are_said_to_have(blocks):
    plan = planning.make_plan("deep_vae", **deep.setting(1, depth.GROWTH[blocks]))
    spec = DataSpec("mnist, dynamically binarized", (28, 28, 1), 10, True, 2, 60_000)
    model = plan.recipe(spec).model

    def kl(key, x):
        variables = model.init(key, x)
        return model.reparameterize(variables, key, model.encode(variables, x), False).kl

    found = jax.eval_shape(kl, jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
    assert found.shape == (1, blocks)


def run_of(epochs, seconds, batch=128):
    """What studies read of a run that trained these seconds in each epoch, of 10 steps."""
    history = {"step": 10 * np.arange(1, epochs + 1)}
    history["images_per_second"] = np.full(epochs, 10 * batch / seconds)
    plan = SimpleNamespace(training=SimpleNamespace(batch_size=batch, epochs=epochs))
    return SimpleNamespace(history=history, plan=plan)


def test_minutes_of_a_run():
    assert runs.minutes(run_of(epochs=4, seconds=90)) == pytest.approx(6)


@pytest.mark.parametrize("model", colour.MODELS)
def test_models_of_colour_are_trained_alike(model):
    recipe, own = colour.MODELS[model]
    plan = planning.make_plan(recipe, **colour.setting(model, "pictures.zip", epochs=3))
    assert plan.training.epochs == 3 and plan.training.clip_norm == 200
    assert not {"epochs", "batch_size", "learning_rate", "schedule"} & {*own}


@pytest.mark.parametrize("model", disentanglement.MODELS)
def test_disentangled_models_are_trained_alike(model):
    recipe, own = disentanglement.MODELS[model]
    plan = planning.make_plan(recipe, dataset="x.npz", **disentanglement.setting(own, seed=3))
    assert plan.training.seed == 3 and plan.arguments["widths"] == (256, 128)
    assert len(own) <= 2 and not {"epochs", "learning_rate", "latent_dim"} & {*own}


def test_reduced_sprites_are_means_of_squares():
    rows = np.array([[2, 5, 0, 16, 16], [0, 3, 7, 1, 30]], np.uint8)
    found, whole = disentanglement.reduced(rows), disentanglement.sprites.render(rows)
    assert found.shape == (2, 32, 32) and found.dtype == np.uint8
    square = 255 * whole[1, 30:32, 16:18].mean()
    assert found[1, 15, 8] == round(float(square)) and found.max() == 255
    np.testing.assert_allclose(found.mean((1, 2)) / 255, whole.mean((1, 2, 3)), atol=2e-3)


def test_samples_in_colour_are_compared_with_images_that_were_not_trained_on():
    found = load_digits()
    x, y = np.uint8(found.images[..., None] * 255 / 16), found.target
    train, validation, test = (
        Split(x[rows], y[rows], 255.0)
        for rows in (slice(1297), slice(1297, 1497), slice(1497, None))
    )
    data = SimpleNamespace(train=train, validation=validation, test=test)
    judge = colour.judge(data, epochs=1)
    x, y = x[1297:], y[1297:]
    assert judge.accuracy == judge.classifier.accuracy(x, y)
    both = np.concatenate([judge.real.features, judge.other.features])
    assert len(judge.real.features) == len(judge.other.features) == 250
    expected = judge.classifier.features(x)
    np.testing.assert_allclose(*(np.sort(each.sum(1)) for each in (both, expected)), atol=1e-3)
    assert judge.of(x).distance < judge.floor.distance < judge.of(255 - x).distance
    data.train = train._replace(peak=16.0)
    with pytest.raises(ValueError, match="expected labelled images of 8 bits"):
        colour.judge(data, epochs=1)


def test_what_is_read_of_sprites_is_what_they_were_drawn_from():
    rows = disentanglement.factors()[:300]
    images = disentanglement.reduced(rows)[..., None] / 255
    sizes = [images[rows[:, 1] == scale].sum((1, 2, 3)).mean() for scale in (2, 3)]
    found, truth = attributes.sprite_readings(images, np.mean(sizes)), attributes.upper(rows)
    assert {*found} == {*truth} and {*truth} < {*attributes.MEASURED}
    for name, has in truth.items():
        np.testing.assert_array_equal(found[name], has, err_msg=name)
        assert 0.2 < has.mean() < 0.8


def test_faces_that_were_picked_are_in_one_set():
    smiling, serious = attributes.picked(np.arange(1965))
    assert not (smiling & serious).any() and smiling.sum() + serious.sum() == 840
    faces = np.full((2, 28, 20, 1), 0.9)
    faces[0, 10, 6], faces[1, 10, 13] = 0.1, 0.1  # an eye, at the left and at the right
    np.testing.assert_allclose(attributes.place(faces), [6, 13])


def test_paths_and_components_beside_answers_by_hand():
    """A straight path in uneven steps, one there and back and on, and the left-over variance."""
    features = np.array([[0, 0], [1, 0], [4, 0], [0, 0], [3, 4], [3, 0]], float)
    odds = np.array([[1, 0], [0.95, 0.05], [0, 1], [1, 0], [0.6, 0.4], [0, 1]])
    found = ae_vs_vae.path(Seen(features, odds), steps=3)
    length, jump = (1 + (5 + 4) / 3) / 2, (3 / 2 + 5 / 4.5) / 2
    assert found == pytest.approx((0.5, length, jump))
    start, end = np.zeros((2, 1, 1, 1)), np.array([1, 0.5]).reshape(2, 1, 1, 1)
    mixed = ae_vs_vae.faded(start, end)[..., 0, 0, 0]
    np.testing.assert_allclose(mixed, np.outer([1, 0.5], np.linspace(0, 1, ae_vs_vae.STEPS)))
    images = np.float32(load_digits().images[..., None] / 16)
    left = ae_vs_vae.components(images[:1500], images[:1500])
    values = np.linalg.eigvalsh(np.cov(images[:1500].reshape(1500, -1).T, ddof=0))[::-1]
    for size, mse in left.items():
        assert mse == pytest.approx(values[size:].sum() / 64, rel=1e-4)


def expected_of(study, quantity, budget=""):
    (found,) = [
        each
        for each in MODULES[study].BESIDE
        if each.quantity == quantity and budget in each.budget
    ][:1]
    return table.bounds(found, KEPT[study])


@needs_mnist
@pytest.mark.slow
def test_flax_example_is_reproduced(tmp_path):
    """784-500-20, 10 epochs of 50,000 images binarized once, as in flax's log."""
    run = flaxvae.train(
        progress=False,
        run=str(tmp_path / "run"),
        dataset="mnist",
        binarization="fixed",
        validation=1 / 6,
        net="mlp",
        widths=(500,),
        epochs=10,
        devices=1,
    )
    low, high = expected_of("flax_example", "test -ELBO, nats", "10 epochs")
    assert low < -run.evaluate(run.data().test).elbo < high


@needs_mnist
@pytest.mark.slow
def test_tutorial_conv_net_reconstructs(tmp_path):
    run = flaxvae.train(
        progress=False, run=str(tmp_path / "run"), dataset="mnist", epochs=5, devices=1
    )
    low, high = expected_of("tutorial_conv", "MSE per pixel", "20 latents")
    assert low < run.evaluate(run.data().test).mse < high


@pytest.mark.slow
def test_bounds_of_a_trained_linear_vae_rise_to_the_exact_likelihood(tmp_path):
    sigma = 0.2
    run = flaxvae.train(
        progress=False,
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
    x = shown.pixels(test, slice(None)).reshape(len(test.x), -1)
    exact = stats.multivariate_normal(b, w.T @ w + sigma**2 * np.eye(len(b))).logpdf(x).mean()
    found = [run.evaluate(test, samples=1000).elbo]
    found += [run.evaluate(test, k=k).importance_weighted_elbo.nats for k in (10, 100, 5000)]
    assert np.all(np.diff([*found, exact]) > 0)
    low, high = expected_of("linear_gaussian", "gap at k = 5,000")
    assert low < exact - found[-1] < high
