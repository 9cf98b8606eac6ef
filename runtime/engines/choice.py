"""What "auto" means. An explicit engine, precision or thread count is never overridden.

Where `sdedit tune` measured this bundle on this machine with these versions: the fastest it measured among what was
asked for. Elsewhere the rule: openvino on x86-64 with AVX2 and on arm64 where it is installed, else onnxruntime, else
whichever there is; float32; all processors this process may run on.
"""

import importlib.util
import platform
from dataclasses import dataclass

from sdedit.errors import EngineError

from ..bundle import Bundle
from ..processor import available_processors, processor_features
from . import ENGINES


@dataclass(frozen=True)
class Choice:
    """A fully named way to run a network. origin: "asked", "tuned" or "rule"."""

    engine: str
    precision: str
    threads: int
    origin: str


def choose(bundle: Bundle, engine: str, precision: str, threads: int | None) -> Choice:
    """Fill in what is "auto" or None. Raises EngineError where an engine is left open and none is installed."""
    if "auto" not in (engine, precision) and threads is not None:
        return Choice(engine, precision, threads, "asked")
    from ..tuned import remembered  # it asks for versions: not needed where all is said

    for tried in remembered(bundle):
        if (
            engine in ("auto", tried.engine)
            and precision in ("auto", tried.precision)
            and threads in (None, tried.threads)
        ):
            return Choice(tried.engine, tried.precision, tried.threads, "tuned")
    named = rule(precision) if engine == "auto" else engine
    return Choice(named, "float32" if precision == "auto" else precision, threads or available_processors(), "rule")


def rule(precision: str) -> str:
    """The engine where nothing was measured."""
    installed = installed_engines()
    if not installed:
        raise EngineError("no engine is installed (openvino, onnxruntime): pip install 'sdedit[cpu]'")
    if precision == "bfloat16":
        return "openvino"  # onnxruntime has no bfloat16 on CPUs
    return installed[0] if suits_openvino() else installed[-1]


def installed_engines() -> list[str]:
    """Those of ENGINES that can be imported, in its order."""
    return [name for name in ENGINES if importlib.util.find_spec(name) is not None]


def suits_openvino() -> bool:
    """Whether its kernels were made for this processor; it runs on older ones, slowly."""
    machine = platform.machine().lower()
    if machine in ("arm64", "aarch64"):
        return True
    return machine in ("x86_64", "amd64") and (platform.system() != "Linux" or "avx2" in processor_features())
