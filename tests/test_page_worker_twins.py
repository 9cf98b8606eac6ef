"""Plans, boxes of photos, pictures and PNGs that the page's worker makes in JavaScript: as the Editor has them."""

import base64
import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny import FIELDS, write_free_bundle

from sdedit.errors import ImageError, PlanError
from sdedit.kernels.layout import ROW
from sdedit.runtime.bundle import ImageSpec, read_bundle
from sdedit.runtime.checks.parity import parity_inputs
from sdedit.runtime.codec import to_image, to_state
from sdedit.runtime.editor.placing import place
from sdedit.runtime.images import paste
from sdedit.runtime.plan import KEEPS, SAMPLERS
from sdedit.runtime.schedule import PREDICTIONS, Schedule
from sdedit.runtime.settings import OPTIONS, Settings
from sdedit.serve.described import describe_image, samplers
from sdedit.serve.static_page import SAMPLES, make_selftest
from sdedit_ref.sde import cosine

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "serve" / "page"
DEFAULTS = {name: getattr(Settings, name) for name in OPTIONS}
NO_LABELS = {"id": "tiny", "classes": 0, "null_label": None, "defaults": DEFAULTS}
Json = dict[str, Any]


def in_node(folder: Path, cases: list[Json]) -> list[Json]:
    """The results of all cases."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no node")
    shutil.copytree(PAGE, folder / "page")
    (folder / "page" / "package.json").write_text('{"type": "module"}', encoding="utf-8")
    command = [node, str(TESTS / "run_worker_twins.mjs"), str(folder / "page")]
    done = subprocess.run(
        command, input=json.dumps(cases, allow_nan=False).encode(), capture_output=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr.decode()
    found: list[Json] = json.loads(done.stdout)
    return found


def base64_of(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode()


def picture_of(array: np.ndarray) -> Json:
    height, width = array.shape[:2]
    channels = 1 if array.ndim == 2 else array.shape[2]
    return {"width": width, "height": height, "channels": channels, "data": base64_of(array)}


def array_of(shown: Json, dtype: str = "u1") -> np.ndarray:
    """An array that the script shows, [H, W] or [H, W, C]."""
    array = np.frombuffer(base64.b64decode(shown["data"]), dtype)
    return array.reshape(shown["height"], shown["width"], -1)


def schedules() -> list[Schedule]:
    """One of each kind: VP, VE and flow."""
    k = np.arange(1, 101)
    sigmas = 0.01 * (348 / 0.01) ** (k / 100)
    flow = np.stack([1 - k / 101, k / 101, k / 101], axis=1)
    exploding = np.stack([np.ones(100), sigmas, np.log(sigmas)], axis=1)
    return [Schedule(cosine(1000)), Schedule(exploding), Schedule(flow)]


def drawn_options(rng: np.random.Generator) -> Json:
    sampler = str(rng.choice(list(SAMPLERS)))
    return {
        "t0": float(rng.choice([rng.uniform(0.01, 1), round(float(rng.uniform(0.05, 1)), 2)])),
        "steps": int(rng.integers(1, 40)),
        "sampler": sampler,
        "eta": float(rng.uniform(0, 1)) if sampler == "ddim" and rng.random() < 0.5 else None,
        "keep": str(rng.choice(KEEPS)),
        "repeats": int(rng.integers(1, 3)),
        "seed": str(rng.integers(0, 2**64, dtype=np.uint64)),
        "clip": 1.0 if rng.random() < 0.5 else "inf",
    }


def as_settings(options: Json) -> Settings:
    given = {**options, "clip": float(options.get("clip", 1.0)), "seed": int(options.get("seed", 0))}
    return Settings(**given)


def test_plans_have_pythons_bits(tmp_path: Path) -> None:
    """The logarithm may differ in the last bit of a float64, which reaches a float32 once in some 10^8 coefficients."""
    rng = np.random.default_rng(0)
    tables = schedules()
    cases: list[Json] = []
    for number in range(600):
        table = tables[number % 3].table
        prediction = PREDICTIONS[number % 4]
        options = drawn_options(rng)
        cases.append(
            {
                "kind": "plan",
                "table": base64_of(table),
                "prediction": prediction,
                "samplers": samplers(),
                "model": NO_LABELS,
                "options": options,
            }
        )
    made = 0
    for case, found in zip(cases, in_node(tmp_path, cases), strict=True):
        settings = as_settings(case["options"])
        schedule = Schedule(np.frombuffer(base64.b64decode(case["table"])).reshape(-1, 3))
        if "error" in found:
            with pytest.raises(PlanError, match=re.escape(found["error"].split(",")[0].split(" is ")[0])):
                settings.plan(schedule, case["prediction"])
            continue
        plan = settings.plan(schedule, case["prediction"])
        made += 1
        assert [found["alpha0"], found["sigma0"], found["keepsExactly"]] == [
            float(np.float32(plan.alpha0)),
            float(np.float32(plan.sigma0)),
            plan.keeps_exactly,
        ]
        rows = np.zeros(len(plan.rows), ROW)
        for row, texts in zip(rows, found["rows"], strict=True):
            for name, text in texts.items():
                row[name] = float(text.replace("Infinity", "inf"))
        assert rows.tobytes() == plan.rows.tobytes(), case["options"]
        recipe = settings.recipe()
        assert {**found["recipe"], "seed": int(found["recipe"]["seed"])} == recipe
    assert made > 400


def drawn_place(rng: np.random.Generator) -> Json:
    """A photo, a mask or none, and options, for a network of free sizes or of one."""
    width, height = (int(side) for side in rng.integers(5, 90, 2))
    free = bool(rng.random() < 0.8)
    channels = 3 if rng.random() < 0.8 else 1
    native = int(rng.choice([8, 16]))
    image = ImageSpec(channels, native, native, 4 if free else native, free, 2048 if free else native**2)
    shape = (height, width, 3) if channels == 3 else (height, width)
    guide = rng.integers(0, 256, shape).astype(np.uint8)
    mask = None
    if rng.random() < 0.7:
        mask = np.zeros((height, width), np.uint8)
        x, y = int(rng.integers(0, width)), int(rng.integers(0, height))
        reach = int(rng.integers(1, 40))
        mask[y : y + reach, x : x + reach] = rng.choice([255, 255, 180])
        mask[rng.integers(0, height), rng.integers(0, width)] = 255
    sizes = ["guide", "native", "16", "32", "24x16", "20"] if free else ["native"]
    options = {
        "size": None if rng.random() < 0.4 else str(rng.choice(sizes)),
        "fit": str(rng.choice(["crop", "stretch"])),
        "context": float(rng.choice([0, 0.25, 1.3])),
        "feather": int(rng.choice([0, 1, 4, 9])),
        "max_pixels": None if not free or rng.random() < 0.7 else int(rng.choice([256, 1024])),
    }
    return {"image": image, "guide": guide, "mask": mask, "options": options, "threshold": float(np.float32(0.04))}


def test_places_and_pastes_have_the_editors_bytes(tmp_path: Path) -> None:
    """The twins of canvas.py, masks.py and Pillow's Lanczos: boxes, reflections, feathers, all sizes."""
    rng = np.random.default_rng(1)
    drawn = [drawn_place(rng) for _ in range(300)]
    pictures = rng.integers(0, 256, 3 * 100 * 100).astype(np.uint8)
    cases = [
        {
            "kind": "place",
            "model": {**NO_LABELS, **describe_image(case["image"])},
            "guide": picture_of(case["guide"]),
            "mask": None if case["mask"] is None else picture_of(case["mask"]),
            "options": case["options"],
            "threshold": case["threshold"],
            "picture": base64_of(pictures),
        }
        for case in drawn
    ]
    made = 0
    for case, found in zip(drawn, in_node(tmp_path, cases), strict=True):
        settings = Settings(**case["options"])
        arguments = (case["guide"], case["mask"], None, settings, case["image"], case["threshold"])
        if "error" in found:
            with pytest.raises((PlanError, ImageError), match=re.escape(found["error"])):
                place(*arguments, lambda size: None)
            continue
        canvas, _ = place(*arguments, lambda size: None)
        made += 1
        part = np.atleast_3d(np.asarray(canvas.part))
        assert found["box"] == list(canvas.box), case["options"]
        assert np.array_equal(array_of(found["part"]), part), case["options"]
        assert np.array_equal(array_of(found["mask"], "<f4")[..., 0], canvas.mask), case["options"]
        edited = pictures[: part.size].reshape(np.asarray(canvas.part).shape)
        picture = Image.fromarray(edited)
        for exact, pasted in zip((True, False), found["pasted"], strict=True):
            wanted = np.atleast_3d(np.asarray(paste(canvas, picture, exact)))
            assert np.array_equal(array_of(pasted), wanted), case["options"]
    assert made > 200


