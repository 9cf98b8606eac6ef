"""Opening a device by name, with its engine loaded."""

from sdedit.errors import EngineError, shown
from sdedit.kernels import twin

from ..bundle import Bundle, read_kernels
from ..engines import check_request, open_cuda_engine, open_engine
from ..loop import Device
from ..machine import available_processors
from .cpu import CpuDevice, check_memory
from .lanes import make_lanes

DEVICES = ("cpu", "cuda")


def open_device(
    bundle: Bundle, device: str, engine: str, precision: str, threads: int | None, slots: int, eager: bool
) -> Device:
    """The device of that name with the bundle's network loaded. Raises EngineError before anything large is allocated:

    for unknown names, for more slots or threads than this machine has room for, and for a network that it cannot run.
    """
    if device not in DEVICES:
        raise EngineError(f"device {shown(device)} is not one of {', '.join(DEVICES)}")
    check_request(device, engine, precision, threads)
    if device == "cuda":
        return _open_cuda(bundle, engine, precision, slots, eager)
    if eager:
        raise EngineError("eager True goes with device cuda: cpu captures nothing")
    guided = bundle.guided
    check_memory(bundle.inputs, slots, guided)
    network = open_engine(bundle, engine=engine, precision=precision, threads=threads)
    try:
        lanes = make_lanes(bundle, network, slots)
        multiple_of = bundle.image.multiple_of // bundle.factor
        return CpuDevice(network, bundle.inputs, slots, twin(), guided, multiple_of, lanes=lanes)
    except MemoryError:
        raise EngineError(f"there is not enough memory for {slots} slots: choose fewer") from None


def _open_cuda(bundle: Bundle, engine: str, precision: str, slots: int, eager: bool) -> Device:
    from ..cuda import Gpu
    from .cuda import CudaDevice

    if bundle.classes:
        raise EngineError("device cuda does not run networks with classes: use device cpu")
    if bundle.manifest.latent is not None or bundle.manifest.inputs:
        raise EngineError("device cuda does not run latent networks: use device cpu")
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


def check_recipe(device: str, threads: int | None, batch: int) -> None:
    """Raise EngineError if a recipe, which comes from outside, asks for more than this machine has.

    threads: of the engine on the CPU. batch: images at once; the GPU's memory limits it when the device is opened.
    """
    processors = available_processors()
    if threads is not None and threads > processors:
        raise EngineError(
            f"the recipe's {threads} threads are more than the {processors} processors that this process may use"
        )
    if device == "cpu" and batch != 1:
        raise EngineError(f"the recipe's batch {batch} is not 1, which device cpu runs")
