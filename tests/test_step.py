"""begin, step and advance: the numpy twin against the formula in float64, the C twin against numpy by bits."""

import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from states import ANY_SHAPES, copy_state, random_state, same_bits, step_arguments, step_state

from sdedit.errors import EngineError
from sdedit.kernels import _step, twin
from sdedit.kernels.layout import KIND_BEGIN, KIND_STEP, ROW, STEP_ARRAYS, allocate_state, busy_slots
from sdedit.kernels.noise import normal_numpy

ROOT = Path(__file__).parent.parent
NUMPY, C = twin("numpy"), twin("c")
TWINS = pytest.mark.parametrize("twin", [NUMPY, C], ids=lambda t: t.name)


def some_states(*special: float) -> st.SearchStrategy[dict[str, np.ndarray]]:
    return st.builds(
        lambda seed, shape, slots, part: random_state(np.random.default_rng(seed), shape, slots, special=part),
        st.integers(0, 2**32),
        ANY_SHAPES,
        st.integers(1, 4),
        st.sampled_from(special),
    )


states = some_states(0.0, 0.05)


def noise_of(state: dict[str, np.ndarray], b: int, kind: int) -> np.ndarray:
    row = state["rows"][b, state["counter"][b]]
    step = int(row["step"]) if kind == KIND_STEP else 0
    z = normal_numpy(int(state["seed"][b]), int(state["image"][b]), int(row["repeat"]), step, kind, state["x"][b].size)
    return z.reshape(state["x"][b].shape)


def step_in_float64(state: dict[str, np.ndarray], b: int, guided: bool) -> tuple[np.ndarray, ...]:
    """x' and h' as docs/design.md writes them, and the summed sizes of the terms of each."""
    x, h, g, o, u = (state[name][b].astype(np.float64) for name in ("x", "h", "guide", "o", "o_uncond"))
    m = state["mask"][b]
    row = {name: float(state["rows"][b, state["counter"][b]][name]) for name in ROW.names or ()}
    z = noise_of(state, b, KIND_STEP).astype(np.float64)
    z_keep = noise_of(state, b, KIND_BEGIN).astype(np.float64) if row["keep_noise"] else z
    size_o = np.abs(o)
    if guided:
        size_o = np.abs(u) + abs(row["guidance"]) * (np.abs(o) + np.abs(u))
        o = u + row["guidance"] * (o - u)
    size_h = np.abs(row["a_x"] * x) + abs(row["a_o"]) * size_o
    x0 = np.clip(row["a_x"] * x + row["a_o"] * o, -row["clip"], row["clip"])
    last = np.where(m >= row["h_threshold"], h, x0)
    edit = row["c_x"] * x + row["c_0"] * x0 + row["c_h"] * last + row["c_z"] * z
    keep = row["k_g"] * g + row["k_z"] * z_keep
    size_x = np.abs(row["c_x"] * x) + abs(row["c_0"]) * size_h + abs(row["c_h"]) * (np.abs(h) + size_h)
    size_x += np.abs(row["c_z"] * z) + np.abs(row["k_g"] * g) + np.abs(row["k_z"] * z_keep)
    return np.where(m >= row["threshold"], edit, keep), x0, size_x, size_h


@given(some_states(0.0), st.booleans())
def test_numpy_is_the_formula(state: dict[str, np.ndarray], guided: bool) -> None:
    """Every value passes at most 12 float32 operations, each of which rounds by at most 2^-24 of its terms' size."""
    before = copy_state(state)
    NUMPY.step(step_state(state, guided))
    for b in busy_slots(before["counter"], before["row_count"]):
        x, h, size_x, size_h = step_in_float64(before, b, guided)
        assert (np.abs(state["x"][b] - x) <= 12 * 2.0**-24 * size_x).all()
        assert (np.abs(state["h"][b] - h) <= 12 * 2.0**-24 * size_h).all()


@given(states, st.booleans())
def test_step_in_c_gives_the_bits_of_numpy(state: dict[str, np.ndarray], guided: bool) -> None:
    ours, theirs = copy_state(state), copy_state(state)
    NUMPY.step(step_state(ours, guided))
    C.step(step_state(theirs, guided))
    for name in ("x", "h"):
        assert same_bits(ours[name], theirs[name])
    for name in ("guide", "mask", "o", "o_uncond"):
        assert same_bits(state[name], theirs[name])


