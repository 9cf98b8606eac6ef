"""An int8 form of a bundle's network, written only where edits stay close to float32: NNCF, QDQ, by measurement.

Convolutions alone are quantised: they are the arithmetic, while a quantised time embedding ruins the output. They are
calibrated on states that edits visit. Then each is quantised alone, to see what that costs, and the most sensitive are
left in float, as few as it takes for edits with the same noise to reach the asked-for PSNR.
"""

import copy
import json
import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from sdedit.errors import BundleError, SdeditError
from sdedit.runtime.bundle import Bundle, read_bundle, write_manifest
from sdedit.runtime.bundle.variants import FOLDER, VARIANTS
from sdedit.runtime.engines import load_engine
from sdedit.runtime.engines.importing import import_onnxruntime, without_telemetry
from sdedit.runtime.machine import available_processors

from .additions import Addition
from .calibration import T0S, Recorder, Request, requests_of, run_edits, sample_guides

NETWORK = "int8.onnx"
GUIDES = 4
STEPS = 8
"""Of the edits that are calibrated on."""

JUDGED_STEPS = 25
JUDGED_T0S = (0.3, 0.5, 0.8)
PROMISED_T0 = 0.5
"""Of the edits whose worst PSNR is promised; the others are reported."""

MIN_PSNR = 30.0
SENSITIVITY_STATES = 8
MOST_LEFT = 0.5
"""Share of the convolutions that may stay in float: with more, there is nothing to gain."""

States = Sequence[dict[str, np.ndarray]]
"""What the network is given: x [1, C, H, W] and time [1]."""


@dataclass(frozen=True)
class Report:
    """psnr: t0 -> worst and mean dB of edits against float32. left: convolutions in float, of how many."""

    psnr: dict[str, dict[str, float]]
    left: list[str]
    convolutions: int


def int8_addition(min_psnr: float = MIN_PSNR, say: Callable[[str], None] = print) -> Addition:
    """The part variants/ with an int8 form of the network.

    min_psnr: dB that every judged edit from t0 = 0.5 must reach. Raises SdeditError, now, if a package is missing; when
    it is written, BundleError if that takes more than half of the convolutions in float.
    """
    nncf = import_nncf()

    def write(bundle: Bundle) -> str:
        found = write_int8(nncf, bundle, min_psnr, say)
        psnr = found.psnr[f"{PROMISED_T0:g}"]
        return (
            f"int8, {len(found.left)} of {found.convolutions} convolutions left in float, edits from "
            f"t0 = {PROMISED_T0:g} within {psnr['worst']:.1f} dB of float32 (mean {psnr['mean']:.1f})"
        )

    return Addition(FOLDER, write)


def write_int8(nncf: ModuleType, bundle: Bundle, min_psnr: float, say: Callable[[str], None]) -> Report:
    """Quantise the network of the bundle that is being written, into its folder."""
    if bundle.classes:
        raise BundleError(f"{bundle.name} has a network with classes, which is not quantised")
    reference = load_engine(bundle, "openvino", "float32", available_processors())
    recorder = Recorder(reference)
    guides = sample_guides(bundle, reference, GUIDES, seed=1000)
    run_edits(bundle, recorder, requests_of(guides, T0S, seed=2000), STEPS)
    model = with_float_weights(onnx.load(bundle.network))
    say(f"calibrating on {len(recorder.visited)} states of {GUIDES * len(T0S)} edits")
    quantised = quantise(nncf, model, recorder.visited)
    ranking = rank(model, quantised, spread_out(recorder.visited, SENSITIVITY_STATES))
    say(f"most sensitive of {len(ranking)} convolutions: {', '.join(ranking[:4])}")
    requests = requests_of(sample_guides(bundle, reference, GUIDES, seed=3000), JUDGED_T0S, seed=4000)
    expected = run_edits(bundle, reference, requests, JUDGED_STEPS)
    return fewest_left(bundle, model, quantised, ranking, (requests, expected), min_psnr, say)


def fewest_left(
    bundle: Bundle,
    model: onnx.ModelProto,
    quantised: onnx.ModelProto,
    ranking: list[str],
    judged: tuple[list[Request], list[np.ndarray]],
    min_psnr: float,
    say: Callable[[str], None],
) -> Report:
    """Write the variant with the fewest convolutions in float that reaches min_psnr; BundleError where none does."""
    best = -np.inf
    for count in counts(len(ranking)):
        left = ranking[:count]
        write_variant(bundle, restore(quantised, model, left), {})
        psnr = judge(read_bundle(bundle.path), *judged)
        worst = psnr[f"{PROMISED_T0:g}"]["worst"]
        best = max(best, worst)
        say(f"{count} in float: edits from t0 = {PROMISED_T0:g} within {worst:.1f} dB of float32")
        if worst >= min_psnr:
            facts = {"edit_psnr": psnr, "left_in_float": left, "convolutions": len(ranking), "min_psnr": min_psnr}
            write_variant(bundle, restore(quantised, model, left), facts)
            return Report(psnr, left, len(ranking))
    raise BundleError(
        f"int8: edits of {bundle.name} from t0 = {PROMISED_T0:g} come within {best:.1f} dB of float32, "
        f"not {min_psnr:g}, with up to {count} of {len(ranking)} convolutions in float: a lower --min-psnr accepts that"
    )


