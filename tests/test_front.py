"""The front door: public names, the pure step, a model on arrays, and training on arrays."""

import functools
import inspect
import operator
import subprocess
import sys
import threading
import typing

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flaxvae as fv
from conftest import rare
from flaxvae import declared, lookup, zoo
from flaxvae.choices import Choices
from flaxvae.data import pipeline, sources
from flaxvae.devices import mesh as meshes
from flaxvae.errors import DataError, UsageError, in_python, typed_by
from flaxvae.plan import make_plan
from flaxvae.settings import Body, Bound, DataSettings, TrainSettings
from flaxvae.training import step as steps

SPEC = fv.DataSpec("squares", (6, 5, 1))
BODY = Body(net="mlp", widths=(16,))
KEY = jax.random.key(0)


def squares(n=64, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.random((n, 6, 5, 1)) * rng.random((n, 1, 1, 1))).astype(np.float32)


def trained(name="vae", spec=SPEC, **choices):
    own = {"width": 4} if name == "deep_vae" else {"net": "mlp", "widths": (16,)}
    recipe = lookup.build(name, spec, **own, **choices)
    y = None if recipe.classes is None else np.arange(2)
    state = fv.init(recipe, optax.adam(1e-3), KEY, squares(2), y)
    return fv.Trained(recipe, state.variables)


# ---- names


def test_every_public_name_is_there_and_listed():
    for name in fv.__all__:
        assert getattr(fv, name) is not None and name in dir(fv)
    assert {"train", "load", "update", "Trained", "vae", *zoo.RECIPES} <= set(fv.__all__)
    assert fv.zoo is zoo and fv.parts.latents and fv.distributions.Normal
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = fv.nothing
    assert not hasattr(fv, "nothing")


def test_type_checkers_see_the_same_names():
    source = inspect.getsource(fv)
    told = source.partition("if TYPE_CHECKING:")[2].partition("__version__")[0]
    assert sorted(line.rpartition(" as ")[2] for line in told.split("\n") if " as " in line) == (
        fv.__all__
    )


def test_importing_loads_nothing_heavy():
    script = "import sys, flaxvae; dir(flaxvae); print('jax' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert found.stdout.strip() == "False", found.stderr


def test_train_s_keywords_are_all_settings_that_there_are():
    known = declared.hints(DataSettings) | declared.hints(TrainSettings)
    for name in zoo.RECIPES:
        known |= lookup.hints(name)
    typed = typing.get_type_hints(Choices)
    assert typed.keys() == known.keys()

    def bare(kind):
        more = [
            note.kinds for note in typing.get_args(kind)[1:] if isinstance(note, declared.Alias)
        ]
        kind = declared.plain(kind)
        if typing.get_origin(kind) is tuple:
            return typing.Sequence[declared.plain(typing.get_args(kind)[0])]
        some = [bare(part) for part in typing.get_args(kind) if part is not type(None)]
        if type(None) in typing.get_args(kind):
            return some[0] | None
        return functools.reduce(operator.or_, more, kind)

    for name, kind in known.items():
        assert str(typed[name]).replace("collections.abc", "typing") == str(bare(kind)), name


# ---- the pure step


def test_update_is_what_the_trainer_does():
    """Three steps by hand, on the trainer's own batches and keys, are its own but for rounding."""
    plan = make_plan(net="mlp", widths=(16,), latent_dim=3, epochs=1, batch_size=64, devices=1)
    data = pipeline.prepare(plan.data)
    recipe, mesh = plan.recipe(data.spec), meshes.make(1)
    trainer = steps.trainer(recipe, data, plan.training, mesh, 1)
    state, (rows, _), order = trainer.init(), trainer.feed.at(0), trainer.order(0)
    stream = steps.keys(plan.training.seed)
    noise = jax.vmap(lambda i: steps.Noise(*jax.random.split(jax.random.fold_in(stream.noise, i))))(
        jnp.arange(3)
    )
    optimizer = optax.adam(1e-3)
    own = fv.init(recipe, optimizer, stream.init, data.train.x[:2] / np.float32(16))
    step = jax.jit(fv.update(recipe, optimizer))
    x = data.train.x.astype(np.float32) / 16
    for i in range(3):
        own, metrics = step(own, noise.model[i], fv.Batch(x[np.asarray(order[i])]))
    theirs = trainer.segment(state, rows, 3)
    assert int(own.step) == int(theirs.step) == 3 and metrics.keys() == theirs.totals.keys()
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6),
        own.variables,
        theirs.variables,
    )


