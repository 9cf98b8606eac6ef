"""The CUDA device on a driver that is not there: the unmodified cuda.core on fake_cuda.c, kernels in the PTX emulator.

What is proven: every call, address, argument, copy and graph, and by them the very bits of the CPU device. What is not:
that a real driver accepts the binaries, and anything about time.
"""

import ctypes
import dataclasses
import json
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Run
from device_memory import DeviceFault
from fake_driver import FakeDriver, StandInEngine, values
from random_jobs import some_job
from stubs import StubEngine, run
from tiny import write_bundle

from sdedit.errors import CancelledError, EngineError
from sdedit.kernels import twin
from sdedit.runtime import Editor, Job, doctor_gpu
from sdedit.runtime.bundle import Bundle, read_bundle
from sdedit.runtime.devices import cuda, driver, gpu
from sdedit.runtime.devices.cpu import CpuDevice
from sdedit.runtime.devices.cuda import CudaDevice
from sdedit.runtime.devices.gpu import Gpu
from sdedit.runtime.engines import DeviceArray, Enqueue
from sdedit.runtime.loop import Loop, Task
from sdedit.runtime.plan import make_plan

WAIT = 60
"""Seconds after which a test that hangs fails instead."""

NOTHING = dict.fromkeys(("allocations", "streams", "events", "graphs", "executables", "host buffers"), 0)
"""Of what fake_driver counts. Loaded kernels are not counted: cuda.core never unloads one."""


def mixing(x: np.ndarray, told: float) -> np.ndarray:
    """Depends on every pixel and the level, so that a mixed-up slot or time shows."""
    return np.tanh(x + np.roll(x, 1, axis=3) - np.float32(told / 20))


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    from sdedit.export.kernels import add_kernels

    folder = tmp_path_factory.mktemp("bundle")
    return add_kernels(write_bundle(folder / "plain"), folder / "with-kernels", ("sm89",))


@pytest.fixture
def fake(fake_library: ctypes.CDLL, bundle: Bundle) -> Iterator[FakeDriver]:
    fake = FakeDriver(fake_library, bundle.path / "kernels")
    yield fake
    fake.stop()


def make_device(fake: FakeDriver, bundle: Bundle, slots: int = 1, batch: int = 1, eager: bool = False) -> CudaDevice:
    return CudaDevice(Gpu(), bundle, StandInEngine(fake, mixing, batch), slots, eager)


def on_cpu(bundle: Bundle, slots: int = 1) -> CpuDevice:
    return CpuDevice(StubEngine(mixing), bundle.shape, slots, twin())


def resized(bundle: Bundle, height: int, width: int) -> Bundle:
    """As if its images were of that size; the kernels take any."""
    image = {"channels": 3, "height": height, "width": width, "multiple_of": 1}
    return dataclasses.replace(bundle, manifest={**bundle.manifest, "image": image})


def make_task(bundle: Bundle, image: int, **plan: Any) -> Task:
    rng = np.random.default_rng(image)
    options = {"t0": 0.6, "steps": 4, "sampler": "ancestral"} | plan
    guide = rng.uniform(-1, 1, bundle.shape).astype(np.float32)
    mask = rng.integers(0, 5, bundle.shape[1:]).astype(np.float32) / 4
    return Task(make_plan(bundle.schedule, bundle.prediction, **options), guide, mask, 2**63 + 11, image)


def in_a_new_thread(function: Callable[[], None]) -> None:
    """cuda.core remembers each thread's devices, and what they can do."""
    failed: list[BaseException] = []

    def call() -> None:
        try:
            function()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join(WAIT)
    assert not thread.is_alive()
    if failed:
        raise failed[0]


