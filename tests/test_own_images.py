"""Pictures of one's own, of several kinds: from arrays to a run that samples and reconstructs."""

import json

import numpy as np
import pytest

import flaxvae as fv
from conftest import rare
from flaxvae.errors import UsageError

KINDS = {
    "colour": ((32, 32, 3), np.uint8, 256),
    "not square": ((48, 80, 3), np.uint8, 256),
    "with transparency": ((16, 12, 4), np.uint8, 256),
    "two channels": ((5, 9, 2), np.uint8, 256),
    "16-bit": ((12, 10), np.uint16, 65536),
    "one pixel": ((1, 1, 1), np.uint8, 256),
}


def photographs(shape, kind, levels):
    """Grey values nearly everywhere: a gradient in a random direction, with noise."""
    rng = np.random.default_rng(0)
    slope = rng.uniform(-0.3, 0.3, (30, *[1] * len(shape)))
    across = np.linspace(-1, 1, shape[1]).reshape(1, 1, -1, *[1] * (len(shape) - 2))
    x = 0.5 + slope * across + rng.normal(0, 0.05, (30, *shape))
    return (np.clip(x, 0, 1) * (levels - 1)).astype(kind)


@pytest.mark.parametrize("name", rare(KINDS, "two channels", "one pixel"))
def test_a_run_of_own_images(name, tmp_path, no_figures):
    shape, kind, levels = KINDS[name]
    x = photographs(shape, kind, levels)
    run = fv.train(
        x,
        run=str(tmp_path / "run"),
        progress=False,
        net="mlp",
        widths=(8,),
        latent_dim=2,
        epochs=1,
        batch_size=8,
        devices=1,
    )
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["arguments"]["likelihood"] == "discretized_logistic"
    assert record["data_spec"]["levels"] == levels
    full = shape if len(shape) == 3 else (*shape, 1)
    assert run.spec.shape == full
    dims = np.prod(full)
    found = run.summary
    np.testing.assert_allclose(found.bits_per_dim, -found.elbo / dims / np.log(2), rtol=1e-6)
    assert 0 < found.bits_per_dim < 2 * np.log2(levels)
    assert run.encode(x[:3]).shape == (3, 2)
    assert run.sample(4).shape == (4, *full)
    again = run.reconstruct(x[:3])
    assert again.shape == (3, *full) and again.min() >= 0 and again.max() <= 1
    loaded = fv.load(tmp_path / "run")
    np.testing.assert_allclose(loaded.reconstruct(x[:3]), again, atol=1e-5)  # on other devices


def test_the_figures_of_a_run_with_transparency(tmp_path):
    run = fv.train(
        photographs(*KINDS["with transparency"]),
        run=str(tmp_path / "run"),
        progress=False,
        net="mlp",
        widths=(8,),
        latent_dim=2,
        epochs=1,
        batch_size=8,
        devices=1,
    )
    drawn = {path.stem for path in run.folder.figures.glob("*.png")}
    assert {"reconstructions", "samples", "manifold"} <= drawn


def test_a_setting_without_effect_is_refused_before_anything_is_written(tmp_path):
    x = photographs(*KINDS["colour"])
    with pytest.raises(UsageError, match=r"sigma=0.5 has no effect with likelihood='discretized"):
        fv.train(x, run=str(tmp_path / "run"), progress=False, sigma=0.5, net="mlp")
    assert not (tmp_path / "run").exists()
