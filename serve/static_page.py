"""The page as files for any static server: the network and ONNX Runtime's WASM are among them, so it needs no other."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sdedit import __version__
from sdedit.errors import BundleError, reason
from sdedit.runtime.bundle import MODEL_CARD, Bundle, Kind, file_sha256, staged
from sdedit.runtime.checks.parity import TOLERANCES, parity_label

from .described import describe_bundle, samplers

PAGE = Path(__file__).parent / "page"
"""Folder of the page's own files."""

STATIC_PAGE = Kind("page", "page.json")
"""Folders that `write_page` writes."""

BACKEND = 'export { makeBackend } from "./worker/backend.js";\n'
"""Text of backend.js in such a folder: a worker makes the edits."""

SCRIPT, WASM = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
"""Files of the package onnxruntime-web that are needed, in its folder dist."""

SAMPLES = 1024
"""Most elements of the network's output that the self-test compares: 4 KB."""

CURE = "npm install onnxruntime-web@1.30.0, then --onnxruntime-web node_modules/onnxruntime-web"


@dataclass(frozen=True)
class WebRuntime:
    """ONNX Runtime for browsers, from the package onnxruntime-web. script, wasm: its files. version: as it says."""

    script: Path
    wasm: Path
    version: str


def find_runtime(folder: Path) -> WebRuntime:
    """The runtime in a folder of the package onnxruntime-web; raises BundleError if it is not there."""
    dist = folder / "dist"
    try:
        package = json.loads((folder / "package.json").read_text(encoding="utf-8"))
        name, version = package["name"], package["version"]
    except OSError as error:
        raise BundleError(f"onnxruntime-web {folder} cannot be read: {reason(error)}: {CURE}") from None
    except (ValueError, TypeError, KeyError):
        name = version = ""
    if name != "onnxruntime-web" or not isinstance(version, str):
        raise BundleError(f"onnxruntime-web {folder}: its package.json is not that of onnxruntime-web: {CURE}")
    for file in (SCRIPT, WASM):
        if not (dist / file).is_file():
            raise BundleError(f"onnxruntime-web {folder} has no dist/{file}: {CURE}")
    return WebRuntime(dist / SCRIPT, dist / WASM, version)


def write_page(bundle: Bundle, runtime: WebRuntime, out: Path) -> int:
    """Write the page with the bundle's network into the folder `out`, whole or not at all; returns its bytes.

    A page that this function wrote is replaced, nothing else. Raises BundleError for that, and for a network that the
    page cannot evaluate.
    """
    check_bundle(bundle)
    network = bundle.read_network()
    if network.files:
        raise BundleError(f"page: {bundle.name} has weights in files of their own; accepted are networks of one file")
    with staged(out, STATIC_PAGE) as folder:
        for file in PAGE.rglob("*"):
            name = file.relative_to(PAGE).as_posix()
            if file.is_file() and name not in ("server.js", "backend.js"):
                write(folder, name, file.read_bytes())
        write(folder, "backend.js", BACKEND.encode())
        write(folder, "onnxruntime/ort.js", runtime.script.read_bytes())
        selftest, expected = make_selftest(bundle)
        files = {
            "script": "onnxruntime/ort.js",
            "wasm": write_listed(folder, "onnxruntime/ort", ".wasm", runtime.wasm.read_bytes()),
            "network": write_listed(folder, "model/network", ".onnx", network.data),
            "schedule": write_listed(folder, "model/schedule", ".f64", bundle.schedule.table.astype("<f8").tobytes()),
            "expected": write_listed(folder, "model/selftest", ".f32", expected.astype("<f4").tobytes()),
        }
        described = {**about(bundle, runtime), "selftest": selftest, "files": files}
        write(folder, "model/model.json", json_bytes(described))
        if MODEL_CARD in bundle.manifest.files:
            write(folder, f"model/{MODEL_CARD}", bundle.read(MODEL_CARD))
        written = sorted(file for file in folder.rglob("*") if file.is_file())
        listed = {file.relative_to(folder).as_posix(): {"sha256": file_sha256(file)} for file in written}
        write(folder, STATIC_PAGE.listing, json_bytes({"sdedit": __version__, "files": listed}))
        return sum(file.stat().st_size for file in written)


def check_bundle(bundle: Bundle) -> None:
    """Raise BundleError for a network that the page's worker does not evaluate."""
    if bundle.manifest.latent is not None:
        raise BundleError(f"page: {bundle.name} has a latent network; accepted are networks of pixels")


def about(bundle: Bundle, runtime: WebRuntime) -> dict[str, Any]:
    """The content of model.json beside the files. recipe: the part that all recipes share, as the Editor writes it."""
    engine = {"name": "onnxruntime", "version": f"{runtime.version} (web)", "precision": "float32"}
    return {
        "model": {"id": bundle.name, **describe_bundle(bundle)},
        "prediction": bundle.prediction,
        "samplers": samplers(),
        "recipe": {
            "version": __version__,
            "bundle": {"name": bundle.name, "sha256": bundle.sha256},
            "device": "cpu",
            "kernels": "javascript",
            "engine": engine,
        },
    }


def make_selftest(bundle: Bundle) -> tuple[dict[str, Any], np.ndarray]:
    """How a browser tests its network, and the expected elements of the output, float32 [at most SAMPLES].

    The output is the bundle's reference at the middle one of its levels. The stride is odd, so that the elements lie in
    all columns of pictures whose width is a power of two.
    """
    levels, outputs = bundle.reference()
    image = len(levels) // 2
    level = bundle.schedule.level(levels[image])
    expected = outputs[image].ravel()
    stride = -(-expected.size // SAMPLES) | 1
    test = {
        "shape": [1, *bundle.state_shape],
        "image": image,
        "sigma": float(np.float32(level.sigma)),
        "time": level.time,
        "label": parity_label(image, bundle.classes) if bundle.classes else None,
        "stride": stride,
        "tolerance": TOLERANCES["float32"],
    }
    return test, expected[::stride]


def write_listed(folder: Path, stem: str, suffix: str, data: bytes) -> dict[str, Any]:
    """Write a file whose name has a part of its hash, so that no cache mistakes it for an older one; its entry."""
    name = f"{stem}-{hashlib.sha256(data).hexdigest()[:12]}{suffix}"
    write(folder, name, data)
    return {"path": name, "bytes": len(data)}


def write(folder: Path, name: str, data: bytes) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


def json_bytes(value: Mapping[str, Any]) -> bytes:
    return f"{json.dumps(value, indent=1, sort_keys=True, allow_nan=False)}\n".encode()
