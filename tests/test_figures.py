"""The table of figures: what applies to which model, what is computed, and what --only picks."""

import inspect
import json
import re
import subprocess
import sys
from typing import get_type_hints

import numpy as np
import pytest

import flaxvae
from conftest import TINY, rare
from conftest import said as run
from flaxvae import commands
from flaxvae.analysis import latent_space
from flaxvae.data.dataset import taken
from flaxvae.errors import UsageError
from flaxvae.report import disentanglement, explorer, figures, levels, plots, shown
from flaxvae.runs.run import Run

ALWAYS = {"reconstructions", "latent_scatter", "interpolations"}
WALKS = ALWAYS | {"samples", "traversals"}
APPLY = {  # of models after one epoch: what there is beside the curves
    "vae": WALKS | {"manifold"},
    "denoising_vae": WALKS | {"manifold", "denoising"},
    "cvae": WALKS,
    "mog_vae": WALKS,
    "ladder_vae": WALKS | {"levels", "redrawn"},
    "ae": ALWAYS | {"samples"},
    "gumbel_vae": ALWAYS | {"samples"},
    "vq_vae": ALWAYS,
}
OF_FACTORS = {"mutual_information"}  # of a run on sprites: test_disentangle.py


@pytest.fixture(scope="module")
def subjects(tmp_path_factory):
    """Runs of these models, by name, each after one epoch; no figure of them is drawn."""
    path, found = tmp_path_factory.mktemp("runs"), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flaxvae.api.drawn", lambda *arguments: {})
        for model in APPLY:
            choices = {k: v for k, v in TINY.items() if k != "latent_dim"}
            run = flaxvae.train(
                progress=False, model=model, epochs=1, run=str(path / model), **choices
            )
            found[model] = figures.Subject(run)
    return found


def test_every_figure_is_of_some_model():
    assert set.union(*APPLY.values()) | {"curves"} | OF_FACTORS == {*figures.FIGURES}


@pytest.mark.parametrize("model", APPLY)
def test_those_that_apply(model, subjects):
    of = subjects[model]
    names = figures.suited(of)
    assert {*names} == APPLY[model] | {"curves"}
    assert names == [name for name in figures.FIGURES if name in names]  # in the table's order
    for name in {*figures.FIGURES} - {*names}:
        refusal = rf"only='{name}': does not apply to model {model}; .*curves"
        with pytest.raises(UsageError, match=refusal):
            figures.suited(of, [name])


@pytest.mark.parametrize("model", rare(APPLY, *({*APPLY} - {"ae", "vq_vae"})))
def test_each_has_a_page_with_its_model_in_it(model, subjects):
    """A plain autoencoder, too, which has no KL to order its sliders by."""
    found = explorer.section(subjects[model])
    facts = re.search(r"<script[^>]*id=\"explorer-facts\"[^>]*>(.*?)</script>", found.body, re.S)
    said = json.loads(facts[1])
    assert {"decode", "look", "bound"} <= {*said["packed"]["graphs"]}
    assert said["weights"] in ("rounded", "float16")
    assert said["posterior"] == (model != "ae") and said["standard"] <= said["posterior"]
    if "order" in said:
        assert sorted(said["order"]) == list(range(said["latents"]))
        joint = ("ae", "ladder_vae", "mog_vae")  # these have no KL of each dimension
        assert said["measure"] == ("variance" if model in joint else "KL")


@pytest.mark.parametrize("name", [name for name in figures.FIGURES if name not in OF_FACTORS])
def test_what_is_computed_is_what_is_drawn(name, subjects):
    """A record of arrays and words, whose fields are arguments of what draws it."""
    of = next(subjects[model] for model, names in APPLY.items() if name in {*names, "curves"})
    figure = figures.FIGURES[name]
    record = figure.compute(of)
    _, *parameters = inspect.signature(figure.draw).parameters.items()
    assert {*record._fields} <= {key for key, _ in parameters}
    needed = {key for key, p in parameters if p.default is p.empty}
    assert needed <= {*record._fields}
    assert f"{of.run.plan.model} on {of.run.spec.name}" in record.title
    for field, kind in get_type_hints(type(record)).items():
        if kind is np.ndarray and field != "z":
            values = getattr(record, field)
            assert np.isfinite(values).all() and len(values) > 1


def test_a_manifold_of_chosen_dimensions(subjects, tmp_path):
    first = shown.manifold(subjects["vae"], 3)
    dims = int(first.ylabel[1:]), int(first.xlabel[1:])
    of = figures.Subject(subjects["vae"].run, dims=dims)
    turned = shown.manifold(of, 3)
    assert (turned.xlabel, turned.ylabel) == (first.ylabel, first.xlabel)
    table = first.images.reshape(3, 3, *first.images.shape[1:])
    np.testing.assert_allclose(
        turned.images, table.swapaxes(0, 1).reshape(first.images.shape), atol=1e-6
    )
    written = figures.write(of, tmp_path, ["manifold"])  # not in the place of the training's
    assert [path.name for path in written] == [f"manifold-dims-{dims[0]}x{dims[1]}.png"]

    found = latent_space.manifold(lambda z: z, 3, np.arange(8.0), (6, 2))
    assert found.units == (6, 2) and not np.delete(found.images, (2, 6), 1).any()
    np.testing.assert_array_equal(found.images[:, 6], np.tile(found.z, 3))
    np.testing.assert_array_equal(found.images[:, 2], np.repeat(found.z, 3))


