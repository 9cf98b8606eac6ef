"""The page without a server: `sdedit page`, and edits in a browser with the Editor's bytes."""

import base64
import io
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from command_line import Run, assert_mistake
from onnx import TensorProto, helper, numpy_helper
from pages import Isolated, browser, made_by, recipe_of, static_server  # browser: a fixture
from painter import Painter, painting
from PIL import Image
from playwright.sync_api import Browser, FrameLocator, Page, expect
from tiny import FIELDS, halving_network, write_bundle, write_free_bundle
from tiny_latent import write_latent_bundle

from sdedit.runtime import Editor, read_bundle
from sdedit.runtime.bundle import NETWORK, REFERENCE, SHIPPED, write_manifest
from sdedit.serve.static_page import find_runtime, write_page

Json = dict[str, Any]
LOADED = 240_000
"""Milliseconds after which a page that has not loaded fails its test: a busy machine takes a minute."""

CLASSES = 3

STATUS = """addEventListener("DOMContentLoaded", () => {
  const status = document.getElementById("status");
  window.said = [];
  new MutationObserver(() => said.push(status.textContent)).observe(status, {childList: true});
})"""

EDIT = """async ([guide, mask, options]) => {
  const { makeBackend } = await import("./backend.js");
  window.backend ??= makeBackend();
  await backend.load(() => {});
  const blob = (text) => text && new Blob([Uint8Array.from(atob(text), (c) => c.charCodeAt(0))], {type: "image/png"});
  const [model] = await backend.models();
  const calls = {onPreview: () => {}, signal: new AbortController().signal};
  const images = await backend.edit({model: model.id, guide: blob(guide), mask: blob(mask), options}, calls);
  const texts = [];
  for (const image of images) {
    const bytes = new Uint8Array(await image.arrayBuffer());
    texts.push(btoa(String.fromCharCode(...bytes)));
  }
  return texts;
}"""


@pytest.fixture(scope="module")
def package() -> Path:
    """The folder of onnxruntime-web, where npm put it."""
    folder = Path(os.environ.get("NODE_PATH") or "node_modules") / "onnxruntime-web"
    if not folder.is_dir():
        pytest.skip("onnxruntime-web is not installed: npm install onnxruntime-web@1.30.0, then set NODE_PATH")
    return folder


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    """A package with the names of onnxruntime-web's files."""
    folder = tmp_path / "package"
    (folder / "dist").mkdir(parents=True)
    (folder / "package.json").write_text('{"name": "onnxruntime-web", "version": "1.2.3"}', encoding="utf-8")
    for name in ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"):
        (folder / "dist" / name).write_bytes(name.encode())
    return folder


def write_labelled_bundle(folder: Path) -> Path:
    """out = x / 2 + a colour for each label; the last label is that of no class."""
    write_bundle(folder)
    model = halving_network(free=True)
    colours = np.float32([[0.1, 0, 0], [0, 0.2, 0], [0, 0, 0.3], [0.4, 0.4, 0.4]]).reshape(4, 3, 1, 1)
    graph = model.graph
    graph.node[0].output[0] = "half_x"
    graph.node.append(helper.make_node("Gather", ["colours", "label"], ["colour"]))
    graph.node.append(helper.make_node("Add", ["half_x", "colour"], ["out"]))
    graph.initializer.append(numpy_helper.from_array(colours, "colours"))
    graph.input.append(helper.make_tensor_value_info("label", TensorProto.INT64, ["batch"]))
    onnx.save(model, folder / NETWORK)
    labels_of_outputs = [index % CLASSES for index in range(len(FIELDS["parity"]["levels"]))]
    np.save(folder / REFERENCE, np.load(folder / REFERENCE) + colours[labels_of_outputs])
    image = {**FIELDS["image"], "multiple_of": 4, "free": True, "max_pixels": 1024}
    labels = {"conditioning": "label", "classes": CLASSES, "null_label": CLASSES}
    write_manifest(folder, {**FIELDS, "image": image, **labels})
    return folder


