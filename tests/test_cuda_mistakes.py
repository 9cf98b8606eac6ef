"""The classic mistakes on a GPU, made on purpose: each is found out by what test_cuda.py looks at, or refused."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from cuda_devices import make_device, make_task, mixing, on_cpu, same
from device_memory import DeviceFault
from fake_driver import FakeDriver, values
from stubs import run

from sdedit.errors import EngineError
from sdedit.runtime.bundle import Bundle
from sdedit.runtime.bundle.kernels import Kernels, Parameter
from sdedit.runtime.bundle.records import Problems, read_record
from sdedit.runtime.cuda import context as gpu
from sdedit.runtime.devices import cuda_kernels
from sdedit.runtime.devices.cuda import CudaDevice
from sdedit.runtime.engines import DeviceArray, Enqueue
from sdedit.runtime.loop import Loop


@pytest.fixture(scope="session")
def bundle(bundle_with_kernels: Bundle) -> Bundle:
    return bundle_with_kernels


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
        device._gpu.wait()
        while device._graphs:
            device._graphs.popitem()[1].close()


def bind_again(device: CudaDevice) -> None:
    device._evaluate = device._bind({name: name for name in device._inputs}, "o")
    capture_again(device)


def no_mistake(device: CudaDevice, fake: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    capture_again(device)


def bakes_the_time(device: CudaDevice, fake: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that reads the time on the host when it is enqueued."""

    def bind(inputs: Mapping[str, DeviceArray], out: DeviceArray) -> Enqueue:
        x, time = inputs["x"], inputs["time"]

        def enqueue(stream: int) -> None:
            told = float(values(fake, time)[0])
            fake.enqueue(stream, lambda: fake.memory.write(out.address, mixing(values(fake, x), told)))

        return enqueue

    monkeypatch.setattr(device.engine, "bind", bind)
    bind_again(device)


def bakes_the_counter(device: CudaDevice, fake: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that takes its row by value, so that it stays as it was at capture."""
    arguments = device._arguments
    frozen = device._gpu.allocate(4)
    real = device._launch

    def launch(name: str, *rest: Any) -> None:
        with monkeypatch.context() as patch:
            if name.startswith("step"):
                patch.setattr(device, "_arguments", lambda: {**arguments(), "p_counter": frozen})
            real(name, *rest)

    monkeypatch.setattr(device, "_launch", launch)
    capture_again(device)


def swaps(one: str, other: str) -> Sabotage:
    def swap(device: CudaDevice, fake: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
        real = device._arguments
        monkeypatch.setattr(device, "_arguments", lambda: {**real(), one: real()[other], other: real()[one]})
        capture_again(device)

    return swap


def reallocates_after_capture(device: CudaDevice, fake: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reallocate a buffer after capture without a new graph."""
    (key,) = device._graphs
    monkeypatch.setattr(device, "_key", lambda busy: key)
    with device._gpu.calls("in a test"):
        device._memory.buffers["h"].close(device._gpu._stream)
        device._memory.buffers["h"] = device._gpu.allocate(4 * 3 * 8 * 8)


def uses_after_free(device: CudaDevice, fake: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    with device._gpu.calls("in a test"):
        device._gpu._stream.sync()
        fake.memory.free(int(device._memory.buffers["mask"].handle))


def does_not_wait(device: CudaDevice, fake: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device._gpu, "wait", lambda: None)


def overwrites_what_is_still_to_be_copied(
    device: CudaDevice, fake: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host changes the staging memory when the copy is enqueued and has not run."""
    write = device.write

    def hurried(slot: int, parts: Any) -> None:
        write(slot, parts)
        device._memory._staging[0][1][:] = 0

    monkeypatch.setattr(device, "write", hurried)


def off_by_four_bytes(device: CudaDevice, fake: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Move a pointer by 4 bytes, with our own check off, which another test is about."""
    real = device._arguments

    class Shifted:
        handle = int(device._memory.buffers["guide"].handle) + 4

    monkeypatch.setattr(device, "_arguments", lambda: {**real(), "p_guide": Shifted})
    loose = {name: dataclasses.replace(k, divisible_by=1) for name, k in device._kernels.functions.items()}
    device._kernels = dataclasses.replace(device._kernels, functions=loose)
    capture_again(device)


def rows_one_short(device: CudaDevice, fake: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Allocate room for 7 rows although the plan has 8."""
    with device._gpu.calls("in a test"):
        device._memory.buffers["rows"] = device._gpu.allocate(7 * 64)


def engine_reads_past_the_end(device: CudaDevice, fake: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    real = device._memory.part
    monkeypatch.setattr(
        device._memory, "part", lambda name, *where: dataclasses.replace(real(name, *where), shape=(2, 3, 8, 8))
    )
    bind_again(device)


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


def change_parameters(bundle: Bundle, change: Callable[[list[dict[str, Any]]], None]) -> Kernels:
    manifest = json.loads((bundle.path / "kernels" / "kernels.json").read_text())
    change(manifest["kernels"]["step"]["parameters"])
    kernels = read_record(Kernels, manifest, "", Problems())
    assert kernels is not None
    return kernels


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
    monkeypatch.setattr(cuda_kernels, "read_kernels", lambda _: change_parameters(bundle, change))
    with pytest.raises(EngineError, match=message):
        run(Loop(make_device(fake, bundle)), [make_task(bundle, 0)])


def test_what_a_kernel_does_not_take_is_refused(fake: FakeDriver, bundle: Bundle) -> None:
    device = make_device(fake, bundle)
    advance, arguments = device._kernels.functions["advance"], device._arguments()
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
    packed = gpu.typed(kernel, Parameter("max_rows", "i32", 0, 4, False), 4096)
    assert (packed.dtype, packed.nbytes) == (np.int32, 4)
    with pytest.raises(EngineError, match="pixels is 100, no multiple of 16"):
        gpu.typed(kernel, Parameter("pixels", "i32", 0, 4, True), 100)
    with pytest.raises(OverflowError):
        gpu.typed(kernel, Parameter("pixels", "i32", 0, 4, False), 2**31)
