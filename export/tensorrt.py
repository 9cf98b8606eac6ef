"""Add TensorRT engines to a bundle. TensorRT-RTX builds them on any machine, without a GPU."""

import hashlib
import importlib.util
import json
from collections.abc import Sequence

import numpy as np

from sdedit.errors import BundleError, EngineError, install_hint, raise_interrupt
from sdedit.runtime.bundle import Bundle, Network, file_sha256
from sdedit.runtime.bundle.engines import FOLDER, MANIFEST, Engines, StoredEngine, network_of
from sdedit.runtime.bundle.parts import extend_command
from sdedit.runtime.bundle.records import to_json
from sdedit.runtime.checks.parity import TOLERANCES, measure_error, parity_inputs, relative_error
from sdedit.runtime.engines import installed_engines, load_engine
from sdedit.runtime.engines.importing import import_onnxruntime
from sdedit.runtime.engines.tensorrt_build import (
    RTX,
    RTX_ARCHITECTURES,
    build_engine,
    import_named,
    profile_of,
    read_header,
)
from sdedit.runtime.machine import available_processors

from .additions import Addition

PRECISIONS = ("float32", "float16")
"""Precisions of the engines that are built unless others are asked for."""

ACCEPTED = (*PRECISIONS, "int8")
"""int8: from the bundle's variant, whose edits were measured when it was made."""

NOT_IN_FLOAT32 = ("sm75",)
"""Architectures without engines in float32, or in int8 with float32 beside it: TensorRT-RTX says "FP32 GEMM is not
supported" on Turing."""

HALF_NETWORK = f"{FOLDER}/float16.onnx"
"""File of the half network in the bundle; targets build engines from it."""


def parse_architectures(text: str) -> tuple[str, ...]:
    """ "sm89,sm120", or "all". Raises EngineError for an architecture that TensorRT-RTX does not serve."""
    names = RTX_ARCHITECTURES if text == "all" else tuple(part.strip() for part in text.split(","))
    unknown = [name for name in names if name not in RTX_ARCHITECTURES]
    if unknown:
        raise EngineError(
            f"TensorRT architecture {unknown[0]!r} is not one of {', '.join(RTX_ARCHITECTURES)}; "
            f"for others full TensorRT builds on the target, at first use"
        )
    return tuple(name for name in RTX_ARCHITECTURES if name in names)


def engines_addition(architectures: Sequence[str], precisions: Sequence[str] = PRECISIONS, batch: int = 1) -> Addition:
    """The part engines/: one engine a precision, of 1 to `batch` images, for all architectures that `serving` leaves.

    Raises EngineError now if the request cannot be built here. Writing the part raises it if an engine cannot be built
    or its network's error is above the precision's tolerance.
    """
    check_request(precisions, batch)
    served = {precision: serving(precision, architectures) for precision in precisions}

    def write(bundle: Bundle) -> str:
        entries = [write_engine(bundle, precision, names, batch) for precision, names in served.items()]
        text = json.dumps(to_json(Engines(tuple(entries))), sort_keys=True, indent=2, allow_nan=False) + "\n"
        (bundle.path / FOLDER / MANIFEST).write_text(text, encoding="utf-8", newline="\n")
        return "\n  ".join(describe(bundle, entry) for entry in entries)

    return Addition(FOLDER, write)


def describe(bundle: Bundle, entry: StoredEngine) -> str:
    """A line about the engines, for people."""
    size = (bundle.path / FOLDER / entry.file).stat().st_size / 1e6
    return (
        f"TensorRT-RTX {entry.version} engine, {entry.precision}, {size:.1f} MB, "
        f"for {', '.join(entry.architectures)}; error of its network against torch {entry.error:.1e}"
    )


def serving(precision: str, architectures: Sequence[str]) -> tuple[str, ...]:
    """The architectures that TensorRT-RTX serves in this precision; raises EngineError if there are none."""
    left_out = () if precision == "float16" else NOT_IN_FLOAT32  # the int8 network computes in float32 besides
    names = tuple(name for name in architectures if name not in left_out)
    if not names:
        raise EngineError(f"engine precision {precision!r} is not one for {', '.join(architectures)}: choose float16")
    return names


