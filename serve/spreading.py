"""Several GPUs of this machine behind one server: each edit is made where it would wait the least."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from sdedit.errors import DeviceLostError, EngineError, shown
from sdedit.runtime import Editor
from sdedit.runtime.cuda.driver import ask_driver
from sdedit.runtime.devices.opening import parse_device

from .backend import Decoding, LocalBackend, Tell
from .limits import Limits
from .models import Model, close_models, load_models
from .resending import in_order
from .telemetry import Telemetry
from .wire import EditRequest, Finished

LOG = logging.getLogger("sdedit")

ALL = "all"
"""Name of every GPU of this machine."""

OpenEditor = Callable[[str], Editor]
"""Opens an editor on the device of that name."""


class SpreadingBackend:
    """Backends with the same models, one a device. It implements Backend.

    When a device is lost, its edits are begun again on another one. This is safe, since an edit is a function of its
    request.
    """

    def __init__(
        self, models: Mapping[str, Mapping[str, Model]], limits: Limits, telemetry: Telemetry | None = None
    ) -> None:
        """models: by the device's name, then by their own. telemetry: is told of each device."""
        decoding = Decoding(limits)
        self._backends = {device: LocalBackend(loaded, limits, decoding) for device, loaded in models.items()}
        self._telemetry = telemetry
        if telemetry is not None:
            for device, backend in self._backends.items():
                watch(telemetry, device, backend)

    async def models(self) -> list[dict[str, Any]]:
        """See Backend. All devices have the same models."""
        return await next(iter(self._backends.values())).models()

    @property
    def wait(self) -> float:
        """See Backend."""
        return min((backend.wait for backend in self._left.values()), default=0.0)

    @property
    def typical(self) -> float:
        """See Backend. An edit adds its work to one device, so to each a part of it."""
        times = [backend.typical for backend in self._left.values()]
        return sum(times) / len(times) ** 2 if times else 0.0

    @property
    def lost(self) -> bool:
        """See Backend."""
        return not self._left

    async def edit(self, request: EditRequest, tell: Tell) -> Finished:
        """See Backend. Raises DeviceLostError when no device is left."""
        told, again = in_order(tell), False
        while True:
            device, backend = self._choose()
            if self._telemetry is not None:
                self._telemetry.began_on(device)
            try:
                return await backend.edit(request, told, again=again)
            except DeviceLostError as error:
                if not self._left:
                    raise
                LOG.warning("%s: the edit begins again on another device", error)
                again = True

    async def close(self) -> None:
        """See Backend."""
        await asyncio.gather(*(backend.close() for backend in self._backends.values()))

    @property
    def _left(self) -> dict[str, LocalBackend]:
        """The devices that are not lost."""
        return {device: backend for device, backend in self._backends.items() if not backend.lost}

    def _choose(self) -> tuple[str, LocalBackend]:
        """The device with the least wait; of those that wait equally, one with the fewest edits."""
        left = self._left or self._backends  # a device that is lost says so itself
        return min(left.items(), key=lambda item: (item[1].wait, item[1].edits))


def watch(telemetry: Telemetry, device: str, backend: LocalBackend) -> None:
    """Show a device's state as metrics."""
    telemetry.watch_device(
        device,
        edits_in_flight=lambda: backend.edits,
        wait_seconds=lambda: backend.wait,
        lost=lambda: float(backend.lost),
    )


def device_names(text: str) -> list[str]:
    """The devices of `--device`: one name, several GPUs with commas between, or "all" GPUs. Raises EngineError."""
    if text == ALL:
        return [device_name("cuda", index) for index in range(ask_driver()[1])]
    parsed = [parse_device(name) for name in text.split(",")]
    if len(parsed) > 1 and ("cpu", 0) in parsed:
        raise EngineError(f"device {shown(text)}: cpu stands alone, since its bytes are not a GPU's")
    if len(set(parsed)) < len(parsed):
        raise EngineError(f"device {shown(text)} names a GPU twice")
    return [device_name(kind, index) for kind, index in parsed]


def device_name(kind: str, index: int) -> str:
    """The name that CudaDevice and CpuDevice have, and recipes."""
    return f"{kind}:{index}" if index else kind


def load_on_devices(devices: list[str], open_editors: Mapping[str | None, OpenEditor]) -> dict[str, dict[str, Model]]:
    """Load all models on each device: see load_models. If one fails, those that were loaded before are closed."""
    loaded: dict[str, dict[str, Model]] = {}
    try:
        for device in devices:
            loaded[device] = load_models({name: partial(opener, device) for name, opener in open_editors.items()})
    except BaseException:
        for models in loaded.values():
            close_models(models)
        raise
    return loaded
