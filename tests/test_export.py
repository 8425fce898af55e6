"""Ways out: what another program reads is the model."""

import contextlib
import dataclasses
import importlib.util
import json
import shutil
import sys
from pathlib import Path
from typing import get_args

import jax
import numpy as np
import pytest

import flaxvae
from conftest import encrypted
from flaxvae import cli, plan, zoo
from flaxvae.analysis import fitted_prior
from flaxvae.data import pipeline
from flaxvae.errors import DataError, UsageError
from flaxvae.export import card, formats, jax_export, onnx, programs, pytorch, safetensors, weights
from flaxvae.runs import export_folder
from flaxvae.runs.folder import RunFolder, write_json
from flaxvae.runs.restored import digests
from flaxvae.runs.verify import verify
from flaxvae.settings import Export

FORMATS = get_args(Export)


@pytest.fixture(scope="module")
def run(trained, tmp_path_factory):
    """A run of one's own."""
    path = tmp_path_factory.mktemp("exports") / "run"
    return flaxvae.load(shutil.copytree(trained, path))


def other(run, spec=None, model="vae", **arguments):
    """A run of another model, with any numbers as its variables."""
    made = plan.make_plan(model, **arguments)
    spec = spec or run.spec
    recipe = made.recipe(spec)
    example = (jax.ShapeDtypeStruct((2, *spec.shape), np.float32), jax.ShapeDtypeStruct((2,), "i4"))
    shapes = jax.eval_shape(recipe.model.init, jax.random.key(0), *example)
    draw = np.random.default_rng(0)

    def filled(leaf):
        scale = 0.7 / np.sqrt(max(1, leaf.size // max(leaf.shape[-1:] or (1,))))
        return np.float32(draw.normal(size=leaf.shape) * scale)

    variables = jax.tree.map(filled, shapes)
    return dataclasses.replace(run, recipe=recipe, variables=variables, plan=made)


def test_every_format_is_in_the_table():
    assert tuple(formats.FORMATS) == FORMATS


@pytest.mark.parametrize("name", ["weights.npz", "weights.safetensors"])
def test_weights_come_back(run, capsys, name):
    to = name.partition(".")[2]
    cli.main(["export", str(run.path), "--to", to])
    files = {line.rpartition("/")[2] for line in capsys.readouterr().out.splitlines()}
    folder = run.path / "export" / to
    assert files == {name, "README.md"}
    assert {path.name for path in folder.iterdir()} == {*files, "export.json"}
    found = weights.read(folder / name)
    assert jax.tree.structure(found) == jax.tree.structure(jax.device_get(run.variables))
    jax.tree.map(np.testing.assert_array_equal, found, jax.device_get(run.variables))
    readme = (folder / "README.md").read_text()
    assert "| `params.encoder.body.Dense_0.kernel` | 64 x 32 | float32 |" in readme
    raw = (folder / name).read_bytes()
    (folder / name).write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    with pytest.raises(DataError, match=f"{name} was changed"):
        export_folder.check(folder)
    cli.main(["export", str(run.path), "--to", to])
    assert export_folder.check(folder)[0]["latent_dim"] == 2


def test_verify_reads_exports(run):
    for to in ("npz", "card"):
        formats.write(run, to, run.path / "export" / to)
    edited = run.path / "export" / "card" / "README.md"
    edited.write_text(edited.read_text() + "The license is that of the data.")
    damaged = shutil.copytree(run.path / "export" / "npz", run.path / "export" / "damaged")
    (damaged / "weights.npz").write_bytes(b"other")
    (run.path / "export" / "mine").mkdir()
    about = json.loads((run.path / "export" / "npz" / "export.json").read_text())
    other = shutil.copytree(run.path / "export" / "npz", run.path / "export" / "other")
    write_json(other / "export.json", about | {"variables_sha256": "0" * 64})
    (run.path / "export" / ".npz.1-ab.partial").mkdir()  # of an export that was killed
    every = [*verify(RunFolder.open(run.path))]
    assert [each.what for each in every if each.ok is False] == ["export/damaged"]
    found = {each.what: each for each in every}
    assert found["export/npz"].ok and found["export/npz"].said.endswith("as recorded")
    assert found["export/card"].ok and found["export/card"].said == "README.md was edited"
    assert found["export/mine"].ok is None and "not read" in found["export/mine"].said
    assert found["export/other"].ok is None and "of other parameters" in found["export/other"].said
    assert "others" not in found or "export" not in found["others"].said


def test_the_safetensors_package_agrees(tmp_path):
    package = pytest.importorskip("safetensors.numpy")
    arrays = {
        "b": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "a.c": np.array(3, np.int64),
        "none": np.zeros((0, 2), np.float16),
    }
    safetensors.write(tmp_path / "ours", arrays, {"what": "näme"})
    package.save_file({k: np.array(v, order="C") for k, v in arrays.items()}, tmp_path / "theirs")
    for found in (package.load_file(tmp_path / "ours"), safetensors.read(tmp_path / "theirs")[0]):
        assert found.keys() == arrays.keys()
        for name, array in arrays.items():
            np.testing.assert_array_equal(found[name], array, strict=True)
    assert safetensors.read(tmp_path / "ours")[1] == {"what": "näme"}
    widened = safetensors.widened(np.array([0x3F80, 0xC000], np.uint16))
    np.testing.assert_array_equal(widened, [1.0, -2.0])


@pytest.mark.parametrize("cut", [3, 20, 90, -1])
def test_damaged_safetensors_are_refused(tmp_path, cut):
    path = tmp_path / "x.safetensors"
    safetensors.write(path, {"x": np.ones(9, np.float32)}, {})
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError, match=r"x\.safetensors is damaged"):
        safetensors.read(path)


def test_other_arrays_are_no_weights(tmp_path):
    one = np.ones(2, np.float32)
    np.save(tmp_path / "one.npy", one)
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    np.savez(tmp_path / "in.npz", **{"a": one, "a.b.c": one})
    np.savez(tmp_path / "on.npz", **{"a.b": one, "a": one})
    np.savez(tmp_path / "un.npz", a=one)
    (tmp_path / "un.npz").write_bytes(encrypted((tmp_path / "un.npz").read_bytes()))
    safetensors.write(tmp_path / "in.safetensors", {"a": one, "a.b": one}, {})
    for path in tmp_path.iterdir():
        with pytest.raises(DataError, match=rf"{path.name} is damaged .*: expected the weights"):
            weights.read(path)


def test_an_export_replaces_nothing_else(run, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.txt").write_text("mine")
    with pytest.raises(SystemExit) as stop:
        cli.main(["export", str(run.path), "--out", str(tmp_path / "mine")])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and "no earlier export" in said and said.count("\n") == 1
    with pytest.raises(UsageError, match="no earlier export"):
        formats.write(run, "card", tmp_path / "mine")
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "a.txt"]
    (tmp_path / "mine" / "export.json").write_text('{"of": "another program"}')
    with pytest.raises(UsageError, match="no earlier export"):
        formats.write(run, "card", tmp_path / "mine")
    out = tmp_path / "out"
    formats.write(run, "card", out)
    (out / "__pycache__").mkdir()  # as PyTorch's model.py leaves
    formats.write(run, "card", out)
    (out / "own.py").write_text("mine")
    with pytest.raises(UsageError, match=r"holds own\.py, which flaxvae did not write"):
        formats.write(run, "card", out)
    assert (out / "own.py").read_text() == "mine"
    (out / "own.py").unlink()
    (out / "README.md").write_text("mine")
    with pytest.raises(UsageError, match=r"holds a README\.md that was edited"):
        formats.write(run, "card", out)
    assert (out / "README.md").read_text() == "mine"
    with pytest.raises(UsageError, match="is where you are"), contextlib.chdir(tmp_path):
        formats.write(run, "card", Path())


def test_a_failed_export_leaves_the_old_one(run, tmp_path, monkeypatch):
    def fail(run, folder):
        (folder / "half").write_text("half")
        raise OSError("full")

    formats.write(run, "card", tmp_path / "out")
    before = (tmp_path / "out" / "README.md").read_text()
    monkeypatch.setitem(formats.FORMATS, "card", formats.Format(fail))
    with pytest.raises(OSError, match="full"):
        formats.write(run, "card", tmp_path / "out")
    assert (tmp_path / "out" / "README.md").read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_card_has_the_numbers_of_the_run(run):
    text = card.card(run)
    _, front, body = text.split("---\n", 2)
    fields = dict(line.split(": ", 1) for line in front.splitlines())
    (index,) = json.loads(fields["model-index"])
    (results,) = index["results"]
    metrics = {each["type"]: each["value"] for each in results["metrics"]}
    assert metrics["negative_elbo"] == -run.summary.elbo and metrics["mse"] == run.summary.mse
    assert r"| -log p(x\|z), nats |" in body
    assert f"| -ELBO, nats | {-run.summary.elbo:.6g} |" in body
    words = card.again(run.plan).split()
    assert {"--epochs", "--devices", "--widths", "--latent-dim", "--net"} <= {*words}


def test_the_card_says_what_goes_in(run, monkeypatch):
    signed = dataclasses.replace(run, signed=True)
    for text in (card.card, onnx._preparation):
        assert "in [-1, 1]" in text(signed) and "in [-1, 1]" not in text(run)
        assert "(x + 1) / 2" in text(signed)
    limit = {"elbo": {"threshold": 40.5, "false_positive_rate": 0.05}}
    monkeypatch.setattr(export_folder, "thresholds", lambda run: limit)
    assert "40.5, an image is called unusual: so are 5% of images like" in card._limits(run)
    recipe = run.recipe._replace(data=run.spec._replace(kind="table"))
    table = dataclasses.replace(run, recipe=recipe)
    assert "40.5, a row is called unusual: so are 5% of rows like" in card._limits(table)


def test_text_of_others_is_no_markup():
    assert card.escape("<b>a</b> [x](y)\n# z") == r"\<b\>a\</b\> \[x\](y) \# z"
    assert card._code("a`b``c`") == "``` a`b``c` ```"


# ---- jax


def called(folder, name, *arrays):
    raw = bytearray((folder / f"{name}.jax").read_bytes())
    found = jax.export.deserialize(raw)
    assert found.platforms == ("cpu", "cuda", "tpu")
    return np.asarray(found.call(*arrays))


def test_programs_are_the_model(run, tmp_path):
    pytest.importorskip("flatbuffers")
    text = jax_export.write(run, tmp_path)
    assert "x [b, 8, 8, 1] float32, seeds [b] uint32" in text
    x = run.data().test.images(slice(3))
    seeds = pipeline.fingerprints(run.split(x))
    for rows in (slice(3), slice(1)):  # any number
        z = called(tmp_path, "encode", x[rows])
        np.testing.assert_allclose(z, run.encode(x[rows]), rtol=0, atol=1e-5)
        mean = called(tmp_path, "decode", z)
        np.testing.assert_allclose(mean, run.decode(z), rtol=0, atol=1e-5)
    score = called(tmp_path, "score", x, seeds)
    np.testing.assert_allclose(score, run.score(x), rtol=1e-5)
    drawn = called(tmp_path, "sample", np.uint32([5, 9, 5]))
    np.testing.assert_array_equal(drawn[0], drawn[2])
    assert drawn.shape == (3, 8, 8, 1) and np.abs(drawn[0] - drawn[1]).max() > 1e-4


def test_programs_have_the_lowering_of_their_target(run):
    """On this machine, a CPU, convolutions are matrix products."""
    convolutional = other(run, net="conv", latent_dim=2)
    encode = programs.programs(convolutional)["encode"]
    text = jax_export.exported(encode).mlir_module()
    assert "stablehlo.convolution(" in text
    own = jax.jit(lambda x: convolutional.recipe.model.encode(convolutional.variables, x))
    assert "stablehlo.convolution(" not in own.lower(np.zeros((1, 8, 8, 1), "f4")).as_text()


def test_without_flatbuffers_one_line_says_what_to_install(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    with pytest.raises(UsageError, match=r"pip install 'flaxvae\[export\]'"):
        formats.write(run, "jax", tmp_path / "out")
    assert not [*tmp_path.iterdir()]


# ---- PyTorch


def module(folder, run):
    """model.py of a run, as a stranger imports it."""
    pytest.importorskip("torch")
    pytorch.check(run)
    pytorch.write(run, folder)
    spec = importlib.util.spec_from_file_location("model", folder / "model.py")
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def rare(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


COLOUR = flaxvae.DataSpec("c", (7, 6, 3), levels=256, classes=10)


RESNET = {"net": "resnet", "channels": (4, 6), "blocks": 2}
ODD = {"net": "mlp", "widths": (9, 5), "activation": "gelu"}


@pytest.mark.parametrize(
    ("spec", "settings"),
    [
        (COLOUR, {"net": "conv", "likelihood": "gaussian_shared"}),
        (COLOUR, {"net": "mlp", "widths": (), "likelihood": "gaussian", "sigma": 0.3}),
        (COLOUR, {"model": "cvae", "net": "conv", "likelihood": "logistic_mixture"}),
        (None, {"model": "ae", "net": "mlp", "widths": (9,)}),
        rare(COLOUR, {"model": "cvae", "likelihood": "gaussian_pixel"} | RESNET),
        rare(COLOUR, {"model": "cvae", "net": "mlp", "widths": ()}),
        rare(COLOUR, {"model": "denoising_ae", "likelihood": "discretized_logistic"} | RESNET),
        rare(COLOUR, {"net": "mlp", "likelihood": "logistic_mixture", "components": 3}),
        rare(COLOUR, RESNET | {"likelihood": "discretized_logistic"}),
        rare(None, {"net": "conv", "likelihood": "continuous_bernoulli"}),
        rare(COLOUR, ODD | {"likelihood": "gaussian_pixel"}),
        rare(flaxvae.DataSpec("v", (5,)), ODD | {"likelihood": "gaussian_pixel"}),
        rare(flaxvae.DataSpec("v", (5,)), ODD | {"likelihood": "bernoulli"}),
    ],
)
def test_pytorch_is_the_model(run, tmp_path, spec, settings):
    compare_with_pytorch(other(run, spec, **{"latent_dim": 3} | settings), tmp_path)


def compare_with_pytorch(ours, folder):
    """Every number of model.py against the house's; returns the module."""
    torch = pytest.importorskip("torch")
    model, draw = module(folder, ours).load(), np.random.default_rng(1)
    x = np.float32(draw.integers(0, 256, (4, *ours.spec.shape)) / 255)
    z = np.float32(draw.normal(size=(4, ours.latent_size)))
    y = () if ours.recipe.classes is None else (np.int32([0, 9, 3, 3]),)
    theirs = torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, -1, 1)))
    point = not ours.recipe.has_bound
    with jax.disable_jit(), torch.no_grad():  # nothing to compile
        q = ours.recipe.model.encode(ours.variables, x, *y)
        p = ours.recipe.model.decode(ours.variables, z, *y)
        log_px, mean = p.log_prob(x), p.mean
        names, found = ("code",) if point else ("mean", "log_var"), model.encode(theirs, *y)
        for name, head in zip(names, [found] if point else found, strict=True):
            np.testing.assert_allclose(head.numpy(), q[name], rtol=1e-5, atol=1e-5)
        found = np.moveaxis(model.decode(torch.from_numpy(z), *y).numpy(), 1, -1)
        np.testing.assert_allclose(found, mean, rtol=1e-5, atol=1e-5)
        found = model.log_prob(theirs, torch.from_numpy(z), *y).numpy()
        np.testing.assert_allclose(found, log_px, rtol=1e-5, atol=1e-4)
        if point:
            own = ours.recipe.model.decode(ours.variables, q["code"], *y).log_prob(x)
            np.testing.assert_allclose(-model.score(theirs, *y).numpy(), own, rtol=1e-5, atol=1e-4)
        else:
            score = model.score(theirs, *y, samples=2)
            assert score.shape == (4,) and torch.isfinite(score).all()
    assert model.sample(4, *y).shape == theirs.shape == model(theirs, *y).shape
    return model


