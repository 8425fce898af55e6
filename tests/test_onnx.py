"""ONNX files, executed by onnxruntime, against JAX and NumPy."""

import dataclasses
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from scipy import stats

from conftest import rare
from flaxvae.analysis.anomaly import combined
from flaxvae.errors import UsageError
from flaxvae.export import hypercube, interpreter, onnx, onnx_graph, tracing
from flaxvae.settings import DataSettings
from test_zoo import RECIPES, SHAPE, data, run_of

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
DOCS = Path(__file__).parents[1] / "docs" / "ways_out.md"
FILES = "encoder", "decoder", "sampler", "scorer"
OTHERS = ["vae-conv", "vae-resnet", "vae-logistic_mixture", "vae-continuous_bernoulli"]
OTHERS += ["flow_vae-coupling", "vae-gaussian_pixel", "vae-discretized_logistic"]


def examples(function, rows, seed=0):
    """Inputs of a function: levels of images, class numbers, codes, uniform numbers."""
    rng = np.random.default_rng(seed)
    for name, like in function.inputs.items():
        shape = (rows, *like.shape[1:])
        if name == "y":
            yield rng.integers(0, 10, shape).astype(like.dtype)
        elif name == "z":
            yield rng.normal(size=shape).astype(like.dtype)
        else:
            yield rng.integers(0, 256, shape).astype(like.dtype)


def session(run, what, made):
    return onnxruntime.InferenceSession(onnx.model(run, what, made).SerializeToString())


def close(found, expected):
    expected = np.asarray(expected)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-5 * max(1, np.abs(expected).max()))


@pytest.mark.parametrize("case", rare([*RECIPES, *OTHERS], *RECIPES, *OTHERS))
def test_onnxruntime_computes_what_jax_does(case):
    """Every file of every recipe, for one example and for several."""
    run = run_of(case)
    for what, function in onnx.functions(run).items():
        made = onnx.traced(function)
        ready = session(run, what, made)
        if what == "sampler":
            width = made.shapes[made.inputs["uniform"]][1][1]
            rng = np.random.default_rng(1)
            given = [rng.random((5, width), np.float32), *list(examples(function, 5))[1:]]
            expected = interpreter.run(made, *given)[0]
        else:
            given = list(examples(function, 5))
            expected = jax.jit(lambda *arrays, f=function.function: f(*arrays))(*given)
        close(ready.run(None, dict(zip(made.inputs, given, strict=True)))[0], expected)
        one = {name: each[:1] for name, each in zip(made.inputs, given, strict=True)}
        close(ready.run(None, one)[0], np.asarray(expected)[:1])
    missing = {*FILES} - onnx.functions(run).keys()
    said = re.findall(
        rf"^\| `{case.removesuffix('-mlp')}` \|.* \| (.*) \|$", DOCS.read_text(), re.M
    )
    assert not said or said == ["sampler after `fit-prior`" if missing else "yes"]


@pytest.mark.slow
def test_codes_are_drawn_from_their_prior():
    """Code by code, of the bits of which JAX's own draws are made."""
    run, n = run_of("vq_vae-mlp"), 5
    prior = run.recipe.codes.prior
    fitted = jax.jit(prior.model.init)(jax.random.key(1), np.zeros((1, *prior.data.shape), "f4"))
    variables = run.variables | {"prior": fitted["params"]}
    run = dataclasses.replace(run, variables=variables)
    made = onnx.traced(onnx.functions(run)["sampler"])
    keys = [jax.random.fold_in(jax.random.key(0), i) for i in range(16)]
    bits = np.concatenate([jax.random.bits(key, (n, 8)) for key in keys], 1)
    uniform = np.float32((bits >> 8) / 2.0**24)
    expected = run.recipe.model.decode(
        variables, run.recipe.model.prior_sample(variables, jax.random.key(0), n)
    )
    close(session(run, "sampler", made).run(None, {"uniform": uniform})[0], expected.mean)


def test_draws_of_a_hypercube_cover_every_number_evenly():
    """Each is uniform; of 16 there is one in each sixteenth; and numbers know nothing of others."""
    keys = hypercube.keys(3, 16)

    def draw(key):
        one, two = jax.random.split(jax.random.fold_in(key, 5))
        return jax.random.uniform(one, (2000,)), jax.random.normal(two, (2000,))

    u, z = map(np.asarray, jax.vmap(draw)(keys))
    sixteenth = np.sort(np.floor(16 * u), 0)
    np.testing.assert_array_equal(sixteenth, np.broadcast_to(np.arange(16)[:, None], (16, 2000)))
    assert stats.kstest(u[3], "uniform").pvalue > 1e-4 and stats.kstest(z[3], "norm").pvalue > 1e-4
    # Of independent draws the largest mean is near 0.9, and squares are off by 0.28.
    assert np.abs(z.mean(0)).max() < 0.25 and abs((z**2).mean(0) - 1).mean() < 0.15
    for a, b in ((u[0, :-1], u[0, 1:]), (u[0], z[0])):
        assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(2000)


@pytest.fixture(scope="module")
def conv():
    return run_of("vae-conv")


