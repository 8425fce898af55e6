"""The pictures of a run's page: codes, manifold, reconstructions, samples, walks, anomalies.

The records are those of ``report.figures``: what ``flaxvae train`` has computed for the PNG files
is not computed again.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from flaxvae.analysis.anomaly import scores as scoring
from flaxvae.analysis.evaluation import ACTIVE
from flaxvae.data.dataset import taken
from flaxvae.data.pipeline import Split
from flaxvae.errors import DataError, counted
from flaxvae.report import anomaly, figures, shown, words
from flaxvae.report.html import charts, pictures
from flaxvae.report.html.charts import Bar, Group
from flaxvae.report.html.document import Html, Section, details, join, tag
from flaxvae.report.html.pictures import VALUES
from flaxvae.report.shown import Subject
from flaxvae.runs import anomaly as scored
from flaxvae.runs.run import Run

Array = np.ndarray
SPOTS = 2000  # points of the scatter, fewer if images are large
LOOKED_AT = 2000  # images among which are the best and the worst reconstructions
ENDS = 10  # of these
THUMBNAILS = 800_000  # numbers of grey ones, of half a byte each; of coloured ones a fourth
IDLE = 0.01  # nats: a dimension with less of a KL is grey


def sections(of: Subject) -> Iterator[Section | None]:
    """What test images show, of those that apply."""
    run, names = of.run, figures.suited(of)

    def found(name: str) -> Any:
        return figures.computed(of, name) if name in names else None

    yield _latent_space(of, found)
    if "reconstructions" in names:
        yield _reconstructions(of, found)
    if (mosaic := found("samples")) is not None:
        yield Section("samples", "Samples", _mosaic(run, mosaic))
    yield _walks(found)
    yield _anomalies(of)


def _latent_space(of: Subject, found: Callable[[str], Any]) -> Section | None:
    parts: list[object] = []
    scatter, manifold = found("latent_scatter"), found("manifold")
    if scatter is not None and len(scatter.codes):
        parts.append(_codes(of, scatter))
    if manifold is not None:
        parts.append(_manifold(manifold))
    both = tag("div", parts, class_="pair") if parts else None
    bars = _usage(of.run, of.evaluation)
    if not parts and bars is None:
        return None
    return Section("latents", "Latent space", join([bars, both]))


def dimensions(run: Run, evaluation: Any) -> Section | None:
    bars = _usage(run, evaluation)
    return None if bars is None else Section("latents", "Latent space", bars)


def _usage(run: Run, evaluation: Any) -> Html | None:
    """The KL of each dimension, the largest first; of a hierarchy of each block, in its order."""
    kl, names = evaluation.kl_per_unit, evaluation.kl_units
    wide: dict[str, Any] = {"width": 720, "height": 220}
    if kl and len(kl) > 1:
        called = list(names or [f"z{i + 1}" for i in range(len(kl))])
        order = range(len(kl)) if names else np.argsort(-np.asarray(kl), kind="stable")
        one = "block" if names else "variable" if run.recipe.codes else "dimension"
        idle = sum(nats < IDLE for nats in kl)
        title = f"KL of each {one}, summing to {sum(kl):.2f} nats"
        items = [Bar(called[int(i)], kl[int(i)]) for i in order]
        note = f", {idle} below {IDLE:g} nats in grey" * bool(idle)
        return charts.bars(
            items, title=title + note, ylabel="nats", unit="nats", limit=IDLE, **wide
        )
    if evaluation.code_variance and len(evaluation.code_variance) > 1:
        spread = np.asarray(evaluation.code_variance)
        items = [Bar(f"z{i + 1}", spread[i]) for i in np.argsort(-spread, kind="stable")]
        title = f"Variance of each dimension of the codes, below {ACTIVE:g} in grey"
        return charts.bars(items, title=title, ylabel="variance", limit=ACTIVE, **wide)
    return None


def _codes(of: Subject, found: shown.Scatter) -> Html:
    """The scatter of the codes; the tip shows the image."""
    test, run = of.test, of.run
    drawable = run.spec.kind != "table" and len(test.shape) == 3
    size = math.prod(test.shape) / max(1, round(max(test.shape[:2]) / 32)) ** 2 if drawable else 1
    most = THUMBNAILS // (4 if drawable and test.shape[-1] > 1 else 1)
    count = min(len(found.codes), max(100, min(SPOTS, round(most / size))))
    rows = np.sort(np.random.default_rng(0).permutation(len(found.codes))[:count])
    named = [_called(test, int(i), run.spec.example) for i in rows]
    place = {int(row): i for i, row in enumerate(rows)}
    labels = np.zeros(len(rows), int) if found.labels is None else np.asarray(found.labels)[rows]
    groups = []
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        tips = [named[i] if found.labels is None else f"{label} · {named[i]}" for i in own]
        numbers = [place[int(rows[i])] for i in own] if drawable else []
        groups.append(Group(str(label), found.codes[rows[own]], tips, numbers))
    few = len(groups) <= 30
    title = f"Codes of {counted(len(rows), f'test {run.spec.example}')}"
    title += f" of {len(found.codes):,}" * (len(rows) < len(found.codes))
    title += f", in {len(groups)} classes" * (not few)
    return charts.scatter(
        groups,
        title=title,
        xlabel=found.xlabel,
        ylabel=found.ylabel,
        names=few,
        sheet=pictures.thumbnails(shown.pixels(taken(test, rows), slice(None)))
        if drawable
        else None,
        words=found.title.partition("\n")[0],
    )


def _called(split: Split, row: int, example: str) -> str:
    return f"test {example} {row}" if split.files is None else PurePath(split.files[row]).name


def _manifold(found: shown.Manifold) -> Html:
    n = len(found.z)
    fits = max(5, math.isqrt(VALUES // math.prod(found.images.shape[1:])))
    some = np.arange(n) if n <= fits else np.round(np.linspace(0, n - 1, fits)).astype(int)
    grid = found.images.reshape(n, n, *found.images.shape[1:])[np.ix_(some[::-1], some)]
    title = found.title.partition("\n")[0]
    alt = f"{title}: {found.xlabel} to the right, {found.ylabel} upwards"
    flat = grid.reshape(-1, *grid.shape[2:])
    picture = pictures.tiles(flat, len(some), alt, gap=0, wide=600)
    ends = f"{found.xlabel} to the right and {found.ylabel} upwards, from {found.z[0]:.2f} to "
    ends += f"{found.z[-1]:.2f}".replace("-", "−")
    return _figure("Manifold", f"{title}; {ends.replace('-', '−')}.", picture)


def _mosaic(run: Run, found: shown.Mosaic) -> Html:
    side = math.isqrt(len(found.images))
    fits = max(3, math.isqrt(VALUES // math.prod(found.images.shape[1:])))
    if run.recipe.classes is None:
        side = min(side, fits)
        images = found.images[: side * side]
    else:  # each class in its place: thin the draws of each
        keep = np.linspace(0, len(found.images) - 1, min(side, fits) ** 2).round().astype(int)
        images, side = found.images[keep], min(side, fits)
    title, _, _ = found.title.partition("\n")
    return _figure(None, title + ".", pictures.tiles(images, side, title, wide=640))


def _reconstructions(of: Subject, found: Callable[[str], Any]) -> Section:
    """Some test images, then the best and the worst by squared error."""
    run, usual = of.run, found("reconstructions")
    title, _, _ = usual.title.partition("\n")
    rows = [("original", usual.originals[:ENDS]), ("reconstruction", usual.reconstructions[:ENDS])]
    parts = [_figure("The first test images", f"{title}.", pictures.strips(rows, title))]
    test = shown.first(of.test, LOOKED_AT)
    # The programs that encode and decode are those of the figures: nothing is compiled for this.
    decoded = run.decode(run.encode(test), test.y if run.recipe.classes is not None else None)
    originals = shown.pixels(test, slice(None))
    errors = np.square(decoded - originals).reshape(len(decoded), -1).mean(1)
    order = np.argsort(np.where(np.isnan(errors), np.inf, errors), kind="stable")
    if len(order) > 2 * ENDS:
        of_what = f"of the first {len(order):,} test {run.spec.example}s"
        of_what = of_what if len(order) < len(of.test.x) else f"of all {len(order):,}"
        for name, some in ("Best", order[:ENDS]), ("Worst", order[: -ENDS - 1 : -1]):
            low, high = errors[some].min(), errors[some].max()
            note = f"{name} {of_what}: squared error {low:.3g} to {high:.3g} {words.per_value(run)}"
            which = ", ".join(_called(test, int(i), run.spec.example) for i in some)
            rows = [("original", originals[some]), ("reconstruction", decoded[some])]
            inside = [
                pictures.strips(rows, f"{name} reconstructions"),
                details("Which", tag("p", which)),
            ]
            parts.append(_figure(f"{name} reconstructions", f"{note}.", *inside))
    grid = found("denoising")
    if grid is not None:
        parts.append(_grid("Corrupted images", grid))
    return Section("reconstructions", "Reconstructions", join(parts))


def _walks(found: Callable[[str], Any]) -> Section | None:
    parts: list[object] = []
    if (grid := found("traversals")) is not None:
        parts.append(_grid("Traversals", grid))
    if (lines := found("interpolations")) is not None and len(lines.images):
        rows = np.concatenate([lines.ends[:, :1], lines.images, lines.ends[:, 1:]], 1)
        keep = max(2, VALUES // math.prod(rows.shape[1:]))
        rows = rows[:keep]
        title, columns = lines.title.partition("\n")[0], rows.shape[1]
        flat = rows.reshape(-1, *rows.shape[2:])
        picture = pictures.tiles(flat, columns, title, breaks=(1, columns - 1))
        parts.append(_figure("Interpolations", f"{title}, which stand at both ends.", picture))
    if (grid := found("redrawn")) is not None:
        parts.append(_grid("Levels drawn anew", grid))
    return Section("walks", "Walks", join(parts)) if parts else None


def _grid(name: str, found: shown.Grid) -> Html:
    """Named rows of images."""
    title = found.title.partition("\n")[0]
    said = f"{title}."
    if found.columns:
        said += f" From {found.columns[0]} to {found.columns[-1]} {found.xlabel}."
    rows = list(zip(found.labels, found.rows))
    keep = max(2, VALUES // math.prod(np.shape(rows[0][1])))
    return _figure(name, said, pictures.strips(rows[:keep], title))


def _anomalies(of: Subject) -> Section | None:
    """The most unusual test images by scores.csv, with the pixels that cost most."""
    run, path = of.run, of.run.folder.path / scored.SCORES
    if run.spec.kind != "images" or not path.exists():
        return None
    try:
        score = scored.check_scores(run)
        order, scores, flagged = _scored(path, of.test)
    except (OSError, ValueError, LookupError, DataError) as error:
        said = f"scores.csv is not shown: {error}; write it again with `flaxvae score`."
        return Section("anomalies", "Anomalies", tag("p", said, class_="notice"))
    names = of.test.files if of.test.files is not None else range(len(of.test.x))
    grid = anomaly.picture(run, of.test, order, names, scoring.words(run.recipe, score))
    listed = [f"{name} · {scores[i]:.2f}" for i, name in enumerate(grid["columns"])]
    said = f"{grid['title'].partition(chr(10))[0]}: scores from {scores[0]:,.2f} down."
    if flagged is not None:
        said += f" {flagged:,} of {len(order):,} are above the threshold."
    rows = list(zip(grid["labels"], grid["rows"]))
    inside = pictures.strips(rows, "Most unusual test images")
    finite = scores[np.isfinite(scores)]
    counts, edges = np.histogram(finite, 40) if len(finite) else (np.zeros(0), np.zeros(1))
    digits = 0 if len(edges) < 2 or edges[1] - edges[0] >= 1 else 1
    bars = [
        Bar(
            f"{low:z.{digits}f}",
            float(count),
            tip=f"{low:z,.{digits + 1}f} to {high:z,.{digits + 1}f}: {count:,} images",
        )
        for count, low, high in zip(counts, edges, edges[1:])
    ]
    spread = charts.bars(
        bars,
        title="Scores of all test images",
        ylabel="images",
        xlabel="score",
        width=720,
        height=220,
    )
    which = details("Which", tag("p", "; ".join(listed)))
    return Section("anomalies", "Anomalies", join([_figure(None, said, inside, which), spread]))


def _scored(path: Path, test: Split) -> tuple[Array, Array, int | None]:
    """scores.csv: rows of the test images and their scores, the highest first; and how many are
    flagged. Raises ValueError if it is of other images."""
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        try:
            rows = list(csv.DictReader(file, restval=""))
        except csv.Error as error:
            raise ValueError(str(error)) from None
    if len(rows) != len(test.x):
        raise ValueError(f"it has {len(rows):,} scores, and there are {len(test.x):,} test images")
    if test.files is None:
        order = np.array([int(row["index"]) for row in rows])
    else:
        place = {name: i for i, name in enumerate(test.files)}
        order = np.array([place[row["file"]] for row in rows])
    if sorted(order.tolist()) != list(range(len(order))):
        raise ValueError("it does not have each test image once")
    flagged = sum(row["flagged"] == "1" for row in rows) if rows and "flagged" in rows[0] else None
    return order, np.array([float(row["score"]) for row in rows]), flagged


def _figure(title: object, said: object, *inside: object) -> Html:
    caption = tag(
        "figcaption", tag("strong", title) if title else None, " " if title else None, said
    )
    return tag("figure", caption, inside)
