"""Models to ONNX."""
