"""The native API: the same bytes as the Editor's, streams, sessions, jobs, and clients that go away."""

import base64
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jsonschema
import numpy as np
import pytest
import requests
from PIL import Image
from serving import COAST, LAKE, LAKE_MASK, WAIT, Gate, Served, fade, raw_edit, read_events, serving, slowly, wait_for
from stubs import stub_editor

from sdedit.runtime import Editor
from sdedit.runtime.settings import OPTIONS, Settings
from sdedit.serve.limits import Limits

JSON, STREAM = "application/json", "text/event-stream"


@pytest.fixture(scope="module")
def editor() -> Iterator[Editor]:
    with stub_editor(fade) as editor:
        yield editor


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving(
        {"earth": stub_editor(fade, slots=2), "other": stub_editor(lambda x, t: -x), "slow": stub_editor(slowly)}
    ) as served:
        yield served


def png(text: str) -> bytes:
    return base64.b64decode(text)


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.mark.parametrize(
    ("files", "options"),
    [
        ({"guide": COAST}, {"t0": 0.5, "steps": 8, "seed": 3}),
        ({"guide": COAST}, {"t0": 0.3, "steps": 4, "sampler": "ddim", "eta": 0.5, "size": "96x160", "clip": "inf"}),
        ({"guide": LAKE, "mask": LAKE_MASK}, {"steps": 4, "keep": "fixed", "repeats": 2, "feather": 0}),
        ({"guide": LAKE, "base": COAST}, {"steps": 3, "context": 0.5}),
    ],
)
def test_a_png_is_the_file_that_the_editor_writes(
    files: dict[str, bytes], options: dict[str, Any], served: Served, editor: Editor
) -> None:
    answer = served.edit(**files, **options)
    if "base" in files and answer.status_code == 422:
        assert "base" in answer.json()["error"]["message"]  # of another size
        return
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    given = {name: float("inf") if value == "inf" else value for name, value in options.items()}
    result = editor.edit(files["guide"], files.get("mask"), base=files.get("base"), **given)
    assert answer.content == result.images[0].to_bytes()
    assert "loop;dur=" in answer.headers["server-timing"]


def test_json_has_every_image_and_recipe(served: Served, editor: Editor) -> None:
    answer = served.edit(accept=JSON, guide=COAST, steps=3, images=3, seed="random", sampler="").json()
    seed = answer["images"][0]["recipe"]["seed"]
    expected = editor.edit(COAST, steps=3, images=3, seed=seed)
    assert [png(image["b64_json"]) for image in answer["images"]] == [image.to_bytes() for image in expected.images]
    assert [image["recipe"] for image in answer["images"]] == [dict(image.recipe) for image in expected.images]
    assert answer["timings"]["evaluations"] == 9


def test_a_stream_ends_with_the_images(served: Served, editor: Editor) -> None:
    events = list(
        read_events(served.edit(accept=STREAM, guide=COAST, steps=9, images=2, preview_every=2, model="slow"))
    )
    kinds = [name for name, _ in events]
    assert set(kinds[:-2]) == {"image_edit.progress", "image_edit.partial_image"}
    assert kinds[-2:] == ["image_edit.completed"] * 2
    assert all(data["type"] == name for name, data in events)
    steps = [data["step"] for _, data in events[:-2]]
    assert steps == sorted(set(steps))
    previews = [data for name, data in events if name.endswith("partial_image")]
    assert [data["partial_image_index"] for data in previews] == list(range(len(previews)))
    assert all(pixels(png(data["b64_json"])).shape == (64, 64, 3) for data in previews)
    expected = editor.edit(COAST, steps=9, images=2)
    assert [png(data["b64_json"]) for _, data in events[-2:]] == [image.to_bytes() for image in expected.images]


def test_a_stream_without_previews_has_none(served: Served) -> None:
    events = list(read_events(served.edit(accept=STREAM, guide=COAST, steps=5, preview_every=0, model="slow")))
    assert events[0][0] == "image_edit.progress"
    assert not [name for name, _ in events if name.endswith("partial_image")]
    assert events[-1][0] == "image_edit.completed"


def test_the_model_is_chosen_by_name(served: Served) -> None:
    models = served.get("/v1/models").json()
    assert [model["id"] for model in models["data"]] == ["earth", "other", "slow"]
    about = models["data"][0]["sdedit"]
    assert (about["native"], about["multiple_of"], about["free"]) == ({"height": 64, "width": 64}, 8, True)
    assert about["defaults"] == {name: getattr(Settings, name) for name in OPTIONS}
    first, earth, other = (served.edit(guide=COAST, steps=2, model=model).content for model in ("", "earth", "other"))
    assert first == earth != other


