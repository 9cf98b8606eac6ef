"""The whole edit as one ONNX graph of standard operators, for hosts that have ONNX Runtime and no Python."""
