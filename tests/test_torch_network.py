"""Networks that torch rebuilds from ONNX, on torch's CPU against onnxruntime; the engine itself needs a GPU."""

import threading
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import helper, numpy_helper
from tiny import model

from sdedit.errors import EngineError
from sdedit.runtime.bundle import SHIPPED, Bundle, Network, network_inputs, read_bundle
from sdedit.runtime.checks.parity import TOLERANCES, parity_inputs, relative_error
from sdedit.runtime.engines import load_engine
from sdedit.runtime.engines.torch import TorchOnGpu
from sdedit.runtime.engines.torch_network import TorchNetwork

pytestmark = pytest.mark.usefixtures("one_thread")


ALL = slice(None)


def outputs(bundle: Bundle, network: TorchNetwork, shape: tuple[int, int, int], levels: slice = ALL) -> np.ndarray:
    """[L, C, H, W]: the network's outputs for the bundle's parity inputs of these levels."""
    found = []
    for index in range(len(bundle.reference_levels))[levels]:
        inputs = parity_inputs(bundle, index, shape)
        with torch.inference_mode():
            found.append(network({name: torch.from_numpy(value) for name, value in inputs.items()}).numpy()[0])
    return np.stack(found)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_shipped_network_has_the_references_outputs(precision: str) -> None:
    bundle = read_bundle(SHIPPED)
    judged = ALL if precision == "float32" else slice(-1, None)  # an even grey rounds away at low levels
    found = outputs(bundle, TorchNetwork(bundle.read_network(), "cpu", precision), bundle.state_shape, judged)
    assert relative_error(found, bundle.reference()[1][judged]) <= TOLERANCES[precision]
    assert found.dtype == np.float32


def test_another_size_has_onnxruntimes_outputs() -> None:
    bundle, shape = read_bundle(SHIPPED), (3, 32, 48)
    found = outputs(bundle, TorchNetwork(bundle.read_network(), "cpu", "float32"), shape)
    engine = load_engine(bundle, "onnxruntime", "float32", 1)
    inputs = {name: np.empty((1, *s.shape), s.dtype) for name, s in network_inputs(shape, bundle.classes).items()}
    out = np.empty((1, *shape), np.float32)
    evaluate = engine.bind(inputs, out)
    expected = []
    for index in range(len(found)):
        for name, value in parity_inputs(bundle, index, shape).items():
            inputs[name][:] = value
        evaluate()
        expected.append(out[0].copy())
    assert relative_error(found, np.stack(expected)) <= TOLERANCES["float32"]


def test_a_batch_gives_each_image_its_output(tmp_path: Path) -> None:
    bundle = read_bundle(SHIPPED)
    network = TorchNetwork(bundle.read_network(), "cpu", "float32")
    both = [parity_inputs(bundle, index, (3, 16, 16)) for index in (0, 1)]
    joined = {name: torch.from_numpy(np.concatenate([inputs[name] for inputs in both])) for name in both[0]}
    with torch.inference_mode():
        together = network(joined).numpy()
        alone = [network({name: torch.from_numpy(v) for name, v in inputs.items()}).numpy()[0] for inputs in both]
    assert relative_error(together, np.stack(alone)) <= 1e-5


def test_for_inputs_of_one_shape_the_bits_are_the_same() -> None:
    bundle = read_bundle(SHIPPED)
    network = TorchNetwork(bundle.read_network(), "cpu", "float32")
    inputs = {name: torch.from_numpy(value) for name, value in parity_inputs(bundle, 0, (3, 8, 16)).items()}
    fixed = network.for_inputs(inputs)
    assert "Shape" not in {node.kind for node in fixed._nodes}
    with torch.inference_mode():
        assert torch.equal(fixed(inputs), network(inputs))


