"""A run folder with one real fault: named, in one line, and nothing else found wrong."""

import dataclasses
import json
import random
import re
import shutil
import struct
import zlib
from contextlib import suppress

import numpy as np
import pytest

import flaxvae
from conftest import TINY, encrypted
from flaxvae import api, cli
from flaxvae.code_prior import fit_prior
from flaxvae.errors import DataError
from flaxvae.runs import anomaly, checkpoints, events, pages
from flaxvae.runs import verify as verifying
from flaxvae.runs.folder import RunFolder, write_json
from flaxvae.runs.verify import verify
from flaxvae.settings import TrainSettings
from flaxvae.training import observers

# Orbax leaves coroutines behind when it fails to read.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def wrong(path):
    """{what: said} of all that is not as it should be."""
    return {f.what: f.said for f in verify(RunFolder(path)) if f.ok is False}


def remarks(path):
    return {f.what: f.said for f in verify(RunFolder(path)) if f.ok is None}


def state(path):
    """All files and folders, with what is in them and when they were changed."""
    found = {}
    for each in [path, *path.rglob("*")]:
        data = each.read_bytes() if each.is_file() else None
        found[each] = (each.stat().st_mtime_ns, data)
    return found


def rewrite(path, change):
    path.write_text(change(path.read_text()))


def edit(path, **changes):
    """Other values in a record, under a seal of their own."""
    write_json(path, json.loads(path.read_text()) | changes)


def test_a_whole_run(run, capsys):
    before = state(run)
    cli.main(["verify", str(run)])
    out, err = capsys.readouterr()
    assert err == "" and state(run) == before
    marks = [(line.split()[0], line[7:].split("  ")[0]) for line in out.splitlines()]
    named = [what for mark, what in marks if mark == "ok"]
    assert named[:4] == ["run.json", "checkpoint 20", "metrics.jsonl", "summary.json"]
    others = [what for what in named[4:] if what != "figures"]  # other tests' among them
    kinds = ("tb/events", "evaluation", "latents", "scores", "anomaly", "report.html")
    assert "figures" in named and all(what.startswith(kinds) for what in others)
    assert max(map(len, out.splitlines())) <= 80 and "\x1b" not in out
    assert wrong(run) == remarks(run) == {}


def data_files(checkpoint):
    """The files with a checkpoint's arrays, largest first."""
    found = [p for p in checkpoint.rglob("*") if p.is_file() and p.parent.name == "d"]
    return sorted(found, key=lambda p: -p.stat().st_size)


def flip(path, where=0.5):
    """Change one bit of a file, in the middle unless told."""
    raw = bytearray(path.read_bytes())
    raw[int(where * len(raw))] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize("where", [0.1, 0.5])
def test_a_flipped_byte_in_a_checkpoint(run, capsys, where):
    flip(data_files(run / "checkpoints" / "20" / "state")[0], where)
    before = state(run)
    found = wrong(run)
    assert found.keys() == {"checkpoint 20", "summary.json"}
    assert "damaged (" in found["checkpoint 20"] and "newest" in found["summary.json"]
    with pytest.raises(SystemExit) as stop:
        cli.main(["verify", str(run)])
    out, err = capsys.readouterr()
    assert stop.value.code == 3 and state(run) == before
    assert err.count("\n") == 1 and "checkpoint 20, summary.json" in err
    assert len(re.findall("^wrong ", out, re.M)) == 2


def test_a_checkpoint_of_an_older_flaxvae_is_not_called_damaged(run):
    (run / "checkpoints" / "20" / "model").mkdir()
    found = wrong(run)["checkpoint 20"]
    assert "is from an older flaxvae" in found and "damaged" not in found


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.partition("\n")[2], "line 1 is of epoch 2"),  # a missing row
        (lambda text: text.splitlines()[0] + "\n", "1 rows: expected 2"),
        (lambda text: text + text.splitlines()[1] + "\n", "line 3 is of epoch 2"),
        (lambda text: text.replace('"step": 20', '"step": 10'), "line 2 is of step 10"),
        (lambda text: re.sub(r'("train_kl": )[^,]*', r"\1NaN", text), "line 1: train_kl is nan"),
        (lambda text: text.rstrip("\n"), "line 2 is cut off"),
        (lambda text: text.replace("{", "", 1), "line 1 is damaged (not JSON"),
        (lambda text: "", "0 rows: expected 2"),
    ],
)
def test_metrics(run, change, words):
    rewrite(run / "metrics.jsonl", change)
    found = wrong(run)
    assert words in found.pop("metrics.jsonl") and found.keys() <= {"summary.json"}


