"""What "auto" means. An explicit engine, precision or thread count is never overridden.

Precision: float32, always; bfloat16 and int8 change the image, so they are for the asking. Engine and threads: where
`sdedit tune` measured this bundle on this machine with these versions, the fastest of what was asked for. Elsewhere the
rule: onnxruntime where it is installed, which was as fast as openvino in float32 and starts sooner, else openvino;
openvino for bfloat16, which onnxruntime has not on CPUs, and int8, which it runs slower than float32; all processors
this process may run on.
"""

import importlib.util
from dataclasses import dataclass

from sdedit.errors import EngineError

from ..bundle import Bundle
from ..machine import available_processors
from .base import ENGINES, MAX_THREADS, PRECISIONS, Engine
from .remembered import remembered


@dataclass(frozen=True)
class Choice:
    """A fully named way to run a network. origin: "asked", "tuned" or "rule"."""

    engine: str
    precision: str
    threads: int
    origin: str


def choose(bundle: Bundle, engine: str, precision: str, threads: int | None) -> Choice:
    """Fill in what is "auto" or None. Raises EngineError where an engine is left open and none is installed."""
    precision = "float32" if precision == "auto" else precision
    if engine != "auto" and threads is not None:
        return Choice(engine, precision, threads, "asked")
    for tried in remembered(bundle):
        if precision == tried.precision and engine in ("auto", tried.engine) and threads in (None, tried.threads):
            return Choice(tried.engine, tried.precision, tried.threads, "tuned")
    named = rule(precision) if engine == "auto" else engine
    return Choice(named, precision, threads or available_processors(), "rule")


def rule(precision: str) -> str:
    """The engine where nothing was measured. Raises EngineError where none is installed."""
    installed = installed_engines()
    if not installed:
        raise EngineError(f"no engine is installed ({', '.join(ENGINES)}): pip install 'sdedit[cpu]'")
    return "openvino" if precision in ("bfloat16", "int8") else installed[0]


def installed_engines() -> list[str]:
    """Those of ENGINES that can be imported, in its order."""
    return [name for name in ENGINES if importlib.util.find_spec(name) is not None]


def open_engine(bundle: Bundle, *, engine: str = "auto", precision: str = "auto", threads: int | None = None) -> Engine:
    """Load the bundle's network. What is left open is chosen by `choose`.

    Raises EngineError for an unknown or missing engine or precision, and for a network that the engine refuses.
    """
    check_request(engine, precision, threads)
    chosen = choose(bundle, engine, precision, threads)
    return load_engine(bundle, chosen.engine, chosen.precision, chosen.threads)


def load_engine(bundle: Bundle, engine: str, precision: str, threads: int) -> Engine:
    """The engine of that name, as told in everything. Raises EngineError as open_engine."""
    if engine == "openvino":
        from .openvino import OpenVinoEngine

        return OpenVinoEngine(bundle, precision, threads)
    from .onnxruntime import OnnxRuntimeEngine

    return OnnxRuntimeEngine(bundle, precision, threads)


def check_request(engine: str, precision: str, threads: int | None) -> None:
    if engine not in ("auto", *ENGINES):
        raise EngineError(f"engine {engine!r} is not one of auto, {', '.join(ENGINES)}")
    if precision not in ("auto", *PRECISIONS):
        raise EngineError(f"precision {precision!r} is not one of auto, {', '.join(PRECISIONS)}")
    if engine == "onnxruntime" and precision not in ("auto", "float32"):
        raise EngineError(f"precision {precision!r} is not one that engine onnxruntime runs: float32")
    if threads is not None and not 1 <= threads <= MAX_THREADS:
        raise EngineError(f"threads {threads} is not in 1..{MAX_THREADS}")
