"""Runs beside one another: differences on the same images, settings that differ, what is said."""

import html.parser
import json
import re
import shutil

import numpy as np
import pytest
from scipy import stats

import flaxvae
from flaxvae import cli
from flaxvae.analysis import paired
from flaxvae.errors import UsageError
from flaxvae.report import beside, comparison, sweeps
from flaxvae.report.compared import Measured, measure
from flaxvae.report.comparison import Compared
from flaxvae.runs import differing
from flaxvae.runs.listing import entry
from test_listing import make, write

# ---- differences


def test_a_difference_is_that_of_a_paired_t_test():
    rng = np.random.default_rng(0)
    a = rng.normal(100, 30, 500)
    b = a + rng.normal(0.5, 2, 500)
    found, expected = paired.difference(a, b), stats.ttest_rel(b, a)
    assert found.mean / found.standard_error == pytest.approx(expected.statistic)
    assert found.mean == pytest.approx(b.mean() - a.mean()) and found.images == 500
    assert found.lower == pytest.approx((b < a).mean())
    alone = np.hypot(a.std(), b.std()) / np.sqrt(500)
    assert found.standard_error < alone / 10  # what images share has cancelled


def test_differences_of_nothing():
    same = paired.difference([1.0, 2.0], [1.0, 2.0])
    assert same == (2, 0.0, 0.0, 0.5)
    some = paired.difference([1.0, np.nan, 3.0], [2.0, 2.0, np.inf])
    assert some == (1, 1.0, None, 0.0)
    assert paired.difference([np.nan], [1.0]) is None
    with pytest.raises(ValueError, match="expected"):
        paired.difference([1.0, 2.0], [1.0])


def compared(name, bound=None, kind=(True, "probability", False), same=True, **test):
    mse = np.arange(3.0) if bound is None else np.asarray(bound) / 100
    measured = Measured(kind, None if bound is None else np.asarray(bound), mse)
    return Compared(name, f"runs/{name}", {}, test, (), same, measured)


def test_the_table_has_errors_and_differences():
    runs = [
        compared("1", [3.0, 4.0, 5.0], elbo=-97.951, elbo_standard_error=0.2536, kl=22.7),
        compared("2", [2.0, 4.5, 3.0], elbo=-99.0, elbo_standard_error=0.3, kl=5.0),
    ]
    wide = comparison.lines(runs, 80)
    assert wide[0].split() == ["1", "2"]
    assert wide[1].split() == ["-ELBO", "97.95", "±", "0.25", "99.00", "±", "0.30"]
    d = np.array([-1.0, 0.5, -2.0])
    error = d.std(ddof=1) / np.sqrt(3)
    row = next(line for line in wide if "1's" in line)
    assert row.split()[-3:] == [f"{d.mean():+.2f}", "±", f"{error:.2f}"]
    assert wide[-1].split() == ["lower", "67", "%"]
    narrow = comparison.lines(runs, 30)  # a part for each run
    assert max(map(len, narrow)) <= 30 and narrow.count("") == 1
    first, second = narrow[: narrow.index("")], narrow[narrow.index("") + 1 :]
    assert first[0].split() == ["1"] and second[0].split() == ["2"]
    assert first[1].split() == ["-ELBO", "97.95", "±", "0.25"]
    assert second[1].split() == ["-ELBO", "99.00", "±", "0.30"]


def test_of_a_small_error_a_digit_is_seen():
    a = np.linspace(90, 110, 1000)
    runs = [compared("1", a), compared("2", a - 0.01 + 0.002 * np.sin(np.arange(1000)))]
    row = next(line for line in comparison.lines(runs) if line.startswith("-ELBO - 1's"))
    assert row.split()[-3:] == ["-0.01000", "±", "0.00004"]


def test_what_cannot_be_compared_is_not():
    first = compared("1", [3.0, 4.0, 5.0], elbo=-97.0)
    labelled = compared("2", [1.0, 1.0, 1.0], (True, "probability", True), elbo=-90.0)
    plain = compared("3", None, (False, "probability", False))
    elsewhere = compared("4", [1.0, 1.0, 1.0], same=False, elbo=-3.0)
    runs = [first, labelled, plain, elsewhere]
    assert comparison.differences(runs, "bound") == [None] * 4
    mse = comparison.differences(runs, "mse")
    assert mse[0] is None and mse[1].mean == pytest.approx(-0.03) and mse[3] is None
    said = " ".join(comparison.notes(runs))
    assert "no difference of -ELBO between 1 and 2, 3" in said
    assert not any("-ELBO - 1's" in line for line in comparison.lines(runs))


