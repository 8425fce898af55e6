"""Charts as SVG in the page: lines, bars and points, whose colours follow the theme.

Each is a ``figure`` with its title, a legend, the drawing, and its values for the tip that follows
the pointer or the arrow keys. Numbers that are not finite are left out. Sizes are in units of the
viewBox, about a pixel on a phone.
"""

from __future__ import annotations

import html
import itertools
import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from flaxvae.errors import counted
from flaxvae.report.html.document import Html, data, join, tag
from flaxvae.report.scales import bulk, digits, plain, ticks

Array = np.ndarray
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 8, 34  # margins that the labels need
DIGIT = 6.2  # width of one in the labels
COLOURS = 10  # of the style; more than these get hues


class Series(NamedTuple):
    """A line: its name, and y by x; ``error`` is drawn as a band, or as bars if it has points."""

    name: str
    x: Sequence[float] | Array
    y: Sequence[float] | Array
    error: Sequence[float] | Array | None = None
    colour: int | None = None  # by default its number
    dashed: bool = False
    points: bool = False  # show the points alone, without a line


class Bar(NamedTuple):
    """A bar: its name, its length and its standard error."""

    name: str
    value: float
    error: float | None = None
    tip: str = ""  # what is said under the pointer; by default name and value


class Group(NamedTuple):
    """Points of one colour."""

    name: str
    points: Array  # [N, 2]
    tips: Sequence[str] = ()  # [N]; by default the name
    pictures: Sequence[int] | Array = ()  # [N] their numbers in the sheet of pictures


class _Frame(NamedTuple):
    """From values to the units of the viewBox."""

    x: tuple[float, float]
    y: tuple[float, float]
    width: float
    height: float
    log_x: bool = False

    def across(self, x: Any) -> Any:
        x, low, high = np.asarray(x, float), *self.x
        if self.log_x:
            x, low, high = np.log(x), math.log(low), math.log(high)
        return LEFT + (x - low) / (high - low) * (self.width - LEFT - RIGHT)

    def down(self, y: Any) -> Any:
        low, high = self.y
        return TOP + (high - np.asarray(y, float)) / (high - low) * (self.height - TOP - BOTTOM)


def colour(number: int, count: int = COLOURS) -> dict[str, Any]:
    """Attributes that give an element the ``number``-th of ``count`` colours, as --c."""
    if count <= COLOURS:
        return {"class_": f"k{number % COLOURS}"}
    return {"class_": "hue", "style": f"--h:{round(360 * number / count)}"}


def lines(
    series: Sequence[Series],
    *,
    title: object = "",
    xlabel: str = "",
    ylabel: str = "",
    log_x: bool = False,
    width: int = 360,
    height: int = 240,
    tip: str = "",
) -> Html:
    """Lines, or points, with their errors.

    If a few outliers would more than double the range, the scale fits the others, and the caption
    says how many are outside.

    Args:
        series: with the same meaning of x and y.
        title, xlabel, ylabel: text; the title may be markup.
        log_x: a logarithmic x.
        tip: what stands before x in the tip, such as "epoch".
    """
    kept = [_finite(one, log_x) for one in series]
    kept = [one for one in kept if len(one.x)]
    if not kept:
        return tag("p", "Nothing to draw: no number is finite.", class_="soft")
    values = np.concatenate([np.asarray(one.y) for one in kept])
    ends = [
        np.asarray(one.y) + s * np.asarray(one.error)
        for one in kept
        if one.error is not None
        for s in (-1, 1)
    ]
    low, high = bulk(values)
    for end in ends:
        low, high = min(low, end.min()), max(high, end.max())
    across = np.concatenate([np.asarray(one.x, float) for one in kept])
    x = (float(across.min()), float(across.max()))
    if x[0] == x[1]:
        x = (x[0] / 2, x[1] * 2) if log_x else (x[0] - 0.5, x[1] + 0.5)
    frame = _Frame(x, _room(low, high), width, height, log_x)
    parts: list[object] = [_axes(frame, xlabel, ylabel)]
    count = max(len(series), 1 + max((one.colour or 0) for one in kept))
    for i, one in enumerate(kept):
        attributes = colour(i if one.colour is None else one.colour, count)
        parts.append(tag("g", _line(frame, one), **attributes))
    hidden = int(((values < frame.y[0]) | (values > frame.y[1])).sum())
    verb = "is" if hidden == 1 else "are"
    note = f" {hidden} of {counted(len(values), 'point')} {verb} outside the scale." * bool(hidden)
    legend = [
        tag(
            "li",
            one.name,
            " ",
            tag("span", digits(one.y[-1]), class_="soft"),
            **_swatch(i, one, count),
        )
        for i, one in enumerate(kept)
        if len(kept) > 1
    ]
    said = "; ".join(f"{one.name} {digits(one.y[0])} to {digits(one.y[-1])}" for one in kept[:8])
    words = f"{_text(title)}, {ylabel} by {xlabel}: {said}"
    return _figure(title, legend, parts, frame, words, "x", _by_x(frame, kept, tip or xlabel), note)


