"""A minimal reproduction for OpenVINO's maintainers: its CPU plugin computes uint64 in 32 bits, without an error.

    pip install numpy onnx onnxruntime openvino && python tests/openvino_uint64.py

Each model is one node of a standard operator. 2026.4.1 gives the results' lower 32 bits, or reads its inputs' lower 32.
"""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

CASES: list[tuple[str, dict[str, str], int, int]] = [
    ("Add", {}, 2**40, 7),
    ("Mul", {}, 0xD2511F53, 3),
    ("BitShift", {"direction": "RIGHT"}, 2**40, 32),
]
"""Operator, its attributes, and two operands."""


def model_of(operator: str, attributes: dict[str, str]) -> bytes:
    """a, b uint64 [1] -> y = operator(a, b)"""
    a, b, y = (helper.make_tensor_value_info(name, TensorProto.UINT64, [1]) for name in "aby")
    graph = helper.make_graph([helper.make_node(operator, ["a", "b"], ["y"], **attributes)], "one_node", [a, b], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def in_onnxruntime(model: bytes, inputs: dict[str, np.ndarray]) -> int:
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return int(session.run(None, inputs)[0][0])


def in_openvino(model: bytes, inputs: dict[str, np.ndarray]) -> int:
    import openvino

    compiled: Any = openvino.Core().compile_model(openvino.Core().read_model(model), "CPU")
    return int(compiled(inputs)[0][0])


def main() -> None:
    for operator, attributes, a, b in CASES:
        model = model_of(operator, attributes)
        inputs = {"a": np.array([a], np.uint64), "b": np.array([b], np.uint64)}
        print(
            f"{operator}({a}, {b}): onnxruntime {in_onnxruntime(model, inputs)}, openvino {in_openvino(model, inputs)}"
        )


if __name__ == "__main__":
    main()