@pytest.mark.parametrize("channels", [1, 3])
def test_states_and_pictures_have_the_codecs_bytes(tmp_path: Path, channels: int) -> None:
    """All 256 values in; halves, values beyond the range and a NaN out."""
    values = np.arange(256 * channels).astype(np.uint8).reshape(16, 16, channels)
    halves = (np.arange(-4, 252, dtype=np.float32) + np.float32(0.5)) / np.float32(127.5) - np.float32(1)
    state = np.concatenate([halves] * channels).reshape(channels, 16, 16).astype(np.float32)
    picture = Image.fromarray(values[:, :, 0] if channels == 1 else values)
    case = {"kind": "codec", "picture": picture_of(values), "state": base64_of(state), "width": 16, "height": 16}
    (found,) = in_node(tmp_path, [case])
    assert base64.b64decode(found["state"]) == to_state(picture).tobytes()
    assert np.array_equal(array_of(found["picture"]), np.atleast_3d(np.asarray(to_image(state))))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_png_keeps_pixels_and_recipe(tmp_path: Path, channels: int) -> None:
    values = np.random.default_rng(2).integers(0, 256, (5, 7, channels)).astype(np.uint8)
    text = json.dumps({"name": "Kü\u7530ste", "seed": 2**64 - 1}, ensure_ascii=False)
    (found,) = in_node(tmp_path, [{"kind": "png", "picture": picture_of(values), "recipe": text}])
    image = Image.open(io.BytesIO(base64.b64decode(found["png"])))
    image.load()
    assert np.array_equal(np.atleast_3d(np.asarray(image)), values)
    assert json.loads(image.info["sdedit"]) == json.loads(text)


