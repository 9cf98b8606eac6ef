"""The Triton twin: under the interpreter, and as the exported PTX executed by the emulator, the bits of numpy."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from device_memory import DeviceFault, DeviceMemory
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ptx import Kernel, launch, parse
from states import ANY_SHAPES, State, copy_state, random_state, same_bits, seeds, step_state
from triton_interpreter import Interpreter

from sdedit.kernels import twin
from sdedit.kernels.layout import KIND_BEGIN, KIND_STEP, ROW, allocate_state, busy_slots
from sdedit.runtime.bundle.kernels import MANIFEST
from sdedit.runtime.plan import KEEPS, SAMPLERS, make_plan
from sdedit.runtime.schedule import Schedule
from sdedit_ref import sde

NUMPY = twin("numpy")
GPU_SHAPES = st.tuples(
    st.integers(1, 4), st.integers(1, 12).map(lambda n: 4 * n), st.integers(1, 12).map(lambda n: 4 * n)
)
"""H W divisible by 16, below and above the 512 elements of a program."""

SCHEDULE = Schedule(sde.cosine())


def numpy_result(name: str, state: State, guided: bool) -> State:
    after = copy_state(state)
    if name == "begin":
        NUMPY.begin(after)
    elif name == "step":
        NUMPY.step(step_state(after, guided))
    else:
        NUMPY.advance(after)
    return after


def assert_same(ours: State, theirs: State) -> None:
    for name, array in theirs.items():
        if array.dtype == np.float32:
            assert same_bits(ours[name], array), name
        else:
            assert np.array_equal(ours[name].view(np.uint8), array.view(np.uint8)), name


def states_of(shapes: st.SearchStrategy[tuple[int, int, int]]) -> st.SearchStrategy[State]:
    return st.builds(
        lambda seed, shape, slots, special: random_state(np.random.default_rng(seed), shape, slots, special=special),
        st.integers(0, 2**32),
        shapes,
        st.integers(1, 3),
        st.sampled_from([0.0, 0.05]),
    )


@st.composite
def planned_states(draw: st.DrawFn) -> State:
    """Slots with different presets' plans, seeds and images, each somewhere in its plan."""
    shape, slots = draw(GPU_SHAPES), draw(st.integers(1, 3))
    state = random_state(np.random.default_rng(draw(st.integers(0, 2**32))), shape, slots, max_rows=12)
    for b in range(slots):
        rows = make_plan(
            SCHEDULE,
            draw(st.sampled_from(["eps", "v", "x0"])),
            t0=draw(st.floats(0.1, 0.9)),
            steps=draw(st.integers(1, 4)),
            sampler=draw(st.sampled_from(list(SAMPLERS))),
            keep=draw(st.sampled_from(KEEPS)),
            repeats=draw(st.integers(1, 3)),
            guidance=draw(st.floats(-2, 8)),
        ).rows
        state["rows"][b, : len(rows)] = rows
        state["row_count"][b] = len(rows)
        state["counter"][b] = draw(st.integers(0, len(rows)))
        state["seed"][b] = draw(seeds)
    return state


# Under the interpreter: any shape.


@pytest.fixture(scope="module")
def interpreter() -> Iterator[Interpreter]:
    with Interpreter() as running:
        yield running


@settings(max_examples=40, deadline=None)
@given(state=states_of(ANY_SHAPES), name=st.sampled_from(["begin", "step", "advance"]), guided=st.booleans())
def test_interpreted_kernels_give_the_bits_of_numpy(
    interpreter: Interpreter, state: State, name: str, guided: bool
) -> None:
    assert_same(interpreter.run(name, copy_state(state), guided), numpy_result(name, state, guided))


# The exported PTX, on the emulator.