# ---- settings


def test_settings_that_differ(tmp_path):
    one = entry(make(tmp_path / "one", latent_dim=2, free_bits=0.0))
    two = entry(make(tmp_path / "two", model="vq_vae", codes=64, latent_dim=8))
    settings = [differing.settings(each) for each in (one, two)]
    assert differing.differing(settings) == ["model", "latent_dim", "codes"]
    assert differing.differing(settings[:1]) == []
    record = json.loads((tmp_path / "one" / "run.json").read_text())
    record["data"]["data_dir"], record["training"]["devices"] = "/elsewhere", 8
    write(tmp_path / "three" / "run.json", {k: v for k, v in record.items() if k != "seal"})
    three = entry(tmp_path / "three")
    assert differing.differing([settings[0], differing.settings(three)]) == []
    assert differing.data(one) == differing.data(three)


# ---- sweeps


@pytest.fixture
def swept(tmp_path):
    """A sweep of two weights and three seeds, of which one member has diverged."""
    path, members = tmp_path / "swept", []
    for beta in (1.0, 4.0):
        for seed in (2, 0, 1):
            name, lost = f"beta={beta:g},seed={seed}", (beta, seed) == (4.0, 0)
            members.append(
                {
                    "name": name,
                    "settings": {"beta": beta},
                    "seed": seed,
                    "diverged": 1 if lost else None,
                }
            )
            if not lost:
                make(path / name, -100.0 - 10 * seed - beta - 0.1 * seed * beta, beta=beta)
    record = {"format": 1, "model": "vae", "settings": {}, "varied": {"beta": [1.0, 4.0]}}
    write(path / "sweep.json", record | {"members": members, "data_sha256": ""})
    return entry(path)


def test_differences_between_settings_are_of_the_same_seeds(swept):
    members = comparison.members(swept)
    assert swept.state == "stopped" and len(members) == 5
    found = comparison.settings(swept, members)
    assert [each.label for each in found] == ["beta 1", "beta 4"]
    assert [*found[1].tests] == [1, 2] and found[0].members[0] == "beta=1,seed=0"
    first, second = comparison.by_seed(found)
    d = np.array([3 + 0.1 * seed * 3 for seed in (1, 2)])
    assert first is None and second.images == 2
    assert second.mean == pytest.approx(d.mean())
    assert second.standard_error == pytest.approx(d.std(ddof=1) / np.sqrt(2))
    headings, cells, labels = comparison.sweep_numbers(swept, members)
    assert labels == ["beta 1", "beta 4 (2 of 3 seeds)"] and headings[-1] == "-ELBO - first's"
    assert cells[1][-1] == f"{d.mean():+.2f} ± {second.standard_error:.2f}"
    spread = np.std([101.0, 111.1, 121.2], ddof=1)
    assert cells[0][0] == f"{np.mean([101.0, 111.1, 121.2]):.2f} ± {spread:.2f}"
    assert sweeps.NOTE.startswith("mean ± standard deviation")
    narrow = comparison.sweep_lines(swept, members, 50)
    assert max(map(len, narrow)) <= 50 and narrow[0].split() == ["beta", "1"]
    assert any(line.startswith("-ELBO - first's") and cells[1][-1] in line for line in narrow)


# ---- the command


def run(words, capsys):
    code = 0
    try:
        cli.main(["compare", *map(str, words), "--no-cache"])
    except SystemExit as stop:
        code = stop.code
    seen = capsys.readouterr()
    return code, " ".join(seen.out.split()), seen.err


@pytest.fixture(scope="module")
def copy(trained, tmp_path_factory):
    """Another folder of the same run."""
    return shutil.copytree(trained, tmp_path_factory.mktemp("copies") / "copy")


def test_a_run_equals_its_copy(trained, copy, capsys):
    code, out, _ = run([trained, copy, "--no-page", "--images", 50], capsys)
    assert code == 0 and "+0.00 ± 0.00 lower 50 %" in out
    assert "the same 50 test images" in out and "data digits, pixels in [0, 1] 1 " in out