def counts(convolutions: int) -> Iterator[int]:
    """0, 1, 2, 3, 4, 6, 8, 12, ... up to MOST_LEFT of them."""
    count = 0.0
    while round(count) <= MOST_LEFT * convolutions:
        yield round(count)
        count = count + 1 if count < 4 else count * 1.5


def import_nncf() -> ModuleType:
    """The package nncf, with no telemetry. Raises SdeditError if it is not installed."""
    with without_telemetry():
        try:
            import nncf
        except ImportError:
            raise SdeditError("--int8 needs the package nncf: pip install 'sdedit[export]'") from None
    nncf.set_log_level(logging.ERROR)
    return nncf


def quantise(nncf: ModuleType, model: onnx.ModelProto, states: States) -> onnx.ModelProto:
    """All convolutions, weights per channel, all ranges symmetric: TensorRT needs that, and OpenVINO is faster."""
    others = sorted({node.op_type for node in model.graph.node} - {"Conv"})
    quantised: onnx.ModelProto = nncf.quantize(
        model,
        nncf.Dataset(list(states)),
        preset=nncf.QuantizationPreset.PERFORMANCE,
        subset_size=len(states),
        fast_bias_correction=True,
        ignored_scope=nncf.IgnoredScope(types=others),
    )
    return quantised


def with_float_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Weights that are stored in half as what they are cast to: NNCF quantises constants alone."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    kept = []
    for node in model.graph.node:
        if node.op_type == "Cast" and node.input[0] in stored:
            tensor = stored[node.input[0]]
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), node.output[0]))
        else:
            kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return model


def restore(quantised: onnx.ModelProto, model: onnx.ModelProto, names: Collection[str]) -> onnx.ModelProto:
    """A copy of `quantised` in which the nodes of these names read what they read in `model`."""
    result = copy.deepcopy(quantised)
    before = {node.name: node for node in model.graph.node}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in result.graph.node:
        if node.name not in names:
            continue
        for index, name in enumerate(before[node.name].input):
            if name in constants:
                tensor = result.graph.initializer.add()
                tensor.CopyFrom(constants[name])
                name = tensor.name = f"{name}.{node.name}"
            node.input[index] = name
    prune(result)
    return result


def prune(model: onnx.ModelProto) -> None:
    """Drop what the outputs do not need, in place."""
    graph = model.graph
    needed = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed & set(node.output):
            needed |= set(node.input)
            kept.append(node)
    del graph.node[:]
    graph.node.extend(reversed(kept))
    constants = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.initializer[:]
    graph.initializer.extend(constants)


def rank(model: onnx.ModelProto, quantised: onnx.ModelProto, states: States) -> list[str]:
    """The convolutions by what quantising each alone changes in the output, the worst first."""
    names = [node.name for node in model.graph.node if node.op_type == "Conv"]
    expected = outputs(model, states)
    errors = {}
    for name in names:
        alone = restore(quantised, model, set(names) - {name})
        errors[name] = float(np.square(outputs(alone, states) - expected).mean())
    return sorted(names, key=lambda name: -errors[name])


def outputs(model: onnx.ModelProto, states: States) -> np.ndarray:
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # dozens of sessions, some at once
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.stack([session.run(None, state)[0] for state in states])


def spread_out(states: States, count: int) -> States:
    return states[:: max(1, len(states) // count)][:count]


def judge(bundle: Bundle, requests: list[Request], expected: list[np.ndarray]) -> dict[str, dict[str, float]]:
    """t0 -> PSNR in dB of the bundle's int8 edits against those in float32 with the same noise; the range is 2."""
    engine = load_engine(bundle, "openvino", "int8", available_processors())
    found: dict[str, list[float]] = {}
    for request, result, wanted in zip(
        requests, run_edits(bundle, engine, requests, JUDGED_STEPS), expected, strict=True
    ):
        inside = np.broadcast_to(request.mask > 0, wanted.shape)
        error = float(np.square(result - wanted, dtype=np.float64)[inside].mean())
        found.setdefault(f"{request.t0:g}", []).append(10 * np.log10(4 / max(error, 1e-20)))
    return {t0: {"worst": float(min(values)), "mean": float(np.mean(values))} for t0, values in found.items()}


def write_variant(bundle: Bundle, model: onnx.ModelProto, facts: dict[str, Any]) -> None:
    """Write the int8 network and its facts into the bundle's folder, and list them."""
    folder = bundle.path
    onnx.save(model, folder / FOLDER / NETWORK)
    text = json.dumps({"int8": {"file": NETWORK, **facts}}, indent=2, sort_keys=True) + "\n"
    (folder / FOLDER / VARIANTS).write_text(text, encoding="utf-8", newline="\n")
    others = {name: entry for name, entry in bundle.manifest.files.items() if not name.startswith(f"{FOLDER}/")}
    write_manifest(folder, bundle.manifest, others)
