"""The list of runs: what is there, in which order, and what may be removed."""

import json
import os
import platform
import shutil
import subprocess
import sys

import pytest

from flaxvae import cli, writing
from flaxvae.errors import DataError, UsageError
from flaxvae.report import listed
from flaxvae.runs import lock, pruning, records, selection
from flaxvae.runs.listing import LARGEST, entry, facts, listing


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(records.sealed(value)))


def make(path, elbo=-100.0, done=2, model="vae", created="2026-01-01T00:00:00", **arguments):
    """The small files of a run, finished if it has an ``elbo``."""
    record = {
        "format": 1,
        "model": model,
        "arguments": {"beta": 1.0, **arguments},
        "data": {"dataset": "/data/photos"},
        "training": {"epochs": 2, "seed": 0, "learning_rate": 0.001},
        "created": created,
    }
    write(path / "run.json", record)
    rows = [{"epoch": i, "step": i, "validation_elbo": -99.5} for i in range(1, done + 1)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if elbo is not None:
        test = {"elbo": elbo, "kl": 5.0, "reconstruction": -elbo - 5, "code_variance": [1.0]}
        write(
            path / "summary.json",
            {"epochs": done, "step": done, "test": test, "run": records.seal(record)},
        )
    return path


def held(path, **others):
    """A lock as of a living process: this one, unless others are named."""
    (path / "lock").write_text(json.dumps(lock._identity(os.getpid()) | others))
    return path


@pytest.fixture
def runs(tmp_path):
    """One of everything that a folder of runs may hold."""
    root = tmp_path / "runs"
    make(root / "good", -90.0, beta=4.0, created="2026-01-02T00:00:00", widths=[512, 256])
    make(root / "better", -80.5, model="beta_vae", created="2026-01-03T00:00:00")
    make(root / "half", None, done=1)
    held(make(root / "busy", None, done=1))
    make(root / "flipped")
    raw = bytearray((root / "flipped" / "run.json").read_bytes())
    raw[raw.index(b"beta")] ^= 1
    (root / "flipped" / "run.json").write_bytes(raw)
    write(root / "theirs" / "run.json", {"model": "resnet50", "lr": 0.1})
    (root / "notes").mkdir()
    (root / "file.txt").write_text("")
    (root / "latest").symlink_to("better")
    sweep = root / "swept"
    member = {"name": "beta=1,seed=0", "settings": {"beta": 1.0}, "seed": 0, "diverged": None}
    write(
        sweep / "sweep.json",
        {"format": 1, "model": "vae", "settings": {}, "varied": {}, "members": [member]}
        | {"table": []},
    )
    make(sweep / member["name"], -70.0)
    return root


def states(root):
    return {each.path.name: each.state for each in listing([root]).entries}


def test_each_is_what_it_is(runs):
    assert states(runs) == {
        "better": "finished",
        "busy": "training",
        "flipped": "damaged",
        "good": "finished",
        "half": "stopped",
        "swept": "finished",
    }
    assert [path.name for path in listing([runs]).others] == ["notes", "theirs"]
    inside = [each.path.name for each in listing([runs], members=True).entries]
    assert "beta=1,seed=0" in inside and "swept" not in inside
    assert [each.path.name for each in listing([runs / "swept"]).entries] == ["beta=1,seed=0"]
    with pytest.raises(UsageError, match="nowhere: expected a folder of runs"):
        listing([runs / "nowhere"])


def test_a_run_that_was_resumed_since_is_not_finished(runs):
    record = json.loads((runs / "good" / "run.json").read_text())
    record["training"]["epochs"] = 9
    write(runs / "good" / "run.json", {k: v for k, v in record.items() if k != "seal"})
    found = entry(runs / "good")
    assert found.state == "stopped" and not found.test
    assert facts(found)["epochs"] == 2 and facts(found)["validation_elbo"] == -99.5


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\xff\x00"),
        lambda path: path.write_text("[" * 100_000),
        lambda path: path.write_text('{"format": 1}'),
        lambda path: path.write_text('{"format": 1, "model": 3}'),
        lambda path: os.truncate(path, LARGEST + 1),
        lambda path: (path.unlink(), path.mkdir()),
        lambda path: (path.unlink(), os.mkfifo(path)),
        lambda path: (path.unlink(), path.symlink_to("nowhere")),
    ],
)
@pytest.mark.parametrize("name", ["run.json", "summary.json"])
def test_damage_is_said_and_stops_nothing(runs, damage, name):
    damage(runs / "good" / name)
    found = states(runs)
    assert found["better"] == "finished"
    assert found["good"] in ("damaged", "stopped") and (found["good"] == "damaged" or "s" in name)
    lines = listed.lines(listing([runs]).entries)
    assert sum("good" in line for line in lines) == 1


