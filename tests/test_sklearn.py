"""The scikit-learn estimator: its own checks, and the numbers of the house."""

import copy
import dataclasses
import inspect
import os
import pickle
import signal
from types import SimpleNamespace

import jax
import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator
from sklearn.utils.validation import has_fit_parameter

import flaxvae as fv
from flaxvae import sklearn as estimators
from flaxvae.choices import Choices
from flaxvae.errors import DataError, DivergedError, UsageError
from flaxvae.sklearn import VAE, WITHOUT
from test_zoo import small

SMALL = {"widths": (4,), "latent_dim": 2, "epochs": 2, "devices": 1, "random_state": 0}


def table(rows=200):
    return load_breast_cancer(as_frame=True).data.iloc[:rows]


def digits(rows=200):
    """[rows, 64] in [0, 1]."""
    return load_digits().data[:rows] / 16


# ---- scikit-learn's own checks

# They train no model.
QUICK = {
    "check_do_not_raise_errors_in_init_or_set_params",
    "check_estimator_cloneable",
    "check_estimator_repr",
    "check_estimator_sparse_tag",
    "check_estimator_tags_renamed",
    "check_estimators_empty_data_messages",
    "check_estimators_unfitted",
    "check_fit1d",
    "check_get_params_invariance",
    "check_mixin_order",
    "check_no_attributes_set_in_init",
    "check_parameters_default_constructible",
    "check_set_params",
    "check_transformers_unfitted",
    "check_valid_tag_types",
}


def checks():
    """All of ``parametrize_with_checks``; none is expected to fail."""
    for estimator, check in estimator_checks_generator(VAE(**SMALL)):
        name = check.func.__name__
        marks = [] if name in QUICK else [pytest.mark.slow]
        yield pytest.param(estimator, check, marks=marks, id=name)


@pytest.mark.parametrize("estimator, check", checks())
def test_scikit_learns_checks(estimator, check):
    check(estimator)


# ---- the numbers are those of the trained model


@pytest.fixture(scope="module")
def fitted():
    return VAE(**SMALL).fit(table())


def test_its_numbers_are_those_of_the_trained_model(fitted):
    x, model = table().iloc[:40], fitted.trained_
    z, given = fitted.transform(x), x.to_numpy()
    np.testing.assert_allclose(z, model.encode(given), atol=1e-6)
    np.testing.assert_array_equal(fitted.inverse_transform(z), model.decode(z))
    elbos = -model.score(given) - np.log(model.columns.std).sum()
    np.testing.assert_allclose(fitted.score_samples(x), elbos, rtol=1e-5)
    np.testing.assert_allclose(fitted.score(x), elbos.mean(), rtol=1e-5)
    for means in (True, False):
        drawn = fitted.sample(40, random_state=7, means=means)
        np.testing.assert_array_equal(drawn, model.sample(40, seed=7, draw_pixels=not means))
    assert fitted.n_iter_ == len(fitted.history_) == 2 and fitted.plan_.training.seed == 0


def test_the_contamination_is_the_fraction_of_outliers(fitted):
    x = table()
    found, decision = fitted.predict(x), fitted.decision_function(x)
    assert (found == -1).sum() == 20 == (decision < 0).sum()
    assert (found[np.argsort(fitted.score_samples(x))[:20]] == -1).all()
    assert fitted.predict(x.iloc[:5] + 20 * x.std()).tolist() == [-1] * 5


def test_a_pickle_gives_the_same_bits(fitted):
    again = pickle.loads(pickle.dumps(fitted))
    x = table().iloc[:9]
    np.testing.assert_array_equal(again.score_samples(x), fitted.score_samples(x))
    np.testing.assert_array_equal(again.feature_names_in_, x.columns)
    np.testing.assert_array_equal(again.sample(2, random_state=1), fitted.sample(2, random_state=1))
    assert again.get_params() == fitted.get_params() and again.offset_ == fitted.offset_
    with pytest.raises(NotFittedError):
        clone(fitted).transform(x)


def test_another_fit_compiles_nothing(fitted):
    names, x = [], table()

    def hear(event, duration, **more):
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(more.get("fun_name"))

    jax.monitoring.register_event_duration_secs_listener(hear)
    try:
        other = clone(fitted).set_params(random_state=5).fit(x.iloc[::-1])
        scores = other.score_samples(x)
    finally:
        jax.monitoring.unregister_event_duration_listener(hear)
    assert names == []
    assert np.abs(scores - fitted.score_samples(x)).max() > 0.01


