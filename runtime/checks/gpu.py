"""Is the CUDA device sound? Its bits against the CPU's, graphs against eager steps, engines against the bundle."""

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping

import numpy as np

from sdedit.errors import BundleError, EngineError

from ..bundle import Bundle, read_kernels
from ..bundle.manifest import ImageSpec
from ..cuda import Gpu
from ..devices.cuda import CudaDevice
from ..engines import CUDA_ENGINES, CudaEngine, DeviceArray, Enqueue, Evaluate, open_cuda_engine
from ..loop import Device, Loop, Task
from ..plan import make_plan
from ..schedule import Schedule
from .parity import TOLERANCES, measure_error

GOLDEN = (3, 16, 16)
"""Shape of the images that the device is tried on."""

EDIT = "4471c6b58e9d6a41df842b400358f055dbcbf4c1d2a1cc74a73a3f05847a8d88"
"""sha256 of what `golden_edits` returns, on any device."""


def try_gpu(bundle: Bundle) -> Iterator[tuple[str, str, str]]:
    """Verdict, what, detail of each check; stops where there is no GPU, and where the bundle has no kernels for it."""
    try:
        gpu = Gpu()
    except EngineError as error:
        yield "warning", "GPU", str(error)
        return
    try:
        major, minor = gpu.capability
        version = f"{gpu.driver // 1000}.{gpu.driver % 1000 // 10}"
        yield "ok", "GPU", f"{gpu.name}, sm{major}{minor}, its driver runs CUDA {version}"
        try:
            read_kernels(bundle)
        except (EngineError, BundleError):
            return  # said above
        yield try_kernels(bundle)
        for name in CUDA_ENGINES:
            yield try_engine(bundle, name)
    finally:
        gpu.close()


def try_kernels(bundle: Bundle) -> tuple[str, str, str]:
    """A whole small edit, captured and eager, by bits."""
    what = "kernels on the GPU"
    try:
        found = {}
        for name, eager in (("captured", False), ("eager", True)):
            gpu = Gpu()
            device = CudaDevice(gpu, of_golden_shape(bundle), GpuCopy(gpu), 2, eager)
            found[name] = digest(golden_edits(device))
    except EngineError as error:
        return "wrong", what, str(error)
    if set(found.values()) != {EDIT}:
        return "wrong", what, f"{', '.join(f'{k} {v[:12]}' for k, v in found.items())}; must be {EDIT[:12]}"
    return "ok", what, f"edit sha256 {EDIT[:12]}, captured and eager, as on every machine"


def try_engine(bundle: Bundle, name: str) -> tuple[str, str, str]:
    """The network against the bundle's reference."""
    what = f"engine {name} on the GPU"
    gpu = Gpu()
    try:
        engine = open_cuda_engine(bundle, gpu, name, "float32", 1)
        error = measure_error(bundle, OnHost(gpu, engine))
        engine.close()
    except EngineError as problem:
        return "warning", what, str(problem)
    finally:
        gpu.close()
    verdict = "ok" if error <= TOLERANCES["float32"] else "wrong"
    captured = "captured" if engine.capturable else "not captured"
    return verdict, what, f"{engine.version}, {captured}, error {error:.1e} of {TOLERANCES['float32']:.0e} accepted"


def golden_edits(device: Device) -> np.ndarray:
    """Two masked edits of 2 repeats, one keeping its begin noise, with the network o = x, side by side; [2, 3, 16, 16].

    Ancestral on a flow's schedule: its coefficients need no function but the square root, which IEEE defines.
    """
    part = np.arange(1, 21) / 20
    schedule = Schedule(np.stack([1 - part / 2, part, part], axis=1))
    guide = (np.arange(768, dtype=np.float32) / 384 - 1).reshape(GOLDEN)
    mask = (np.arange(256, dtype=np.float32) / 255).reshape(GOLDEN[1:])
    loop = Loop(device)
    try:
        for image, (keep, steps) in enumerate((("fresh", 5), ("fixed", 4))):
            plan = make_plan(schedule, "x0", t0=0.9, steps=steps, sampler="ancestral", repeats=2, keep=keep)
            loop.admit(Task(plan, guide, mask, seed=2**64 - 1, image=image))
        results = {}
        while loop.busy:
            results.update({task.image: state for task, state in loop.step()})
    finally:
        loop.close()
    return np.stack([results[image] for image in sorted(results)])


def of_golden_shape(bundle: Bundle) -> Bundle:
    """The kernels take any shape; so a bundle with theirs and another image size does for them."""
    image = ImageSpec(*GOLDEN, multiple_of=1)
    return dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, image=image))


def digest(values: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(values, "<f4").tobytes()).hexdigest()


class GpuCopy:
    """See engines.CudaEngine: o = x, as a copy on the device."""

    name, precision, version = "copy", "float32", "1"
    batch = 1
    threads: int | None = None
    capturable = True

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu

    def bind(self, inputs: Mapping[str, DeviceArray], out: DeviceArray) -> Enqueue:
        x, nbytes = inputs["x"].address, 4 * int(np.prod(out.shape))
        return lambda stream: self._gpu.copy_addresses(out.address, x, nbytes)

    def close(self) -> None:
        """It holds nothing."""


class OnHost:
    """A CudaEngine as an Engine: it copies there and back, and waits."""

    threads = 1

    def __init__(self, gpu: Gpu, engine: CudaEngine) -> None:
        self.name, self.precision = engine.name, engine.precision
        self.version, self.batch = engine.version, engine.batch
        self._gpu = gpu
        self._engine = engine

    def bind(self, inputs: Mapping[str, np.ndarray], out: np.ndarray) -> Evaluate:
        arrays = {**inputs, "out": out}
        with self._gpu.calls("to allocate"):
            there = {name: self._gpu.allocate(array.nbytes) for name, array in arrays.items()}
            here = {name: self._gpu.allocate_pinned(array.nbytes) for name, array in arrays.items()}
        parts = {name: DeviceArray(int(there[name].handle), array.shape) for name, array in arrays.items()}
        enqueue = self._engine.bind({name: parts[name] for name in inputs}, parts["out"])

        def evaluate() -> None:
            with self._gpu.calls("to evaluate"):
                for name in inputs:
                    here[name][1][:] = arrays[name].reshape(-1).view(np.uint8)
                    self._gpu.copy(there[name], 0, here[name][0], 0, arrays[name].nbytes)
                enqueue(self._gpu.stream)
                self._gpu.copy(here["out"][0], 0, there["out"], 0, out.nbytes)
                self._gpu.wait()
                out.reshape(-1).view(np.uint8)[:] = here["out"][1]

        return evaluate
