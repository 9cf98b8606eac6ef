"""Importing the engines' packages without their telemetry: no engine writes files or uses the network by itself.

onnxruntime reads ORT_DISABLE_TELEMETRY once, when its library is loaded; otherwise it writes a device id and a database
into the user's cache directory and sends events. openvino sends an event through the package openvino_telemetry, which
writes into the home directory; it does without that package if it cannot be imported.
"""

import importlib
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from types import ModuleType
from typing import Any

from sdedit.errors import EngineError, install_hint, raise_interrupt, reason

from .signal_stack import kept_signal_stack

ONNXRUNTIME_SWITCH = "ORT_DISABLE_TELEMETRY"
OPENVINO_TELEMETRY = "openvino_telemetry"

_LOCK = threading.RLock()
"""Held while the process's environment and modules are changed, so that threads restore what they found."""


@contextmanager
def without_telemetry() -> Iterator[None]:
    """Packages that are imported inside do not start their telemetry. Afterwards the process is as it was before."""
    with _LOCK:
        switch, module = os.environ.get(ONNXRUNTIME_SWITCH), sys.modules.get(OPENVINO_TELEMETRY)
        known = OPENVINO_TELEMETRY in sys.modules
        os.environ[ONNXRUNTIME_SWITCH] = "1"
        sys.modules[OPENVINO_TELEMETRY] = None  # type: ignore[assignment] # it cannot be imported
        try:
            yield
        finally:
            if switch is None:
                os.environ.pop(ONNXRUNTIME_SWITCH, None)
            else:
                os.environ[ONNXRUNTIME_SWITCH] = switch
            if known:
                sys.modules[OPENVINO_TELEMETRY] = module  # type: ignore[assignment] # None if the host did the same
            else:
                sys.modules.pop(OPENVINO_TELEMETRY, None)


def import_onnxruntime(extra: str = "cpu") -> ModuleType:
    """The package onnxruntime, with its telemetry off. Raises EngineError that names the extra if it is missing.

    If the program imported it before us, its telemetry is turned off from now on; it belongs to the whole process.
    """
    imported_before = "onnxruntime" in sys.modules
    onnxruntime = import_engine("onnxruntime", extra)
    if imported_before:
        with suppress(AttributeError):  # versions without telemetry
            onnxruntime.disable_telemetry_events()
    return onnxruntime


def import_openvino() -> ModuleType:
    """The package openvino, with its telemetry off. Raises EngineError if it is missing."""
    return import_engine("openvino", "cpu")


def open_core(ov: ModuleType) -> Any:
    """OpenVINO's core, with its CPU plugin loaded, which must not leave its signal stack to this thread.

    Raises EngineError.
    """
    with kept_signal_stack():
        try:
            core = ov.Core()
            core.get_property("CPU", "FULL_DEVICE_NAME")  # the first question loads the plugin
        except Exception as error:  # its exceptions share no base class
            raise EngineError(f"openvino cannot load its CPU plugin: {reason(error)}") from None
    return core


def import_engine(package: str, extra: str) -> ModuleType:
    """Import a package, silently if it was not imported before. Raises EngineError that names the extra."""
    with nullcontext() if package in sys.modules else without_telemetry():
        try:
            return importlib.import_module(package)
        except ImportError as error:
            raise_interrupt(error)
            raise EngineError(f"engine {package} is not installed: {install_hint(extra)}") from None
