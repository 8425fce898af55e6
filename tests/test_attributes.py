"""Attributes as directions of latent space, added to codes, and sums of codes."""

import shutil

import numpy as np
import pytest

import flaxvae
from flaxvae import cli
from flaxvae.analysis import attributes, latent_space
from flaxvae.data.dataset import taken
from flaxvae.errors import UsageError
from flaxvae.report import arithmetic
from flaxvae.runs import classified, judges
from flaxvae.runs.attributes import has

RNG = np.random.default_rng(0)


def test_a_vector_is_the_difference_of_means():
    codes, own = RNG.standard_normal((40, 3)), np.array([1.0, -2.0, 0.5])
    # Twins: each code with the attribute is one without it, moved.
    both = np.concatenate([codes, codes + own])
    np.testing.assert_allclose(attributes.vector(both, np.arange(80) >= 40), own, atol=1e-12)
    for which in (np.ones(80), np.zeros(80)):
        with pytest.raises(UsageError, match="of 80 images; expected some with"):
            attributes.vector(both, which)
    with pytest.raises(UsageError, match="have the same mean code: expected other images"):
        attributes.vector(
            np.concatenate([codes, codes[::-1]]), np.arange(2 * len(codes)) < len(codes)
        )


def test_the_rest_is_orthogonal_to_the_others():
    own, others = RNG.standard_normal(5), RNG.standard_normal((3, 5))
    others[2] = others[0] - 2 * others[1]  # says nothing new
    rest = attributes.orthogonal(own, others)
    np.testing.assert_allclose(others @ rest, 0, atol=1e-12)
    # What was taken away is a sum of the others.
    weights = np.linalg.lstsq(others.T, own - rest, rcond=None)[0]
    np.testing.assert_allclose(others.T @ weights, own - rest, atol=1e-12)
    np.testing.assert_array_equal(attributes.orthogonal(own, np.zeros((0, 5))), own)
    with pytest.raises(UsageError, match="nothing is left"):
        attributes.orthogonal(others[2], others[:2])


def test_strengths_are_rows():
    codes, own = RNG.standard_normal((4, 3)), RNG.standard_normal(3)
    moved = attributes.along(codes, own, np.array([0.0, -1.5]))
    np.testing.assert_allclose(moved[0], codes, rtol=1e-6)
    np.testing.assert_allclose(moved[1], codes - 1.5 * own, rtol=1e-5, atol=1e-6)


def test_labels_and_factors_are_attributes(trained):
    run = flaxvae.load(trained)
    split = taken(run.data().train, np.arange(50))
    spec = run.spec
    having, lacking = has(spec, split, "3")
    np.testing.assert_array_equal(having, split.y == 3)
    np.testing.assert_array_equal(lacking, split.y != 3)
    with pytest.raises(UsageError, match="neither labels nor factors; expected two folders"):
        has(spec, split._replace(y=None), "3")
    spec = spec._replace(factors=(("shape", 3), ("size", 5)))
    factors = np.stack([np.arange(50) % 3, np.arange(50) % 5], 1)
    split = split._replace(factors=factors, y=None)
    having, lacking = has(spec, split, "size")
    np.testing.assert_array_equal(having, factors[:, 1] > 2)
    np.testing.assert_array_equal(lacking, factors[:, 1] < 2)
    np.testing.assert_array_equal(has(spec, split, "shape=1")[0], factors[:, 0] == 1)
    for name, said in (("shape=3", "shape=0 to shape=2"), ("sise", "did you mean 'size'")):
        with pytest.raises(UsageError, match=said):
            has(spec, split, name)


class Known:
    """In the place of a classifier: the mean of an image, in steps of ``size``, is its value."""

    def __init__(self, size):
        self.size = size

    def classify(self, images):
        return (images.mean((1, 2, 3)) / self.size).astype(int)

    def accuracy(self, images, values):
        return float((self.classify(images) == values).mean())


def test_a_judge_reads_labels_and_factors(trained, monkeypatch):
    data, asked = flaxvae.load(trained).data(), []

    def classifier(data, watch):
        asked.append(data.train.classes)
        return Known(0.5 if data.train.classes.max() == 2 else 0.1)

    monkeypatch.setattr(classified, "classifier", classifier)
    spec = data.spec._replace(factors=(("shape", 3), ("size", 5)))

    def with_factors(split):
        numbers = np.arange(len(split.x))
        return split._replace(factors=np.stack([numbers % 3, numbers % 5], 1))

    parts = {"train": with_factors(data.train), "test": with_factors(data.test)}
    data = data._replace(spec=spec, **parts)
    judge = judges.judge(data, "3", ["shape=1", "shape"])
    assert len(asked) == 2 and judge.value_of == "class" and {*judge.accuracy} == {"class", "shape"}
    np.testing.assert_array_equal(asked[0], data.train.classes)
    np.testing.assert_array_equal(asked[1], data.train.factors[:, 0])
    found = judge.read(np.array([0.05, 0.35, 0.65])[:, None, None, None] * np.ones((3, 8, 8, 1)))
    expected = {
        "class": [0, 3, 6],
        "3": [False, True, False],
        "shape=1": [False, False, True],
        "shape": [False, False, False],
    }
    assert {name: values.tolist() for name, values in found.items()} == expected
    assert judges.judge(data, "size", []).value_of == ""
    np.testing.assert_array_equal(asked[-1], data.train.classes)  # that the labels stay, too
    few = taken(data.train, np.arange(10))
    with pytest.raises(UsageError, match="20 images in both sets: expected at least 128"):
        judges.of_sets(data, few, few, "smiles", [])
    for name in ("class", "size"):
        with pytest.raises(UsageError, match=f"{name}.*has this name, too"):
            judges.of_sets(data, few, few, name, ["size"])