def check_request(precisions: Sequence[str], batch: int) -> None:
    """Check the request before anything is built; raises EngineError."""
    for precision in precisions:
        if precision not in ACCEPTED:
            raise EngineError(f"engine precision {precision!r} is not one of {', '.join(ACCEPTED)}")
    if batch < 1:
        raise EngineError(f"engine batch {batch} is not at least 1")
    if importlib.util.find_spec(RTX) is None:
        raise EngineError(f"TensorRT engines need the package tensorrt-rtx: {install_hint('cuda')}")
    if "onnxruntime" not in installed_engines():
        raise EngineError(f"TensorRT engines are measured on onnxruntime: {install_hint('cpu')}")


def write_engine(bundle: Bundle, precision: str, architectures: Sequence[str], batch: int) -> StoredEngine:
    """Build one engine into the bundle that is being written."""
    if precision == "float16":
        write_half_network(bundle)
    error = network_error(bundle, precision)
    trt = import_named(RTX)
    name = network_name(bundle, precision)
    network = (
        Network(bundle.path / name, (bundle.path / name).read_bytes())
        if precision == "float16"
        else bundle.read_network(name)
    )
    data = build_engine(trt, network, profile_of(bundle, (1, batch)), architectures)
    if read_header(data) != (trt.__version__, tuple(architectures)):
        raise EngineError(f"{RTX} {trt.__version__} built for {read_header(data)}, not for {', '.join(architectures)}")
    network_sha256 = file_sha256(network.path) if precision == "float16" else bundle.manifest.files[name].sha256
    file = f"{precision}.{engine_key(network_sha256, bundle, architectures, batch, trt.__version__)}.engine"
    (bundle.path / FOLDER / file).write_bytes(data)
    return StoredEngine(
        file=file,
        precision=precision,
        batches=(1, batch),
        network=name,
        network_sha256=network_sha256,
        package=RTX,
        version=trt.__version__,
        architectures=tuple(architectures),
        error=error,
    )


def network_name(bundle: Bundle, precision: str) -> str:
    """The name of the ONNX that an engine of that precision is built from; raises EngineError if there is none."""
    if precision == "float16":
        return HALF_NETWORK
    name = network_of(bundle, (), precision)
    if name is None:
        raise EngineError(f"{bundle.name} has no network in {precision}: {extend_command(bundle, f'--{precision}')}")
    return name


def engine_key(network: str, bundle: Bundle, architectures: Sequence[str], batch: int, version: str) -> str:
    """Hash of everything that shapes an engine; the network determines the precision."""
    profile = sorted(profile_of(bundle, (1, batch)).items())
    said = json.dumps([network, profile, list(architectures), RTX, version], allow_nan=False)
    return hashlib.sha256(said.encode()).hexdigest()[:12]


def write_half_network(bundle: Bundle) -> None:
    """Write the network in half precision; raises BundleError if that is not possible."""
    try:
        import onnx

        from .half import to_half
        from .onnx_nodes import read_model
    except ImportError as error:
        raise_interrupt(error)
        raise EngineError(f"engines in float16 need the package {error.name}: {install_hint('export')}") from None
    try:
        half = to_half(read_model(bundle.read_network()))
    except ValueError as error:
        raise BundleError(f"{bundle.name}: no float16: {error}") from None
    onnx.save(half, str(bundle.path / HALF_NETWORK))


def network_error(bundle: Bundle, precision: str) -> float:
    """Error of an ONNX file against the bundle's reference, on onnxruntime; of int8 on openvino, which runs it.

    Raises EngineError above the precision's tolerance.
    """
    if precision == "float16":
        error = half_error(bundle)
    elif precision == "int8":
        error = measure_error(bundle, load_engine(bundle, "openvino", "int8", available_processors()))
    else:
        error = measure_error(bundle, load_engine(bundle, "onnxruntime", "float32", available_processors()))
    if not error <= TOLERANCES[precision]:
        raise EngineError(f"the {precision} network's error {error:.1e} is above {TOLERANCES[precision]:.0e}")
    return error


def half_error(bundle: Bundle) -> float:
    """Error of the half network with every half value rounded; sums are in float32, as in tensor cores."""
    import onnx

    from .half import with_every_rounding

    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = available_processors()
    network = with_every_rounding(onnx.load(str(bundle.path / HALF_NETWORK)))
    session = onnxruntime.InferenceSession(network.SerializeToString(), options, providers=["CPUExecutionProvider"])
    levels, expected = bundle.reference()
    outputs = np.empty_like(expected)
    for index in range(len(levels)):
        outputs[index] = session.run(["out"], parity_inputs(bundle, index, bundle.state_shape))[0][0]
    return relative_error(outputs, expected)
