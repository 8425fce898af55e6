"""Nearest codes, against all distances; moving pictures of walks."""

import numpy as np
import pytest
from PIL import Image

import flaxvae
from flaxvae import cli
from flaxvae.analysis.neighbours import nearest
from flaxvae.errors import UsageError
from flaxvae.report import animation

RNG = np.random.default_rng(0)


def test_the_nearest_are_those_of_all_distances():
    codes, queries = RNG.standard_normal((60, 3)) + 100, RNG.standard_normal((7, 3)) + 100
    rows, distances = nearest(codes, queries, 5)
    every = np.linalg.norm(queries[:, None] - codes[None], axis=-1)
    np.testing.assert_array_equal(rows, np.argsort(every, 1)[:, :5])
    np.testing.assert_allclose(distances, np.sort(every, 1)[:, :5], rtol=1e-9)
    assert nearest(codes, queries, 60)[0].shape == (7, 60)
    np.testing.assert_array_equal(nearest(codes, codes, 1)[0][:, 0], np.arange(60))
    with pytest.raises(UsageError, match="k=61: expected 1 to 60"):
        nearest(codes, queries, 61)


@pytest.mark.parametrize("kind", ["gif", "webp"])
def test_a_walk_goes_there_and_back(kind, tmp_path):
    walks = np.linspace(0, 1, 5)[None, :, None, None, None] * np.ones((3, 1, 4, 4, 1))
    path = animation.loop(tmp_path / f"walk.{kind}", walks)
    with Image.open(path) as found:
        assert found.n_frames == 8 and found.info["loop"] == 0
        seen = []
        for frame in range(8):
            found.seek(frame)
            seen.append(np.asarray(found.convert("L"))[5, 5])
            assert found.size[0] == found.size[1] == 480
    expected = 255 * np.array([0, 1, 2, 3, 4, 3, 2, 1]) / 4
    np.testing.assert_allclose(seen, expected, atol=2)


def test_from_the_command_line(trained, tmp_path, capsys):
    out = str(tmp_path / "n.png")
    cli.main(["neighbours", str(trained), "--n", "3", "--k", "2", "--out", out])
    assert (tmp_path / "n.png").read_bytes()[:4] == b"\x89PNG"
    x = flaxvae.load(trained).data().train.images(slice(0, 2))
    np.savez(tmp_path / "known.npz", x=x)  # whose nearest are themselves
    cli.main(["neighbours", str(trained), str(tmp_path / "known.npz"), "--k", "1", "--out", out])
    line = ["interpolate", str(trained), "--rows", "2", "--steps", "3", "--animate", "gif"]
    cli.main([*line, "--path", "spherical", "--out", str(tmp_path / "walk.gif")])
    with Image.open(tmp_path / "walk.gif") as found:
        assert found.n_frames == 4
