"""Opening a device by name, with its engine loaded."""

from sdedit.errors import EngineError, shown
from sdedit.kernels import twin

from ..bundle import Bundle, read_kernels
from ..engines import check_request, open_cuda_engine, open_engine
from ..loop import Device
from ..machine import available_processors
from .cpu import CpuDevice, check_slots
from .lanes import make_lanes

DEVICES = ("cpu", "cuda")
"""Kinds of devices; cuda:1 is the second GPU."""


def open_device(
    bundle: Bundle, device: str, engine: str, precision: str, threads: int | None, slots: int, eager: bool
) -> Device:
    """The device of that name with the bundle's network loaded. Raises EngineError before anything large is allocated:

    for unknown names, for more slots or threads than this machine has room for, and for a network that it cannot run.
    """
    kind, index = parse_device(device)
    check_request(kind, engine, precision, threads)
    if kind == "cuda":
        return _open_cuda(bundle, index, engine, precision, slots, eager)
    if eager:
        raise EngineError("eager True goes with device cuda: cpu captures nothing")
    guided = bundle.guided
    check_slots(bundle.inputs, slots, guided)
    network = open_engine(bundle, engine=engine, precision=precision, threads=threads)
    try:
        lanes = make_lanes(bundle, network, slots)
        multiple_of = bundle.image.multiple_of // bundle.factor
        return CpuDevice(network, bundle.inputs, slots, twin(), guided, multiple_of, lanes=lanes)
    except MemoryError:
        raise EngineError(f"there is not enough memory for {slots} slots: choose fewer") from None


def parse_device(device: str) -> tuple[str, int]:
    """Kind and number of a device: cuda:1 is the second GPU. Raises EngineError for any other name."""
    kind, colon, number = device.partition(":")
    if kind not in DEVICES or (colon and kind == "cpu"):
        raise EngineError(f"device {shown(device)} is not one of {', '.join(DEVICES)}, cuda:1, ...")
    if colon and not (number.isascii() and number.isdigit() and len(number) < 4):
        raise EngineError(f"device {shown(device)}: {shown(number)} is not the number of a GPU, such as 0")
    return kind, int(number or 0)


def _open_cuda(bundle: Bundle, index: int, engine: str, precision: str, slots: int, eager: bool) -> Device:
    from ..cuda import Gpu
    from .cuda import CudaDevice

    if bundle.manifest.latent is not None or bundle.manifest.inputs:
        raise EngineError("device cuda does not run latent networks: use device cpu")
    gpu = Gpu(index)
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
