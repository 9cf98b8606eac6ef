"""An int8 variant of a bundle's network, by NNCF as QDQ nodes; it is written only if its edits stay close to float32.

Only convolutions are quantised: they are most of the arithmetic, while a quantised time embedding ruins the output.
They are calibrated on states that edits visit. Then each is quantised alone to measure its sensitivity. The most
sensitive ones stay in float: as few as edits need to reach the wanted PSNR with the same noise.
"""

import copy
import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import onnx

from sdedit.errors import BundleError, SdeditError, install_hint, raise_interrupt
from sdedit.runtime.bundle import Bundle, read_bundle
from sdedit.runtime.bundle.variants import FOLDER
from sdedit.runtime.engines import load_engine
from sdedit.runtime.engines.importing import import_onnxruntime, without_telemetry
from sdedit.runtime.machine import available_processors

from .additions import Addition
from .calibration import T0S, Recorder, Request, make_requests, open_editor, run_edits, sample_guides
from .int8_weights import write_int8_weights
from .onnx_nodes import constants, names_of, prune, read_model, unstore_half
from .variants import psnr, write_variant

GUIDES = 4
STEPS = 8
"""Steps of each edit for calibration."""

JUDGED_STEPS = 25
JUDGED_T0S = (0.3, 0.5, 0.8)
PROMISED_T0 = 0.5
"""t0 of the edits whose worst PSNR is promised; the PSNR of the others is reported."""

MIN_PSNR = 30.0

SENSITIVITY_STATES = 8
MOST_LEFT = 0.5
"""Largest share of convolutions in float: with more, int8 gains nothing."""

States = Sequence[dict[str, np.ndarray]]
"""Inputs of the network: x [1, C, H, W] and time [1], by name."""


@dataclass(frozen=True)
class Report:
    """psnr: t0 -> worst and mean dB of edits against float32. left: the convolutions in float. convolutions: all."""

    psnr: dict[str, dict[str, float]]
    left: list[str]
    convolutions: int


def int8_addition(min_psnr: float = MIN_PSNR, say: Callable[[str], None] = print) -> Addition:
    """The part variants/ with an int8 form of the network.

    min_psnr: dB that every judged edit from t0 = 0.5 must reach. Raises SdeditError, now, if a package is missing; when
    it is written, BundleError if that takes more than half of the convolutions in float. Of a latent network the
    weights alone are stored in int8: see int8_weights.
    """
    nncf = import_nncf()

    def write(bundle: Bundle) -> str:
        if bundle.manifest.latent is not None:
            return write_int8_weights(nncf, bundle, min_psnr, say)
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
    with open_editor(bundle, reference) as editor, open_editor(bundle, recorder) as recording:
        guides = sample_guides(editor, GUIDES, seed=1000)
        run_edits(recording, make_requests(guides, T0S, seed=2000), STEPS)
        requests = make_requests(sample_guides(editor, GUIDES, seed=3000), JUDGED_T0S, seed=4000)
        expected = run_edits(editor, requests, JUDGED_STEPS)
    model = read_model(bundle.read_network())
    unstore_half(model)  # NNCF quantises constants alone, not what a Cast makes of them
    say(f"calibrating on {len(recorder.visited)} states of {GUIDES * len(T0S)} edits")
    quantised = quantise(nncf, model, recorder.visited)
    ranking = rank(model, quantised, spread_out(recorder.visited, SENSITIVITY_STATES))
    say(f"most sensitive of {len(ranking)} convolutions: {', '.join(ranking[:4])}")
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
    """Write the variant with the fewest convolutions in float that reaches min_psnr; BundleError if none does."""
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
        except ImportError as error:
            raise_interrupt(error)
            raise SdeditError(f"--int8 needs the package nncf: {install_hint('export')}") from None
    nncf.set_log_level(logging.ERROR)
    return nncf


def quantise(nncf: ModuleType, model: onnx.ModelProto, states: States) -> onnx.ModelProto:
    """Quantise all convolutions: weights per channel, symmetric ranges, as TensorRT needs and OpenVINO runs faster."""
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


def restore(quantised: onnx.ModelProto, model: onnx.ModelProto, names: Collection[str]) -> onnx.ModelProto:
    """A copy of `quantised` in which the nodes of these names have the inputs that they have in `model`."""
    result = copy.deepcopy(quantised)
    before = {node.name: node for node in model.graph.node}
    weights = constants(model.graph)
    for node in result.graph.node:
        if node.name not in names:
            continue
        for index, name in enumerate(before[node.name].input):
            if name in weights:
                tensor = result.graph.initializer.add()
                tensor.CopyFrom(weights[name])
                name = tensor.name = f"{name}.{node.name}"
            node.input[index] = name
    prune(result)
    return result


def rank(model: onnx.ModelProto, quantised: onnx.ModelProto, states: States) -> list[str]:
    """The convolutions in the order of the output's error if one alone is quantised, the worst first."""
    names = names_of(model.graph, "Conv")
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
    """PSNR in dB, by t0, of the bundle's int8 edits against float32 edits with the same noise, where they may change.

    expected: the float32 results, 8 bits a channel.
    """
    engine = load_engine(bundle, "openvino", "int8", available_processors())
    with open_editor(bundle, engine) as editor:
        results = run_edits(editor, requests, JUDGED_STEPS)
    found: dict[str, list[float]] = {}
    for request, result, wanted in zip(requests, results, expected, strict=True):
        found.setdefault(f"{request.t0:g}", []).append(psnr(result, wanted, request.mask))
    return {t0: {"worst": float(min(values)), "mean": float(np.mean(values))} for t0, values in found.items()}