def test_summary(run):
    path = run / "summary.json"
    whole = json.loads(path.read_text())
    for changes, words in (
        ({"parameters_sha256": "0" * 64}, "000000000000…: expected"),
        ({"epochs": 3}, "3 epochs: expected 2"),
        ({"test": {"elbo": float("-inf")}}, "test elbo is -inf"),
    ):
        write_json(path, whole | changes)
        found = wrong(run)
        assert words in found.pop("summary.json") and not found
    path.write_text(path.read_text()[:-9])
    found = wrong(run)["summary.json"]
    assert "not JSON" in found and f"write it again with `flaxvae train --resume {run}`" in found


def test_run_json(run):
    assert "changed since it was written" in wrong_after(run, '"peak": 16', '"peak": 1')
    record = json.loads((run / "run.json").read_text())
    del record["seal"]  # as an earlier flaxvae wrote it
    whole = json.dumps(record, indent=2)
    del record["training"]["seed"], record["arguments"]["latent_dim"], record["data_sha256"]
    faults = {
        json.dumps(record): "without data_sha256, latent_dim, seed",
        json.dumps(json.loads(whole) | {"parameters": 3}): "3 parameters: its model has 4,420",
        whole[:-9]: "damaged",
        whole.replace('"latent_dim": 2', '"latent_dim": "2"'): "",
        whole.replace('"vae"', '"vea"'): "model 'vea', which is not flaxvae's",
    }
    for text, words in faults.items():
        (run / "run.json").write_text(text)
        found = wrong(run)
        assert words in found.pop("run.json") and not found


def wrong_after(run, old, new):
    """What is said of run.json where ``old`` in it has become ``new``."""
    text = (run / "run.json").read_text()
    assert old in text
    (run / "run.json").write_text(text.replace(old, new))
    return wrong(run)["run.json"]


