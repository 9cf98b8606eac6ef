"""Fixtures for tests of the page: a browser, and a server whose network is a Python function."""

from collections.abc import Iterator

import pytest

pytest.importorskip("starlette", reason="starlette is not installed: pip install '.[serve]'")
pytest.importorskip("playwright", reason="playwright is not installed: pip install '.[test]'")

from painter import ARGUMENTS, CHROMIUM, Painter, painting
from playwright.sync_api import Browser, sync_playwright
from serving import Served, fade, serving
from stubs import stub_editor

from sdedit.runtime import Editor


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
