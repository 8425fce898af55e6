"""Probes of codes, on clouds whose answers are known."""

import json
import shutil

import numpy as np
import pytest

from flaxvae import cli
from flaxvae.analysis import probes
from flaxvae.errors import UsageError

RNG = np.random.default_rng(0)


def clouds(count, apart):
    labels = RNG.integers(0, 3, count)
    return apart * np.eye(3)[labels] + RNG.standard_normal((count, 3)), labels


def test_classes_far_apart_are_read_by_all():
    found = probes.probe(*clouds(300, 20.0), *clouds(200, 20.0))
    assert found == probes.Probe(3, 1.0, 1.0, 1.0)


def test_noise_says_nothing():
    found = probes.probe(*clouds(300, 0.0), *clouds(600, 0.0))
    assert abs(found.linear - 1 / 3) < 0.1 and abs(found.nearest - 1 / 3) < 0.1
    assert abs(found.rand) < 0.05


def test_a_ring_is_near_but_not_linear():
    angle, inner = 2 * np.pi * RNG.random(800), RNG.random(800) < 0.5
    codes = np.where(inner, 1.0, 3.0)[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    found = probes.probe(codes[:400], inner[:400], codes[400:], inner[400:])
    assert found.nearest == 1 and found.linear < 0.8 and found.rand < 0.1


def test_principal_components_are_those_of_the_covariance():
    x = RNG.standard_normal((200, 4)) @ np.diag([5.0, 2.0, 1.0, 0.1])
    learnt, tested = probes.components(x, x[:10], 2)
    values = np.linalg.eigvalsh(np.cov(x.T))[::-1]
    np.testing.assert_allclose(learnt.var(0, ddof=1), values[:2], rtol=1e-6)
    np.testing.assert_allclose(tested, learnt[:10], atol=1e-9)
    assert probes.components(x, x, 9)[0].shape == (200, 4)


def test_one_class_cannot_be_told():
    codes = np.zeros((20, 2))
    with pytest.raises(UsageError, match="20 images of 1 class to learn from"):
        probes.probe(codes, np.zeros(20), codes, np.zeros(20))
    assert probes.commonest(np.array([1, 1, 0]), np.array([1, 0, 0, 0])) == 0.25


def test_from_the_command_line(trained, tmp_path, capsys):
    path = shutil.copytree(trained, tmp_path / "run")
    cli.main(["probe", str(path), "--images", "300"])
    out = capsys.readouterr().out
    assert "principal components" in out and "commonest class" in out
    found = json.loads((path / "probe-images-300.json").read_text())
    assert found["codes"]["units"] == found["principal_components"]["units"] == 2
    assert found["codes"]["linear"] > found["commonest_class"]
    cli.main(["verify", str(path)])
    assert "probe-images-300.json" in capsys.readouterr().out
