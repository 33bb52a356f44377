"""Exports models to ONNX."""
