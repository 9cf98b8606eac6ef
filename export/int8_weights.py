"""int8 weights for latent networks, by NNCF: these networks are so large that their bytes matter more than arithmetic.

Every channel of a convolution or matrix product has a scale of its own, and DequantizeLinear turns its weights back.
Everything else is computed in float32. Weights alone decide how this is done, so nothing is calibrated.
"""

from collections.abc import Callable
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

import numpy as np
import onnx
from PIL import Image

from sdedit.errors import BundleError
from sdedit.runtime.bundle import NETWORK, Bundle, read_bundle
from sdedit.runtime.engines import load_engine
from sdedit.runtime.machine import available_processors

from .calibration import fewer_steps, open_editor
from .onnx_nodes import constants, read_model, unstore_half
from .variants import psnr, write_variant

PROMPT = "a fantasy landscape"
STEPS = 8
T0S = (0.5, 0.8)
PROMISED_T0 = 0.5
"""t0 of the edit whose PSNR is promised; that of the other is reported."""

LARGEST = 2_000_000_000
"""Bytes of a variant: it is one file, and protobuf ends at 2 GB."""


def write_int8_weights(nncf: ModuleType, bundle: Bundle, min_psnr: float, say: Callable[[str], None]) -> str:
    """Write the network with int8 weights into the folder of the bundle that is being written; returns a line on it.

    Raises BundleError if its edits are not within min_psnr dB of float32's, or if it is too large for one file.
    """
    say(f"judging on {len(T0S)} edits of {STEPS} steps")
    expected = make_edits(bundle, "float32")
    with TemporaryDirectory(dir=bundle.path) as scratch:
        compressed = compress(nncf, weights_beside(bundle, Path(scratch)), scratch)
    layers = sum(node.op_type == "DequantizeLinear" for node in compressed.graph.node)
    size = sum(tensor.ByteSize() for tensor in compressed.graph.initializer)
    if size > LARGEST:
        raise BundleError(f"int8: the network of {bundle.name} takes {size / 1e9:.1f} GB, and a variant at most 2 GB")
    facts = {"only_weights": True, "layers": layers, "min_psnr": min_psnr}
    write_variant(bundle, compressed, facts)
    results = make_edits(read_bundle(bundle.path), "int8")
    found = {f"{t0:g}": psnr(*pair) for t0, pair in zip(T0S, zip(results, expected, strict=True), strict=True)}
    promised = found[f"{PROMISED_T0:g}"]
    if not promised >= min_psnr:
        raise BundleError(
            f"int8: edits of {bundle.name} from t0 = {PROMISED_T0:g} come within {promised:.1f} dB of float32, "
            f"not {min_psnr:g}: a lower --min-psnr accepts that"
        )
    worst = {t0: {"worst": value, "mean": value} for t0, value in found.items()}
    write_variant(bundle, compressed, {**facts, "edit_psnr": worst})
    said = ", ".join(f"from t0 = {t0} within {value:.1f} dB" for t0, value in found.items())
    return f"int8 weights of {layers} layers, {size / 1e6:.1f} MB, edits {said} of float32"


def weights_beside(bundle: Bundle, folder: Path) -> onnx.ModelProto:
    """The network, whose weights are written in float32 to a file of the folder: NNCF infers shapes, below 2 GB."""
    model = read_model(bundle.read_network())
    unstore_half(model)  # NNCF compresses constants alone, not what a Cast makes of them
    onnx.save(model, folder / NETWORK, save_as_external_data=True, location="weights", size_threshold=0)
    return onnx.load(folder / NETWORK, load_external_data=False)


def compress(nncf: ModuleType, model: onnx.ModelProto, folder: str) -> onnx.ModelProto:
    """The network with the weights of convolutions and matrix products in int8: symmetric, a scale a channel.

    folder: where the model's weights are.
    """
    parameters = nncf.AdvancedCompressionParameters(backend_params={"external_data_dir": folder})
    compressed: onnx.ModelProto = nncf.compress_weights(
        model, mode=nncf.CompressWeightsMode.INT8_SYM, advanced_parameters=parameters
    )
    weights = constants(compressed.graph)
    for node in compressed.graph.node:
        if node.op_type == "DequantizeLinear":  # NNCF gives convolutions' scales the shape [C, 1, 1], not ONNX's [C]
            dims = weights[node.input[1]].dims
            count = prod(dims)
            del dims[:]
            dims.append(count)
    return compressed


def make_edits(bundle: Bundle, precision: str) -> list[np.ndarray]:
    """The results, uint8 [H, W, 3], of edits of a drawn guide from T0S, with what the bundle suggests otherwise."""
    engine = load_engine(bundle, "openvino", precision, available_processors())
    prompt = None if bundle.manifest.text is None else PROMPT
    guide = drawn_guide(bundle.image.height, bundle.image.width)
    with open_editor(bundle, engine) as editor:
        edits = [
            editor.edit(guide, t0=t0, steps=fewer_steps(editor, t0, STEPS), seed=seed, prompt=prompt)
            for seed, t0 in enumerate(T0S)
        ]
    return [np.asarray(edit.images[0].pil) for edit in edits]


def drawn_guide(height: int, width: int) -> Image.Image:
    """A sky, land and a sun in flat colours: a bundle holds no pictures, and a large network samples for minutes."""
    guide = np.empty((height, width, 3), np.uint8)
    guide[:] = (90, 140, 210)
    guide[height // 2 :] = (110, 130, 60)
    guide[height // 8 : height // 4, width // 8 : width // 4] = (250, 220, 120)
    return Image.fromarray(guide)
