"""A GPU's driver for tests: fake_cuda.c with the PTX emulator as its processor and DeviceMemory as its memory."""

import ctypes
import gc
import hashlib
import json
import struct
import subprocess
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import ptx
from device_memory import DeviceFault, DeviceMemory

from sdedit.export.cubin import read_cubin
from sdedit.runtime.engines import DeviceArray, Enqueue

ILLEGAL_ADDRESS = 700
SUCCESS = 0

HOST_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)

COUNTED = ("streams", "events", "graphs", "executables", "host buffers")
"""Objects that fake_cuda.c counts, in its order."""


class Described(ctypes.Structure):
    """A kernel as fake_cuda.c knows it."""

    _fields_ = (
        ("count", ctypes.c_uint32),
        ("offsets", ctypes.c_uint32 * 32),
        ("sizes", ctypes.c_uint32 * 32),
        ("threads", ctypes.c_uint32),
        ("name", ctypes.c_char * 128),
    )


U64, U32, INT = ctypes.c_uint64, ctypes.c_uint32, ctypes.c_int
CALLBACKS = {
    "allocate": ctypes.CFUNCTYPE(U64, U64),
    "release": ctypes.CFUNCTYPE(INT, U64),
    "copy": ctypes.CFUNCTYPE(INT, U64, U64, U64),
    "fill": ctypes.CFUNCTYPE(INT, U64, U32, U64),
    "load": ctypes.CFUNCTYPE(INT, ctypes.c_void_p, ctypes.POINTER(Described)),
    "launch": ctypes.CFUNCTYPE(INT, INT, ctypes.POINTER(U32), ctypes.POINTER(ctypes.c_uint8), U64),
}


class Executor(ctypes.Structure):
    _fields_ = tuple(CALLBACKS.items())


def build(folder: Path) -> ctypes.CDLL:
    """Compile the driver and load it as libcuda.so.1: whoever loads that library from now on gets this one."""
    import triton

    library = folder / "libcuda.so.1"
    headers = Path(triton.__file__).parent / "backends" / "nvidia" / "include"  # of the real cuda.h
    source = Path(__file__).parent / "fake_cuda.c"
    flags = ["-O1", "-shared", "-fPIC", "-Wall", "-Wl,-soname,libcuda.so.1", f"-I{headers}"]
    subprocess.run(["cc", *flags, "-o", str(library), str(source)], check=True, capture_output=True)
    gc.collect()  # FakeDriver keeps what is left from collections
    return ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


class FakeDriver:
    """One GPU, or several alike. fault: the first that its memory found. limit: bytes it has; live: of its allocations.

    Kernels are executed from their PTX. A cubin is known by its hash, from the manifest of the export that assembled it
    from that PTX.
    """

    def __init__(self, library: ctypes.CDLL, kernels: Path, capability: int = 89, version: int = 13000) -> None:
        gc.freeze()  # collections take a hundredth of the time without the million objects of imported packages
        self.library = library
        self.memory = DeviceMemory(1 << 26)
        self.limit = 1 << 26
        self.live: dict[int, int] = {}
        self.fault: Exception | None = None
        self.loaded: list[str] = []
        self.launches: list[str] = []
        self.lose_after: int | None = None
        self._turn = threading.RLock()  # two editors have two threads; memory and emulator take one at a time
        self._files = binaries(kernels)
        self._kernels: list[ptx.Kernel] = []
        self._hosts: list[Any] = []
        self._callbacks = Executor(*(kind(self._guarded(name)) for name, kind in CALLBACKS.items()))
        library.fake_start(ctypes.byref(self._callbacks), version, capability, U64(self.limit))

    def set_gpus(self, number: int) -> None:
        """From now on there are so many. cuda.core has counted them for each thread that used it before."""
        self.library.fake_set_gpus(number)

    def stop(self) -> None:
        """Free what tests forgot: the next fake driver does not know it."""
        gc.collect()
        self.library.fake_stop()

    def counts(self) -> dict[str, int]:
        """Number of live objects by kind (COUNTED), and of live allocations."""
        gc.collect()
        return {"allocations": len(self.live)} | {
            name: self.library.fake_count(index) for index, name in enumerate(COUNTED)
        }

    @property
    def graphs_launched(self) -> int:
        return int(self.library.fake_graphs_launched())

    @property
    def waits(self) -> int:
        return int(self.library.fake_waits())

    def _guarded(self, name: str) -> Callable[..., int]:
        """Keep a Python exception, which C would lose, as the device's error and as `fault`."""

        def call(*arguments: Any) -> int:
            try:
                with self._turn:
                    return int(getattr(self, f"_{name}")(*arguments))
            except Exception as error:
                self.fault = self.fault or error
                return 0 if name == "allocate" else -1 if name == "load" else ILLEGAL_ADDRESS

        return call

    # What fake_cuda.c asks for.

    def _allocate(self, nbytes: int) -> int:
        if sum(self.live.values()) + nbytes > self.limit:
            self.library.fake_set_free(U64(self.limit - sum(self.live.values())))
            return 0
        address = self.memory.alloc(nbytes)
        self.live[address] = nbytes
        return address

    def _release(self, address: int) -> int:
        self.memory.free(address)
        del self.live[address]
        return SUCCESS

    def _copy(self, to: int, source: int, nbytes: int) -> int:
        data = self.read(source, nbytes)
        if to in self.memory:
            self.memory.write(to, data)
        else:
            ctypes.memmove(to, data.ctypes.data, nbytes)
        return SUCCESS

    def _fill(self, to: int, value: int, nbytes: int) -> int:
        self.memory.write(to, np.full(nbytes, value, np.uint8), "fill")
        return SUCCESS

    def _load(self, image: int, described: Any) -> int:
        data = image_bytes(image)
        file, text = self._files[hashlib.sha256(data).hexdigest()]
        kernel = ptx.parse(text)
        placed = [(offset, size) for _, offset, size in kernel.params]
        if file.endswith(".cubin"):
            placed = list(read_cubin(data).parameters)
        to = described.contents
        to.count, to.threads, to.name = len(placed), kernel.threads, kernel.name.encode()
        for index, (offset, size) in enumerate(placed):
            to.offsets[index], to.sizes[index] = offset, size
        self.loaded.append(file)
        self._kernels.append(kernel)
        return len(self._kernels) - 1

    def _launch(self, kernel: int, grid: Any, parameters: Any, nbytes: int) -> int:
        self.launches.append(self._kernels[kernel].name)
        if self.lose_after is not None and len(self.launches) > self.lose_after:
            return 46  # CUDA_ERROR_DEVICE_UNAVAILABLE
        ptx.launch(self._kernels[kernel], self.memory, (grid[0], grid[1], grid[2]), bytes(parameters[:nbytes]))
        return SUCCESS

    # For the engines that stand in on this device.

    def read(self, address: int, nbytes: int) -> np.ndarray:
        if address in self.memory:
            return self.memory.read(address, (nbytes,), np.uint8)
        return np.frombuffer(ctypes.string_at(address, nbytes), np.uint8)

    def enqueue(self, stream: int, function: Callable[[], None]) -> None:
        """Run a function in turn on the stream; an exception of it is a fault of the device."""

        def run(_: object) -> None:
            try:
                with self._turn:
                    function()
            except Exception as error:
                self.fault = self.fault or error
                self.library.fake_fail(ILLEGAL_ADDRESS)

        host = HOST_FUNCTION(run)
        self._hosts.append(host)  # graphs call it for as long as they live
        status = self.library.fake_enqueue_host(ctypes.c_void_p(stream), host, None)
        if status:
            raise DeviceFault(f"enqueueing fails with CUDA error {status}")