def test_a_signal_ends_a_search(fitted):
    """A fit that stops is no failed candidate."""

    def interrupt(row):
        os.kill(os.getpid(), signal.SIGINT)

    search = GridSearchCV(clone(fitted), {"verbose": [interrupt]}, cv=[(range(200), range(9))])
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job may ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            search.fit(table())
    finally:
        signal.signal(signal.SIGINT, before)


# ---- units and scales


NOTHING = {"epochs": 0, "net": "mlp", "contamination": None}  # is trained, or scored


def test_a_table_is_in_its_own_units(fitted):
    """A density of 1024 x is that of x, over 1024 for each column: to the bit of float32."""
    x = table()
    one, other = fitted, clone(fitted).fit(1024 * x)
    assert list(one.feature_names_in_) == list(x.columns) == list(one.trained_.columns.names)
    found = one.score_samples(x) - other.score_samples(1024 * x)
    np.testing.assert_allclose(found, 30 * np.log(1024))
    np.testing.assert_array_equal(one.predict(x), other.predict(1024 * x))
    z = one.transform(x)
    np.testing.assert_allclose(other.inverse_transform(z), 1024 * one.inverse_transform(z))
    drawn = [model.sample(40, random_state=0) for model in (one, other)]
    np.testing.assert_allclose(drawn[1], 1024 * drawn[0])
    standardised = ((x - x.mean()) / x.std(ddof=0)).to_numpy(np.float32)
    plain = dataclasses.replace(one.trained_, columns=None).compiled_like(one.trained_)
    spread = np.log(x.std(ddof=0)).sum()
    np.testing.assert_allclose(
        one.score_samples(x), -plain.score(standardised) - spread, rtol=1e-4, atol=1e-3
    )


def test_pandas_comes_in_and_goes_out(fitted):
    x = table()
    frame = copy.deepcopy(fitted).set_output(transform="pandas").transform(x)
    assert isinstance(frame, pd.DataFrame) and list(frame.columns) == ["vae0", "vae1"]
    pd.testing.assert_index_equal(frame.index, x.index)
    np.testing.assert_array_equal(frame.to_numpy(), fitted.transform(x))
    with pytest.raises(ValueError, match="feature names should match"):
        fitted.transform(x.rename(columns={"mean radius": "radius"}))


def test_constant_columns_stay():
    x = np.c_[np.arange(20.0), np.full(20, 0.1) * 3]
    columns = VAE()._dataset(x, None).columns
    np.testing.assert_allclose(columns.std, [x[:, 0].std(), 1])
    np.testing.assert_allclose(columns.restored(columns.standardized(x)), x, atol=1e-6)


def test_images_keep_the_scale_and_the_order_of_their_values():
    rng, how = np.random.default_rng(0), SMALL | NOTHING
    images = rng.integers(0, 256, (20, 6, 6, 3), np.uint8)
    last, first = images.reshape(20, -1), np.moveaxis(images, -1, 1).reshape(20, -1)
    one = VAE(shape=(6, 6, 3), likelihood="gaussian", **how).fit(last)
    other = VAE(shape=(3, 6, 6), likelihood="gaussian", **how).fit(first)
    z = one.transform(last)
    np.testing.assert_array_equal(z, other.transform(first))
    found = one.inverse_transform(z).reshape(-1, 6, 6, 3)
    np.testing.assert_allclose(found, 255 * one.trained_.decode(z), rtol=1e-6)
    again = other.inverse_transform(z).reshape(-1, 3, 6, 6)
    np.testing.assert_array_equal(np.moveaxis(again, 1, -1), found)
    signed = VAE(shape=(6, 6, 3), likelihood="gaussian", **how).fit(last / 127.5 - 1)
    found, z = signed.inverse_transform(z), signed.trained_.decode(z)
    np.testing.assert_allclose(found, 2 * z.reshape(20, -1) - 1, atol=1e-6)


@pytest.mark.parametrize(
    ("peak", "signed", "given", "expected"),
    [
        (255.0, False, [[0.0, 255.0], [1.0, 0.0]], [[0, 1], [1 / 255, 0]]),
        (65535.0, False, [[0.0, 65535.0], [1.0, 0.0]], [[0, 1], [1 / 65535, 0]]),
        (255.0, False, [[0.0, 2.5], [1.0, 0.0]], [[0, 2.5 / 255], [1 / 255, 0]]),
        (1.0, True, [[-1.0, 1.0], [0.5, 0.25]], [[0, 1], [0.75, 0.625]]),
        (1.0, False, [[0.0, 0.25], [1.0, 0.5]], [[0, 0.25], [1, 0.5]]),
    ],
)
def test_images_are_on_the_scale_of_fit_whatever_is_beside_them(peak, signed, given, expected):
    model, x = VAE(shape=(2,)), np.array(given)
    model.trained_ = SimpleNamespace(peak=peak, signed=signed)
    for rows in (slice(0, 2), slice(0, 1), slice(1, 2)):
        found = model._images(x[rows])
        found = found / (peak if found.dtype.kind == "u" else 1)
        np.testing.assert_allclose(found, np.array(expected)[rows], rtol=1e-6)
    with pytest.raises(DataError, match="expected 0 to"):
        model._images(x * 70000)
    if peak > 1:
        with pytest.raises(DataError, match=f"0.5; expected 0 to {peak:g}, as in fit: multiply"):
            model._images(np.array([[0.0, 0.5]]))


