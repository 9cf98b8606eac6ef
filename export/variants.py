"""Writing the part variants/, and how close the edits of another precision are to those of float32."""

import json
from typing import Any

import numpy as np
import onnx

from sdedit.runtime.bundle import Bundle, write_manifest
from sdedit.runtime.bundle.variants import FOLDER, VARIANTS

NETWORK = "int8.onnx"
NO_ERROR = 1e-6
"""Mean squared error of equal pictures, in squares of 1/255: a PSNR of 108 dB."""


def psnr(result: np.ndarray, wanted: np.ndarray, mask: np.ndarray | None = None) -> float:
    """PSNR in dB of two pictures of 8 bits a channel, where the bool [H, W] mask is true."""
    error = np.square(result.astype(np.float64) - wanted)
    mean = float((error if mask is None else error[mask]).mean())
    return float(10 * np.log10(255**2 / max(mean, NO_ERROR)))


def write_variant(bundle: Bundle, model: onnx.ModelProto, facts: dict[str, Any]) -> None:
    """Write the int8 network and its facts into the bundle's folder, and list them."""
    folder = bundle.path
    onnx.save(model, folder / FOLDER / NETWORK)
    text = json.dumps({"int8": {"file": NETWORK, **facts}}, indent=2, sort_keys=True, allow_nan=False) + "\n"
    (folder / FOLDER / VARIANTS).write_text(text, encoding="utf-8", newline="\n")
    others = {name: entry for name, entry in bundle.manifest.files.items() if not name.startswith(f"{FOLDER}/")}
    write_manifest(folder, bundle.manifest, others)
