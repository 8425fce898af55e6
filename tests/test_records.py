"""JSON that is damaged, changed or not what it should be: one line, whatever it is."""

import json
import shutil
from typing import Annotated, Any, NotRequired, TypedDict

import pytest

import flaxvae
from disturbed import resume, rows, same
from flaxvae import cli
from flaxvae.declared import Within
from flaxvae.errors import DataError
from flaxvae.runs import records
from flaxvae.runs.folder import RunFolder

pytestmark = pytest.mark.usefixtures("no_figures")


class Part(TypedDict):
    size: Annotated[int, Within(lambda n: n > 0, "above 0")]


class Whole(TypedDict):
    name: str
    part: Part
    many: NotRequired[list[int | str] | None]
    each: NotRequired[dict[str, float]]
    rest: NotRequired[Any]
    seal: NotRequired[str]


GOOD = {"name": "a", "part": {"size": 3, "more": []}, "many": [1, "b"], "each": {"x": 2}}


def read(path, value):
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    path.write_bytes(raw)
    return records.read(path, Whole)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b'{"name": "\xff"}', "not UTF-8"),
        (b'{"name": "a", "part"', "not JSON"),
        (b'{"name": "a", "name": "b"}', "a name twice"),
        (b'{"rest": 1' + b"0" * 30 + b"}", "beyond 2^63"),
        (b'{"rest": 1' + b"0" * 9999 + b"}", "beyond 2^63"),
        (b"[" * 40 + b"]" * 40, "nested too deep"),
        (b"[" * 10**6, "nested too deep"),
        (b'{"a":' * 10**5, "nested too deep"),
        (b"null", "it is null: expected an object"),
        ([GOOD], "it is a list: expected an object"),
        ({"name": "a"}, "no part in it"),
        (GOOD | {"part": {}}, "no part size in it"),
        (GOOD | {"part": {"size": 0}}, "part size is 0: expected above 0"),
        (GOOD | {"part": {"size": True}}, "expected a whole number"),
        (GOOD | {"part": {"size": 1.5}}, "expected a whole number"),
        (GOOD | {"name": 3}, "name is 3: expected text"),
        (GOOD | {"many": [1, None]}, "many is a list: expected a list"),
        (GOOD | {"each": {"x": "1"}}, "each x is '1': expected a number"),
    ],
)
def test_what_cannot_be(tmp_path, value, words):
    with pytest.raises(DataError) as caught:
        read(tmp_path / "a.json", value)
    text = str(caught.value)
    assert "a.json is damaged (" in text and "\n" not in text and len(text) < 400
    assert words in text or ("many" in words and "many" in text)


def test_what_can_be(tmp_path):
    path = tmp_path / "a.json"
    for value in (GOOD, GOOD | {"many": None}, {k: GOOD[k] for k in ("name", "part")}):
        assert read(path, value) == value
        assert read(path, records.sealed(value)) == records.sealed(value)
    with pytest.raises(DataError, match="no else in it"):
        records.read(path, Whole)["else"]
    path.unlink()
    with pytest.raises(DataError, match="missing"):
        records.read(path, Whole)
    path.mkdir()
    with pytest.raises(DataError, match="not a file"):
        records.read(path, Whole)


def test_a_seal_is_of_the_content(tmp_path):
    """Not of its order or spaces; every change of a name or of a value is one."""
    whole = records.sealed(GOOD)
    assert read(tmp_path / "a", json.dumps(dict(reversed(whole.items())), indent=7).encode())
    for other in (
        whole | {"name": "b"},
        whole | {"part": {"size": 3}},
        whole | {"new": 0},
        {k: v for k, v in whole.items() if k != "each"},
        whole | {"seal": "0" * 64},
        whole | {"seal": None},
    ):
        with pytest.raises(DataError, match="changed since it was written"):
            read(tmp_path / "a", other)


# ---- of a run


