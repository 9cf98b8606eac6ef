"""Several GPUs, and several editors on one: none disturbs another, whatever happens to it."""

import asyncio
import io
import threading
from collections.abc import Callable

import numpy as np
import pytest
from cuda_devices import NOTHING, WAIT, in_a_new_thread, make_device, make_task, mixing, on_cpu, same
from fake_driver import FakeDriver
from PIL import Image
from stubs import run

from sdedit.errors import DeviceLostError, EngineError
from sdedit.runtime import Editor
from sdedit.runtime.bundle import Bundle
from sdedit.runtime.cuda import Gpu
from sdedit.runtime.devices.opening import parse_device
from sdedit.runtime.images import encode_png
from sdedit.runtime.loop import Loop
from sdedit.runtime.settings import Settings
from sdedit.serve.limits import Limits
from sdedit.serve.models import Model
from sdedit.serve.spreading import SpreadingBackend, device_names
from sdedit.serve.telemetry import Telemetry
from sdedit.serve.wire import EditRequest, Finished


@pytest.fixture(scope="session")
def bundle(bundle_with_kernels: Bundle) -> Bundle:
    return bundle_with_kernels


@pytest.mark.parametrize(
    ("name", "parsed"), [("cpu", ("cpu", 0)), ("cuda", ("cuda", 0)), ("cuda:0", ("cuda", 0)), ("cuda:12", ("cuda", 12))]
)
def test_a_device_is_named_by_kind_and_number(name: str, parsed: tuple[str, int]) -> None:
    assert parse_device(name) == parsed


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gpu", "device 'gpu' is not one of cpu, cuda, cuda:1, ..."),
        ("cpu:0", "device 'cpu:0' is not one of"),
        ("cuda:", "device 'cuda:': '' is not the number of a GPU"),
        ("cuda:-1", "'-1' is not the number of a GPU"),
        ("cuda:1000", "'1000' is not the number of a GPU"),
        ("cuda:\N{SUPERSCRIPT TWO}", "is not the number of a GPU"),
    ],
)
def test_other_names_are_refused(name: str, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        Editor.open(device=name)


def test_a_gpu_that_is_not_there_is_one_line(fake: FakeDriver) -> None:
    with pytest.raises(EngineError, match=r"^there is no GPU 1: the NVIDIA driver finds 1, numbered from 0$"):
        Gpu(1)
    assert fake.counts() == NOTHING


def with_two_gpus(fake: FakeDriver, function: Callable[[], None]) -> None:
    fake.set_gpus(2)
    in_a_new_thread(function)


def test_each_gpu_runs_its_own_work(fake: FakeDriver, bundle: Bundle) -> None:
    """Two devices step in turn in one thread, so a context that is not made current would show."""

    def check() -> None:
        devices = [make_device(fake, bundle, index=index) for index in (0, 1)]
        assert [device.name for device in devices] == ["cuda", "cuda:1"]
        tasks = [make_task(bundle, image, steps=5) for image in range(2)]
        loops = [Loop(device) for device in devices]
        for loop, task in zip(loops, tasks, strict=True):
            loop.admit(task)
        found: list[np.ndarray] = []
        while any(loop.busy for loop in loops):
            for loop in loops:
                found += [x for _, x in loop.step()]
        assert same(found, run(Loop(on_cpu(bundle)), tasks))
        for device in devices:
            device.close()

    with_two_gpus(fake, check)
    assert fake.fault is None
    assert fake.counts() == NOTHING


def test_a_gpu_that_is_lost_takes_no_other_with_it(fake: FakeDriver, bundle: Bundle) -> None:
    guide = np.zeros((8, 8, 3), np.uint8)

    def check() -> None:
        with (
            Editor(bundle, make_device(fake, bundle)) as one,
            Editor(bundle, make_device(fake, bundle, index=1)) as two,
        ):
            expected = two.edit(guide, steps=3).images[0].pil.tobytes()
            fake.lose_after = len(fake.launches) + 4
            with pytest.raises(EngineError, match="DEVICE_UNAVAILABLE"):
                one.edit(guide, steps=8)
            fake.lose_after = None
            edit = two.edit(guide, steps=3)
            assert edit.images[0].pil.tobytes() == expected
            assert edit.recipe["device"] == "cuda:1"

    with_two_gpus(fake, check)


def test_a_server_of_two_gpus_loses_no_edit_with_one_of_them(fake: FakeDriver, bundle: Bundle) -> None:
    """The first GPU's fault is its context's, as an illegal access is: the second one makes both edits."""
    calls = []

    def faulty(x: np.ndarray, told: float) -> np.ndarray:
        calls.append(told)
        if len(calls) > 5:
            raise RuntimeError("an illegal access, in a test")
        return mixing(x, told)

    guide = encode_png(Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)), {})
    requests = [EditRequest(guide, Settings(steps=8, seed=seed), preview_every=2) for seed in range(2)]
    steps: dict[int, list[int]] = {0: [], 1: []}
    telemetry = Telemetry()

    async def serve(models: dict[str, dict[str, Model]]) -> list[Finished]:
        backend = SpreadingBackend(models, Limits(), telemetry)
        edits = [
            backend.edit(request, lambda step, seed=seed: steps[seed].append(step.step))  # type: ignore[misc]
            for seed, request in enumerate(requests)
        ]
        found = await asyncio.wait_for(asyncio.gather(*edits), WAIT)
        await backend.close()
        return found

    def check() -> None:
        devices = [make_device(fake, bundle, function=faulty), make_device(fake, bundle, index=1)]
        models = {device.name: {"tiny": Model("tiny", Editor(bundle, device), 0.01)} for device in devices}
        found = asyncio.run(serve(models))
        with Editor(bundle, on_cpu(bundle)) as alone:
            expected = [alone.edit(guide, steps=8, seed=seed).images[0].pil.tobytes() for seed in range(2)]
        assert [Image.open(io.BytesIO(edit.images[0].png)).tobytes() for edit in found] == expected
        assert [edit.images[0].recipe["device"] for edit in found] == ["cuda:1", "cuda:1"]

    with_two_gpus(fake, check)
    assert len(calls) == 6
    assert all(told == sorted(set(told)) for told in steps.values())
    lines = telemetry.text().decode().splitlines()
    assert {'sdedit_device_lost{device="cuda"} 1.0', 'sdedit_device_lost{device="cuda:1"} 0.0'} <= set(lines)
    assert {f'sdedit_device_edits_total{{device="{name}"}} {n}.0' for name, n in (("cuda", 1), ("cuda:1", 2))} <= set(
        lines
    )