def same(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    return len(a) == len(b) and all(
        np.array_equal(x.view(np.uint32), y.view(np.uint32)) for x, y in zip(a, b, strict=True)
    )


# The same bits.


@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("keep", ["fresh", "fixed"])
@pytest.mark.parametrize("size", [(8, 8), (24, 24), (8, 16)])
def test_a_masked_edit_with_repeats_is_the_cpus(
    fake: FakeDriver, bundle: Bundle, keep: str, eager: bool, size: tuple[int, int]
) -> None:
    bundle = resized(bundle, *size)
    tasks = [make_task(bundle, 7, keep=keep, repeats=2, steps=3)]
    device = make_device(fake, bundle, eager=eager)
    assert same(run(Loop(device), tasks), run(Loop(on_cpu(bundle)), tasks))
    assert device.captures == (0 if eager else 1)
    device.close()
    assert fake.counts() == NOTHING


def test_an_editor_on_it_gives_the_cpus_images_and_says_so(fake: FakeDriver, bundle: Bundle) -> None:
    rng = np.random.default_rng(0)
    guide, mask = rng.integers(0, 256, (20, 31, 3)).astype(np.uint8), rng.random((20, 31)).astype(np.float32)
    options: dict[str, Any] = {"steps": 4, "images": 3, "repeats": 2, "seed": 5, "sampler": "dpmpp_2m_sde"}
    with Editor(bundle, make_device(fake, bundle, slots=2)) as editor:
        edit = editor.edit(guide, mask, **options)
        assert edit.recipe["device"] == "cuda"
        assert edit.recipe["kernels"] == "triton sm89.cubin"
    with Editor(bundle, on_cpu(bundle)) as editor:
        expected = editor.edit(guide, mask, **options)
    assert [image.pil.tobytes() for image in edit.images] == [image.pil.tobytes() for image in expected.images]
    assert fake.counts() == NOTHING


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_slots_with_plans_of_their_own_do_not_matter_to_each_other(
    fake: FakeDriver, bundle: Bundle, batch: int
) -> None:
    plans = [
        {"steps": 5},
        {"t0": 0.9, "steps": 2, "repeats": 2},
        {"keep": "official"},
        {"sampler": "dpmpp_2m"},
        {"t0": 1.0},
    ]
    tasks = [make_task(bundle, index, **plan) for index, plan in enumerate(plans)]
    device = make_device(fake, bundle, slots=4, batch=batch)
    assert same(run(Loop(device), tasks), run(Loop(on_cpu(bundle)), tasks))
    device.close()
    assert fake.counts() == NOTHING


def test_a_job_may_come_and_another_go_in_mid_flight(fake: FakeDriver, bundle: Bundle) -> None:
    stays, goes, comes = (make_task(bundle, image, steps=8) for image in range(3))

    def play(device: CpuDevice | CudaDevice) -> list[np.ndarray]:
        loop, results = Loop(device), []
        loop.admit(stays)
        for at in range(14):
            if at == 2:
                loop.admit(goes)
            if at == 4:
                loop.drop(goes)
            if at == 5:
                loop.admit(comes)
            results += [x for _, x in loop.step()]
        assert not loop.busy
        return results

    device = make_device(fake, bundle, slots=2)
    assert same(play(device), play(on_cpu(bundle, slots=2)))
    device.close()


def test_a_slot_may_be_written_again_at_once(fake: FakeDriver, bundle: Bundle) -> None:
    """The second copy must not overwrite the staging memory of the first, which has not run yet."""
    device = make_device(fake, bundle)
    guide, mask = np.full(bundle.shape, 3, np.float32), np.full(bundle.shape[1:], 0.25, np.float32)
    device.write(0, {"guide": guide})
    device.write(0, {"mask": mask})
    assert same([device.read(0, "guide"), device.read(0, "mask")], [guide, mask])
    device.close()


def test_previews_are_the_cpus(fake: FakeDriver, bundle: Bundle) -> None:
    task = make_task(bundle, 1, steps=5)

    def predictions(device: CpuDevice | CudaDevice) -> list[np.ndarray]:
        loop, seen = Loop(device), []
        loop.admit(task)
        for _ in range(4):
            loop.step()
            seen.append(loop.prediction(task))
        return seen

    assert same(predictions(make_device(fake, bundle)), predictions(on_cpu(bundle)))


def test_random_jobs_of_several_threads_are_the_cpus(fake: FakeDriver, bundle: Bundle) -> None:
    chance = random.Random(0)
    jobs = [some_job(chance) for _ in range(16)]
    with Editor(bundle, on_cpu(bundle)) as editor:
        expected = [pixels(editor.submit(**job)) for job in jobs]
    found: list[list[bytes] | None] = [None] * len(jobs)
    with Editor(bundle, make_device(fake, bundle, slots=3)) as editor:

        def work(first: int) -> None:
            for index in range(first, len(jobs), 4):
                found[index] = pixels(editor.submit(**jobs[index]))

        threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT)
    assert found == expected
    assert fake.fault is None
    assert fake.counts() == NOTHING


