"""The example of a host in the browser: ONNX Runtime's WASM in a Worker, with the Editor's picture."""

import base64
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pages import (
    browser,  # fixture
    static_server,
)
from PIL import Image
from playwright.sync_api import Browser, expect

from sdedit.runtime import Editor
from sdedit.runtime.bundle import SHIPPED

HOSTS = Path(__file__).parent.parent / "examples" / "hosts"
WAIT = 120_000
"""Milliseconds after which a page that hangs fails its test."""

PIXELS = """() => {
  const canvas = document.querySelector("canvas");
  return btoa(String.fromCharCode(...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data));
}"""


@pytest.fixture
def address(tmp_path: Path, earth_with_graph: Path) -> Iterator[str]:
    """The page on a static server, with its packages and the shipped model's graph."""
    packages = Path(os.environ.get("NODE_PATH") or HOSTS / "browser" / "node_modules")
    if not (packages / "onnxruntime-web").is_dir():
        pytest.skip("onnxruntime-web is not installed: npm install, in examples/hosts/browser")
    shutil.copytree(HOSTS, tmp_path / "hosts", ignore=shutil.ignore_patterns("node_modules"))
    (tmp_path / "hosts" / "browser" / "node_modules").symlink_to(packages, target_is_directory=True)
    (tmp_path / "hosts" / "browser" / "graph").symlink_to(earth_with_graph / "graph", target_is_directory=True)
    with static_server(tmp_path / "hosts") as server:
        yield f"{server}/browser/"


def test_the_browser_gives_the_editors_picture(browser: Browser, address: str, tmp_path: Path) -> None:
    """The self-test has compared noise and arithmetic by bits. The network alone may be rounded otherwise: WASM has no
    fused multiply-add. Errors of 1e-5 move a value by 1e-3 of a level, so at most one byte of some hundreds changes.
    """
    guide = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(guide).save(tmp_path / "guide.png")
    with Editor.open(SHIPPED, engine="onnxruntime", threads=1) as editor:
        wanted = np.asarray(editor.edit(guide, t0=0.5, steps=3, seed=7).images[0].pil).astype(int)
    page = browser.new_page()
    page.goto(f"{address}?steps=3&seed=7")
    said = page.locator("output")
    expect(said).to_contain_text("Ready", timeout=WAIT)
    ready = said.inner_text()
    page.locator("input").set_input_files(tmp_path / "guide.png")
    expect(said).to_have_text("Done", timeout=WAIT)
    found = np.frombuffer(base64.b64decode(page.evaluate(PIXELS)), np.uint8).reshape(64, 64, 4)
    page.close()
    away = np.abs(found[:, :, :3] - wanted)
    assert away.max() <= 1, ready
    assert (away > 0).mean() < 0.005, ready
