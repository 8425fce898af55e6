"""The cache of compiled programs: found where it should be, bounded, and without any effect."""

import json
import os
import shutil
import subprocess
import sys

import jax
import pytest

from conftest import TINY
from disturbed import summary
from flaxvae import compilation, machine

COUNT = """if True:
    import atexit, sys
    import jax
    seen = []
    jax.monitoring.register_event_listener(lambda event, **more: seen.append(event))
    atexit.register(lambda: print(*(
        seen.count("/jax/compilation_cache/cache_" + what) for what in ("hits", "misses"))))
"""
TRAIN = (
    COUNT
    + """
    from flaxvae import api, cli
    api.drawn = lambda *arguments: dict()
    nothing = api.Evaluation(1, "density", 0.0, 0.0)
    api.Run.evaluate = lambda *arguments, **more: nothing
    api.words.numbers = lambda *arguments: {}
    cli.main(sys.argv[1:])
"""
)
COMPILE = (
    COUNT
    + """
    from flaxvae import compilation
    compilation.enable()
    jax.jit(lambda x: x + 1)(1.0)
"""
)


def process(script, *arguments, cache):
    """Hits, misses and stderr of ``script`` in a process of its own."""
    environment = {**os.environ, "FLAXVAE_CACHE_DIR": str(cache)}
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr
    hits, misses = map(int, done.stdout.split()[-2:])
    return hits, misses, done.stderr


@pytest.mark.slow
def test_results_are_the_same_bits_with_a_cold_cache_a_warm_one_and_none(tmp_path):
    found = {}

    def train(name, *flags, cache=tmp_path / "cache"):
        settings = {**TINY, "widths": 32, "epochs": 1, "validation": 0, "run": tmp_path / name}
        words = [w for k, v in settings.items() for w in (f"--{k.replace('_', '-')}", v)]
        hits, misses, err = process(TRAIN, "train", *words, *flags, cache=cache)
        assert err == ""
        row = json.loads((tmp_path / name / "metrics.jsonl").read_text())
        found[name] = (
            summary(tmp_path / name),
            {k: v for k, v in row.items() if k != "images_per_second"},
        )
        return hits, misses

    cold = train("cold")
    assert cold[1] > 3  # in metrics as JAX counts them: written
    assert train("warm") == (sum(cold), 0)
    assert train("none", "--no-cache") == (0, 0)
    assert found["cold"] == found["warm"] == found["none"]


