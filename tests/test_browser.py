"""The page of a run in a real browser: used as a person would; a stranger's text executes nothing.

Needs Playwright and Debian's chromium; axe-core is used if AXE_CORE names its file (axe.min.js).
"""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

import flaxvae
from flaxvae.runs import pages

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")
HOSTILE = ["<script>alert(1)</script>", '"><img src=x onerror=alert(2)>', "a & b"]
SIZES = {"desktop": (1280, 800), "phone": (360, 740)}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """The page of a run on images whose classes have hostile names."""
    folder = tmp_path_factory.mktemp("<b>browser")
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (120, 8, 8), dtype=np.uint8)
    np.savez(folder / "images.npz", x=x, y=np.array(HOSTILE)[np.arange(120) % 3])
    flaxvae.train(
        progress=False,
        dataset=str(folder / "images.npz"),
        net="mlp",
        widths=(16,),
        latent_dim=2,
        epochs=2,
        batch_size=32,
        devices=1,
        run=str(folder / "run"),
    )
    return folder / "run" / pages.NAME


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


class Visit:
    """A page that is open, and all that it complained of or asked for."""

    def __init__(self, browser, file, size, scheme="light"):
        context = browser.new_context(
            viewport=dict(zip(("width", "height"), SIZES[size])), color_scheme=scheme
        )
        self.page, self.complaints = context.new_page(), []
        self.page.on("console", lambda said: self.complaints.append(said.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda box: (self.complaints.append(box.message), box.dismiss()))
        self.page.on("request", self._asked)
        self.page.goto(file.as_uri())

    def _asked(self, request):
        if request.url.partition(":")[0] not in ("data", "blob", "file"):
            self.complaints.append(f"asked for {request.url}")


VISITS = [
    pytest.param(("trained", "phone")),
    *(pytest.param(("hostile", size), marks=pytest.mark.slow) for size in SIZES),
]


@pytest.fixture(params=VISITS, ids="-".join)
def visit(request, browser):
    which, size = request.param
    file = request.getfixturevalue(which)
    found = Visit(browser, file if which == "hostile" else file / pages.NAME, size)
    yield found
    assert found.complaints == []
    found.page.context.close()


@pytest.mark.slow
def test_a_strangers_names_are_text(browser, hostile):
    visit = Visit(browser, hostile, "desktop")
    page = visit.page
    assert page.locator("img[src='x']").count() == 0
    legend = page.locator(".legend.spots li").all_text_contents()
    assert sorted(legend) == sorted(HOSTILE) and visit.complaints == []
    page.context.close()


def test_nothing_is_wider_than_the_screen(visit):
    wide, seen = visit.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert wide <= seen


def test_the_pointer_reads_a_chart(visit):
    page, tip = visit.page, visit.page.locator("#tip")
    assert tip.is_hidden()
    drawing = page.locator("#training figure.chart svg").first
    drawing.scroll_into_view_if_needed()
    drawing.hover()
    assert tip.is_visible() and "epoch" in tip.text_content() and "train:" in tip.text_content()
    page.mouse.move(2, 2)
    assert tip.is_hidden()


def test_the_keys_read_a_chart_and_show_the_image(visit):
    page, tip = visit.page, visit.page.locator("#tip")
    drawing = page.locator("#latents figure.chart svg").last
    drawing.scroll_into_view_if_needed()
    drawing.focus()
    seen = []
    for key in ("Home", "ArrowRight", "End"):
        page.keyboard.press(key)
        pixels = page.evaluate(
            "(() => { const c = document.querySelector('#tip canvas');"
            "return [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]; })()"
        )
        assert len(pixels) == 8 * 8 * 4
        seen.append((tip.text_content(), tuple(pixels)))
        assert page.locator("#said").text_content() in tip.text_content()
    assert len({image for _, image in seen}) == 3
    page.keyboard.press("Escape")
    assert tip.is_hidden()


def test_the_theme_changes_and_stays_readable(visit):
    page = visit.page
    paper = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(paper)
    assert least_contrast(page) >= 4.5
    page.locator("#theme").click()
    assert page.evaluate(paper) != light and least_contrast(page) >= 4.5
    page.reload()
    assert page.evaluate(paper) != light  # it is kept
    page.locator("#theme").click()
    assert page.evaluate(paper) == light


def least_contrast(page):
    """The least contrast of any text with what is behind it, as WCAG defines it."""
    return page.evaluate(
        """(() => {
        const parts = (text) => text.match(/[\\d.]+/g).map(Number);
        const light = (rgb) => {
          const [r, g, b] = rgb.map((v) => v / 255)
            .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
          return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        let least = Infinity;
        for (const element of document.querySelectorAll("body *")) {
          const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
          if (!own || !element.getClientRects().length || element.closest("script")) continue;
          const style = getComputedStyle(element);
          const svg = element.closest("svg");
          const ink = parts(svg ? style.fill : style.color).slice(0, 3);
          let behind = element;
          while (behind) {
            const colour = parts(getComputedStyle(behind).backgroundColor);
            if (colour.length < 4 || colour[3] > 0) break;
            behind = behind.parentElement;
          }
          const paper = parts(getComputedStyle(behind).backgroundColor).slice(0, 3);
          const [a, b] = [light(ink), light(paper)].sort((x, y) => y - x);
          least = Math.min(least, (a + 0.05) / (b + 0.05));
        }
        return least;
        })()"""
    )


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.skipif("AXE_CORE" not in os.environ, reason="AXE_CORE names no axe.min.js")
def test_axe_finds_nothing_serious(browser, hostile, scheme):
    found = Visit(browser, hostile, "desktop", scheme)
    # As a debugger does, past the page's policy, which would not let another script run.
    found.page.evaluate(Path(os.environ["AXE_CORE"]).read_text())
    violations = found.page.evaluate("axe.run().then((found) => found.violations)")
    serious = [one for one in violations if one["impact"] in ("serious", "critical")]
    assert [(one["id"], one["nodes"][0]["html"]) for one in serious] == []
    found.page.context.close()
