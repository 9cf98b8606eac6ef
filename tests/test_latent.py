"""Latent models at run time, on a bundle whose networks are simple functions: codec, texts, masks, recipes, errors."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Run
from conftest import Build
from hypothesis import given
from hypothesis import strategies as st
from latent_pipelines import EOS
from PIL import Image
from tiny import FIELDS, rewrite, write_bundle
from tiny_latent import (
    BACK,
    FACTOR,
    LENGTH,
    MIX,
    PROMPT,
    STATE,
    WIDTH,
    codec,
    latent_bundle,
    latent_fields,
    picture,
    write_latent_bundle,
)

from sdedit.errors import BundleError, EngineError, PlanError
from sdedit.runtime import Editor, replay
from sdedit.runtime.bundle import MANIFEST, NETWORK, TEXT, Bundle, read_bundle, write_manifest
from sdedit.runtime.checks.parity import measure_error
from sdedit.runtime.codec import LatentCodec, to_state
from sdedit.runtime.engines import installed_engines, load_component, load_engine
from sdedit.runtime.engines.memory import check_loading


@pytest.fixture(scope="module")
def bundle(build_once: Callable[[str, Build], Path]) -> Bundle:
    return latent_bundle(build_once)


@pytest.fixture(scope="module")
def editor(bundle: Bundle) -> Iterator[Editor]:
    with Editor.open(bundle, engine="onnxruntime", threads=1) as editor:
        yield editor


# The bundle


def test_shapes_of_a_latent_bundle(bundle: Bundle) -> None:
    assert (bundle.state_shape, bundle.factor, bundle.guided) == (STATE, FACTOR, True)
    assert bundle.state_shape_at(40, 64) == (4, 10, 16)
    assert {name: spec.shape for name, spec in bundle.inputs.items()} == {
        "x": STATE,
        "time": (),
        "context": (LENGTH, WIDTH),
    }
    assert bundle.defaults == {"clip": np.inf, "t0": 0.6, "steps": 3, "sampler": "ddim", "guidance": 2.0}
    assert bundle.preview().shape == (5, 3)


@pytest.mark.parametrize("engine", installed_engines())
def test_engines_give_the_reference(bundle: Bundle, engine: str) -> None:
    assert measure_error(bundle, load_engine(bundle, engine, "float32", 1)) < 1e-6


@pytest.mark.parametrize("revision", [2, 3])
def test_older_revisions_are_pixels_without_text(tmp_path: Path, revision: int) -> None:
    folder = write_bundle(tmp_path / "bundle")
    manifest = json.loads((folder / MANIFEST).read_text())
    for key in ("latent", "inputs", "text", "clip", "suggested"):
        del manifest[key]
    for key in ("components", "prompts", *(["sizes"] if revision == 2 else [])):
        del manifest["parity"][key]
    if revision == 2:
        del manifest["image"]["free"], manifest["image"]["max_pixels"]
    (folder / MANIFEST).write_text(json.dumps({**manifest, "revision": revision}))
    old = read_bundle(folder).manifest
    assert (old.latent, old.text, old.clip, dict(old.inputs), old.suggested.given()) == (None, None, 1.0, {}, {})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latent": {"channels": 0, "factor": 4}}, "latent.channels 0 is not at least 1"),
        ({"latent": {"channels": 4, "factor": 65}}, "latent.factor 65 is not in 1..64"),
        ({"latent": {"channels": 4, "factor": 3}}, "image.multiple_of 8 is not a multiple of latent.factor 3"),
        ({"latent": {"channels": 4}}, "latent lacks ['factor']"),
        ({"latent": 4}, "latent is not an object"),
        ({"inputs": {}}, "text is given, but inputs lack context"),
        ({"inputs": {"mask": {"dtype": "float32", "shape": [1]}}}, "'mask' is not one of context, pooled"),
        ({"inputs": {"context": {"dtype": "int64", "shape": [1]}}}, "inputs['context'].dtype is not float32"),
        ({"inputs": {"context": {"dtype": "float32", "shape": [0]}}}, "inputs['context'].shape [0] is not a shape"),
        ({"text": None}, "inputs ['context'] are given, but text is null"),
        ({"clip": -1.0}, "clip -1.0 is not above 0 or null"),
        ({"suggested": {"t0": "x", "steps": None, "sampler": None, "guidance": None}}, "suggested.t0 is not of type"),
    ],
)
def test_fields_that_do_not_fit_are_named(
    bundle: Bundle, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    folder = write_latent_bundle(tmp_path / "bundle")
    fields = json.loads((folder / MANIFEST).read_text())
    write_manifest(folder, {**fields, **changes})
    with pytest.raises(BundleError) as caught:
        read_bundle(folder)
    assert message in str(caught.value)


def test_all_problems_come_in_one_error(bundle: Bundle, tmp_path: Path) -> None:
    folder = write_latent_bundle(tmp_path / "bundle")
    fields = json.loads((folder / MANIFEST).read_text())
    text = {**fields["text"], "guidance": "some", "length": 2}
    write_manifest(folder, {**fields, "clip": -1.0, "text": text})
    with pytest.raises(BundleError, match=r"text\.length 2 is not in 3\.\.1024; text\.guidance 'some'"):
        read_bundle(folder)


def test_missing_parts_are_named(bundle: Bundle, tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle")
    write_manifest(folder, {**latent_fields({"<|startoftext|>": 0, EOS: 1}), "parity": FIELDS["parity"]})
    with pytest.raises(
        BundleError, match=r"files lack encoder\.onnx; files lack decoder\.onnx; files lack preview\.npy"
    ):
        read_bundle(folder)


# The codec


@pytest.mark.parametrize("engine", installed_engines())
def test_a_picture_of_even_cells_survives_the_codec(bundle: Bundle, engine: str) -> None:
    cells = np.random.default_rng(0).integers(0, 256, (6, 10, 3)).astype(np.uint8)
    even = Image.fromarray(np.kron(cells, np.ones((FACTOR, FACTOR, 1), np.uint8)))
    it = codec(bundle, engine)
    state = it.encode(even)
    assert (state.shape, state.dtype) == ((4, 6, 10), np.float32)
    assert np.allclose(state, np.einsum("cd,dhw->chw", MIX, to_state(Image.fromarray(cells))), atol=1e-6)
    assert np.array_equal(np.asarray(it.decode(state)), np.asarray(even))


def test_a_preview_is_the_linear_map_at_the_pictures_size(bundle: Bundle) -> None:
    state = np.zeros(STATE, np.float32)
    state[:, :, :] = (MIX @ np.float32([0.5, -0.5, 0]))[:, None, None]
    preview = codec(bundle).preview(state)
    assert preview.size == (32, 32)
    assert np.asarray(preview).reshape(-1, 3).tolist() == [[191, 64, 128]] * 1024
    assert np.allclose(BACK @ MIX, np.eye(3), atol=1e-6)


@given(st.integers(0, 63), st.integers(0, 63), st.floats(0.0078125, 1, width=32))
def test_no_stroke_is_too_thin_for_a_mask(row: int, column: int, value: float) -> None:
    mask = np.zeros((64, 64), np.float32)
    mask[row, column] = value
    it = object.__new__(LatentCodec)
    it._factor, it._inpaints = FACTOR, False
    cells = it.mask(mask)
    assert cells.shape == (16, 16)
    assert cells[row // FACTOR, column // FACTOR] == np.float32(value)
    assert np.count_nonzero(cells) == 1


# Edits


def test_a_text_changes_the_image_and_the_negative_too(editor: Editor) -> None:
    options: dict[str, Any] = {"seed": 3}
    plain = editor.edit(picture(), prompt=PROMPT, **options).images[0]
    again = editor.edit(picture(), prompt=PROMPT, **options).images[0]
    others = [
        editor.edit(picture(), prompt="a castle", **options).images[0],
        editor.edit(picture(), prompt=PROMPT, negative="ugly", **options).images[0],
        editor.edit(picture(), prompt=PROMPT, guidance=1, **options).images[0],
    ]
    assert plain.pil.size == (32, 32)
    assert plain.pil.tobytes() == again.pil.tobytes()
    assert len({plain.pil.tobytes(), *(other.pil.tobytes() for other in others)}) == 4


def test_what_the_model_suggests_is_the_default(editor: Editor) -> None:
    recipe = editor.edit(picture(), prompt=PROMPT).recipe
    assert {name: recipe[name] for name in ("t0", "steps", "sampler", "guidance", "clip")} == {
        "t0": 0.6,
        "steps": 3,
        "sampler": "ddim",
        "guidance": 2.0,
        "clip": "inf",
    }
    assert editor.edit(picture(), prompt=PROMPT, steps=2, guidance=1).recipe["steps"] == 2
    assert recipe["tokens"]["prompt"][0][1:-1]
    assert recipe["tokens"]["negative"] == [[recipe["tokens"]["prompt"][0][0], recipe["tokens"]["prompt"][0][-1]]]


def test_a_texts_embedding_is_computed_once(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []

    def load(bundle: Bundle, name: str, engine: str, threads: int | None) -> Any:
        loaded.append(name)
        return load_component(bundle, name, engine, threads)

    monkeypatch.setattr("sdedit.runtime.editor.editor.load_component", load)
    with Editor.open(bundle, engine="onnxruntime", threads=1) as editor:
        editor.edit(picture(), prompt=PROMPT, steps=1)
        editor.edit(picture(), prompt=PROMPT, steps=1)
        assert loaded.count(TEXT) == 1
        editor.edit(picture(), prompt="a castle", steps=1)
        assert loaded.count(TEXT) == 2
        assert sorted(set(loaded)) == ["decoder.onnx", "encoder.onnx", "text.onnx"]


@pytest.mark.parametrize("options", [{}, {"size": "native"}, {"size": "guide"}, {"feather": 5}, {"context": 1}])
def test_kept_bytes_are_exact_in_the_photo(editor: Editor, options: dict[str, Any]) -> None:
    photo = picture(90, 70)
    mask = np.zeros((90, 70), np.uint8)
    mask[31:52, 13:40] = 255
    mask[60, 3:60] = 128  # grey, and thinner than a cell
    edited = editor.edit(photo, mask, prompt=PROMPT, **options).images[0].pil
    before, after = np.asarray(photo), np.asarray(edited)
    assert after.shape == before.shape
    assert np.array_equal(after[mask == 0], before[mask == 0])
    assert (after[mask == 255] != before[mask == 255]).any(axis=-1).mean() > 0.5
    assert (after[mask == 128] != before[mask == 128]).any(axis=-1).mean() > 0.5


def test_sizes_are_those_of_the_picture(editor: Editor) -> None:
    assert editor.edit(picture(), prompt=PROMPT, size="48x64").images[0].pil.size == (64, 48)
    assert editor.edit(picture(), prompt=PROMPT, size="guide").images[0].pil.size == (56, 40)
    with pytest.raises(PlanError, match="size 44: sides must be multiples of 8"):
        editor.edit(picture(), prompt=PROMPT, size=44)


def test_tiles_are_measured_in_pixels(editor: Editor) -> None:
    tiled = editor.edit(picture(), prompt=PROMPT, size="64x64", tile=32).images[0].pil
    assert tiled.size == (64, 64)


def test_neighbours_change_nothing(bundle: Bundle, editor: Editor) -> None:
    alone = [editor.edit(picture(), prompt=prompt, seed=5).images[0].pil.tobytes() for prompt in (PROMPT, "a castle")]
    with Editor.open(bundle, engine="onnxruntime", threads=1, slots=2) as both:
        jobs = [both.submit(picture(), prompt=prompt, seed=5) for prompt in (PROMPT, "a castle")]
        assert [job.result(60).images[0].pil.tobytes() for job in jobs] == alone


def test_previews_have_the_pictures_size(editor: Editor) -> None:
    job = editor.submit(picture(), prompt=PROMPT, size="48x64", steps=8)
    assert {preview.pil.size for preview in job.previews()} == {(64, 48)}


def test_a_recipe_replays(editor: Editor, bundle: Bundle, tmp_path: Path) -> None:
    picture().save(tmp_path / "guide.png")
    edit = editor.edit(tmp_path / "guide.png", prompt=PROMPT, negative="ugly, watermark", seed=9)
    edit.images[0].save(tmp_path / "out.png")
    again = replay(tmp_path / "out.png", bundle=bundle.path)
    assert (again.pixels, again.differences) == (0, [])
    assert again.image.recipe["prompt"] == PROMPT


def test_the_command_line(run: Run, bundle: Bundle, guide: Path, out: Path) -> None:
    code, printed, _ = run("edit", guide, "--bundle", bundle.path, "--out", out, "--prompt", PROMPT)
    assert code == 0
    assert "3 steps of ddim from t0 0.6" in printed
    code, _, error = run("edit", guide, "--bundle", bundle.path, "--out", out)
    assert (code, error) == (2, "sdedit: a prompt is needed: tiny-latent takes a text\n")
    code, printed, _ = run("inspect", bundle.path)
    assert code == 0
    assert "latent.factor: 4" in printed


# Mistakes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "a prompt is needed: tiny-latent takes a text"),
        ({"prompt": PROMPT, "label": 1}, "label 1: tiny-latent takes none, but a prompt"),
        ({"prompt": 3}, "prompt 3 is not a text"),
        ({"prompt": "\ud800"}, "half of a surrogate pair"),
        ({"prompt": "a" * 10_001}, "prompt has 10001 characters, more than 10000"),
        ({"prompt": "a photo of the castle 12 landscape"}, "prompt is 8 tokens, 7 fit: cut from 'landscape'"),
        ({"prompt": PROMPT, "negative": "a " * 8}, "negative is 8 tokens, 7 fit: cut from 'a '"),
        ({"prompt": PROMPT, "negative": "ugly", "guidance": 1}, "negative 'ugly' has no effect: guidance is 1"),
    ],
)
def test_mistakes_are_named(editor: Editor, options: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError) as caught:
        editor.edit(picture(), **options)
    assert message in str(caught.value)


def test_models_of_pixels_take_no_text(tmp_path: Path) -> None:
    with Editor.open(write_bundle(tmp_path / "bundle"), engine="onnxruntime", threads=1) as editor:
        for name in ("prompt", "negative"):
            with pytest.raises(PlanError, match=f"{name}: tiny takes none"):
                editor.edit(picture(), **{name: PROMPT})  # type: ignore[arg-type]


def test_guidance_of_a_distilled_model(bundle: Bundle, tmp_path: Path) -> None:
    folder = write_latent_bundle(tmp_path / "bundle")
    fields = json.loads((folder / MANIFEST).read_text())
    suggested = {**fields["suggested"], "guidance": 1.0}
    write_manifest(folder, {**fields, "text": {**fields["text"], "guidance": "none"}, "suggested": suggested})
    with Editor.open(folder, engine="onnxruntime", threads=1) as editor:
        editor.edit(picture(), prompt=PROMPT)
        with pytest.raises(PlanError, match=r"guidance 7\.5: tiny-latent was distilled without: accepted is 1"):
            editor.edit(picture(), prompt=PROMPT, guidance=7.5)


@pytest.mark.parametrize("name", [NETWORK, TEXT])
def test_memory_is_asked_for_before_a_network_is_loaded(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    needed = 2 * bundle.manifest.files[name].bytes  # the file's, and an engine's own layout of the float32 weights
    monkeypatch.setattr("sdedit.runtime.engines.memory.available_memory", lambda: needed)
    check_loading(bundle, name, "onnxruntime")
    monkeypatch.setattr("sdedit.runtime.engines.memory.available_memory", lambda: min(needed - 1, 100))
    monkeypatch.setattr(type(bundle), "read_network", None)
    message = rf"loading {name} of tiny-latent needs at least 0\.0 GB of memory, 0\.0 GB are available"
    with pytest.raises(EngineError, match=message):
        load_component(bundle, name, "onnxruntime", 1)
    with pytest.raises(EngineError, match="needs at least"):
        Editor.open(bundle, engine="onnxruntime", threads=1)


def test_a_text_encoder_that_was_altered_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    folder = write_latent_bundle(tmp_path / "bundle")
    data = bytearray((folder / TEXT).read_bytes())
    data[-3] ^= 1
    (folder / TEXT).write_bytes(data)
    with pytest.raises(BundleError, match=r"text\.onnx does not have the hash"):
        read_bundle(folder)


def test_a_table_of_tokens_has_a_row_for_each(bundle: Bundle, tmp_path: Path) -> None:
    folder = write_latent_bundle(tmp_path / "bundle")
    fields = json.loads((folder / MANIFEST).read_text())
    fields["text"]["encoders"][0]["tokens"] += 1
    write_manifest(folder, fields)
    with pytest.raises(BundleError, match=r"text\.onnx: the network has a table of \d+ tokens_0s, and is given"):
        read_bundle(folder)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("vocab.json", b'{"a": -1}', "vocab.json does not map tokens to 0"),
        ("vocab.json", b"[", "tokenizer/0 is no tokenizer"),
        ("vocab.json", b'{"a": 1}', "lacks the marks"),
        ("merges.txt", b"a b c\n", "a line that is no pair"),
        ("merges.txt", b"zz yy\n", "merges do not fit its vocabulary"),
        ("merges.txt", b"\xff\n", "is no tokenizer"),
    ],
)
def test_a_damaged_tokenizer(bundle: Bundle, tmp_path: Path, name: str, data: bytes, message: str) -> None:
    folder = write_latent_bundle(tmp_path / "bundle")
    rewrite(folder, f"tokenizer/0/{name}", data)
    with Editor.open(folder, engine="onnxruntime", threads=1) as editor, pytest.raises(BundleError) as caught:
        editor.edit(picture(), prompt=PROMPT)
    assert message in str(caught.value)
