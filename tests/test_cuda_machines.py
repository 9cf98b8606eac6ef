"""Device cuda on machines of every kind: which binary a GPU gets, what is refused and how, and what doctor finds."""

import ctypes
import json
from pathlib import Path

import pytest
from command_line import Run
from cuda_devices import NOTHING, in_a_new_thread, make_device, make_task, on_cpu, same
from fake_driver import FakeDriver
from stubs import StubEngine, run
from tiny import write_bundle

from sdedit.errors import EngineError
from sdedit.kernels import twin
from sdedit.runtime import Editor
from sdedit.runtime.bundle import Bundle, network_inputs, read_bundle
from sdedit.runtime.checks import golden
from sdedit.runtime.checks import gpu as gpu_checks
from sdedit.runtime.cuda import driver
from sdedit.runtime.cuda.context import Gpu
from sdedit.runtime.devices.cpu import CpuDevice
from sdedit.runtime.loop import Loop


@pytest.fixture(scope="session")
def bundle(bundle_with_kernels: Bundle) -> Bundle:
    return bundle_with_kernels


def test_without_a_driver_one_line_says_so_and_the_cpu_stays_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "LIBRARY", "libcuda-of-nowhere.so.1")
    with pytest.raises(EngineError, match=r"^there is no NVIDIA driver here, .* cannot be loaded: use device cpu$"):
        Editor.open(device="cuda")
    with Editor.open(device="cpu") as editor:
        assert editor.device.name == "cpu"


def test_without_the_packages_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "PACKAGES", ("cuda-core-of-nowhere",))
    with pytest.raises(EngineError, match=r"needs the package cuda-core-of-nowhere: pip install 'PATH\[cuda\]'"):
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


def test_names_that_are_no_device() -> None:
    with pytest.raises(EngineError, match="device 'gpu' is not one of cpu, cuda"):
        Editor.open(device="gpu")
    with pytest.raises(EngineError, match="eager True goes with device cuda"):
        Editor.open(eager=True)


@pytest.mark.parametrize("kernels", ["c", "numpy"])
def test_the_doctors_edit_is_the_cpus(kernels: str) -> None:
    device = CpuDevice(StubEngine(lambda x, time: x), network_inputs(golden.SHAPE), 2, twin(kernels))
    assert golden.digest(golden.copied_edits(device)) == golden.COPIED


def test_doctor_tries_the_device(fake: FakeDriver, bundle: Bundle, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_checks, "ENGINES", {"cuda": ("onnxruntime",)})  # tensorrt would meet the fake driver
    findings = doctor_findings(run, bundle)
    assert findings["GPU"] == ("ok", "fake sm89, sm89, its driver runs CUDA 13.0")
    verdict, detail = findings["kernels on the GPU"]
    assert (verdict, detail[12:24]) == ("ok", golden.COPIED[:12])
    assert fake.graphs_launched > 0
    assert findings["engine onnxruntime on the GPU"][0] == "warning"
    assert "has no CUDA provider" in findings["engine onnxruntime on the GPU"][1]
    assert fake.counts() == NOTHING


def test_doctor_sees_wrong_bits_and_a_lost_device(
    fake: FakeDriver, bundle: Bundle, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_checks, "ENGINES", {"cuda": ()})
    real = gpu_checks.GpuCopy.bind
    with monkeypatch.context() as patch:
        patch.setattr(
            gpu_checks.GpuCopy, "bind", lambda self, inputs, out: real(self, {**inputs, "x": out}, inputs["x"])
        )
        verdict, detail = doctor_findings(run, bundle)["kernels on the GPU"]
    assert (verdict, detail[-12:]) == ("wrong", golden.COPIED[:12])
    fake.lose_after = len(fake.launches) + 5
    verdict, detail = doctor_findings(run, bundle)["kernels on the GPU"]
    assert verdict == "wrong"
    assert "DEVICE_UNAVAILABLE" in detail


def doctor_findings(run: Run, bundle: Bundle) -> dict[str, tuple[str, str]]:
    _, stdout, _ = run("doctor", "--bundle", bundle.path, "--json")
    return {finding["what"]: (finding["verdict"], finding["detail"]) for finding in json.loads(stdout)}


def test_a_bundle_without_kernels(fake: FakeDriver, bundle: Bundle, tmp_path: Path) -> None:
    plain = write_bundle(tmp_path / "plain")
    with pytest.raises(EngineError, match=r"has no GPU kernels: sdedit extend .* --cubins all"):
        Editor.open(plain, device="cuda")
    assert read_bundle(plain).state_shape == bundle.state_shape
    assert fake.counts() == NOTHING


@pytest.mark.parametrize("given", range(1, 5))
def test_page_locked_memory_that_runs_out_is_one_line_and_no_leak(fake: FakeDriver, bundle: Bundle, given: int) -> None:
    """3 slots take 3 buffers to stage and one to read."""
    fake.library.fake_limit_host_buffers(given - 1)
    with pytest.raises(
        EngineError, match=r"^the host cannot give fake sm89 \d\.\d MB of page-locked memory: .*\S"
    ) as caught:
        make_device(fake, bundle, slots=3)
    assert "\n" not in str(caught.value)
    assert fake.counts() == NOTHING


def test_an_engine_that_fails_to_close_leaks_nothing(
    fake: FakeDriver, bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    device = make_device(fake, bundle, slots=2)

    def fails() -> None:
        raise RuntimeError("no\nway")

    device.engine.close = fails
    run(Loop(device), [make_task(bundle, 0)])
    device.close()
    device.close()
    assert fake.counts() == NOTHING
    assert caplog.messages == ["engine stand-in failed to close: no way"]
