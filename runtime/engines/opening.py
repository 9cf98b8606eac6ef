"""Which engine runs the network on the CPU. An explicit engine, precision or number of threads is never overridden.

Precision "auto" is float32: bfloat16 and int8 change the image, so they must be asked for. For engine "auto" and open
threads, `sdedit tune` remembers measurements of a bundle on this machine with the installed versions: the fastest one
that fits the request is taken. Without a measurement a rule decides: the first engine of names.ENGINES that is
installed and has the precision, on all processors of this process. onnxruntime is first: it was as fast as openvino in
float32 and starts sooner.
"""

from dataclasses import dataclass

from sdedit.errors import EngineError

from ..bundle import NETWORK, Bundle
from ..machine import available_memory, available_processors
from ..once import warn_once
from .base import Engine
from .memory import check_loading
from .names import check_request, first_engine
from .remembered import remembered

LOADING = 3
"""Copies of the weights that an engine makes at most while it loads them: the file, the graph's and its own layout."""


@dataclass(frozen=True)
class Choice:
    """A fully named way to run a network. origin: "asked", "tuned" or "rule"."""

    engine: str
    precision: str
    threads: int
    origin: str


def choose(bundle: Bundle, engine: str, precision: str, threads: int | None) -> Choice:
    """Fill in "auto" and None. Raises EngineError if the engine is left open and no engine is installed."""
    precision = "float32" if precision == "auto" else precision
    if engine != "auto" and threads is not None:
        return Choice(engine, precision, threads, "asked")
    for tried in remembered(bundle):
        if precision == tried.precision and engine in ("auto", tried.engine) and threads in (None, tried.threads):
            return Choice(tried.engine, tried.precision, tried.threads, "tuned")
    named = first_engine("cpu", precision) if engine == "auto" else engine
    return Choice(named, precision, threads or available_processors(), "rule")


def open_engine(bundle: Bundle, *, engine: str = "auto", precision: str = "auto", threads: int | None = None) -> Engine:
    """Load the bundle's network on the CPU; `choose` fills in the rest of the request.

    Raises EngineError for an engine or precision that is unknown or missing, if there is too little memory, and if the
    engine refuses the network.
    """
    check_request("cpu", engine, precision, threads)
    processors = available_processors()
    if threads is not None and threads > processors:
        warn_once(f"{threads} threads share {processors} processors, which is slower than {processors} threads")
    chosen = choose(bundle, engine, precision, threads)
    if chosen.precision != "int8":  # a smaller file of its own
        check_loading(bundle, NETWORK, chosen.engine)
    return load_engine(bundle, chosen.engine, chosen.precision, chosen.threads)


def load_engine(bundle: Bundle, engine: str, precision: str, threads: int, *, lanes: bool = False) -> Engine:
    """Load the bundle's network on exactly this engine, precision and number of threads. Raises EngineError.

    lanes: as `load_for_lanes` needs it.
    """
    if engine == "openvino":
        from .openvino import OpenVinoEngine

        return OpenVinoEngine(bundle, precision, threads, streams=threads if lanes else 1)
    from .onnxruntime import OnnxRuntimeEngine

    return OnnxRuntimeEngine(bundle, precision, 1 if lanes else threads)  # any threads may call its session at once


def load_for_lanes(bundle: Bundle, engine: Engine) -> Engine:
    """Load the engine's network once more: `engine.threads` threads may evaluate at once, on one thread each.

    Raises EngineError, also if this process's memory may not suffice, and BundleError if the files have changed.
    """
    nbytes = sum(entry.bytes for name, entry in bundle.manifest.files.items() if "/" not in name)
    free = available_memory()
    if free is not None and LOADING * nbytes > free:
        raise EngineError(
            f"loading {bundle.name} once more may need {LOADING * nbytes / 1e9:,.1f} GB of memory, "
            f"{free / 1e9:,.1f} GB are available"
        )
    return load_engine(bundle, engine.name, engine.precision, engine.threads, lanes=True)
