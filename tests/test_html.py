"""The shell of a page and its charts: everything is escaped, and drawn where its value is."""

import html.parser
import json
import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from flaxvae.errors import visible
from flaxvae.report import scales
from flaxvae.report.html import charts
from flaxvae.report.html.document import (
    Html,
    Section,
    command,
    data,
    document,
    escape,
    join,
    table,
    tag,
)

HOSTILE = [
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    "\"' onload='alert(1)",
    "a & b &lt; c",
    "<!--",
    "]]>",
    "\udcff\x00\x1b half a surrogate",
    "photo\u202egnp.exe\u2066\u200b",
]


class Seen(html.parser.HTMLParser):
    """What a browser would see: elements with their attributes, and the text of each."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.text, self.raw = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes)))

    def handle_data(self, text):
        raw = self.elements and self.elements[-1][0] in ("script", "style")
        (self.raw if raw else self.text).append(text)


def clean(text):
    return re.sub("[\ud800-\udfff]", "\ufffd", visible(text))


@pytest.mark.parametrize("text", HOSTILE)
def test_text_is_text(text):
    seen = Seen(tag("p", text, title=text, class_="one"))
    assert seen.elements == [("p", {"title": clean(text), "class": "one"})]
    assert "".join(seen.text) == clean(text)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_page_of_hostile_names_has_its_own_elements_alone(text):
    series = [charts.Series(text, [1, 2], [1, 2]), charts.Series("b", [1, 2], [2, 1])]
    groups = [charts.Group(text, np.eye(2), [text, text]), charts.Group("b", np.eye(2))]

    def page(series, groups, text):
        parts = [
            charts.lines(series, title=text, xlabel=text, ylabel=text),
            charts.scatter(groups, title=text, xlabel=text, ylabel=text),
            charts.bars([charts.Bar(text, 1.0)], title=text, unit=text),
            table([[text, 1]], [text, text], text),
            command(text),
            data({text: text}),
        ]
        return document(text, [Section("one", text, join(parts))], footer=text)

    plain = page(
        [one._replace(name="x") for one in series], [g._replace(name="x") for g in groups], "x"
    )
    hostile, harmless = Seen(page(series, groups, text)), Seen(plain)
    assert [name for name, _ in hostile.elements] == [name for name, _ in harmless.elements]
    assert [sorted(own) for _, own in hostile.elements] == [
        sorted(own) for _, own in harmless.elements
    ]
    assert not any(name.startswith("on") for _, own in hostile.elements for name in own)


def test_values_for_scripts_survive():
    value = {"</script>": ["<!--", 1.5, "é\\u2028"]}
    [found] = Seen(data(value, class_="values")).raw
    assert json.loads(found) == value and "<" not in found
    [found] = Seen(data({"a\u202eb": ["c\u2028"]})).raw
    assert json.loads(found) == {"a\\u202eb": ["c\\u2028"]}
    with pytest.raises(ValueError):
        data(math.nan)


def test_markup_stays_and_text_does_not_become_markup():
    assert tag("p", tag("b", "1"), ["2", Html("&amp;")], None) == "<p><b>1</b>2&amp;</p>"
    assert tag("input", disabled=True, hidden=False, value=None) == "<input disabled>"
    assert escape("<") == "&lt;" and isinstance(escape("<"), Html)


def test_only_the_pages_own_scripts_may_run():
    page = document("t", [Section("a", "A", Html("<p>"), style="p{}", script="let x = 1;")])
    policy = next(own["content"] for _, own in Seen(page).elements if "http-equiv" in own)
    assert "default-src 'none'" in policy and "unsafe-inline" not in policy.split("script-src")[1]
    assert policy.count("'sha256-") == 3  # the theme's, the page's, the section's
    assert "unsafe" not in policy.split("script-src")[1]
    assert "http:" not in page.replace("http://www.w3.org", "") and "https:" not in page
    with pytest.raises(ValueError, match="end itself"):
        document("t", [Section("a", "A", Html(), script="'</script>'")])


def test_a_page_may_compile_webassembly_only_where_a_section_does():
    part = Section("a", "A", Html(), script="let x = 1;", assembles=True)
    policy = next(
        own["content"] for _, own in Seen(document("t", [part])).elements if "content" in own
    )
    scripts = policy.split("script-src")[1].split(";")[0].split()
    assert [word for word in scripts if "sha256" not in word] == ["'wasm-unsafe-eval'"]


def parsed(figure):
    root = ElementTree.fromstring(re.sub(r"<(img)([^>]*)>", r"<\1\2/>", figure))
    values = json.loads(root.find(".//script").text)["values"]
    return root, values


def test_lines_are_where_their_values_are():
    y = [3.0, math.nan, 1.0, 2.0]
    series = [charts.Series("a", [0, 1, 2, 4], y, [0.1, 0.1, 0.2, 0.1])]
    root, values = parsed(charts.lines(series, title="t", xlabel="x", ylabel="nats"))
    points = [(float(c.get("cx")), float(c.get("cy"))) for c in root.iter("circle")]
    assert [tip[:2] for tip in values] == [list(point) for point in points]
    xs, ys = np.array(points).T
    np.testing.assert_allclose((xs[1] - xs[0]) / (xs[2] - xs[0]), 0.5, atol=0.01)
    np.testing.assert_allclose((ys[1] - ys[2]) / (ys[1] - ys[0]), 0.5, atol=0.01)
    assert values[1][2].startswith("x 2\na: 1.00 ± 0.2")
    assert "a 3.00 to 2.00" in root.find("svg").get("aria-label")


def test_a_logarithmic_axis_is_even_in_ratios():
    series = [charts.Series("a", [1, 10, 100, 0], [1, 2, 3, 4])]
    _, values = parsed(charts.lines(series, log_x=True))
    np.testing.assert_allclose(np.diff([tip[0] for tip in values]), [152, 152], atol=0.1)


def test_bars_are_as_long_as_their_values():
    items = [charts.Bar("z1", 4.0, 0.5), charts.Bar("z2", 1.0), charts.Bar("z3", math.inf)]
    root, values = parsed(charts.bars(items, unit="nats", limit=2.0))
    heights = [float(bar.get("height")) for bar in root.iter("rect")]
    np.testing.assert_allclose(heights[0] / heights[1], 4, rtol=0.01)
    assert [tip[2] for tip in values] == ["z1: 4.00 ± 0.500 nats", "z2: 1.00 nats"]
    assert [g.get("class") for g in root.iter("g") if g.find("rect") is not None] == ["k0", "k7"]


def test_points_keep_their_pictures_and_lose_what_is_not_finite():
    points = np.array([[0, 0], [np.nan, 1], [10, 5]])
    groups = [charts.Group("a", points, ["p", "q", "r"], [7, 8, 9]), charts.Group("b", points[:1])]
    root, values = parsed(charts.scatter(groups))
    assert [tip[2:] for tip in values] == [["p", 7], ["r", 9], ["b"]]
    assert "1 point is not finite" in "".join(root.itertext())
    (x0, y0, *_), (x1, y1, *_) = values[:2]
    np.testing.assert_allclose((y0 - y1) / (x1 - x0), 0.5, atol=0.01)  # the same scale


@pytest.mark.parametrize("low,high", [(0, 1), (-3.2, 17), (97.95, 98.01), (1e-9, 2e-9), (5, 5)])
def test_ticks_are_round_and_inside(low, high):
    found = scales.ticks(low, high, 5)
    assert 1 <= len(found) <= 5 and min(found) >= low - 1e-9 and max(found) <= high + 1e-9
    if high > low:
        assert len(found) >= 2
        step = found[1] - found[0]
        assert round(step / 10 ** math.floor(math.log10(step * 1.0001)), 6) in (1, 2, 5)