def test_pytorch_draws_from_the_prior_that_was_fitted(run, tmp_path):
    """Two Gaussians far apart, each with a covariance."""
    torch = pytest.importorskip("torch")
    cholesky = np.float32([[[0.1, 0], [0.2, 0.3]], [[0.5, 0], [-0.5, 0.1]]])
    mean = np.float32([[-9, 5], [9, -5]])
    params = {"log_weights": np.log([0.25, 0.75]), "mean": mean, "cholesky": cholesky}
    params = jax.tree.map(lambda array: jax.numpy.asarray(array, "f4"), params)
    ours = dataclasses.replace(run, fitted=fitted_prior.FittedPrior("mixture", params, 2))
    model, seen = module(tmp_path, ours).load(), []
    model.decode = seen.append  # what it is asked to decode
    torch.manual_seed(0)
    model.sample(4000)
    z = seen[0].numpy()
    for k, at in enumerate((z[:, 0] < 0, z[:, 0] > 0)):
        np.testing.assert_allclose(at.mean(), [0.25, 0.75][k], atol=0.04)
        np.testing.assert_allclose(z[at].mean(0), mean[k], atol=0.1)
        np.testing.assert_allclose(np.cov(z[at].T), cholesky[k] @ cholesky[k].T, atol=0.05)
    flow = dataclasses.replace(run, fitted=fitted_prior.FittedPrior("flow", {}, 2))
    assert "There is no `model.sample`" in pytorch.write(flow, tmp_path)
    assert "sample(" not in pytorch.source(flow, None)