class Gpu:
    """The exported kernels on emulated memory, launched as their manifest says."""

    def __init__(self, folder: Path) -> None:
        self.manifest = json.loads((folder / MANIFEST).read_text())
        self._kernels = {
            name: parse((folder / entry["ptx"]["file"]).read_text()) for name, entry in self.manifest["kernels"].items()
        }

    def kernel(self, name: str) -> Kernel:
        return self._kernels[name]

    def pack(self, name: str, values: dict[str, int]) -> bytes:
        """The parameter buffer, laid out as the manifest says; scratch pointers are null."""
        parameters = self.manifest["kernels"][name]["parameters"]
        buffer = bytearray(parameters[-1]["offset"] + parameters[-1]["size"])
        for p in parameters:
            value = 0 if p["name"].endswith("_scratch") else values[p["name"]]
            buffer[p["offset"] : p["offset"] + p["size"]] = value.to_bytes(p["size"], "little")
        return bytes(buffer)

    def run(self, name: str, state: State, memory: DeviceMemory | None = None, **overrides: int) -> State:
        """Upload, launch, download: the state after the kernel."""
        memory = memory or DeviceMemory()
        addresses = {field: memory.alloc(array.nbytes) for field, array in state.items()}
        for field, array in state.items():
            memory.write(addresses[field], array.view(np.uint8))
        values = {f"p_{field}": address for field, address in addresses.items()}
        slots, channels, height, width = state["x"].shape
        values |= {"pixels": height * width, "max_rows": state["rows"].shape[1]} | overrides
        blocks = -(-height * width // self.manifest["elements_per_program"])
        grid = (slots, 1, 1) if name == "advance" else (channels, blocks, slots)
        launch(self.kernel(name), memory, grid, self.pack(name, values))
        return {
            field: memory.read(addresses[field], array.shape, np.dtype(np.uint32)).view(array.dtype)
            if array.dtype.itemsize == 4
            else memory.read(addresses[field], (array.nbytes,), np.dtype(np.uint8))
            .view(array.dtype)
            .reshape(array.shape)
            for field, array in state.items()
        }


@pytest.fixture(scope="module")
def gpu(exported_kernels: Path) -> Gpu:
    return Gpu(exported_kernels)


def step_variant(state: State, guided: bool) -> str:
    """Name of the smallest kernel that serves these rows."""
    needs_begin_noise = any(
        state["rows"][b, state["counter"][b]]["keep_noise"] for b in busy_slots(state["counter"], state["row_count"])
    )
    return "step" + "_guided" * guided + "_begin_noise" * needs_begin_noise


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(state=states_of(GPU_SHAPES) | planned_states(), largest=st.booleans(), guided=st.booleans())
def test_exported_step_gives_the_bits_of_numpy(gpu: Gpu, state: State, largest: bool, guided: bool) -> None:
    name = step_variant(state, guided)
    name = name if name.endswith("_begin_noise") or not largest else f"{name}_begin_noise"
    assert_same(gpu.run(name, state), numpy_result("step", state, guided))


@settings(max_examples=40, deadline=None)
@given(state=states_of(GPU_SHAPES) | planned_states(), name=st.sampled_from(["begin", "advance"]))
def test_exported_begin_and_advance_give_the_bits_of_numpy(gpu: Gpu, state: State, name: str) -> None:
    assert_same(gpu.run(name, state), numpy_result(name, state, False))


def test_the_size_of_the_official_models_in_one_launch(gpu: Gpu) -> None:
    state = random_state(np.random.default_rng(1), (3, 256, 256), slots=1)
    state["counter"][:], state["row_count"][:] = 0, 1
    state["rows"]["keep_noise"] = 0
    assert_same(gpu.run("step", state), numpy_result("step", state, False))


def test_a_whole_masked_edit_with_repeats_gives_the_bits_of_numpy(gpu: Gpu) -> None:
    """begin and steps launched as a host would, two slots with different plans; the network is o = x / 2."""
    state = allocate_state(2, 12, (3, 8, 8))
    rng = np.random.default_rng(3)
    state["guide"][:] = rng.uniform(-1, 1, state["guide"].shape)
    state["mask"][:] = rng.integers(0, 3, state["mask"].shape) / 2
    for b, (sampler, keep, repeats) in enumerate((("dpmpp_2m_sde", "fresh", 2), ("euler_maruyama", "official", 3))):
        plan = make_plan(SCHEDULE, "v", t0=0.5 + 0.1 * b, steps=4, sampler=sampler, keep=keep, repeats=repeats)
        state["rows"][b, : len(plan.rows)] = plan.rows
        state["row_count"][b], state["seed"][b] = len(plan.rows), 2**63 + b
        state["alpha0"][b], state["sigma0"][b] = plan.alpha0, plan.sigma0
    theirs = copy_state(state)
    for _ in range(12):
        for name in ("begin", "step_begin_noise", "advance"):
            if name.startswith("step"):
                state["o"], theirs["o"] = state["x"] * np.float32(0.5), theirs["x"] * np.float32(0.5)
            state = gpu.run(name, state)
            theirs = numpy_result(name.split("_")[0], theirs, False)
        assert_same(state, theirs)
    assert not busy_slots(state["counter"], state["row_count"])


@pytest.mark.parametrize(
    ("field", "offset", "message"),
    [
        ("p_x", 4, "misaligned"),
        ("p_mask", 4, "misaligned"),
        ("p_h", 1 << 20, "out of bounds"),
        ("p_o", 16, "out of bounds"),
    ],
)
def test_wrong_addresses_are_caught(gpu: Gpu, field: str, offset: int, message: str) -> None:
    state = random_state(np.random.default_rng(1), (1, 16, 32), slots=1)
    state["counter"][:], state["row_count"][:] = 0, 1
    memory = DeviceMemory()
    base = memory.alloc(state["x"].nbytes)
    memory.write(base, state["x"])
    with pytest.raises(DeviceFault, match=message):
        gpu.run("step", state, **{field: base + offset})


def test_memory_that_was_never_written_is_caught(gpu: Gpu) -> None:
    state = random_state(np.random.default_rng(1), (1, 16, 32), slots=1)
    state["counter"][:], state["row_count"][:] = 0, 1
    memory = DeviceMemory()
    addresses = {f"p_{name}": memory.alloc(array.nbytes) for name, array in state.items()}
    for name in set(state) - {"o"}:
        memory.write(addresses[f"p_{name}"], state[name].view(np.uint8))
    packed = gpu.pack("step", {**addresses, "pixels": 512, "max_rows": 4})
    with pytest.raises(DeviceFault, match="uninitiali"):
        launch(gpu.kernel("step"), memory, (1, 1, 1), packed)


class CountingMemory(DeviceMemory):
    """Counts the memory that kernels access: bytes of the vector accesses, and the bytes of memory that they cover."""

    def __init__(self) -> None:
        super().__init__()
        self.requested = 0
        self.covered: set[tuple[bool, int]] = set()

    def load(
        self, addresses: np.ndarray, dtype: np.typing.DTypeLike, count: int = 1, mask: np.ndarray | None = None
    ) -> np.ndarray:
        self.count(addresses, np.dtype(dtype).itemsize, count, mask, writes=False)
        return super().load(addresses, dtype, count, mask)

    def store(self, addresses: np.ndarray, values: np.ndarray, mask: np.ndarray | None = None) -> None:
        self.count(addresses, values.dtype.itemsize, values.shape[1], mask, writes=True)
        super().store(addresses, values, mask)

    def count(self, addresses: np.ndarray, size: int, count: int, mask: np.ndarray | None, writes: bool) -> None:
        chosen = addresses if mask is None else addresses[mask]
        self.requested += chosen.size * size * count * (count == 4)
        self.covered |= {(writes, int(a) + i) for a in np.unique(chosen) for i in range(0, size * count, 4)}


def test_memory_gives_and_takes_no_more_than_the_contract_makes_unavoidable(gpu: Gpu) -> None:
    """x, h, guide, o and the mask are read and x, h written; noise never touches memory.

    Each word comes from memory once if the mask, which channels share, stays in the cache between them; asked for it is
    once a channel. Rows and the other words of a slot are the rest.
    """
    state = random_state(np.random.default_rng(1), (3, 64, 64), slots=2)
    state["counter"][:], state["row_count"][:] = [0, 1], 2
    memory = CountingMemory()
    gpu.run("step_begin_noise", state, memory)
    image, mask = state["x"].nbytes, state["mask"].nbytes
    assert memory.requested == 6 * image + 3 * mask
    words_of_a_slot = 2 + 3 + len(ROW)  # seed; counter, row_count, image; its row
    assert 6 * image + mask <= 4 * len(memory.covered) <= 6 * image + mask + 4 * 2 * words_of_a_slot


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_every_preset_and_keep_rule_side_by_side_in_one_launch(gpu: Gpu, prediction: str) -> None:
    pairs = [(sampler, keep) for sampler in SAMPLERS for keep in KEEPS]
    state = random_state(np.random.default_rng(2), (3, 4, 4), slots=len(pairs), max_rows=10)
    for b, (sampler, keep) in enumerate(pairs):
        plan = make_plan(SCHEDULE, prediction, t0=0.6, steps=5, sampler=sampler, keep=keep, repeats=2)
        state["rows"][b], state["row_count"][b], state["counter"][b] = plan.rows, 10, 0
        state["alpha0"][b], state["sigma0"][b] = plan.alpha0, plan.sigma0
    theirs = copy_state(state)
    for _ in range(10):
        for name in ("begin", "step_begin_noise", "advance"):
            state, theirs = gpu.run(name, state), numpy_result(name.split("_")[0], theirs, False)
        assert_same(state, theirs)


def test_row_words_are_those_of_the_layout() -> None:
    """step_triton names the places of a row's words; the layout says which they are."""
    from sdedit.kernels import step_triton

    for place, name in enumerate(ROW.names or ()):
        if name != "time":
            assert getattr(step_triton, name.upper()).value == place
    assert step_triton.WORDS.value == len(ROW)
    assert (step_triton.KIND_BEGIN.value, step_triton.KIND_STEP.value) == (KIND_BEGIN, KIND_STEP)
