"""The doors, tried with the clients that others wrote: `openai` and `webuiapi`, as they are on PyPI."""

import base64
import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import requests
from PIL import Image
from serving import COAST, WAIT, Gate, Served, fade, serving, slowly, wait_for
from stubs import stub_editor

from sdedit.runtime import Editor

openai = pytest.importorskip("openai", reason="openai is not installed: pip install '.[test]'")
webuiapi = pytest.importorskip("webuiapi", reason="webuiapi is not installed: pip install '.[test]'")


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving({"earth64": stub_editor(fade), "slow": stub_editor(slowly)}, key="secret") as served:
        yield served


@pytest.fixture(scope="module")
def editor() -> Iterator[Editor]:
    with stub_editor(fade) as editor:
        yield editor


@pytest.fixture(scope="module")
def client(served: Served) -> Any:
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key="secret", max_retries=0, timeout=WAIT)


@pytest.fixture(scope="module")
def webui(served: Served) -> Any:
    return webuiapi.WebUIApi(host="127.0.0.1", port=served.port, username="user", password="secret")


def picture(text: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB"))


def encoded(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


PHOTO = Image.open(io.BytesIO(COAST)).convert("RGB")
BOX = (100, 120, 300, 260)
"""The part of the photo that masks leave free."""


def masks() -> tuple[Image.Image, np.ndarray]:
    """White in BOX, black elsewhere; and the same as bool."""
    mask = Image.new("L", PHOTO.size)
    mask.paste(255, BOX)
    return mask, np.asarray(mask) > 0


def erased() -> Image.Image:
    """The photo, transparent in BOX."""
    image = PHOTO.convert("RGBA")
    image.putalpha(Image.fromarray(np.where(masks()[1], 0, 255).astype(np.uint8)))
    return image


def assert_only_inside(result: np.ndarray, inside: np.ndarray) -> None:
    """Every pixel outside is as it was, and nearly every pixel inside is not."""
    changed = (result != np.asarray(PHOTO)).any(axis=2)
    assert not changed[~inside].any()
    assert changed[inside].mean() > 0.9


def test_openai_lists_the_models(client: Any) -> None:
    assert [model.id for model in client.models.list().data] == ["earth64", "slow"]


def test_openai_edits_where_the_mask_is_transparent(client: Any, editor: Editor) -> None:
    alpha = encoded(erased())
    options = {"t0": 0.6, "steps": 3, "seed": 3}
    answer = client.images.edit(image=COAST, mask=alpha, prompt="", model="earth64", n=2, extra_body=options)
    expected = editor.edit(COAST, alpha, mask_from="alpha", images=2, **options)
    assert [base64.b64decode(image.b64_json) for image in answer.data] == [i.to_bytes() for i in expected.images]
    assert_only_inside(picture(answer.data[0].b64_json), masks()[1])
    assert answer.warnings == []


def test_openai_edits_where_the_image_is_transparent(client: Any) -> None:
    answer = client.images.edit(image=("a.png", encoded(erased())), prompt="", model="earth64", extra_body={"steps": 2})
    assert_only_inside(picture(answer.data[0].b64_json), masks()[1])


def test_openai_sizes_are_width_by_height(client: Any) -> None:
    wide = client.images.edit(image=COAST, prompt="", size="128x64", extra_body={"steps": 2})
    assert picture(wide.data[0].b64_json).shape == (64, 128, 3)
    assert (wide.size, wide.output_format) == ("128x64", "png")
    with pytest.raises(openai.UnprocessableEntityError, match="earth64 takes auto, 64x64, or multiples of 8"):
        client.images.edit(image=COAST, prompt="", size="1024x1024")


def test_openai_is_told_what_is_not_used(client: Any) -> None:
    options = {"quality": "high", "output_format": "webp", "extra_body": {"steps": 1}}
    answer = client.images.edit(image=COAST, prompt="a coast", **options)
    assert sorted(answer.warnings) == [
        "output_format is not used",
        "prompt is not used: earth64 takes no text",
        "quality is not used",
    ]


@pytest.mark.parametrize(("wanted", "most"), [(None, 0), (2, 2), (100, 3)])
def test_openai_streams_partial_images(wanted: int | None, most: int, client: Any, editor: Editor) -> None:
    partial = {} if wanted is None else {"partial_images": wanted}
    stream = client.images.edit(
        image=COAST, prompt="", model="slow", stream=True, extra_body={"steps": 12, "seed": 1}, **partial
    )
    events = list(stream)
    kinds = [event.type for event in events]
    assert kinds[-1] == "image_edit.completed"
    assert kinds[:-1] == ["image_edit.partial_image"] * (len(events) - 1)
    assert (most > 0) <= len(events) - 1 <= most
    assert [event.partial_image_index for event in events[:-1]] == list(range(len(events) - 1))
    expected = editor.edit(COAST, steps=12, seed=1).images[0].to_bytes()
    assert base64.b64decode(events[-1].b64_json) == expected


def test_openai_reads_the_errors(client: Any, served: Served) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match="network evaluations"):
        client.images.edit(image=COAST, prompt="", extra_body={"steps": 4000})
    with pytest.raises(openai.NotFoundError, match="is not one of earth64"):
        client.images.edit(image=COAST, prompt="", model="gpt-image-1")
    with pytest.raises(openai.BadRequestError, match="image is missing"):
        client.post("/images/edits", body={"prompt": "a"}, cast_to=object)
    wrong = openai.OpenAI(base_url=f"{served.url}/v1", api_key="wrong", max_retries=0, timeout=WAIT)
    with pytest.raises(openai.AuthenticationError, match="key is missing or wrong"):
        wrong.models.list()


@pytest.mark.parametrize("invert", [0, 1])
def test_a1111_edits_where_the_mask_is_white(invert: int, webui: Any) -> None:
    mask, inside = masks()
    options = {"steps": 2, "seed": 5, "mask_blur": 0, "denoising_strength": 0.6}
    result = webui.img2img(images=[PHOTO], mask_image=mask, inpainting_mask_invert=invert, **options)
    assert_only_inside(np.asarray(result.images[0].convert("RGB")), ~inside if invert else inside)


def test_a1111_makes_the_editors_image(webui: Any, editor: Editor) -> None:
    options = {"steps": 4, "seed": 5, "denoising_strength": 0.5, "width": 64, "height": 64}
    result = webui.img2img(images=[PHOTO], sampler_name="euler A", batch_size=2, n_iter=2, **options)
    expected = editor.edit(PHOTO, t0=0.5, steps=4, seed=5, sampler="ancestral", images=4, fit="stretch", size="native")
    assert [np.asarray(image).tobytes() for image in result.images] == [i.pil.tobytes() for i in expected.images]
    assert (result.info["all_seeds"], result.info["sampler_name"]) == ([5] * 4, "Euler a")
    assert result.info["warnings"] == []
    assert "init_images" not in result.parameters
    assert json.loads(result.info["infotexts"][3])["image"] == 3


def test_a1111_is_told_what_is_done_otherwise(webui: Any) -> None:
    options = {"negative_prompt": "fog", "steps": 900, "denoising_strength": 0, "seed": -1}
    result = webui.img2img(images=[PHOTO], prompt="a coast", sampler_name="Heun", **options)
    assert sorted(result.info["warnings"]) == [
        "denoising_strength 0 is below the model's first level: 0.001 is used",
        "earth64 does not make 512x512 pixels: 64x64 is used",
        "negative_prompt is not used",
        "prompt is not used: earth64 takes no text",
        "sampler 'Heun' is not known: DPM++ 2M is used",
        "steps 900: 1 is the most from denoising_strength 0.001",
    ]
    assert 0 <= result.info["seed"] < 2**32
    assert result.images[0].size == (64, 64)


def test_a1111_answers_what_clients_ask(webui: Any) -> None:
    assert webui.util_get_sampler_names() == ["DDIM", "DPM++ 2M", "DPM++ 2M SDE", "Euler", "Euler a", "LCM"]
    assert [name.partition(" [")[0] for name in webui.util_get_model_names()] == ["earth64", "slow"]
    assert webui.util_get_current_model().startswith("earth64 [")
    webui.util_set_model("slow")
    assert webui.util_get_current_model().startswith("slow [")
    webui.util_set_model("earth64")
    assert webui.get_progress()["progress"] == 0
    assert webui.interrupt() == {}


def test_a1111_shows_progress_and_interrupts() -> None:
    gate = Gate()
    with serving({"earth": stub_editor(gate)}) as served, ThreadPoolExecutor(1) as pool:
        webui = webuiapi.WebUIApi(host="127.0.0.1", port=served.port)
        waiting = pool.submit(webui.img2img, images=[PHOTO], steps=20)
        wait_for(lambda: webui.get_progress()["state"]["sampling_steps"] == 20)
        gate.permits.release(7)
        wait_for(lambda: webui.get_progress()["state"]["sampling_step"] == 7)
        wait_for(lambda: webui.get_progress()["current_image"])
        progress = webui.get_progress()
        assert (progress["progress"], progress["state"]["job_count"]) == (7 / 20, 1)
        assert picture(progress["current_image"]).shape == (64, 64, 3)
        webui.interrupt()
        gate.open()
        with pytest.raises(RuntimeError, match="interrupted"):
            waiting.result(WAIT)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 404),
        ({"init_images": []}, 404),
        ({"init_images": ["%"]}, 422),
        ({"init_images": [3]}, 422),
        ({"init_images": ["/etc/passwd"]}, 422),
        ({"init_images": ["GOOD"], "steps": "many"}, 422),
        ({"init_images": ["GOOD"], "steps": 0}, 422),
        ({"init_images": ["GOOD"], "denoising_strength": float("nan")}, 422),
        ({"init_images": ["GOOD"], "denoising_strength": 10**400}, 422),
        ({"init_images": ["GOOD"], "seed": 10**30}, 422),
        ({"init_images": ["GOOD"], "sampler_name": ["a"]}, 422),
        ({"init_images": ["GOOD"], "batch_size": 99}, 422),
        ({"init_images": ["GOOD"], "override_settings": {"sd_model_checkpoint": "v1-5"}}, 404),
        ([], 400),
        ("text", 400),
    ],
)
def test_a1111_mistakes_are_one_line(body: Any, status: int, served: Served) -> None:
    text = json.dumps(body).replace("GOOD", base64.b64encode(COAST).decode())
    answer = requests.post(f"{served.url}/sdapi/v1/img2img", text, headers={"x-api-key": "secret"}, timeout=WAIT)
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error", "detail", "body", "errors"}
    assert "\n" not in answer.json()["detail"]
