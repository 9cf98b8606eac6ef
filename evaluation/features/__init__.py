"""Networks whose features measures compare: converted to ONNX from the field's weights, and run on ONNX Runtime."""
