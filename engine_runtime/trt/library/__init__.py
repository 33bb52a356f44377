"""The TensorRT library of this machine: which one, its messages, what a build needs, child processes."""
