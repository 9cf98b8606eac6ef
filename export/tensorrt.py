"""TensorRT engines into a bundle: built by TensorRT-RTX on any machine, without a GPU, for several architectures."""

import hashlib
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sdedit.errors import BundleError, EngineError
from sdedit.runtime.bundle import NETWORK, Bundle, amended, file_sha256, read_bundle, write_manifest
from sdedit.runtime.bundle.engines import FOLDER, MANIFEST, read_engines
from sdedit.runtime.checks.parity import TOLERANCES, measure_error, parity_input, relative_error
from sdedit.runtime.engines import load_engine
from sdedit.runtime.engines.opening import installed_engines
from sdedit.runtime.engines.tensorrt_build import RTX, RTX_ARCHITECTURES, build_engine, import_named, read_header
from sdedit.runtime.machine import available_processors

PRECISIONS = ("float32", "float16")

NOT_IN_FLOAT32 = ("sm75",)
"""TensorRT-RTX refuses float32 matrix products there: "FP32 GEMM is not supported" on Turing."""

HALF_NETWORK = f"{FOLDER}/float16.onnx"
"""In the bundle, for engines that are built on the target."""


def parse_architectures(text: str) -> tuple[str, ...]:
    """ "sm89,sm120", or "all". Raises EngineError for what TensorRT-RTX does not serve."""
    names = RTX_ARCHITECTURES if text == "all" else tuple(part.strip() for part in text.split(","))
    unknown = [name for name in names if name not in RTX_ARCHITECTURES]
    if unknown:
        raise EngineError(
            f"TensorRT architecture {unknown[0]!r} is not one of {', '.join(RTX_ARCHITECTURES)}; "
            f"for others full TensorRT builds on the target, at first use"
        )
    return tuple(name for name in RTX_ARCHITECTURES if name in names)


def add_engines(
    source: Path, out: Path, architectures: Sequence[str], precisions: Sequence[str] = PRECISIONS, batch: int = 1
) -> Bundle:
    """Copy the bundle `source` to `out`, which may be the same, with engines in place of any it had.

    One engine a precision, of 1 to `batch` images, for all architectures but those that `serving` leaves out. Raises
    BundleError, and EngineError where an engine cannot be built or its network's error is above the precision's
    tolerance; then nothing is replaced.
    """
    check_request(precisions, batch)
    bundle = read_bundle(source)
    if bundle.classes:
        raise BundleError(f"bundle {source} has a network with classes, which device cuda does not run")
    with amended(bundle, out, FOLDER) as folder:
        served = {precision: serving(precision, architectures) for precision in precisions}
        entries = [write_engine(folder, bundle, precision, names, batch) for precision, names in served.items()]
        text = json.dumps({"engines": entries}, sort_keys=True, indent=2) + "\n"
        (folder / FOLDER / MANIFEST).write_text(text, encoding="utf-8", newline="\n")
        write_manifest(folder, bundle.manifest)
        read_engines(read_bundle(folder))
    return read_bundle(out)


def serving(precision: str, architectures: Sequence[str]) -> tuple[str, ...]:
    """Those of the architectures that TensorRT-RTX serves in that precision; raises EngineError for none."""
    left_out = NOT_IN_FLOAT32 if precision == "float32" else ()
    names = tuple(name for name in architectures if name not in left_out)
    if not names:
        raise EngineError(f"engine precision {precision!r} is not one for {', '.join(architectures)}: choose float16")
    return names


def check_request(precisions: Sequence[str], batch: int) -> None:
    """What can be known before anything is built; raises EngineError."""
    for precision in precisions:
        if precision not in PRECISIONS:
            raise EngineError(f"engine precision {precision!r} is not one of {', '.join(PRECISIONS)}")
    if batch < 1:
        raise EngineError(f"engine batch {batch} is not at least 1")
    if importlib.util.find_spec(RTX) is None:
        raise EngineError("TensorRT engines need the package tensorrt-rtx: pip install 'sdedit[cuda]'")
    if "onnxruntime" not in installed_engines():
        raise EngineError("TensorRT engines are measured on onnxruntime: pip install 'sdedit[cpu]'")


def write_engine(
    folder: Path, bundle: Bundle, precision: str, architectures: Sequence[str], batch: int
) -> dict[str, Any]:
    """Build one into the bundle that is being written; what engines.json says of it."""
    network = NETWORK if precision == "float32" else HALF_NETWORK
    if precision == "float16":
        write_half_network(folder)
    error = network_error(folder, bundle, precision)
    trt = import_named(RTX)
    data = build_engine(trt, folder / network, bundle.state_shape, (1, batch), architectures)
    if read_header(data) != (trt.__version__, tuple(architectures)):
        raise EngineError(f"{RTX} {trt.__version__} built for {read_header(data)}, not for {', '.join(architectures)}")
    network_sha256 = file_sha256(folder / network)
    file = f"{precision}.{engine_key(network_sha256, bundle, architectures, batch, trt.__version__)}.engine"
    (folder / FOLDER / file).write_bytes(data)
    return {
        "file": file,
        "precision": precision,
        "batches": [1, batch],
        "network": network,
        "network_sha256": network_sha256,
        "package": RTX,
        "version": trt.__version__,
        "architectures": list(architectures),
        "error": error,
    }


def engine_key(network: str, bundle: Bundle, architectures: Sequence[str], batch: int, version: str) -> str:
    """Of all that shapes an engine; its precision is in the network."""
    said = json.dumps([network, list(bundle.state_shape), batch, list(architectures), RTX, version])
    return hashlib.sha256(said.encode()).hexdigest()[:12]


def write_half_network(folder: Path) -> None:
    """Raises BundleError where the network cannot be one of half precision."""
    try:
        import onnx

        from .half import to_half
    except ImportError as error:
        raise EngineError(f"engines in float16 need the package {error.name}: pip install 'sdedit[export]'") from None
    try:
        half = to_half(onnx.load(str(folder / NETWORK)))
    except ValueError as error:
        raise BundleError(f"bundle {folder}: no float16: {error}") from None
    onnx.save(half, str(folder / HALF_NETWORK))


def network_error(folder: Path, bundle: Bundle, precision: str) -> float:
    """The error of that ONNX against the bundle's reference, on onnxruntime.

    Raises EngineError above the precision's tolerance.
    """
    if precision == "float16":
        error = half_error(folder, bundle)
    else:
        error = measure_error(bundle, load_engine(bundle, "onnxruntime", "float32", available_processors()))
    if not error <= TOLERANCES[precision]:
        raise EngineError(f"the {precision} network's error {error:.1e} is above {TOLERANCES[precision]:.0e}")
    return error


def half_error(folder: Path, bundle: Bundle) -> float:
    """measure_error of the half network, each value in half rounded as such; sums are float32's, as in tensor cores."""
    import onnx
    import onnxruntime

    from .half import with_every_rounding

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = available_processors()
    network = with_every_rounding(onnx.load(str(folder / HALF_NETWORK)))
    session = onnxruntime.InferenceSession(network.SerializeToString(), options, providers=["CPUExecutionProvider"])
    levels, expected = bundle.reference()
    outputs = np.empty_like(expected)
    for index, k in enumerate(levels):
        x = parity_input(bundle.schedule.table, k, index, bundle.state_shape)
        told = np.array([bundle.schedule.level(k).time], np.float32)
        outputs[index] = session.run(["out"], {"x": x, "time": told})[0][0]
    return relative_error(outputs, expected)