def test_damaged_rows_are_passed_over(runs):
    with (runs / "half" / "metrics.jsonl").open("ab") as file:
        file.write(b'{"epoch": 2, "st')
    assert facts(entry(runs / "half"))["epochs"] == 1
    (runs / "half" / "metrics.jsonl").write_bytes(b"\xff" * 100_000)
    assert "epochs" not in facts(entry(runs / "half"))


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("elbo>-85", {"better"}),
        ("elbo<=-80.5", {"better", "good"}),
        ("beta=4", {"good"}),
        ("beta != 4", {"better", "busy", "flipped", "half", "swept"}),
        ("model=*vae", {"better", "busy", "good", "half", "swept"}),
        ("model=BETA_*", {"better"}),
        ("widths=512x256", {"good"}),
        ("learning-rate<0.01", {"better", "busy", "good", "half"}),
        ("data=photos", {"better", "busy", "good", "half"}),
        ("created>=2026-01-02", {"better", "good"}),
        ("state=stopped", {"half"}),
        ("elbo<0", {"better", "good"}),
        ("elbo<-8.5e1", {"good"}),
        ("elbo=none", {"busy", "flipped", "half", "swept"}),
        ("elbo!=none", {"better", "good"}),
        ("elbo != -80.5", {"busy", "flipped", "good", "half", "swept"}),
        ("model='vae'", {"busy", "good", "half", "swept"}),
        ('model = "beta_vae"', {"better"}),
        ("model='*vae'", set()),
        ("widths=512 256", {"good"}),
    ],
)
def test_conditions(runs, condition, expected):
    found = selection.where(listing([runs]).entries, [condition])
    assert {each.path.name for each in found} == expected
    both = selection.where(listing([runs]).entries, [condition, "kind=run"])
    assert {each.path.name for each in both} == expected - {"swept"}


def test_what_is_no_condition_is_refused(runs):
    with pytest.raises(UsageError, match=r"epochs<5x.*: expected a number, as epochs is one"):
        selection.where(listing([runs]).entries, ["epochs<5x"])
    entries = listing([runs]).entries
    with pytest.raises(UsageError, match="did you mean 'beta'"):
        selection.where(entries, ["betta=4"])
    expected = r"every elbo is negative, -90.00 to -80.50, as .*: expected 'elbo>-100'"
    with pytest.raises(UsageError, match=expected):
        selection.where(entries, ["elbo<100"])
    make(runs / "density", 3.0)
    assert len(selection.where(listing([runs]).entries, ["elbo<100"])) == 3
    for condition in ("epochs<nan", "epochs<'2'"):
        with pytest.raises(UsageError, match="expected a number, as epochs is one"):
            selection.where(entries, [condition])
    for condition in ("beta", "beta=", "=4", ""):
        with pytest.raises(UsageError, match="expected a name, one of ="):
            selection.where(entries, [condition])


@pytest.mark.parametrize(
    ("name", "first", "last_known"),
    [("elbo", "better", "good"), ("created", "better", "half"), ("run", "better", "swept")],
)
def test_order(runs, name, first, last_known):
    entries = listing([runs]).entries
    found = [each.path.name for each in selection.order(entries, name)]
    known = [x for x in found if name in facts(entry(runs / x))]
    assert found[0] == first and found[: len(known)] == known
    assert sorted(found) == sorted(each.path.name for each in entries)
    other = [each.path.name for each in selection.order(entries, name, reverse=True)]
    values = [facts(entry(runs / x))[name] for x in known]
    assert [facts(entry(runs / x))[name] for x in other[: len(known)]] == values[::-1]