def bars(
    items: Sequence[Bar],
    *,
    title: object = "",
    xlabel: str = "",
    ylabel: str = "",
    unit: str = "",
    limit: float | None = None,
    width: int = 360,
    height: int = 240,
) -> Html:
    """Vertical bars from zero in the order given, with standard errors; names where they fit.

    Args:
        items: the bars.
        unit: of the values, in the tip.
        limit: bars with less than this are grey.
    """
    items = [one for one in items if math.isfinite(one.value)]
    if not items:
        return tag("p", "Nothing to draw: no number is finite.", class_="soft")
    ends = [one.value + s * (one.error or 0) for one in items for s in (-1, 1)]
    low, high = min(0.0, *ends), max(0.0, *ends)
    top = high + 0.05 * (high - low) if high > low else 1.0
    frame = _Frame(
        (-0.5, len(items) - 0.5),
        (low - 0.05 * (high - low) if low < 0 else 0.0, top),
        width,
        height,
    )
    step = (width - LEFT - RIGHT) / len(items)
    broad = max(step * 0.72, step - 6, 0.4)
    zero = float(frame.down(0))
    # A name takes about 7 units a character; every so many are shown.
    longest = max(len(one.name) for one in items)
    every = math.ceil((6.5 * longest + 6) / step)
    parts: list[object] = [_axes(frame, xlabel, ylabel, across=False)]
    values = []
    for i, one in enumerate(items):
        x, y = float(frame.across(i)), float(frame.down(one.value))
        number = 7 if limit is not None and one.value < limit else 0
        top, tall = min(y, zero), abs(y - zero)
        shape = tag(
            "rect", x=_n(x - broad / 2), y=_n(top), width=_n(broad), height=_n(tall), class_="bar"
        )
        parts.append(tag("g", shape, _whisker(frame, x, one.value, one.error), **colour(number)))
        if i % every == 0:
            parts.append(
                tag("text", one.name, x=_n(x), y=_n(height - BOTTOM + 14), text_anchor="middle")
            )
        error = f" ± {digits(one.error)}" if one.error else ""
        said = one.tip or f"{one.name}: {digits(one.value)}{error} {unit}".strip()
        values.append([_f(x), _f(top), said])
    most = max(items, key=lambda one: one.value)
    largest = f"{most.name} {digits(most.value)} {unit}"
    words = f"{_text(title)}, {ylabel}: {len(items)} bars, the largest {largest}"
    return _figure(title, [], parts, frame, words, "x", values)


