"""The parts of `python -m sdedit.benchmarks.gpu`, each run in a process of its own. Times are the host's, with waits.

A part yields what it finds as names and values, and each is written at once; it raises if something is wrong.
"""

if __name__ == "__main__":  # before the imports, which take seconds
    from sdedit.entry import run_module

    run_module("sdedit.benchmarks.gpu_parts")
    raise SystemExit

import dataclasses
import faulthandler
import os
import platform
import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from sdedit.console import Number, run_command, to_json
from sdedit.errors import EngineError
from sdedit.kernels import twin
from sdedit.runtime import Editor
from sdedit.runtime.bundle import Bundle, read_bundle
from sdedit.runtime.bundle.kernels import PTX_CAPABILITY
from sdedit.runtime.bundle.manifest import ImageSpec
from sdedit.runtime.checks.gpu import GpuCopy, examine_gpu
from sdedit.runtime.checks.parity import TOLERANCES, measure_error
from sdedit.runtime.cuda import Gpu
from sdedit.runtime.devices.cpu import CpuDevice
from sdedit.runtime.devices.cuda import CudaDevice
from sdedit.runtime.devices.cuda_tiles import OnHost
from sdedit.runtime.engines import ENGINES, Evaluate, installed_engines, open_cuda_engine
from sdedit.runtime.engines.remembered import installed_versions
from sdedit.runtime.loop import Device, Loop, Task
from sdedit.runtime.plan import KEEPS, SAMPLERS, make_plan

from .contenders import not_installed
from .gpu import print_all, write
from .gpu_programs import Found, run_sanitizers, run_tests
from .measure import timed_by

PACKAGES = ("cuda-core", "cuda-bindings", "tensorrt-rtx", "tensorrt", "onnxruntime-gpu", "torch", "triton", "numpy")

SIDES = ((4, 4), (8, 8), (8, 12), (24, 24), (64, 64), (48, 80))
"""Height and width of the states whose bits are compared."""

SLOTS = 8
MANY_SLOTS = 64
"""Slots whose state no cache of a GPU holds: of 256x256, it is 300 MB; that of SLOTS is 38 MB."""


@dataclass(frozen=True)
class Request:
    """Arguments of all parts. index: number of the GPU."""

    bundle: Bundle
    index: int
    quick: bool


@contextmanager
def a_gpu(request: Request) -> Iterator[Gpu]:
    gpu = Gpu(request.index)
    try:
        yield gpu
    finally:
        gpu.close()


def machine(request: Request) -> Found:
    """GPU, driver and versions."""
    with a_gpu(request) as gpu:
        major, minor = gpu.capability
        with gpu.calls("to tell its free memory"):
            free = gpu.free_memory()
        yield "GPU", gpu.name
        yield "architecture", f"sm{major}{minor}"
        yield "driver's CUDA", f"{gpu.driver // 1000}.{gpu.driver % 1000 // 10}"
        yield "free memory, GB", round(free / 1e9, 2)
        yield "python", platform.python_version()
        yield "packages", installed_versions(PACKAGES)


def doctor(request: Request) -> Found:
    """The findings of `sdedit doctor` about the GPU."""
    wrong = []
    for finding in examine_gpu(request.bundle, request.index):
        yield finding.what, f"{finding.verdict}: {finding.detail}"
        if finding.verdict == "wrong":
            wrong.append(f"{finding.what}: {finding.detail}")
    if wrong:
        raise EngineError("; ".join(wrong))


def kernels(request: Request) -> Found:
    """Bits of whole edits against numpy's, for drawn plans and shapes, from the cubin and from the PTX."""
    rounds = 2 if request.quick else 40
    for kind in ("cubin", "ptx"):
        edits = 0
        for index in range(rounds):
            edits += compare_bits(request, index, kind == "ptx")
            yield f"edits with numpy's bits, {kind}", edits


def compare_bits(request: Request, index: int, ptx: bool) -> int:
    """Run some drawn edits on GPU and CPU; raises EngineError where a bit differs. Returns their number."""
    rng = np.random.default_rng(index)
    height, width = SIDES[index % len(SIDES)]
    bundle = of_size(request.bundle, height, width)
    tasks = [drawn_task(rng, bundle, image) for image in range(4)]
    with a_gpu(request) as gpu:
        if ptx:
            gpu.capability = PTX_CAPABILITY  # which no cubin fits
        device = CudaDevice(gpu, bundle, GpuCopy(gpu), 2, eager=index % 2 == 1)
        try:
            found = results_of(device, tasks)
        finally:
            device.close()
    expected = results_of(CpuDevice(Copying(), bundle.inputs, 2, twin("numpy"), bundle.null_label is not None), tasks)
    for one, other in zip(found, expected, strict=True):
        if one.tobytes() != other.tobytes():
            differing = int((one != other).sum())
            raise EngineError(f"{differing} of {one.size} values of {height}x{width} differ, round {index}, ptx {ptx}")
    return len(tasks)


