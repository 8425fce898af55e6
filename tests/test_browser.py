"""Pages in a real browser: used as a person would; a stranger's text executes nothing.

Needs Playwright and Debian's chromium; axe-core is used if AXE_CORE names its file (axe.min.js).
"""

import base64
import io
import os
import shutil
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import flaxvae
from flaxvae.report.html.document import Html, Section, document
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

    READY = "#explorer-live[data-ready]"

    def __init__(self, browser, file, size, scheme="light", ready=READY, without="nothing"):
        context = browser.new_context(
            viewport=dict(zip(("width", "height"), SIZES[size])), color_scheme=scheme
        )
        self.page, self.complaints = context.new_page(), []
        self.page.on("console", lambda said: self.complaints.append(said.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda box: (self.complaints.append(box.message), box.dismiss()))
        self.page.on("request", self._asked)
        self.page.add_init_script(f"delete globalThis.{without}")
        self.page.goto(file.as_uri())
        self.page.wait_for_selector(ready)  # nothing moves from then on

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


# ---- runs beside one another


@pytest.fixture(scope="module")
def comparison(trained, tmp_path_factory):
    """The page of five runs that are one, whose folders have hostile names."""
    folder = tmp_path_factory.mktemp("compared")
    names = [
        "plain",
        "<img src=x onerror=alert(3)>",
        "photo\u202egnp.exe",
        "a" * 90,
        "\u00fc \u65e5",
    ]
    copies = [shutil.copytree(trained, folder / name) for name in names]
    return flaxvae.compare(*copies, images=50, out=folder / "page.html").page


@pytest.mark.parametrize(("size", "scheme"), [("desktop", "light"), ("phone", "dark")])
def test_a_comparison(browser, comparison, size, scheme):
    visit = Visit(browser, comparison, size, scheme, ready="footer")
    page, tip = visit.page, visit.page.locator("#tip")
    wide, seen = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert wide <= seen and least_contrast(page) >= 4.5
    drawing = page.locator("#curves figure.chart svg").first
    drawing.scroll_into_view_if_needed()
    drawing.hover()
    assert tip.is_visible() and "epoch" in tip.text_content()
    drawing.focus()
    page.keyboard.press("End")
    for name in "12345":
        assert f"{name}: " in tip.text_content()
    sizes = page.evaluate("[...document.images].map((i) => [i.naturalWidth, i.alt.length])")
    assert len(sizes) == 6 + 5 + 3 * 5 and all(min(one) > 0 for one in sizes)
    text = page.locator("main").inner_text()
    assert "<img src=x onerror=alert(3)>" in text and "photo\\u202egnp.exe" in text
    assert page.locator("img[src='x']").count() == 0 and visit.complaints == []
    page.context.close()


# ---- the explorer


PRODUCT = (resources.files("flaxvae.report.explorer") / "product.js").read_text()
ASSEMBLING = (
    PRODUCT
    + """
const program = "let ok = true; try { flaxvaeProduct(); } catch { ok = false; } postMessage(ok);";
const worker = new Worker(URL.createObjectURL(new Blob([`${flaxvaeProduct}; ${program}`])));
worker.onmessage = ({ data }) => { document.body.dataset.assembled = data; };
"""
)


def test_a_browser_without_workers_computes_in_the_page(browser, trained):
    visit = Visit(browser, trained / pages.NAME, "desktop", without="Worker")
    assert float(visit.page.locator("#self-test").get_attribute("data-decoder")) <= 1e-2
    assert follows(visit.page, visit.page.locator(".ex-strip button").nth(3).click)
    assert visit.complaints == []
    visit.page.context.close()


def test_a_browser_that_cannot_unpack_the_weights_says_so(browser, trained):
    failed, without = "#explorer-live[data-failed]", "DecompressionStream"
    visit = Visit(browser, trained / pages.NAME, "desktop", ready=failed, without=without)
    (said,) = visit.page.locator("#explorer-live [role=alert]").all_text_contents()
    assert said.startswith("The explorer could not start: ") and without in said
    assert visit.complaints == []
    visit.page.context.close()


@pytest.mark.parametrize("assembles", [False, True])
def test_workers_compile_webassembly_where_the_policy_lets_them(browser, tmp_path, assembles):
    file, part = tmp_path / "page.html", Section("a", "A", Html(), "", ASSEMBLING, assembles)
    file.write_text(document("t", [part]))
    visit = Visit(browser, file, "desktop", ready="body[data-assembled]")
    found = visit.page.locator("body").get_attribute("data-assembled")
    assert found == str(assembles).lower() and visit.complaints == []
    visit.page.context.close()


@pytest.fixture(scope="module", params=SIZES)
def explorer(request, browser, trained):
    """The explorer of a run, once it has compared itself with JAX."""
    found = Visit(browser, trained / pages.NAME, request.param)
    yield found.page
    assert found.complaints == []
    found.page.context.close()


@pytest.fixture(scope="module")
def dropped(trained):
    """A test image as the bytes of a PNG file, its score by JAX, and its reconstruction."""
    run = flaxvae.load(trained)
    grey = (run.data().test.images(slice(3, 4)) * 255).round().astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(grey[0, ..., 0]).save(file, "PNG")
    x = (grey / 255).astype(np.float32)
    return file.getvalue(), float(run.score(x, samples=1024)[0]), run.reconstruct(x)[0, ..., 0]


def shown(page, canvas="#explorer-image"):
    """The grey levels that a canvas shows, [H, W]."""
    url = page.locator(canvas).evaluate("(canvas) => canvas.toDataURL()")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))))[..., 0]