def scatter(
    groups: Sequence[Group],
    *,
    title: object = "",
    xlabel: str = "",
    ylabel: str = "",
    same_scale: bool = True,
    names: bool = True,
    size: float | None = None,
    sheet: Html | None = None,
    words: str = "",
    width: int = 560,
    height: int = 480,
) -> Html:
    """Points by group, in an order in which no group hides another.

    Args:
        groups: each with its name and colour.
        same_scale: of both axes.
        names: a legend.
        size: of a point; by default by their number.
        sheet: the pictures that the groups number (``pictures.sheet``).
        words: what the drawing shows, for those who cannot see it.
    """
    finite = [np.isfinite(np.asarray(one.points, float)).all(-1) for one in groups]
    known = [np.asarray(one.points, float)[keep] for one, keep in zip(groups, finite)]
    points = np.concatenate(known) if known else np.zeros((0, 2))
    if not len(points):
        return tag("p", "Nothing to draw: no point is finite.", class_="soft")
    boxes = [_room(float(points[:, i].min()), float(points[:, i].max()), 0.04) for i in (0, 1)]
    frame = _Frame(boxes[0], boxes[1], width, height)
    if same_scale:
        frame = _same_scale(frame)
    spot = size or min(max(round(150 / math.sqrt(len(points)), 1), 3), 9)
    parts: list[object] = [_axes(frame, xlabel, ylabel)]
    values: list[list[Any]] = []
    chunks: list[list[Html]] = [[] for _ in range(6)]
    for number, (one, keep, own) in enumerate(zip(groups, finite, known)):
        tips = list(itertools.compress(one.tips, keep)) or [one.name] * len(own)
        pictures = np.asarray(one.pictures, int)[keep].tolist() if len(one.pictures) else []
        where = np.stack([frame.across(own[:, 0]), frame.down(own[:, 1])], 1).round(1).tolist()
        for i, (x, y) in enumerate(where):
            values.append([_f(x), _f(y), tips[i], *pictures[i : i + 1]])
        for part, chunk in enumerate(chunks):
            path = "".join(f"M{_n(x)} {_n(y)}h0" for x, y in where[part :: len(chunks)])
            if path:
                chunk.append(
                    tag("g", tag("path", d=path, class_="dots"), **colour(number, len(groups)))
                )
    parts.append(tag("g", chunks, stroke_width=_n(spot)))
    lost = sum(int((~keep).sum()) for keep in finite)
    verb = "is" if lost == 1 else "are"
    note = f" {counted(lost, 'point')} {verb} not finite, and left out." if lost else ""
    legend = [
        tag("li", one.name, **colour(i, len(groups)))
        for i, one in enumerate(groups)
        if names and len(groups) > 1
    ]
    words = words or f"{_text(title)}: {len(points)} points, {xlabel} and {ylabel}"
    return _figure(title, legend, parts, frame, words, "xy", values, note, sheet, spots=True)


# ---- what they have in common


def _finite(one: Series, log_x: bool) -> Series:
    x, y = np.asarray(one.x, float), np.asarray(one.y, float)
    keep = np.isfinite(x) & np.isfinite(y) & ((x > 0) | (not log_x))
    error = None if one.error is None else np.nan_to_num(np.asarray(one.error, float)[keep])
    return one._replace(x=x[keep], y=y[keep], error=error)


def _room(low: float, high: float, part: float = 0.06) -> tuple[float, float]:
    room = part * (high - low) or 0.05 * abs(high) or 1.0
    return low - room, high + room


def _same_scale(frame: _Frame) -> _Frame:
    """With one unit of value as long across as down."""
    wide, tall = frame.width - LEFT - RIGHT, frame.height - TOP - BOTTOM
    unit = max((frame.x[1] - frame.x[0]) / wide, (frame.y[1] - frame.y[0]) / tall)
    middles = [sum(frame.x) / 2, sum(frame.y) / 2]
    boxes = [(m - unit * side / 2, m + unit * side / 2) for m, side in zip(middles, (wide, tall))]
    return frame._replace(x=boxes[0], y=boxes[1])


def _axes(frame: _Frame, xlabel: str, ylabel: str, across: bool = True) -> list[Html]:
    """Grid lines at round values of y, ticks at those of x, and the names of both."""
    bottom, right = frame.height - BOTTOM, frame.width - RIGHT
    parts, longest = [], 0
    for at in ticks(*frame.y, 5):
        y = _n(frame.down(at))
        parts.append(tag("line", x1=LEFT, x2=_n(right), y1=y, y2=y, class_="grid"))
        label = plain(at, frame.y[1] - frame.y[0])
        longest = max(longest, len(label))
        parts.append(tag("text", label, x=LEFT - 6, y=y, dy=".35em", text_anchor="end"))
    if across:
        marks = ticks(*frame.x, 6) if not frame.log_x else _decades(*frame.x)
        for at in marks:
            x, text = _n(frame.across(at)), plain(at, frame.x[1] - frame.x[0])
            parts.append(tag("line", x1=x, x2=x, y1=_n(bottom), y2=_n(bottom + 4), class_="axis"))
            parts.append(tag("text", text, x=x, y=_n(bottom + 15), text_anchor="middle"))
    parts.append(tag("line", x1=LEFT, x2=_n(right), y1=_n(bottom), y2=_n(bottom), class_="axis"))
    middle = _n((LEFT + right) / 2)
    parts.append(tag("text", xlabel, x=middle, y=_n(frame.height - 4), text_anchor="middle"))
    side, turn = _n((TOP + bottom) / 2), "rotate(-90)"
    beside = _n(min(11, LEFT - 12 - DIGIT * longest))
    name = tag("text", ylabel, transform=f"translate({beside} {side}) {turn}", text_anchor="middle")
    return [*parts, name]