def test_the_numbers_are_those_of_the_run(trained):
    loaded = flaxvae.load(trained)
    test = loaded.data().test
    found = measure(loaded, test)
    np.testing.assert_array_equal(found.bound, loaded.score(test, samples=1))
    assert found.mse.mean() == pytest.approx(loaded.summary.mse, rel=1e-5)
    error = 5 * loaded.summary.elbo_standard_error  # of other draws of z
    assert found.bound.mean() == pytest.approx(-loaded.summary.elbo, abs=error)


def test_what_is_missing_is_said(trained, copy, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)  # short paths, which no line breaks
    half = shutil.copytree(copy, tmp_path / "half")
    (half / "summary.json").unlink()
    other = shutil.copytree(copy, tmp_path / "other")
    record = json.loads((other / "run.json").read_text())
    write(other / "run.json", record | {"data_sha256": "0" * 64, "seal": ""})
    empty = shutil.copytree(copy, tmp_path / "empty")
    shutil.rmtree(empty / "checkpoints")
    code, out, _ = run([trained, half, other, empty, "--no-page", "--images", 50], capsys)
    assert code == 0
    assert "half; stopped, epoch 2 of 2" in out and "+0.00 ± 0.00" in out
    assert "of other data than 1" in out and "cannot be compared; of 1: digits" in out
    assert "empty; not loaded: " in out


@pytest.mark.parametrize(
    ("function", "said"), [("measure", "not compared"), ("pictures", "not pictured")]
)
def test_a_run_that_cannot_be_measured_does_not_end_the_comparison(
    function, said, trained, copy, tmp_path, monkeypatch, capsys
):
    def fails(*_):
        raise UsageError("images are grey")

    made = Measured((True, "probability", False), np.zeros(5), np.zeros(5))
    monkeypatch.setattr(beside.compared, "measure", lambda *_: made)
    monkeypatch.setattr(beside.compared, function, fails)
    words = [trained, copy, "--images", 5, "--out", tmp_path / "page.html"]
    code, out, _ = run(words, capsys)
    assert code == 0 and out.count(f"{said}: images are grey") == 2
    assert "images are grey" in (tmp_path / "page.html").read_text()


def bounded(run, name="evaluation-k-500.json", **others):
    """A record of `flaxvae eval --k` in a run, as the command writes it but for ``others``."""
    summary = json.loads((run / "summary.json").read_text())
    found = {"split": "test", "step": summary["step"], "images": summary["test"]["images"]}
    bound = {"k": 500, "nats": -25.678, "standard_error": 0.126}
    write(run / name, found | {"importance_weighted_elbo": bound} | others)
    return run


