"""More mistakes on a GPU: each is made on purpose and seen, or shown to be harmless."""

import numpy as np
import pytest
from cuda_devices import NOTHING, make_device, make_task, mixing, on_cpu, same
from fake_driver import FakeDriver, StandInEngine
from stubs import run

from sdedit.errors import EngineError
from sdedit.runtime.bundle import Bundle
from sdedit.runtime.cuda import Gpu
from sdedit.runtime.devices.cpu import CpuDevice
from sdedit.runtime.devices.cuda import CudaDevice
from sdedit.runtime.loop import Loop


@pytest.fixture(scope="session")
def bundle(bundle_with_kernels: Bundle) -> Bundle:
    return bundle_with_kernels


def preview(device: CudaDevice | CpuDevice, bundle: Bundle, image: int = 0) -> np.ndarray:
    loop = Loop(device)
    task = make_task(bundle, image, steps=6)
    loop.admit(task)
    loop.step()
    loop.step()
    found = loop.prediction(task)()
    loop.clear()
    return found


@pytest.mark.parametrize("wrong", [False, True])
def test_an_event_on_the_wrong_stream(
    fake: FakeDriver, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, wrong: bool
) -> None:
    """The host then takes the copy before it was made."""
    device, other = make_device(fake, bundle), Gpu()
    expected = preview(on_cpu(bundle), bundle)
    preview(device, bundle, 1)  # graphs are captured, so that nothing waits
    if wrong:
        monkeypatch.setattr(device._gpu, "record", lambda event=None: other.record())
    assert same([preview(device, bundle)], [expected]) is not wrong
    device.close()
    other.close()


def test_a_graph_that_was_captured_with_another_network(fake: FakeDriver, bundle: Bundle) -> None:
    """A device that changed its engine, or its precision, and kept its graphs would run the network from before."""
    device = make_device(fake, bundle, function=lambda x, told: mixing(x, told) * np.float32(0.5))
    task = make_task(bundle, 0)
    before = run(Loop(device), [task])
    engine = StandInEngine(fake, mixing)
    arrays = {name: device._memory.part(name, 0, 1) for name in ("x", "time")}
    device._evaluate = {0: engine.bind(arrays, device._memory.part("o", 0, 1))}
    expected = run(Loop(on_cpu(bundle)), [task])
    assert same(run(Loop(device), [task]), before)
    device._graphs.clear()
    assert same(run(Loop(device), [task]), expected)
    device.close()


def test_editors_of_two_networks_on_one_gpu_have_graphs_of_their_own(fake: FakeDriver, bundle: Bundle) -> None:
    def halved(x: np.ndarray, told: float) -> np.ndarray:
        return mixing(x, told) * np.float32(0.5)

    task = make_task(bundle, 0)
    devices = [make_device(fake, bundle, function=function) for function in (mixing, halved)]
    for _ in range(2):
        for device, function in zip(devices, (mixing, halved), strict=True):
            assert same(run(Loop(device), [task]), run(Loop(on_cpu(bundle, function=function)), [task]))
    for device in devices:
        device.close()
    assert fake.counts() == NOTHING


@pytest.mark.parametrize("wrong", [False, True])
def test_two_readings_in_one_landing_buffer(
    fake: FakeDriver, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, wrong: bool
) -> None:
    device = make_device(fake, bundle)
    guide, mask = np.full(bundle.state_shape, 3, np.float32), np.full(bundle.state_shape[1:], 0.25, np.float32)
    device.write(0, {"guide": guide, "mask": mask})
    if wrong:
        view = np.ndarray.view
        monkeypatch.setattr(
            device._memory,
            "_values",
            lambda name, host: view(host[: device._memory.slot_bytes(name)], np.float32).reshape(
                device._memory.specs[name][0][1:]
            ),
        )
    found = device.read(0, "guide")
    device.read(0, "mask")
    assert same([found], [guide]) is not wrong
    device.close()


def test_a_slot_that_is_freed_and_taken_again_while_a_step_runs(fake: FakeDriver, bundle: Bundle) -> None:
    """row_count is written while two graphs are in flight: the copy has its turn on the stream."""
    stays, goes, comes = (make_task(bundle, image, steps=8) for image in range(3))
    results = []
    for device in (make_device(fake, bundle, slots=2), on_cpu(bundle, slots=2)):
        loop, found = Loop(device), []
        loop.admit(stays)
        loop.admit(goes)
        for at in range(12):
            if at == 4:
                loop.drop(goes)
                loop.admit(comes)
            found += [x for _, x in loop.step()]
        results.append(found)
        loop.close()
    assert same(*results)
    assert len(results[0]) == 2
    assert fake.counts() == NOTHING


def test_a_context_that_is_lost_inside_close(fake: FakeDriver, bundle: Bundle) -> None:
    device = make_device(fake, bundle)
    loop = Loop(device)
    loop.admit(make_task(bundle, 0, steps=8))
    loop.step()
    loop.step()
    fake.lose_after = len(fake.launches)  # what is in flight fails when close waits for it
    device.close()
    left = fake.counts()
    assert [left[name] for name in ("allocations", "streams", "graphs", "executables")] == [0, 0, 0, 0]


def test_a_preview_without_page_locked_memory_waits_instead(fake: FakeDriver, bundle: Bundle) -> None:
    device = make_device(fake, bundle)
    fake.library.fake_limit_host_buffers(0)
    assert same([preview(device, bundle)], [preview(on_cpu(bundle), bundle)])
    device.close()
    assert fake.counts() == NOTHING


def test_a_grid_that_is_too_large(fake: FakeDriver, bundle: Bundle) -> None:
    """check_shape refuses sides that would need one; the driver would too."""
    device = make_device(fake, bundle)
    with pytest.raises(EngineError, match="INVALID_VALUE"), device._gpu.calls("in a test"):
        device._launch("begin", (3, 65536, 1))
    device.close()


def test_the_gpus_own_arrays_are_not_written_by_the_host(fake: FakeDriver, bundle: Bundle) -> None:
    device = make_device(fake, bundle)
    with pytest.raises(ValueError, match="x of a slot is written by the GPU alone"):
        device.write(0, {"x": np.zeros(bundle.state_shape, np.float32)})
    device.close()