def pixels(job: Job) -> list[bytes]:
    return [image.pil.tobytes() for image in job.result(WAIT).images]


WITHOUT_TORCH = """
import ctypes, sys
for name in ("torch", "triton", "onnx", "onnxruntime", "openvino"):
    sys.modules[name] = None
sys.path.append({tests!r})
library = ctypes.CDLL({library!r}, mode=ctypes.RTLD_GLOBAL)
from pathlib import Path
from fake_driver import FakeDriver
from sdedit.runtime.bundle import read_bundle
from sdedit.runtime.devices.cuda import CudaDevice
from sdedit.runtime.devices.gpu import Gpu
from sdedit.runtime.doctor_gpu import EDIT, GpuCopy, digest, golden_edits, of_golden_shape
bundle = read_bundle({bundle!r})
driver = FakeDriver(library, bundle.path / "kernels")
gpu = Gpu()
assert digest(golden_edits(CudaDevice(gpu, of_golden_shape(bundle), GpuCopy(gpu), 2))) == EDIT
"""


def test_it_runs_where_torch_triton_and_engines_cannot_be_imported(fake_library: ctypes.CDLL, bundle: Bundle) -> None:
    script = WITHOUT_TORCH.format(tests=str(Path(__file__).parent), library=fake_library._name, bundle=str(bundle.path))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# Captured once, replayed.


