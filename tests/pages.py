"""Fixtures for tests of the page: a browser, and a server whose network is a Python function; and a static server."""

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("starlette", reason="starlette is not installed: pip install '.[serve]'")
pytest.importorskip("playwright", reason="playwright is not installed: pip install '.[test]'")

from painter import ARGUMENTS, CHROMIUM, Painter, painting
from playwright.sync_api import Browser, sync_playwright
from serving import Served, fade, serving
from stubs import stub_editor

from sdedit.runtime import Editor
from sdedit.runtime.recipe import read_recipe
from sdedit.runtime.settings import Settings


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        pytest.skip(f"there is no {CHROMIUM}: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def editor() -> Editor:
    """The editor of the server: its network takes no time."""
    return stub_editor(fade, slots=2)


@pytest.fixture(scope="module")
def served(editor: Editor) -> Iterator[Served]:
    with serving({"earth64": editor}, page=True) as served:
        yield served


@pytest.fixture
def painter(browser: Browser, served: Served) -> Iterator[Painter]:
    """The page of a new visitor, with edits that are not live. In the end the console is clean."""
    with painting(browser, served.url) as painter:
        painter.settings()
        yield painter
        assert painter.errors == []


def recipe_of(png: bytes, folder: Path) -> dict[str, object]:
    path = folder / "saved.png"
    path.write_bytes(png)
    return read_recipe(path)


def made_by(editor: Editor, painter: Painter, recipe: dict[str, object]) -> np.ndarray:
    """The Editor's own images of what is painted now, with the options of a recipe."""
    mask = painter.pixels("mask")[..., 3] >= 128
    options = Settings.from_recipe(recipe).options()
    made = editor.edit(painter.pixels()[..., :3], mask=mask if mask.any() else None, **options)
    return np.stack([np.asarray(image.pil) for image in made.images])


class Quiet(SimpleHTTPRequestHandler):
    """Serves files and logs nothing."""

    def log_message(self, *args: object) -> None:
        pass


class Isolated(Quiet):
    """The same, isolated from other origins, so that browsers let pages share memory between threads."""

    def end_headers(self) -> None:
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()


@contextmanager
def static_server(folder: Path, kind: type[Quiet] = Quiet) -> Iterator[str]:
    """The address of a static server of the folder."""
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(kind, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join(10)