@pytest.mark.parametrize(
    ("fields", "status", "message"),
    [
        ({}, 400, "the file guide is missing"),
        ({"guide": "/etc/passwd"}, 422, "guide is sent as a text"),
        ({"guide": COAST, "strength": 1}, 422, "field 'strength' is not one of t0"),
        ({"guide": COAST, "photo": COAST}, 422, "file 'photo' is not one of guide, mask, base"),
        ({"guide": COAST, "t0": "nan"}, 422, "t0 nan is not in (0, 1]"),
        ({"guide": COAST, "steps": "10^9"}, 422, "steps '10^9' is not an integer"),
        ({"guide": COAST, "steps": 4096}, 422, "4096 network evaluations: this server makes at most 1000"),
        ({"guide": COAST, "images": 17, "accept": JSON}, 422, "images 17: this server makes at most 16 at once"),
        ({"guide": COAST, "steps": 25, "size": 512, "tile": 64}, 422, "1600 network evaluations of the native"),
        ({"guide": COAST, "max_pixels": 1 << 30}, 422, "this server edits at most 65536 at once"),
        ({"guide": COAST, "size": 512, "steps": 1}, 422, "tile edits it piece by piece"),
        ({"guide": COAST, "sampler": "heun"}, 422, "sampler 'heun' is not one of ancestral"),
        ({"guide": COAST, "label": 3}, 422, "label 3: earth64 takes none"),
        ({"guide": COAST, "preview_every": -1}, 422, "preview_every '-1' is not an integer of at least 0"),
        ({"guide": COAST, "model": "earth65"}, 404, "model 'earth65' is not one of earth, other, slow"),
        ({"guide": COAST, "session": "s" * 201}, 422, "is longer than 200 characters"),
        ({"guide": b"no image"}, 422, "guide is not an image of format PNG"),
        ({"guide": COAST[:400]}, 422, "guide is damaged"),
        ({"guide": LAKE, "mask": COAST}, 422, "they must be equal"),
        ({"guide": COAST, "images": 2}, 406, "2 images do not fit into one PNG"),
    ],
)
def test_a_mistake_is_a_status_and_one_line(fields: dict[str, Any], status: int, message: str, served: Served) -> None:
    answer = served.edit(**fields)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")
    error = answer.json()["error"]
    assert message in error["message"]
    assert "\n" not in error["message"]
    assert set(error) == {"message", "type", "param", "code"}


def test_an_answer_of_another_kind_is_refused(served: Served) -> None:
    assert served.edit(accept="text/html", guide=COAST, steps=1).status_code == 406
    assert served.edit(accept="text/html, */*;q=0.8", guide=COAST, steps=1).status_code == 200
    assert served.get("/v1/edits").status_code == 405
    assert served.get("/v1/nothing").status_code == 404


def test_an_engine_that_fails_is_a_server_error() -> None:
    with serving({"bad": stub_editor(lambda x, t: x * np.nan)}) as served:
        assert served.edit(guide=COAST, steps=2).status_code == 500
        events = list(read_events(served.edit(accept=STREAM, guide=COAST, steps=2)))
        assert events[-1][0] == "error"
        assert events[-1][1]["status"] == 500
        assert "not finite" in events[-1][1]["error"]["message"]


@pytest.mark.parametrize("accept", [STREAM, "image/png"])
def test_a_client_that_goes_cancels_its_edit(accept: str) -> None:
    gate = Gate()
    with serving({"earth": stub_editor(gate)}) as served:
        client = raw_edit(served.port, accept, guide=COAST, steps=400, t0=0.9)
        gate.permits.release(2)
        wait_for(lambda: gate.calls == 3)
        client.close()
        served.until("sdedit_edits_in_flight", 0)
        gate.open()
        assert served.edit(guide=COAST, steps=1).status_code == 200
        assert gate.calls <= 3 + 2 + 1  # two steps of the cancelled edit at most, and one of the next
        assert served.metric('sdedit_edits_total{outcome="cancelled"}') == 1


def test_a_newer_edit_of_a_session_cancels_the_older_one() -> None:
    gate = Gate()
    with serving({"earth": stub_editor(gate)}) as served, ThreadPoolExecutor(3) as pool:
        first = pool.submit(served.edit, guide=COAST, steps=400, t0=0.9, session="a")
        other = pool.submit(served.edit, guide=COAST, steps=2, session="b")
        wait_for(lambda: gate.calls == 1)
        served.until("sdedit_edits_in_flight", 2)
        second = pool.submit(served.edit, guide=COAST, steps=2, session="a")
        answer = first.result(WAIT)
        assert (answer.status_code, answer.json()["error"]["type"]) == (409, "superseded")
        gate.open()
        assert [edit.result(WAIT).status_code for edit in (second, other)] == [200, 200]


