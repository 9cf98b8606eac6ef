"""The page of a study in a browser: choices by keys and by hand, the saved file, and what a visit keeps."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from command_line import run_sdedit
from pages import browser  # fixture
from painter import WAIT
from playwright.sync_api import Browser, Page, expect
from studies import GUIDES, both, write_folders

from sdedit.evaluation.votes import command

REDNESS = """image => {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
  const drawing = canvas.getContext("2d");
  drawing.drawImage(image, 0, 0);
  const [red, green, blue] = drawing.getImageData(3, 3, 1, 1).data;
  return red - blue;
}"""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with study.html and its key."""
    folder = tmp_path_factory.mktemp("study")
    run_sdedit("evaluate", *write_folders(folder), *both(folder))
    return folder


@pytest.fixture(scope="module")
def address(study: Path) -> str:
    return (study / "study.html").as_uri()


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """The page of a new visitor. In the end the console is clean, and nothing was asked of another machine."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    context.set_default_timeout(WAIT)
    page = context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda line: complaints.append(line.text))
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    yield page
    context.close()
    assert complaints == []
    assert [url for url in asked if not url.startswith(("data:", "blob:", address))] == []


def is_red(page: Page, side: str) -> bool:
    """Whether the picture on this side is of the red set."""
    picture = page.locator(f"#{side} img")
    picture.evaluate("image => image.decode()")
    return bool(picture.evaluate(REDNESS) > 0)


def choose_red(page: Page) -> None:
    page.keyboard.press("ArrowLeft" if is_red(page, "left") else "ArrowRight")


def saved(page: Page) -> dict[str, Any]:
    with page.expect_download() as waiting:
        page.locator("#save").click()
    found: dict[str, Any] = json.loads(Path(waiting.value.path()).read_text(encoding="utf-8"))
    assert waiting.value.suggested_filename == f"answers-{found['study']}-{found['session']}.json"
    return found


def test_a_person_who_always_chooses_red_gives_the_red_set_every_vote(page: Page, study: Path, tmp_path: Path) -> None:
    page.locator("#name").fill("Ann <b>")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    for number in range(GUIDES):
        expect(page.locator("#question")).to_have_text("Which picture looks more real?")
        expect(page.locator("#count")).to_have_text(f"{number + 1} of {2 * GUIDES}")
        expect(page.locator("#guide")).to_be_hidden()
        choose_red(page)
    expect(page.locator("#part")).to_have_text("Part 2 of 2")
    page.keyboard.press("Enter")
    for _ in range(GUIDES):
        expect(page.locator("#guide")).to_be_visible()
        page.locator("#left" if is_red(page, "left") else "#right").click()
    expect(page.locator("#summary")).to_contain_text("You answered 6 of 6.")
    answers = saved(page)
    assert answers["name"] == "Ann <b>"
    (tmp_path / "ann.json").write_text(json.dumps(answers))
    done = CliRunner().invoke(command, [str(study / "study.key.json"), str(tmp_path / "ann.json"), "--json"])
    assert [(rate["chosen"], rate["votes"]) for rate in json.loads(done.output)["rates"]] == [(3, 3), (3, 3)]


def test_one_goes_back_stops_and_comes_again(page: Page) -> None:
    page.locator("#begin").click()
    page.keyboard.press("ArrowUp")
    first = is_red(page, "left")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#count")).to_have_text("2 of 6")
    page.keyboard.press("Backspace")
    expect(page.locator("#count")).to_have_text("1 of 6")
    assert is_red(page, "left") == first
    page.keyboard.press("ArrowRight")
    page.reload()
    expect(page.locator("#count")).to_have_text("2 of 6")
    page.locator("#stop").click()
    expect(page.locator("#summary")).to_contain_text("You answered 1 of 6.")
    (answer,) = saved(page)["answers"]
    assert answer["chosen"] == 1 - answer["left"]
    page.locator("#more").click()
    expect(page.locator("#count")).to_have_text("2 of 6")


def test_visits_have_orders_of_their_own(browser: Browser, address: str) -> None:
    """40 visits to 3 pairs in 6 orders: each pair comes first, and each side, but for one chance in a million."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(address)
    found = page.evaluate("Array.from({length: 40}, () => begun().trials[0]).map(({pair, left}) => [pair, left])")
    context.close()
    assert {pair for pair, _ in found} == {0, 1, 2}
    assert {left for _, left in found} == {0, 1}


@pytest.mark.parametrize("width", [390, 1280])
def test_a_pair_fits_the_screen(browser: Browser, address: str, width: int) -> None:
    context = browser.new_context(viewport={"width": width, "height": 800})
    page = context.new_page()
    page.goto(address)
    page.locator("#begin").click()
    for _ in range(GUIDES):
        page.keyboard.press("ArrowLeft")
    page.locator("#begin").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.documentElement.scrollHeight") <= 800
    boxes = [page.locator(f"#{side} img").bounding_box() for side in ("left", "right")]
    context.close()
    assert boxes[0] is not None
    assert boxes[1] is not None
    assert boxes[0]["width"] == pytest.approx(boxes[1]["width"], abs=1)
    assert boxes[0]["y"] == boxes[1]["y"]
    assert boxes[0]["width"] > 150
