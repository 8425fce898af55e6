"""``flaxvae quality``: what it measures, where it keeps its classifier, what it refuses."""

import json
import shutil
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import flaxvae
from conftest import encrypted, said
from flaxvae.analysis import features, quality
from flaxvae.errors import DataError, UsageError, typed_by
from flaxvae.runs import classified
from flaxvae.runs import quality as sampled


@pytest.fixture
def run(trained, tmp_path, monkeypatch):
    """A run of the digits whose prior has been fitted, and a cache of its own."""
    monkeypatch.setenv("FLAXVAE_CACHE_DIR", str(tmp_path / "cache"))
    return shutil.copytree(trained, tmp_path / "run")


def test_a_classifier_is_trained_once_for_the_same_data(run, tmp_path, monkeypatch):
    """Here training is drawing random weights."""
    data, seen = flaxvae.load(run).data(), []

    def train(images, labels, **how):
        seen.append((images.shape, len(labels)))
        rng = np.random.default_rng(len(labels))
        like = features.shapes(images.shape[1:], int(labels.max()) + 1)
        params = jax.tree.map(lambda a: np.float32(rng.normal(size=a.shape)), like)
        return features.restored(images.shape[1:], params)

    monkeypatch.setattr(features, "train", train)
    first, again = classified.classifier(data), classified.classifier(data)
    jax.tree.map(np.testing.assert_array_equal, first.params, again.params)
    (kept,) = (tmp_path / "cache" / "classifiers").iterdir()
    assert seen == [(data.train.x.shape, len(data.train.y))]
    for number, damaged in enumerate((kept.read_bytes()[:1000], encrypted(kept.read_bytes())), 2):
        kept.write_bytes(damaged)
        repaired = classified.classifier(data)
        assert len(seen) == number
        jax.tree.map(np.testing.assert_array_equal, first.params, repaired.params)
    for other in (data._replace(sha256="0" * 64), data._replace(binarization="dynamic")):
        assert classified._path(other, 10, 1) != classified._path(data, 10, 1)
    monkeypatch.setattr(classified, "IMAGES", 200)
    classified.classifier(data)
    assert seen[3] == ((200, 8, 8, 1), 200)
    monkeypatch.setenv("FLAXVAE_CACHE_DIR", "")
    assert classified._path(data, 10, 1) is None


def test_a_run_beside_its_test_images(run, capsys):
    """Of both priors; the numbers of the first cut are those of samples of its seed."""
    assert said(f"fit-prior {run} --prior gaussian", capsys)[0] == 0
    code, out, err = said(f"quality {run} --network random --half 80 --no-cache", capsys)
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    path = run / "quality-half-80-network-random.json"
    found = json.loads(path.read_text())
    loaded = flaxvae.load(run)
    test = loaded.data().test
    assert found["images"] == len(test.x) and found["half"] == 80 and "accuracy" not in found
    see = features.random_network((8, 8, 1)).see
    seen = see(test.images()).features
    distances = {"halves": [], "own": [], "fitted": []}
    for seed in np.random.SeedSequence(0).generate_state(found["cuts"]).tolist():
        order = np.random.default_rng(seed).permutation(len(seen))
        real = seen[order[:80]]
        distances["halves"].append(quality.frechet_distance(real, seen[order[80:160]]))
        for prior in ("own", "fitted"):
            samples = np.clip(loaded.sample(80, seed=seed, prior=prior), 0, 1)
            distances[prior].append(quality.frechet_distance(real, see(samples).features))
    for name, each in distances.items():
        assert found[name]["distance"]["mean"] == pytest.approx(np.mean(each), rel=1e-3)
        assert found[name]["distance"]["spread"] == pytest.approx(np.std(each, ddof=1), rel=1e-2)
    assert found["halves"]["coverage"]["mean"] > found["own"]["coverage"]["mean"]


@pytest.mark.slow
def test_classes_of_samples_are_counted(run, capsys):
    code, out, err = said(f"quality {run} --half 150 --no-cache", capsys)
    assert (code, err) == (0, "")
    found = json.loads((run / "quality-half-150.json").read_text())
    truth = np.bincount(flaxvae.load(run).data().test.y) / found["images"]
    assert found["accuracy"] > 0.85
    np.testing.assert_allclose(found["classes"]["test"], truth, atol=0.08)
    assert found["own"]["imbalance"]["mean"] > found["halves"]["imbalance"]["mean"]
    assert "% of class" in out and max(map(len, out.splitlines())) <= 80
    code, out, _ = said(f"verify {run}", capsys)
    assert code == 0
    assert f"quality-half-150.json {found['images']} images, test" in " ".join(out.split())


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--half 500", ["--half 500", "expected at most"]),
        ("--half 4 --network random", ["halves of 4", "k = 5"]),
        ("--k 0", ["--k 0", "1 or more"]),
        ("--network inception", ["--network", "classifier"]),
    ],
)
def test_what_cannot_be_measured(run, capsys, flags, words):
    before = sorted(run.rglob("*"))
    code, _, err = said(f"quality {run} {flags}", capsys)
    assert code == 2 and err.count("\n") == 1
    assert all(word in err for word in words), err
    assert sorted(run.rglob("*")) == before


@pytest.mark.parametrize(
    ("prior", "advice"), [("own", "lower --learning-rate"), ("fitted", "`flaxvae fit-prior`")]
)
def test_samples_that_are_not_finite_are_refused(prior, advice):
    class Diverged:
        recipe, spec, path = SimpleNamespace(classes=None), SimpleNamespace(binary=False), "runs/a"

        def sample(self, n, **_):
            return np.where(np.arange(n) < 2, np.nan, 0.5)[:, None, None, None]

    draw = sampled.sampler(Diverged(), None, prior, None)
    expected = rf"a: 2 of 9 samples of the {prior} prior have pixels that are not finite.*{advice}"
    with typed_by("flaxvae"), pytest.raises(DataError, match=expected):
        draw(9, 0)


def test_a_classifier_needs_labels(run):
    data = flaxvae.load(run).data()
    unlabelled = data._replace(train=data.train._replace(y=None))
    with pytest.raises(UsageError, match="no labels"):
        classified.classifier(unlabelled)