EDITS = {
    "activation": lambda record: record["arguments"].update(activation="tanh"),
    "likelihood": lambda record: record["arguments"].update(likelihood="continuous_bernoulli"),
    "peak": lambda record: record.update(peak=255.0),
    "learning rate": lambda record: record["training"].update(learning_rate=0.1),
}


@pytest.mark.parametrize("how", ["as it was", "none", "made anew"])
@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_a_changed_run_json_is_noticed(stopped, tmp_path, capsys, edit, how):
    """By its seal, or without one, or with another, by the checkpoints, which are left alone."""
    path = shutil.copytree(stopped, tmp_path / "run")
    record = json.loads((path / "run.json").read_text())
    edit(record)
    if how != "as it was":
        del record["seal"]
    if how == "made anew":
        record = records.sealed(record)
    (path / "run.json").write_text(json.dumps(record))
    before = sorted(path.rglob("*"))
    words = "changed since it was written" if how == "as it was" else "does not belong to"
    with pytest.raises(DataError, match=words):
        flaxvae.load(path)
    for command in (["train", "--resume"], ["verify"], ["eval"]):
        with pytest.raises(SystemExit) as stop:
            cli.main([*command, str(path)])
        out, err = capsys.readouterr()
        assert stop.value.code == 3 and err.count("\n") == 1
        assert words in err or words in " ".join(out.split())
    assert sorted(path.rglob("*")) == before


def test_older_checkpoints_fit_a_run_that_went_on_otherwise(stopped, tmp_path):
    path = shutil.copytree(stopped, tmp_path / "run")
    folder = RunFolder(path)
    plan = folder.plan()
    folder.extend(plan)
    assert len(folder.digests()) == 1  # nothing is other
    for epochs in (5, 6):
        folder.extend(plan.__class__(**{**vars(plan), "training": _with(plan, epochs)}))
    assert len(folder.digests()) == 3
    assert flaxvae.load(path).plan.training.epochs == 6


def _with(plan, epochs):
    return plan.training.__class__(**{**vars(plan.training), "epochs": epochs})


def test_a_run_without_seals_is_read(stopped, straight, tmp_path, capsys):
    """Of an earlier flaxvae, and it goes on."""
    path = shutil.copytree(stopped, tmp_path / "run")
    record = json.loads((path / "run.json").read_text())
    del record["seal"]
    (path / "run.json").write_text(json.dumps(record))
    flaxvae.load(path)
    resume(path, capsys)
    assert same(path, straight)


def test_a_run_of_before_a_setting_is_read(stopped, straight, tmp_path, capsys):
    """It has the default, which does what there was before; and goes on."""
    path = shutil.copytree(stopped, tmp_path / "run")
    record = json.loads((path / "run.json").read_text())
    record["former"] = [record.pop("seal")]  # that the checkpoints were written for
    del record["arguments"]["convolutions"], record["training"]["on_nan"]
    (path / "run.json").write_text(json.dumps(records.sealed(record)))
    assert flaxvae.load(path).plan == flaxvae.load(stopped).plan
    cli.main(["verify", str(path)])
    assert "ok     run.json" in capsys.readouterr().out
    resume(path, capsys)
    assert same(path, straight)


@pytest.mark.parametrize("bad", [b'{"epoch": 1, "st\n', b"\xff\n", b'{"epoch": 1}\n', b"[1]\n"])
def test_a_damaged_row_is_dropped(stopped, straight, tmp_path, capsys, bad):
    """The others stay, and the training goes on as if nothing had been."""
    path = shutil.copytree(stopped, tmp_path / "run")
    (path / "metrics.jsonl").write_bytes(bad)
    out = " ".join(resume(path, capsys).split())
    assert "damaged or missing, and left out: epoch 1" in out
    assert rows(path) == rows(straight)[1:]
    summaries = [json.loads((p / "summary.json").read_text()) for p in (path, straight)]
    assert summaries[0]["parameters_sha256"] == summaries[1]["parameters_sha256"]
