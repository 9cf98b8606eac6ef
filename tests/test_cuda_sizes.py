"""States of several shapes on the CUDA device: the CPU's bits, buffers and graphs of each, and what is refused."""

import ctypes
import dataclasses
from typing import Any

import numpy as np
import pytest
from cuda_devices import NOTHING, WAIT, make_device, make_task, mixing, on_cpu, same
from fake_driver import FakeDriver, StandInEngine
from stubs import StubEngine, run

from sdedit.errors import EngineError
from sdedit.kernels import twin
from sdedit.runtime import Editor
from sdedit.runtime.bundle import Bundle, network_inputs
from sdedit.runtime.bundle.manifest import ImageSpec
from sdedit.runtime.cuda import Gpu
from sdedit.runtime.devices.cpu import CpuDevice
from sdedit.runtime.devices.cuda_tiles import TiledCudaEngine, tile_bytes
from sdedit.runtime.engines import DeviceArray
from sdedit.runtime.loop import KEPT_SHAPES, Loop

SIZES = [(8, 8), (8, 12), (16, 4), (8, 8), (20, 8)]


@pytest.fixture
def free(bundle_with_kernels: Bundle) -> Bundle:
    """The bundle as if its network took any sides that are multiples of 4."""
    image = ImageSpec(3, 8, 8, 4, free=True, max_pixels=1024)
    return dataclasses.replace(
        bundle_with_kernels, manifest=dataclasses.replace(bundle_with_kernels.manifest, image=image)
    )


@pytest.mark.parametrize("eager", [False, True])
def test_sizes_side_by_side_are_the_cpus(fake: FakeDriver, free: Bundle, eager: bool) -> None:
    tasks = [make_task(free, image, size, steps=3 + image % 2) for image, size in enumerate(SIZES)]
    loop = Loop(make_device(fake, free, slots=3, eager=eager))
    assert same(run(loop, tasks), run(Loop(on_cpu(free, slots=3)), tasks))
    loop.close()
    assert fake.fault is None
    assert fake.counts() == NOTHING


def test_a_shape_is_captured_once_and_kept(fake: FakeDriver, free: Bundle) -> None:
    loop = Loop(make_device(fake, free))
    for image in range(3):
        run(loop, [make_task(free, image, (8, 12))])
    (other,) = [device for kind, device in loop._devices.items() if kind[0] == (3, 8, 12)]
    assert other.captures == 1  # type: ignore[attr-defined]
    loop.close()


def test_the_buffers_of_shapes_that_are_not_used_make_room(
    fake: FakeDriver, free: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    forgotten: list[tuple[int, ...]] = []
    monkeypatch.setattr(StandInEngine, "forget", lambda self, shape: forgotten.append(shape))
    loop = Loop(make_device(fake, free))
    counts = []
    for side in range(8, 8 + 4 * (KEPT_SHAPES + 3), 4):
        run(loop, [make_task(free, 0, (8, side), steps=2)])
        counts.append(fake.counts())
    assert forgotten == [(3, 8, 12), (3, 8, 16)]
    assert counts[-1] == counts[-2] == counts[-3]
    loop.close()
    assert fake.counts() == NOTHING


def test_a_preview_outlives_the_buffers_of_its_shape(fake: FakeDriver, free: Bundle) -> None:
    device, on_host = make_device(fake, free), on_cpu(free)
    found = []
    for native in (device, on_host):
        loop = Loop(native)
        task = make_task(free, 0, (8, 12))
        loop.admit(task)
        loop.step()
        fetch = loop.prediction(task)
        loop.drop(task)
        loop._devices.pop((task.guide.shape, None)).close()
        found.append(fetch())
    assert same([found[0]], [found[1]])
    device.close()


def test_an_editor_edits_at_any_size(fake: FakeDriver, free: Bundle) -> None:
    guide, options = np.arange(3 * 12 * 20, dtype=np.uint8).reshape(12, 20, 3), {"steps": 3, "size": "guide"}
    with Editor(free, make_device(fake, free)) as editor:
        edit = editor.edit(guide, **options)  # type: ignore[arg-type]
    with Editor(free, on_cpu(free)) as editor:
        expected = editor.edit(guide, **options)  # type: ignore[arg-type]
    assert edit.images[0].pil.size == (20, 12)
    assert edit.images[0].pil.tobytes() == expected.images[0].pil.tobytes()
    assert fake.counts() == NOTHING


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": "28x28"}, r"fake sm89 is out of memory: 1 slots of 3x28x28 need 0\.\d MB, 0\.0 MB are free: 0 would"),
    ],
)
def test_what_it_cannot_edit_is_refused_before_it_is_submitted(
    fake: FakeDriver, free: Bundle, options: dict[str, Any], message: str
) -> None:
    guide = np.zeros((16, 16, 3), np.uint8)
    with Editor(free, make_device(fake, free)) as editor:
        fake.library.fake_set_free(ctypes.c_uint64(1000))
        with pytest.raises(EngineError, match=message):
            editor.submit(guide, steps=2, **options)
        assert len(editor.edit(guide, steps=2).images) == 1