@pytest.mark.slow
def test_a_dark_image_alone_has_the_score_that_it_has_beside_others():
    given = np.rint(255 * digits(20))  # bytes as floats
    given[-1] = given[-1] > 0
    model = VAE(shape=(64,), contamination=None, **SMALL | {"epochs": 0}).fit(given)
    np.testing.assert_array_equal(model.score_samples(given[-1:]), model.score_samples(given)[-1:])


@pytest.mark.slow
def test_a_conditional_model_takes_labels():
    x, y = digits(), np.array(list("abcdefghij"), object)[load_digits().target[:200]]
    model = VAE("cvae", shape=(64,), **SMALL | {"epochs": 0})
    z = model.fit_transform(x, y)
    np.testing.assert_allclose(z[:5], model.transform(x[:5], y[:5]), atol=1e-6)
    assert np.abs(model.transform(x[:5], "a") - model.transform(x[:5], "b")).min() > 1e-4
    assert (model.fit_predict(x, y) == -1).sum() == 20
    assert model.sample(3, y="c", means=True, random_state=0).shape == (3, 64)
    with pytest.raises(UsageError, match="expected labels"):
        model.transform(x)


# ---- parameters


def test_every_setting_is_a_parameter():
    own = {"model", "shape", "contamination", "draws", "verbose", "random_state"}
    assert VAE().get_params().keys() == own | set(Choices.__annotations__) - set(WITHOUT)
    assert {name for name in WITHOUT if name not in Choices.__annotations__} == set()
    model = VAE("beta_vae", beta=8.0).set_params(latent_dim=3)
    assert repr(model) == "VAE(beta=8.0, latent_dim=3, model='beta_vae')"
    assert "latent_dim" in inspect.signature(VAE).parameters
    with pytest.raises(TypeError, match="'learning_rat'; did you mean 'learning_rate'"):
        VAE(learning_rat=1)
    with pytest.raises(
        TypeError, match="unexpected keyword argument 'seed'; here it is 'random_state'"
    ):
        VAE(seed=1)


@pytest.mark.parametrize(
    "given, words",
    [
        ({"contamination": 0.7}, "contamination=0.7: expected above 0, at most 0.5"),
        ({"draws": 0}, "draws=0: expected 1 or more"),
        ({"shape": (8, 7)}, r"shape=\(8, 7\) of 56 values: expected 64, the columns of X"),
        ({"model": "ae", "beta": 2.0}, "unknown argument 'beta' for model 'ae'"),
        ({"model": "cvae"}, "cvae.* without labels"),
        ({"likelihood": "bernoulli"}, "gaussian.* for a table's values are any numbers"),
        ({"random_state": -1}, "seed=-1: expected 0 to 4294967295"),
        ({"patience": 1, "validation": 0.0}, "patience needs validation"),
    ],
)
def test_settings_that_do_not_fit(given, words):
    with pytest.raises(UsageError, match=words) as caught:
        VAE(**SMALL | given).fit(digits(40))
    assert isinstance(caught.value, ValueError) and "\n" not in str(caught.value)


def test_values_out_of_range():
    with pytest.raises(DataError, match="X are float64 from 0 to 16; expected 0 to 1") as caught:
        VAE(shape=(8, 8), **SMALL).fit(16 * digits(40))
    assert isinstance(caught.value, ValueError)


def test_rows_have_no_weights(fitted):
    assert not has_fit_parameter(fitted, "sample_weight")
    with pytest.raises(TypeError, match="unexpected keyword argument 'sample_weight'"):
        clone(fitted).fit(table(), sample_weight=np.ones(200))


def test_a_fit_that_diverges_says_what_there_is_to_do(fitted):
    """Nothing is resumed, and no changes are to be allowed."""
    with pytest.raises(DivergedError, match=r"try a lower learning_rate, clip_norm=1 or") as caught:
        clone(fitted).set_params(learning_rate=1e30).fit(table())
    assert "allow" not in str(caught.value) and "resume" not in str(caught.value)


