"""Decoded pictures are kept: once, whole, and for exactly the files that they are of."""

import errno
import json
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from conftest import encrypted
from flaxvae import cli
from flaxvae.data import cache, containers, decode, folder, pictures, rows, tar_index
from flaxvae.errors import DataError
from flaxvae.runs import kept as everything
from flaxvae.settings import DataSettings
from test_folder import cached, fails, load, numbered, pack, picture, written

__all__ = ["cached"]


@pytest.fixture
def photos(tmp_path):
    return written(tmp_path / "photos", numbered(40))


@pytest.fixture
def counting(monkeypatch):
    """The names of the pictures that are decoded."""
    names, row = [], pictures.row

    def counted(content, *more):
        names.append(content)
        return row(content, *more)

    monkeypatch.setattr(pictures, "row", counted)
    return names


def kept():
    return sorted(path.name for path in cache.folder().iterdir())


def test_pictures_are_decoded_once(photos, counting):
    first = load(photos)
    assert len(counting) == 40 and len(kept()) == 1
    second = load(photos)
    assert len(counting) == 40
    assert first.sha256 == second.sha256
    for ours, theirs in zip((first.train, first.test), (second.train, second.test), strict=True):
        np.testing.assert_array_equal(ours.x, theirs.x)
        assert ours.files == theirs.files


def test_the_hash_is_that_of_the_pipeline(photos):

    data = load(photos)
    parts = [data.train.x, data.validation.x, data.test.x]
    assert data.sha256 == rows.digest(parts)


def test_each_part_is_a_view_of_one_file(photos):
    data = load(photos)
    starts = [part.x.__array_interface__["data"][0] for part in (data.train, data.validation)]
    assert starts[1] - starts[0] == data.train.x.nbytes
    assert isinstance(data.test.x, np.memmap) and not data.test.x.flags.writeable


def rewrite(path, content):
    path.write_bytes(content)


CHANGES = {
    "other content": lambda p: rewrite(p / "003.png", picture(99)),
    "of the same size and time": lambda p: same_time(p / "003.png"),
    "another file": lambda p: rewrite(p / "new.png", picture(99)),
    "one less": lambda p: (p / "003.png").unlink(),
    "another name": lambda p: (p / "003.png").rename(p / "zzz.png"),
}


def same_time(path):
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    time.sleep(0.02)  # the clock of a file system ticks in milliseconds
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("change", CHANGES)
def test_other_files_have_another_cache(photos, change):
    load(photos)
    CHANGES[change](photos)
    load(photos)
    assert len(kept()) == 2


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_an_archive_that_changes_has_another_cache(tmp_path, photos, kind):
    packed = pack(tmp_path / f"a.{kind}", photos)
    first = load(packed)
    load(packed)
    assert len(kept()) == 1
    rewrite(photos / "003.png", picture(99))
    second = load(pack(packed, photos))
    assert len(kept()) == 2 and first.sha256 != second.sha256


def test_other_preprocessing_and_splits_have_another_cache(photos):
    for number, settings in enumerate(
        [{}, {"image_size": 8}, {"image_size": 8, "resize": "fit"}, {"validation": 0.3}], 1
    ):
        load(photos, **settings)
        assert len(kept()) == number
    load(photos, strict=True)
    assert len(kept()) == 4


@pytest.mark.parametrize("damage", ["truncated", "no json", "another shape", "an older format"])
def test_a_damaged_cache_is_made_anew(photos, counting, damage):
    before = load(photos).sha256
    (path,) = cache.folder().iterdir()
    rows, about = path / "rows.npy", path / "cache.json"
    if damage == "truncated":
        rows.write_bytes(rows.read_bytes()[:-5])
    elif damage == "no json":
        about.write_text("{")
    else:
        key = {"another shape": "images", "an older format": "format"}[damage]
        about.write_text(json.dumps(json.loads(about.read_text()) | {key: 7}))
    assert load(photos).sha256 == before and len(counting) == 80
    load(photos)
    assert len(counting) == 80 and len(kept()) == 1


@pytest.mark.parametrize("name", ["rows.npy", "cache.json"])
def test_a_full_disk_leaves_nothing(photos, monkeypatch, name):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        if name == "rows.npy":
            patch.setattr(os, "fsync", full)
        else:
            patch.setattr("flaxvae.writing.text", full)
        fails(photos, "cannot be kept there (No space left on device); make room there, or set")
        assert kept() == []
    load(photos)
    assert len(kept()) == 1