def test_from_python(trained, copy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = flaxvae.compare(flaxvae.load(trained), copy, images=50, page=False)
    assert isinstance(found, flaxvae.Comparison) and found.names == ["1", "2"]
    assert found.page is None and found.elbo == found.mse == [None, (50, 0.0, 0.0, 0.5)]
    assert "+0.00 ± 0.00" in str(found) and "the same 50 test images" in str(found)
    written = flaxvae.compare(trained, copy, images=5, out=tmp_path / "two.html").page
    assert written == tmp_path / "two.html" and written.exists()
    with pytest.raises(UsageError, match="expected two runs or more"):
        flaxvae.compare(trained)
    with pytest.raises(UsageError, match=r"runs=.*: expected text, or a path"):
        flaxvae.compare([trained, copy])
    with pytest.raises(UsageError, match="images=-1: expected 0 or more"):
        flaxvae.compare(trained, copy, images=-1)


def test_a_sweep_from_python(swept):
    found = flaxvae.compare(swept.path, images=0, page=False)
    assert found.names == ["beta 1", "beta 4"]
    settings = comparison.settings(swept, comparison.members(swept))
    assert found.elbo == comparison.by_seed(settings) and found.elbo[1].images == 2
    assert "beta 4 (2 of 3 seeds)" in str(found) and sweeps.NOTE in str(found)


def test_bounds_on_record_are_in_the_table(trained, copy, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one, two = (shutil.copytree(copy, tmp_path / name) for name in ("one", "two"))
    code, out, _ = run([one, two, "--no-page", "--images", 0], capsys)
    assert code == 0 and "IW-ELBO" not in out
    bounded(
        one,
        "evaluation-k-9.json",
        importance_weighted_elbo={"k": 9, "nats": 1.0, "standard_error": 1.0},
    )
    bounded(one)
    for i, others in enumerate(
        [{"step": 1}, {"images": 9}, {"split": "validation"}, {"remarks": []}]
    ):
        bounded(two, f"evaluation-{i}.json", **others)  # of something else
    (two / "evaluation.json").write_text("{")
    code, out, _ = run([one, two, "--no-page", "--images", 0], capsys)
    assert code == 0 and "-IW-ELBO, k 500 25.68 ± 0.13 reconstruction" in out
    bounded(two, importance_weighted_elbo={"k": 5000, "nats": -24.0, "standard_error": 0.5})
    code, out, _ = run([one, two, "--images", 0, "--out", "page.html"], capsys)
    assert code == 0 and "-IW-ELBO 25.68 ± 0.13, k 500 24.00 ± 0.50, k 5000" in out
    assert "k\xa05000" in Reader((tmp_path / "page.html").read_text()).text


# ---- the page


class Reader(html.parser.HTMLParser):
    """What stands in a page: open elements, their ids, and the text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.names, self.text = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, name, attributes):
        self.names.append(name)
        self.ids += [value for key, value in attributes if key == "id"]
        if name not in ("meta", "img", "br", "hr", "input"):
            self.open.append(name)

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, data):
        self.text += data


def test_the_page_has_everything_and_no_markup_of_strangers(
    trained, copy, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)  # short paths, which no line breaks
    evil = shutil.copytree(copy, tmp_path / "<img src=x onerror=alert(1)>")
    target = tmp_path / "page.html"
    code, out, _ = run([trained, evil, "--images", 50, "--out", target], capsys)
    assert code == 0 and "page.html" in out
    raw = target.read_text()
    found = Reader(raw)
    assert not found.open and "<img src=x onerror=alert(1)>" in found.text
    assert found.names.count("img") == 3 + 2 + 3 * 2  # reconstructions, samples, walks
    assert {"numbers", "rate", "curves", "reconstructions", "samples", "walks"} <= {*found.ids}
    assert "+0.00\xa0±\xa00.00" in found.text
    rows = re.findall(r'<img src="(data:[^"]*)" alt="Reconstructions: ([^"]*)"', raw)
    assert len(rows) == 3 and rows[1][0] == rows[2][0] != rows[0][0]  # the same model
    assert "http:" not in raw.replace("http://www.w3.org", "") and "src=x" not in found.names


def test_a_sweep_s_page(swept, capsys):
    code, out, _ = run([swept.path, "--images", 0], capsys)
    assert code == 0 and "no pictures of beta 1:" in out
    found = Reader((swept.path / "comparison.html").read_text())
    assert not found.open and {"numbers", "varied", "rate", "curves"} <= {*found.ids}
    assert found.names.count("circle") >= 5 + 2  # a point for each seed, and the means
    assert "no pictures of beta 1:" in found.text
    page = swept.path / "comparison.html"
    code, _, _ = run([swept.path, "--images", 0], capsys)  # over a page of its own
    assert code == 0 and "no pictures of beta 1:" in page.read_text()
    page.write_text("mine")
    code, _, err = run([swept.path, "--images", 0], capsys)
    assert code == 3 and "is no page as flaxvae wrote it" in err and page.read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "said", "expected"),
    [
        ([], "no run: expected two runs or more, or a sweep", 2),
        (["{run}"], "expected two runs or more, or a sweep", 2),
        (["{run}", "{run}"], "expected two runs or more, or a sweep", 2),
        (["{run}", "nowhere"], "nowhere is nothing: expected folders that flaxvae wrote", 2),
        (["{run}", "."], ". is neither a run nor a sweep", 2),
        (["{run}", "{copy}", "--out", "page.pdf"], "expected a name that ends in .html", 2),
        (["{run}", "{copy}", "--out", "no/where.html"], "no cannot be written", 3),
        (["{run}", "{copy}", "--no-page", "--out", "a.html"], "--out a.html has no effect", 2),
    ],
)
def test_misuse_is_one_line(words, said, expected, trained, copy, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = [word.format(run=trained, copy=copy) for word in words]
    code, _, err = run(words, capsys)
    assert code == expected and said in err and err.count("\n") == 1
