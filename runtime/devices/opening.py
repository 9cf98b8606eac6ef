"""From names to a device with its engine loaded."""

from sdedit.errors import EngineError
from sdedit.kernels import twin

from ..bundle import Bundle, read_kernels
from ..engines import check_request, open_cuda_engine, open_engine
from ..loop import Device
from .cpu import CpuDevice

DEVICES = ("cpu", "cuda")


def open_device(
    bundle: Bundle, device: str, engine: str, precision: str, threads: int | None, slots: int, eager: bool
) -> Device:
    """The device of that name. Raises EngineError for names that are none, and for what this machine cannot run."""
    if device not in DEVICES:
        raise EngineError(f"device {device!r} is not one of {', '.join(DEVICES)}")
    check_request(device, engine, precision, threads)
    if device == "cuda":
        return _open_cuda(bundle, engine, precision, slots, eager)
    if eager:
        raise EngineError("eager True goes with device cuda: cpu captures nothing")
    network = open_engine(bundle, engine=engine, precision=precision, threads=threads)
    return CpuDevice(network, bundle.inputs, slots, twin(), guided=bundle.null_label is not None)


def _open_cuda(bundle: Bundle, engine: str, precision: str, slots: int, eager: bool) -> Device:
    from ..cuda import Gpu
    from .cuda import CudaDevice

    if bundle.classes:
        raise EngineError("device cuda does not run networks with classes: use device cpu")
    gpu = Gpu()
    try:
        read_kernels(bundle)  # cheaper than an engine
        network = open_cuda_engine(bundle, gpu, engine, precision, slots)
        try:
            return CudaDevice(gpu, bundle, network, slots, eager)
        except BaseException:
            network.close()
            raise
    except BaseException:
        gpu.close()
        raise