def follows(page, act):
    """Whether the image changes after ``act``; waits until it is decoded."""
    before = shown(page)
    frames = page.evaluate("+document.getElementById('explorer-live').dataset.frames")
    act()
    page.wait_for_function(
        "(n) => +document.getElementById('explorer-live').dataset.frames > n", arg=frames
    )
    return (shown(page) != before).any()


def test_the_page_computes_what_jax_does(explorer):
    found = explorer.locator("#self-test").evaluate("(element) => ({...element.dataset})")
    bound = {"rounded": 1e-2, "float16": 1e-2, "float32": 1e-5}[found["weights"]]
    assert 0 < float(found["decoder"]) <= bound  # codes of so short a training are not wide
    assert 0 < float(found["encoder"]) <= bound
    wide, seen = explorer.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert wide <= seen


def test_the_image_follows_the_pointer_and_the_keys(explorer):
    plane = explorer.locator("#explorer-plane")
    plane.scroll_into_view_if_needed()
    box = plane.bounding_box()

    def point(across, down):
        explorer.mouse.move(box["x"] + across * box["width"], box["y"] + down * box["height"])

    point(0.5, 0.5)
    explorer.mouse.down()
    assert follows(explorer, lambda: point(0.9, 0.2))
    explorer.mouse.up()
    assert follows(explorer, lambda: plane.press("Shift+ArrowLeft"))
    slider = explorer.locator(".ex-slider input").first
    value = float(slider.input_value())
    assert follows(explorer, lambda: slider.press("PageDown"))
    output = explorer.locator(".ex-slider output").first.text_content()
    assert float(slider.input_value()) < value
    said = output.partition(" ±")[0].replace("−", "-")
    assert abs(float(said) - float(slider.input_value())) <= 0.0051


def test_a_test_image_shows_its_reconstruction(explorer, trained, dropped):
    thumbs = explorer.locator(".ex-strip button")
    assert follows(explorer, thumbs.nth(3).click)
    assert "test image 4" in explorer.locator("#explorer-image").get_attribute("aria-label")
    assert np.abs(shown(explorer) / 255 - dropped[2]).max() <= 2e-2
    thumbs.nth(1).click()
    assert follows(explorer, explorer.get_by_text("Play the walk").click)
    explorer.get_by_text("Stop", exact=True).click()


def test_a_dropped_picture_has_the_score_that_jax_gives(explorer, dropped):
    file, score, reconstruction = dropped
    explorer.evaluate(
        """(text) => {
          const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
          const dataTransfer = new DataTransfer();
          dataTransfer.items.add(new File([bytes], "digit.png", { type: "image/png" }));
          const drop = new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true });
          document.getElementById("explorer-pad").dispatchEvent(drop);
        }""",
        base64.b64encode(file).decode(),
    )
    explorer.wait_for_selector("#explorer-score[data-score]")
    found = explorer.locator("#explorer-score").evaluate("(element) => ({...element.dataset})")
    error = float(found["error"])
    assert 0 < error < 0.1 * score
    assert abs(float(found["score"]) - score) <= 5 * error + 0.05  # of the weights in float16
    again = shown(explorer, "canvas[aria-label='Its reconstruction']")
    assert np.abs(again / 255 - reconstruction).max() <= 2e-2