def test_rates_are_those_of_images_decoded_before_and_after(trained):
    run = flaxvae.load(trained)
    test = run.data().test
    middle = np.median(run.reconstruct(test).mean((1, 2, 3)))

    def read(images):
        return {"dark": images.mean((1, 2, 3)) < middle, "class": Known(0.05).classify(images)}

    direction = arithmetic.named(run, run.data().train, "1")
    judge = judges.Judge(read, "", {"class": 0.955})
    lines = arithmetic.judged(run, test, judge, "dark", direction, (-1.0, 0.0, 2.0))
    assert lines[0].endswith("360 decoded images")
    assert lines[1] == "right on test images: class 95.5 %"
    assert lines[3].split() == ["strength", "images", "wanted", "class"] and len(lines) == 6
    codes = run.encode(test)
    before = read(np.clip(run.decode(codes), 0, 1))
    for line, strength in zip(lines[4:], (-1.0, 2.0), strict=True):
        after = read(np.clip(run.decode(codes + np.float32(strength * direction)), 0, 1))
        rows = before["dark"] == (strength < 0)
        wanted = (after["dark"][rows] == (strength > 0)).mean()
        unwanted = (after["class"] != before["class"])[rows].mean()
        cells = line.replace(" %", "").replace("−", "-").split()
        expected = [
            f"{strength:+g}",
            str(rows.sum()),
            f"{100 * wanted:.1f}",
            f"{100 * unwanted:.1f}",
        ]
        assert cells == expected
    assert max(map(len, lines)) <= 80


def test_an_attribute_at_full_strength_is_the_mean_of_its_images(trained):
    """Of a code without it, that of all others: + 1 vector is the mean code with the attribute."""
    run = flaxvae.load(trained)
    train = run.data().train
    own = arithmetic.named(run, train, "0")
    codes = run.encode(train)
    zero = train.y == 0
    start = codes[~zero].mean(0)
    np.testing.assert_allclose(start + own, codes[zero].mean(0), atol=1e-4)
    shown = arithmetic.walk(run, run.data().test, 3, own, "0", [], (), (0.0, 1.0))
    np.testing.assert_allclose(
        shown.rows[1], run.reconstruct(taken(run.data().test, np.arange(3))), atol=1e-5
    )
    assert np.abs(shown.rows[2] - shown.rows[1]).max() > 1e-3


def test_a_sum_of_codes(trained):
    run = flaxvae.load(trained)
    test = run.data().test
    shown = arithmetic.analogy(run, test, (4, 4, 2))
    np.testing.assert_allclose(shown.rows[1][3], shown.rows[1][2], atol=1e-5)  # a - a + c


def test_from_the_command_line(trained, tmp_path, capsys, monkeypatch):
    path = shutil.copytree(trained, tmp_path / "run")
    monkeypatch.setattr(classified, "classifier", lambda data, watch: Known(0.05))
    line = ["arithmetic", str(path), "--attribute", "7", "--against", "1", "--n", "3", "--judge"]
    cli.main(line)
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert err == "" and lines[3].split()[2:] == ["wanted", "another", "class", "1"]
    assert [line.split()[0] for line in lines[4:7]] == ["−1", "+1", "+2"]
    assert lines[7].endswith("arithmetic-attribute-7-against-1-n-3.png") and len(lines) == 8
    test = flaxvae.load(path).data().test
    for name, rows in (("with", test.y == 1), ("without", test.y == 0)):
        np.savez(tmp_path / f"{name}.npz", x=test.images(np.flatnonzero(rows)))
    line = ["arithmetic", str(path), "--having", str(tmp_path / "with.npz")]
    cli.main([*line, "--lacking", str(tmp_path / "without.npz"), "--strength", "-1", "1"])
    name = "arithmetic-having-with.npz-lacking-without.npz-strength--1x1.png"
    assert (path / "figures" / name).exists()


def test_a_great_circle_turns_at_an_even_pace_and_keeps_its_length():
    start = np.array([[3.0, 0, 0], [1.0, 0, 0], [1.0, 0, 0], [1.0, 2, 0]], np.float32)
    end = np.array([[0.0, 3, 0], [2.0, 0, 0], [-1.0, 0, 0], [0.0, 0, 5]], np.float32)
    path = latent_space.spherical(start, end, 4)
    third = np.pi / 6
    expected = 3 * np.array([[np.cos(i * third), np.sin(i * third), 0] for i in range(4)])
    np.testing.assert_allclose(path[0], expected, atol=1e-6)
    straight = latent_space.interpolate(start, end, 4)
    np.testing.assert_allclose(path[1:3], straight[1:3], atol=1e-6)  # of one line: no circle
    np.testing.assert_allclose(path[3][[0, -1]], straight[3][[0, -1]], atol=1e-6)