def test_a_geodesic_is_not_longer_and_its_title_says_so(subjects, monkeypatch):
    of = subjects["vae"]
    ends = shown.pairs(of.test, 2)
    found = shown.interpolations(of.run, ends, steps=4, path="geodesic")
    start, end = (taken(ends, np.arange(first, 4, 2)) for first in (0, 1))
    way = of.run.geodesics(start, end, steps=4)
    codes = of.run.encode(ends).reshape(2, 2, -1)
    np.testing.assert_allclose(way.z[:, [0, -1]], codes, atol=1e-5)
    # Long chords are shorter beside their arcs than short ones.
    assert (way.length <= way.straight * 1.001).all() and (way.length < way.straight).any()
    np.testing.assert_allclose(found.images[1], of.run.decode(way.z[1]), atol=1e-5)
    saved = 100 * (1 - way.length.sum() / way.straight.sum())
    assert f"{saved:.0f} % shorter than what straight lines decode to" in found.title
    same = type(of.run).geodesics
    none = lambda *given, **how: (way := same(*given, **how))._replace(length=way.straight * 1.004)  # noqa: E731
    monkeypatch.setattr(type(of.run), "geodesics", none)
    title = shown.interpolations(of.run, ends, steps=4, path="geodesic").title
    assert "no shorter than what straight lines decode to" in title
    monkeypatch.undo()
    again = of.run.interpolate(start, end, steps=4, path="geodesic")
    np.testing.assert_allclose(again, found.images, atol=1e-5)
    with pytest.raises(UsageError, match="discrete latents: expected continuous ones"):
        subjects["vq_vae"].run.geodesics(start, end)


def test_computing_needs_no_matplotlib():
    """So that a page may draw the same."""
    code = (
        "import sys; from flaxvae.report import figures, shown; print('matplotlib' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    assert "plots" not in vars(shown)


def test_what_no_figure_needs_is_not_read(subjects, monkeypatch, tmp_path):
    def fail(*arguments, **options):
        raise AssertionError

    run = subjects["vae"].run
    monkeypatch.setattr(Run, "data", fail)
    monkeypatch.setattr(Run, "evaluate", fail)
    names = ["samples", "traversals", "manifold", "curves"]
    written = figures.write(figures.Subject(run), tmp_path / "figures", names)
    assert [path.stem for path in written] == names and all(path.exists() for path in written)
    with pytest.raises(AssertionError):
        figures.write(figures.Subject(run), tmp_path / "others", ["reconstructions"])


def test_the_numbers_are_those_of_the_summary(subjects, monkeypatch):
    of = subjects["vae"]
    evaluated = of.run.evaluate(of.test)
    assert of.evaluation == of.run.summary == evaluated
    monkeypatch.setattr(of.run.folder, "finished", lambda: None)
    assert of.run.summary is None
    assert figures.Subject(of.run, of.test).evaluation == evaluated


@pytest.mark.parametrize("words", ["samples,manifold", "samples manifold", "manifold,samples"])
def test_only_picks(words, trained, capsys):
    before = {path: path.stat().st_mtime_ns for path in (trained / "figures").iterdir()}
    drawn = [trained / "figures" / f"{name}.png" for name in ("samples", "manifold")]
    bytes_before = [path.read_bytes() if path in before else None for path in drawn]
    code, out, err = run(f"figures {trained} --only {words}", capsys)
    assert (code, err) == (0, "") and out.split() == [str(path) for path in drawn]
    after = {path: path.stat().st_mtime_ns for path in (trained / "figures").iterdir()}
    assert {path for path in after if after[path] != before.get(path)} == {*drawn}
    assert bytes_before in ([path.read_bytes() for path in drawn], [None, None])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("smples", ["--only smples", "did you mean 'samples'", "latent_scatter", "curves"]),
        ("samples,denoising", ["--only denoising", "does not apply to model vae", "manifold"]),
        ("samples,", ["--only ", "expected some of"]),
        ("", ["--only ", "expected some of"]),
    ],
)
def test_a_figure_that_there_is_not(words, said, trained, capsys):
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    code, out, err = run(f"figures {trained} --only {words}", capsys)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert all(word in err for word in said), err
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*")} == before


def test_an_unknown_name_is_refused_before_anything_is_read(capsys):
    assert "--only smples" in run("figures nowhere --only smples", capsys)[2]


def test_help_names_all_of_them():
    words = " ".join(inspect.getdoc(commands.figures).split())
    assert f"Some of {', '.join(figures.FIGURES)}, as in --only" in words


def test_what_draws_is_in_plots():
    """Or beside what computes it, in a file of its own."""
    own = {"draw_levels": levels, "draw_matrix": disentanglement}
    for figure in figures.FIGURES.values():
        home = own.get(figure.draw.__name__, plots)
        assert getattr(home, figure.draw.__name__) is figure.draw


def test_the_help_lists_every_figure():
    from flaxvae.commands.figures import figures as command

    said = " ".join((command.__doc__ or "").split())
    assert f"Some of {', '.join(figures.FIGURES)}, as in" in said