@pytest.mark.parametrize("slots", [1, 2])
def test_tiles_are_the_cpus(fake: FakeDriver, free: Bundle, slots: int) -> None:
    """Beside a job of the tile's own shape, which shares the engine's context and ends first."""
    guide = np.random.default_rng(0).integers(0, 256, (20, 28, 3)).astype(np.uint8)
    small = guide[:12, :12]
    images = []
    for device in (make_device(fake, free, slots=slots), on_tiles(free, slots)):
        with Editor(free, device) as editor:
            jobs = [
                editor.submit(guide, size="guide", tile=12, steps=4, repeats=2, seed=3, images=2),
                editor.submit(small, size="guide", steps=2, seed=3),
                editor.submit(guide[:8], size="guide", tile=12, steps=3, seed=4),
            ]
            images.append([image.pil.tobytes() for job in jobs for image in job.result(WAIT).images])
    assert images[0] == images[1]
    assert fake.fault is None
    assert fake.counts() == NOTHING


def on_tiles(bundle: Bundle, slots: int) -> CpuDevice:
    return CpuDevice(StubEngine(mixing), bundle.inputs, slots, twin(), multiple_of=bundle.image.multiple_of)


def test_an_engine_forgets_a_shape_when_nobody_evaluates_it(
    fake: FakeDriver, free: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    forgotten: list[tuple[int, ...]] = []
    monkeypatch.setattr(StandInEngine, "forget", lambda self, shape: forgotten.append(shape))
    device = make_device(fake, free)
    tiled, plain = device.for_shape((3, 20, 28), 12), device.for_shape((3, 12, 12), None)
    of_native = device.for_shape((3, 20, 28), 8)
    plain.close()
    of_native.close()
    assert not forgotten
    tiled.close()
    assert forgotten == [(3, 12, 12)]
    device.close()
    assert fake.counts() == NOTHING


def test_memory_that_the_pool_keeps_is_free(fake: FakeDriver, free: Bundle) -> None:
    """A driver's pool does not give back what was freed, so the device's free memory alone says too little."""
    device = make_device(fake, free)
    fake.library.fake_set_free(ctypes.c_uint64(1000))
    with pytest.raises(EngineError, match="out of memory"):
        device.check_shape((3, 8, 16), None)
    fake.library.fake_set_kept(ctypes.c_uint64(1_000_000))
    device.check_shape((3, 8, 16), None)
    device.close()


@pytest.mark.parametrize(("slots", "shape", "tile"), [(1, (3, 16, 16), 12), (2, (3, 20, 28), 8)])
def test_tiles_count_as_memory(fake: FakeDriver, free: Bundle, slots: int, shape: tuple[int, ...], tile: int) -> None:
    """A size is accepted where its buffers fit to the byte, and refused where one byte is missing."""
    device = make_device(fake, free, slots=slots)
    before = sum(fake.live.values())
    tiled = device.for_shape(shape, tile)
    needed = sum(fake.live.values()) - before
    tiled.close()
    fake.library.fake_set_free(ctypes.c_uint64(needed))
    device.check_shape(shape, tile)
    fake.library.fake_set_free(ctypes.c_uint64(needed - 1))
    with pytest.raises(EngineError, match=rf"{slots} slots of 3x{shape[1]}x{shape[2]} need .*: {slots - 1} would fit$"):
        device.check_shape(shape, tile)
    device.close()


@pytest.mark.parametrize("guided", [False, True])
def test_the_buffers_of_tiles_are_all_counted(fake: FakeDriver, free: Bundle, guided: bool) -> None:
    """Labels and the unconditional pass have some too: as many bytes as the binding allocates."""
    inputs = network_inputs((3, 20, 28), 4 if guided else 0)
    gpu = Gpu()
    engine = StandInEngine(fake, mixing)
    tiled = TiledCudaEngine(gpu, engine, 8, 4)
    arrays = {name: DeviceArray(256, (1, *spec.shape), spec.dtype) for name, spec in inputs.items()}
    for _ in range(2 if guided else 1):
        tiled.bind(arrays, DeviceArray(256, (1, 3, 20, 28)))
    assert sum(fake.live.values()) == tile_bytes(inputs, (3, 8, 8), guided)
    tiled.close()
    gpu.close()


def test_sides_that_the_kernels_do_not_take_are_refused(fake: FakeDriver, free: Bundle) -> None:
    device = make_device(fake, free)
    for shape in ((3, 9, 10), (3, 65536, 8192)):
        with pytest.raises(EngineError, match=r"divisible by 16 and at most 33553920, not \d+x\d+: choose another"):
            device.check_shape(shape, None)
    device.close()


def test_a_network_of_one_size_has_that_alone(fake: FakeDriver, bundle_with_kernels: Bundle) -> None:
    device = make_device(fake, bundle_with_kernels)
    with pytest.raises(EngineError, match=r"^tiny takes the native size only, 8x8, not 8x16$"):
        device.for_shape((3, 8, 16), None)
    device.close()


def test_memory_that_runs_out_when_a_shape_is_made_leaves_the_editor_usable(fake: FakeDriver, free: Bundle) -> None:
    """Another process may take the memory between the check and the allocation."""
    guide = np.zeros((8, 8, 3), np.uint8)
    with Editor(free, make_device(fake, free)) as editor:
        before = fake.counts()
        fake.limit = sum(fake.live.values()) + 1000
        with pytest.raises(EngineError, match=r"^fake sm89 is out of memory: 1 slots of 3x8x16 need"):
            editor.edit(guide, size="8x16", steps=2)
        editor.edit(guide, steps=2)
        after = fake.counts()
        assert (after["allocations"], after["host buffers"]) == (before["allocations"], before["host buffers"])
    assert fake.counts() == NOTHING
