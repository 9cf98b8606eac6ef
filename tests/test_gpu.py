"""The proofs of tests/test_cuda.py on a real driver: `pytest -m gpu`, on a machine with a GPU."""

import ctypes
import dataclasses
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stubs import StubEngine, run

from sdedit.benchmarks.gpu_programs import TESTED_KERNELS
from sdedit.errors import EngineError
from sdedit.kernels import twin
from sdedit.runtime.bundle import SHIPPED, Bundle, read_bundle
from sdedit.runtime.bundle.kernels import FOLDER
from sdedit.runtime.bundle.manifest import ImageSpec
from sdedit.runtime.checks import gpu as gpu_checks
from sdedit.runtime.cuda.context import Gpu
from sdedit.runtime.devices.cpu import CpuDevice
from sdedit.runtime.devices.cuda import CudaDevice
from sdedit.runtime.engines.names import first_engine
from sdedit.runtime.loop import Loop, Task
from sdedit.runtime.plan import make_plan

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The shipped model with the kernels in the folder that TESTED_KERNELS names; without it, with compiled ones."""
    from sdedit.export.additions import Addition, extend_bundle

    tested = os.environ.get(TESTED_KERNELS)
    if tested:
        addition = Addition(FOLDER, lambda bundle: copy_kernels(Path(tested), bundle))
    else:
        pytest.importorskip("triton", reason="triton, which compiles the kernels, is for Linux only")
        from sdedit.export.triton_kernels import TARGETS, kernels_addition

        addition = kernels_addition(TARGETS)
    return extend_bundle(SHIPPED, tmp_path_factory.mktemp("bundle") / "bundle", [addition])


def copy_kernels(folder: Path, bundle: Bundle) -> str:
    shutil.copytree(folder, bundle.path / FOLDER, dirs_exist_ok=True)
    return str(folder)


@pytest.fixture
def gpu() -> Iterator[Gpu]:
    """Skip if there is no GPU or if the fake driver of other tests is loaded."""
    try:
        if hasattr(ctypes.CDLL("libcuda.so.1"), "fake_start"):
            pytest.skip("the fake driver is loaded in this process: run pytest -m gpu")
    except OSError:
        pytest.skip("there is no NVIDIA driver here")
    try:
        found = Gpu()
    except EngineError as error:
        pytest.skip(str(error))
    yield found
    found.close()


@pytest.mark.parametrize("size", [(16, 16), (24, 24), (256, 256)])
@pytest.mark.parametrize("eager", [False, True])
def test_edits_side_by_side_are_the_cpus_bit_for_bit(
    gpu: Gpu, bundle: Bundle, size: tuple[int, int], eager: bool
) -> None:
    image = ImageSpec.fixed(3, *size)
    bundle = dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, image=image))
    plans: list[dict[str, Any]] = [
        {"steps": 9},
        {"repeats": 3, "keep": "fixed"},
        {"sampler": "dpmpp_2m_sde", "t0": 0.9},
    ]
    tasks = []
    for index, plan in enumerate(plans):
        rng = np.random.default_rng(index)
        options = {"t0": 0.6, "steps": 5, "sampler": "ancestral"} | plan
        guide = rng.uniform(-1, 1, bundle.state_shape).astype(np.float32)
        mask = rng.integers(0, 5, size).astype(np.float32) / 4
        tasks.append(Task(make_plan(bundle.schedule, "x0", **options), guide, mask, 2**64 - 7, index))
    device = CudaDevice(gpu, bundle, gpu_checks.GpuCopy(gpu), 2, eager)
    found = run(Loop(device), tasks)
    expected = run(Loop(CpuDevice(StubEngine(lambda x, time: x), bundle.inputs, 2, twin())), tasks)
    for one, other in zip(found, expected, strict=True):
        assert np.array_equal(one.view(np.uint32), other.view(np.uint32))


def test_doctor_finds_nothing_wrong(gpu: Gpu, bundle: Bundle) -> None:
    gpu.close()
    findings = list(gpu_checks.examine_gpu(bundle))
    assert [finding for finding in findings if finding.verdict == "wrong"] == []
    assert ("ok", "kernels on the GPU") in [(finding.verdict, finding.what) for finding in findings]


def test_an_edit_through_an_engine_is_near_the_cpus(gpu: Gpu, bundle: Bundle, guide: Path) -> None:
    """The two differ by the network's rounding: at most 2 of 255 in any pixel, because the engine's error is 1e-4."""
    from sdedit.runtime import Editor

    gpu.close()
    try:
        engine = first_engine("cuda", "float32")
    except EngineError as error:
        pytest.skip(str(error))
    with Editor.open(bundle.path, device="cuda", engine=engine) as editor, Editor.open(bundle.path) as on_cpu:
        images = [np.asarray(e.edit(guide, steps=8).images[0].pil, np.int16) for e in (editor, on_cpu)]
    assert np.abs(images[0] - images[1]).max() <= 2
    assert read_bundle(bundle.path).sha256 == editor.bundle.sha256