def test_without_contamination_there_is_no_threshold(fitted):
    other = clone(fitted).set_params(contamination=None).fit(table())
    assert not hasattr(other, "offset_") and np.isfinite(other.score(table()))
    with pytest.raises(ValueError, match="contamination=None: expected a fraction"):
        other.predict(table())


def test_a_random_state_is_drawn_from():
    draws = [estimators._seed(np.random.RandomState(3)) for _ in range(2)]
    state = np.random.RandomState(3)
    assert draws[0] == draws[1] == estimators._seed(state) != estimators._seed(state)
    assert estimators._seed(np.int64(3)) == 3


# ---- in company


@pytest.mark.slow
def test_it_is_the_houses_training(no_figures, tmp_path):
    """To the bit, though the program of ``fv.train`` contains the seed."""
    x = digits().reshape(-1, 8, 8).astype(np.float32)
    how = {"net": "mlp", "widths": (4,), "latent_dim": 2, "epochs": 2, "devices": 1}
    for more in ({}, {"ema": 0.9, "schedule": "cosine"}, {"data_placement": "stream"}):
        arrays = {"x_train": x, "x_test": x[:20]}
        run = fv.train(
            arrays, seed=3, validation=0.0, run=str(tmp_path / str(len(more))), **how, **more
        )
        own = VAE(shape=(8, 8), random_state=3, **how, **more).fit(x.reshape(-1, 64))
        both = jax.tree.map(np.array_equal, run.variables, own.trained_.variables)
        assert jax.tree.all(both)
        tmp_path = tmp_path / "next"


@pytest.mark.slow
def test_the_bound_reaches_the_exact_likelihood():
    """A linear VAE with one learned sigma is probabilistic PCA (Lucas et al. 2019), whose
    likelihood scikit-learn has in closed form."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2000, 2)) @ rng.normal(size=(2, 6)) + 0.3 * rng.normal(size=(2000, 6))
    x = x * [1, 10, 100, 1, 1, 0.01] + 5
    model = VAE(
        likelihood="gaussian_shared", widths=(), latent_dim=2, epochs=400,
        learning_rate=3e-3, random_state=0, devices=1,
    )  # fmt: skip
    scale = StandardScaler().fit(x)
    exact = PCA(2).fit(scale.transform(x)).score_samples(scale.transform(x))
    exact -= np.log(scale.scale_).sum()
    found = model.fit(x).score_samples(x)
    assert -0.02 < (exact - found).mean() < 0.15


@pytest.mark.slow
def test_a_search_over_a_pipeline():
    """Its scores are the means of the ELBO over the folds; the candidate that learns is best."""
    x, folds = table(), KFold(2)
    pipeline = make_pipeline(StandardScaler(), VAE(**SMALL))
    grid = {"vae__epochs": [1, 60], "vae__model": ["vae", "mog_vae"]}
    search = GridSearchCV(pipeline, grid, cv=folds).fit(x)
    assert search.best_params_["vae__epochs"] == 60
    found = search.cv_results_
    for params, score in zip(found["params"], found["mean_test_score"], strict=True):
        elbos = []
        for train, test in folds.split(x):
            model = clone(pipeline).set_params(**params).fit(x.iloc[train])
            rows = model[0].transform(x.iloc[test])
            elbos.append(
                -model[1].trained_.score(rows).mean() - np.log(model[1].trained_.columns.std).sum()
            )
        np.testing.assert_allclose(score, np.mean(elbos), rtol=1e-4)
    assert search.predict(x).shape == (200,)
    both = pickle.loads(pickle.dumps(search.best_estimator_))
    np.testing.assert_allclose(both.score_samples(x), search.score_samples(x))
    np.testing.assert_array_equal(both.inverse_transform(both.transform(x)).shape, x.shape)


@pytest.mark.slow
@pytest.mark.parametrize("name", fv.RECIPES)
def test_every_recipe_is_an_estimator(name):
    x, y = digits(), load_digits().target[:200]
    model = VAE(name, shape=(8, 8), epochs=0, devices=1, random_state=0, **small(name))
    z = model.fit(x, y).transform(x, y)
    assert z.shape == (200, len(model.get_feature_names_out())) and np.isfinite(z).all()
    assert (model.predict(x, y) == -1).sum() == 20
    assert model.inverse_transform(z, y).shape == x.shape
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.score_samples(x, y), model.score_samples(x, y))
    if model.trained_.generates:
        assert model.sample(3, random_state=0).shape == (3, 64)
    else:
        with pytest.raises(UsageError, match="no prior"):
            model.sample(3)