def test_numbers_are_ordered_as_numbers_and_lists_by_theirs(tmp_path):
    for widths in ([9], [512, 256], [512, 64]):
        make(tmp_path / "-".join(map(str, widths)), widths=widths, beta=float(widths[-1]))
    entries = listing([tmp_path]).entries
    assert [each.path.name for each in selection.order(entries, "widths")] == [
        "9",
        "512-64",
        "512-256",
    ]
    assert selection.order(entries, "beta")[0].path.name == "9"


def test_the_table_has_room(runs):
    entries = listing([runs]).entries
    for width in (40, 80, 120):
        lines = listed.lines(entries, width=width)
        assert max(map(len, lines)) <= width and len(lines) == len(entries) + 1
    better = next(line for line in lines if "better" in line)
    assert "80.50" in better and "finished" in better
    chosen = listed.lines(entries, ["beta", "validation_elbo"])
    assert chosen[0].split() == ["run", "beta", "validation-elbo"]
    assert "-99.5" in next(line for line in chosen if "half" in line)


def test_the_command_reads_without_jax(runs):
    script = """if True:
        import sys
        from flaxvae import cli
        try:
            cli.main(["runs", sys.argv[1], "--where", "kind=run", "--sort", "elbo"])
        finally:
            print(*[x for x in ("jax", "numpy", "matplotlib") if x in sys.modules], file=sys.stderr)
    """
    found = subprocess.run(
        [sys.executable, "-c", script, str(runs)], capture_output=True, text=True, timeout=60
    )
    assert found.returncode == 0 and found.stderr.split() == []
    shown = [line.split()[0] for line in found.stdout.splitlines() if line]
    assert shown[:3] == ["run", "better", "good"]


def test_a_folder_of_damaged_runs_alone(runs, capsys):
    for name in ("good", "better", "half", "busy", "swept"):
        shutil.rmtree(runs / name)
    cli.main(["runs", str(runs)])
    out = " ".join(capsys.readouterr().out.split())
    assert "flipped damaged" in out and "changed since it was written" in out
    cli.main(["runs", str(runs), "--where", "elbo>-80", "--sort", "elbo"])
    assert "no runs of 1 in" in capsys.readouterr().out


# ---- removing


def test_only_what_is_safe_is_removed(runs, capsys):
    (runs / "half" / "thesis.tex").write_text("mine")
    held(make(runs / "elsewhere", None), host="another", pid=1)
    make(runs / "good2", -91.0)
    linked = make(runs.parent / "outside", -92.0)
    (runs / "linked").symlink_to(linked)
    before = {path.name for path in runs.iterdir()}
    words = ["runs", "prune", str(runs), "--where", "run!=good"]
    cli.main(words)
    said = capsys.readouterr().out
    assert {path.name for path in runs.iterdir()} == before and "nothing is removed" in said
    cli.main([*words, "--yes"])
    said = " ".join(capsys.readouterr().out.split())
    assert before - {path.name for path in runs.iterdir()} == {"better", "good2"}
    for reason in (
        "busy: in use by process",
        "elsewhere: in use by process 1 on another",
        "half: it holds thesis.tex, which flaxvae did not write",
        "flipped: its run.json is damaged",
        "linked: a link to",
        "swept: a sweep, which is never removed here: all its members would go; remove it by hand",
        "removed 2 runs",
    ):
        assert reason in said, reason
    assert (linked / "run.json").exists()
    assert (runs / "latest").resolve().name == "good"


@pytest.mark.parametrize(
    "name",
    ["samples/own.csv", "figures/thesis.tex", "export/mine.py", "export/npz/own.py", "plot.png"],
)
def test_a_run_with_files_of_others_in_it_is_left(runs, name):
    path = runs / "good" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine")
    cli.main(["runs", "prune", str(runs / "good"), "--keep", "0", "--yes"])
    assert path.read_text() == "mine" and (runs / "good" / "run.json").exists()