def test_for_inputs_of_one_shape_it_is_one_graph(tmp_path: Path) -> None:
    """Dynamo traces it whole: no number is read from a tensor, so nothing waits. Its own backend needs no compiler."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "first"], ["batch"]),
        helper.make_node("Gather", ["shape", "sides"], ["size"]),
        helper.make_node("Concat", ["batch", "rest"], ["flat"], axis=0),
        helper.make_node("Reshape", ["x", "flat"], ["row"]),
        helper.make_node("Concat", ["batch", "rest", "size"], ["full"], axis=0),
        helper.make_node("Reshape", ["row", "full"], ["again"]),
        helper.make_node("Conv", ["again", "weight"], ["conv"], pads=[1, 1, 1, 1]),
        helper.make_node("Reshape", ["time", "column"], ["level"]),
        helper.make_node("Add", ["conv", "level"], ["out"]),
    ]
    weight = np.random.default_rng(0).normal(size=(3, 3, 3, 3)).astype(np.float32)
    numbers = {"first": [0], "sides": [2, 3], "rest": [-1], "column": [-1, 1, 1, 1]}
    constants = [numpy_helper.from_array(np.int64(value), name) for name, value in numbers.items()]
    data = model(nodes, [*constants, numpy_helper.from_array(weight, "weight")]).SerializeToString()
    network = TorchNetwork(Network(tmp_path / "n.onnx", data), "cpu", "float32")
    inputs = {"x": torch.arange(96.0).reshape(2, 3, 4, 4), "time": torch.tensor([1.0, 2.0])}
    fixed = network.for_inputs(inputs)
    assert [node.kind for node in fixed._nodes] == ["Reshape", "Reshape", "Conv", "Reshape", "Add"]
    compiled = torch.compile(fixed.__call__, backend="eager", fullgraph=True)
    with torch.inference_mode():
        for shift in (0.0, 1.5):
            given = {**inputs, "x": inputs["x"] + shift}
            assert torch.equal(compiled(given), network(given))


def test_sizes_that_depend_on_values_are_one_line(tmp_path: Path) -> None:
    nodes = [helper.make_node("Cast", ["time"], ["sizes"], to=7), helper.make_node("Reshape", ["x", "sizes"], ["out"])]
    network = TorchNetwork(Network(tmp_path / "n.onnx", model(nodes, []).SerializeToString()), "cpu", "float32")
    with pytest.raises(EngineError, match=r"^engine torch does not evaluate Reshape: its sizes depend on values$"):
        network.for_inputs({"x": torch.zeros(1, 3, 8, 8), "time": torch.zeros(1)})


def test_editors_of_several_gpus_keep_float32_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's flags are those of the process: one thread must not put TF32 back while another one computes."""
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "use_mem_pool", lambda pool, device: nullcontext())
    found = set()

    def compute() -> None:
        on_gpu = TorchOnGpu.__new__(TorchOnGpu)
        on_gpu._torch, on_gpu.device, on_gpu._stream, on_gpu._pool = torch, "cuda:0", None, None
        for _ in range(300):
            with on_gpu.active():
                time.sleep(0)  # let the other thread run
                found.add(torch.backends.cudnn.allow_tf32)

    before = torch.backends.cudnn.allow_tf32
    threads = [threading.Thread(target=compute) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert found == {False}
    assert torch.backends.cudnn.allow_tf32 == before


def test_an_operator_that_it_does_not_have_is_one_line(tmp_path: Path) -> None:
    network = Network(tmp_path / "n.onnx", model([helper.make_node("Mish", ["x"], ["out"])], []).SerializeToString())
    with pytest.raises(EngineError, match=r"^engine torch has no Mish, which .*n\.onnx needs: choose another$"):
        TorchNetwork(network, "cpu", "float32")


def test_a_way_of_resizing_that_it_does_not_have_is_one_line(tmp_path: Path) -> None:
    scales = numpy_helper.from_array(np.float32([1, 1, 1.5, 1.5]), "scales")
    data = model([helper.make_node("Resize", ["x", "", "scales"], ["out"])], [scales]).SerializeToString()
    network = TorchNetwork(Network(tmp_path / "n.onnx", data), "cpu", "float32")
    inputs = {"x": torch.zeros(1, 3, 8, 8), "time": torch.zeros(1)}
    with pytest.raises(EngineError, match=r"^engine torch does not evaluate Resize: a Resize of mode None by \["):
        network(inputs)