def test_a_file_that_may_not_grow(photos):
    """The system's own error, in the middle of the rows."""
    script = """if True:
        import resource, signal, sys
        from flaxvae.data import folder
        from flaxvae.settings import DataSettings
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
        try:
            folder.load(sys.argv[1], DataSettings(sys.argv[1]))
        except Exception as error:
            print(type(error).__name__, error)
    """
    found = subprocess.run(
        [sys.executable, "-c", script, str(photos)], capture_output=True, text=True
    )
    assert found.stdout.startswith("DataError ") and "File too large" in found.stdout, found
    assert kept() == []


def test_a_folder_that_cannot_be_made(photos, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FLAXVAE_CACHE_DIR", str(tmp_path / "file"))
    fails(photos, "decoded pictures cannot be kept there (Not a directory)", "FLAXVAE_CACHE_DIR")


def test_what_stops_decoding_leaves_nothing(photos, monkeypatch):
    def stopped(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        folder.load(str(photos), DataSettings(str(photos)), stopped)
    assert kept() == []


@pytest.mark.parametrize("damage", [None, lambda raw: raw[:50], encrypted])
def test_a_compressed_tar_is_decompressed_once(tmp_path, photos, monkeypatch, damage):
    opened, decompress = [], containers._Plain._decompressed

    def counted(plain):
        opened.append(plain)
        return decompress(plain)

    monkeypatch.setattr(containers._Plain, "_decompressed", counted)
    path = pack(tmp_path / "pets.tar.gz", photos)
    first, again = load(path), load(path)
    assert len(opened) == 1 and first.sha256 == again.sha256
    assert first.train.files == again.train.files
    if damage is None:
        os.utime(path)  # another time of change: it may be another
        load(path)
    else:
        (index,) = tar_index.folder().iterdir()
        index.write_bytes(damage(index.read_bytes()))
        assert load(path).sha256 == first.sha256
    assert len(opened) == 2 and not kept()[0].startswith(".")
    assert {entry.source for entry in everything.entries()} >= {"files in pets", str(path)}


def test_a_compressed_tar_that_cannot_be_decompressed_again_is_one_fault(
    tmp_path, photos, monkeypatch
):
    """Its files are known, but none can be read: that is no damage of each picture."""
    path, tried = pack(tmp_path / "pets.tar.gz", photos), []
    load(path)

    def full(**_):
        tried.append(1)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(containers.tempfile, "TemporaryFile", full)
    assert len(load(path).train.x) > 0 and not tried  # its pictures are kept
    fails(path, "pets.tar.gz: cannot be read (No space left on device)", image_size=9)
    assert tried


def test_two_who_build_the_same_one(photos, monkeypatch, counting):
    begun, wait = threading.Event(), threading.Event()
    found = []

    def watch(done, total):
        begun.set()
        assert wait.wait(30)

    def build(*watch):
        found.append(folder.load(str(photos), DataSettings(str(photos)), *watch))

    first = threading.Thread(target=build, args=(watch,))
    first.start()
    assert begun.wait(30)
    second = threading.Thread(target=build)
    second.start()
    second.join(0.2)
    assert second.is_alive() and not found  # it waits
    wait.set()
    for thread in (first, second):
        thread.join(30)
    assert len(counting) == 40 and found[0].sha256 == found[1].sha256
    assert len(kept()) == 1


def test_two_processes_that_build_the_same_one(photos):
    script = """if True:
        import sys
        from flaxvae.data import folder
        from flaxvae.settings import DataSettings
        print(folder.load(sys.argv[1], DataSettings(sys.argv[1])).sha256)
    """
    command = [sys.executable, "-c", script, str(photos)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = {process.communicate(timeout=60)[0] for process in both}
    assert [process.returncode for process in both] == [0, 0]
    assert said == {load(photos).sha256 + "\n"} and len(kept()) == 1


def test_nothing_is_kept_where_nothing_may_be(photos, monkeypatch):
    expected = load(photos).sha256
    home = cache.folder()
    everything.clear()
    monkeypatch.setenv("FLAXVAE_CACHE_DIR", "")
    data = load(photos)
    assert data.sha256 == expected == rows.digest([data.train.x, data.validation.x, data.test.x])
    assert list(home.iterdir()) == [] and everything.entries() == []


def test_progress_is_told(photos):
    heard = []
    asked = DataSettings(str(photos))
    folder.load(str(photos), asked, lambda done, total: heard.append((done, total)))
    assert heard[-1] == (40, 40) and heard == sorted(heard)


# ---- flaxvae cache


def run(capsys, line):
    capsys.readouterr()
    code = 0
    try:
        cli.main([*line.split(), "--no-cache"])
    except SystemExit as stop:
        code = stop.code
    return code, *capsys.readouterr()


def test_the_command_lists_and_clears(tmp_path, photos, capsys, monkeypatch):
    assert run(capsys, "cache")[1].startswith("nothing is kept in ")
    others = written(tmp_path / "others", numbered(9))
    load(photos), load(others), load(others, image_size=9)
    os.utime(cache.folder() / kept()[0] / "cache.json", (0, 0))
    code, out, _ = run(capsys, "cache")
    head, *lines = out.splitlines()
    assert code == 0 and head.split() == ["name", "images", "size", "MB", "last", "used", "source"]
    assert len(lines) == 3 and kept()[0] in lines[-1]  # the last used comes first
    line = next(line for line in lines if line.startswith("photos-"))
    assert line.split()[1:3] == ["40", "6x5x3"] and line.endswith(str(photos))
    code, _, err = run(capsys, "cache --clear other")
    assert code == 2 and "--clear other: expected the name of a cache" in err and len(kept()) == 3
    code, out, _ = run(capsys, f"cache --clear {line.split()[0]}")
    assert code == 0 and out.startswith("removed 1 cache, 0.0 MB") and len(kept()) == 2
    assert run(capsys, "cache --clear others")[1].startswith("removed 2 caches") and kept() == []
    load(photos)
    (cache.folder() / "odd-0123").mkdir()
    assert "damaged" in run(capsys, "cache")[1]
    assert run(capsys, "cache --clear")[1].startswith("removed 2 caches") and kept() == []
    monkeypatch.setenv("FLAXVAE_CACHE_DIR", "")
    assert run(capsys, "cache")[1] == "nothing is kept: FLAXVAE_CACHE_DIR is empty\n"


def test_the_command_lists_and_clears_classifiers(photos, capsys):
    load(photos)
    home = everything.classifiers()
    home.mkdir(parents=True)
    for name in ("photos-01.npz", "my-digits-02.npz", ".my-digits-02.npz.1-abcd1234.partial"):
        (home / name).write_bytes(bytes(200_000))
    _, out, _ = run(capsys, "cache")
    assert len(out.splitlines()) == 4
    (line,) = [line for line in out.splitlines() if line.startswith("my-digits-02 ")]
    assert line.split()[1] == "0.2" and line.endswith("  classifier of my-digits")
    code, out, _ = run(capsys, "cache --clear photos")  # the pictures and their classifier
    assert code == 0 and out.startswith("removed 2 caches, 0.2 MB") and kept() == []
    assert [path.name for path in home.glob("[!.]*")] == ["my-digits-02.npz"]
    assert run(capsys, "cache --clear")[1].startswith("removed 1 cache, 0.2 MB")
    assert list(home.glob("[!.]*")) == []


def test_a_clear_takes_nothing_from_who_reads(photos):
    data = load(photos)
    everything.clear()
    assert rows.digest([data.train.x, data.validation.x, data.test.x]) == data.sha256


def test_archives_are_read_in_many_threads(tmp_path, photos):
    """What is read is what is in the archive, whoever reads beside."""
    for kind in ("zip", "tar"):
        with containers.opened(pack(tmp_path / f"a.{kind}", photos)) as container:
            names = [member.name for member in container.members]
            found = {}

            def work(some, read=container.read, found=found):
                found.update({name: read(name) for name in some * 20})

            threads = [threading.Thread(target=work, args=(names[i::4],)) for i in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert found == {name: (photos / name).read_bytes() for name in names}


def test_an_unreadable_file_is_a_broken_one(photos, monkeypatch):
    with containers.opened(photos) as container:

        def read(name):
            raise PermissionError(errno.EACCES, "Permission denied")

        refused = container._replace(read=read)
        with pytest.raises(
            DataError, match=r"first is 000.png: cannot be read \(Permission denied"
        ):
            cache.decoded(refused, [numbered(40)], decode.Asked(None, "crop", "white"), "x")