def png(pixels):
    """A PNG of 4 x 4 grey pixels, with these bytes of rows; None: with bytes that zlib cannot."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", 4, 4, 8, 0, 0, 0, 0)
    data = b"\xff" * 9 if pixels is None else zlib.compress(pixels)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def test_figures(run):
    paths = sorted((run / "figures").iterdir())[:4]
    raw = [path.read_bytes() for path in paths]
    paths[0].write_bytes(raw[0][:-100])  # truncated
    paths[1].write_bytes(raw[1][:200] + bytes([raw[1][200] ^ 1]) + raw[1][201:])
    paths[2].write_bytes(b"GIF89a")
    paths[3].write_bytes(b"")
    words = ["cut off after", "damaged in", "GIF89a", "expected a PNG"]
    more = sorted((run / "figures").iterdir())[4:6]
    more[0].write_bytes(png(pixels=b"\0" * 9))  # checksums fit, and pixels are missing
    more[1].write_bytes(png(pixels=None))
    paths, words = paths + more, [*words, "9 bytes of pixels: expected 20", "pixels are damaged"]
    found = wrong(run)
    assert list(found) == [f"figures/{path.name}" for path in paths]
    assert all(word in said for word, said in zip(words, found.values()))


def test_what_other_commands_wrote(run):
    np.savez(run / "latents.npz", z=np.arange(999.0), score=np.zeros(3))
    (run / "evaluation.json").write_text('{"images": 360, "split": "test", "elbo": -3.0}')
    assert wrong(run) == {}
    raw = (run / "latents.npz").read_bytes()
    (run / "latents.npz").write_bytes(raw[:500] + b"\xff" + raw[501:])
    edit(run / "evaluation.json", elbo=float("nan"))
    assert "z.npy is damaged" in wrong(run)["latents.npz"]
    np.savez(run / "latents.npz", z=np.zeros(3))
    path = run / "latents.npz"
    path.write_bytes(encrypted(path.read_bytes()))
    assert "cannot be read" in wrong(run)["latents.npz"]
    assert "elbo is nan" in wrong(run)["evaluation.json"]
    (run / "latents.npz").write_bytes(raw[:-30])
    assert "cannot be read" in wrong(run)["latents.npz"]


@pytest.mark.parametrize("written", [[], ["--images", "mine.npy"]])
def test_scores(run, monkeypatch, written):
    monkeypatch.chdir(run.parent)
    np.save("mine.npy", np.zeros((3, 8, 8), np.uint8))
    cli.main(["score", str(run), *written])
    path = run / ("scores-images-mine.csv" if written else "scores.csv")
    assert wrong(run) == remarks(run) == {}
    if not written:
        loaded, record = flaxvae.load(run), (run / anomaly.FILE).read_text()
        anomaly.check_scores(loaded)
        edit(run / anomaly.FILE, variables_sha256="0" * 64)
        with pytest.raises(DataError, match="of other parameters"):
            anomaly.check_scores(loaded)
        (run / anomaly.FILE).write_text(record)
    whole = path.read_text()
    path.write_text(whole[: whole.rindex(",")])
    if not written:
        with pytest.raises(DataError, match="of other parameters"):
            anomaly.check_scores(loaded)
    assert f"line {whole.count(chr(10))} is incomplete" in wrong(run)[path.name]
    path.write_text("")
    assert "other columns" in wrong(run)[path.name]


def test_the_page_of_other_parameters(run):
    pages.write(run / pages.NAME, "<p>before</p>\n", "0" * 64)
    assert "of other parameters" in remarks(run)[pages.NAME] and wrong(run) == {}


def test_leftovers_are_named(run):
    left = ["checkpoints/damaged-10", "checkpoints/30.orbax-checkpoint-tmp-1", "run.json.partial"]
    for name in left[:2]:
        (run / name).mkdir()
    (run / left[2]).write_text("{")
    assert wrong(run) == {} and set(remarks(run)) == set(left)


def test_an_interrupted_run_is_well(tmp_path, no_figures, monkeypatch, capsys):
    class Stop(observers.Quiet):
        def progress(self, step, metrics, images_per_second):
            if step >= 12:
                raise KeyboardInterrupt

    monkeypatch.setattr(observers, "Quiet", Stop)
    with pytest.raises(KeyboardInterrupt):
        flaxvae.train(
            epochs=4,
            ema=0.9,
            patience=2,
            run=str(tmp_path / "run"),
            progress=False,
            **TINY,
        )
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"epo')
    cli.main(["verify", str(tmp_path / "run")])
    out = " ".join(capsys.readouterr().out.split())
    assert "none yet" in out and "is incomplete" in out and "wrong" not in out


def test_a_finished_run_that_goes_on_is_well(run):
    folder = RunFolder(run)
    plan = folder.plan()
    folder.extend(dataclasses.replace(plan, training=dataclasses.replace(plan.training, epochs=3)))
    assert wrong(run) == {}
    assert remarks(run) == {"summary.json": "out of date: in training, or interrupted"}


@pytest.fixture
def replaced(run, monkeypatch):
    """``replaced(change)``: a training does this as soon as verify looks at a checkpoint."""

    def set_up(change):
        look = checkpoints.Checkpoints._look

        def meanwhile(self, step, like):
            change(step)
            return look(self, step, like)

        monkeypatch.setattr(checkpoints.Checkpoints, "_look", meanwhile)

    shutil.copytree(run / "checkpoints" / "20", run / "checkpoints" / "10")
    return set_up


def test_a_checkpoint_that_a_training_removes_meanwhile(run, replaced):
    looks = []

    def remove(step):
        """In two goes, between which it looks damaged."""
        looks.append(step)
        if step == 10 and looks.count(10) == 1:
            (data_files(run / "checkpoints" / "10")[0]).unlink()
        elif step == 10 and looks.count(10) == 2:
            shutil.rmtree(run / "checkpoints" / "10")

    replaced(remove)
    found = {finding.what: finding.ok for finding in verify(RunFolder(run))}
    assert looks[:3] == [20, 10, 10] and found["checkpoint 20"] is True
    assert "checkpoint 10" not in found and False not in found.values()


def test_all_checkpoints_are_others_meanwhile(run, replaced):
    def replace(step):
        if step == 20 and (run / "checkpoints" / "20").exists():
            (run / "checkpoints" / "20").rename(run / "checkpoints" / "30")
            shutil.rmtree(run / "checkpoints" / "10")

    replaced(replace)
    found = {finding.what: finding.ok for finding in verify(RunFolder(run))}
    assert found["checkpoint 30"] is True and not {"checkpoint 10", "checkpoint 20"} & found.keys()


def test_what_is_not_read_is_named(run):
    (run / "notes.txt").write_text("mine")
    (run / "figures" / "mine.svg").write_text("<svg/>")
    assert wrong(run) == {}
    assert remarks(run) == {"others": "not read: figures/mine.svg, notes.txt"}


def test_events(run):
    """Every bit of them is looked at; what a killed process left is no damage."""
    pytest.importorskip("tensorboardX")
    (path,) = (run / "tb").iterdir()
    whole = path.read_bytes()
    name = f"tb/{path.name}"
    count, complete = events.count(path)
    assert complete and count > 2 * len(json.loads((run / "metrics.jsonl").open().readline())) - 6
    for bit in random.Random(0).sample(range(8 * len(whole)), 40):
        raw = bytearray(whole)
        raw[bit // 8] ^= 1 << bit % 8
        path.write_bytes(raw)
        with suppress(ValueError):  # a longer last event is one that is not finished
            seen, complete = events.count(path)
            assert seen < count and not complete
    path.write_bytes(whole[:200] + bytes([whole[200] ^ 1]) + whole[201:])
    assert "damaged in the" in wrong(run)[name]
    path.write_bytes(whole[:-5])
    assert wrong(run) == {}
    assert {f.what: f.said for f in verify(RunFolder(run))}[name] == (
        f"{count - 1:,} events, the last one incomplete"
    )


def test_a_run_without_anything_yet(run):
    for name in ("checkpoints", "figures"):
        shutil.rmtree(run / name)
    (run / "metrics.jsonl").unlink()
    (run / "summary.json").unlink()
    assert wrong(run) == {}
    assert remarks(run).keys() == {"checkpoints", "summary.json", "figures", "report.html"}


@pytest.mark.slow
def test_a_prior(tmp_path, no_figures, monkeypatch):
    monkeypatch.setattr(api.figures, "draw", lambda *arguments: None)
    own = {"codes": 8, "code_dim": 4, "prior_width": 8, "prior_layers": 1}
    choices = {k: v for k, v in TINY.items() if k != "latent_dim"}
    path = tmp_path / "vq"
    flaxvae.train(progress=False, model="vq_vae", epochs=1, run=str(path), **choices, **own)
    fit_prior(path, TrainSettings(epochs=1, devices=1))
    names = [f.what for f in verify(RunFolder(path)) if f.ok]
    assert "prior/run.json" in names and "prior/checkpoint 10" in names and wrong(path) == {}
    files = data_files(path / "prior" / "checkpoints" / "10" / "state")
    for file in files:  # some of them Orbax leaves behind unread
        flip(file)
    assert wrong(path).keys() == {"prior/checkpoint 10", "prior/summary.json"}
    for file in files:
        flip(file)
    cli.main(["train", "--resume", str(path), "--epochs", "2"])  # other weights
    assert wrong(path) == {} and "not used" in remarks(path)["prior/run.json"]
    (path / "prior" / "run.json").unlink()
    assert "prior/run.json" in wrong(path)


def test_a_page_is_not_said_to_be_of_other_parameters_where_none_restore(tmp_path):
    path = pages.write(tmp_path / pages.NAME, "<p>\n", "ab" * 32)
    found = [
        verifying._page(path, model)
        for model in ({"variables_sha256": "ab" * 32}, {"variables_sha256": "cd" * 32}, {})
    ]
    assert [one.ok for one in found] == [True, None, None]
    assert found[0].said.endswith("sha256 as written")
    assert "of other parameters" in found[1].said and "no model restores" in found[2].said
