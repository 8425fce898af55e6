"""Tables: columns of numbers are standardised as in training; what is not used is said."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

import flaxvae as fv
from flaxvae import cli
from flaxvae.data import sources, tables
from flaxvae.data.columns import Columns
from flaxvae.errors import DataError, UsageError
from flaxvae.trained import Trained

RNG = np.random.default_rng(0)
VALUES = RNG.normal(size=(40, 2)) * (50, 0.01) + (1000, -3)
LINES = [f"r{i},{a},{b},7,red,{('cat', 'dog')[i % 2]}" for i, (a, b) in enumerate(VALUES.tolist())]
TEXT = "\n".join(["id,mass,size,fixed,colour,Label", *LINES]) + "\n"


def write(folder, text, name="data.csv"):
    (folder / name).write_text(text)
    return str(folder / name)


def refused(folder, text, name="data.csv"):
    with pytest.raises(DataError) as caught:
        sources.load(write(folder, text, name))
    assert "\n" not in str(caught.value) and name in str(caught.value)
    return str(caught.value)


def check(data):
    assert data.kind == "table" and data.columns.names == ("mass", "size")
    order = np.random.RandomState(0).permutation(40)
    for part, rows in ((data.train, order[4:]), (data.test, order[:4])):
        expected = (VALUES[rows] - VALUES[order[4:]].mean(0)) / VALUES[order[4:]].std(0)
        np.testing.assert_allclose(part.x, expected, rtol=1e-4, atol=1e-5)
        assert list(part.files) == [f"r{i}" for i in rows]
        np.testing.assert_array_equal(part.y, np.array(["cat", "dog"])[rows % 2])
    notes = " | ".join(data.notes)
    assert "2 columns, standardised: mass, size" in notes
    assert "constant in training: fixed" in notes and "colour left out: 'red' in" in notes
    np.testing.assert_allclose(data.columns.restored(data.test.x), VALUES[order[:4]], rtol=1e-6)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_csv_is_standardised_by_its_training_rows(tmp_path, delimiter):
    check(sources.load(write(tmp_path, "\ufeff" + TEXT.replace(",", delimiter))))


def test_a_parquet_is_read_alike(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    names = ["id", "mass", "size", "fixed", "colour", "Label"]
    texts = list(zip(*(line.split(",") for line in LINES)))
    columns = [list(map(float, c)) if i in (1, 2, 3) else list(c) for i, c in enumerate(texts)]
    path = tmp_path / "data.parquet"
    parquet.write_table(arrow.table(dict(zip(names, columns))), path)
    check(sources.load(str(path)))
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        sources.load(str(path))


REFUSED = {
    "missing": ("a,b\n1,2\n3,\n5,6\n", "column b has no value in line 3"),
    "NA": ("a,b\n1,2\nNA,1\n5,6\n", "column a has no value in line 3"),
    "infinite": ("a,b\n1,2\n3,inf\n5,6\n", "column b is infinite in line 3"),
    "uneven": ("a,b\n1,2\n3\n", "line 3 has 1 values; expected 2"),
    "no header": ("1,2\n3,4\n", "begins with a line of numbers"),
    "empty": ("", "empty; expected a header"),
    "no rows": ("a,b\n", "no rows"),
    "one row": ("a,b\n1,2\n", "expected at least one to train and one to test on"),
    "text only": ("a\nred\nblue\n", "no column of numbers among a"),
    "constant": ("a\n1\n1\n1\n", "no column varies"),
    "twice": ("a,a\n1,2\n3,4\n", "two columns are called 'a'"),
    "quotes": ('a,b\n"1,2\n', "not a CSV file"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_wrong_is_said_with_its_row_and_column(tmp_path, case):
    text, said = REFUSED[case]
    assert said in refused(tmp_path, text)


def test_new_rows_are_standardised_as_those_of_training(tmp_path):
    data = sources.load(write(tmp_path, TEXT))
    columns = Columns.from_json(json.loads(json.dumps(data.columns.as_json())))
    assert columns == data.columns
    spec = fv.DataSpec("t", (2,), kind="table")
    recipe = fv.vae(spec, body=fv.Body(net="mlp", widths=(4,), likelihood="gaussian"))
    split = Trained(recipe, {}, columns=columns).split(VALUES)
    np.testing.assert_array_equal(split.x, columns.standardized(VALUES))
    assert not split.bounded
    other = tables.examples(tmp_path / write(tmp_path, "size,more,mass\n2,5,1\n4,5,3\n", "new.csv"))
    np.testing.assert_array_equal(columns.of(other.table), [[1, 2], [3, 4]])
    lacking = tables.examples(tmp_path / write(tmp_path, "size\n2\n", "new.csv"))
    with pytest.raises(DataError, match="no column mass; expected those of the training"):
        columns.of(lacking.table)


@pytest.mark.parametrize("likelihood", ["bernoulli", "continuous_bernoulli"])
def test_likelihoods_of_bounded_values_are_refused(likelihood):
    spec = fv.DataSpec("t", (2,), kind="table")
    with pytest.raises(UsageError, match="gaussian, gaussian_shared or gaussian_pixel"):
        fv.vae(spec, body=fv.Body(net="mlp", widths=(4,), likelihood=likelihood))


def test_a_table_is_trained_on_and_scored_and_never_drawn(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, TEXT)
    cli.main(["train", "--dataset", "data.csv", "--widths", "8", "--epochs", "1", "--run", "r"])
    shown = capsys.readouterr().out
    assert "likelihood gaussian" in shown and "flaxvae sample" not in shown
    assert {path.name for path in Path("r/figures").iterdir()} == {
        "curves.png",
        "latent_scatter.png",
    }
    cli.main(["score", "r", "data.csv", "--out", "scores.csv"])
    with Path("scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["file"] for row in rows) == sorted(f"r{i}" for i in range(40))
    for command in ("sample", "reconstruct", "interpolate", "traverse", "figures --draw-pixels"):
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli.main([*command.split(), "r"])
        assert caught.value.code == 2 and "rows are no images" in capsys.readouterr().err
