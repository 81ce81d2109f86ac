"""The report page in headless Chromium, from a file, as a person opens it. Run by make test-report."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gen3d.data.phantom import write_phantom
from gen3d.tools.report.report import report

if os.environ.get("GEN3D_BROWSER") != "1":
    pytest.skip("takes a minute; make test-report runs it", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api", reason="no playwright; make test-report installs it")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("no Chromium here; apt-get install chromium", allow_module_level=True)

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "use"))
from report_folders import record, segmented  # noqa: E402

SOFTWARE = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
PATIENCE = 120_000  # ms; a loaded machine paints 3D in software
AMBER = """canvas => { const c = canvas.getContext("2d"), p = c.getImageData(0, 0, canvas.width, canvas.height).data;
    let n = 0; for (let i = 0; i < p.length; i += 4) n += p[i] === 255 && p[i + 1] === 176 && p[i + 2] === 0;
    return n; }"""
SHADES = """canvas => { const c = canvas.getContext("2d"), p = c.getImageData(0, 0, canvas.width, canvas.height).data;
    const s = new Set(); for (let i = 0; i < p.length; i += 4) s.add(p[i] << 16 | p[i + 1] << 8 | p[i + 2]);
    return s.size; }"""
PICTURE = "canvas => canvas.toDataURL()"


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of a study whose FLAIR was made (here: copied), and of a segmented slice with samples."""
    folder = tmp_path_factory.mktemp("report")
    write_phantom(folder / "in", 1, (40, 44, 36), 4.0)
    (case,) = (folder / "in").iterdir()
    made = folder / "OUT" / case.name
    segmented(folder / "OUT", "slice")
    made.mkdir(parents=True)
    names = {contrast: next(case.glob(f"*-{contrast}.nii.gz")) for contrast in ("t1n", "t2w", "t2f")}
    sources = [names["t1n"].name, names["t2w"].name]
    for kind, name in (("mean of samples", "t2f"), ("standard deviation of samples", "t2w")):
        path = made / f"made-{name}.nii.gz"
        shutil.copyfile(names[name], path)
        record(path, {"contrast": "t2f", "kind": kind, "sources": sources})
    report(folder / "OUT", folder / "report.html", source=folder / "in")
    return folder / "report.html"


class Opened:
    """A page and everything that it complained of or asked for."""

    def __init__(self, browser: Any, path: Path, **options: Any) -> None:
        self.page = browser.new_page(**options)
        self.page.set_default_timeout(PATIENCE)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda told: self.complaints.append(told.text) if told.type == "error" else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda asked: self.requests.append(asked.url))
        self.page.goto(path.as_uri(), wait_until="domcontentloaded")
        self.until("document.querySelector('details.case[open] .panel output').textContent !== ''")

    def until(self, condition: str) -> None:
        """Wait for a condition; the page's own policy forbids the usual way of waiting."""
        for _ in range(PATIENCE // 200):
            if self.page.evaluate(condition):
                return
            self.page.wait_for_timeout(200)
        pytest.fail(f"never came true: {condition}; {self.complaints}")

    def settle(self) -> None:
        """Wait until everything that was asked for is painted."""
        self.page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def canvases(self) -> list[Any]:
        return list(self.page.query_selector_all("details.case[open] .panel canvas"))

    def slide(self, name: str, value: int) -> None:
        """Set a slider of the open case as a hand does."""
        script = """([name, value]) => { const s = document.querySelector(`details[open] .controls [name=${name}]`);
            s.value = value; s.dispatchEvent(new Event("input", { bubbles: true })); }"""
        self.page.evaluate(script, [name, value])
        self.settle()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=SOFTWARE, timeout=PATIENCE)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def opened(browser: Any, page_file: Path) -> Opened:
    return Opened(browser, page_file, viewport={"width": 1300, "height": 900})


def test_panels_show_something_and_generated_ones_are_marked(opened: Opened) -> None:
    panels = opened.page.query_selector_all("details.case[open] .panel")
    assert [panel.query_selector(".role").inner_text().lower() for panel in panels] == [
        *("input", "input", "output", "uncertainty")
    ]
    for panel in panels:
        canvas = panel.query_selector("canvas")
        generated = "synthetic" in panel.get_attribute("class").split()
        assert canvas.evaluate(SHADES) > 50
        assert (canvas.evaluate(AMBER) > 100) == generated


def test_the_slice_slider_moves_every_panel(opened: Opened) -> None:
    before = [canvas.evaluate(PICTURE) for canvas in opened.canvases()]
    opened.slide("slice", 10)
    after = [canvas.evaluate(PICTURE) for canvas in opened.canvases()]
    assert all(a != b for a, b in zip(before, after, strict=True))
    assert "11 of 36" in opened.page.inner_text("details[open] .slice output")


def test_the_overlay_slider_moves_overlays_alone(opened: Opened) -> None:
    before = [canvas.evaluate(PICTURE) for canvas in opened.canvases()]
    opened.slide("opacity", 20)
    after = [canvas.evaluate(PICTURE) for canvas in opened.canvases()]
    assert [a != b for a, b in zip(before, after, strict=True)] == [False, False, False, True]