def test_a_step_is_captured_once_and_then_only_replayed(
    fake: FakeDriver, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched: list[str] = []
    real = Gpu.launch
    monkeypatch.setattr(Gpu, "launch", lambda self, kernel, *a: (launched.append(kernel.file), real(self, kernel, *a)))
    device = make_device(fake, bundle)
    for image in range(3):
        run(Loop(device), [make_task(bundle, image, steps=6)])
    names = [file.split(".")[0] for file in launched]
    assert device.captures == 1
    assert fake.graphs_launched == 3 * 6 - 1
    assert names == ["begin", "step", "advance", "step", "advance", "begin", "begin"]  # first step, capture, edits
    assert isinstance(device.engine, StandInEngine)
    assert device.engine.evaluations == 18


def test_the_host_is_two_steps_ahead_and_no_more(fake: FakeDriver, bundle: Bundle) -> None:
    device = make_device(fake, bundle)
    assert isinstance(device.engine, StandInEngine)
    loop = Loop(device)
    loop.admit(make_task(bundle, 0, steps=8))
    done = []
    for _ in range(7):
        loop.step()
        done.append(device.engine.evaluations)
    assert done == [1, 1, 1, 2, 3, 4, 5]  # the first step is waited for, before it is captured


def test_an_engine_that_cannot_be_captured_is_not(fake: FakeDriver, bundle: Bundle) -> None:
    engine = StandInEngine(fake, mixing)
    engine.capturable = False
    device = CudaDevice(Gpu(), bundle, engine, 1)
    tasks = [make_task(bundle, 0)]
    assert same(run(Loop(device), tasks), run(Loop(on_cpu(bundle)), tasks))
    assert (device.eager, device.captures, fake.graphs_launched) == (True, 0, 0)


def test_an_engine_that_fails_while_it_is_captured_fails_the_job_alone(fake: FakeDriver, bundle: Bundle) -> None:
    device = make_device(fake, bundle)
    (evaluate,) = device._evaluate.values()
    calls: list[int] = []

    def fails_once(stream: int) -> None:
        calls.append(stream)
        if len(calls) == 2:  # the first is the step, the second its capture
            raise EngineError("the engine failed")
        evaluate(stream)

    device._evaluate[0] = fails_once
    guide = np.zeros((8, 8, 3), np.uint8)
    with Editor(bundle, device) as editor, Editor(bundle, on_cpu(bundle)) as alone:
        with pytest.raises(EngineError, match=r"^the engine failed$"):
            editor.edit(guide, steps=3)
        images = [e.edit(guide, steps=3).images[0].pil.tobytes() for e in (editor, alone)]
    assert images[0] == images[1]
    assert device.captures == 1
    assert fake.counts() == NOTHING


def test_graphs_of_other_addresses_are_dropped(fake: FakeDriver, bundle: Bundle) -> None:
    device = make_device(fake, bundle)
    tasks = [make_task(bundle, 0)]
    run(Loop(device), tasks)
    with device._gpu.calls("in a test"):
        device._buffers["x"] = device._gpu.allocate(4 * 3 * 8 * 8)
    assert same(run(Loop(device), tasks), run(Loop(on_cpu(bundle)), tasks))
    assert device.captures == 2
    assert fake.counts()["executables"] == 1


def test_idle_slots_cost_no_evaluation(fake: FakeDriver, bundle: Bundle) -> None:
    device = make_device(fake, bundle, slots=4)
    assert isinstance(device.engine, StandInEngine)
    run(Loop(device), [make_task(bundle, 0, steps=5)])
    assert device.engine.evaluations == 5


def test_graphs_are_bounded(fake: FakeDriver, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "MAX_GRAPHS", 2)
    device = make_device(fake, bundle, slots=3)
    tasks = [make_task(bundle, index, steps=2 + index) for index in range(5)]
    assert same(run(Loop(device), tasks), run(Loop(on_cpu(bundle)), tasks))
    assert device.captures > 2
    assert fake.counts()["executables"] <= 2


# Cancelling, failing, closing.


def test_a_cancelled_job_leaves_the_device_usable(fake: FakeDriver, bundle: Bundle) -> None:
    guide = np.zeros((8, 8, 3), np.uint8)
    with Editor(bundle, make_device(fake, bundle)) as editor, Editor(bundle, on_cpu(bundle)) as alone:
        job = editor.submit(guide, steps=10, images=200)
        assert next(job.previews()).steps == 2000
        assert job.cancel()
        with pytest.raises(CancelledError):
            job.result(WAIT)
        again, expected = (e.edit(guide, steps=3).images[0].pil.tobytes() for e in (editor, alone))
    assert again == expected
    assert fake.counts() == NOTHING


def test_a_device_lost_in_mid_edit_ends_every_job_and_nothing_hangs(fake: FakeDriver, bundle: Bundle) -> None:
    guide = np.zeros((8, 8, 3), np.uint8)
    with Editor(bundle, make_device(fake, bundle, slots=2)) as editor:
        fake.lose_after = 9
        jobs = [editor.submit(guide, steps=10, seed=seed) for seed in range(3)]
        for job in jobs:
            with pytest.raises(EngineError, match=r"^fake sm89 (failed|is lost).*DEVICE_UNAVAILABLE"):
                job.result(WAIT)
        with pytest.raises(EngineError, match="open another editor"):
            editor.edit(guide, steps=1)
        closing = threading.Thread(target=editor.close)
        closing.start()
        closing.join(WAIT)
        assert not closing.is_alive()
    left = fake.counts()
    assert [left[name] for name in ("allocations", "streams", "graphs", "executables")] == [0, 0, 0, 0]
    # Pinned memory stays: cuda.core waits for the stream before it frees it, and waiting fails on a lost device.


def test_after_it_is_closed_it_refuses(fake: FakeDriver, bundle: Bundle) -> None:
    device = make_device(fake, bundle)
    device.close()
    device.close()
    with pytest.raises(EngineError, match="is lost, it was closed"):
        device.begin()


def test_too_many_slots_say_how_many_would_fit(fake: FakeDriver, bundle: Bundle) -> None:
    fake.limit = 1_000_000  # a slot's rows alone are 262 kB
    with pytest.raises(
        EngineError,
        match=r"^fake sm89 is out of memory: 5 slots of 3x8x8 need 1\.3 MB, 1\.0 MB are free: 3 would fit$",
    ):
        make_device(fake, bundle, slots=5)
    assert fake.counts() == NOTHING
    make_device(fake, bundle, slots=3).close()


# What this machine cannot run.


def test_without_a_driver_one_line_says_so_and_the_cpu_stays_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "LIBRARY", "libcuda-of-nowhere.so.1")
    with pytest.raises(EngineError, match=r"^there is no NVIDIA driver here, .* cannot be loaded: use device cpu$"):
        Editor.open(device="cuda")
    with Editor.open(device="cpu") as editor:
        assert editor.device.name == "cpu"


