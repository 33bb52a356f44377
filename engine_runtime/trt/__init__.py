"""Engines of TensorRT and TensorRT-RTX. The libraries are imported only where an engine is built or loaded."""
