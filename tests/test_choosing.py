"""What the data decide: likelihood, network and epochs, chosen once, recorded, overridable."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxvae
from flaxvae import choosing, lookup, zoo
from flaxvae import plan as planning
from flaxvae.data import pipeline, tones
from flaxvae.errors import UsageError
from flaxvae.grid import make_grid
from flaxvae.recipe import DataSpec
from flaxvae.report import sweeps, words
from flaxvae.runs import records
from flaxvae.runs.folder import RunFolder
from flaxvae.settings import Body, DataSettings

PHOTOGRAPHS = DataSpec("faces", (28, 20, 1), levels=256, examples=1_565, grey=0.7)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"binary": True, "levels": 2, "grey": 0.0}, "bernoulli"),
        ({"levels": 2, "grey": 0.0}, "bernoulli"),  # bool
        ({"levels": 256, "grey": 0.05}, "bernoulli"),  # MNIST
        ({"levels": 17, "grey": 0.17}, "bernoulli"),  # digits
        ({"levels": None, "grey": 0.1}, "bernoulli"),
        ({}, "bernoulli"),  # described by hand
        ({"levels": 256}, "bernoulli"),
        ({"levels": 256, "shape": (32, 32, 3)}, "discretized_logistic"),
        ({"levels": 256, "grey": 0.74}, "discretized_logistic"),  # the Frey faces
        ({"levels": 256, "grey": 0.6, "shape": (32, 32, 3)}, "discretized_logistic"),
        ({"levels": 65536, "grey": 0.6}, "discretized_logistic"),
        ({"levels": None, "grey": 0.6}, "gaussian_shared"),
        ({"kind": "table", "shape": (12,), "grey": 0.9}, "gaussian"),
        ({"kind": "table", "shape": (12,), "levels": 256, "grey": 0.0}, "gaussian"),
    ],
)
def test_the_likelihood_goes_by_the_values(facts, expected):
    spec = DataSpec("data", (8, 8, 1), examples=100)._replace(**facts)
    assert choosing.likelihood(spec).value == expected


def test_what_is_stored_as_bool_has_probabilities():
    spec = DataSpec("masks", (4, 4, 1), levels=2, grey=0.0)
    assert flaxvae.vae(spec, Body(net="mlp")).log_px == "probability"


def test_the_network_goes_by_the_shape():
    for shape, net in {(12,): "mlp", (4, 6): "mlp", (8, 8, 1): "conv", (48, 80, 3): "conv"}.items():
        assert choosing.net(DataSpec("data", shape)).value == net
    for shape, halvings in {(8, 8, 1): 2, (32, 32, 3): 2, (33, 9, 1): 3, (64, 128, 3): 4}.items():
        found = choosing.channels(DataSpec("data", shape)).value
        assert len(found) == halvings and found[:2] == (32, 64)


def test_epochs_go_by_the_number_of_images():
    def passes(count):
        return choosing.epochs(DataSpec("data", (1,), examples=count)).value

    assert [passes(n) for n in (1_317, 10_000, 55_000, 60_000)] == [500, 100, 20, 20]
    found = [passes(n) for n in range(1, 1_000_000, 999)]
    assert found == sorted(found, reverse=True) and found[-1] >= 1


def test_how_grey_images_are(monkeypatch):
    """Both ends count as grey; of many images some are looked at, a part at a time."""

    def grey(x):
        return tones.grey(len(x), lambda rows: x[rows] / 256)

    assert grey(np.array([[0, 63, 64, 191], [192, 193, 255, 100]])) == 4 / 8
    many = np.zeros((10, 3))
    many[5:] = 128
    assert grey(many) == 1 / 2
    monkeypatch.setattr(tones, "AT_ONCE", 3)
    assert grey(many) == 1 / 2
    monkeypatch.setattr(tones, "ROWS", 4)
    assert grey(many) == 1 / 2


def test_built_in_digits_keep_what_they_had():
    data = pipeline.prepare(DataSettings())
    assert 0 < data.spec.grey < choosing.GREY
    plan = planning.make_plan().settled(data.spec)
    assert (plan.arguments["likelihood"], plan.arguments["net"]) == ("bernoulli", "conv")
    assert plan.training.epochs == 500
    binary = pipeline.prepare(DataSettings(binarization="dynamic")).spec
    assert binary.grey == 0 and choosing.likelihood(binary).value == "bernoulli"


@pytest.mark.parametrize("name", ["vae", "vq_vae", "ladder_vae"])
def test_recipes_called_from_python_choose_the_same(name):
    """Through ``build``, a plan or the recipe itself; what is given is kept."""
    spec = PHOTOGRAPHS._replace(shape=(6,))
    plan = planning.make_plan(name)
    direct, built = zoo.RECIPES[name](spec), lookup.build(name, spec)
    for made in (direct, built, plan.recipe(spec)):
        found = jax.eval_shape(made.model.init, jax.random.key(0), jnp.zeros((2, 6)))
        assert found["params"]["decoder"]["out"]["kernel"].shape == (512, 12)
    assert lookup.build(name, spec, likelihood="bernoulli").log_px == "cross_entropy"
    assert direct.log_px == built.log_px == "probability"


def test_what_a_plan_leaves_open_is_chosen_and_what_it_says_is_kept():
    plan = planning.make_plan(net="resnet", epochs=3)
    found = plan.settled(PHOTOGRAPHS)
    assert plan.arguments["likelihood"] == "auto"
    assert found.arguments["likelihood"] == "discretized_logistic"
    assert found.arguments["net"] == "resnet" and found.training.epochs == 3
    assert found.arguments["channels"] == (32, 64)
    assert plan.chosen(PHOTOGRAPHS).keys() == {"likelihood", "channels"}
    assert found.settled(PHOTOGRAPHS._replace(grey=0.0)) == found
    assert planning.make_plan(epochs=3).like(found).arguments == found.arguments
    assert planning.make_plan().like(found).training.epochs == 3
    assert planning.settle([found], PHOTOGRAPHS) == [found]


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        ({"sigma": 0.5}, "sigma=0.5 has no effect with likelihood='discretized_logistic'"),
        ({"widths": (8,)}, "widths=8 has no effect with net='conv'"),
        ({"channels": (8,)}, "channels=8 has no effect with net='conv'"),
        ({"components": 3}, "components=3 has no effect with likelihood="),
    ],
)
def test_a_setting_without_effect_beside_what_was_chosen_is_refused(choices, said):
    plan = planning.make_plan(**choices)  # there are data with which it has one
    with pytest.raises(UsageError, match=said):
        planning.settle([plan], PHOTOGRAPHS)


def test_levels_of_maps_are_chosen_and_a_network_that_has_no_use_is_not(tmp_path):
    plan = planning.make_plan("deep_vae", epochs=3)
    found = plan.settled(PHOTOGRAPHS)
    assert found.arguments["levels"] == ("14x2", "7x3", "4x2", "1x1")
    assert plan.chosen(PHOTOGRAPHS).keys() == {"likelihood", "levels"}
    assert found.arguments["net"] == "auto" and "net" not in words.choices(found)
    assert plan.like(found) == found == found.settled(PHOTOGRAPHS)
    mine = planning.make_plan("deep_vae", epochs=3, levels=("7x1", "1x1"))
    assert mine.settled(PHOTOGRAPHS).arguments["levels"] == ("7x1", "1x1")
    grid = make_grid("deep_vae", 1, width=[4, 8]).settled(PHOTOGRAPHS)
    assert {plan.arguments["levels"] for plan in grid.plans().values()} == {
        found.arguments["levels"]
    }
    with pytest.raises(UsageError, match="expected images; use vae or ladder_vae"):
        plan.settled(PHOTOGRAPHS._replace(shape=(6,))).recipe(PHOTOGRAPHS._replace(shape=(6,)))
    # An older flaxvae has written that it chose a network.
    folder = RunFolder.create(tmp_path / "old", found, {"parameters": 1})
    record = json.loads((folder.path / "run.json").read_text())
    record["arguments"]["net"] = "conv"
    old = {name: x for name, x in record.items() if name != "seal"}
    (folder.path / "run.json").write_text(json.dumps(records.sealed(old)))
    assert RunFolder.open(folder.path).plan() == found


def test_of_a_sweep_one_member_needs_to_use_a_setting():
    grid = make_grid("vae", 1, net=["auto", "mlp"], widths=(8,))
    found = grid.settled(PHOTOGRAPHS)
    assert found.varied == {"net": ["conv", "mlp"]}
    assert found.choices["likelihood"] == "discretized_logistic"
    assert found.choices["epochs"] == 500
    for plan in found.plans().values():
        assert plan.arguments["likelihood"] == "discretized_logistic"
    assert grid.chosen(PHOTOGRAPHS).keys() == {"likelihood", "epochs"}
    with pytest.raises(UsageError, match=r"likelihood=.*expected each value once"):
        make_grid("vae", 1, likelihood=["auto", "discretized_logistic"]).settled(PHOTOGRAPHS)


def test_a_recipe_from_outside_is_told_what_was_chosen():
    seen = []

    def mine(data, body=Body(), *, net_depth: int = 2):
        seen.append(body)
        return flaxvae.vae(data, body, latent_dim=net_depth)

    lookup.build(mine, PHOTOGRAPHS)
    assert (seen[0].net, seen[0].likelihood) == ("conv", "discretized_logistic")

    def bare(data, *, likelihood: str = "auto", channels: tuple[int, ...] = ()):
        return flaxvae.vae(data)

    assert planning.make_plan(bare, epochs=1).settled(PHOTOGRAPHS).arguments == {
        "likelihood": "auto",
        "channels": (),
    }


def test_the_header_says_what_was_chosen_and_why():
    plan = planning.make_plan(epochs=3)
    line = words.chosen_line(plan.chosen(PHOTOGRAPHS))
    assert line == (
        "likelihood discretized_logistic for 8-bit grey photographs, net conv for images; "
        "--likelihood, --net set others"
    )
    one = words.chosen_line(planning.make_plan(net="mlp", epochs=3).chosen(PHOTOGRAPHS))
    assert one.endswith("; --likelihood sets another")


def test_a_sweep_of_likelihoods_compares_bits_where_there_are_any():
    def row(likelihood, **measures):
        found = {name: {"mean": x, "std": None} for name, x in measures.items()}
        return {"settings": {"likelihood": likelihood}, "seeds": 1, "diverged": [], **found}

    table = [row("gaussian", mse=0.5), row("discretized_logistic", mse=0.4, bits_per_dim=4.5)]
    head, first, second = sweeps.lines(table)
    assert head.split() == ["MSE", "bits/dim"]
    assert first.split() == ["likelihood", "gaussian", "0.50000"]
    assert second.split() == ["likelihood", "discretized_logistic", "0.40000", "4.500"]
    beta = {**table[1], "settings": {"beta": 1.0}}
    assert sweeps.lines([beta])[0].split() == ["MSE"]