@pytest.fixture(scope="module")
def scored(run):
    """The run with a threshold, as ``flaxvae score`` keeps it."""
    record = {
        "step": run.step,
        "variables_sha256": digests(run.variables)["variables_sha256"],
        "normal": [],
        "false_positive_rate": 0.05,
        "training_images": 1,
        "held_out_images": 1,
        "scores": {"elbo": {"settings": {}, "training": [1.0], "held_out": [2.0]}},
    }
    record["scores"]["elbo"]["threshold"] = 40.5
    write_json(run.path / "anomaly.json", record)
    yield run
    (run.path / "anomaly.json").unlink()


def test_the_threshold_goes_along(scored, run, tmp_path):
    formats.write(scored, "torch", tmp_path / "out")
    about, _ = export_folder.check(tmp_path / "out")
    assert about["thresholds"] == {"elbo": {"threshold": 40.5, "false_positive_rate": 0.05}}
    source = (tmp_path / "out" / "model.py").read_text()
    assert "\nTHRESHOLD = 40.5\n" in source and "def unusual" in source
    assert "Above a score elbo of 40.5" in (tmp_path / "out" / "README.md").read_text()
    compile(source, "model.py", "exec")
    assert "# <" not in source and "# </" not in source
    assert "def unusual" not in pytorch.source(run, None)
    changed = dataclasses.replace(run, variables=jax.tree.map(lambda x: x + 1, run.variables))
    assert export_folder.thresholds(changed) == {}


