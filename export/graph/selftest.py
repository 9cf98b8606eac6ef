"""selftest.json: edits with their results, which a host makes before it trusts its build of ONNX Runtime.

`kept` keeps every pixel at the level before its last step, so its state is the guide's noise alone: float32 arithmetic
in a fixed order, equal bit for bit on every sound host, whatever the network's rounding. `edited` is a whole edit: its
bytes are the Editor's where the network's evaluation gives the same bits, and nearly so elsewhere.
"""

import base64
import hashlib
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from PIL import Image

from sdedit.kernels.layout import KIND_STEP
from sdedit.kernels.noise import normal_numpy
from sdedit.runtime.bundle import Bundle
from sdedit.runtime.codec import to_image, to_state
from sdedit.runtime.engines import load_engine
from sdedit.runtime.plan import KEEPS, SAMPLERS, make_plan

from ..calibration import fewer_steps, open_editor
from .edit import scalars

SEED = 2**40 + 7
T0, STEPS = 0.5, 4
SAMPLER: Final = "ancestral"


def make_selftest(bundle: Bundle) -> dict[str, Any]:
    """The content of selftest.json; it needs onnxruntime."""
    channels, height, width = bundle.state_shape
    count = channels * height * width
    values = np.clip(128 + 50 * normal_numpy(1, 0, 0, 0, 0, count), 0, 255).astype(np.uint8)
    guide = values.reshape(height, width, channels)
    picture = Image.fromarray(guide[:, :, 0] if channels == 1 else guide)
    with open_editor(bundle, load_engine(bundle, "onnxruntime", "float32", 1)) as editor:
        steps = fewer_steps(editor, T0, STEPS)
        edit = editor.edit(picture, t0=T0, steps=steps, sampler=SAMPLER, seed=SEED)
    edited = np.asarray(edit.images[0].pil).reshape(guide.shape)
    state = kept_state(bundle, to_state(picture), steps)
    kept = np.asarray(to_image(state)).reshape(guide.shape)
    hashed = hashlib.sha256(state.tobytes()).hexdigest()
    return {
        "samplers": list(SAMPLERS),
        "keeps": list(KEEPS),
        "inputs": {
            name: {"dtype": dtype.__name__, "default": value} for name, (dtype, value) in scalars(bundle).items()
        },
        "shape": list(guide.shape),
        "guide": base64.b64encode(guide.tobytes()).decode(),
        "t0": T0,
        "steps": steps,
        "seed": str(SEED),
        "sampler": list(SAMPLERS).index(SAMPLER),
        "cases": {
            "kept": {"mask": 0, "keep": KEEPS.index("paper"), **expected(kept), "state_sha256": hashed},
            "edited": {"mask": 255, "keep": KEEPS.index("fresh"), **expected(edited)},
        },
    }


def kept_state(bundle: Bundle, guide: np.ndarray, steps: int) -> np.ndarray:
    """The state [C, H, W] after an edit of nothing with the keep rule `paper`."""
    plan = make_plan(bundle.schedule, bundle.prediction, t0=T0, steps=steps, sampler=SAMPLER, keep="paper")
    row = plan.rows[-1]
    z = normal_numpy(SEED, 0, 0, int(row["step"]), KIND_STEP, guide.size).reshape(guide.shape)
    return np.asarray(row["k_g"] * guide + row["k_z"] * z)


def expected(result: np.ndarray) -> dict[str, Any]:
    return {
        "result": base64.b64encode(result.tobytes()).decode(),
        "result_sha256": hashlib.sha256(result.tobytes()).hexdigest(),
    }


def inputs_of(test: dict[str, Any], case: str) -> dict[str, np.ndarray]:
    """The inputs of edit.onnx for a case of selftest.json."""
    shape, wanted = test["shape"], test["cases"][case]
    guide = np.frombuffer(base64.b64decode(test["guide"]), np.uint8).reshape(shape)
    settings = {**{name: test[name] for name in ("t0", "steps", "seed", "sampler")}, "keep": wanted["keep"]}
    return fill_inputs(test, guide, np.full(shape[:2], wanted["mask"], np.uint8), settings)


def fill_inputs(
    test: dict[str, Any], guide: np.ndarray, mask: np.ndarray, settings: Mapping[str, float | str]
) -> dict[str, np.ndarray]:
    """The inputs of edit.onnx: guide uint8 [H, W, C], mask uint8 [H, W], and scalars; defaults for those not given."""
    values = {name: settings.get(name, entry["default"]) for name, entry in test["inputs"].items()}
    found = {name: np.asarray(value).astype(test["inputs"][name]["dtype"]) for name, value in values.items()}
    return {"guide": guide, "mask": mask, **found}


def failures(test: dict[str, Any], case: str, result: np.ndarray, state: np.ndarray) -> list[str]:
    """The list of what differs from the case: [] where every byte is right."""
    wanted = test["cases"][case]
    found = []
    if hashlib.sha256(result.tobytes()).hexdigest() != wanted["result_sha256"]:
        found.append(f"{case}: other bytes")
    if "state_sha256" in wanted and hashlib.sha256(state.tobytes()).hexdigest() != wanted["state_sha256"]:
        found.append(f"{case}: other bits of the state")
    return found
