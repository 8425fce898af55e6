"""The weights of a lesson: here they compute what they did in PyTorch; nothing is executed."""

import json
import os
import pickle
import zipfile

import jax
import numpy as np
import pytest

import flaxvae
from flaxvae import cli, plan
from flaxvae.errors import DataError, UsageError
from flaxvae.export import safetensors, torch_file, tutorials
from flaxvae.runs.folder import RunFolder
from flaxvae.runs.verify import verify

DIGITS = flaxvae.DataSpec("digits", (8, 8, 1), levels=17)


def lesson(torch, net, names=("fc21", "fc22"), channels=1, size=(8, 8)):
    """A module as in the tutorials, with logits and heads as functions of NumPy arrays."""
    nn, small = torch.nn, -(-size[0] // 4) * -(-size[1] // 4)
    torch.manual_seed(0)
    model = nn.Module()
    if net == "mlp":
        model.encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 9), nn.ReLU())
        last = 9
        decoder = [nn.Linear(3, 9), nn.ReLU(), nn.Linear(9, 64), nn.Unflatten(1, (1, 8, 8))]
    else:
        model.encoder = nn.Sequential(
            *(nn.Conv2d(channels, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(64 * small, 256), nn.ReLU()),
        )
        last, maps = 256, (64, -(-size[0] // 4), -(-size[1] // 4))
        decoder = [
            *(nn.Linear(3, 256), nn.ReLU(), nn.Linear(256, 64 * small), nn.ReLU()),
            nn.Unflatten(1, maps),
            *(nn.ConvTranspose2d(64, 32, 3, 2, 1, 1), nn.ReLU()),
            nn.ConvTranspose2d(32, channels, 3, 2, 1, 1),
        ]
    setattr(model, names[0], nn.Linear(last, 3))
    setattr(model, names[1], nn.Linear(last, 3))
    model.decoder = nn.Sequential(*decoder)
    return model


@pytest.mark.parametrize(
    ("net", "names", "form"),
    [
        ("mlp", ("fc21", "fc22"), "pt"),
        ("mlp", ("logvar", "mu"), "safetensors"),
        pytest.param("conv", ("fc_mu", "fc_log_var"), "pt", marks=pytest.mark.slow),
        ("conv", ("fc_mu", "fc_log_var"), "safetensors"),
    ],
)
def test_the_numbers_are_those_of_pytorch(tmp_path, net, names, form):
    torch = pytest.importorskip("torch")
    channels = 1 if net == "mlp" else 3
    data = DIGITS if net == "mlp" else flaxvae.DataSpec("c", (8, 12, 3), levels=256)
    model = lesson(torch, net, names, channels, data.shape[:2])
    path = tmp_path / f"vae.{form}"
    if form == "pt":
        torch.save({"epoch": 3, "model_state_dict": model.state_dict()}, path)
    else:  # whose files are sorted by name
        state = {k: v.numpy() for k, v in sorted(model.state_dict().items())}
        safetensors.write(path, state, {})
    found = tutorials.recognised(torch_file.read(path))
    assert found.settings["net"] == net and found.settings["latent_dim"] == 3
    recipe = plan.make_plan("vae", likelihood="bernoulli", **found.settings).recipe(data)
    variables = {"params": tutorials.params(found, data)}
    shapes = jax.eval_shape(recipe.model.init, jax.random.key(0), np.zeros((2, *data.shape), "f4"))
    tutorials.check(variables["params"], shapes["params"], data)
    draw = np.random.default_rng(0)
    x, z = np.float32(draw.uniform(size=(4, *data.shape))), np.float32(draw.normal(size=(4, 3)))
    mean, log_var = names if names[0] != "logvar" else names[::-1]
    with torch.no_grad(), jax.disable_jit():
        h = model.encoder(torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, -1, 1))))
        heads = recipe.model.encode(variables, x)
        np.testing.assert_allclose(heads["mean"], getattr(model, mean)(h), rtol=1e-5, atol=1e-6)
        own = getattr(model, log_var)(h)
        np.testing.assert_allclose(heads["log_var"], own, rtol=1e-5, atol=1e-6)
        logits = np.moveaxis(model.decoder(torch.from_numpy(z)).numpy(), 1, -1)
        ours = recipe.model.decode(variables, z).logits
        np.testing.assert_allclose(ours, logits, rtol=1e-5, atol=1e-6)


def small_state(inputs=64):
    draw = np.random.default_rng(0)
    sizes = {"fc1": (9, inputs), "fc21": (2, 9), "fc22": (2, 9), "fc3": (9, 2), "fc4": (inputs, 9)}
    state = {}
    for name, shape in sizes.items():
        state[f"{name}.weight"] = np.float32(draw.normal(size=shape) * 0.1)
        state[f"{name}.bias"] = np.zeros(shape[0], np.float32)
    return state


def test_an_import_is_a_run(tmp_path, monkeypatch, no_figures, capsys):
    monkeypatch.chdir(tmp_path)
    safetensors.write(tmp_path / "vae.safetensors", small_state(), {})
    cli.main(["import", "vae.safetensors", "--dataset", "digits", "--run", "mine"])
    said = " ".join(capsys.readouterr().out.split())
    assert "fc21 is taken as the mean and fc22 as the log-variance" in said
    run = flaxvae.load("mine")
    x = run.data().test.images(slice(3))
    state = small_state()
    h = np.maximum(x.reshape(3, -1) @ state["fc1.weight"].T, 0)
    np.testing.assert_allclose(run.encode(x), h @ state["fc21.weight"].T, rtol=1e-4, atol=1e-6)
    assert json.loads((tmp_path / "mine" / "run.json").read_text())["imported"]["file"] == (
        "vae.safetensors"
    )
    assert all(found.ok is not False for found in verify(RunFolder.open("mine")))
    capsys.readouterr()
    safetensors.write(tmp_path / "other.safetensors", small_state(100), {})
    with pytest.raises(SystemExit) as stop:
        cli.main(["import", "other.safetensors", "--dataset", "digits", "--run", "other"])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.count("\n") == 1 and "does not fit digits" in said
    assert not (tmp_path / "other").exists()


