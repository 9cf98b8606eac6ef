"""The page's noise and step in JavaScript: numpy's bits, for drawn arguments and states."""

import base64
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from states import copy_state, random_state, same_bits, step_state

from sdedit.kernels import twin
from sdedit.kernels.layout import KIND_BEGIN, KIND_STEP, ROW
from sdedit.kernels.noise import normal_numpy

TESTS = Path(__file__).parent
NUMPY = twin("numpy")
WORDS = [0, 1, 2**16 - 1, 2**16, 2**31 - 1, 2**31, 2**32 - 1]


def in_node(folder: Path, cases: list[dict[str, Any]]) -> np.ndarray:
    """The results of all cases, float32."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no node")
    for name in ("noise.js", "step.js"):
        shutil.copy(TESTS.parent / "serve" / "page" / name, folder)
    (folder / "package.json").write_text('{"type": "module"}', encoding="utf-8")
    command = [node, str(TESTS / "run_twins.mjs"), str(folder)]
    done = subprocess.run(command, input=json.dumps(cases).encode(), capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    return np.frombuffer(done.stdout, "<f4")


def base64_of(array: np.ndarray) -> str:
    return base64.b64encode(array.astype("<f4").tobytes()).decode()


def row_of(row: np.void) -> dict[str, str]:
    """A row's columns as texts, which have infinities: `repr` of a float that is exact gives it back."""
    return {name: str(row[name].item()).replace("inf", "Infinity") for name in ROW.names or ()}


def test_noise_has_numpys_bits(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    keys = [(seed, image, image >> 1, step, KIND_STEP) for seed in (0, 2**64 - 1) for image in WORDS for step in WORDS]
    for _ in range(100):
        image, step, repeat = (int(rng.integers(0, limit)) for limit in (2**32, 2**32, 2**31))
        keys.append((int(rng.integers(0, 2**64, dtype=np.uint64)), image, repeat, step, KIND_STEP))
        keys.append((keys[-1][0], image, repeat, 0, KIND_BEGIN))
    sizes = [int(size) for size in rng.integers(1, 3000, len(keys))]
    cases = [{"noise": [str(key[0]), *key[1:], size]} for key, size in zip(keys, sizes, strict=True)]
    wanted = np.concatenate([normal_numpy(*key, size) for key, size in zip(keys, sizes, strict=True)])
    assert in_node(tmp_path, cases).tobytes() == wanted.tobytes()


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("special", [0.0, 0.1])
def test_begin_and_step_have_numpys_bits(tmp_path: Path, special: float, guided: bool) -> None:
    """Two repeats, strength maps, all selects, guidance; with special also NaN, infinities, denormals, signed zeros."""
    cases, wanted = [], []
    for case in range(40):
        state = random_state(np.random.default_rng(case), (3, 7, 9), slots=1, special=special)
        state["counter"][:], state["row_count"][:] = 1, 2
        state["rows"][0, 1]["step"] = case % 2
        before = copy_state(state)
        NUMPY.begin(state)
        NUMPY.step(step_state(state, guided))
        wanted += [state[name].ravel() for name in ("x", "h", "guide")]
        slot = {name: base64_of(before[name][0]) for name in ("x", "h", "guide", "mask")}
        levels = {name: before[name][0].item() for name in ("alpha0", "sigma0", "image")}
        rows = {"row": row_of(before["rows"][0, 1]), "before": row_of(before["rows"][0, 0])}
        outputs = {"o": base64_of(before["o"]), "uncond": base64_of(before["o_uncond"]) if guided else None}
        cases.append({"slot": {**slot, **levels, "seed": str(before["seed"][0])}, **rows, **outputs})
    assert same_bits(in_node(tmp_path, cases), np.concatenate(wanted))
