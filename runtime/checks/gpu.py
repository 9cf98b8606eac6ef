"""Is the CUDA device sound? Its bits against the CPU's, graphs against eager steps, engines against the bundle."""

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np

from sdedit.errors import BundleError, EngineError

from ..bundle import Bundle, read_kernels
from ..bundle.manifest import ImageSpec
from ..cuda import Gpu
from ..devices.cuda import CudaDevice
from ..devices.cuda_tiles import OnHost
from ..engines import ENGINES, DeviceArray, Enqueue, open_cuda_engine
from . import golden
from .finding import Finding
from .parity import TOLERANCES, measure_error


def examine_gpu(bundle: Bundle, index: int = 0) -> Iterator[Finding]:
    """Check the GPU of that number; stops if there is none, or if the bundle has no kernels for one."""
    try:
        gpu = Gpu(index)
    except EngineError as error:
        yield Finding("warning", "GPU", str(error))
        return
    try:
        major, minor = gpu.capability
        version = f"{gpu.driver // 1000}.{gpu.driver % 1000 // 10}"
        yield Finding("ok", "GPU", f"{gpu.name}, sm{major}{minor}, its driver runs CUDA {version}")
        try:
            read_kernels(bundle)
        except (EngineError, BundleError):
            return  # another finding names it
        yield examine_kernels(bundle, index)
        for name in ENGINES["cuda"]:
            yield examine_cuda_engine(bundle, name, index)
    finally:
        gpu.close()


def examine_kernels(bundle: Bundle, index: int) -> Finding:
    """The bits of whole small edits, captured and eager."""
    what = "kernels on the GPU"
    try:
        ways = {"captured": False, "eager": True}
        found = {name: golden.digest(copied_edits(bundle, eager, index)) for name, eager in ways.items()}
    except EngineError as error:
        return Finding("wrong", what, str(error))
    if set(found.values()) != {golden.COPIED}:
        digests = ", ".join(f"{name} {value[:12]}" for name, value in found.items())
        return Finding("wrong", what, f"{digests}; must be {golden.COPIED[:12]}")
    return Finding("ok", what, f"edit sha256 {golden.COPIED[:12]}, captured and eager, as on every machine")


def copied_edits(bundle: Bundle, eager: bool, index: int = 0) -> np.ndarray:
    """The golden edits with the bundle's kernels, on a device of their own."""
    gpu = Gpu(index)
    try:
        return golden.copied_edits(CudaDevice(gpu, of_golden_shape(bundle), GpuCopy(gpu), 2, eager))
    finally:
        gpu.close()


def examine_cuda_engine(bundle: Bundle, name: str, index: int) -> Finding:
    """Error of an engine in float32 against the bundle's reference."""
    what = f"engine {name} on the GPU"
    gpu = Gpu(index)
    try:
        engine = open_cuda_engine(bundle, gpu, name, "float32", 1)
        try:
            error = measure_error(bundle, OnHost(gpu, engine))
        finally:
            engine.close()
    except EngineError as problem:
        return Finding("warning", what, str(problem))
    finally:
        gpu.close()
    verdict = "ok" if error <= TOLERANCES["float32"] else "wrong"
    captured = "captured" if engine.capturable else "not captured"
    accepted = f"error {error:.1e} of {TOLERANCES['float32']:.0e} accepted"
    return Finding(verdict, what, f"{engine.version}, {captured}, {accepted}")


def of_golden_shape(bundle: Bundle) -> Bundle:
    """The bundle with the golden edits' image size: the kernels take any."""
    image = ImageSpec.fixed(*golden.SHAPE)
    return dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, image=image))


class GpuCopy:
    """Implements engines.CudaEngine with o = x: a copy on the device."""

    name, precision, version = "copy", "float32", "1"
    batch = 1
    threads: int | None = None
    capturable = True

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu

    def bind(self, inputs: Mapping[str, DeviceArray], out: DeviceArray) -> Enqueue:
        x = inputs["x"].address
        return lambda stream: self._gpu.copy_addresses(out.address, x, out.nbytes)

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Accept every shape."""

    def forget(self, shape: tuple[int, ...]) -> None:
        """Do nothing: it holds nothing."""

    def close(self) -> None:
        """Do nothing: it holds nothing."""