def png_of(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


def edits_in(page: Page, guide: bytes, mask: bytes | None, options: Json) -> list[np.ndarray]:
    """The images that the page's back end makes."""
    texts = [None if data is None else base64.b64encode(data).decode() for data in (guide, mask)]
    found = page.evaluate(EDIT, [*texts, options])
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))) for text in found]


def ready(painter: Painter) -> None:
    """Wait until the model is there."""
    expect(painter.page.locator("#status")).to_have_text("Paint, and see.", timeout=LOADED)


OPTIONS: list[Json] = [
    {},
    {"sampler": "ancestral", "steps": 5, "images": 2},
    {"sampler": "euler_maruyama", "steps": 4, "keep": "official", "repeats": 2},
    {"sampler": "dpmpp_2m_sde", "steps": 6, "size": "16", "seed": str(2**64 - 1)},
    {"sampler": "ddim", "eta": 0.5, "steps": 3, "keep": "fixed", "size": "guide"},
    {"sampler": "euler", "steps": 2, "size": "16", "fit": "stretch", "clip": "inf", "t0": 1},
]


@dataclass(frozen=True)
class Labelled:
    """A page of a tiny model with labels, loaded, and the Editor of it. site: the page's folder."""

    painter: Painter
    bundle: Path
    site: Path
    package: Path
    editor: Editor

    def inner(self, name: str) -> Path:
        """The folder of the same page once more, inside the page's folder."""
        write_page(read_bundle(self.bundle), find_runtime(self.package), self.site / name)
        return self.site / name

    def framed(self, name: str) -> FrameLocator:
        """That page in a frame of the page: it shares the page's process, so WASM is not compiled again."""
        frame = "src => document.body.append(Object.assign(document.createElement('iframe'), {src}))"
        self.painter.page.evaluate(frame, f"{name}/")
        return self.painter.page.frame_locator(f"iframe[src='{name}/']")


@pytest.fixture(scope="module")
def labelled(browser: Browser, package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Labelled]:
    folder = tmp_path_factory.mktemp("labelled")
    bundle, site = write_labelled_bundle(folder / "bundle"), folder / "site"
    write_page(read_bundle(bundle), find_runtime(package), site)
    with (
        Editor.open(bundle, engine="onnxruntime", threads=1) as editor,
        static_server(site) as address,
        painting(browser, address, opened=False) as painter,
    ):
        painter.page.add_init_script(STATUS)
        painter.open()
        ready(painter)
        yield Labelled(painter, bundle, site, package, editor)
        assert painter.errors == []


def test_edits_have_the_editors_bytes(labelled: Labelled) -> None:
    """The network here rounds in one way only, so every byte is equal: presets, keep rules, sizes, masks, labels."""
    rng = np.random.default_rng(0)
    guide = rng.integers(0, 256, (21, 30, 3), np.uint8)
    mask = np.zeros((21, 30), np.uint8)
    mask[4:15, 6:19] = 255
    with_labels = [options | {"label": 1, "guidance": 2.5} for options in OPTIONS[:2]]
    for options in (*OPTIONS, *with_labels):
        for masked in (False, True):
            given = {"t0": 0.6, "steps": 4, "seed": 3, "label": 0, **options}
            sent = given | {"seed": str(given["seed"])}
            made = edits_in(labelled.painter.page, png_of(guide), png_of(mask) if masked else None, sent)
            wanted = labelled.editor.edit(
                guide,
                mask if masked else None,
                **given | {"seed": int(given["seed"]), "clip": float(given.get("clip", 1))},
            )
            assert len(made) == len(wanted.images)
            for found, image in zip(made, wanted.images, strict=True):
                assert np.array_equal(found, np.asarray(image.pil)), (options, masked)