def drawn_task(rng: np.random.Generator, bundle: Bundle, image: int) -> Task:
    """A masked edit with a drawn plan."""
    guidance = float(rng.choice([1.0, 2.5])) if bundle.null_label is not None else 1.0
    plan = make_plan(
        bundle.schedule,
        bundle.prediction,
        t0=float(rng.uniform(0.5, 1)),
        steps=int(rng.integers(1, 6)),
        sampler=str(rng.choice(list(SAMPLERS))),
        keep=str(rng.choice(list(KEEPS))),
        repeats=int(rng.integers(1, 3)),
        guidance=guidance,
    )
    guide = rng.uniform(-1, 1, bundle.state_shape).astype(np.float32)
    mask = rng.integers(0, 5, bundle.state_shape[1:]).astype(np.float32) / 4
    return Task(plan, guide, mask, int(rng.integers(2**63)), image)


def of_size(bundle: Bundle, height: int, width: int) -> Bundle:
    """The bundle as if its images had that size: the kernels take any."""
    image = ImageSpec.fixed(bundle.image.channels, height, width)
    return dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, image=image))


def results_of(device: Device, tasks: list[Task]) -> list[np.ndarray]:
    loop, waiting = Loop(device), list(tasks)
    results: dict[Task, np.ndarray] = {}
    while waiting or loop.busy:
        while waiting and not loop.full:
            loop.admit(waiting.pop(0))
        results.update(loop.step())
    return [results[task] for task in tasks]


class Copying:
    """An engine on the CPU with o = x, as GpuCopy on the GPU."""

    name, precision, version = "copy", "float32", "1"
    batch = threads = 1

    def bind(self, inputs: Mapping[str, np.ndarray], out: np.ndarray) -> Evaluate:
        def evaluate() -> None:
            out[:] = inputs["x"]

        return evaluate


def speed(request: Request) -> Found:
    """The step kernel's bytes a second beside a copy's, graphs beside eager steps, and whole edits."""
    rounds = 20 if request.quick else 200
    size = (64, 64) if request.quick else (256, 256)
    bundle = of_size(request.bundle, *size)
    for eager in (True, False):
        with filled(request, bundle, SLOTS, eager) as (gpu, device):
            yield f"ms a step of {SLOTS} slots, {'eager' if eager else 'graph'}", timed(gpu, device.step, rounds)
    for slots in (SLOTS,) if request.quick else (SLOTS, MANY_SLOTS):
        with filled(request, bundle, slots, eager=True) as (gpu, device):
            yield from bandwidth(gpu, device, rounds)
    if request.bundle.state_shape[1] <= max(size):
        yield whole_edit(request)


@contextmanager
def filled(request: Request, bundle: Bundle, slots: int, eager: bool) -> Iterator[tuple[Gpu, CudaDevice]]:
    """A device on a GPU of its own, whose network is a copy and whose slots are all busy."""
    with a_gpu(request) as gpu:
        device = CudaDevice(gpu, bundle, GpuCopy(gpu), slots, eager)
        fill(device, bundle, slots)
        yield gpu, device
        device.close()


def fill(device: CudaDevice, bundle: Bundle, slots: int) -> None:
    """Give every slot a plan that is as long as plans get, so that all are busy in every timed step."""
    plan = make_plan(bundle.schedule, bundle.prediction, t0=1.0, steps=min(len(bundle.schedule), 1000), sampler="ddim")
    loop = Loop(device)
    for image in range(slots):
        state = np.zeros(bundle.state_shape, np.float32)
        loop.admit(Task(plan, state, np.ones(bundle.state_shape[1:], np.float32), 1, image))
    device.begin()


def bandwidth(gpu: Gpu, device: CudaDevice, rounds: int) -> Found:
    """GB/s of the step kernel, which reads 4 arrays and the mask and writes 2, and of a copy of one array.

    Each is launched by graphs of several: one launch takes the host longer than it takes the GPU.
    """
    memory, slots = device._memory, device.slots
    name = "step_guided" if device._guided else "step"
    o = {} if device._guided else {"p_o_uncond": memory.buffers["o"]}
    image, mask = slots * memory.slot_bytes("x"), slots * memory.slot_bytes("mask")
    moved = (7 if device._guided else 6) * image + mask
    step = milliseconds_in_graph(gpu, lambda: device._launch(name, device._grid(), o), rounds)
    copy = milliseconds_in_graph(gpu, lambda: gpu.copy(memory.buffers["h"], 0, memory.buffers["o"], 0, image), rounds)
    yield f"step kernel, {slots} slots, GB/s", round(moved / step / 1e6, 1)
    yield f"copy of one array, {slots} slots, GB/s", round(2 * image / copy / 1e6, 1)


