"""flaxvae score: the threshold that a run keeps, what is said of anomalies, and what is refused."""

import csv
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import flaxvae
from conftest import said
from flaxvae.analysis.anomaly import detection
from flaxvae.analysis.anomaly.scores import Settings
from flaxvae.errors import DataError
from flaxvae.report.anomaly import hot
from flaxvae.report.html import pictured
from flaxvae.runs import records
from flaxvae.runs.anomaly import Reference
from flaxvae.runs.folder import RunFolder
from flaxvae.runs.verify import verify


@pytest.fixture
def run(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    copied = shutil.copytree(trained, tmp_path / "run")
    (copied / "anomaly.json").unlink(missing_ok=True)
    return copied


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def kept(run):
    return json.loads((run / "anomaly.json").read_text())


def test_a_threshold_is_set_on_held_out_images_and_kept(run, capsys, monkeypatch):
    code, _, err = said(f"score {run} --scores kl mahalanobis", capsys)
    assert (code, err) == (0, "")
    loaded = flaxvae.load(run)
    data = loaded.data()
    held = loaded.scores(data.validation, ["kl"]).scores["kl"]
    record = kept(run)
    assert (run / "anomaly.json").read_text().count("\n") == 1  # its numbers are not a line each
    assert record["normal"] == [] and record["held_out_images"] == len(held) == 120
    np.testing.assert_array_equal(np.float32(record["scores"]["kl"]["held_out"]), np.sort(held))
    above = np.float32(detection.threshold(held, 0.05))
    assert np.float32(record["scores"]["kl"]["threshold"]) == above
    rows = table(run / "scores-scores-kl_mahalanobis.csv")
    assert [*rows[0]] == ["index", "score", "percentile", "flagged", "label", "mahalanobis"]
    kl = np.float32([row["score"] for row in rows])
    assert [row["flagged"] for row in rows] == [str(int(x > above)) for x in kl]
    assert 0 < sum(row["flagged"] == "1" for row in rows) < 180

    # It is applied to new data without the run's own, and moved by another rate alone.
    before = (run / "anomaly.json").read_bytes()
    np.save("mine.npy", data.test.x[:5])

    def gone(*arguments):
        raise AssertionError("the data are not needed")

    monkeypatch.setattr("flaxvae.runs.run.Run.data", gone)
    code, _, err = said(f"score {run} mine.npy --scores kl", capsys)
    assert (code, err) == (0, "") and (run / "anomaly.json").read_bytes() == before
    again = table(run / "scores-images-mine-scores-kl.csv")
    expected = {row["index"]: row["percentile"] for row in rows if int(row["index"]) < 5}
    assert {row["index"]: row["percentile"] for row in again} == expected
    line = f"score {run} mine.npy --scores kl --out a.csv"
    assert said(f"{line} --false-positive-rate 0.3", capsys)[0] == 0
    assert kept(run)["scores"]["kl"]["threshold"] < above
    assert kept(run)["false_positive_rate"] == 0.3
    assert "set for 30 % of normal images" in said(line, capsys)[1]

    findings = {found.what: found for found in verify(RunFolder(run))}
    assert findings["anomaly.json"].ok and "2 scores" in findings["anomaly.json"].said
    assert all(found.ok is not False for found in findings.values())


def test_the_default_keeps_what_it_compares_with(run, capsys, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr("flaxvae.report.terminal.QUIET", 0.0)
        code, _, err = said(f"score {run}", capsys)
    assert code == 0 and "codes of training images: " in err
    loaded, record = flaxvae.load(run), kept(run)
    data = loaded.data()
    usual = Reference.open(loaded, (), Settings()).usual
    # Of all training images of which there are at most 20,000, and -ELBO for exported models.
    again = loaded.usual(data.train)
    for one, other in zip(jax.tree.leaves(usual), jax.tree.leaves(again), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)
    names = ["combined", "elbo"]
    found = loaded.scores(data.validation, names, usual=usual).completed(names, None)
    for name in names:
        held = np.float32(record["scores"][name]["held_out"])
        np.testing.assert_array_equal(held, np.sort(found[name]))
        above = np.float32(detection.threshold(held, 0.05))
        assert np.float32(record["scores"][name]["threshold"]) == above

    np.save("mine.npy", data.test.x[:5])
    rows = {row["index"]: row for row in table(run / "scores.csv")}

    def gone(*arguments):
        raise DataError("no data here")

    monkeypatch.setattr("flaxvae.runs.run.Run.data", gone)
    assert said(f"score {run} mine.npy", capsys)[0] == 0
    for row in table(run / "scores-images-mine.csv"):
        assert float(row["score"]) == pytest.approx(float(rows[row["index"]]["score"]), abs=1e-4)

    # What is missing is another score: this one needs no data.
    line = f"score {run} mine.npy --scores combined kl --out a.csv"
    code, _, err = said(line, capsys)
    assert code == 0 and "without percentiles and a threshold: no data here" in err

    findings = {found.what: found for found in verify(RunFolder(run))}
    assert findings["anomaly.json"].ok
    record["usual"]["cholesky"][3] = record["usual"]["cholesky"][3][:2]
    (run / "anomaly.json").write_text(json.dumps(records.sealed(record)))
    code, _, err = said(f"score {run}", capsys)
    assert code == 3 and "what combined compares with is not whole" in err and err.count("\n") == 1

    (run / "anomaly.json").unlink()
    code, _, err = said(f"score {run} mine.npy", capsys)
    words = "flaxvae: no data here; --scores elbo takes new images without them\n"
    assert (code, err) == (3, words)


def test_a_run_of_an_older_flaxvae_gets_the_default_beside_its_scores(run, capsys):
    assert said(f"score {run} --scores elbo --false-positive-rate 0.3", capsys)[0] == 0
    old = kept(run)
    assert "usual" not in old and [*old["scores"]] == ["elbo"]
    assert said(f"score {run}", capsys)[0] == 0
    new = kept(run)
    assert new["scores"]["elbo"] == old["scores"]["elbo"] and "combined" in new["scores"]
    assert new["false_positive_rate"] == 0.3 and "usual" in new


def test_the_page_says_which_score_it_shows(run, capsys, monkeypatch):
    monkeypatch.setattr(
        pictured.anomaly,
        "picture",
        lambda run, split, order, names, what: {
            "rows": [np.zeros((1, 8, 8, 1))],
            "labels": ["image"],
            "columns": ["0"],
            "title": f"by {what}",
        },
    )
    assert said(f"score {run}", capsys)[0] == 0
    loaded, record = flaxvae.load(run), kept(run)
    subject = SimpleNamespace(run=loaded, test=loaded.data().test)
    assert "in standard deviations, their sum" in str(pictured._anomalies(subject).body)
    old = {name: value for name, value in record.items() if name != "scores_of"}
    for wrong in (old, record | {"scores_of": "elbo"}):  # of an older flaxvae, and of this one
        (run / "anomaly.json").write_text(json.dumps(records.sealed(wrong)))
        assert "by -ELBO in nats" in str(pictured._anomalies(subject).body)
    (run / "anomaly.json").write_text(json.dumps(records.sealed(record | {"scores_of": "none"})))
    assert "a score none" in str(pictured._anomalies(subject).body)


def test_how_well_other_classes_are_found(run, capsys):
    line = f"score {run} --scores kl elbo --normal 0 1 2 3 4 5 6 7 --out a.csv"
    code, out, err = said(line, capsys)
    assert (code, err) == (0, "")
    record, rows, lines = kept(run), table(Path("a.csv")), out.splitlines()
    assert lines[-2:] == ["a-worst.png", "a.csv"] and Path("a-worst.png").exists()
    assert record["normal"] == list("01234567") and record["held_out_images"] < 110
    kl, elbo = (np.float32([row[name] for row in rows]) for name in ("score", "elbo"))
    labels = np.array([row["label"] for row in rows])
    for name, scores, some in (
        ("8", kl, labels != "9"),
        ("9", kl, labels != "8"),
        ("all of these", kl, labels != ""),
        ("elbo", elbo, labels != ""),
    ):
        anomalous = np.isin(labels, ["8", "9"])[some]
        which = "elbo" if name == "elbo" else "kl"
        above = np.float32(record["scores"][which]["threshold"])
        numbers = [
            measure(scores[some], anomalous) for measure in (detection.auroc, detection.auprc)
        ]
        numbers.append(detection.f1(scores[some] > above, anomalous))
        (line,) = (line for line in lines if line.startswith(f"{name}  "))
        expected = [str(anomalous.sum()), *(f"{x:.3f}" for x in numbers)]
        assert line.removeprefix(name).split() == expected
    assert max(map(len, lines)) <= 80


def test_a_record_that_was_changed_is_refused(run, capsys):
    assert said(f"score {run} --scores kl --out a.csv", capsys)[0] == 0
    record = kept(run)
    record["scores"]["kl"]["threshold"] = 0.0
    (run / "anomaly.json").write_text(json.dumps(record))
    code, _, err = said(f"score {run} --scores kl", capsys)
    assert code == 3 and "anomaly.json is damaged (changed since" in err and err.count("\n") == 1
    wrong = [found for found in verify(RunFolder(run)) if found.ok is False]
    assert [found.what for found in wrong] == ["anomaly.json"]


def test_without_the_run_s_own_data_it_says_so(run, capsys, monkeypatch):
    x = flaxvae.load(run).data().test.x[:3]
    np.save("mine.npy", x)

    def gone(*arguments):
        raise DataError("no data here")

    monkeypatch.setattr("flaxvae.runs.run.Run.data", gone)
    code, _, err = said(f"score {run} mine.npy --scores kl", capsys)
    assert code == 0 and err == "without percentiles and a threshold: no data here\n"
    assert [*table(run / "scores-images-mine-scores-kl.csv")[0]] == ["index", "score"]
    for flags in ("--scores copod", "--scores kl --false-positive-rate 0.1"):
        code, _, err = said(f"score {run} mine.npy {flags}", capsys)
        assert (code, err) == (3, "flaxvae: no data here\n")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--scores", "--scores"),
        ("--scores kl kl", "--scores kl kl: expected one score or several, each once"),
        ("--scores klm", "klm"),
        ("--scores llr", "--scores llr: model vae has no levels"),
        ("--k 3", "--k 3 has no effect, since --scores has no importance"),
        ("--scores kl --fit-steps 3", "--fit-steps 3 has no effect"),
        ("--levels 2", "--levels 2 has no effect"),
        ("--false-positive-rate 1", "--false-positive-rate 1.0: expected a number between 0 and 1"),
        ("--false-positive-rate 0.001", "held-out images: expected 999 or more of them"),
        ("--normal 11", "--normal 11: no such class, the classes are 0 to 9"),
        ("--normal 0 1 2 3 4 5 6 7 8 9", "none of the images are of other classes"),
        ("mine.npy --normal 1", "--normal 1: the images have no labels"),
    ],
)
def test_what_is_refused(run, capsys, line, words, monkeypatch):
    np.save("mine.npy", np.zeros((3, 8, 8), np.uint8))
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    code, _, err = said(f"score {run} {line}", capsys)
    assert code == 2 and words in err and err.count("\n") == 1 and "Traceback" not in err
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_heat():
    colours = hot(np.array([0.0, 1 / 3, 0.5, 1.0]))
    np.testing.assert_allclose(colours, [[0, 0, 0], [1, 0, 0], [1, 0.5, 0], [1, 1, 1]])