class Call:
    """What a stranger's pickle may hold."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def archive(path, content, **others):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/data.pkl", content)
        for name, raw in others.items():
            file.writestr(f"a/data/{name}", raw)
    return path


def test_nothing_of_a_file_is_executed(tmp_path):
    target = tmp_path / "made"
    path = archive(tmp_path / "x.pt", pickle.dumps({"fc1.weight": Call(target)}))
    with pytest.raises(DataError, match=r"mkdir, which is not executed: .*state_dict"):
        torch_file.read(path)
    assert not target.exists()


@pytest.mark.parametrize("content", [b"", b"\x80\x02}q", pickle.dumps(3), pickle.dumps({})])
def test_other_files_are_refused_in_one_line(tmp_path, content):
    for path in (tmp_path / "x.pt", archive(tmp_path / "y.pt", content)):
        if not path.exists():
            path.write_bytes(content)
        with pytest.raises(DataError) as caught:
            torch_file.read(path)
        assert str(caught.value).count("\n") == 0 and "expected" in str(caught.value)


def test_files_that_are_missing_or_encrypted_are_said_to_be(tmp_path):
    for name in ("no.pt", "no.safetensors"):
        with pytest.raises(DataError, match=rf"{name} is missing: expected"):
            torch_file.read(tmp_path / name)
    path = archive(tmp_path / "x.pt", b"\x80\x02}.")
    raw = bytearray(path.read_bytes())
    raw[6] |= 1
    raw[raw.rindex(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(raw)
    with pytest.raises(DataError, match=r"is damaged .*encrypted"):
        torch_file.read(path)


def renamed_spread(name):
    return {key.replace("fc22", name): x for key, x in small_state().items()}


@pytest.mark.parametrize("name", ["log_sigma", "logstd", "fc_log_std"])
def test_log_sigma_is_half_of_log_var(name):
    found, state = tutorials.recognised(renamed_spread(name)), renamed_spread(name)
    assert found.heads[1].name == name and "twice what it gives" in tutorials.assumed(found)
    np.testing.assert_array_equal(found.heads[1].weight, 2 * state[f"{name}.weight"])
    first = {f"{name}.{kind}": state[f"{name}.{kind}"] for kind in ("weight", "bias")}
    order = [key for key in state if key.startswith("fc1")]
    other = {key: state[key] for key in order} | first | state  # it comes before the mean
    assert [one.name for one in tutorials.recognised(other).heads] == ["fc21", name]


@pytest.mark.parametrize("name", ["logsigma2", "log_var"])
def test_log_variances_are_what_they_are(name):
    found, state = tutorials.recognised(renamed_spread(name)), renamed_spread(name)
    np.testing.assert_array_equal(found.heads[1].weight, state[f"{name}.weight"])


@pytest.mark.parametrize("name", ["sigma", "fc_std"])
def test_standard_deviations_are_no_variances(name):
    with pytest.raises(DataError, match=f"head {name}, of a standard deviation"):
        tutorials.recognised(renamed_spread(name))


@pytest.mark.parametrize("renamed", ["fc21", "fc22"])
def test_what_no_name_says_is_said(renamed):
    found = tutorials.recognised(small_state())
    assert "rename fc21 to log_var" in tutorials.assumed(found)
    state = {key.replace(renamed, "log_var"): x for key, x in small_state().items()}
    found = tutorials.recognised(state)
    assert found.heads[1].name == "log_var" and tutorials.assumed(found) == ""
    joined = small_state()
    for kind in ("weight", "bias"):
        both = [joined.pop(f"{name}.{kind}") for name in ("fc21", "fc22")]
        joined[f"heads.{kind}"] = np.concatenate(both)
    order = ("fc1", "heads", "fc3", "fc4")
    joined = {f"{n}.{kind}": joined[f"{n}.{kind}"] for n in order for kind in ("weight", "bias")}
    assert tutorials.assumed(tutorials.recognised(joined)).startswith("heads: its first 2 outputs")


def test_settings_without_effect_are_refused(tmp_path, capsys):
    path = tmp_path / "vae.safetensors"
    safetensors.write(path, small_state(), {})
    with pytest.raises(SystemExit) as stop:
        cli.main(["import", str(path), "--dataset", "digits", "--sigma", "0.1"])
    assert stop.value.code == 2 and "--sigma 0.1 has no effect" in capsys.readouterr().err


def test_a_tensor_stays_in_its_storage():
    storage = np.arange(6, dtype=np.float32)
    np.testing.assert_array_equal(torch_file._tensor(storage, 1, (2, 2), (1, 2)), [[1, 3], [2, 4]])
    for offset, size, stride in [(3, (2, 2), (2, 1)), (-1, (1,), (1,)), (0, (9, 9), (0, 0))]:
        with pytest.raises(ValueError, match="tensor"):
            torch_file._tensor(storage, offset, size, stride)


@pytest.mark.parametrize("drop", ["fc1", "fc22", "fc3", "fc4"])
def test_other_networks_are_refused(drop):
    state = {k: x for k, x in small_state().items() if not k.startswith(drop)}
    with pytest.raises((DataError, UsageError), match="expected"):
        tutorials.params(tutorials.recognised(state), DIGITS)
    with pytest.raises(DataError, match=r"bn\.running_mean: expected Linear"):
        tutorials.recognised(small_state() | {"bn.running_mean": np.zeros(3, np.float32)})