def milliseconds_in_graph(gpu: Gpu, enqueue: Callable[[], object], rounds: int) -> float:
    """Milliseconds of what is enqueued, from replays of a graph that has it rounds / 10 times."""
    times = max(rounds // 10, 1)

    def enqueue_all() -> None:
        for _ in range(times):
            enqueue()

    with gpu.calls("in a measurement"):
        enqueue()  # before the capture: the first launch loads the kernel
        gpu.wait()
        graph = gpu.capture(enqueue_all)
        took = timed(gpu, lambda: gpu.replay(graph), times)
        gpu.free(graph)
    return took / times


def timed(gpu: Gpu, function: Callable[[], object], rounds: int) -> float:
    """Milliseconds a call, from the first enqueued to the last done, after three calls that do not count."""

    def wait() -> None:
        with gpu.calls("in a measurement"):
            gpu.wait()

    return timed_by(wait, function, rounds)


def whole_edit(request: Request) -> tuple[str, Any]:
    """Seconds of an edit of 25 steps with the engine that "auto" takes."""
    if not installed_engines("cuda"):
        return "whole edit", "no engine is installed"
    _, height, width = request.bundle.state_shape
    guide = np.zeros((height, width, 3), np.uint8)
    steps = min(25, len(request.bundle.schedule) // 2)
    try:
        with Editor.open(request.bundle, device=f"cuda:{request.index}") as editor:
            times = [editor.edit(guide, steps=steps, seed=seed).timings for seed in range(4)]
    except EngineError as error:
        return "whole edit", str(error)
    return f"whole edit of {steps} steps, phases in s", dict(times[-1])


def engines(request: Request) -> Found:
    """Each installed engine and precision: error against the bundle's reference, captured or not, ms a step."""
    installed = installed_engines("cuda")
    if not installed:
        yield "engines", "none is installed"
    for name in installed:
        for precision in ENGINES["cuda"][name]:
            try:
                facts: Any = engine_facts(request, name, precision)
            except EngineError as error:
                print_all(error)
                facts = f"refused: {error}"
            yield f"{name}, {precision}", facts


def engine_facts(request: Request, name: str, precision: str) -> dict[str, Any]:
    """The error of an engine in that precision, whether it is captured, and ms a step."""
    facts: dict[str, Any] = {}
    with a_gpu(request) as gpu:
        engine = open_cuda_engine(request.bundle, gpu, name, precision, 1)
        error = measure_error(request.bundle, OnHost(gpu, engine))
        facts |= {"version": engine.version, "captured": engine.capturable, "error": float(f"{error:.2e}")}
        engine.close()
    facts["accepted"] = bool(error <= TOLERANCES[precision])
    for slots in (1, 2, 4, 8):
        with a_gpu(request) as gpu:
            engine = open_cuda_engine(request.bundle, gpu, name, precision, slots)
            device = CudaDevice(gpu, request.bundle, engine, slots)
            fill(device, request.bundle, slots)
            times = [timed(gpu, device.step, 5 if request.quick else 20) for _ in range(3)]
            facts[f"ms a step, {slots} slots"] = statistics.median(times)
            device.close()
    return facts


def peer(name: str) -> Callable[[Request], Found]:
    """The part that measures a peer of gpu_peers.PEERS."""

    def measure(request: Request) -> Found:
        missing = not_installed(("torch", "onnx", *(("diffusers",) if name == "diffusers" else ())))
        if missing is not None:
            yield name, f"not run: {missing}"
            return
        from .gpu_peers import PEERS, NotRun, gpu_name

        try:
            device = gpu_name(request.index)
            yield from PEERS[name](request.bundle, device, 2 if request.quick else 22).items()
        except NotRun as error:
            yield name, f"not run: {error}"

    return measure


PARTS: Mapping[str, Callable[[Request], Found]] = {
    "machine": machine,
    "kernels": kernels,
    "tests": lambda request: run_tests(request.bundle),
    "doctor": doctor,
    "speed": speed,
    "engines": engines,
    **{name: peer(name) for name in ("torch_loop", "official", "diffusers", "torch_compile")},
    "sanitizers": lambda request: run_sanitizers(request.bundle, request.index),
}


@click.command()
@click.argument("part")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--bundle", type=click.Path(path_type=Path), required=True)
@click.option("--device", type=int, default=0)
@click.option("--quick", is_flag=True)
@click.option("--seconds", type=Number(min=0, min_open=True), help="Print where it is after so long.")
def part_command(part: str, file: Path, bundle: Path, device: int, quick: bool, seconds: float | None) -> None:
    """Run one part and write what it finds, each time that it finds something."""
    os.environ.setdefault("CUDA_MODULE_LOADING", "LAZY")
    if seconds is not None:
        faulthandler.dump_traceback_later(seconds)
    found: dict[str, Any] = {}
    try:
        for what, value in PARTS[part](Request(read_bundle(bundle), device, quick)):
            found[what] = value
            write(file, to_json(found) + "\n")
    except Exception as error:
        print_all(error)
        raise


def main() -> None:
    """Run the command as this process."""
    run_command(part_command, "sdedit.benchmarks.gpu_parts")