def test_the_page_edits_saves_and_tells(labelled: Labelled, run: Run, tmp_path: Path) -> None:
    """It also has a mask and four variations; the Editor replays a saved result."""
    painter, editor = labelled.painter, labelled.editor
    said = painter.page.evaluate("said")
    assert any(line.startswith("Getting the model: ") for line in said)
    assert "Preparing the model" in said
    painter.settings(steps=3)
    painter.press("7")
    painter.stroke([(0.2, 0.2), (0.7, 0.5)])
    result = painter.edit()
    png, strokes = painter.download("Control+s"), painter.download("Control+Shift+s")
    assert np.array_equal(made_by(editor, painter, recipe_of(png, tmp_path))[0], result)
    (tmp_path / "saved.png").write_bytes(png)
    (tmp_path / "strokes.png").write_bytes(strokes)
    replayed = ("replay", tmp_path / "saved.png", "--guide", tmp_path / "strokes.png", "--bundle", labelled.bundle)
    code, stdout, _ = run(*replayed)
    assert (code, "identical" in stdout) == (0, True), stdout
    painter.press("m")
    painter.stroke([(0.5, 0.5), (0.52, 0.52)])
    painter.settings(size="native")
    painter.press("v")
    painter.done()
    cells = painter.page.locator("#grid button")
    expect(cells.locator("img:visible")).to_have_count(4)
    cells.nth(2).click()
    recipe = recipe_of(painter.download("Control+s"), tmp_path)
    assert np.array_equal(made_by(editor, painter, recipe)[2], painter.shown())
    painter.settings(t0=0.05, steps=20)
    painter.page.locator("#go").click()
    painter.says("steps 20 is not in 1..1, the levels that the schedule has up to t0 0.05")


@pytest.fixture(scope="module")
def earth(browser: Browser, package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Painter]:
    """The page of the shipped model, loaded, isolated so that it uses two threads."""
    folder = tmp_path_factory.mktemp("earth") / "site"
    write_page(read_bundle(SHIPPED), find_runtime(package), folder)
    with static_server(folder, Isolated) as address, painting(browser, address) as painter:
        expect(painter.page.locator("#status")).to_contain_text("An example", timeout=LOADED)
        yield painter
        assert painter.errors == []


def test_the_shipped_model_gives_the_editors_picture(earth: Painter, tmp_path: Path) -> None:
    """WASM has no fused multiply-add, so the network's outputs differ by some 1e-5, which moves single bytes by 1."""
    earth.settings(steps=2, size="native")
    result = earth.edit()
    recipe = recipe_of(earth.download("Control+s"), tmp_path)
    with Editor.open(SHIPPED, engine="onnxruntime", threads=1) as editor:
        away = np.abs(made_by(editor, earth, recipe)[0].astype(int) - result)
    assert away.max() <= 1
    assert (away > 0).mean() < 0.005
    assert recipe["engine"]["threads"] > 1


def test_previews_come_and_escape_stops(earth: Painter) -> None:
    earth.settings(steps=250, size="native")
    shown = earth.page.locator("#after")
    finished = shown.get_attribute("src")
    earth.page.locator("#go").click()
    expect(shown).not_to_have_attribute("src", finished or "")
    assert float(earth.page.locator("#progress").get_attribute("value") or 0) > 0
    earth.press("Escape")
    earth.says("Stopped")
    expect(shown).to_have_attribute("src", finished or "")
    earth.settings(steps=1)
    earth.edit()


def test_pages_of_one_host_keep_apart(browser: Browser, stand_in: Path, tmp_path: Path) -> None:
    """Each folder's painting comes back in that folder alone. No network is needed: ONNX Runtime is a stand-in."""
    bundle, sites = read_bundle(write_free_bundle(tmp_path / "free")), tmp_path / "sites"
    for name in ("one", "two", "two/inside"):
        write_page(bundle, find_runtime(stand_in), sites / name)
    with static_server(sites) as address, painting(browser, address, opened=False) as painter:

        def opened(name: str) -> str:
            painter.page.goto(f"{address}/{name}/")
            painter.page.wait_for_selector("html[data-ready]", state="attached")
            return painter.colour(0.5, 0.5)

        ground = opened("two")
        painter.press("1")
        painter.stroke([(0.4, 0.5), (0.6, 0.5)])
        painted = painter.colour(0.5, 0.5)
        assert painted != ground
        painter.page.wait_for_selector("html[data-kept]", state="attached")
        assert [opened(name) for name in ("one", "two", "two/inside")] == [ground, painted, ground]


