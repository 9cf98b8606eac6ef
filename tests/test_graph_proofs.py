"""Proofs of the whole edit as one ONNX graph: noise for all radii and 2^24 angles, and networks of every kind."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny import FIELDS, SHAPE, halving_network, write_bundle

from sdedit.export.graph.builder import FLOAT, UINT64, Builder, Names, model_of, value
from sdedit.export.graph.edit import edit_model, scalars
from sdedit.export.graph.noise import cosine_and_sine, log_uniform
from sdedit.kernels import noise, twin
from sdedit.runtime.bundle import NETWORK, Bundle, read_bundle, write_manifest
from sdedit.runtime.codec import to_image
from sdedit.runtime.devices.cpu import CpuDevice
from sdedit.runtime.engines import load_engine
from sdedit.runtime.loop import Loop, Task
from sdedit.runtime.plan import SAMPLERS, make_plan

LEVELS = [
    onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
]
CHUNK = 1 << 19
CLASSES = 2


def session(model: onnx.ModelProto, level: Any = LEVELS[-1]) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.graph_optimization_level = 1, level
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def words_of(step: int, offset: int) -> Iterator[np.ndarray]:
    """uint32 offset, offset + step, ... below 2^32, in chunks."""
    for start in range(0, 2**32 // step, CHUNK):
        yield (np.arange(start, start + CHUNK, dtype=np.uint64) * np.uint64(step) + np.uint64(offset)).astype(np.uint32)


def test_all_radii_have_numpys_bits() -> None:
    """The radius takes a word's upper 23 bits."""
    g = Builder(Names())
    g.name(log_uniform(g, "word"), "log")
    run = session(model_of(g.graph("log", [value("word", UINT64, ["n"])], [value("log", FLOAT, None)]))).run
    for words in words_of(1 << 9, 0):
        assert run(None, {"word": words.astype(np.uint64)})[0].tobytes() == noise.log_uniform(words).tobytes()


def test_angles_have_numpys_bits() -> None:
    """2^24 of the 2^32 words, evenly spread: all upper 23 bits, with two endings."""
    g = Builder(Names())
    for name, part in zip(("cosine", "sine"), cosine_and_sine(g, "word"), strict=True):
        g.name(part, name)
    ends = [value("cosine", FLOAT, None), value("sine", FLOAT, None)]
    run = session(model_of(g.graph("angle", [value("word", UINT64, ["n"])], ends))).run
    for offset in (0, 255):
        for words in words_of(1 << 9, offset):
            found = run(None, {"word": words.astype(np.uint64)})
            for part, wanted in zip(found, noise.cosine_and_sine(words), strict=True):
                assert part.tobytes() == wanted.tobytes()


def labelled_network() -> onnx.ModelProto:
    """out = x / 2 + the label's shade"""
    network = halving_network()
    shades = np.array([-0.5, 0.25, 0.125], np.float32).reshape(CLASSES + 1, 1, 1, 1)
    network.graph.initializer.append(numpy_helper.from_array(shades, "shades"))
    network.graph.input.append(helper.make_tensor_value_info("label", TensorProto.INT64, ["batch"]))
    network.graph.node[0].output[0] = "half_of_x"
    network.graph.node.append(helper.make_node("Gather", ["shades", "label"], ["shade"], axis=0))
    network.graph.node.append(helper.make_node("Add", ["half_of_x", "shade"], ["out"]))
    return network


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name)
@pytest.mark.parametrize("prediction", ["eps", "v", "x0", "flow"])
@pytest.mark.parametrize("guidance", [None, 1.0, 3.0])
def test_every_kind_of_network_runs(tmp_path: Path, prediction: str, guidance: float | None, level: Any) -> None:
    """guidance None: a network without classes. The tiny networks round the same at each level, so bits are equal."""
    fields, network = {**FIELDS, "prediction": prediction}, halving_network()
    told: dict[str, Any] = {}
    if guidance is not None:
        fields |= {"conditioning": "label", "classes": CLASSES, "null_label": CLASSES}
        network, told = labelled_network(), {"label": 1, "guidance": guidance}
    folder = write_bundle(tmp_path / "bundle")
    onnx.save(network, folder / NETWORK)
    write_manifest(folder, fields)
    bundle = read_bundle(folder)

    rng = np.random.default_rng(0)
    guide = rng.integers(0, 256, (*SHAPE[1:], 3), np.uint8)
    mask = rng.choice(np.array([0, 128, 255], np.uint8), SHAPE[1:])
    given = {"t0": 0.7, "steps": 4, "seed": 2**64 - 1, "sampler": list(SAMPLERS).index("dpmpp_2m_sde"), **told}
    filled = {name: given.get(name, usual) for name, (_, usual) in scalars(bundle).items()}
    inputs = {name: np.asarray(filled[name]).astype(dtype) for name, (dtype, _) in scalars(bundle).items()}
    result, state = session(edit_model(bundle, network), level).run(None, {"guide": guide, "mask": mask, **inputs})

    told_plan = {} if guidance is None else {"guidance": guidance}
    plan = make_plan(bundle.schedule, prediction, t0=0.7, steps=4, sampler="dpmpp_2m_sde", **told_plan)
    start = np.ascontiguousarray(guide.transpose(2, 0, 1)).astype(np.float32) / np.float32(127.5) - np.float32(1)
    conditions = ({"label": np.int64(1)}, {"label": np.int64(CLASSES)}) if told else ({}, {})
    wanted = run_loop(bundle, Task(plan, start, mask / np.float32(255), 2**64 - 1, 0, *conditions))
    assert state[0].tobytes() == wanted.tobytes()
    assert np.array_equal(result, np.asarray(to_image(wanted)))


def run_loop(bundle: Bundle, task: Task) -> np.ndarray:
    """The state after all rows of a task."""
    guided = bundle.null_label is not None
    loop = Loop(CpuDevice(load_engine(bundle, "onnxruntime", "float32", 1), bundle.inputs, 1, twin(), guided))
    loop.admit(task)
    finished: list[Any] = []
    while loop.busy:
        finished = loop.step()
    loop.close()
    return np.asarray(finished[0][1])
