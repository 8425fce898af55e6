"""Codes as files for other tools: what is read back is what was encoded."""

import csv

import numpy as np
import pytest

import flaxvae
from flaxvae import cli
from flaxvae.errors import UsageError
from flaxvae.runs import exported

ARRAYS = {
    "z": np.array([[0.5, -1.25], [3.0, 1e-8]], np.float32),
    "score": np.array([20.5, np.nan]),
    "files": np.array(["a b.png", 'c,"d".png']),
    "map": np.zeros((2, 3)),
}


def rows(path, separator):
    with path.open(newline="") as file:
        return [*csv.reader(file, delimiter=separator)]


def test_a_table_has_a_row_for_each_image(tmp_path):
    assert exported.write(tmp_path / "x.csv", ARRAYS) == ["map"]
    header, *found = rows(tmp_path / "x.csv", ",")
    assert header == ["z1", "z2", "score", "files"]
    np.testing.assert_array_equal(np.float32([row[:2] for row in found]), ARRAYS["z"])
    assert [row[3] for row in found] == ARRAYS["files"].tolist() and found[1][2] == "nan"


def test_the_projector_gets_vectors_and_metadata(tmp_path):
    exported.write(tmp_path / "x.tsv", ARRAYS)
    np.testing.assert_array_equal(np.float32(rows(tmp_path / "x.tsv", "\t")), ARRAYS["z"])
    assert rows(tmp_path / "x-metadata.tsv", "\t")[0] == ["score", "files"]
    exported.write(tmp_path / "y.tsv", {"z": ARRAYS["z"], "labels": np.array([4, 7])})
    assert rows(tmp_path / "y-metadata.tsv", "\t") == [["4"], ["7"]]  # one column: no header


def test_parquet_keeps_types(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    exported.write(tmp_path / "x.parquet", ARRAYS)
    found = parquet.read_table(tmp_path / "x.parquet")
    assert found.column_names == ["z1", "z2", "score", "files"]
    np.testing.assert_array_equal(found["z2"].to_numpy(), ARRAYS["z"][:, 1])
    assert found["files"].to_pylist() == ARRAYS["files"].tolist()


def test_other_endings_are_refused():
    with pytest.raises(UsageError, match=r"ends in \.npz, \.csv, \.parquet, \.tsv"):
        exported.check(exported.Path("x.txt"))


def test_from_the_command_line(trained, tmp_path, capsys):
    cli.main(["encode", str(trained), "--no-scores", "--out", str(tmp_path / "z.csv")])
    assert capsys.readouterr().out.strip().endswith("z.csv")
    header, *found = rows(tmp_path / "z.csv", ",")
    test = flaxvae.load(trained).data().test
    assert header == ["z1", "z2", "labels"] and len(found) == len(test.x)
    assert [int(row[2]) for row in found] == test.y.tolist()