def test_a_folder_is_what_its_path_leads_to(runs, monkeypatch):
    monkeypatch.chdir(runs / "good")
    cli.main(["runs", "prune", ".", "--keep", "0", "--yes"])
    assert not (runs / "good").exists()
    monkeypatch.chdir(runs / "swept" / "beta=1,seed=0")
    cli.main(["runs", "prune", ".", "--keep", "0", "--yes"])
    assert (runs / "swept" / "beta=1,seed=0" / "run.json").exists()
    monkeypatch.chdir(runs.parent)
    once, twice = (listing(folders).entries for folders in ([runs], [runs, "runs", "runs/latest"]))
    assert len(once) == len(twice)


def test_prune_clears_what_a_killed_one_left(runs):
    left, young = (writing.temporary(runs / name) for name in ("gone", "going"))
    for path in (left, young, runs / "mine.partial", runs / ".mine.partial"):
        path.mkdir()
        os.utime(path, None if path == young else (0, 0))
    before = {path.name for path in runs.iterdir()}
    words = ["runs", "prune", str(runs), "--where", "run=none"]
    cli.main(words)
    assert {path.name for path in runs.iterdir()} == before
    cli.main([*words, "--yes"])
    assert before - {path.name for path in runs.iterdir()} == {left.name}


def test_prune_keeps_the_first_in_order(runs):
    cli.main(["runs", "prune", str(runs), "--sort", "elbo", "--keep", "1", "--yes"])
    assert states(runs).keys() == {"better", "busy", "flipped", "half", "swept"}


def test_what_is_left_alone_takes_no_place_of_those_that_are_kept(runs, capsys):
    held(make(runs / "best", -10.0))
    cli.main(["runs", "prune", str(runs), "--sort", "elbo", "--keep", "2", "--yes"])
    out = " ".join(capsys.readouterr().out.split())
    assert {"good", "better", "best", "half"} <= states(runs).keys()
    assert "half: no elbo is known of it" in out and "removed 0 runs" in out
    cli.main(["runs", "prune", str(runs), "--where", "state=stopped", "--yes"])
    assert "half" not in states(runs)


@pytest.mark.parametrize(("target", "left"), [("good", "better"), ("elsewhere", "elsewhere")])
def test_only_a_link_to_the_removed_run_is_changed(runs, target, left):
    (runs / "latest").unlink()
    (runs / "latest").symlink_to(target)
    pruning.remove(entry(runs / "good"))
    assert (runs / "latest").readlink().name == left


def test_a_training_that_has_begun_meanwhile_is_left(runs):
    found = entry(runs / "half")
    assert pruning.spared(found) == ""
    held(runs / "half")
    with pytest.raises(UsageError, match="is in use by process"):
        pruning.remove(found)
    assert entry(runs / "half").state == "training"
    (runs / "half" / "lock").write_text(
        json.dumps({"pid": 2**22 + 1, "host": platform.node(), "began": None})
    )  # a process that has died
    pruning.remove(found)
    assert not (runs / "half").exists()


def test_a_member_is_left_to_its_sweep(runs):
    member = entry(runs / "swept" / "beta=1,seed=0")
    assert "a member of a sweep" in pruning.spared(member)
    with pytest.raises(DataError, match="a member of a sweep"):
        pruning.remove(member)
    assert entry(member.path).state == "finished"
    shutil.rmtree(runs / "swept")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["prune"], "prune without --where or --keep: expected which runs to remove"),
        (["--yes"], "--yes has no effect without prune"),
        (["--keep", "3"], "--keep 3 has no effect without prune"),
        (["--sort", "eblo"], "--sort eblo: expected a setting"),
        (["--columns", "elbo", "eblo"], "--columns eblo: expected a setting"),
        (["--where", "beta"], "--where beta: expected a name"),
    ],
)
def test_misuse_is_one_line(runs, words, said, capsys, monkeypatch):
    monkeypatch.chdir(runs.parent)
    with pytest.raises(SystemExit) as caught:
        cli.main(["runs", *words])
    assert caught.value.code == 2
    assert said in capsys.readouterr().err