def test_a_file_that_is_not_whole_is_told(labelled: Labelled) -> None:
    folder = labelled.inner("short")
    (network,) = (folder / "model").glob("*.onnx")
    network.write_bytes(network.read_bytes()[:-3])
    status = labelled.framed("short").locator("#status")
    told = re.compile(rf"^model/{network.name} has \d+ bytes instead of \d+: reload the page$")
    expect(status).to_have_text(told, timeout=LOADED)
    expect(status).to_have_attribute("data-kind", "error")


def test_a_browser_that_fails_the_selftest_is_told(labelled: Labelled) -> None:
    """The reference is another, so the network's right output is a wrong one. Edits fail with the same line."""
    (expected,) = (labelled.inner("tampered") / "model").glob("selftest-*.f32")
    values = np.fromfile(expected, "<f4")
    values[len(values) // 2] += 0.01 * np.abs(values).max()
    values.tofile(expected)
    page = labelled.framed("tampered")
    status = page.locator("#status")
    told = re.compile(r"^This browser computes the model's network wrongly: the error is 0\.010?, accepted is 0\.0001")
    expect(status).to_have_text(told, timeout=LOADED)
    status.evaluate("status => status.textContent = ''")
    page.locator("#go").dispatch_event("click")
    expect(status).to_have_text(told)
    expect(status).to_have_attribute("data-kind", "error")
    expect(page.locator("#strip button")).to_have_count(0)


# the command


def test_page_writes_files_and_replaces_its_own(run: Run, stand_in: Path, tmp_path: Path) -> None:
    tiny, out = write_free_bundle(tmp_path / "tiny"), tmp_path / "site"
    arguments = ("page", "--out", out, "--bundle", tiny, "--onnxruntime-web", stand_in)
    code, stdout, stderr = run(*arguments)
    assert (code, stderr) == (0, "")
    assert stdout.splitlines()[1] == f"Try it: python -m http.server --bind 127.0.0.1 --directory {out}"
    about = json.loads((out / "model" / "model.json").read_bytes())
    assert about["model"]["sha256"] == read_bundle(tiny).sha256
    assert about["recipe"]["engine"]["version"] == "1.2.3 (web)"
    for name in ("network", "wasm", "schedule", "expected"):
        entry = about["files"][name]
        assert (out / entry["path"]).stat().st_size == entry["bytes"]
    assert (out / about["files"]["network"]["path"]).read_bytes() == (tiny / NETWORK).read_bytes()
    assert not (out / "server.js").exists()
    (out / "index.html").unlink()
    assert run(*arguments)[0] == 0
    assert (out / "index.html").is_file()
    (out / "mine.txt").write_text("mine", encoding="utf-8")
    assert_mistake(run(*arguments), "exists and is not a page alone: it is not replaced")
    assert (out / "mine.txt").is_file()


def test_page_tells_what_it_lacks(run: Run, stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NODE_PATH", raising=False)
    out = ("page", "--out", tmp_path / "site", "--bundle", write_free_bundle(tmp_path / "tiny"))
    cure = "npm install onnxruntime-web@1.30.0, then --onnxruntime-web node_modules/onnxruntime-web"
    assert_mistake(run(*out), f"cannot be read: No such file or directory: {cure}")
    monkeypatch.setenv("NODE_PATH", str(tmp_path / "node"))
    (tmp_path / "node").mkdir()
    stand_in.rename(tmp_path / "node" / "onnxruntime-web")
    assert run(*out)[0] == 0
    (tmp_path / "node" / "onnxruntime-web" / "dist" / "ort-wasm-simd-threaded.wasm").unlink()
    assert_mistake(run(*out), f"has no dist/ort-wasm-simd-threaded.wasm: {cure}")
    (tmp_path / "node" / "onnxruntime-web" / "package.json").write_text("{}", encoding="utf-8")
    assert_mistake(run(*out), "its package.json is not that of onnxruntime-web")
    assert (tmp_path / "site" / "index.html").is_file()


def test_page_refuses_latent_networks(run: Run, stand_in: Path, tmp_path: Path) -> None:
    bundle = write_latent_bundle(tmp_path / "latent")
    arguments = ("page", "--out", tmp_path / "site", "--bundle", bundle, "--onnxruntime-web", stand_in)
    assert_mistake(run(*arguments), "has a latent network; accepted are networks of pixels")
    assert not (tmp_path / "site").exists()
