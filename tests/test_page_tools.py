"""Tests of the page in a browser: tools, keys, pens and fingers, zoom, layout, and the types of its modules."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from pages import browser, editor, painter, served  # fixtures
from painter import Painter, painting
from playwright.sync_api import Browser, expect
from serving import Served, wait_for

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "serve" / "page"

SIZES = [(1440, 900), (1024, 768), (390, 844)]
DESERT, ICE, FOREST = "#cea87c", "#e8e8e6", "#2c3c16"


def test_the_materials_are_the_bundles(painter: Painter, served: Served) -> None:
    palette = served.get("/v1/models").json()["data"][0]["sdedit"]["palette"]
    shown = painter.page.get_by_role("radio").all_inner_texts()
    assert shown == [*(material["name"] for material in palette), "Own"]
    for i, material in enumerate(palette):
        painter.press(str(i + 1))
        painter.stroke([(0.1 + 0.1 * i, 0.5)])
        assert painter.colour(0.1 + 0.1 * i, 0.5) == material["colour"]


def test_a_colour_of_ones_own(painter: Painter) -> None:
    painter.page.locator("#palette input").fill("#ff00aa")
    painter.stroke([(0.5, 0.5)])
    assert painter.colour(0.5, 0.5) == "#ff00aa"
    expect(painter.page.get_by_role("radio", name="Own")).to_have_attribute("aria-checked", "true")


def test_the_eraser_brings_the_ground_back(painter: Painter) -> None:
    painter.press("7", "n", "8")
    painter.stroke([(0.3, 0.5), (0.7, 0.5)])
    assert painter.colour(0.5, 0.5) == ICE
    painter.press("e")
    painter.stroke([(0.4, 0.5), (0.6, 0.5)])
    assert (painter.colour(0.5, 0.5), painter.colour(0.32, 0.5)) == (DESERT, ICE)


def test_fill_stops_at_other_colours(painter: Painter) -> None:
    painter.press("7", "n", "8")
    painter.stroke([(0.5, 0.01), (0.5, 0.99)])
    painter.press("g", "4")
    painter.stroke([(0.1, 0.5)])
    assert [painter.colour(x, 0.5) for x in (0.1, 0.5, 0.9)] == [FOREST, ICE, DESERT]


def test_fill_marks_a_region_in_the_mask(painter: Painter) -> None:
    painter.press("7", "n", "8")
    painter.stroke([(0.5, 0.01), (0.5, 0.99)])
    before = painter.pixels()
    painter.press("m", "g")
    painter.stroke([(0.1, 0.5)])
    marked = painter.pixels("mask")[256, :, 3] > 0
    assert marked[10]
    assert not marked[-10:].any()
    assert np.array_equal(painter.pixels(), before)
    painter.press("e")
    painter.stroke([(0.1, 0.5)])
    assert painter.pixels("mask")[256, 51, 3] == 0


@pytest.mark.parametrize("by_alt", [False, True])
def test_the_eyedropper_takes_a_colour(by_alt: bool, painter: Painter) -> None:
    wanted = painter.colour(0.95, 0.1)
    if by_alt:
        painter.page.keyboard.down("Alt")
    else:
        painter.press("i")
    painter.stroke([(0.95, 0.1)])
    painter.page.keyboard.up("Alt")
    painter.says(wanted)
    expect(painter.page.get_by_role("button", name="Brush")).to_have_attribute("aria-pressed", "true")
    painter.stroke([(0.1, 0.9)])
    assert painter.colour(0.1, 0.9) == wanted


def test_undo_and_redo(painter: Painter) -> None:
    undo, redo = painter.page.locator("#undo"), painter.page.locator("#redo")
    expect(undo).to_be_disabled()
    states = [painter.pixels()]
    painter.stroke([(0.2, 0.2), (0.4, 0.4)])
    states.append(painter.pixels())
    painter.press("n")
    states.append(painter.pixels())
    painter.press("Control+z")
    assert np.array_equal(painter.pixels(), states[1])
    undo.click()
    assert np.array_equal(painter.pixels(), states[0])
    expect(undo).to_be_disabled()
    painter.press("Control+Shift+z")
    assert np.array_equal(painter.pixels(), states[1])
    redo.click()
    assert np.array_equal(painter.pixels(), states[2])
    painter.press("Control+z")
    painter.stroke([(0.8, 0.8)])
    expect(redo).to_be_disabled()  # what was undone is gone


def test_changing_a_tool_changes_nothing(painter: Painter) -> None:
    painter.stroke([(0.2, 0.2), (0.4, 0.4)])
    before = painter.pixels()
    painter.press("b", "e", "g", "i", "h", "m", "m", "3", "]", "[", "c", "c", "+", "0")
    assert np.array_equal(painter.pixels(), before)
    assert not painter.pixels("mask").any()


def test_keys_alone_paint(painter: Painter) -> None:
    painter.press("7", "n", "8")
    painter.page.locator("#surface").focus()
    painter.press("Space", *["ArrowRight"] * 8, "Shift+ArrowDown", "Shift+ArrowDown", "Space", *["ArrowDown"] * 14)
    painter.says("% across")
    path = [(0.5, 0.5), (0.6, 0.5), (0.62, 0.62), (0.62, 0.8)]
    assert [painter.colour(x, y) for x, y in path] == [ICE, ICE, ICE, DESERT]
    painter.press("Control+z")
    assert painter.colour(0.5, 0.5) == DESERT
    results = painter.results
    painter.press("Enter")
    expect(painter.page.locator("#strip button")).to_have_count(results + 1)


def test_a_pens_pressure_is_the_width(painter: Painter) -> None:
    painter.press("7", "n", "8")
    widths = []
    for i, pressure in enumerate((0.1, 0.5, 1.0)):
        y = 0.2 + 0.3 * i
        pen = {"pointerType": "pen", "pointerId": 7, "pressure": pressure}
        painter.pointer("pointerdown", 0.2, y, **pen)
        for x in (0.4, 0.6, 0.8):
            painter.pointer("pointermove", x, y, **pen)
        painter.pointer("pointerup", 0.8, y, **pen)
        column = painter.pixels()[:, 256, 2] > 160
        widths.append(column[int(512 * (y - 0.14)) : int(512 * (y + 0.14))].sum())
    assert np.allclose(widths, [64 * (0.25 + 0.75 * pressure) for pressure in (0.1, 0.5, 1.0)], atol=2)


def test_coalesced_points_are_drawn(painter: Painter) -> None:
    """A detour that only the coalesced events have is in the stroke."""
    painter.press("7", "n", "8")
    painter.pointer("pointerdown", 0.2, 0.8, pointerId=7)
    painter.page.evaluate("""() => {
      const surface = document.getElementById("surface");
      const {left, top, width, height} = surface.getBoundingClientRect();
      const at = (x, y) => ({pointerId: 7, buttons: 1, clientX: left + x * width, clientY: top + y * height});
      const coalescedEvents = [[0.5, 0.2], [0.8, 0.8]].map(([x, y]) => new PointerEvent("pointermove", at(x, y)));
      surface.dispatchEvent(new PointerEvent("pointermove", {...at(0.8, 0.8), coalescedEvents}));
    }""")
    painter.pointer("pointerup", 0.8, 0.8, pointerId=7)
    assert painter.colour(0.5, 0.8) == DESERT
    assert (painter.pixels()[: int(0.6 * 512), :, 2] > 160).any()


def test_two_fingers_zoom_and_draw_nothing(painter: Painter) -> None:
    before = painter.pixels()
    fingers = [{"pointerType": "touch", "pointerId": i} for i in (1, 2)]
    painter.pointer("pointerdown", 0.4, 0.5, **fingers[0])
    painter.pointer("pointerdown", 0.6, 0.5, **fingers[1])
    painter.pointer("pointermove", 0.3, 0.5, **fingers[0])
    painter.pointer("pointermove", 0.7, 0.5, **fingers[1])
    for finger in fingers:
        painter.pointer("pointerup", 0.5, 0.5, **finger)
    expect(painter.page.locator("#zoom-reset")).to_have_text("200%")
    assert np.array_equal(painter.pixels(), before)


def test_zoom_and_pan_keep_the_brush_under_the_pointer(painter: Painter) -> None:
    painter.press("7", "n", "8", "+", "+", "h")
    painter.stroke([(0.5, 0.5), (0.3, 0.4)])  # moves the picture left and up
    assert painter.colour(0.6, 0.56) == DESERT
    painter.press("b")
    painter.stroke([(0.3, 0.4)])
    assert painter.colour(0.5, 0.5) == ICE
    styles = painter.page.locator(".glass").evaluate_all("all => all.map(one => one.style.getPropertyValue('--zoom'))")
    assert styles == ["1.9599999999999997"] * 2  # both frames show the same part
    painter.press("0")
    expect(painter.page.locator("#zoom-reset")).to_have_text("100%")


def test_the_wheel_zooms_at_the_pointer(painter: Painter) -> None:
    painter.press("7", "n", "8")
    box = painter.page.locator("#surface").bounding_box()
    assert box is not None
    painter.page.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + 0.75 * box["height"])
    painter.page.mouse.wheel(0, -300)
    expect(painter.page.locator("#zoom-reset")).not_to_have_text("100%")
    painter.stroke([(0.25, 0.75)])
    assert painter.colour(0.25, 0.75) == ICE


def test_keys_in_fields_are_text(painter: Painter) -> None:
    painter.page.locator("#seed").focus()
    painter.press("Control+a", "4", "2")
    assert painter.value("seed") == "42"
    expect(painter.page.get_by_role("radio", name="Forest")).to_have_attribute("aria-checked", "true")


def test_the_help_lists_every_key(painter: Painter) -> None:
    painter.press("?")
    expect(painter.page.locator("#help-dialog")).to_be_visible()
    listed = painter.page.locator("#keys dt").all_inner_texts()
    assert {"B", "1 to 9", "Ctrl Z", "Enter", "V", "?"} <= set(listed)
    painter.press("b", "Escape")
    expect(painter.page.locator("#help-dialog")).to_be_hidden()


SMALL = """() => [...document.querySelectorAll("button, input, select, textarea, .switch")].filter((one) => {
  const { width, height } = one.getBoundingClientRect();
  const inside = one.closest(".switch, .swatch, dialog, #grid, #strip");
  return width && (!inside || inside === one) && (height < 43.9 || (one.matches("button") && width < 43.9));
}).map((one) => one.id || one.className)"""

NAMELESS = """() => [...document.querySelectorAll("button, input, select, textarea, [role]")].filter((one) => {
  const text = one.ariaLabel || one.querySelector("img[alt]")?.alt || one.textContent.trim();
  return one.checkVisibility() && !text && !one.labels?.length && !one.getAttribute("aria-labelledby");
}).map((one) => one.id || one.className)"""


@pytest.mark.parametrize("size", SIZES, ids=lambda size: str(size[0]))
def test_targets_are_large_and_named_and_nothing_is_cut_off(
    size: tuple[int, int],
    browser: Browser,
    served: Served,
) -> None:
    viewport = {"width": size[0], "height": size[1]}
    for scheme in ("light", "dark"):
        with painting(browser, served.url, viewport=viewport, color_scheme=scheme, has_touch=size[0] < 800) as painter:
            page = painter.page
            assert page.evaluate("document.documentElement.scrollWidth") == size[0]
            assert page.evaluate(SMALL) == []
            assert page.evaluate(NAMELESS) == []
            expect(page.locator("#surface")).to_be_in_viewport(ratio=0.99)
            expect(page.locator("#go")).to_be_in_viewport(ratio=0.99)
            colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
            dark = sum(map(int, re.findall(r"\d+", colour)[:3])) < 3 * 60
            assert dark == (scheme == "dark")
            assert painter.errors == []


def test_small_screens_swap_the_frames(browser: Browser, served: Served) -> None:
    with painting(browser, served.url, viewport={"width": 390, "height": 844}, has_touch=True) as painter:
        painter.settings()
        painter.press("8")
        painter.page.evaluate("scrollTo(0, 0)")
        painter.page.touchscreen.tap(60, 120)
        wait_for(lambda: painter.colour(60 / 390, (120 - 54) / 390) == ICE)

        def width(frame: str) -> float:
            box = painter.page.locator(f"#{frame} .glass").bounding_box()
            assert box is not None
            return box["width"]

        assert width("strokes-frame") > 3 * width("result-frame")
        painter.page.locator("#swap").tap()
        assert width("result-frame") > 3 * width("strokes-frame")


def test_the_types_of_the_modules() -> None:
    tsc = shutil.which("tsc")
    if tsc is None:
        pytest.skip("there is no tsc on the path: npm install --global typescript")
    done = subprocess.run(
        [tsc, "--project", str(TESTS / "page_types.json")], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout


def test_the_page_is_whole_and_asks_nobody_else() -> None:
    """Each file that a file names is there, and no address leads elsewhere."""
    for path in [p for p in PAGE.rglob("*") if p.suffix in (".js", ".html", ".css", ".svg")]:
        text = path.read_text(encoding="utf-8")
        for name in re.findall(r"""(?:from|src=|href=|import\()\s*"([^"#]+)""", text):
            assert (path.parent / name).is_file(), f"{path.name} names {name}"
        assert not re.findall(r"(?<!xmlns=\")https?://", text), path.name
        assert len(text.splitlines()) < 400, path.name