def test_files_take_images_as_decoded(conv, tmp_path, monkeypatch):
    """Bytes; the scorer flags what is above the threshold; NumPy agrees."""
    threshold = {"elbo": {"threshold": 60.0, "false_positive_rate": 0.05}}
    monkeypatch.setattr(onnx.export_folder, "thresholds", lambda run: threshold)
    readme = onnx.write(conv, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.onnx" for name in FILES}
    assert "| `encoder.onnx` | image [N, 8, 8, 1] uint8 | code [N, 3] float32 |" in readme
    assert "divided by 255 and binarized by one draw" in readme
    x = data().train.x[:7]
    scorer = onnxruntime.InferenceSession(tmp_path / "scorer.onnx")
    score, anomalous = scorer.run(None, {"image": x})
    function = onnx.functions(conv)["scorer"]
    close(score, interpreter.run(onnx.traced(function), x)[0])
    np.testing.assert_array_equal(anomalous, score > 60)
    about = scorer.get_modelmeta().custom_metadata_map
    assert about["threshold"] == "60.0" and "nats" in about["what"]
    again = scorer.run(["score"], {"image": x[::-1].copy()})[0]
    np.testing.assert_allclose(again[::-1], score, rtol=1e-5)  # an image's own, in any batch


def test_a_plain_autoencoder_has_no_bound_to_score_by():
    found = {name: onnx._what(run_of(f"{name}-mlp"), "scorer") for name in ("ae", "vae")}
    assert found == {
        "ae": "-log p(x|z) in nats: high for unusual examples",
        "vae": "-ELBO in nats, the mean of 16 draws: high for unusual examples",
    }


def test_a_scorer_has_the_default_score_once_it_is_known(conv, monkeypatch):
    x = data().train.x
    settings = DataSettings(binarization="threshold")  # which draws nothing
    run = dataclasses.replace(conv, plan=dataclasses.replace(conv.plan, data=settings))
    usual = run.usual(x)
    monkeypatch.setattr(onnx.export_folder, "usual", lambda run: usual)
    limits = {"elbo": {"threshold": 60.0}, "combined": {"threshold": 0.5}}
    monkeypatch.setattr(onnx.export_folder, "thresholds", lambda run: limits)
    scorer = session(run, "scorer", onnx.traced(onnx.functions(run)["scorer"]))
    score, anomalous = scorer.run(None, {"image": x[:7]})
    close(score, run.scores(x[:7], ["combined"], usual=usual).scores["combined"])
    np.testing.assert_array_equal(anomalous, score > 0.5)
    assert scorer.get_modelmeta().custom_metadata_map["threshold"] == "0.5"

    rng = np.random.default_rng(0)  # and so far from the training images
    codes, costs = np.float32(rng.normal(0, 9, (20, 3))), rng.normal(90, 20, 20)
    close(onnx._combined(usual, codes, costs), combined.scores(usual, codes, costs))


@pytest.mark.slow
def test_scores_are_those_of_flaxvae_but_for_the_draws(conv):
    """Other noise, with the same mean, so the means agree within their errors."""
    function, x = onnx.functions(conv)["scorer"], data().train.x
    found = session(conv, "scorer", onnx.traced(function)).run(None, {"image": x})[0]
    difference = found - conv.score(x)
    assert abs(difference.mean()) < 5 * difference.std() / np.sqrt(len(x)) + 1.0
    assert np.corrcoef(found, conv.score(x))[0, 1] > 0.3


def test_a_thresholded_image_is_binarized_in_the_file():
    run = dataclasses.replace(run_of("ae-mlp"))
    object.__setattr__(run, "binarization", "threshold")
    made = onnx.traced(onnx.functions(run)["encoder"])
    x = np.full((1, *SHAPE), 127, np.uint8)
    code = session(run, "encoder", made).run(None, {"image": x})[0]
    np.testing.assert_array_equal(interpreter.run(made, x * 0)[0], interpreter.run(made, x)[0])
    close(code, interpreter.run(made, x * 0)[0])
    assert (interpreter.run(made, x + 1)[0] != code).any()


def test_what_onnx_has_not_is_refused(conv, tmp_path, monkeypatch):
    monkeypatch.delitem(onnx_graph._NODES, "max")
    with pytest.raises(UsageError, match="its encoder has the operation 'max': expected one that"):
        onnx.write(conv, tmp_path)


@pytest.mark.parametrize("name", ["expm1", "log1p", "erf_inv"])
def test_composed_functions_keep_their_digits(name):
    """Near 0, and at the ends of their domains."""
    small = np.float32([0, 1e-30, 1e-7, 3e-4, 0.1, 0.5, 0.9, 0.99999994])
    x = np.concatenate([small, -small[:-1]])
    made = tracing.trace(getattr(jax.lax, name), jax.ShapeDtypeStruct(x.shape, np.float32))
    build = onnx_graph.Builder()
    (out,) = onnx_graph.add(build, made, ["x"])
    from onnx import TensorProto, helper, numpy_helper

    weights = [numpy_helper.from_array(v, k) for k, v in build.initializers.items()]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("x", out)]
    whole = helper.make_graph(build.nodes, name, ends[:1], ends[1:], weights)
    opset = [helper.make_opsetid("", onnx_graph.OPSET)]
    proto = helper.make_model(whole, opset_imports=opset, ir_version=onnx_graph.IR)
    found = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, {"x": x})[0]
    np.testing.assert_allclose(found, interpreter.run(made, x)[0], rtol=2e-6)


def test_constants_are_told_apart_by_what_is_in_them():
    """Arrays that are gone leave their ids to others."""
    build = onnx_graph.Builder()
    names = [build.constant(np.full((9, 9), i, np.float32) + 0) for i in range(50)]
    assert len({*names}) == 50 and build.constant(np.full((9, 9), 7, np.float32)) == names[7]
    assert all((build.initializers[name] == i).all() for i, name in enumerate(names))