@given(states)
def test_begin_in_c_gives_the_bits_of_numpy(state: dict[str, np.ndarray]) -> None:
    ours, theirs = copy_state(state), copy_state(state)
    NUMPY.begin(ours)
    C.begin(theirs)
    for name in ("x", "guide"):
        assert same_bits(ours[name], theirs[name])


@TWINS
@given(states, st.booleans())
def test_idle_slots_are_not_touched(twin: object, state: dict[str, np.ndarray], guided: bool) -> None:
    before = copy_state(state)
    twin.begin(state)  # type: ignore[attr-defined]
    twin.step(step_state(state, guided))  # type: ignore[attr-defined]
    idle = [b for b in range(len(state["x"])) if b not in busy_slots(state["counter"], state["row_count"])]
    for name in ("x", "h", "guide"):
        assert same_bits(before[name][idle], state[name][idle])


@TWINS
@given(states, st.booleans(), st.randoms(use_true_random=False))
def test_a_slot_does_not_depend_on_its_place_and_neighbours(
    twin: object, state: dict[str, np.ndarray], guided: bool, random: object
) -> None:
    order = list(range(len(state["x"])))
    random.shuffle(order)  # type: ignore[attr-defined]
    moved = {name: np.ascontiguousarray(array[order]) for name, array in state.items()}
    twin.step(step_state(state, guided))  # type: ignore[attr-defined]
    twin.step(step_state(moved, guided))  # type: ignore[attr-defined]
    for name in ("x", "h"):
        assert same_bits(state[name][order], moved[name])


def one_slot(shape: tuple[int, int, int] = (1, 2, 4), **row: float) -> dict[str, np.ndarray]:
    """One busy slot of zeros with mask 1; its row has only the given coefficients."""
    state = allocate_state(1, 2, shape)
    state["row_count"][:] = 1
    state["mask"][:] = 1
    for name, value in {"clip": np.inf, "threshold": 1.0, "h_threshold": np.inf, **row}.items():
        state["rows"][0, 0][name] = value
    return state


@TWINS
def test_boundaries_of_mask_and_clip_are_inclusive(twin: object) -> None:
    state = one_slot(c_0=1, a_x=1, k_g=1, clip=0.5, threshold=0.5)
    state["x"][0, 0, 0] = [-0.5, 0.5, -0.75, 0.75]
    state["guide"][:] = 7
    state["mask"][0, 1] = [0.5, np.nextafter(np.float32(0.5), np.float32(0)), 0, 1]
    twin.step(step_state(state, False))  # type: ignore[attr-defined]
    assert state["x"][0, 0].tolist() == [[-0.5, 0.5, -0.5, 0.5], [0, 7, 7, 0]]


@TWINS
def test_nan_passes_the_clamp_and_stays_in_its_pixel(twin: object) -> None:
    state = one_slot(c_0=1, a_o=1, clip=1)
    state["o"][0, 0, 0, 1] = np.nan
    twin.step(step_state(state, False))  # type: ignore[attr-defined]
    assert np.isnan(state["x"]).sum() == 1
    assert np.isnan(state["x"][0, 0, 0, 1])


@TWINS
def test_the_first_row_does_not_read_the_poisoned_history(twin: object) -> None:
    state = one_slot(c_h=1, c_0=1, a_x=1)
    state["h"][:] = np.nan
    state["x"][:] = 0.25
    twin.step(step_state(state, False))  # type: ignore[attr-defined]
    assert (state["x"] == 0.5).all()
    assert (state["h"] == 0.25).all()


@TWINS
def test_guidance_mixes_two_outputs(twin: object) -> None:
    state = one_slot(c_0=1, a_o=1, guidance=3)
    state["o"][:], state["o_uncond"][:] = 0.5, 0.25
    twin.step(step_state(state, True))  # type: ignore[attr-defined]
    assert (state["x"] == 1.0).all()


