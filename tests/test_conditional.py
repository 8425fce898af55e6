"""Runs of models that need labels: what they ask for, and what they refuse."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import flaxvae
from conftest import TINY
from flaxvae import cli
from flaxvae.data.pipeline import Split
from flaxvae.devices import batches
from flaxvae.devices import mesh as meshes
from flaxvae.errors import UsageError


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "cvae"
    return flaxvae.train(progress=False, model="cvae", epochs=3, run=str(path), **TINY)


@pytest.fixture(scope="module")
def test(run):
    return run.data().test


def test_every_figure_is_there(run):
    names = {path.stem for path in run.folder.figures.iterdir()}
    expected = {"reconstructions", "samples", "latent_scatter", "interpolations", "traversals"}
    assert names == expected | {"curves"}


def test_labels_matter(run, test, monkeypatch):
    for function in (run.encode, run.reconstruct, run.score):
        there, elsewhere = function(test.x[:8], test.y[:8]), function(test.x[:8], test.y[:8] - 1)
        assert (there != elsewhere).any()
    z = np.zeros((10, 2))
    by_class = run.decode(z, np.arange(10))
    assert len(np.unique(by_class.round(5), axis=0)) == 10
    np.testing.assert_allclose(run.decode(z, 3), by_class[[3] * 10], rtol=1e-5)
    monkeypatch.setattr(batches, "VALUES", 3 * test.x[0].size)  # three images at once
    np.testing.assert_allclose(run.decode(z, np.arange(10)), by_class, rtol=1e-5)


def test_samples_are_of_the_class_asked_for(run):
    np.testing.assert_array_equal(run.sample(20), run.sample(20, y=np.repeat(np.arange(10), 2)))
    np.testing.assert_array_equal(run.sample(4, y=7), run.sample(4, y=[7] * 4))
    assert (run.sample(4, y=7) != run.sample(4, y=6)).any()


def test_pairs_to_interpolate_are_of_one_class(test):
    from flaxvae.report import shown

    same = shown.pairs(test, 8, same_class=True)
    assert (same.y[0::2] == same.y[1::2]).all() and len(same.y) == 16
    other = shown.pairs(test, 8)
    assert (other.y[0::2] != other.y[1::2]).all()


@pytest.mark.parametrize("same", [True, False])
def test_pairs_are_those_of_a_search_for_each_image(same):
    from flaxvae.report import shown

    def searched(y):
        picked, free = [], list(range(len(y)))
        while free:
            first = free.pop(0)
            second = next((i for i in free if (y[i] == y[first]) == same), None)
            if second is not None:
                free.remove(second)
                picked += [first, second]
        return picked

    rng = np.random.default_rng(0)
    for classes in (1, 2, 3, 10):
        for count in (1, 2, 7, 40):
            for y in (rng.integers(0, classes, count), np.sort(rng.integers(0, classes, count))):
                split = Split(np.arange(count), np.array(list("abcdefghij"))[y], 1.0)
                found = shown.pairs(split, count, same)
                np.testing.assert_array_equal(found.x, searched(y))
                np.testing.assert_array_equal(shown.pairs(split, 2, same).x, found.x[:4])
    unlabelled = shown.pairs(Split(np.arange(7), None, 1.0), 9, same)
    np.testing.assert_array_equal(unlabelled.x, np.arange(6))


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (None, "model cvae is conditional: expected labels, 0 to 9"),
        (10, "label 10: expected 0 to 9"),
        (-1, "label -1: expected 0 to 9"),
        (2.5, "label 2.5: expected 0 to 9"),
        ([1, 2, 3], r"labels of shape \(3,\): expected one label or 5"),
        ([0, 1, 2, 3, 10], "label 10: expected 0 to 9"),
    ],
)
def test_labels_that_cannot_be(run, test, y, message):
    with pytest.raises(UsageError, match=message):
        run.encode(test.x[:5], y)
    with pytest.raises(UsageError, match=message):
        run.decode(np.zeros((5, 2)), y)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("sample {run} --label 10", "label 10: expected 0 to 9"),
        ("encode {run} --images images.npy", "expected labels, 0 to 9"),
        ("reconstruct {run} --images images.npy", "expected labels, 0 to 9"),
        ("train --model cvae --dataset images.npy --net mlp", "without labels: expected labels"),
    ],
)
def test_misuse(run, test, tmp_path, monkeypatch, capsys, line, words):
    monkeypatch.chdir(tmp_path)
    np.save("images.npy", test.x)
    before = sorted(tmp_path.rglob("*")), sorted(run.path.rglob("*"))
    with pytest.raises(SystemExit) as stop:
        cli.main(line.format(run=run.path).split())
    said = capsys.readouterr().err
    assert stop.value.code == 2 and words in said and said.count("\n") == 1
    assert (sorted(tmp_path.rglob("*")), sorted(run.path.rglob("*"))) == before


def test_labels_of_a_file_that_cannot_be(run, test, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for y, words in ((test.y[:9] / 2, "expected whole numbers"), (test.y[:9] + 5, "expected 0 to")):
        np.savez("images.npz", x=test.x[:9], y=y)
        with pytest.raises(SystemExit):
            cli.main(["encode", str(run.path), "--images", "images.npz", "--out", "z.npz"])
        said = capsys.readouterr().err
        assert words in said and said.count("\n") == 1
        assert not (tmp_path / "z.npz").exists()


def test_commands_take_labels(run, test, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("images.npz", x=test.x[:9], y=test.y[:9])
    cli.main(["encode", str(run.path), "--images", "images.npz", "--out", "z.npz"])
    found = np.load("z.npz")
    np.testing.assert_array_equal(found["labels"], test.y[:9])
    np.testing.assert_allclose(found["z"], run.encode(test.x[:9], test.y[:9]), rtol=1e-5)
    for line in ("sample {} --label 3 --n 4 --out a.png", "traverse {} --label 3 --out b.png"):
        cli.main(line.format(run.path).split())
    cli.main(f"traverse {run.path} --image 2 --out c.png".split())
    cli.main(f"traverse {run.path} --out d.png".split())  # the class in the middle
    assert all((tmp_path / f"{name}.png").stat().st_size for name in "abcd")


def test_loaded_is_the_same(run, test):
    again, expected = flaxvae.load(run.path), run.encode(test.x, test.y)
    jax.tree.map(np.testing.assert_array_equal, again.variables, run.variables)
    assert again.mesh.size == 8  # with fewer rows on each, products may round otherwise
    np.testing.assert_allclose(again.encode(test.x, test.y), expected, rtol=1e-5, atol=1e-6)
    variables = meshes.put(jax.device_get(again.variables), meshes.replicated(run.mesh))
    again = dataclasses.replace(again, variables=variables, mesh=run.mesh)
    np.testing.assert_array_equal(again.encode(test.x, test.y), expected)
    summary = json.loads((run.path / "summary.json").read_text())
    assert summary["test"]["active_units"] <= 2