@pytest.mark.parametrize(
    ("model", "settings", "words"),
    [
        ("mog_vae", {"net": "mlp"}, "a learned prior"),
        ("flow_vae", {"net": "mlp"}, "another posterior"),
        ("ladder_vae", {"net": "mlp"}, "levels of latents"),
        ("gumbel_vae", {"net": "mlp"}, "discrete latents"),
        ("vae", {"net": "mlp", "precision": "bf16"}, "bf16"),
    ],
)
def test_what_pytorch_cannot_hold_is_refused(run, tmp_path, model, settings, words):
    with pytest.raises(UsageError, match=f"torch.*{words}.*: expected a plain code, or Gaussian"):
        formats.write(other(run, model=model, **settings), "torch", tmp_path / "out")
    assert not [*tmp_path.iterdir()]


# ---- recipe by format


def test_every_recipe_is_in_the_table():
    assert {row(name)["jax"] for name in zoo.RECIPES} == {"yes"}


def row(name):
    """The line of a recipe in the table of docs/ways_out.md, {format: what is said}."""
    lines = (Path(__file__).parents[1] / "docs" / "ways_out.md").read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| recipe | `jax` |"))
    header, found = lines[start], lines[start + 2 + [*zoo.RECIPES].index(name)]
    assert found.startswith(f"| `{name}` |")
    cells = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in (header, found)]
    return dict(zip(*cells, strict=True))