@TWINS
def test_begin_noises_the_guide_and_later_takes_over_what_was_edited(twin: object) -> None:
    state = one_slot(threshold=0.5)
    state["rows"][0, 1]["repeat"] = 1
    state["row_count"][:] = 2
    state["alpha0"][:], state["sigma0"][:] = 0.5, 2.0
    state["guide"][:] = 1
    state["x"][:] = np.nan  # all of it is written, none of it read
    twin.begin(state)  # type: ignore[attr-defined]
    z = normal_numpy(0, 0, 0, 0, KIND_BEGIN, 8).reshape(1, 2, 4)
    assert same_bits(state["x"][0], np.float32(0.5) + np.float32(2) * z)

    state["counter"][:] = 1
    state["x"][:] = 3
    state["mask"][0, 0] = 0.25
    twin.begin(state)  # type: ignore[attr-defined]
    z = normal_numpy(0, 0, 1, 0, KIND_BEGIN, 8).reshape(1, 2, 4)
    assert state["guide"][0, 0].tolist() == [[1] * 4, [3] * 4]
    assert same_bits(state["x"][0], np.float32(0.5) * state["guide"][0] + np.float32(2) * z)

    state["rows"][0, 1]["step"] = 1
    before = state["x"].copy()
    twin.begin(state)  # type: ignore[attr-defined]
    assert same_bits(before, state["x"])  # in mid-repeat there is nothing to begin


def test_advance_moves_busy_slots_and_tells_their_time() -> None:
    state = allocate_state(3, 3, (1, 1, 1))
    state["rows"]["time"] = [[10, 11, 12], [20, 21, 22], [30, 31, 32]]
    state["counter"][:], state["row_count"][:], state["time"][:] = [0, 2, 3], [3, 3, 3], [10, 22, -1]
    NUMPY.advance(state)
    assert state["counter"].tolist() == [1, 3, 3]
    assert state["time"].tolist() == [11, 22, -1]


def test_c_neither_flushes_denormals_nor_leaves_the_mode_changed() -> None:
    state = one_slot(c_x=0.5)
    state["x"][:] = 2e-40
    try:
        if not torch.set_flush_denormal(True):
            pytest.skip("this processor cannot be told to flush denormals")
        C.step(step_state(state, False))
        flushed_after = bool((torch.full((1,), 2e-40) * 0.5 == 0).item())
    finally:
        torch.set_flush_denormal(False)
    assert (state["x"] == np.float32(2e-40) * np.float32(0.5)).all()
    assert (state["x"] > 0).all()
    assert flushed_after


def test_numpy_refuses_to_flush_denormals() -> None:
    """It cannot change the mode, and the bits would be other ones."""
    state = one_slot(c_x=0.5)
    state["x"][:] = 2e-40
    before = copy_state(state)
    try:
        if not torch.set_flush_denormal(True):
            pytest.skip("this processor cannot be told to flush denormals")
        for kernel in (NUMPY.begin, NUMPY.step):
            with pytest.raises(EngineError, match="this thread flushes small floating-point numbers to zero"):
                kernel(step_state(state, False))
    finally:
        torch.set_flush_denormal(False)
    assert all(np.array_equal(state[name].view(np.uint8), before[name].view(np.uint8)) for name in before)
    NUMPY.step(step_state(state, False))
    assert (state["x"] == np.float32(2e-40) * np.float32(0.5)).all()
    assert (state["x"] > 0).all()


