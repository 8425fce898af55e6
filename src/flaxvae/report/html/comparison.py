"""Runs, or the settings of a sweep, on one page: a table, curves, and the same images through all.

A sweep's own picture has what was varied against -ELBO, and rate against distortion (Alemi et al.
2018), each seed a point: KL and reconstruction sum to -ELBO, so that a diagonal is one bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from flaxvae.analysis.evaluation import UNITS
from flaxvae.declared import short
from flaxvae.errors import command, counted
from flaxvae.report import compared, comparison, shown, sweeps, words
from flaxvae.report.comparison import Compared, Found, Setting
from flaxvae.report.html import charts, pictures
from flaxvae.report.html.charts import Bar, Group, Series
from flaxvae.report.html.document import Html, Section, document, join, table, tag
from flaxvae.runs.folder import RunFolder
from flaxvae.runs.listing import Entry

CURVES = {"−ELBO": ("elbo", -1), "reconstruction": ("reconstruction", 1), "KL": ("kl", 1)}
ROOM = 30  # characters beside pictures
LOG = 20  # values that span more than this factor get a logarithmic axis


def page(found: Found, each: Sequence[Entry]) -> str:
    """The page; ``each`` are the runs, of a sweep all its members."""
    settings: list[Setting] = []
    if found.sweep is not None:
        settings = comparison.settings(found.sweep, {one.path.name: one for one in each})
    parts = [
        _numbers(found, each, settings),
        _varied(settings) if found.sweep is not None else None,
        _rate(found, settings),
        _curves(found, each, settings),
        _reconstructions(found),
        _samples(found),
        _walks(found),
    ]
    what = f"{counted(len(each), 'run')} beside one another"
    if found.sweep is not None:
        what = f"{found.sweep.path.name}, {counted(len(settings), 'setting')}"
    asked = [found.sweep.path] if found.sweep is not None else [one.path for one in each]
    again = command("flaxvae", "compare", *map(words.relative, asked))
    footer = ["Written by ", tag("code", again)]
    return document(what, [part for part in parts if part], _header(found, each, what), footer)


def _header(found: Found, each: Sequence[Entry], what: str) -> Html:
    same = all(one.same_data for one in found.runs)
    name = each[0].record.get("data_spec", {}).get("name", "unknown data") if each else ""
    notices = list(found.remarks)
    if not same:
        notices.insert(
            0, "These runs are of different data, so their numbers cannot be compared with 1's."
        )
    lead = f"{name}: {UNITS}." if same else f"1 is of {name}. {UNITS.capitalize()}."
    return join(
        [
            tag("p", "Comparison", class_="kicker"),
            tag("h1", what),
            tag("p", lead, class_="lead"),
            [tag("p", text, class_="notice") for text in notices],
        ]
    )


def _numbers(found: Found, each: Sequence[Entry], settings: Sequence[Setting]) -> Section:
    if found.sweep is not None:
        members = {one.path.name: one for one in each}
        headings, cells, labels = comparison.sweep_numbers(found.sweep, members)
        rows = [[label, *map(_kept, row)] for label, row in zip(labels, cells, strict=True)]
        inside = [
            table(rows, ["setting", *headings], "Numbers on test images"),
            tag("p", f"{sweeps.NOTE}; {comparison.BY_SEED}.", class_="soft"),
        ]
        return Section("numbers", "Numbers", join(inside))
    names = list(dict.fromkeys(name for one in found.runs for name in one.settings))
    about = [
        [
            f"{one.name}: {one.path}",
            *(_setting(one, name) for name in names),
            "; ".join(one.remarks),
        ]
        for one in found.runs
    ]
    columns = ["run", *(name.replace("_", "-") for name in names), "remarks"]
    headings, cells = comparison.numbers(found.runs)
    rows = [[one.name, *map(_kept, row)] for one, row in zip(found.runs, cells, strict=True)]
    inside = [
        table(about, columns, "Settings that differ"),
        table(rows, ["", *headings], "Numbers on test images"),
        *(tag("p", text, class_="soft") for text in comparison.notes(found.runs)),
    ]
    return Section("numbers", "Numbers", join(inside))


def _kept(cell: str) -> str:
    """A number and its error, on one line."""
    return cell.replace(" ", "\u00a0")


def _setting(one: Compared, name: str) -> str:
    return short(one.settings[name]) if name in one.settings else "–"


# ---- the sweep's picture


def _varied(settings: Sequence[Setting]) -> Section | None:
    """Each varied setting against -ELBO: seeds as points, a line through their means."""
    names = [*settings[0].settings] if settings else []
    alone: dict[str, Any] = {"width": 560, "height": 320} if len(names) == 1 else {}
    drawn = [_against(settings, name, **alone) for name in names]
    drawn = [one for one in drawn if one is not None]
    if not drawn:
        return None
    note = "Each point is a seed; lines and bars are means over seeds. Lower is better."
    drawing = drawn[0] if len(drawn) == 1 else tag("div", drawn, class_="charts")
    inside = [tag("p", note), drawing]
    return Section("varied", "What was varied", join(inside))


def _against(settings: Sequence[Setting], name: str, **size: Any) -> Html | None:
    known = [one for one in settings if any("elbo" in test for test in one.tests.values())]
    if len({short(one.settings[name]) for one in known}) < 2:
        return None
    title = name.replace("_", " ")
    if not all(_is_number(one.settings[name]) for one in known):
        return _bars(known, title, **size)
    series, rest = list[Series](), dict[str, list[Setting]]()
    for one in known:
        others = {k: v for k, v in one.settings.items() if k != name}
        rest.setdefault(sweeps.label(others), []).append(one)
    for i, (called, alike) in enumerate(rest.items()):
        x = [one.settings[name] for one in alike]
        series.append(Series(called or "mean", x, [_elbos(one).mean() for one in alike], colour=i))
        points = [(at, y) for at, one in zip(x, alike, strict=True) for y in _elbos(one)]
        across, down = zip(*points, strict=True)
        seeds = f"{called}, seeds" if called else "seeds"
        series.append(Series(seeds, across, down, colour=i, points=True))
    values = [one.settings[name] for one in known]
    log = min(values) > 0 and max(values) / min(values) >= LOG
    ylabel = "−ELBO, nats"
    return charts.lines(series, title=title, xlabel=title, ylabel=ylabel, log_x=log, **size)


def _bars(known: Sequence[Setting], title: str, **size: Any) -> Html:
    """Means and standard deviations, of settings that are no numbers."""
    each = [(one.label, _elbos(one)) for one in known]
    bars = [
        Bar(label, float(x.mean()), float(x.std(ddof=1)) if len(x) > 1 else None)
        for label, x in each
    ]
    return charts.bars(bars, title=title, ylabel="−ELBO, nats", unit="nats", **size)


def _elbos(one: Setting) -> np.ndarray:
    return np.array([-test["elbo"] for test in one.tests.values() if "elbo" in test])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


# ---- charts of all


def _rate(found: Found, settings: Sequence[Setting]) -> Section | None:
    """Rate against distortion of each seed or run."""
    groups = []
    if found.sweep is not None:
        for one in settings:
            tests = [(f"{one.label}, seed {seed}", test) for seed, test in one.tests.items()]
            groups.append(_points(one.label, tests))
    else:
        comparable = [one for one in found.runs if one.same_data]
        groups = [_points(one.name, [(f"{one.name}: {one.path}", one.test)]) for one in comparable]
    groups = [one for one in groups if len(one.points)]
    if sum(len(one.points) for one in groups) < 2:
        return None
    chart = charts.scatter(
        groups,
        xlabel="rate: KL, nats",
        ylabel="distortion: reconstruction, nats",
        same_scale=False,
        size=9,
        width=560,
        height=380,
    )
    note = (
        "Rate is what the code says of an image, distortion what it leaves out. They sum to −ELBO: "
        "a larger weight of the KL buys a lower rate with a higher distortion."
    )
    return Section("rate", "Rate and distortion", join([tag("p", note), chart]))


def _points(name: str, tests: Sequence[tuple[str, Mapping[str, Any]]]) -> Group:
    kept = [
        (tip, x["kl"], x["reconstruction"]) for tip, x in tests if {*x} >= {"kl", "reconstruction"}
    ]
    points = np.array([[kl, distortion] for _, kl, distortion in kept]).reshape(-1, 2)
    tips = [f"{tip}\n{kl:.2f} + {rest:.2f} = {kl + rest:.2f} nats" for tip, kl, rest in kept]
    return Group(name, points, tips)


def _curves(found: Found, each: Sequence[Entry], settings: Sequence[Setting]) -> Section | None:
    """Validation, or training where there is none, by epoch; of a sweep, means over seeds."""
    lines: dict[str, list[list[dict[str, Any]]]] = {}  # histories by label
    if found.sweep is not None:
        for one in settings:
            lines[one.label] = [_history(found.sweep.path / name) for name in one.members]
    else:
        for run, entry in zip(found.runs, each, strict=True):
            if run.same_data:
                lines[run.name] = [_history(entry.path)]
    which = "validation"
    if not any(f"{which}_elbo" in row for rows in lines.values() for h in rows for row in h):
        which = "train"
    drawn = []
    for title, (key, sign) in CURVES.items():
        curves = [
            _curve(name, histories, f"{which}_{key}", sign, i)
            for i, (name, histories) in enumerate(lines.items())
        ]
        if series := [curve for curve in curves if curve is not None]:
            heading = f"{title}, {which}"
            drawn.append(charts.lines(series, title=heading, xlabel="epoch", ylabel="nats"))
    if not drawn:
        return None
    inside: list[Html] = [tag("div", drawn, class_="charts")]
    if found.sweep is not None:
        note = "Means over seeds; bands are standard deviations."
        inside.insert(0, tag("p", note, class_="soft"))
    return Section("curves", "Curves", join(inside))


def _history(path: Any) -> list[dict[str, Any]]:
    return RunFolder(path).history()


def _curve(
    name: str, histories: Sequence[Sequence[Mapping[str, Any]]], key: str, sign: int, colour: int
) -> Series | None:
    """Mean and standard deviation of a number by epoch."""
    by_epoch: dict[int, list[float]] = {}
    for history in histories:
        for row in history:
            if key in row and math.isfinite(row[key]):
                by_epoch.setdefault(row["epoch"], []).append(sign * row[key])
    if not by_epoch:
        return None
    epochs = sorted(by_epoch)
    error = None
    if len(histories) > 1:
        error = [
            float(np.std(by_epoch[epoch], ddof=1)) if len(by_epoch[epoch]) > 1 else 0.0
            for epoch in epochs
        ]
    means = [float(np.mean(by_epoch[epoch])) for epoch in epochs]
    return Series(name, epochs, means, error, colour)


# ---- pictures


def _rows(found: Found, take: Callable[[compared.Pictures], Any]) -> list[tuple[str, Any]]:
    """What there is of a picture, with what its run is called beside it."""
    pairs = zip(found.runs, found.pictures, strict=True)
    taken = [(_called(found, one), take(own)) for one, own in pairs if own is not None]
    return [(name, images) for name, images in taken if images is not None]


def _called(found: Found, one: Compared) -> str:
    """A run's number with its settings, or with its folder, if there is room."""
    if found.sweep is not None:
        return one.name
    chosen = [
        short(x) if name == "model" else f"{name.replace('_', '-')} {short(x)}"
        for name, x in one.settings.items()
    ]
    texts = ", ".join(chosen), one.path.rpartition("/")[2]
    return next((f"{one.name}: {x}" for x in texts if x and len(x) <= ROOM), one.name)