def test_update_under_vmap_and_scan():
    recipe, optimizer = fv.vae(SPEC, BODY, latent_dim=2), optax.adam(1e-2)
    x, step = jnp.asarray(squares()), fv.update(recipe, optimizer)
    keys = jax.random.split(KEY, 3)
    states = jax.vmap(lambda key: fv.init(recipe, optimizer, key, x[:2]))(keys)

    def steps_of(state, key):
        def body(state, key):
            return step(state, key, fv.Batch(x))

        return jax.lax.scan(body, state, jax.random.split(key, 40))

    _, metrics = jax.jit(jax.vmap(steps_of))(states, keys)
    assert metrics["loss"].shape == (3, 40)
    assert (metrics["loss"][:, -1] < metrics["loss"][:, 0] - 1).all()
    assert len(set(np.asarray(metrics["loss"][:, -1]).tolist())) == 3
    np.testing.assert_allclose(metrics["loss"], -metrics["elbo"], rtol=1e-6)


def test_collections_without_gradient_are_written_back():
    recipe = lookup.build("vq_vae", SPEC, net="mlp", widths=(16,), codes=8)
    optimizer = optax.sgd(0.1)
    state = fv.init(recipe, optimizer, KEY, squares(2))
    after, _ = jax.jit(fv.update(recipe, optimizer))(state, KEY, fv.Batch(jnp.asarray(squares())))
    before, now = (s.variables["codebook"]["embedding"] for s in (state, after))
    assert not np.array_equal(before, now)
    lossy = recipe._replace(
        objective=lambda model: (
            lambda *a: (lambda v, aux: (v, (aux[0], {})))(*recipe.objective(model)(*a))
        )
    )
    for refused in (
        lambda: fv.init(lossy, optimizer, KEY, squares(2)),
        lambda: fv.update(lossy, optimizer)(state, KEY, fv.Batch(jnp.asarray(squares()))),
    ):
        with pytest.raises(ValueError, match="the loss returns no updates of codebook"):
            refused()


@pytest.mark.parametrize(
    "x, said",
    [
        (squares()[..., 0], r"shape \(64, 6, 5\).*add the channel: x\[..., None\]"),
        (squares()[:0], r"expected \[B, 6, 5, 1\]"),
        (squares() * 255, "expected floats in .0, 1.; divide bytes by 255"),
        (squares() - 1, "expected floats in"),
        (squares() * np.nan, "expected floats in"),
    ],
)
def test_examples_that_cannot_be(x, said):
    with pytest.raises(UsageError, match=said):
        fv.init(fv.vae(SPEC, BODY), optax.adam(1e-3), KEY, x)


# ---- a model on arrays