def test_without_the_packages_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "PACKAGES", ("cuda-core-of-nowhere",))
    with pytest.raises(EngineError, match=r"needs the package cuda-core-of-nowhere: pip install 'sdedit\[cuda\]'"):
        Editor.open(device="cuda")


def test_a_driver_without_a_gpu(fake: FakeDriver) -> None:
    fake.stop()
    with pytest.raises(EngineError, match="the NVIDIA driver finds no GPU, CUDA error 100: use device cpu"):
        Gpu()


def test_a_driver_that_is_too_old(fake_library: ctypes.CDLL, bundle: Bundle) -> None:
    old = FakeDriver(fake_library, bundle.path / "kernels", version=11040)
    with pytest.raises(
        EngineError, match=r"runs CUDA 11\.4, the installed cuda-bindings need 1\d\.0: update the driver"
    ):
        Gpu()
    old.stop()


@pytest.mark.parametrize(("capability", "kind"), [(75, "ptx"), (89, "sm89.cubin"), (110, "ptx"), (121, "ptx")])
def test_each_gpu_gets_the_binary_that_fits(
    fake_library: ctypes.CDLL, bundle: Bundle, capability: int, kind: str
) -> None:
    fake = FakeDriver(fake_library, bundle.path / "kernels", capability)
    tasks = [make_task(bundle, 0)]

    def check() -> None:
        device = make_device(fake, bundle)
        assert {file.split(".", 1)[1] for file in fake.loaded} == {kind}
        assert device.kernels == f"triton {kind}"
        assert same(run(Loop(device), tasks), run(Loop(on_cpu(bundle)), tasks))
        device.close()

    in_a_new_thread(check)
    assert fake.fault is None
    fake.stop()


def test_a_gpu_that_no_binary_fits(fake_library: ctypes.CDLL, bundle: Bundle) -> None:
    fake = FakeDriver(fake_library, bundle.path / "kernels", capability=70)

    def check() -> None:
        with pytest.raises(EngineError, match="the bundle's kernels serve GPUs from sm75 on; this one is sm70"):
            make_device(fake, bundle)

    in_a_new_thread(check)
    assert fake.fault is None
    fake.stop()


def test_slots_that_the_device_cannot_have(fake: FakeDriver, bundle: Bundle) -> None:
    with pytest.raises(EngineError, match=r"slots 40000 is not in 1\.\.32767"):
        make_device(fake, bundle, slots=40000)
    with pytest.raises(EngineError, match="slots 3 is no multiple of the batch of stand-in, 2"):
        make_device(fake, bundle, slots=3, batch=2)