def binaries(folder: Path) -> dict[str, tuple[str, str]]:
    """Files of an export by sha256: the name, and the text of the PTX that the file is or was assembled from."""
    found = {}
    for kernel in json.loads((folder / "kernels.json").read_text())["kernels"].values():
        text = (folder / kernel["ptx"]["file"]).read_text()
        for entry in (kernel["ptx"], *kernel["cubins"].values()):
            found[entry["sha256"]] = (entry["file"], text)
    return found


def image_bytes(address: int) -> bytes:
    """Bytes of a module in memory: a cubin's header states its length, PTX ends with a zero."""
    if ctypes.string_at(address, 4) != b"\x7fELF":
        return ctypes.string_at(address)
    header = ctypes.string_at(address, 64)
    tables = (end_of_table(header, 32, 54), end_of_table(header, 40, 58))  # of segments and of sections
    return ctypes.string_at(address, max(tables))


def end_of_table(header: bytes, offset_at: int, size_at: int) -> int:
    """offset_at: where an ELF header has the table's offset. size_at: an entry's size, and behind it their number."""
    offset, size, count = struct.unpack("<QHH", header[offset_at : offset_at + 8] + header[size_at : size_at + 4])
    return int(offset + size * count)


class StandInEngine:
    """A CudaEngine whose network is a Python function, run in turn on the fake stream.

    function: (x [1, C, H, W], time, and the other inputs [1, ...] in the order of their names) -> out.
    """

    name, precision, version = "stand-in", "float32", "0"
    threads = None

    def __init__(self, driver: FakeDriver, function: Callable[..., np.ndarray], batch: int = 1) -> None:
        self.driver = driver
        self.function = function
        self.batch = batch
        self.capturable = True
        self.evaluations = 0

    def bind(self, inputs: Mapping[str, DeviceArray], out: DeviceArray) -> Enqueue:
        conditions = sorted(inputs.keys() - {"x", "time"})

        def evaluate() -> None:
            self.evaluations += 1
            images, told, *others = (values(self.driver, inputs[name]) for name in ("x", "time", *conditions))
            results = [
                self.function(images[i : i + 1], float(told[i]), *(other[i : i + 1] for other in others))
                for i in range(len(told))
            ]
            self.driver.memory.write(out.address, np.concatenate(results).astype(np.float32), "engine")

        return lambda stream: self.driver.enqueue(stream, evaluate)

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Accept every shape."""

    def forget(self, shape: tuple[int, ...]) -> None:
        """Release nothing: the engine holds nothing."""

    def close(self) -> None:
        """Release nothing: the engine holds nothing."""


def values(driver: FakeDriver, array: DeviceArray) -> np.ndarray:
    return driver.memory.read(array.address, array.shape, array.dtype, "engine")