def test_a_damaged_entry_is_made_anew_without_a_word(tmp_path):
    assert process(COMPILE, cache=tmp_path)[:2] == (0, 1)
    (entry,) = compilation.entries(tmp_path / machine.processor())
    whole = entry.read_bytes()
    entry.write_bytes(whole[: len(whole) // 2])  # as of a writer that was killed
    assert process(COMPILE, cache=tmp_path) == (0, 1, "")
    assert process(COMPILE, cache=tmp_path) == (1, 0, "")


ADD = """if True:
    import sys
    from flaxvae import compilation
    kept = compilation.enable()
    import jax
    print(jax.jit(lambda x: x + int(sys.argv[1]))(1.0), kept is not None)
"""


def add(number, cache):
    """1 + number, whether its program is kept, and standard error."""
    command = [sys.executable, "-c", ADD, str(number)]
    environment = {**os.environ, "FLAXVAE_CACHE_DIR": str(cache)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr
    total, kept = done.stdout.split()
    return float(total), kept == "True", done.stderr


def swap(tmp_path):
    """A cache folder in which the program of 1 + 1 was swapped for that of 1 + 5, and the entry."""
    assert add(5, tmp_path / "other") == (6, True, "")
    assert add(1, tmp_path / "cache") == (2, True, "")
    (entry,), (other,) = (
        compilation.entries(tmp_path / name / machine.processor()) for name in ("cache", "other")
    )
    shutil.copyfile(other, entry)
    return tmp_path / "cache", entry, other


def test_what_is_kept_is_executed(tmp_path):
    """Why it matters who can write there."""
    cache, _, _ = swap(tmp_path)
    assert add(1, cache) == (6, True, "")


@pytest.mark.parametrize("how", ["a link", "an open mode", "another's"])
def test_an_entry_that_another_may_have_made_is_not_used(tmp_path, how):
    cache, entry, other = swap(tmp_path)
    if how == "a link":
        entry.unlink()
        entry.symlink_to(other)
    elif how == "an open mode":
        entry.parent.chmod(0o755)
        entry.chmod(0o666)
    elif os.geteuid() == 0:
        os.chown(entry, 12345, 12345)
    else:
        pytest.skip("only root can give a file away")
    assert add(1, cache) == (2, True, "")
    assert entry.is_file() and not entry.is_symlink() and other.is_file()
    assert entry.stat().st_uid == os.geteuid()
    assert add(1, cache) == (2, True, "")


@pytest.mark.parametrize(("folder", "mode"), [("", 0o777), ("..", 0o775)])
def test_a_folder_that_others_may_write_to_is_not_used(tmp_path, folder, mode):
    cache, entry, _ = swap(tmp_path)
    wide = (entry.parent / folder).resolve()
    wide.chmod(mode)
    total, kept, said = add(1, cache)
    assert total == 2 and not kept
    assert said == (
        f"flaxvae: compiled programs are not kept: {wide} may be written by others (mode "
        f"{mode:o}): expected a folder of your own; chmod go-w {wide}, or set FLAXVAE_CACHE_DIR "
        "to one\n"
    )
    wide.chmod(mode & ~0o022)
    assert add(1, cache)[1:] == (True, "")


def test_whose_a_folder_has_to_be(tmp_path, monkeypatch):
    folder = tmp_path / "a" / "b"
    assert compilation.writable(folder)
    assert [p.stat().st_mode & 0o777 for p in (folder, folder.parent)] == [0o700, 0o700]
    assert compilation.exposed(folder) is None
    folder.parent.chmod(0o1777)  # sticky, as /tmp is
    assert compilation.exposed(folder) is None
    folder.chmod(0o1777)  # which lets anyone add an entry
    assert str(folder) in compilation.exposed(folder)
    folder.chmod(0o700)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert f"{folder} belongs to another user" in compilation.exposed(folder)


def test_a_link_to_a_folder_is_followed_before_it_is_looked_at(tmp_path, monkeypatch):
    (tmp_path / "wide").mkdir()
    (tmp_path / "wide").chmod(0o777)
    (tmp_path / "cache").symlink_to(tmp_path / "wide")
    monkeypatch.setenv("FLAXVAE_CACHE_DIR", str(tmp_path / "cache"))
    found = compilation.folder()
    assert found == tmp_path / "wide" / machine.processor() and compilation.writable(found)
    assert f"{tmp_path / 'wide'} may be written by others" in compilation.exposed(found)


@pytest.mark.parametrize("name", ["file/below", ""])
def test_nowhere_to_write_is_no_trouble(tmp_path, monkeypatch, name):
    (tmp_path / "file").write_text("")
    cache = tmp_path / name if name else ""
    assert process(COMPILE, cache=cache) == (0, 0, "")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_without_permission_is_not_writable(tmp_path, monkeypatch):
    def refuse(*arguments, **more):
        raise PermissionError(13, "Permission denied")

    assert compilation.writable(tmp_path / "new")
    monkeypatch.setattr(compilation.tempfile, "TemporaryFile", refuse)  # root may do anything
    assert not compilation.writable(tmp_path)


def test_jaxs_own_setting_is_respected(tmp_path, monkeypatch):
    monkeypatch.setenv("FLAXVAE_CACHE_DIR", str(tmp_path / "new"))
    before = jax.config.jax_compilation_cache_dir
    assert before and compilation.enable() is None
    assert jax.config.jax_compilation_cache_dir == before and not any(tmp_path.iterdir())


def test_what_was_not_used_for_longest_goes_first(tmp_path, monkeypatch):
    sizes = {"a": 50, "b": 40, "c": 30, "d": 20}
    for age, (name, size) in enumerate(sizes.items()):
        path = tmp_path / f"{name}-cache"
        path.write_bytes(bytes(size))
        os.utime(path, (1000 - 100 * age, 500))
    (tmp_path / "mine.txt").write_bytes(bytes(1000))
    assert compilation.size(tmp_path) == 140
    monkeypatch.setattr(compilation, "LIMIT", 140)
    compilation._bound(tmp_path)
    assert len(compilation.entries(tmp_path)) == 4
    monkeypatch.setattr(compilation, "LIMIT", 95)
    compilation._bound(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"a-cache", "b-cache", "mine.txt"}


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {}, "home/.cache/flaxvae"),
        ("linux", {"XDG_CACHE_HOME": "/x"}, "/x/flaxvae"),
        ("linux", {"XDG_CACHE_HOME": "relative"}, "home/.cache/flaxvae"),
        ("linux", {"XDG_CACHE_HOME": "/x", "FLAXVAE_CACHE_DIR": "/y"}, "/y"),
        ("linux", {"FLAXVAE_CACHE_DIR": "~/z"}, "home/z"),
        ("darwin", {"XDG_CACHE_HOME": "/x"}, "home/Library/Caches/flaxvae"),
        ("linux", {"FLAXVAE_CACHE_DIR": "", "XDG_CACHE_HOME": "/x"}, None),
    ],
)
def test_where_it_is(monkeypatch, tmp_path, platform, variables, expected):
    for name in ("FLAXVAE_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": str(tmp_path / "home"), **variables}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    found = compilation.folder()
    assert found == (expected and tmp_path / expected / machine.processor())
