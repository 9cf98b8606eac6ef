"""TorchEngine on the CUDA device: the fake driver's memory and stream, torch's CPU, the shipped network."""

import dataclasses

import numpy as np
import pytest
from cuda_devices import NOTHING, make_task, same
from fake_driver import FakeDriver
from stubs import run
from torch_on_fake import use_torch_on

from sdedit.errors import EngineError
from sdedit.kernels import twin
from sdedit.runtime.bundle import SHIPPED, Bundle, read_bundle
from sdedit.runtime.bundle.manifest import ImageSpec
from sdedit.runtime.cuda import Gpu
from sdedit.runtime.devices.cpu import CpuDevice
from sdedit.runtime.devices.cuda import CudaDevice
from sdedit.runtime.engines import load_engine
from sdedit.runtime.engines.torch import TorchEngine
from sdedit.runtime.loop import Loop, Task

pytestmark = pytest.mark.usefixtures("one_thread")

CLOSE = 2e-4
"""Law 4's bound for whole edits with the same network and noise: 1e-4 of the data range, which is 2."""


@pytest.fixture
def shipped(fake: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    use_torch_on(fake, monkeypatch)
    return read_bundle(SHIPPED)


def make_device(
    kernels: Bundle, network: Bundle, slots: int, eager: bool = False, precision: str = "float32"
) -> CudaDevice:
    """The shipped network on 16x16 states, with another bundle's kernels, which take any network's."""
    image = ImageSpec(3, 16, 16, 16, free=True, max_pixels=1024)
    kernels = dataclasses.replace(kernels, manifest=dataclasses.replace(kernels.manifest, image=image))
    gpu = Gpu()
    return CudaDevice(gpu, kernels, TorchEngine(network, gpu, precision, slots), slots, eager)


def on_onnxruntime(network: Bundle, tasks: list[Task]) -> list[np.ndarray]:
    return run(Loop(CpuDevice(load_engine(network, "onnxruntime", "float32", 1), network.inputs, 1, twin())), tasks)


@pytest.mark.parametrize("eager", [False, True])
def test_edits_are_onnxruntimes(fake: FakeDriver, bundle_with_kernels: Bundle, shipped: Bundle, eager: bool) -> None:
    """Three images in two slots that torch evaluates together, one of another size."""
    sizes = [(16, 16), (16, 16), (32, 16)]
    plans = [{"steps": 4, "repeats": 2}, {"steps": 3, "keep": "fixed"}, {"steps": 2, "sampler": "dpmpp_2m"}]
    tasks = [
        make_task(shipped, image, size, **plan) for image, (size, plan) in enumerate(zip(sizes, plans, strict=True))
    ]
    device = make_device(bundle_with_kernels, shipped, slots=2, eager=eager)
    loop = Loop(device)
    found = run(loop, tasks)
    for one, expected, task in zip(found, on_onnxruntime(shipped, tasks), tasks, strict=True):
        assert np.abs(one - expected).max() <= CLOSE
        assert np.abs(one - task.guide).max() > 0.1
    assert fake.fault is None
    assert device.captures == (0 if eager else 2)  # two kernels: one of them adds the first noise again
    loop.close()
    assert fake.counts() == NOTHING


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_lower_precisions_are_near(
    fake: FakeDriver, bundle_with_kernels: Bundle, shipped: Bundle, precision: str
) -> None:
    tasks = [make_task(shipped, 0, (16, 16), steps=2)]
    device = make_device(bundle_with_kernels, shipped, slots=1, precision=precision)
    (found,), (expected,) = run(Loop(device), tasks), on_onnxruntime(shipped, tasks)
    assert 1e-6 < np.abs(found - expected).max() <= 0.1  # it rounds, and no more
    assert not same([found], [expected])
    device.close()


def test_what_torch_raises_in_mid_edit_ends_the_edit_alone(
    fake: FakeDriver, bundle_with_kernels: Bundle, shipped: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = make_device(bundle_with_kernels, shipped, slots=1)

    def fail(self: object, function: object) -> None:
        raise RuntimeError("CUDA error:\nan illegal access")

    with monkeypatch.context() as patch:
        patch.setattr("torch_on_fake.TorchOnFake.enqueue", fail)
        with pytest.raises(EngineError, match=r"^torch failed in mid-edit: CUDA error: an illegal access$"):
            run(Loop(device), [make_task(shipped, 0, (16, 16), steps=2)])
    tasks = [make_task(shipped, 1, (16, 16), steps=2)]
    assert np.abs(run(Loop(device), tasks)[0] - on_onnxruntime(shipped, tasks)[0]).max() <= CLOSE
    device.close()
    assert fake.counts() == NOTHING