def test_an_edit_that_would_wait_too_long_is_refused() -> None:
    gate = Gate()
    with serving({"earth": stub_editor(gate)}, Limits(wait_seconds=10), seconds=1.0) as served:
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(served.edit, guide=COAST, steps=25)
            served.until("sdedit_edits_in_flight", 1)
            refused = served.edit(guide=COAST, steps=1)
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "15")
            assert served.get("/readyz").status_code == 503
            assert served.get("/healthz").text == "ok\n"
            gate.open()
            assert first.result(WAIT).status_code == 200
        assert served.get("/readyz").text == "ready\n"
        assert served.metric('sdedit_edits_total{outcome="refused"}') == 1


def test_a_job_is_looked_at_and_its_images_fetched(served: Served, editor: Editor) -> None:
    answer = served.edit(path="/v1/jobs", guide=COAST, steps=4, images=2)
    assert answer.status_code == 202
    place = answer.headers["location"]
    assert place == f"/v1/jobs/{answer.json()['id']}"
    wait_for(lambda: served.get(place).json()["status"] == "done")
    job = served.get(place).json()
    assert (job["step"], job["steps"], job["timings"]["evaluations"]) == (8, 8, 8)
    expected = editor.edit(COAST, steps=4, images=2)
    assert [served.get(image["url"]).content for image in job["images"]] == [i.to_bytes() for i in expected.images]
    assert served.get(f"{place}/images/2").status_code == 404
    assert requests_delete(served, place).json()["status"] == "done"
    assert served.get(place).status_code == 404


def requests_delete(served: Served, place: str) -> requests.Response:
    return requests.delete(served.url + place, timeout=WAIT)


def test_a_job_is_cancelled() -> None:
    gate = Gate()
    with serving({"earth": stub_editor(gate)}) as served:
        job = served.edit(path="/v1/jobs", guide=COAST, steps=9).json()
        place = f"/v1/jobs/{job['id']}"
        assert (job["status"], job["step"], job["steps"]) == ("running", 0, 9)
        assert served.get(f"{place}/images/0").status_code == 409
        assert requests_delete(served, place).json()["status"] == "cancelled"
        assert served.get(place).json()["error"]["type"] == "cancelled"
        gate.open()


def test_a_mistake_in_a_job_is_found_at_once(served: Served) -> None:
    assert served.edit(path="/v1/jobs", guide=b"no image").status_code == 422


@pytest.mark.parametrize("limits", [Limits(kept_jobs=1), Limits(kept_bytes=20_000), Limits(kept_seconds=0)])
def test_results_are_kept_within_limits(limits: Limits) -> None:
    with serving({"earth": stub_editor(fade)}, limits) as served:
        places = []
        for seed in range(2):
            place = served.edit(path="/v1/jobs", guide=COAST, steps=1, seed=seed).headers["location"]
            wait_for(lambda place=place: served.get(place).json().get("status") != "running")
            places.append(place)
        assert served.get(places[0]).status_code == 404
        assert served.get(places[1]).status_code == (404 if limits.kept_seconds == 0 else 200)


def test_the_description_has_every_option(served: Served) -> None:
    document = served.get("/openapi.json").json()
    form = document["components"]["schemas"]["EditForm"]
    jsonschema.Draft202012Validator.check_schema(form)
    assert set(OPTIONS) < set(form["properties"])
    jsonschema.validate({"guide": "", "t0": 0.5, "steps": 3, "session": "a"}, form)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"guide": "", "t0": 2}, form)
    described = {(path, method.upper()) for path, methods in document["paths"].items() for method in methods}
    assert {("/v1/edits", "POST"), ("/v1/jobs/{job}", "DELETE"), ("/v1/models", "GET")} <= described


def test_many_edits_at_once_are_not_mixed_up(served: Served, editor: Editor) -> None:
    """From 8 clients, of all kinds of answers."""
    expected = {seed: editor.edit(COAST, steps=3, seed=seed).images[0].to_bytes() for seed in range(4)}

    def one(number: int) -> tuple[int, bytes]:
        seed, accept = number % 4, ("image/png", JSON, STREAM)[number % 3]
        answer = served.edit(accept=accept, guide=COAST, steps=3, seed=seed)
        if accept == JSON:
            return seed, png(answer.json()["images"][0]["b64_json"])
        if accept == STREAM:
            return seed, png(list(read_events(answer))[-1][1]["b64_json"])
        return seed, answer.content

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(one, range(24)))
    assert all(data == expected[seed] for seed, data in results)
