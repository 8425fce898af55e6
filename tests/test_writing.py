"""Files are whole or not there, and stay in the folder that they are written into."""

import os
import stat
from pathlib import Path

import numpy as np
import pytest

import flaxvae
from conftest import TINY
from flaxvae import cli, writing
from flaxvae.errors import DataError
from flaxvae.runs import lock


def listing(folder):
    return sorted(path.name for path in folder.iterdir())


# ---- one file


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt, ValueError])
def test_a_file_that_is_not_finished_changes_nothing(tmp_path, error):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(error), writing.whole(path) as file:
        file.write(b"ne")
        raise error
    assert path.read_text() == "old" and listing(tmp_path) == ["a.json"]
    writing.text(path, "new\n")
    assert path.read_text() == "new\n" and listing(tmp_path) == ["a.json"]


def test_a_folder_that_cannot_be_replaced_is_as_it_was(tmp_path, monkeypatch):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "file").write_text("old")
    rename = Path.rename

    def fail(path, target):
        if (path / "new").exists():
            raise OSError("no room")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="no room"), writing.whole_folder(tmp_path / "old") as folder:
        (folder / "new").write_text("new")
    assert [path.name for path in tmp_path.rglob("*")] == ["old", "file"]


def test_a_file_may_be_read_by_whom_others_may(tmp_path):
    (tmp_path / "by_hand").write_text("")
    writing.text(tmp_path / "whole", "")
    writing.append(tmp_path / "appended", "")
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert len(modes) == 1


def test_names_of_unfinished_files_differ_and_are_short(tmp_path):
    path = tmp_path / ("x" * 240)
    names = {writing.temporary(path).name for _ in range(100)}
    assert len(names) == 100 and all(str(os.getpid()) in name for name in names)
    writing.text(path, "")
    assert listing(tmp_path) == [path.name]


def test_a_new_folder_that_fails_leaves_none_of_those_above_it(tmp_path):
    (tmp_path / "old").mkdir()
    for parent in ("old", "new/deep"):
        with pytest.raises(OSError), writing.whole_folder(tmp_path / parent / "npz"):
            raise OSError(28, "No space left on device")
    assert listing(tmp_path) == ["old"] and listing(tmp_path / "old") == []


@pytest.mark.parametrize("name", ["\u65e5" * 80, "\u00fc" * 120, "half \udcff" + "x" * 200])
def test_a_name_may_be_as_long_as_the_file_system_allows(tmp_path, name):
    path = tmp_path / name
    path.with_name(name[:9]).write_text("other")
    writing.text(path, "whole")
    with writing.whole_folder(path.with_name(name[:-1])) as folder:
        (folder / "file").write_text("")
    assert path.read_text() == "whole" and len(listing(tmp_path)) == 3


def test_nothing_is_written_through_a_link(tmp_path):
    mine, link = tmp_path / "mine", tmp_path / "link"
    mine.write_text("precious")
    link.symlink_to(mine)
    with pytest.raises(OSError):
        writing.append(link, "more")
    writing.text(link, "whole")  # takes the link's place
    assert mine.read_text() == "precious" and not link.is_symlink()


def test_what_a_killed_process_left_is_cleared_and_nothing_else(tmp_path):
    old, young = (writing.temporary(tmp_path / name) for name in ("old", "young"))
    for path in (old, young, tmp_path / "kept"):
        path.write_text("")
    folder = writing.temporary(tmp_path / "folder")
    (folder / "inside").mkdir(parents=True)
    for path in (old, folder, tmp_path / "kept"):
        os.utime(path, (0, 0))
    writing.clear(tmp_path)
    assert listing(tmp_path) == sorted([young.name, "kept"])


def test_a_new_folder_clears_what_was_to_be_it_and_nothing_else(tmp_path):
    left, other, own = (
        *(writing.temporary(tmp_path / name) for name in ("npz", "other")),
        tmp_path / "download.partial",
    )
    for path in (left, other, own):
        path.mkdir()
        os.utime(path, (0, 0))
    with writing.whole_folder(tmp_path / "npz") as folder:
        (folder / "file").write_text("new")
    assert listing(tmp_path) == sorted(["npz", other.name, own.name])


# ---- a folder that may be somebody else's


