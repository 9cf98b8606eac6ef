"""Is this installation sound? Versions, the kernels' bits, each engine against the bundle's reference."""

import hashlib
import platform
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import PIL

from sdedit import __version__
from sdedit.errors import BundleError, EngineError
from sdedit.kernels import Twin, twin
from sdedit.kernels.layout import KIND_STEP

from ..bundle import Bundle, network_inputs, read_kernels
from ..devices.cpu import CpuDevice
from ..engines import ENGINES, Evaluate, choose, installed_engines, load_engine
from ..engines.remembered import installed_versions
from ..loop import Loop, Task
from ..machine import available_processors, processor_features, processor_name
from ..plan import make_plan
from ..schedule import Schedule
from .parity import TOLERANCES, measure_error
from .tune import bind_noise, milliseconds

NOISE = "74f0d667e31ba632b0d0d6c632f89bd1bcb420af12d1d830768d94b9e534de5f"
"""sha256 of 4096 normals: seed 0x0123456789abcdef, image 3, repeat 1, step 7."""

EDIT = "e3b7465f2c8a682b262412e0a10add2ad97987aba7f208feb8a7ca165b2ea3fc"
"""sha256 of what `golden_edit` returns."""


@dataclass(frozen=True)
class Finding:
    """verdict: "ok", "warning" (something optional is missing) or "wrong" (results may be)."""

    verdict: str
    what: str
    detail: str


def examine(bundle: Bundle) -> Iterator[Finding]:
    """Everything, the cheap first."""
    yield Finding("ok", "versions", versions())
    features = " ".join(processor_features()) or "features unknown"
    yield Finding("ok", "processor", f"{processor_name()}, {available_processors()} usable, {features}")
    for name in ("c", "numpy"):
        yield examine_twin(name)
    yield Finding(
        "ok", "bundle", f"{bundle.name}, {'x'.join(map(str, bundle.state_shape))}, every file as its hash says"
    )
    yield examine_gpu_kernels(bundle)
    yield from examine_gpu(bundle)
    yield from examine_distributions()
    for name in ENGINES:
        yield examine_engine(bundle, name)
    yield examine_choice(bundle)


def versions() -> str:
    found = {
        "sdedit": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "pillow": PIL.__version__,
        **installed_versions(),
    }
    return ", ".join(f"{name} {version}" for name, version in found.items())


def examine_twin(name: str) -> Finding:
    """Whether it gives the bits that every twin must give."""
    what = f"kernels in {name}"
    try:
        kernels = twin(name)
    except ImportError:
        return Finding("warning", what, "the extension was not built; numpy's kernels give the same bits, slower")
    noise = digest(np.asarray(kernels.normal(0x0123456789ABCDEF, 3, 1, 7, KIND_STEP, 4096)))
    edit = digest(golden_edit(kernels))
    if (noise, edit) != (NOISE, EDIT):
        return Finding("wrong", what, f"noise {noise[:12]}, edit {edit[:12]}; must be {NOISE[:12]}, {EDIT[:12]}")
    return Finding("ok", what, f"noise sha256 {noise[:12]}, edit sha256 {edit[:12]}, as on every machine")


def golden_edit(kernels: Twin) -> np.ndarray:
    """A masked edit of 2 repeats by 5 steps with the network o = x / 2, all of its arithmetic exact IEEE; [3, 16, 16].

    Ancestral on a flow's schedule: its coefficients need no function but the square root, which IEEE defines.
    """
    part = np.arange(1, 21) / 20
    schedule = Schedule(np.stack([1 - part / 2, part, part], axis=1))
    plan = make_plan(schedule, "x0", t0=0.9, steps=5, sampler="ancestral", repeats=2)
    guide = (np.arange(768, dtype=np.float32) / 384 - 1).reshape(3, 16, 16)
    mask = (np.arange(256, dtype=np.float32) / 255).reshape(16, 16)
    loop = Loop(CpuDevice(_Halving(), network_inputs((3, 16, 16)), 1, kernels))
    loop.admit(Task(plan, guide, mask, seed=2**64 - 1, image=7))
    while True:
        for _, state in loop.step():
            return state


class _Halving:
    """An engine: o = x / 2."""

    name, precision, version = "halving", "float32", "1"
    batch = threads = 1

    def bind(self, inputs: Mapping[str, np.ndarray], out: np.ndarray) -> Evaluate:
        def evaluate() -> None:
            np.multiply(inputs["x"], np.float32(0.5), out=out)

        return evaluate


def digest(values: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(values, "<f4").tobytes()).hexdigest()


def examine_gpu_kernels(bundle: Bundle) -> Finding:
    try:
        stored = read_kernels(bundle)
    except EngineError:
        return Finding("warning", "GPU kernels", "none in this bundle; sdedit extend --cubins adds them")
    except BundleError as error:
        return Finding("wrong", "GPU kernels", str(error))
    names = ", ".join(f"{name} (PTX, {', '.join(kernel.cubins)})" for name, kernel in stored.kernels.items())
    return Finding("ok", "GPU kernels", names)


def examine_gpu(bundle: Bundle) -> Iterator[Finding]:
    from .gpu import try_gpu

    for finding in try_gpu(bundle):
        yield Finding(*finding)


def examine_distributions() -> Iterator[Finding]:
    if {"onnxruntime", "onnxruntime-gpu"} <= installed_versions().keys():
        cure = "pip uninstall onnxruntime onnxruntime-gpu, then install one"
        yield Finding("wrong", "onnxruntime", f"onnxruntime and onnxruntime-gpu overwrite each other: {cure}")


def examine_engine(bundle: Bundle, name: str) -> Finding:
    what = f"engine {name}"
    if name not in installed_engines():
        verdict = "warning" if installed_engines() else "wrong"
        return Finding(verdict, what, "not installed: pip install 'sdedit[cpu]'")
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
    try:
        chosen = choose(bundle, "auto", "auto", None)
    except EngineError as error:
        return Finding("wrong", "auto", str(error))
    origin = {"tuned": "measured by sdedit tune", "rule": "by rule; sdedit tune would measure"}[chosen.origin]
    return Finding("ok", "auto", f"{chosen.engine}, {chosen.precision}, {chosen.threads} threads, {origin}")