@TWINS
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("x", np.zeros((2, 1, 2, 4), np.float32), "mask|h"),
        ("o", np.zeros((1, 1, 2, 4), np.float64), "o must be C-contiguous float32"),
        ("guide", np.zeros((1, 1, 4, 2), np.float32).transpose(0, 1, 3, 2), "guide must be C-contiguous"),
        ("rows", np.zeros((1, 2), np.dtype([("time", "<f4")])), "rows must be C-contiguous ROW"),
        ("seed", np.zeros(1, np.uint32), "seed must be C-contiguous uint64"),
        ("row_count", np.full(1, 3, np.uint32), "row_count 3 exceeds the 2 rows"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(twin: object, name: str, value: np.ndarray, message: str) -> None:
    state = {**one_slot(), name: value}
    with pytest.raises(ValueError, match=message):
        twin.step(step_state(state, False))  # type: ignore[attr-defined]


def test_the_extension_itself_checks_sizes() -> None:
    """However it is called, it reads and writes only the buffers it was given."""
    arguments = step_arguments(one_slot(), False)
    sizes = [1, 2, 1, 8]
    _step.step(*arguments, *sizes)
    for wrong in (
        [2, 2, 1, 8],
        [1, 3, 1, 8],
        [1, 2, 2, 8],
        [1, 2, 1, 9],
        [0, 2, 1, 8],
        [1, 2, 1, 2**31],
        [1, 2, 1, -1],
    ):
        with pytest.raises((ValueError, OverflowError)):
            _step.step(*arguments, *wrong)
    with pytest.raises(TypeError, match="15 arguments"):
        _step.step(*arguments)
    with pytest.raises(ValueError, match="can be addressed"):
        _step.step(*arguments, 2**31 - 1, 2**31 - 1, 2**15, 2**15)
    arguments[8] = np.full(1, 3, np.uint32)
    with pytest.raises(ValueError, match="row_count 3 of slot 0"):
        _step.step(*arguments, *sizes)
    read_only = step_arguments(one_slot(), False)
    read_only[0].flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        _step.step(*read_only, *sizes)


def off_by_one(array: np.ndarray) -> np.ndarray:
    """The same values, one byte off their alignment."""
    memory = np.zeros(array.nbytes + 1, np.uint8)
    moved = memory[1:].view(array.dtype).reshape(array.shape)
    moved[:] = array
    return moved


@pytest.mark.parametrize("place", range(len(STEP_ARRAYS)))
def test_the_extension_itself_refuses_memory_that_is_not_aligned(place: int) -> None:
    arguments = step_arguments(one_slot(), True)
    arguments[place] = off_by_one(arguments[place])
    with pytest.raises(ValueError, match=f"{STEP_ARRAYS[place]} is not aligned to [48] bytes"):
        _step.step(*arguments, 1, 2, 1, 8)
    with pytest.raises(ValueError, match="out is not aligned to 4 bytes"):
        _step.normal(off_by_one(np.zeros(4, np.float32)), 0, 0, 0, 0, 1)


UNDEFINED = """
#include <stdio.h>
#include "_step.h"
int main(void) {
    float z[BLOCK];
    for (uint32_t first = 0; first < 1 << 16; first += COUNTERS) {
        normal_block(philox_portable, z, 0x0123456789ABCDEFu, first, 7, 3, 3);
        fwrite(z, sizeof z, 1, stdout);
    }
    return 0;
}
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_the_noise_in_c_has_no_undefined_behaviour(tmp_path: Path) -> None:
    """Compiled so that undefined behaviour ends the program; the bits stay numpy's."""
    source, program = tmp_path / "undefined.c", tmp_path / "undefined"
    source.write_text(UNDEFINED)
    flags = ["-std=c11", "-O1", "-ffp-contract=off", "-fsanitize=undefined", "-fno-sanitize-recover=all"]
    built = subprocess.run(
        ["cc", *flags, f"-I{ROOT / 'kernels'}", "-o", program, source, "-lm"],
        capture_output=True,
        text=True,
        check=False,
    )
    if "ubsan" in built.stderr:
        pytest.skip("this compiler has no sanitizer for undefined behaviour")
    assert built.returncode == 0, built.stderr
    done = subprocess.run([program], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    found = np.frombuffer(done.stdout, np.float32)
    assert same_bits(found, normal_numpy(0x0123456789ABCDEF, 3, 1, 7, KIND_STEP, len(found)))


def test_without_the_extension_numpy_steps_in_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sdedit.kernels._step", None)
    monkeypatch.delitem(sys.modules, "sdedit.kernels.step_c")
    monkeypatch.delattr("sdedit.kernels._step")
    with pytest.warns(RuntimeWarning, match="C extension is not built"):
        assert twin().name == "numpy"
    with pytest.raises(ImportError):
        twin("c")


def test_twins_are_chosen_by_name() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert twin("auto").name == "c"
    with pytest.raises(ValueError, match="twin 'metal' is not one of auto, c, numpy"):
        twin("metal")
