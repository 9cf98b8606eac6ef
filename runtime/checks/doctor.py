"""Is this installation sound? Versions, the kernels' bits, and each engine against the bundle's reference.

The checks of this module run on the CPU; those of gpu.py follow where there is a GPU.
"""

import platform
import statistics
from collections.abc import Iterator

import numpy as np
import PIL

from sdedit import __version__
from sdedit.errors import BundleError, EngineError, install_hint, raise_interrupt
from sdedit.kernels import TWINS, twin

from ..bundle import Bundle, read_kernels
from ..bundle.parts import extend_command
from ..engines import ENGINES, choose, installed_engines, load_engine
from ..engines.remembered import installed_versions
from ..machine import available_processors, processor_features, processor_name
from . import golden
from .finding import Finding
from .parity import TOLERANCES, measure_error
from .tune import bind_noise, milliseconds


def examine(bundle: Bundle) -> Iterator[Finding]:
    """All checks, the fast ones first. Every file of the bundle must have been verified."""
    from .gpu import examine_gpu

    yield Finding("ok", "versions", versions())
    features = " ".join(processor_features()) or "features unknown"
    yield Finding("ok", "processor", f"{processor_name()}, {available_processors()} usable, {features}")
    for name in TWINS:
        yield examine_twin(name)
    size = "x".join(map(str, bundle.state_shape))
    yield Finding("ok", "bundle", f"{bundle.name}, {size}, every file as its hash says")
    yield examine_gpu_kernels(bundle)
    yield from examine_gpu(bundle)
    yield from examine_distributions()
    for name in ENGINES["cpu"]:
        yield examine_engine(bundle, name)
    yield examine_choice(bundle)


def versions() -> str:
    """Names and versions of the packages that matter."""
    found = {
        "sdedit": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "pillow": PIL.__version__,
        **installed_versions(),
    }
    return ", ".join(f"{name} {version}" for name, version in found.items())


def examine_twin(name: str) -> Finding:
    """Whether an implementation of the kernels gives the bits that all of them must give."""
    what = f"kernels in {name}"
    try:
        kernels = twin(name)
    except ImportError as error:
        raise_interrupt(error)
        return Finding("warning", what, "the extension was not built; numpy's kernels give the same bits, slower")
    noise, edit = golden.digest(golden.noise(kernels)), golden.digest(golden.halved_edit(kernels))
    if (noise, edit) != (golden.NOISE, golden.HALVED):
        wanted = f"{golden.NOISE[:12]}, {golden.HALVED[:12]}"
        return Finding("wrong", what, f"noise {noise[:12]}, edit {edit[:12]}; must be {wanted}")
    return Finding("ok", what, f"noise sha256 {noise[:12]}, edit sha256 {edit[:12]}, as on every machine")


def examine_gpu_kernels(bundle: Bundle) -> Finding:
    """The GPU kernels that the bundle holds."""
    try:
        stored = read_kernels(bundle)
    except EngineError:
        return Finding("warning", "GPU kernels", f"none in this bundle: {extend_command(bundle, '--cubins all')}")
    except BundleError as error:
        return Finding("wrong", "GPU kernels", str(error))
    names = ", ".join(f"{name} (PTX, {', '.join(kernel.cubins)})" for name, kernel in stored.kernels.items())
    return Finding("ok", "GPU kernels", names)


def examine_distributions() -> Iterator[Finding]:
    """A finding if two distributions of onnxruntime overwrite each other."""
    if {"onnxruntime", "onnxruntime-gpu"} <= installed_versions().keys():
        cure = "pip uninstall onnxruntime onnxruntime-gpu, then install one"
        yield Finding("wrong", "onnxruntime", f"onnxruntime and onnxruntime-gpu overwrite each other: {cure}")


def examine_engine(bundle: Bundle, name: str) -> Finding:
    """Error of an engine in float32 against the bundle's reference, and its time."""
    what = f"engine {name}"
    if name not in installed_engines():
        verdict = "warning" if installed_engines() else "wrong"
        return Finding(verdict, what, f"not installed: {install_hint('cpu')}")
    try:
        engine = load_engine(bundle, name, "float32", available_processors())
        error = measure_error(bundle, engine)
    except EngineError as problem:
        return Finding("wrong", what, str(problem))
    run = bind_noise(bundle, engine)
    median = statistics.median([milliseconds(run) for _ in range(5)])
    verdict = "ok" if error <= TOLERANCES["float32"] else "wrong"
    return Finding(
        verdict,
        what,
        f"{engine.version}, {engine.precision}, {engine.threads} threads, {median:.1f} ms an evaluation, "
        f"error {error:.1e} of {TOLERANCES['float32']:.0e} accepted",
    )


def examine_choice(bundle: Bundle) -> Finding:
    """The engine and threads that "auto" means."""
    try:
        chosen = choose(bundle, "auto", "auto", None)
    except EngineError as error:
        return Finding("wrong", "auto", str(error))
    origin = {"tuned": "measured by sdedit tune", "rule": "by rule; sdedit tune would measure"}[chosen.origin]
    return Finding("ok", "auto", f"{chosen.engine}, {chosen.precision}, {chosen.threads} threads, {origin}")
