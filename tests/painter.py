"""The page in a real browser, as a person uses it: for tests of serve/page."""

import base64
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from playwright.sync_api import Browser, BrowserContext, Page, Request, expect

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WAIT = 30_000
"""Milliseconds after which a test that hangs fails instead."""

expect.set_options(timeout=WAIT)

Point = tuple[float, float]
"""Fractions of the frame: across, down."""

PIXELS = """id => {
  const canvas = document.getElementById(id);
  const {data, width, height} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  let text = "";
  for (let i = 0; i < data.length; i += 32768) text += String.fromCharCode(...data.subarray(i, i + 32768));
  return [width, height, btoa(text)];
}"""


class Painter:
    """A page that is open, and what a person does with it. errors: everything that the console complained of."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.errors: list[str] = []
        self.sent: list[Request] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda line: self.errors.append(line.text) if line.type in ("error", "warning") else None)
        page.on("request", self._request)

    def _request(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in ("blob", "data") and f"{parts.scheme}://{parts.netloc}" != self.url:
            self.errors.append(f"request to {request.url}")
        if parts.path.endswith("/v1/edits"):
            self.sent.append(request)

    def open(self) -> None:
        """Load the page and wait until it is ready."""
        self.page.goto(self.url)
        self.page.wait_for_selector("html[data-ready]", state="attached")

    def settings(self, live: bool = False, **values: Any) -> None:
        """Fill in fields by their ids; live edits off unless asked for. Nothing is edited."""
        self.page.locator("#live").set_checked(False)
        for name, value in values.items():
            field = self.page.locator(f"#{name}")
            if name == "size":
                field.select_option(str(value))
            else:
                field.fill(str(value))
        self.page.locator("#live").set_checked(live)
        self.page.evaluate("document.activeElement.blur()")
        if live:
            self.done()

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def stroke(self, points: Sequence[Point]) -> None:
        """Draw with the mouse."""
        box = self.page.locator("#surface").bounding_box()
        assert box is not None
        places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
        self.page.mouse.move(*places[0])
        self.page.mouse.down()
        for place in places[1:] or places:
            self.page.mouse.move(*place, steps=4)
        self.page.mouse.up()

    def says(self, pattern: str) -> None:
        """Wait until the status line has this."""
        expect(self.page.locator("#status")).to_have_text(re.compile(pattern))

    def done(self) -> None:
        """Wait for the end of an edit that has begun, or is about to."""
        self.says("^Done")

    def edit(self) -> np.ndarray:
        """Make an edit and wait for it; its pixels."""
        before = self.results
        self.page.locator("#go").click()
        expect(self.page.locator("#strip button")).to_have_count(before + 1)
        self.done()
        return self.shown()

    @property
    def results(self) -> int:
        """Results of the session."""
        return self.page.locator("#strip button").count()

    def pixels(self, layer: str = "colour") -> np.ndarray:
        """A layer of the painting, [H, W, 4]."""
        return from_base64(*self.page.evaluate(PIXELS, layer))

    def colour(self, x: float, y: float) -> str:
        """The painting's colour at fractions of its size, as #rrggbb."""
        picture = self.pixels()
        red, green, blue, _ = picture[int(y * picture.shape[0]), int(x * picture.shape[1])]
        return f"#{red:02x}{green:02x}{blue:02x}"

    def shown(self) -> np.ndarray:
        """The pixels of the result that is shown, [H, W, 3]."""
        script = """async () => {
          const image = document.getElementById("after");
          await image.decode();
          const canvas = document.createElement("canvas");
          canvas.id = "copy";
          [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
          canvas.getContext("2d").drawImage(image, 0, 0);
          document.body.append(canvas);
        }"""
        self.page.evaluate(script)
        found = self.pixels("copy")[..., :3]
        self.page.evaluate("document.getElementById('copy').remove()")
        return found

    def download(self, keys: str) -> bytes:
        """The file that these keys save."""
        with self.page.expect_download() as waiting:
            self.press(keys)
        return Path(waiting.value.path()).read_bytes()

    def value(self, name: str) -> str:
        """The value of the field with this id."""
        return self.page.locator(f"#{name}").input_value()

    def pointer(self, kind: str, x: float, y: float, **more: Any) -> None:
        """Dispatch a pointer event at fractions of the frame, for pens and fingers."""
        script = """([kind, x, y, more]) => {
          const surface = document.getElementById("surface");
          const {left, top, width, height} = surface.getBoundingClientRect();
          surface.setPointerCapture = () => {};
          const place = {clientX: left + x * width, clientY: top + y * height, bubbles: true, cancelable: true};
          surface.dispatchEvent(new PointerEvent(kind, {...place, button: 0, buttons: 1, ...more}));
        }"""
        self.page.evaluate(script, [kind, x, y, more])


def from_base64(width: int, height: int, text: str) -> np.ndarray:
    """Pixels that a script read, [H, W, 4]."""
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(height, width, 4)


@contextmanager
def painting(browser: Browser, url: str, *, opened: bool = True, **options: Any) -> Iterator[Painter]:
    """A page of a new visitor. options: of the browser's context."""
    context: BrowserContext = browser.new_context(**{"viewport": {"width": 1440, "height": 900}, **options})
    context.set_default_timeout(WAIT)
    try:
        painter = Painter(context.new_page(), url)
        if opened:
            painter.open()
        yield painter
    finally:
        context.close()