def _decades(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, ... inside a range."""
    first = math.floor(math.log10(low))
    last = math.ceil(math.log10(high))
    steps = (1, 2, 5) if last - first <= 3 else (1,)
    every = [m * 10.0**e for e in range(first, last + 1) for m in steps]
    return [at for at in every if low <= at <= high]


def _line(frame: _Frame, one: Series) -> list[Html]:
    x, y = np.asarray(one.x), np.clip(np.asarray(one.y), *frame.y)
    where = list(zip(frame.across(x).tolist(), frame.down(y).tolist()))
    parts = []
    if one.error is not None and not one.points and len(x) > 1:
        up, low = (np.clip(y + s * np.asarray(one.error), *frame.y) for s in (1, -1))
        edge = [*zip(frame.across(x), frame.down(up)), *zip(frame.across(x), frame.down(low))][:]
        edge[len(x) :] = edge[len(x) :][::-1]
        parts.append(
            tag("path", d="M" + "L".join(f"{_n(a)} {_n(b)}" for a, b in edge) + "z", class_="band")
        )
    if not one.points and len(x) > 1:
        path = "M" + "L".join(f"{_n(a)} {_n(b)}" for a, b in where)
        parts.append(tag("path", d=path, class_="line dashed" if one.dashed else "line"))
    if one.points or (len(x) <= 30 and not one.dashed):
        for i, (a, b) in enumerate(where):
            error = None if one.error is None or not one.points else float(one.error[i])
            parts.append(_whisker(frame, a, float(y[i]), error))
            parts.append(
                tag("circle", cx=_n(a), cy=_n(b), r=3 if one.points else 2, class_="point")
            )
    return parts


def _whisker(frame: _Frame, x: float, value: float, error: float | None) -> Html:
    if not error:
        return Html()
    low, high = (_n(frame.down(np.clip(value + s * error, *frame.y))) for s in (-1, 1))
    return tag("line", x1=_n(x), x2=_n(x), y1=low, y2=high, class_="error")


def _by_x(frame: _Frame, series: Sequence[Series], name: str) -> list[list[Any]]:
    """What is said at each x: all that is known there; the tip stands at the highest."""
    found: dict[float, list[tuple[str, float, float | None]]] = {}
    for one in series:
        for i, (x, y) in enumerate(zip(one.x, one.y)):
            error = None if one.error is None else float(one.error[i])
            found.setdefault(float(x), []).append((one.name, float(y), error))
    values = []
    for x in sorted(found):
        rows = [f"{who}: {digits(y)}" + (f" ± {digits(e)}" if e else "") for who, y, e in found[x]]
        top = frame.down(np.clip(max(y for _, y, _ in found[x]), *frame.y))
        values.append(
            [_f(frame.across(x)), _f(top), "\n".join([f"{name} {plain(x)}".strip(), *rows])]
        )
    return values


def _swatch(i: int, one: Series, count: int) -> dict[str, Any]:
    found = colour(i if one.colour is None else one.colour, count)
    return found | {"class_": found["class_"] + " dashed" * one.dashed}


def _figure(
    title: object,
    legend: Sequence[Html],
    parts: Sequence[object],
    frame: _Frame,
    words: str,
    near: str,
    values: Sequence[Sequence[Any]],
    note: str = "",
    sheet: Html | None = None,
    spots: bool = False,
) -> Html:
    bottom = frame.height - BOTTOM
    mark = tag("line", y1=TOP, y2=_n(bottom)) if near == "x" else tag("circle", r=6)
    drawing = tag(
        "svg",
        parts,
        tag("g", mark, class_="mark", visibility="hidden"),
        viewBox=f"0 0 {frame.width} {frame.height}",
        role="img",
        aria_label=f"{words}. Arrow keys read the values.",
        tabindex=0,
    )
    listed = tag("ul", legend, class_="legend spots" if spots else "legend") if legend else None
    above = [tag("strong", title) if title else None, note or None, listed]
    caption = tag("figcaption", above) if join(above) else None
    source = data({"near": near, "values": list(values)}, class_="values")
    return tag("figure", caption, drawing, source, sheet, class_="chart")


def _text(title: object) -> str:
    """A title without its markup."""
    return html.unescape(re.sub("<[^>]*>", "", title)) if isinstance(title, Html) else str(title)


def _f(value: Any) -> float:
    return round(float(value), 1)


def _n(value: Any) -> str:
    """A coordinate, short."""
    return f"{float(value):.1f}".removesuffix(".0")
