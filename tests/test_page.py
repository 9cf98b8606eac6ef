"""Tests of the page in a browser: painting, edits and their bytes, recipes, the session."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from pages import browser, editor, made_by, painter, recipe_of, served  # fixtures
from painter import Painter, painting
from PIL import Image
from playwright.sync_api import Browser, expect
from serving import Served, fade, serving, very_slowly, wait_for
from stubs import stub_editor

from sdedit.runtime import Editor
from sdedit.runtime.bundle import SHIPPED, file_sha256, read_bundle
from sdedit.runtime.recipe import read_recipe

EXAMPLE = Path(__file__).parent.parent / "serve" / "page" / "example"
QUICK = {"steps": 2, "size": "native"}


def test_the_example_is_an_edit_of_its_strokes_by_the_shipped_model() -> None:
    """Its recipe names both. The page shows it only for this model."""
    recipe = read_recipe(EXAMPLE / "result.png")
    assert recipe["bundle"]["sha256"] == read_bundle(SHIPPED).sha256
    assert recipe["guide"]["sha256"] == file_sha256(EXAMPLE / "strokes.png")


def test_a_first_visit_shows_a_finished_example(painter: Painter) -> None:
    shown = np.asarray(Image.open(EXAMPLE / "result.png"))
    assert np.array_equal(painter.shown(), shown)
    assert np.array_equal(painter.pixels()[..., :3], np.asarray(Image.open(EXAMPLE / "strokes.png")))
    assert [painter.value(name) for name in ("t0", "steps", "seed", "size")] == ["0.5", "12", "3", ""]
    assert painter.sent == []


def test_the_first_click_edits(painter: Painter, editor: Editor, tmp_path: Path) -> None:
    """Saved pixels are the Editor's; saved strokes are the recipe's guide."""
    result = painter.edit()
    png, strokes = painter.download("Control+s"), painter.download("Control+Shift+s")
    recipe = recipe_of(png, tmp_path)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png))), result)
    assert np.array_equal(made_by(editor, painter, recipe)[0], result)
    (tmp_path / "strokes.png").write_bytes(strokes)
    assert recipe["guide"]["sha256"] == file_sha256(tmp_path / "strokes.png")


def test_the_real_model_gives_the_editors_bytes(browser: Browser, tmp_path: Path) -> None:
    with (
        Editor.open(threads=1) as real,
        serving({"earth64": real}, page=True) as served,
        painting(browser, served.url) as painter,
    ):
        painter.settings(**QUICK)
        painter.press("7")
        painter.stroke([(0.3, 0.3), (0.6, 0.5)])
        result = painter.edit()
        recipe = recipe_of(painter.download("Control+s"), tmp_path)
        assert np.array_equal(made_by(real, painter, recipe)[0], result)
        assert painter.errors == []


def test_live_edits_come_at_the_end_of_each_stroke(painter: Painter, editor: Editor) -> None:
    painter.settings(live=True, **QUICK)
    sent, results = len(painter.sent), painter.results
    painter.press("1")
    painter.stroke([(0.2, 0.2), (0.8, 0.3)])
    expect(painter.page.locator("#strip button")).to_have_count(results + 1)
    painter.press("Control+z")
    expect(painter.page.locator("#strip button")).to_have_count(results + 2)
    assert len(painter.sent) == sent + 2


def test_without_live_nothing_is_sent(painter: Painter) -> None:
    painter.stroke([(0.2, 0.2), (0.8, 0.3)])
    painter.settings(t0=0.3)
    painter.page.locator("#dice").click()
    painter.page.wait_for_timeout(300)
    assert painter.sent == []


def test_a_newer_stroke_cancels_the_older_edit(browser: Browser) -> None:
    with serving({"earth64": stub_editor(very_slowly)}, page=True) as served, painting(browser, served.url) as painter:
        painter.settings(steps=250, size="native")
        painter.page.locator("#live").check()
        expect(painter.page.locator("#go")).to_have_text("Stop")
        served.until("sdedit_edits_in_flight", 1)
        painter.settings(steps=2)  # live is off: the edit ends
        served.until("sdedit_edits_in_flight", 0)
        painter.settings(steps=250)
        painter.page.locator("#live").check()
        served.until("sdedit_edits_in_flight", 1)
        painter.page.locator("#steps").fill("2")
        painter.stroke([(0.2, 0.2), (0.8, 0.3)])
        painter.done()
        assert painter.results == 2  # the example, and the newest
        served.until("sdedit_edits_in_flight", 0)
        assert painter.errors == []


def test_previews_stream_and_escape_stops(browser: Browser) -> None:
    with serving({"earth64": stub_editor(very_slowly)}, page=True) as served, painting(browser, served.url) as painter:
        painter.settings(steps=250, size="native")
        finished = painter.page.locator("#after").get_attribute("src")
        painter.page.locator("#go").click()
        shown = painter.page.locator("#after")
        expect(shown).not_to_have_attribute("src", finished or "")
        wait_for(lambda: float(painter.page.locator("#progress").get_attribute("value") or 0) > 0.02)
        painter.press("Escape")
        painter.says("Stopped")
        expect(shown).to_have_attribute("src", finished or "")
        expect(painter.page.locator("#progress")).to_be_hidden()
        served.until("sdedit_edits_in_flight", 0)


def test_a_mask_keeps_everything_else(painter: Painter, editor: Editor, tmp_path: Path) -> None:
    painter.settings(steps=2, size="")
    painter.press("m")
    painter.stroke([(0.3, 0.3), (0.5, 0.5)])
    mask = painter.pixels("mask")[..., 3] >= 128
    guide = painter.pixels()[..., :3]
    result = painter.edit()
    recipe = recipe_of(painter.download("Control+s"), tmp_path)
    assert recipe["mask"] is not None
    assert 0 < mask.mean() < 0.2
    assert np.array_equal(result[~mask], guide[~mask])
    assert not np.array_equal(result[mask], guide[mask])
    assert np.array_equal(made_by(editor, painter, recipe)[0], result)
    painter.press("Shift+m")
    assert not painter.pixels("mask").any()
    expect(painter.page.locator("#clear-mask")).to_be_hidden()
    painter.press("Control+z")
    assert np.array_equal(painter.pixels("mask")[..., 3] >= 128, mask)


def test_four_variations_are_the_editors(painter: Painter, editor: Editor, tmp_path: Path) -> None:
    painter.settings(**QUICK)
    painter.press("v")
    cells = painter.page.locator("#grid button")
    expect(cells).to_have_count(4)
    painter.done()
    expect(cells.locator("img:visible")).to_have_count(4)
    cells.nth(2).click()
    recipe = recipe_of(painter.download("Control+s"), tmp_path)
    assert (recipe["image"], recipe["images"]) == (2, 4)
    made = made_by(editor, painter, recipe)
    assert np.array_equal(made[2], painter.shown())
    assert not np.array_equal(made[2], made[1])
    expect(painter.page.locator("#grid")).to_be_hidden()
    painter.page.locator("#strip button").nth(3).click()
    assert np.array_equal(made[3], painter.shown())


def test_before_and_after(painter: Painter) -> None:
    before = painter.page.locator("#before")
    expect(before).to_be_hidden()
    painter.press("c")
    expect(before).to_be_visible()
    assert painter.value("split") == "50"
    box = painter.page.locator("#result-glass").bounding_box()
    assert box is not None
    painter.page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 50)
    painter.page.mouse.down()
    painter.page.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + 50)
    painter.page.mouse.up()
    assert painter.value("split") == "25"
    assert "25%" in before.evaluate("image => getComputedStyle(image).clipPath") or "75%" in before.evaluate(
        "image => getComputedStyle(image).clipPath"
    )
    painter.press("c")
    expect(before).to_be_hidden()


def test_the_result_is_used_with_a_new_seed(painter: Painter) -> None:
    strokes = painter.pixels()
    painter.press("u")
    painter.says("under your brush")
    used = painter.pixels()
    small = np.asarray(Image.fromarray(used[..., :3]).resize((128, 128), Image.Resampling.BOX)).astype(int)
    assert used.shape == strokes.shape
    assert np.abs(small - painter.shown()).mean() < 4  # enlarged and reduced again
    assert painter.value("seed") != "3"
    assert painter.sent == []
    painter.press("8")
    painter.stroke([(0.5, 0.5)])
    assert painter.colour(0.5, 0.5) == "#e8e8e6"
    painter.press("e")
    painter.stroke([(0.5, 0.5), (0.52, 0.5)])
    assert np.array_equal(painter.pixels()[256, 256], used[256, 256])  # the eraser brings the picture back
    for _ in range(3):
        painter.press("Control+z")
    assert np.array_equal(painter.pixels(), strokes)


def write_photo(folder: Path, width: int = 90, height: int = 60) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    path = folder / "photo.png"
    Image.fromarray(pixels).save(path)
    return path


ARRIVE = """([name, bytes, kind]) => {
  const data = new DataTransfer();
  data.items.add(new File([Uint8Array.from(bytes)], name, {type: "image/png"}));
  const init = {bubbles: true, cancelable: true};
  dispatchEvent(kind === "drop" ? new DragEvent("drop", {...init, dataTransfer: data})
                                : new ClipboardEvent("paste", {...init, clipboardData: data}));
}"""


@pytest.mark.parametrize("way", ["choose", "drop", "paste"])
def test_photos_arrive(way: str, painter: Painter, tmp_path: Path) -> None:
    photo = write_photo(tmp_path)
    if way == "choose":
        painter.page.locator("#file").set_input_files(photo)
    else:
        painter.page.evaluate(ARRIVE, ["photo.png", list(photo.read_bytes()), way])
    painter.says("90 x 60 pixels")
    assert np.array_equal(painter.pixels()[..., :3], np.asarray(Image.open(photo)))
    painter.press("Control+z")
    assert painter.pixels().shape == (512, 512, 4)


def test_what_is_no_picture_is_refused(painter: Painter, tmp_path: Path) -> None:
    (tmp_path / "no.png").write_bytes(b"not a picture")
    before = painter.pixels()
    painter.page.locator("#file").set_input_files(tmp_path / "no.png")
    painter.says("not a picture")
    assert np.array_equal(painter.pixels(), before)


def test_a_result_brings_its_recipe_back(painter: Painter, editor: Editor, tmp_path: Path) -> None:
    """Options without a field, and seeds of 64 bits, come back too, and are sent again."""
    seed = 2**64 - 3
    options = {"t0": 0.35, "steps": 3, "seed": seed, "keep": "fixed", "sampler": "ddim", "eta": 0.25, "size": 72}
    editor.edit(EXAMPLE / "strokes.png", **options).images[0].save(tmp_path / "old.png")
    painter.page.locator("#file").set_input_files(tmp_path / "old.png")
    painter.says(f"seed {seed}")
    assert np.array_equal(painter.shown(), np.asarray(Image.open(tmp_path / "old.png")))
    assert [painter.value(name) for name in ("t0", "steps", "seed", "size")] == ["0.35", "3", str(seed), "72"]
    expect(painter.page.locator("#extra")).to_contain_text("keep fixed")
    painter.edit()
    again = recipe_of(painter.download("Control+s"), tmp_path)
    assert {name: again[name] for name in options} == options | {"size": "72"}
    painter.page.locator("#extra-clear").click()
    painter.edit()
    assert recipe_of(painter.download("Control+s"), tmp_path)["keep"] == "fresh"


def test_the_session_is_kept(painter: Painter) -> None:
    painter.settings(**QUICK)
    first = painter.edit()
    painter.page.locator("#dice").click()
    assert not np.array_equal(painter.edit(), first)
    strip = painter.page.locator("#strip button")
    expect(strip).to_have_count(3)
    strip.nth(1).click()
    assert np.array_equal(painter.shown(), first)
    expect(strip.nth(1)).to_have_attribute("aria-pressed", "true")


def test_the_painting_is_back_after_a_reload(painter: Painter) -> None:
    painter.settings(t0=0.7, steps=4, seed=11)
    painter.press("m")
    painter.stroke([(0.3, 0.3), (0.5, 0.5)])
    painter.press("m", "8")
    painter.stroke([(0.1, 0.9), (0.5, 0.9)])
    colour, mask = painter.pixels(), painter.pixels("mask")
    painter.page.wait_for_selector("html[data-kept]", state="attached")
    painter.open()
    painter.says("back")
    assert np.array_equal(painter.pixels(), colour)
    assert np.array_equal(painter.pixels("mask")[..., 3] >= 128, mask[..., 3] >= 128)
    assert [painter.value(name) for name in ("t0", "steps", "seed")] == ["0.7", "4", "11"]
    assert not painter.page.locator("#live").is_checked()
    assert np.array_equal(painter.shown(), np.asarray(Image.open(EXAMPLE / "result.png")))


RECORD = """
  const ask = window.fetch;
  window.fetch = (url, init) => {
    if (init?.body instanceof FormData) window.sentForm = Object.fromEntries(init.body);
    return ask(url, init);
  };"""


def test_a_model_with_text_and_labels_has_their_fields(browser: Browser, served: Served) -> None:
    with painting(browser, served.url, opened=False) as painter:
        models = served.get("/v1/models").json()
        second = json.loads(json.dumps(models["data"][0]))
        second["id"] = "other"
        second["sdedit"] |= {"text": True, "classes": 3, "guidance": True, "palette": None, "free": False}
        models["data"].append(second)
        painter.page.route("**/v1/models", lambda route: route.fulfill(json=models))
        painter.page.add_init_script(RECORD)
        problem = {"error": {"message": "no edits here"}}
        painter.page.route("**/v1/edits", lambda route: route.fulfill(status=422, json=problem))
        painter.open()
        for name in ("prompt", "label", "guidance"):
            expect(painter.page.locator(f"#{name}")).to_be_hidden()
        painter.page.locator("#model").select_option("other")
        for name in ("prompt", "label", "guidance"):
            expect(painter.page.locator(f"#{name}")).to_be_visible()
        assert painter.page.locator("#size option").all_inner_texts() == ["Automatic", "64 (native)"]
        painter.settings(prompt="a harbour", label=2, guidance=1.5)
        painter.page.locator("#go").click()
        painter.says("no edits here")
        sent = painter.page.evaluate("sentForm")
        wanted = {"model": "other", "prompt": "a harbour", "label": "2", "guidance": "1.5", "size": "native"}
        assert {name: sent[name] for name in wanted} == wanted


def test_errors_are_told(painter: Painter) -> None:
    problem = {
        "error": {"message": "t0 2 is not in 0..1", "type": "invalid_request_error", "param": None, "code": None}
    }
    painter.page.route("**/v1/edits", lambda route: route.fulfill(status=422, json=problem))
    painter.page.locator("#go").click()
    painter.says("t0 2 is not in 0..1")
    expect(painter.page.locator("#status")).to_have_attribute("data-kind", "error")
    assert any("422" in error for error in painter.errors)  # the browser's own line
    painter.errors.clear()


def test_steps_that_the_model_has_not_are_pointed_at(painter: Painter) -> None:
    painter.settings(steps=0)
    painter.page.locator("#go").click()
    assert painter.page.evaluate("document.activeElement.id") == "steps"
    assert painter.sent == []


def test_a_key_is_asked_for(browser: Browser) -> None:
    with (
        serving({"earth64": stub_editor(fade)}, key="secret", page=True) as served,
        painting(browser, served.url, opened=False) as painter,
    ):
        painter.page.goto(served.url)
        painter.page.locator("#key").fill("wrong")
        painter.page.locator("#key-dialog button").click()
        expect(painter.page.locator("#key")).to_have_value("")
        painter.page.locator("#key").fill("secret")
        painter.page.locator("#key-dialog button").click()
        painter.page.wait_for_selector("html[data-ready]", state="attached")
        assert all("401" in error for error in painter.errors)
        painter.settings(**QUICK)
        painter.edit()
