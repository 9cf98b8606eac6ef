"""The CUDA device on a driver that is not there: the unmodified cuda.core on fake_cuda.c, kernels in the PTX emulator.

What is proven: every call, address, argument, copy and graph, and by them the very bits of the CPU device. What is not:
that a real driver accepts the binaries, and anything about time.
"""

import ctypes
import dataclasses
import random
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda_devices import NOTHING, WAIT, make_device, make_task, mixing, on_cpu, same
from fake_driver import FakeDriver, StandInEngine
from random_jobs import some_job
from stubs import run

from sdedit.errors import CancelledError, EngineError
from sdedit.runtime import Editor, Job
from sdedit.runtime.bundle import Bundle
from sdedit.runtime.bundle.manifest import ImageSpec
from sdedit.runtime.cuda.context import Gpu
from sdedit.runtime.devices import cuda
from sdedit.runtime.devices.cpu import CpuDevice
from sdedit.runtime.devices.cuda import CudaDevice, GraphKey
from sdedit.runtime.loop import Loop


@pytest.fixture(scope="session")
def bundle(bundle_with_kernels: Bundle) -> Bundle:
    return bundle_with_kernels


def resized(bundle: Bundle, height: int, width: int) -> Bundle:
    """The bundle as if its images had that size; the kernels take any."""
    image = ImageSpec.fixed(3, height, width)
    return dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, image=image))


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
    guide, mask = np.full(bundle.state_shape, 3, np.float32), np.full(bundle.state_shape[1:], 0.25, np.float32)
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
            seen.append(loop.prediction(task)())
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
from sdedit.runtime.checks import golden
from sdedit.runtime.checks.gpu import copied_edits
bundle = read_bundle({bundle!r})
driver = FakeDriver(library, bundle.path / "kernels")
assert golden.digest(copied_edits(bundle, eager=False)) == golden.COPIED
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


def test_the_graph_that_was_not_used_for_longest_makes_room(
    fake: FakeDriver, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "MAX_GRAPHS", 2)
    device = make_device(fake, bundle)
    for key in (GraphKey((0,), "step"), GraphKey((0,), "step_begin_noise")):
        with device._gpu.calls("in a test"):
            device._run(key)
    with device._gpu.calls("in a test"):
        device._run(GraphKey((0,), "step"))
        device._run(GraphKey((), "step"))
    assert list(device._graphs) == [GraphKey((0,), "step"), GraphKey((), "step")]
    device.close()


def test_a_preview_is_copied_while_the_device_goes_on(fake: FakeDriver, bundle: Bundle) -> None:
    """A preview shows the moment of the request, and the request does not wait."""
    device, on_host = make_device(fake, bundle), on_cpu(bundle)
    found = []
    for loop in (Loop(device), Loop(on_host)):
        task = make_task(bundle, 0, steps=4)
        loop.admit(task)
        loop.step()
        loop.step()
        fetch = loop.prediction(task)
        loop.step()
        found.append(fetch())
        loop.clear()
    assert same([found[0]], [found[1]])
    device.close()
    assert fake.counts() == NOTHING


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


def test_previews_that_nobody_fetches_take_no_more_memory(fake: FakeDriver, bundle: Bundle) -> None:
    device = make_device(fake, bundle)
    loop = Loop(device)
    task = make_task(bundle, 0, steps=8)
    loop.admit(task)
    counts = []
    for _ in range(6):
        loop.step()
        loop.prediction(task)
        counts.append(fake.counts()["host buffers"])
    assert set(counts) == {counts[0]}
    device.close()


def test_asking_for_a_preview_does_not_wait(fake: FakeDriver, bundle: Bundle) -> None:
    device = make_device(fake, bundle)
    assert isinstance(device.engine, StandInEngine)
    loop = Loop(device)
    task = make_task(bundle, 0, steps=8)
    loop.admit(task)
    loop.step()  # the first step is waited for, before it is captured
    loop.step()
    waits, evaluations = fake.waits, device.engine.evaluations
    fetch = loop.prediction(task)
    assert (fake.waits, device.engine.evaluations) == (waits, evaluations)
    loop.step()
    assert device.engine.evaluations <= evaluations + 1
    fetch()
    device.close()
