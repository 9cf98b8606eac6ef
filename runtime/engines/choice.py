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
from ..processor import available_processors
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
    precision = "float32" if precision == "auto" else precision
    if engine != "auto" and threads is not None:
        return Choice(engine, precision, threads, "asked")
    from ..tuned import remembered  # it asks for versions: not needed where all is said

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