def _reconstructions(found: Found) -> Section | None:
    rows = _rows(found, lambda own: own.reconstructions)
    if found.test is None or not rows:
        return None
    originals = shown.pixels(shown.first(found.test, compared.RECONSTRUCTED), slice(None))
    note = "The first test images, then each run's reconstructions from its codes."
    strips = pictures.strips([("test images", originals), *rows], "Reconstructions")
    return Section("reconstructions", "The same images", join([tag("p", note), strips]))


def _samples(found: Found) -> Section | None:
    rows = _rows(found, lambda own: own.samples)
    if not rows:
        return None
    note = "Means of p(x|z) at draws from each model's own prior."
    strips = pictures.strips(rows, "Samples")
    return Section("samples", "Samples", join([tag("p", note), strips]))


def _walks(found: Found) -> Section | None:
    rows = _rows(found, lambda own: own.walks)
    if found.ends is None or not rows:
        return None
    ends = shown.pixels(found.ends, slice(None))
    note = (
        "From the code of one test image to that of another, at equal steps, decoded by each run; "
        "the two images stand at both ends."
    )
    inside = [tag("p", note)]
    for i in range(len(rows[0][1])):
        start, end = ends[2 * i : 2 * i + 1], ends[2 * i + 1 : 2 * i + 2]
        walk = [(name, np.concatenate([start, images[i], end])) for name, images in rows]
        inside.append(tag("figure", pictures.strips(walk, f"Walk {i + 1}")))
    return Section("walks", "The same walks", join(inside))