@pytest.mark.parametrize("side", [8, 32])
def test_a_wrong_network_fails_the_selftest(tmp_path: Path, side: int) -> None:
    """The bundle's network halves; the twin has the input of the reference, and the runtime's tolerance of 1e-4."""
    bundle = read_bundle(write_free_bundle(tmp_path / "tiny", size=side))
    test, expected = make_selftest(bundle)
    assert len(expected) <= SAMPLES
    gains = (0.5, 0.5 * (1 + 9e-5), 0.5 * (1 + 1.2e-4), "NaN", -0.5)
    cases = [{"kind": "selftest", "test": test, "expected": base64_of(expected), "gain": gain} for gain in gains]
    *good, near, broken, opposite = in_node(tmp_path, cases)
    inputs = parity_inputs(bundle, test["image"], bundle.state_shape)
    for seen in good:
        assert base64.b64decode(seen["x"]) == inputs["x"].tobytes()
        assert (seen["shape"], np.float32(seen["time"]), seen["label"]) == ([1, 3, side, side], inputs["time"][0], None)
    line = "This browser computes the model's network wrongly: the error is {}, accepted is 0.0001. "
    for found, error in ((near, "0.00012"), (broken, "NaN"), (opposite, "2.0")):
        assert found["error"].startswith(line.format(error))


MISTAKES: list[tuple[Json, str]] = [
    ({"tile": 8}, "tile 8 needs sdedit serve: this page has only none"),
    ({"mask_from": "alpha"}, "mask_from alpha needs sdedit serve: this page has only brightness"),
    ({"fit": "pad"}, "fit pad is not one of crop, stretch, which this page has"),
    ({"steps": "2.5"}, "steps 2.5 is not an integer that an edit takes"),
    ({"t0": "0"}, "t0 0 is not a number that an edit takes"),
    ({"seed": str(2**64)}, f"seed {2**64} is not in 0..{2**64 - 1}"),
    ({"label": 3}, "label 3: tiny takes none"),
    ({"guidance": 2}, 'tiny has no "no class" label, so guidance must be 1 (it is 2)'),
    ({"sampler": "heun"}, f"sampler heun is not one of {', '.join(SAMPLERS)}"),
    ({"sampler": "euler", "eta": 0.5}, "eta 0.5 belongs to sampler ddim; euler has its own"),
    ({"repeats": 1000}, "steps x repeats = 25000 network evaluations exceed the 4096 that fit"),
]


def test_mistakes_are_told(tmp_path: Path) -> None:
    case = {"table": base64_of(cosine(20)), "prediction": FIELDS["prediction"], "samplers": samplers()}
    cases = [{"kind": "plan", **case, "model": NO_LABELS, "options": options} for options, _ in MISTAKES]
    assert [found["error"] for found in in_node(tmp_path, cases)] == [message for _, message in MISTAKES]