def test_one_crosshair_for_all_by_mouse_and_keyboard(opened: Opened) -> None:
    places = "details[open] .controls .place"
    first, second = opened.canvases()[:2]
    before, other = opened.page.inner_text(places), second.evaluate(PICTURE)
    first.click(position={"x": 60, "y": 80})
    opened.settle()
    clicked = opened.page.inner_text(places)
    assert clicked != before
    assert second.evaluate(PICTURE) != other
    first.press("ArrowRight")
    first.press("PageUp")
    opened.settle()
    assert opened.page.inner_text(places) != clicked
    assert "12 of 36" in opened.page.inner_text("details[open] .slice output")


def test_the_plane_changes(opened: Opened) -> None:
    opened.page.check("details[open] .controls [type=radio][value='0']")
    opened.settle()
    assert "of 40" in opened.page.inner_text("details[open] .slice output")


def test_niivue_shows_the_volume_and_follows_the_crosshair(opened: Opened) -> None:
    if not opened.page.query_selector("#niivue"):
        pytest.skip("no ipyniivue, so no 3D viewer in the page")
    opened.page.evaluate("document.querySelector('details[open] .solid').scrollIntoView()")
    opened.until(
        "gen3d.solid.viewer?.volumes?.length > 0 || !document.querySelector('details[open] .solid > .note').hidden"
    )
    assert opened.page.is_hidden("details[open] .solid > .note")
    assert opened.page.is_visible("details[open] .stage .watermark")
    drawn = """() => { const n = gen3d.solid.viewer; n.drawScene(); const gl = n.gl, w = gl.drawingBufferWidth,
        h = gl.drawingBufferHeight, p = new Uint8Array(4 * w * h);
        gl.readPixels(0, 0, w, h, gl.RGBA, gl.UNSIGNED_BYTE, p);
        const s = new Set(); for (let i = 0; i < p.length; i += 4) s.add(p[i] << 16 | p[i + 1] << 8 | p[i + 2]);
        return s.size; }"""
    assert opened.page.evaluate(drawn) > 50
    before = opened.page.evaluate("[...gen3d.solid.viewer.scene.crosshairPos]")
    opened.slide("slice", 5)
    assert opened.page.evaluate("[...gen3d.solid.viewer.scene.crosshairPos]") != before


def test_samples_are_outlined_and_chosen(opened: Opened) -> None:
    opened.page.evaluate("document.querySelector('#case-1').open = true")
    opened.until("document.querySelector('#case-1 .panel output').textContent !== ''")
    canvas = opened.page.query_selector("#case-1 [data-panel='1'] canvas")
    opened.settle()
    every = canvas.evaluate(PICTURE)
    assert opened.page.inner_text("#case-1 [data-panel='1'] output") == "2 outlines"
    opened.page.click("#case-1 .tiles [data-choice='1']")
    opened.settle()
    assert canvas.evaluate(PICTURE) != every
    assert opened.page.get_attribute("#case-1 .tiles [data-choice='1']", "aria-pressed") == "true"


def test_no_error_and_nothing_asked_of_a_network(opened: Opened) -> None:
    assert opened.complaints == []
    assert [url for url in opened.requests if not url.startswith(("file:", "data:", "blob:"))] == []


def test_without_webgl_slices_are_shown_and_the_page_says_so(browser: Any, page_file: Path) -> None:
    page = browser.new_page()
    page.set_default_timeout(PATIENCE)
    page.add_init_script(
        "const get = HTMLCanvasElement.prototype.getContext;"
        "HTMLCanvasElement.prototype.getContext = function (kind, ...more) {"
        " return kind === 'webgl2' ? null : get.call(this, kind, ...more); };"
    )
    page.goto(page_file.as_uri(), wait_until="domcontentloaded")
    page.evaluate("document.querySelector('details[open] .solid')?.scrollIntoView()")
    if page.query_selector("#niivue"):
        page.wait_for_selector("details[open] .solid > .note", state="visible")
        assert "3D needs WebGL2" in page.inner_text("details[open] .solid > .note")
    assert page.query_selector("details[open] .panel canvas").evaluate(SHADES) > 50
    page.close()


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_a_narrow_screen_needs_no_scrolling_sideways(browser: Any, page_file: Path, scheme: str) -> None:
    narrow = Opened(browser, page_file, viewport={"width": 380, "height": 800}, color_scheme=scheme)
    assert narrow.page.evaluate("document.documentElement.scrollWidth") <= 380
    ink, ground = narrow.page.evaluate(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
    )
    bright = [sum(map(int, colour[4:-1].split(","))) for colour in (ink, ground)]
    assert (bright[0] > bright[1] + 400) == (scheme == "dark")
    assert (bright[1] > bright[0] + 400) == (scheme == "light")
    narrow.page.close()