@pytest.mark.parametrize(("status", "error"), [(0, EngineError), (700, DeviceLostError)])
def test_an_engines_error_is_a_loss_if_the_gpu_is_lost(fake: FakeDriver, status: int, error: type[Exception]) -> None:
    """The engine's error alone does not say so: the GPU is asked."""
    gpu = Gpu()

    def stumble() -> None:
        fake.library.fake_fail(status)
        raise EngineError("the engine stumbled")

    with pytest.raises(EngineError, match="the engine stumbled") as raised, gpu.calls("in a test"):
        stumble()
    assert raised.type is error
    assert (gpu.lost is not None) == (error is DeviceLostError)
    gpu.close()


def test_all_gpus_are_counted_by_the_driver(fake: FakeDriver) -> None:
    fake.set_gpus(3)
    assert device_names("all") == ["cuda", "cuda:1", "cuda:2"]


def test_work_for_the_wrong_gpu_is_refused(fake: FakeDriver, bundle: Bundle) -> None:
    """An event of one GPU recorded on a stream of another; a launch while the other one is current."""

    def check() -> None:
        one, two = Gpu(0), Gpu(1)
        with one.calls("in a test"):
            event = one.record()
        with pytest.raises(EngineError, match="INVALID_HANDLE"), two.calls("in a test"):
            two.record(event)
        with pytest.raises(EngineError, match="INVALID_HANDLE"), one.calls("in a test"):
            two.copy_addresses(0, 0, 4)
        two.close()
        one.close()

    with_two_gpus(fake, check)


def test_two_editors_share_one_gpu(fake: FakeDriver, bundle: Bundle) -> None:
    """They have a stream each, capture at the same time, and one may close while the other works."""
    guide = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)
    with Editor(bundle, on_cpu(bundle)) as alone:
        expected = [alone.edit(guide, steps=4, seed=seed).images[0].pil.tobytes() for seed in range(3)]
    found: dict[int, list[bytes]] = {}

    def work(number: int) -> None:
        with Editor(bundle, make_device(fake, bundle)) as editor:
            found[number] = [editor.edit(guide, steps=4, seed=seed).images[0].pil.tobytes() for seed in range(3)]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    assert found == {0: expected, 1: expected}
    assert fake.fault is None
    assert fake.counts() == NOTHING


def test_an_error_of_the_context_reaches_both_editors_of_a_gpu(fake: FakeDriver, bundle: Bundle) -> None:
    """A fault ends the context, as in CUDA; a process has one for a GPU."""
    one, two = make_device(fake, bundle), make_device(fake, bundle)
    run(Loop(two), [make_task(bundle, 0)])
    fake.lose_after = len(fake.launches)
    with pytest.raises(EngineError, match="DEVICE_UNAVAILABLE"):
        run(Loop(one), [make_task(bundle, 0)])
    with pytest.raises(EngineError, match="DEVICE_UNAVAILABLE"):
        run(Loop(two), [make_task(bundle, 0)])
    one.close()
    two.close()
    left = fake.counts()
    assert [left[name] for name in ("allocations", "streams", "graphs", "executables")] == [0, 0, 0, 0]