@pytest.fixture
def victim(tmp_path):
    """A file and a folder of the user's own, and a check that nothing has become of them."""
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "file").write_text("precious")

    def check():
        assert listing(mine) == ["file"] and (mine / "file").read_text() == "precious"

    return mine, check


def tamper(path, name, mine):
    """Put a link to what is the user's own in the place of a part of a run."""
    link = path / name
    target = mine if not name.count(".") and name not in ("lock", "gone") else mine / "file"
    if link.is_dir():
        link.rename(path.parent / "original")
    elif link.exists():
        link.unlink()
    link.symlink_to(path / "nowhere" if name == "gone" else target)


@pytest.mark.parametrize(
    "name",
    ["lock", "gone", "metrics.jsonl", "checkpoints", "figures", "tb", "checkpoints/probe.x"],
)
def test_a_run_with_links_inside_is_not_written(stopped, tmp_path, capsys, victim, name):
    """Least of all by a resume, whatever the link is in the place of; a dangling one included."""
    import shutil

    mine, check = victim
    path = shutil.copytree(stopped, tmp_path / "run")
    tamper(path, name, mine)
    for line in (f"train --resume {path}", f"fit-prior {path}"):
        with pytest.raises(SystemExit) as stop:
            cli.main(line.split())
        err = capsys.readouterr().err
        assert stop.value.code == DataError.exit_code and err.count("\n") == 1
        assert f"{path / name} is a symbolic link" in err
        check()


def test_a_picture_is_not_drawn_elsewhere(trained, tmp_path, capsys, victim):
    import shutil

    mine, check = victim
    path = shutil.copytree(trained, tmp_path / "run")
    tamper(path, "figures", mine)
    for line in (f"sample {path}", f"figures {path}", f"encode {path}"):
        with pytest.raises(SystemExit) as stop:
            cli.main(line.split())
        err = capsys.readouterr().err
        assert stop.value.code == 3 and err.count("\n") == 1 and "is a symbolic link" in err
        check()
    cli.main(["eval", str(path)])  # numbers there are all the same
    out, err = capsys.readouterr()
    assert "-ELBO" in out and err.count("\n") == 1 and "could not be written to a file" in err
    assert not (path / "evaluation.json").exists()
    (tmp_path / "link.png").symlink_to(tmp_path / "target.png")  # the user's own choice
    cli.main(["sample", str(path), "--n", "4", "--out", str(tmp_path / "link.png")])
    assert (tmp_path / "target.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "link.png").is_symlink()
    check()


def test_a_folder_may_be_reached_by_a_link(trained, tmp_path, capsys):
    (tmp_path / "latest").symlink_to(trained)
    cli.main(["eval", str(tmp_path / "latest")])
    assert capsys.readouterr().err == ""


# ---- a folder that is empty as good as


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("name", ["lock", ".run.json.12-ab.partial", "run.json.partial"])
def test_what_a_start_that_was_killed_leaves_counts_as_nothing(tmp_path, name):
    path = tmp_path / "run"
    path.mkdir()
    (path / name).write_text("")
    os.utime(path / name, (0, 0))
    flaxvae.train(progress=False, epochs=0, run=str(path), **TINY)
    assert name not in listing(path) and flaxvae.load(path)


def test_a_folder_with_anything_else_in_it_is_not_empty(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(flaxvae.errors.UsageError, match="not empty"):
        flaxvae.train(progress=False, epochs=0, run=str(tmp_path), **TINY)
    (tmp_path / "notes.txt").unlink()
    with (
        lock.hold(tmp_path),
        pytest.raises(flaxvae.errors.UsageError, match="in use by process"),
    ):
        flaxvae.train(progress=False, epochs=0, run=str(tmp_path), **TINY)
    assert listing(tmp_path) == []


# ---- codes


def test_an_npz_may_hold_any_name(trained, tmp_path, capsys):
    """``file`` and ``self`` are parameters of what NumPy writes an .npz with."""
    x = np.zeros((4, 8, 8, 1), np.uint8)
    names = np.array(list("abcd"))
    np.savez(tmp_path / "own.npz", x=x, self=names)
    source, out = tmp_path / "own.npz", tmp_path / "codes.npz"
    cli.main(["encode", str(trained), "--images", str(source), "--no-scores", "--out", str(out)])
    with np.load(out) as found:
        assert sorted(found) == ["self", "z"] and found["z"].shape == (4, 2)
        np.testing.assert_array_equal(found["self"], names)
