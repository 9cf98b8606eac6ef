"""The part graph/: edit.onnx, step.onnx and selftest.json, and the network's file, whose weights step.onnx uses."""

import json
import os
import shutil
from pathlib import Path

import onnx
from onnx import TensorProto

from sdedit.errors import BundleError
from sdedit.runtime.bundle import NETWORK, Bundle
from sdedit.runtime.bundle.files import GRAPH_FOLDER
from sdedit.runtime.engines.importing import import_onnxruntime

from ..additions import Addition
from .edit import edit_model, step_model
from .selftest import failures, inputs_of, make_selftest

SHARED_BYTES = 1024
"""Weights of fewer bytes are stored in each graph."""


def graph_addition() -> Addition:
    """The part graph/. Writing it raises BundleError if onnxruntime does not give the Editor's bytes with it."""
    return Addition(GRAPH_FOLDER, write_graphs)


def write_graphs(bundle: Bundle) -> str:
    if bundle.manifest.latent is not None:
        raise BundleError(f"graph: {bundle.name} has a latent network; accepted are networks of pixels")
    folder = bundle.path / GRAPH_FOLDER
    stored = bundle.read_network()
    for name in (NETWORK, *stored.files):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        link(bundle.path / name, folder / name)
    network = onnx.load_model_from_string(stored.data)
    sizes = []
    for name, make in (("edit", edit_model), ("step", step_model)):
        model = make(bundle, network)
        share_weights(model, stored.data)
        data = model.SerializeToString()
        (folder / f"{name}.onnx").write_bytes(data)
        sizes.append(f"{name}.onnx {len(data):,} bytes")
    test = make_selftest(bundle)
    (folder / "selftest.json").write_text(
        json.dumps(test, indent=1, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8"
    )
    found = run_selftest(folder / "edit.onnx", test)
    if found:
        raise BundleError(f"{bundle.name}: edit.onnx does not give the Editor's bytes: {'; '.join(found)}")
    return f"{', '.join(sizes)}; the self-test's edits have the Editor's bytes"


def share_weights(model: onnx.ModelProto, network: bytes) -> None:
    """Let weights that network.onnx holds be read from there: its bytes at their offset are data outside the model.

    Weights inside a Loop's body stay: onnxruntime reads none there from a file that has several names.
    """
    start = 0
    for tensor in model.graph.initializer:
        raw = tensor.raw_data
        if len(raw) < SHARED_BYTES:
            continue
        offset = network.find(raw, start)
        offset = network.find(raw) if offset < 0 else offset
        if offset < 0:
            continue
        start = offset
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, entry in (("location", NETWORK), ("offset", str(offset)), ("length", str(len(raw)))):
            tensor.external_data.add(key=key, value=entry)


def link(source: Path, target: Path) -> None:
    """The same file under another name, or a copy where the file system has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def run_selftest(path: Path, test: dict[str, object]) -> list[str]:
    """The list of what onnxruntime gives wrong; [] where every byte is right."""
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    found = []
    for case in ("kept", "edited"):
        found += failures(test, case, *session.run(["result", "state"], inputs_of(test, case)))
    return found