def test_a_model_without_a_folder():
    model, x = trained(latent_dim=3), squares(10)
    z = model.encode(x)
    features = model.recipe.model.encode(model.variables, jnp.asarray(x))
    np.testing.assert_allclose(z, features["mean"], rtol=1e-5, atol=1e-6)
    assert model.decode(z).shape == model.reconstruct(x).shape == x.shape
    np.testing.assert_allclose(model.decode(z), model.reconstruct(x), rtol=1e-5, atol=1e-6)
    walk = model.interpolate(x[:2], x[2:4], steps=5)
    np.testing.assert_allclose(walk[:, 0], model.reconstruct(x[:2]), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(walk[:, -1], model.reconstruct(x[2:4]), rtol=1e-5, atol=1e-6)
    middle = model.decode(z[:2] / 4 * 2 + z[2:4] / 4 * 2)
    np.testing.assert_allclose(walk[:, 2], middle, rtol=1e-4, atol=1e-5)
    rows = model.traverse(units=2, steps=3, span=1.5)
    assert rows.units.tolist() == [0, 1]
    np.testing.assert_allclose(rows.images[1, 2], model.decode([[0, 1.5, 0]])[0], atol=1e-6)
    found = model.evaluate(x, k=10, samples=200)
    terms = fv.elbo_samples(
        model.recipe.model, model.variables, KEY, fv.Batch(jnp.asarray(x)), 2000
    )
    assert found.elbo == pytest.approx(float(terms.elbo.mean()), abs=0.05)
    assert found.importance_weighted_elbo.nats > found.elbo - 0.1
    assert found == type(found).from_json(found.as_json())
    assert model.score(x).mean() == pytest.approx(-found.elbo, abs=0.2)
    again = fv.evaluate(model.recipe, model.variables, x, k=10, samples=200)
    assert again == found
    assert len(repr(model)) < 200 and "6 x 5 x 1" in repr(model)


def test_bytes_and_floats_are_the_same_images():
    model = trained()
    x = np.random.default_rng(1).integers(0, 256, (5, 6, 5, 1)).astype(np.uint8)
    np.testing.assert_allclose(model.encode(x), model.encode(x / np.float32(255)), atol=1e-6)


def test_a_model_of_binary_images_refuses_grey_ones():
    """Under it they would have no probability, and get one all the same."""
    model, x = trained(spec=SPEC._replace(binary=True)), squares(4)
    for ask in (model.encode, model.score, model.evaluate):
        with pytest.raises(UsageError, match="are grey, but this model was built for binary ones"):
            ask(x)
    assert model.evaluate((x > 0.5).astype(np.float32)).log_px == "probability"
    thresholded = fv.Trained(model.recipe, model.variables, binarization="threshold")
    np.testing.assert_allclose(thresholded.score(x), model.score(x >= 0.5), rtol=1e-5)


@pytest.mark.parametrize("options, said", [({"k": -1}, "k=-1"), ({"samples": 0}, "samples=0")])
def test_an_evaluation_checks_what_it_is_asked(options, said):
    with pytest.raises(UsageError, match=f"^{said}: expected"):
        trained().evaluate(squares(2), **options)
    with pytest.raises(UsageError, match=r"^k=2: expected 0; a plain autoencoder has no bound"):
        trained("ae").evaluate(squares(2), k=2)


def test_other_numbers_of_images_do_not_compile_again():
    model, x = trained(), squares(64)
    calls = {
        "encode": lambda n: model.encode(x[:n]),
        "reconstruct": lambda n: model.reconstruct(x[:n]),
        "score": lambda n: model.score(x[:n]),
        "decode": lambda n: model.decode(np.zeros((n, 20))),
    }
    for call in calls.values():
        for n in (1, 3, 20):
            call(n)
    for name, call in calls.items():
        with jax.log_compiles(), _no_compilation():
            for n in (1, 2, 4, 5, 8, 9, 17, 63, 64):
                assert len(call(n)) == n, name


class _no_compilation:
    def __enter__(self):
        import logging

        self.seen, self.handler = [], logging.Handler()
        self.handler.emit = lambda record: self.seen.append(record.getMessage())
        logging.getLogger("jax").addHandler(self.handler)

    def __exit__(self, *_):
        import logging

        logging.getLogger("jax").removeHandler(self.handler)
        assert not [text for text in self.seen if text.startswith("Compiling")], self.seen


@pytest.mark.parametrize("name", rare(sorted(zoo.RECIPES), "deep_vae"))
def test_of_more_draws_the_first_are_the_same(name):
    spec = SPEC._replace(classes=3) if name == "cvae" else SPEC
    model = trained(name, spec)
    if not model.generates:
        with pytest.raises(UsageError, match="prior over the codes yet"):
            model.sample(2)
        return
    label = {"y": 1} if name == "cvae" else {}
    many = model.sample(9, seed=3, **label)
    assert many.shape == (9, 6, 5, 1) and not np.array_equal(many[0], many[8])
    np.testing.assert_allclose(model.sample(3, seed=3, **label), many[:3], rtol=1e-4, atol=1e-6)


def test_threads_get_the_same_results():
    model, x = trained(), squares(30)
    expected, found = model.score(x), {}

    def work(i):
        found[i] = [model.score(x[: 10 + i]), model.encode(x), model.sample(5, seed=i)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(6):
        np.testing.assert_allclose(found[i][0], expected[: 10 + i], rtol=1e-5)
        np.testing.assert_allclose(found[i][2], model.sample(5, seed=i), rtol=1e-5, atol=1e-6)


# ---- training on arrays

SHORT = {"net": "mlp", "widths": (16,), "latent_dim": 2, "epochs": 2, "batch_size": 16}


def test_arrays_train_as_their_file_does(tmp_path, monkeypatch, no_figures):
    monkeypatch.chdir(tmp_path)
    x, y = squares(), np.arange(64) % 3
    np.savez("mine.npz", x_train=x, y_train=y)
    rows = []
    ours = fv.train((x, y), run="ours", progress=rows.append, **SHORT)
    theirs = fv.train("mine.npz", run="theirs", progress=False, **SHORT)
    assert [row["epoch"] for row in rows] == [1, 2]
    np.testing.assert_array_equal(ours.history["train_loss"], theirs.history["train_loss"])
    assert ours.history["epoch"].tolist() == [1, 2]
    assert ours.summary == theirs.summary
    loaded = fv.load("ours")
    with pytest.raises(DataError, match="were arrays in memory"):
        loaded.data()
    place = fv.settings.Place(dataset="mine.npz")
    assert loaded.evaluate(loaded.data(place).test) == ours.evaluate(ours.data().test)
    assert len(repr(ours)) < 400 and "nats" in repr(ours)


def test_a_mapping_and_a_conditional_model(tmp_path, no_figures):
    x, y = squares(), np.array(["b", "a"])[np.arange(64) % 2]
    given = {"x_train": x[:48], "y_train": y[:48], "x_test": x[48:], "y_test": y[48:]}
    run = fv.train(given, "cvae", run=str(tmp_path / "run"), progress=False, **SHORT)
    assert run.recipe.classes == 2 and len(run.data().test.x) == 16
    assert run.sample(2, y="b").shape == (2, 6, 5, 1)


@pytest.mark.parametrize(
    "given, said",
    [
        ((squares(), np.arange(64), 3), "a tuple of 3: expected images, or a pair"),
        ({"pictures": squares()}, "no images, its keys are pictures"),
        (np.array(["a"]), "expected bytes"),
        ("beta_vae", "which is a model: expected model='beta_vae'"),
        ("nowhere.npz", "nowhere.npz"),
    ],
)
def test_data_that_cannot_be(given, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((DataError, UsageError), match=said):
        fv.train(given, progress=False, **SHORT)
    assert not list(tmp_path.iterdir())


def test_progress_is_shown_unless_it_is_not_wanted(tmp_path, capsys, no_figures):
    fv.train(squares(), run=str(tmp_path / "told"), **SHORT)
    assert "train -ELBO" in capsys.readouterr().out
    fv.train(squares(), run=str(tmp_path / "silent"), progress=False, **SHORT)
    assert capsys.readouterr() == ("", "")


def test_figures_show_themselves(tmp_path):
    run = fv.train(squares(), run=str(tmp_path / "run"), progress=False, **SHORT)
    shown = run.figures()
    assert {path.stem for path in shown} >= {"samples", "reconstructions", "curves"}
    page = shown._repr_html_()
    assert page.count("<img") == len(shown) and "base64" in page
    for path in shown:
        path.unlink()
    with pytest.raises(DataError, match="`flaxvae figures"):
        run.figures()


def test_a_sweep_of_arrays(tmp_path, no_figures):
    found = fv.sweep(squares(), seeds=2, run=str(tmp_path / "run"), progress=False, **SHORT)
    assert len(found.names) == 2
    run = found.runs[1]
    assert run.evaluate(run.data().test).elbo == pytest.approx(run.summary.elbo, rel=1e-4)


# ---- whom errors speak to


@pytest.mark.parametrize(
    "flags, python",
    [
        ("--latent-dim 0: expected 1 or more", "latent_dim=0: expected 1 or more"),
        ("--widths 0 5: expected", "widths=(0, 5): expected"),
        ("--kl monte_carlo of discrete latents", "kl='monte_carlo' of discrete latents"),
        ("use 63, or --devices", "use 63, or devices"),
        ("resume with `flaxvae train --resume x`", "resume with `flaxvae train --resume x`"),
        ("--epochs 3 of 10 steps", "epochs=3 of 10 steps"),
        ("--learning-rate 1e-3.", "learning_rate=1e-3."),
        ("another --level, or", "another level, or"),
        ("--patience needs images", "patience needs images"),
    ],
)
def test_messages_in_python(flags, python):
    assert in_python(flags) == python
    with typed_by("flaxvae"):
        assert str(UsageError(flags)) == flags
    assert str(UsageError(flags)) == python


def test_the_python_door_speaks_python():
    with pytest.raises(UsageError, match=r"^latent_dim=0: expected 1 or more"):
        fv.train(latent_dim=0)
    with pytest.raises(UsageError, match=r"^n=0: expected 1 or more"):
        trained().sample(0)
    assert sources.ARRAYS not in sources.SOURCES
    assert Bound().beta == 1