def taken(form, run):
    """What the table says of a model and a format."""
    try:
        formats.FORMATS[form].check(run)
    except UsageError as error:
        return str(error).split(": ")[1].removeprefix(f"{run.plan.model} has ")
    return "yes"


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo.RECIPES)
def test_the_table_of_recipes_and_formats(run, tmp_path, name):
    pytest.importorskip("flatbuffers")
    ours = other(run, model=name, **({} if name == "deep_vae" else {"net": "mlp"}))
    assert row(name)["jax"] == taken("jax", ours) == "yes"
    assert row(name)["torch"] == taken("torch", ours)
    if taken("torch", ours) == "yes":
        compare_with_pytorch(ours, tmp_path)
    jax_export.write(ours, tmp_path)
    recipe, variables = ours.recipe, ours.variables
    x = np.random.default_rng(0).uniform(size=(3, 8, 8, 1)).astype(np.float32)
    y = () if recipe.classes is None else (np.int32([0, 3, 9]),)
    features = recipe.model.encode(variables, x, *y)
    code = recipe.model.reparameterize(variables, None, features, False).code
    close = {"rtol": 1e-5, "atol": 1e-5}
    np.testing.assert_allclose(called(tmp_path, "encode", x, *y), code, **close)
    mean = recipe.model.decode(variables, code, *y).mean
    np.testing.assert_allclose(called(tmp_path, "decode", np.asarray(code), *y), mean, **close)
    assert np.isfinite(called(tmp_path, "score", x, np.uint32([1, 2, 3]), *y)).all()
    assert (tmp_path / "sample.jax").exists() == ours.generates
    if ours.generates:
        assert called(tmp_path, "sample", np.uint32([1, 2, 3]), *y).shape == x.shape


# ---- the Embedding Projector


def test_the_projector_gets_the_codes_of_the_test_images(run, tmp_path):
    formats.write(run, "projector", tmp_path / "out")
    test = run.data().test
    found = np.loadtxt(tmp_path / "out" / "codes.tsv", dtype=np.float32)
    np.testing.assert_array_equal(found, run.encode(test))
    header, *rows = (tmp_path / "out" / "codes-metadata.tsv").read_text().splitlines()
    assert header == "row\tlabel" and rows[3] == f"3\t{test.y[3]}" and len(rows) == len(found)