# The classic mistakes, made on purpose: each must be found out by what the tests above look at.

Sabotage = Callable[[CudaDevice, FakeDriver, pytest.MonkeyPatch], None]


def outcome(fake: FakeDriver, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, sabotage: Sabotage) -> str:
    """ "same" as the CPU, "differs", or the fault that the device's memory found."""
    tasks = [make_task(bundle, 3, repeats=2)]
    device = make_device(fake, bundle)
    run(Loop(device), [make_task(bundle, 2)])
    sabotage(device, fake, monkeypatch)
    try:
        results = run(Loop(device), tasks)
    except (EngineError, DeviceFault):
        assert fake.fault is not None
        return str(fake.fault)
    finally:
        device.close()
    return "same" if same(results, run(Loop(on_cpu(bundle)), tasks)) else "differs"


def capture_again(device: CudaDevice) -> None:
    with device._gpu.calls("in a test"):
        device._close_graphs()


def no_mistake(device: CudaDevice, fake: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    capture_again(device)


def bakes_the_time(device: CudaDevice, fake: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that reads on the host what it is told, when it is enqueued."""

    def bind(x: DeviceArray, time: DeviceArray, out: DeviceArray) -> Enqueue:
        def enqueue(stream: int) -> None:
            told = float(values(fake, time)[0])
            fake.enqueue(stream, lambda: fake.memory.write(out.address, mixing(values(fake, x), told)))

        return enqueue

    monkeypatch.setattr(device.engine, "bind", bind)
    device._evaluate = device._bind()
    capture_again(device)


def bakes_the_counter(device: CudaDevice, fake: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that has its row by value, as it was at capture."""
    arguments = device._arguments
    frozen = device._gpu.allocate(4)
    real = device._launch

    def launch(name: str, grid: tuple[int, int, int]) -> None:
        with monkeypatch.context() as patch:
            if name.startswith("step"):
                patch.setattr(device, "_arguments", lambda: {**arguments(), "p_counter": frozen})
            real(name, grid)

    monkeypatch.setattr(device, "_launch", launch)
    capture_again(device)


def swaps(one: str, other: str) -> Sabotage:
    def swap(device: CudaDevice, fake: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
        real = device._arguments
        monkeypatch.setattr(device, "_arguments", lambda: {**real(), one: real()[other], other: real()[one]})
        capture_again(device)

    return swap


def reallocates_after_capture(device: CudaDevice, fake: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nobody notices that the address is another one."""
    (key,) = device._graphs
    monkeypatch.setattr(device, "_key", lambda busy: key)
    with device._gpu.calls("in a test"):
        device._buffers["h"].close(device._gpu._stream)
        device._buffers["h"] = device._gpu.allocate(4 * 3 * 8 * 8)


def uses_after_free(device: CudaDevice, fake: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    with device._gpu.calls("in a test"):
        device._gpu._stream.sync()
        fake.memory.free(int(device._buffers["mask"].handle))


def does_not_wait(device: CudaDevice, fake: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device._gpu, "wait", lambda: None)


def overwrites_what_is_still_to_be_copied(
    device: CudaDevice, fake: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host changes the staging memory when the copy is enqueued and has not run."""
    write = device.write

    def hurried(slot: int, parts: Any) -> None:
        write(slot, parts)
        device._staging[slot][1][:] = 0

    monkeypatch.setattr(device, "write", hurried)


def off_by_four_bytes(device: CudaDevice, fake: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    """With our own check of multiples out of the way, which `test_what_a_kernel_does_not_take_is_refused` is about."""
    real = device._arguments

    class Shifted:
        handle = int(device._buffers["guide"].handle) + 4

    monkeypatch.setattr(device, "_arguments", lambda: {**real(), "p_guide": Shifted})
    device._kernels = {name: dataclasses.replace(k, divisible_by=1) for name, k in device._kernels.items()}
    capture_again(device)


def rows_one_short(device: CudaDevice, fake: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for 7 rows, where the plan has 8."""
    with device._gpu.calls("in a test"):
        device._buffers["rows"] = device._gpu.allocate(7 * 64)


def engine_reads_past_the_end(device: CudaDevice, fake: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    real = device._part
    monkeypatch.setattr(
        device, "_part", lambda name, first, slots: dataclasses.replace(real(name, first, slots), shape=(2, 3, 8, 8))
    )
    device._evaluate = device._bind()
    capture_again(device)


@pytest.mark.parametrize(
    ("sabotage", "found"),
    [
        (no_mistake, "same"),
        (bakes_the_time, "differs"),
        (bakes_the_counter, "differs"),
        (swaps("p_guide", "p_h"), "differs"),
        (swaps("p_x", "p_o"), "differs"),
        (reallocates_after_capture, "step_kernel: use after free"),
        (uses_after_free, "copy to the device: use after free"),
        (does_not_wait, "differs"),
        (overwrites_what_is_still_to_be_copied, "differs"),
        (off_by_four_bytes, "begin_kernel: misaligned read of 16 bytes"),
        (rows_one_short, "copy to the device: out of bounds write"),
        (engine_reads_past_the_end, "engine: out of bounds read"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_mistakes_are_caught(
    fake: FakeDriver, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, sabotage: Sabotage, found: str
) -> None:
    assert outcome(fake, bundle, monkeypatch, sabotage).startswith(found)


@pytest.mark.parametrize(
    "part",
    [
        {"mask": np.ones((8, 8))},
        {"guide": np.ones((3, 8, 8), np.float16)},
        {"counter": np.int64(0)},
        {"guide": np.ones((3, 8, 7), np.float32)},
        {"rows": np.zeros(4097, "V64")},
    ],
)
def test_wrong_element_types_and_shapes_are_refused(fake: FakeDriver, bundle: Bundle, part: dict[str, Any]) -> None:
    device = make_device(fake, bundle)
    with pytest.raises(ValueError, match=f"^{next(iter(part))} of a slot is "):
        device.write(0, part)
    device.close()


def change_parameters(bundle: Bundle, change: Callable[[list[dict[str, Any]]], None]) -> dict[str, Any]:
    manifest = json.loads((bundle.path / "kernels" / "kernels.json").read_text())
    change(manifest["kernels"]["step"]["parameters"])
    return manifest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.pop(), "step.sm89.cubin takes parameters at .* its manifest says"),
        (lambda p: p.append(p[-1]), "takes parameters at"),
        (lambda p: p[3].update(size=4), "takes parameters at"),
        (lambda p: p[3].update(name="p_colour"), "step.sm89.cubin takes p_x, .*p_colour"),
        (lambda p: p[-3].update(type="fp32"), r"takes a fp32, max_rows; this version passes i32"),
    ],
)
def test_a_manifest_that_does_not_fit_the_cubin_is_refused(
    fake: FakeDriver,
    bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[list[dict[str, Any]]], None],
    message: str,
) -> None:
    monkeypatch.setattr(cuda, "read_kernels", lambda _: change_parameters(bundle, change))
    with pytest.raises(EngineError, match=message):
        run(Loop(make_device(fake, bundle)), [make_task(bundle, 0)])


def test_what_a_kernel_does_not_take_is_refused(fake: FakeDriver, bundle: Bundle) -> None:
    device = make_device(fake, bundle)
    advance, arguments = device._kernels["advance"], device._arguments()
    known = {name: arguments[name] for name in ("p_rows", "p_counter", "p_row_count", "p_time", "max_rows")}
    for wrong, message in (
        ({k: v for k, v in known.items() if k != "p_time"}, "takes p_rows, .*, not"),
        ({**known, "p_more": arguments["p_x"]}, "takes p_rows, .*, not"),
    ):
        with pytest.raises(EngineError, match=message), device._gpu.calls("in a test"):
            device._gpu.launch(advance, (1, 1, 1), wrong)

    class Shifted:
        handle = int(arguments["p_time"].handle) + 4

    with pytest.raises(EngineError, match=r"p_time is .*, no multiple of 16"):
        device._gpu.launch(advance, (1, 1, 1), {**known, "p_time": Shifted})
    assert device._gpu.lost is None
    device.close()


def test_scalars_are_packed_as_their_type_says() -> None:
    kernel = gpu.GpuKernel(None, (), 16, 128, "step.ptx")
    packed = gpu.typed(kernel, {"name": "max_rows", "type": "i32", "divisible": False}, 4096)
    assert (packed.dtype, packed.nbytes) == (np.int32, 4)
    with pytest.raises(EngineError, match="pixels is 100, no multiple of 16"):
        gpu.typed(kernel, {"name": "pixels", "type": "i32", "divisible": True}, 100)
    with pytest.raises(OverflowError):
        gpu.typed(kernel, {"name": "pixels", "type": "i32", "divisible": False}, 2**31)


def test_names_that_are_no_device() -> None:
    with pytest.raises(EngineError, match="device 'gpu' is not one of cpu, cuda"):
        Editor.open(device="gpu")
    with pytest.raises(EngineError, match="eager True goes with device cuda"):
        Editor.open(eager=True)


@pytest.mark.parametrize("kernels", ["c", "numpy"])
def test_the_doctors_edit_is_the_cpus(kernels: str) -> None:
    device = CpuDevice(StubEngine(lambda x, time: x), doctor_gpu.GOLDEN, 2, twin(kernels))
    assert doctor_gpu.digest(doctor_gpu.golden_edits(device)) == doctor_gpu.EDIT


def test_doctor_tries_the_device(fake: FakeDriver, bundle: Bundle, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_gpu, "CUDA_ENGINES", ("onnxruntime",))  # tensorrt would meet the fake driver
    findings = doctor_findings(run, bundle)
    assert findings["GPU"] == ("ok", "fake sm89, sm89, its driver runs CUDA 13.0")
    verdict, detail = findings["kernels on the GPU"]
    assert (verdict, detail[12:24]) == ("ok", doctor_gpu.EDIT[:12])
    assert fake.graphs_launched > 0
    assert findings["engine onnxruntime on the GPU"][0] == "warning"
    assert "has no CUDA provider" in findings["engine onnxruntime on the GPU"][1]
    assert fake.counts() == NOTHING


def test_doctor_sees_wrong_bits_and_a_lost_device(
    fake: FakeDriver, bundle: Bundle, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor_gpu, "CUDA_ENGINES", ())
    real = doctor_gpu.GpuCopy.bind
    with monkeypatch.context() as patch:
        patch.setattr(doctor_gpu.GpuCopy, "bind", lambda self, x, time, out: real(self, out, time, x))
        verdict, detail = doctor_findings(run, bundle)["kernels on the GPU"]
    assert (verdict, detail[-12:]) == ("wrong", doctor_gpu.EDIT[:12])
    fake.lose_after = len(fake.launches) + 5
    verdict, detail = doctor_findings(run, bundle)["kernels on the GPU"]
    assert verdict == "wrong"
    assert "DEVICE_UNAVAILABLE" in detail


def doctor_findings(run: Run, bundle: Bundle) -> dict[str, tuple[str, str]]:
    _, stdout, _ = run("doctor", "--bundle", bundle.path, "--json")
    return {finding["what"]: (finding["verdict"], finding["detail"]) for finding in json.loads(stdout)}


def test_a_bundle_without_kernels(fake: FakeDriver, bundle: Bundle, tmp_path: Path) -> None:
    plain = write_bundle(tmp_path / "plain")
    with pytest.raises(EngineError, match=r"has no GPU kernels: sdedit export .* --cubins all"):
        Editor.open(plain, device="cuda")
    assert read_bundle(plain).shape == bundle.shape
    assert fake.counts() == NOTHING
